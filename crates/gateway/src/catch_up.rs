//! After an interruption: every address that may have a hole is filled in from its history, or its members are told of the
//! gap, and users hear again what is open. The same way for a subscription that broke and for a number that was never heard.
//!
//! A Redis that was started again, or another that took over, may have lost what it had acknowledged, even when it has lost
//! nothing: nobody can tell. Then the members hear what is left in order, then the gap, then what was published since.

use std::{sync::Arc, time::Duration};

use countersign_backplane::{BackplaneError, Channel, History};
use countersign_protocol::{Address, Event, Position};
use futures_util::{StreamExt, stream};

use crate::{
    error::GatewayError,
    hub::{Facts, Frame, Missed},
    node::Node,
};

/// Addresses that are read at one time: thousands are filled in a second, and commands of people still get through.
const AT_ONCE: usize = 32;
/// Between two rounds when something could not be read or showed another hole.
const PAUSE: Duration = Duration::from_millis(200);

/// Fills holes whenever there are some, until the node stops.
pub(crate) async fn catch_up(node: Arc<Node>) {
    loop {
        tokio::select! {
            biased;
            () = node.shutdown.stopped() => return,
            () = node.holes.notified() => {}
        }
        while !round(&node).await {
            tokio::select! {
                biased;
                () = node.shutdown.stopped() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }
}

/// Fills every hole that there is. Whether all are filled.
async fn round(node: &Node) -> bool {
    let filled = stream::iter(node.hub.holding()).map(|(channel, since)| async move {
        match node.fill(&channel, since).await {
            Ok(another) => !another,
            Err(error) => {
                tracing::debug!(channel = ?channel.name(), %error, "a hole is not filled yet");
                false
            }
        }
    });
    filled.buffer_unordered(AT_ONCE).fold(true, |all, filled| async move { all && filled }).await
}

impl Node {
    /// Fills the hole of one address. Whether that showed another one.
    async fn fill(&self, channel: &Channel, since: Option<Position>) -> Result<bool, GatewayError> {
        if let Channel::Presence(topic) = channel {
            return Ok(self.hub.release(channel, self.missed_presence(topic).await?));
        }
        let Some(address) = channel.address() else { return Ok(false) };
        let missed = self.missed(&address, since).await?;
        self.metrics.caught_up(&missed);
        let another = self.hub.release(channel, missed);
        if let Channel::User(user) = channel {
            let (frames, _) = self.open_callback_frames(user).await?;
            for frame in &frames {
                self.hub.tell(channel, frame);
            }
        }
        Ok(another)
    }

    async fn missed(&self, address: &Address, since: Option<Position>) -> Result<Missed, BackplaneError> {
        let gap = |position: Option<Position>| {
            let topic = address.client_form().to_string();
            // With its place, so that who was told of more when it came is not told to go back.
            let facts = Facts { position: position.clone(), ..Facts::default() };
            Frame::with(Event::Gap { topic, recovered: false, position }.to_json().as_bytes(), facts)
        };
        let Some(since) = since.filter(|_| self.history_of(address).size > 0) else {
            return Ok(Missed::Gap(gap(None), None));
        };
        let history = self.backplane.history(address, &since, self.config.outbox_frames).await?;
        if history.complete {
            let newest = history.position.clone();
            return Ok(Missed::Messages(frames(address, history), newest));
        }
        if history.epoch == history.position.epoch {
            return Ok(Missed::Gap(gap(Some(history.position.clone())), Some(history.position)));
        }
        // The backplane may have lost the end of the numbering. What is left of it, then the gap, then what followed.
        let beginning = Position::new(history.position.epoch.clone(), 0);
        let next = self.backplane.history(address, &beginning, self.config.outbox_frames).await?;
        let (told, newest) = if next.complete {
            (beginning, next.position.clone())
        } else {
            (next.position.clone(), next.position.clone())
        };
        let next = if next.complete { frames(address, next) } else { Vec::new() };
        // Only what follows what they have heard: the gap is told behind it.
        let follows = history.messages.first().is_some_and(|(offset, _)| *offset == since.offset + 1);
        let left = if follows { frames(address, history) } else { Vec::new() };
        Ok(Missed::Torn(left, gap(Some(told)), next, newest))
    }
}

/// The messages of a history as they are delivered.
fn frames(address: &Address, history: History) -> Vec<Frame> {
    let History { epoch, messages, .. } = history;
    let frame =
        |(offset, message)| Frame::of_message(&message, address.clone(), Some(Position::new(epoch.clone(), offset)));
    messages.into_iter().map(frame).collect()
}

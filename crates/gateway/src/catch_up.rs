//! After an interruption: every address that may have a hole is filled in from its history, or its members are told of the
//! gap, and users hear again what is open. The same way for a subscription that broke and for a number that was never heard.

use std::{sync::Arc, time::Duration};

use countersign_backplane::{BackplaneError, Channel};
use countersign_protocol::{Address, Event, Position};
use futures_util::{StreamExt, stream};

use crate::{
    hub::{Frame, Missed},
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
            () = node.shutdown.stopped() => return,
            () = node.holes.notified() => {}
        }
        while !round(&node).await {
            tokio::select! {
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
    async fn fill(&self, channel: &Channel, since: Option<Position>) -> Result<bool, BackplaneError> {
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
            let event = Event::Gap { topic, recovered: false, position: position.clone() };
            Missed::Gap(Frame::plain(event.to_json()), position)
        };
        let Some(since) = since.filter(|_| self.history_of(address).size > 0) else { return Ok(gap(None)) };
        let history = self.backplane.history(address, &since, self.config.outbox_frames).await?;
        if !history.complete {
            return Ok(gap(Some(history.position)));
        }
        let frame = |(offset, message)| {
            Frame::of_message(&message, address, Some(Position::new(history.position.epoch.clone(), offset)))
        };
        let frames = history.messages.into_iter().map(frame).collect();
        Ok(Missed::Messages(frames, history.position.clone()))
    }
}

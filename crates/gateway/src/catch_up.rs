//! After an interruption: every address that may have a hole is filled in from its history, or its members are told of the
//! gap, and users hear again what is open. The same way for a subscription that broke and for a number that was never heard.
//!
//! A Redis that was started again, or another that took over, may have lost what it had acknowledged, even when it has lost
//! nothing: nobody can tell. Then the members hear what is left in order, then the gap, then what was published since.

use std::{sync::Arc, time::Duration};

use countersign_backplane::{BackplaneError, Channel, History};
use countersign_protocol::{Address, Position, UserId};
use futures_util::{StreamExt, stream};

use crate::{
    error::GatewayError,
    hub::{Frame, Missed},
    node::Node,
    relay,
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

/// What members may have missed.
enum Behind {
    /// Messages of an address after this position.
    Messages(Channel, Option<Position>),
    /// Which questions of a user are open.
    Questions(UserId),
}

/// Catches up with everything that may have been missed. Whether nothing is left.
async fn round(node: &Node) -> bool {
    let messages = node.hub.holding().into_iter().map(|(channel, since)| Behind::Messages(channel, since));
    let questions = node.hub.without_list().into_iter().map(Behind::Questions);
    let behind: Vec<Behind> = messages.chain(questions).collect();
    let steps = stream::iter(behind).map(|behind| async move {
        match behind {
            Behind::Messages(channel, since) => node.fill(&channel, since).await.unwrap_or_else(|error| {
                tracing::debug!(channel = ?channel.name(), %error, "a hole is not filled yet");
                true
            }),
            Behind::Questions(user) => node.list(&user).await.unwrap_or_else(|error| {
                tracing::debug!(?user, %error, "a list of open callbacks is not read yet");
                true
            }),
        }
    });
    steps.buffer_unordered(AT_ONCE).fold(true, |none, left| async move { none && !left }).await
}

impl Node {
    /// Fills the hole of one address. Whether another one is left.
    async fn fill(&self, channel: &Channel, since: Option<Position>) -> Result<bool, GatewayError> {
        if let Channel::Presence(topic) = channel {
            return Ok(self.hub.release(channel, self.missed_presence(topic).await?).another);
        }
        let Some(address) = channel.address() else { return Ok(false) };
        let missed = self.missed(&address, since).await?;
        self.metrics.caught_up(&missed);
        let released = self.hub.release(channel, missed);
        relay::refuse_conflicting(&self.metrics, &released.refused);
        Ok(released.another)
    }

    /// Tells a user's connections what is open. Whether that has to be read again.
    async fn list(&self, user: &UserId) -> Result<bool, GatewayError> {
        let open = self.open_questions(user).await?;
        Ok(self.hub.list(user, open))
    }

    async fn missed(&self, address: &Address, since: Option<Position>) -> Result<Missed, BackplaneError> {
        let gap = |position: Option<Position>| Frame::gap(address, position);
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

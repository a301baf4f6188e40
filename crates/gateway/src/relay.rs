//! The node's ear: turns what the backplane hears into frames, once per node, and hands them to the hub. Called by one
//! reader for each audience, in order; never blocks.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use countersign_backplane::{Audience, Channel, ChannelNumber, Heard, Listener, Observation, listener::Failure};
use countersign_protocol::{Address, CallbackId, Decision, FieldError, Kind, MessageId, Payload, Position};
use tokio::sync::Notify;

use crate::{
    clock::NodeClock,
    hub::{Facts, Frame, Hub},
    metrics::{Metrics, Ordered},
    seldom::Seldom,
    user_connections::Registry,
    waiters::Waiters,
    writers::Writers,
};

static REFUSED: Seldom = Seldom::new();
static CONFLICTING: Seldom = Seldom::new();
static FORBIDDEN: Seldom = Seldom::new();

/// See the module.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) hub: Arc<Hub>,
    pub(crate) waiters: Arc<Waiters<CallbackId>>,
    pub(crate) acks: Arc<Waiters<MessageId>>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Arc<NodeClock>,
    pub(crate) writers: Writers,
    /// The longest message that is forwarded: `PUBLISH_MAX_BYTES`, and what a question adds to its body.
    pub(crate) longest: usize,
    /// Told when there are holes to be filled.
    pub(crate) holes: Arc<Notify>,
}

impl Relay {
    fn frame(&self, heard: Heard) -> Option<(ChannelNumber, Frame)> {
        let Heard { channel, number, payload, position } = heard;
        match &channel {
            Channel::Answer(id) => {
                match serde_json::from_slice::<Decision>(payload.bytes()) {
                    Ok(decision) => self.waiters.tell(*id, decision),
                    // The waiter reads the record within about a second.
                    Err(error) => tracing::warn!(%error, callback_id = %id, "an answer that cannot be read"),
                }
                None
            }
            Channel::Ack(id) => {
                self.acks.tell(*id, ());
                None
            }
            Channel::Node(_) => {
                if self.registry.heard(&payload) {
                    self.metrics.user_connections(Ordered::Closed, 1);
                }
                None
            }
            // The backplane's own.
            Channel::Probe(_) | Channel::Nodes => None,
            Channel::Guests | Channel::Presence(_) => Some((number, Frame::unrouted(&payload))),
            Channel::Broadcast | Channel::User(_) | Channel::Topic(_) => {
                if payload.bytes().len() > self.longest {
                    let expected = format!("at most {} bytes (PUBLISH_MAX_BYTES)", self.longest);
                    let error = FieldError::new("message", expected, format!("{} bytes", payload.bytes().len()));
                    self.refused(&channel, &error);
                    return None;
                }
                let address = channel.address()?;
                Some((number, Frame::of_message(&payload, address, position)))
            }
        }
    }
}

#[async_trait]
impl Listener for Relay {
    async fn heard(&self, batch: Vec<Heard>) {
        let heard_at = Instant::now();
        let mut heard = batch.into_iter();
        // Frames are made before the hub is locked: connections come and go meanwhile.
        let (mut channels, mut frames) = (Vec::with_capacity(heard.len()), Vec::with_capacity(heard.len()));
        loop {
            let mut bytes = 0;
            for (channel, frame) in heard.by_ref().filter_map(|heard| self.frame(heard)) {
                bytes += frame.len();
                channels.push(channel);
                frames.push(frame);
                if bytes > TURN_BYTES || frames.len() >= TURN_FRAMES {
                    break;
                }
            }
            if frames.is_empty() {
                return;
            }
            self.metrics.heard(frames.len());
            let mut turn = self.hub.deliver(&channels, &frames);
            self.metrics.delivered(&turn);
            if turn.hole {
                self.holes.notify_one();
            }
            refuse_conflicting(&self.metrics, &turn.refused);
            self.writers.write(turn.outboxes()).await;
            self.metrics.written(heard_at);
            channels.clear();
            frames.clear();
        }
    }

    fn refused(&self, channel: &Channel, error: &FieldError) {
        self.metrics.refused_payload();
        if let Some(left_out) = REFUSED.line() {
            tracing::warn!(channel = ?channel.name(), %error, left_out, "a publication that is no message was not forwarded");
        }
    }

    fn forbidden(&self, channel: &Channel) {
        self.hub.forbid(channel);
        self.metrics.observed(Observation::CommandFailed(Failure::Forbidden));
        if let Some(left_out) = FORBIDDEN.line() {
            tracing::warn!(
                channel = ?channel.name(),
                left_out,
                "Redis does not let this node subscribe to a topic; the rights that are needed are in deploy/redis/users.acl"
            );
        }
    }

    fn interrupted(&self, audience: Audience) {
        self.hub.interrupt(audience);
        tracing::warn!(
            audience = audience.as_str(),
            "the subscription is interrupted: messages are missed from now on"
        );
    }

    fn resumed(&self, audience: Audience) {
        self.hub.resume(audience);
        tracing::info!(audience = audience.as_str(), "the subscription is back");
        self.holes.notify_one();
    }

    fn observed(&self, observation: Observation) {
        if let Observation::Clock(now) = observation {
            self.clock.set(now);
        }
        self.metrics.observed(observation);
    }
}

/// Counts messages that have the position of another one, and says of which channel.
pub(crate) fn refuse_conflicting(metrics: &Metrics, channels: &[Channel]) {
    for channel in channels {
        metrics.refused_payload();
        if let Some(left_out) = CONFLICTING.line() {
            tracing::warn!(
                channel = ?channel.name(),
                left_out,
                "a message with the position of another one, which the history does not have, was published"
            );
        }
    }
}

impl Frame {
    /// A message with its routing facts.
    pub(crate) fn of_message(message: &Payload, address: Address, position: Option<Position>) -> Self {
        // What says that a callback was opened or has ended has no place in a history.
        let kind = if position.is_none() { Kind::of(message) } else { Kind::Other };
        Self::written(message.routed_bytes(), |text| {
            message.append_routed(&address, position.as_ref(), text);
            // A client that misses a question, or the end of one or of a task, shows what is not so.
            let may_be_dropped = (!kind.is_state()).then_some(address);
            Facts { kind, position, may_be_dropped }
        })
    }

    /// A message as it is.
    fn unrouted(message: &Payload) -> Self {
        let facts = Facts { kind: Kind::of(message), ..Facts::default() };
        Self::with(message.bytes(), facts)
    }
}

/// Of one turn, so that memory and the time until the next turn are bounded: a socket's buffer takes about as much, and nothing
/// is gained by longer writes.
const TURN_BYTES: usize = 128 * 1024;
/// Messages of one turn.
const TURN_FRAMES: usize = 256;

#[cfg(test)]
mod tests {
    use countersign_backplane::Interest;

    use super::*;
    use crate::hub::{Missed, Outbox, OutboxLimits, WhenFull};

    struct Nothing;

    impl crate::hub::Sink for Nothing {
        fn try_write(&self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::WouldBlock.into())
        }

        fn poll_writable(&self, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Pending
        }
    }

    #[test]
    fn a_slow_reader_may_miss_a_message_and_nothing_that_says_what_is_open() {
        let id = "07-000000000000000000000000000000ab";
        let frame = |text: String, position| {
            let message = Payload::parse(text.into()).unwrap();
            Frame::of_message(&message, Address::Broadcast, position)
        };
        for state in [
            format!(r#"{{"type":"task_step_result","callback_id":"{id}"}}"#),
            format!(r#"{{"type":"callback_resolved","callback_id":"{id}"}}"#),
            r#"{"type":"task_cancelled","user_id":null,"task_id":"t"}"#.to_owned(),
        ] {
            assert_eq!(frame(state.clone(), None).may_be_dropped(), None, "{state}");
            let kept = frame(state, Some(Position::new("e", 1)));
            assert_eq!(kept.may_be_dropped(), Some(&Address::Broadcast), "what a history has is a message");
            assert_eq!((kept.question(), kept.end()), (None, None));
        }
        assert_eq!(frame(r#"{"type":"x"}"#.to_owned(), None).may_be_dropped(), Some(&Address::Broadcast));
    }

    #[test]
    fn a_hole_that_was_filled_before_the_interruption_was_over_is_filled_again() {
        let interest = Interest::new();
        let hub = Hub::new(Arc::clone(&interest));
        let relay = Relay {
            hub: Arc::clone(&hub),
            waiters: Waiters::new(Arc::clone(&interest)),
            acks: Waiters::new(Arc::clone(&interest)),
            registry: Registry::new(&interest, countersign_protocol::NodeId::parse("n").unwrap()),
            metrics: Arc::new(Metrics::new()),
            clock: Arc::new(NodeClock::new()),
            writers: Writers::new(1),
            longest: 1000,
            holes: Arc::new(Notify::new()),
        };
        let limits = OutboxLimits { bytes: 1000, frames: 10, when_full: WhenFull::Close };
        let member = hub.enter(Arc::new(Outbox::new(limits, None, Box::new(Nothing))));
        let joining = member.join(&Channel::Broadcast, 10).unwrap();
        joining.complete(&[], None, &std::collections::HashSet::new());
        relay.interrupted(Audience::Crowd);
        hub.release(&Channel::Broadcast, Missed::Gap(Frame::plain("gap"), None));
        assert_eq!(hub.holding(), []);
        relay.resumed(Audience::Crowd);
        assert_eq!(hub.holding(), [(Channel::Broadcast, None)], "more was missed after the gap was told");
    }
}

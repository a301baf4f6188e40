//! The node's ear: turns what the backplane hears into frames, once per node, and hands them to the hub. Called by one
//! reader, in order; never blocks.

use std::{sync::Arc, time::Instant};

use countersign_backplane::{Channel, Heard, Listener, Observation};
use countersign_protocol::{Address, CallbackId, Decision, FieldError, MessageId, Payload, Position, notification};
use tokio::sync::Notify;

use crate::{
    hub::{Frame, Hub},
    metrics::Metrics,
    seldom::Seldom,
    transport::Text,
    waiters::Waiters,
};

static REFUSED: Seldom = Seldom::new();

/// See the module.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) hub: Arc<Hub>,
    pub(crate) waiters: Arc<Waiters<CallbackId>>,
    pub(crate) acks: Arc<Waiters<MessageId>>,
    pub(crate) metrics: Arc<Metrics>,
    /// The longest message that is forwarded: `PUBLISH_MAX_BYTES`, and what a question adds to its body.
    pub(crate) longest: usize,
    /// Told when there are holes to be filled.
    pub(crate) holes: Arc<Notify>,
}

impl Relay {
    fn frame(&self, heard: Heard) -> Option<(Channel, Frame)> {
        let Heard { channel, payload, position } = heard;
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
            Channel::Node(_) => None,
            Channel::Guests => Some((channel, Frame::unrouted(&payload))),
            Channel::Broadcast | Channel::User(_) | Channel::Topic(_) => {
                if payload.bytes().len() > self.longest {
                    let expected = format!("at most {} bytes (PUBLISH_MAX_BYTES)", self.longest);
                    let error = FieldError::new("message", expected, format!("{} bytes", payload.bytes().len()));
                    self.refused(&channel, &error);
                    return None;
                }
                let address = channel.address()?;
                Some((channel, Frame::of_message(&payload, &address, position)))
            }
        }
    }
}

impl Listener for Relay {
    fn heard(&self, batch: Vec<Heard>) {
        let heard_at = Instant::now();
        let frames = batch.into_iter().filter_map(|heard| self.frame(heard));
        let frames = frames.map(|(channel, frame)| (channel, Frame { heard_at: Some(heard_at), ..frame }));
        // Frames are made before the hub is locked: connections come and go meanwhile.
        let frames: Vec<_> = frames.collect();
        self.metrics.heard(frames.len());
        let delivered = self.hub.deliver(frames);
        self.metrics.delivered(delivered);
        if delivered.hole {
            self.holes.notify_one();
        }
    }

    fn refused(&self, channel: &Channel, error: &FieldError) {
        self.metrics.refused_payload();
        if let Some(left_out) = REFUSED.line() {
            tracing::warn!(channel = ?channel.name(), %error, left_out, "a publication that is no message was not forwarded");
        }
    }

    fn interrupted(&self) {
        self.hub.interrupt();
        tracing::warn!("the subscription is interrupted: messages are missed from now on");
    }

    fn resumed(&self) {
        tracing::info!("the subscription is back");
        self.holes.notify_one();
    }

    fn observed(&self, observation: Observation) {
        self.metrics.observed(observation);
    }
}

impl Frame {
    /// A message with its routing facts.
    pub(crate) fn of_message(message: &Payload, address: &Address, position: Option<Position>) -> Self {
        let text = Text::from_utf8(message.with_route(address, position.as_ref())).expect("a payload is UTF-8");
        Self { text, question: notification::callback_of(message), position, heard_at: None }
    }

    /// A message as it is.
    fn unrouted(message: &Payload) -> Self {
        let text = Text::from_utf8(message.bytes().clone()).expect("a payload is UTF-8");
        Self { text, question: notification::callback_of(message), position: None, heard_at: None }
    }
}

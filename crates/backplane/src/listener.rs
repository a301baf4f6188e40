//! The node's ear. One reader for each audience calls it, in order, and waits for it: what a node cannot take yet stays with
//! the backplane.

use std::time::Duration;

use async_trait::async_trait;
use countersign_protocol::{FieldError, Payload, Position};

use crate::{audience::Audience, channel::Channel, interest::ChannelNumber};

/// What was published to a wanted channel.
#[derive(Debug, Clone)]
pub struct Heard {
    /// Where.
    pub channel: Channel,
    /// Its number, as long as somebody wants it.
    pub number: ChannelNumber,
    /// What; checked to be one JSON object.
    pub payload: Payload,
    /// Its place in the history of its address, if it has one.
    pub position: Option<Position>,
}

/// A fact for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    /// A command's answer took this long.
    RoundTrip(Duration),
    /// A command failed.
    CommandFailed(Failure),
    /// The node heard its own probe after this long.
    Probe(Duration),
    /// It is so late, as the backplane's clock has it: since the Unix epoch.
    Clock(Duration),
    /// Whether another live node has this node's id.
    NodeIdShared(bool),
    /// A subscriber connection was made, one for each audience; every further one is a reconnect.
    SubscriberConnected,
}

/// Kinds of failure, for metrics and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No answer in time.
    Timeout,
    /// No connection.
    Connection,
    /// Redis is loading its data.
    Loading,
    /// A replica was asked to write.
    ReadOnly,
    /// Redis is out of memory.
    OutOfMemory,
    /// Redis refuses writes because its persistence fails.
    Misconfigured,
    /// Wrong or missing credentials.
    Unauthorized,
    /// The user of the credentials has not the right to a command, a key or a channel.
    Forbidden,
    /// The server lacks a command or a right without which a script would fail in its middle.
    Unfit,
    /// A Redis Cluster without a master for the key.
    ClusterDown,
    /// Anything else.
    Other,
}

impl Failure {
    /// A label of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Connection => "connection",
            Self::Loading => "loading",
            Self::ReadOnly => "readonly",
            Self::OutOfMemory => "oom",
            Self::Misconfigured => "misconf",
            Self::Unauthorized => "noauth",
            Self::Forbidden => "noperm",
            Self::Unfit => "unfit",
            Self::ClusterDown => "clusterdown",
            Self::Other => "other",
        }
    }
}

/// What a node is told.
#[async_trait]
pub trait Listener: Send + Sync + 'static {
    /// Messages, in the order in which they were published; everything that one read brought. Nothing more is handed over before
    /// this has ended, so it must not wait for anything but the node's own work: Redis cuts slow subscribers.
    async fn heard(&self, batch: Vec<Heard>);

    /// Something that is no message was published to a wanted channel; it goes nowhere.
    fn refused(&self, channel: &Channel, error: &FieldError);

    /// The backplane does not let this node hear a wanted channel; everything else is heard.
    fn forbidden(&self, _channel: &Channel) {}

    /// The subscription of an audience broke: from now on its messages are missed.
    fn interrupted(&self, audience: Audience);

    /// Every wanted channel of an audience is subscribed again.
    fn resumed(&self, audience: Audience);

    /// A fact for metrics.
    fn observed(&self, observation: Observation);
}

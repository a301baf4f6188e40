//! The pub/sub channels that nodes listen to. A node hears a channel only while something on it wants to; only
//! `broadcast` reaches every node that has connections.

use countersign_protocol::{Address, CallbackId, MessageId, NodeId, TopicName, UserId};

/// A pub/sub channel.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Channel {
    /// Messages for everybody.
    Broadcast,
    /// Messages, questions and ends of callbacks of one user.
    User(UserId),
    /// Messages of one topic.
    Topic(TopicName),
    /// Who joins and leaves one topic.
    Presence(TopicName),
    /// Open mode: every question, end of a callback and cancellation.
    Guests,
    /// The decision of one callback, for those who wait for it.
    Answer(CallbackId),
    /// The acknowledgements of one message, for those who wait for them.
    Ack(MessageId),
    /// What one node is told; also how it hears itself.
    Node(NodeId),
}

impl From<&Address> for Channel {
    fn from(address: &Address) -> Self {
        match address {
            Address::Broadcast => Self::Broadcast,
            Address::User(id) => Self::User(id.clone()),
            Address::Topic(name) => Self::Topic(name.clone()),
        }
    }
}

impl Channel {
    /// The address whose messages the channel carries, if it carries messages.
    pub fn address(&self) -> Option<Address> {
        match self {
            Self::Broadcast => Some(Address::Broadcast),
            Self::User(id) => Some(Address::User(id.clone())),
            Self::Topic(name) => Some(Address::Topic(name.clone())),
            Self::Presence(_) | Self::Guests | Self::Answer(_) | Self::Ack(_) | Self::Node(_) => None,
        }
    }

    /// The name without the prefix: all that follows the first colon of `cs:user:alice`.
    pub fn name(&self) -> String {
        match self {
            Self::Broadcast => "broadcast".to_owned(),
            Self::User(id) => format!("user:{id}"),
            Self::Topic(name) => format!("topic:{name}"),
            Self::Presence(name) => format!("presence:{name}"),
            Self::Guests => "guests".to_owned(),
            Self::Answer(id) => format!("answer:{id}"),
            Self::Ack(id) => format!("ack:{id}"),
            Self::Node(id) => format!("node:{id}"),
        }
    }
}

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
    /// How one node hears itself where crowds are heard.
    Probe(NodeId),
    /// What nodes say of themselves, for all of them.
    Nodes,
}

/// A channel that somebody else's bytes name: what is looked up for each publication, without a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Named<'a> {
    Broadcast,
    User(&'a [u8]),
    Topic(&'a [u8]),
    Presence(&'a [u8]),
    Guests,
    Answer(CallbackId),
    Ack(MessageId),
    Node(&'a [u8]),
    Probe(&'a [u8]),
    Nodes,
}

impl<'a> Named<'a> {
    /// Reads what [`Channel::name`] writes; `None` for a name that no channel has.
    pub(crate) fn read(name: &'a [u8]) -> Option<Self> {
        let id = |bytes| std::str::from_utf8(bytes).ok();
        let colon = name.iter().position(|byte| *byte == b':');
        let (kind, rest) = name.split_at(colon.unwrap_or(name.len()));
        Some(match (kind, rest.split_first().map(|(_, rest)| rest)) {
            (b"broadcast", None) => Self::Broadcast,
            (b"user", Some(id)) => Self::User(id),
            (b"topic", Some(name)) => Self::Topic(name),
            (b"presence", Some(name)) => Self::Presence(name),
            (b"guests", None) => Self::Guests,
            (b"answer", Some(bytes)) => Self::Answer(CallbackId::parse(id(bytes)?).ok()?),
            (b"ack", Some(bytes)) => Self::Ack(MessageId::parse(id(bytes)?).ok()?),
            (b"node", Some(id)) => Self::Node(id),
            (b"probe", Some(id)) => Self::Probe(id),
            (b"nodes", None) => Self::Nodes,
            _ => return None,
        })
    }
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
    /// Whether a node can do its work without hearing it: topics, whose names are the users' choice. All others are needed for
    /// every connection.
    pub(crate) fn may_be_forbidden(&self) -> bool {
        match self {
            Self::Topic(_) | Self::Presence(_) => true,
            Self::Broadcast
            | Self::User(_)
            | Self::Guests
            | Self::Answer(_)
            | Self::Ack(_)
            | Self::Node(_)
            | Self::Probe(_)
            | Self::Nodes => false,
        }
    }

    /// The address whose messages the channel carries, if it carries messages.
    pub fn address(&self) -> Option<Address> {
        match self {
            Self::Broadcast => Some(Address::Broadcast),
            Self::User(id) => Some(Address::User(id.clone())),
            Self::Topic(name) => Some(Address::Topic(name.clone())),
            Self::Presence(_)
            | Self::Guests
            | Self::Answer(_)
            | Self::Ack(_)
            | Self::Node(_)
            | Self::Probe(_)
            | Self::Nodes => None,
        }
    }

    /// As somebody else's bytes would name it.
    pub(crate) fn named(&self) -> Named<'_> {
        match self {
            Self::Broadcast => Named::Broadcast,
            Self::User(id) => Named::User(id.as_str().as_bytes()),
            Self::Topic(name) => Named::Topic(name.as_str().as_bytes()),
            Self::Presence(name) => Named::Presence(name.as_str().as_bytes()),
            Self::Guests => Named::Guests,
            Self::Answer(id) => Named::Answer(*id),
            Self::Ack(id) => Named::Ack(*id),
            Self::Node(id) => Named::Node(id.as_str().as_bytes()),
            Self::Probe(id) => Named::Probe(id.as_str().as_bytes()),
            Self::Nodes => Named::Nodes,
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
            Self::Probe(id) => format!("probe:{id}"),
            Self::Nodes => "nodes".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_channel_is_called_names_it() {
        let text = "07-000000000000000000000000000000ab";
        let (user, topic) = (UserId::parse("a:{b}").unwrap(), TopicName::parse("task:42").unwrap());
        let channels = [
            Channel::Broadcast,
            Channel::Guests,
            Channel::User(user),
            Channel::Topic(topic.clone()),
            Channel::Presence(topic),
            Channel::Answer(CallbackId::parse(text).unwrap()),
            Channel::Ack(MessageId::parse(text).unwrap()),
            Channel::Node(NodeId::parse("broadcast").unwrap()),
            Channel::Probe(NodeId::parse("a").unwrap()),
            Channel::Nodes,
        ];
        for channel in channels {
            assert_eq!(Named::read(channel.name().as_bytes()), Some(channel.named()), "{channel:?}");
        }
        for name in ["", "broadcasts", "broadcast:", "user", "answer:5", "cs:broadcast", "other:a"] {
            assert_eq!(Named::read(name.as_bytes()), None, "{name}");
        }
    }
}

//! Who a channel is for: one person, or a crowd. A node hears the two on connections of their own, so that a question and its
//! answer do not stand in line behind whatever a crowd is told, and what cuts one off does not cut off the other.

use crate::Channel;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Audience {
    /// Users, waits for answers, and the node itself.
    Person,
    /// Everybody, and topics.
    Crowd,
}

impl Audience {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Person, Self::Crowd];

    /// In logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Crowd => "crowd",
        }
    }
}

impl Channel {
    /// For whom it is. What is published to one channel is heard in order; between audiences there is no order.
    pub fn audience(&self) -> Audience {
        match self {
            Self::User(_) | Self::Guests | Self::Answer(_) | Self::Ack(_) | Self::Node(_) => Audience::Person,
            Self::Broadcast | Self::Topic(_) | Self::Presence(_) | Self::Probe(_) | Self::Nodes => Audience::Crowd,
        }
    }
}

/// One of something for each audience.
#[derive(Debug, Default)]
pub struct ByAudience<T> {
    person: T,
    crowd: T,
}

impl<T> ByAudience<T> {
    /// Makes both.
    pub fn from_fn(mut make: impl FnMut(Audience) -> T) -> Self {
        Self { person: make(Audience::Person), crowd: make(Audience::Crowd) }
    }

    /// That of one audience.
    pub fn of(&self, audience: Audience) -> &T {
        match audience {
            Audience::Person => &self.person,
            Audience::Crowd => &self.crowd,
        }
    }

    /// That of one audience.
    pub fn of_mut(&mut self, audience: Audience) -> &mut T {
        match audience {
            Audience::Person => &mut self.person,
            Audience::Crowd => &mut self.crowd,
        }
    }
}

//! The channels of one connection. Nearly all have a handful, and then a short list is smaller and quicker than a table.

use std::collections::HashSet;

use countersign_backplane::Channel;

/// See the module.
#[derive(Debug)]
pub(super) enum Channels {
    Few(Vec<Channel>),
    Many(HashSet<Channel>),
}

/// From here on a table is quicker.
const MANY: usize = 32;

impl Channels {
    pub(super) fn new() -> Self {
        Self::Few(Vec::new())
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Few(channels) => channels.len(),
            Self::Many(channels) => channels.len(),
        }
    }

    pub(super) fn contains(&self, channel: &Channel) -> bool {
        match self {
            Self::Few(channels) => channels.contains(channel),
            Self::Many(channels) => channels.contains(channel),
        }
    }

    /// Adds one that is not there.
    pub(super) fn insert(&mut self, channel: Channel) {
        match self {
            Self::Few(channels) if channels.len() < MANY => {
                // One at a time: most connections stay at two or three.
                channels.reserve_exact(1);
                channels.push(channel);
            }
            Self::Few(channels) => *self = Self::Many(channels.drain(..).chain([channel]).collect()),
            Self::Many(channels) => drop(channels.insert(channel)),
        }
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, channel: &Channel) -> bool {
        match self {
            Self::Few(channels) => {
                let at = channels.iter().position(|one| one == channel);
                at.map(|at| channels.swap_remove(at)).is_some()
            }
            Self::Many(channels) => channels.remove(channel),
        }
    }

    pub(super) fn into_vec(self) -> Vec<Channel> {
        match self {
            Self::Few(channels) => channels,
            Self::Many(channels) => channels.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use countersign_protocol::TopicName;

    use super::*;

    #[test]
    fn few_and_many_are_kept_alike() {
        let topic = |n: usize| Channel::Topic(TopicName::parse(&format!("t{n}")).unwrap());
        let mut channels = Channels::new();
        for n in 0..3 * MANY {
            assert!(!channels.contains(&topic(n)));
            channels.insert(topic(n));
            assert!(channels.contains(&topic(n)) && channels.contains(&topic(0)));
            assert_eq!(channels.len(), n + 1);
        }
        assert!(channels.remove(&topic(5)) && !channels.remove(&topic(5)));
        assert_eq!(channels.into_vec().len(), 3 * MANY - 1);
        let mut few = Channels::new();
        few.insert(topic(1));
        assert!(!few.remove(&topic(2)) && few.remove(&topic(1)));
        assert_eq!(few.len(), 0);
    }
}

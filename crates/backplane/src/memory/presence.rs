//! Presence as a pure state machine: the time is handed in, and what is to be told is handed out. A place that has expired
//! is given up by the purge with which every step begins.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use async_trait::async_trait;
use countersign_protocol::{NodeId, TopicName, UserId};

use super::{
    MemoryNode,
    clock::{millis, seconds},
    expiry::Expiries,
    store::Store,
};
use crate::{
    Channel, Result,
    presence::{self, Members, Places, Presence, Told},
};

/// All places of all nodes.
#[derive(Debug, Default)]
pub(super) struct Roll {
    /// How many nodes hold a place for a user.
    topics: HashMap<TopicName, BTreeMap<UserId, usize>>,
    ends: Expiries<(TopicName, UserId, NodeId)>,
}

/// A change of a topic's members.
type Change = (&'static str, TopicName, UserId);

impl Roll {
    /// Takes a place, or renews it; the change, when it is the user's first.
    fn hold(&mut self, topic: &TopicName, user: &UserId, node: &NodeId, ends: u64) -> Option<Change> {
        let place = (topic.clone(), user.clone(), node.clone());
        let new = !self.ends.contains(&place);
        self.ends.set(place, ends);
        if !new {
            return None;
        }
        let holders = self.topics.entry(topic.clone()).or_default().entry(user.clone()).or_default();
        *holders += 1;
        (*holders == 1).then(|| ("joined", topic.clone(), user.clone()))
    }

    /// Gives a place up; the change, when it was the user's last.
    fn let_go(&mut self, topic: &TopicName, user: &UserId, node: &NodeId) -> Option<Change> {
        let place = (topic.clone(), user.clone(), node.clone());
        if !self.ends.contains(&place) {
            return None;
        }
        self.ends.remove(&place);
        self.one_less(place.0, place.1)
    }

    /// Gives up what has expired.
    fn purge(&mut self, now: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        while let Some((topic, user, _)) = self.ends.pop_due(now) {
            changes.extend(self.one_less(topic, user));
        }
        changes
    }

    fn one_less(&mut self, topic: TopicName, user: UserId) -> Option<Change> {
        let users = self.topics.get_mut(&topic)?;
        let holders = users.get_mut(&user)?;
        *holders -= 1;
        if *holders > 0 {
            return None;
        }
        users.remove(&user);
        if users.is_empty() {
            self.topics.remove(&topic);
        }
        Some(("left", topic, user))
    }

    fn members(&self, topic: &TopicName, most: usize) -> Members {
        let Some(users) = self.topics.get(topic) else { return Members::default() };
        Members { users: users.keys().take(most).cloned().collect(), count: users.len() as u64 }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.topics.is_empty() && self.ends.len() == 0
    }
}

impl Store {
    /// Gives up expired places, and tells.
    pub(super) fn purge_places(&mut self, now: u64) {
        for change in self.roll.purge(now) {
            self.tell(now, &change);
        }
    }

    fn hold_places(&mut self, now: u64, node: &NodeId, places: &Places, lease: Duration) -> Told {
        let Places { topic, hold, let_go } = places;
        let ends = now.saturating_add(millis(lease).max(1));
        let mut told = Told::default();
        for user in hold {
            if let Some(change) = self.roll.hold(topic, user, node, ends) {
                self.tell(now, &change);
                told.joined += 1;
            }
        }
        for user in let_go {
            if let Some(change) = self.roll.let_go(topic, user, node) {
                self.tell(now, &change);
                told.left += 1;
            }
        }
        told
    }

    fn tell(&mut self, now: u64, (word, topic, user): &Change) {
        let event = presence::event(word, topic, user, seconds(now));
        self.deliver(&Channel::Presence(topic.clone()), &event.into());
    }
}

#[async_trait]
impl Presence for MemoryNode {
    async fn hold_places(&self, places: Vec<Places>, lease: Duration) -> Vec<Result<Told>> {
        let hold = |places: &Places| {
            self.step(|store, now| {
                let node = store.node_of(self.ear());
                store.hold_places(now, &node, places, lease)
            })
        };
        places.iter().map(hold).collect()
    }

    async fn members(&self, topic: &TopicName, most: usize) -> Result<Members> {
        self.step(|store, _| store.roll.members(topic, most))
    }
}

//! Which tasks are cancelled: one user's, or every user's task of a name. A tombstone ends by retention or by a lift.

use std::collections::{HashMap, HashSet};

use countersign_protocol::{TaskId, UserId};

use super::expiry::Expiries;
use crate::callbacks::Canceller;

/// What is cancelled: a task of one user, or (without a user) every task of this name.
type Grave = (Option<UserId>, TaskId);

/// Who cancelled a task and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tombstone {
    pub(super) by: Canceller,
    pub(super) at_ms: u64,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Tombstones {
    retention_ms: u64,
    stones: HashMap<Grave, Tombstone>,
    ends: Expiries<Grave>,
    /// Those by which a person closed nothing; guests have no name and count as one.
    idle: HashMap<Canceller, HashSet<Grave>>,
}

impl Tombstones {
    pub(super) fn new(retention_ms: u64) -> Self {
        Self { retention_ms, stones: HashMap::new(), ends: Expiries::default(), idle: HashMap::new() }
    }

    /// Whether a person may cancel one more task that has no open callback.
    pub(super) fn has_room(&self, user: &UserId, task: &TaskId, by: &Canceller, most: u64) -> bool {
        let known = self.stones.contains_key(&(Some(user.clone()), task.clone()));
        *by == Canceller::Producer
            || known
            || self.idle.get(by).map_or(0, HashSet::len) < usize::try_from(most).unwrap_or(usize::MAX)
    }

    /// Notes that a tombstone closed nothing.
    pub(super) fn was_idle(&mut self, user: &UserId, task: &TaskId, by: &Canceller) {
        if *by != Canceller::Producer {
            self.idle.entry(by.clone()).or_default().insert((Some(user.clone()), task.clone()));
        }
    }

    /// Cancels, again if need be: the retention begins anew.
    pub(super) fn set(&mut self, now: u64, user: Option<&UserId>, task: &TaskId, by: &Canceller) {
        let grave = (user.cloned(), task.clone());
        self.ends.set(grave.clone(), now.saturating_add(self.retention_ms));
        self.stones.insert(grave, Tombstone { by: by.clone(), at_ms: now });
    }

    /// Whether there was one to lift.
    pub(super) fn lift(&mut self, user: Option<&UserId>, task: &TaskId) -> bool {
        let grave = (user.cloned(), task.clone());
        self.ends.remove(&grave);
        self.forget_idle(&grave);
        self.stones.remove(&grave).is_some()
    }

    /// The user's own tombstone of this task, else everybody's.
    pub(super) fn find(&self, user: &UserId, task: &TaskId) -> Option<Tombstone> {
        let of = |user| self.stones.get(&(user, task.clone())).cloned();
        of(Some(user.clone())).or_else(|| of(None))
    }

    /// Forgets those whose retention is over.
    pub(super) fn purge(&mut self, now: u64) {
        while let Some(grave) = self.ends.pop_due(now) {
            self.stones.remove(&grave);
            self.forget_idle(&grave);
        }
    }

    fn forget_idle(&mut self, grave: &Grave) {
        for person in grave.0.clone().map(Canceller::User).into_iter().chain([Canceller::Guest]) {
            if let Some(graves) = self.idle.get_mut(&person)
                && graves.remove(grave)
                && graves.is_empty()
            {
                self.idle.remove(&person);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.stones.is_empty() && self.ends.len() == 0 && self.idle.is_empty()
    }
}

//! Which tasks are cancelled: one user's, or every user's task of a name. A tombstone ends by retention or by a lift.

use std::collections::HashMap;

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
}

impl Tombstones {
    pub(super) fn new(retention_ms: u64) -> Self {
        Self { retention_ms, stones: HashMap::new(), ends: Expiries::default() }
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
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.stones.is_empty() && self.ends.len() == 0
    }
}

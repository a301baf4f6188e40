//! Heartbeats as a pure state machine: the time is handed in, and what is to be said is handed out. A heartbeat that has
//! ended is forgotten by the purge with which every step begins.

use std::collections::HashMap;

use async_trait::async_trait;
use bytes::Bytes;
use countersign_protocol::{TaskId, UserId};

use super::{
    MemoryNode,
    clock::{millis, seconds},
    expiry::Expiries,
    store::Store,
};
use crate::{
    Channel, Result,
    heartbeats::{Heartbeat, Heartbeats},
};

type Whose = (UserId, TaskId);

/// All heartbeats.
#[derive(Debug, Default)]
pub(super) struct Beats {
    kept: HashMap<Whose, Beat>,
    /// When each beats next.
    moments: Expiries<Whose>,
    /// When each ends.
    ends: Expiries<Whose>,
}

#[derive(Debug)]
struct Beat {
    interval_ms: u64,
    next_ms: u64,
    message_head: String,
}

impl Beats {
    /// Starts a heartbeat, or replaces the one of the same task, which keeps its time if its interval stays; its end.
    fn start(&mut self, now: u64, heartbeat: Heartbeat) -> u64 {
        let Heartbeat { user, task, interval, ttl, message_head } = heartbeat;
        let whose = (user, task);
        let interval_ms = millis(interval).max(1);
        let next_ms = match self.kept.get(&whose) {
            Some(before) if before.interval_ms == interval_ms => before.next_ms,
            _ => now.saturating_add(interval_ms),
        };
        let ends = now.saturating_add(millis(ttl).max(1));
        self.moments.set(whose.clone(), next_ms);
        self.ends.set(whose.clone(), ends);
        self.kept.insert(whose, Beat { interval_ms, next_ms, message_head });
        ends
    }

    /// Whether there was one to stop.
    fn stop(&mut self, whose: &Whose) -> bool {
        self.moments.remove(whose);
        self.ends.remove(whose);
        self.kept.remove(whose).is_some()
    }

    /// Forgets what has ended.
    pub(super) fn purge(&mut self, now: u64) {
        while let Some(whose) = self.ends.pop_due(now) {
            self.moments.remove(&whose);
            self.kept.remove(&whose);
        }
    }

    /// Takes the heartbeats that are due, each with its message; the next moment of each lies in the future.
    fn due(&mut self, now: u64) -> Vec<(Whose, Bytes)> {
        let mut due = Vec::new();
        while let Some(whose) = self.moments.pop_due(now) {
            let Some(beat) = self.kept.get_mut(&whose) else { continue };
            // Whoever comes late sends one message, not those that were missed.
            let missed = now.saturating_sub(beat.next_ms) / beat.interval_ms;
            beat.next_ms = beat.next_ms.saturating_add(beat.interval_ms.saturating_mul(missed + 1));
            self.moments.set(whose.clone(), beat.next_ms);
            let message = format!("{},\"timestamp\":{:.3}}}", beat.message_head, seconds(now));
            due.push((whose, message.into()));
        }
        due
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.moments.len() + self.ends.len() == 0
    }
}

impl Store {
    /// Sends what is due, but not of cancelled tasks; how many were sent.
    pub(super) fn beat(&mut self, now: u64) -> u64 {
        let mut sent = 0;
        for ((user, task), message) in self.beats.due(now) {
            if self.lifecycle.tombstones.find(&user, &task).is_none() {
                self.deliver(&Channel::User(user), &message);
                sent += 1;
            }
        }
        sent
    }
}

#[async_trait]
impl Heartbeats for MemoryNode {
    async fn start_heartbeat(&self, heartbeat: Heartbeat) -> Result<f64> {
        self.step(|store, now| seconds(store.beats.start(now, heartbeat)))
    }

    async fn stop_heartbeat(&self, user: &UserId, task: &TaskId) -> Result<bool> {
        self.step(|store, _| store.beats.stop(&(user.clone(), task.clone())))
    }
}

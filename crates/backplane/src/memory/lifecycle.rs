//! The life cycle of callbacks as a pure state machine: no IO, no clock; the time is handed in, and what is to be
//! published is left in an outbox that the caller empties after every step. A callback ends in [`Lifecycle::end`] and
//! nowhere else, once. Everything that has ended is in an index of retentions, so nothing stays for ever.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
};

use bytes::Bytes;
use countersign_protocol::{CallbackId, Event, IdempotencyKey, NodeId, Payload, UserId};

use super::{
    clock::{millis, seconds},
    expiry::Expiries,
    record::{End, Record},
    tombstones::Tombstones,
};
use crate::{
    BackplaneError, Callback, Channel, Result, Settings,
    callbacks::{AnsweredVia, Answerer, Canceller, Confirm, Confirmed, Cursor, OpenCallback, Opened, Swept, Withdrawn},
};

/// Every callback and every cancelled task.
#[derive(Debug)]
pub(super) struct Lifecycle {
    settings: Settings,
    records: HashMap<CallbackId, Record>,
    /// The pending index: each user's open callbacks in the order of asking.
    pending: HashMap<UserId, BTreeMap<u64, CallbackId>>,
    /// Everybody's open callbacks: partition by partition, in the order of asking.
    open: BTreeMap<(u16, u64), CallbackId>,
    deadlines: Expiries<CallbackId>,
    /// Results of keyed requests, each with the digest of its body; they go with their record.
    keys: HashMap<(UserId, IdempotencyKey), (String, CallbackId)>,
    /// When ended records are forgotten.
    retentions: Expiries<CallbackId>,
    pub(super) tombstones: Tombstones,
    next_turn: u64,
    outbox: Vec<(Channel, Bytes)>,
}

impl Lifecycle {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            tombstones: Tombstones::new(millis(settings.cancel_retention)),
            settings,
            records: HashMap::new(),
            pending: HashMap::new(),
            open: BTreeMap::new(),
            deadlines: Expiries::default(),
            keys: HashMap::new(),
            retentions: Expiries::default(),
            next_turn: 0,
            outbox: Vec::new(),
        }
    }

    /// What the last steps want published, in order.
    pub(super) fn take_outbox(&mut self) -> Vec<(Channel, Bytes)> {
        std::mem::take(&mut self.outbox)
    }

    /// Forgets what has expired.
    pub(super) fn purge(&mut self, now: u64) {
        self.tombstones.purge(now);
        while let Some(id) = self.retentions.pop_due(now) {
            let Some(record) = self.records.remove(&id) else { continue };
            if let Some(key) = record.key {
                self.keys.remove(&(record.user, key));
            }
        }
    }

    /// Opens a callback, unless its id or its key did so before.
    pub(super) fn open(&mut self, now: u64, via: &NodeId, open: OpenCallback) -> Result<Opened> {
        if let Some(callback) = self.read(now, open.id) {
            return Ok(Opened { callback, new: false });
        }
        if let Some(callback) = self.opened_by_key(now, &open)? {
            return Ok(Opened { callback, new: false });
        }
        let id = open.id;
        if let Some(tombstone) = self.tombstones.find(&open.user, &open.task) {
            let end = End::cancelled(id, now, &tombstone.by);
            let record = Record { end: Some(end), ..self.record(now, via, open)? };
            self.retain(now, id);
            return Ok(Opened { callback: self.insert(now, id, record), new: true });
        }
        if self.is_full(&open.user) {
            self.time_out_due_of(now, &open.user);
            if self.is_full(&open.user) {
                return Err(BackplaneError::TooManyCallbacks(self.settings.callback_user_limit));
            }
        }
        let record = self.record(now, via, open)?;
        self.pending.entry(record.user.clone()).or_default().insert(record.turn, id);
        self.open.insert((id.partition().number(), record.turn), id);
        self.deadlines.set(id, record.deadline_ms);
        self.tell(&record.user.clone(), record.message.bytes().clone());
        Ok(Opened { callback: self.insert(now, id, record), new: true })
    }

    /// The most tasks that a person may cancel without closing anything.
    pub(super) fn cancel_user_limit(&self) -> u64 {
        self.settings.cancel_user_limit
    }

    fn is_full(&self, user: &UserId) -> bool {
        self.pending.get(user).map_or(0, BTreeMap::len) as u64 >= self.settings.callback_user_limit
    }

    fn opened_by_key(&mut self, now: u64, open: &OpenCallback) -> Result<Option<Callback>> {
        let Some((key, digest)) = &open.key else { return Ok(None) };
        match self.keys.get(&(open.user.clone(), key.clone())) {
            None => Ok(None),
            Some((kept, _)) if kept != digest => Err(BackplaneError::Conflict),
            Some((_, id)) => Ok(self.read(now, *id)),
        }
    }

    fn record(&mut self, now: u64, via: &NodeId, open: OpenCallback) -> Result<Record> {
        let deadline_ms = now.saturating_add(millis(open.timeout));
        let (deadline, timestamp) = (seconds(deadline_ms), seconds(now));
        let message = format!(r#"{},"deadline":{deadline:.3},"timestamp":{timestamp:.3}}}"#, open.message_head);
        let message = Payload::parse(message.into()).map_err(|error| BackplaneError::Unreadable(error.to_string()))?;
        let key = open.key.map(|(key, digest)| {
            self.keys.insert((open.user.clone(), key.clone()), (digest, open.id));
            key
        });
        self.next_turn += 1;
        Ok(Record {
            user: open.user,
            task: open.task,
            message,
            asked_ms: now,
            deadline_ms,
            on_timeout: open.on_timeout,
            plain: open.plain,
            key,
            turn: self.next_turn,
            end: None,
            asked_via: via.clone(),
            delivered_ms: None,
        })
    }

    fn insert(&mut self, now: u64, id: CallbackId, record: Record) -> Callback {
        let callback = record.callback(id, now);
        self.records.insert(id, record);
        callback
    }

    /// Answers a callback.
    pub(super) fn confirm(&mut self, now: u64, via: &NodeId, confirm: Confirm) -> Confirmed {
        let Confirm { id, by, answer, proceed, judged, must_be_judged, connection } = confirm;
        match (self.records.get(&id), &by) {
            (None, _) => return Confirmed::NotFound,
            (Some(record), Answerer::User(user)) if record.user != *user => return Confirmed::NotFound,
            _ => self.time_out_if_due(now, id),
        }
        let Some(record) = self.records.get(&id) else { return Confirmed::NotFound };
        // What an answer to options means was judged the first time.
        let meant = (record.plain || judged).then_some(proceed);
        match &record.end {
            Some(end) if end.is_repeated_by(&by, &answer, meant) => Confirmed::Accepted(end.decision.clone()),
            Some(end) => Confirmed::AlreadyResolved(end.decision.clone()),
            None if (must_be_judged || !record.plain) && !judged => {
                Confirmed::Judge(Box::new(record.callback(id, now)))
            }
            None => {
                let via = AnsweredVia { connection, node: via.clone() };
                let end = End::answered(id, now, &by, answer, proceed, via);
                let decision = end.decision.clone();
                self.end(now, id, end);
                Confirmed::Accepted(decision)
            }
        }
    }

    /// A callback as it is now; past its deadline it is timed out first.
    pub(super) fn read(&mut self, now: u64, id: CallbackId) -> Option<Callback> {
        self.time_out_if_due(now, id);
        self.records.get(&id).map(|record| record.callback(id, now))
    }

    /// Ends a callback as cancelled by its producer.
    pub(super) fn withdraw(&mut self, now: u64, id: CallbackId) -> Withdrawn {
        match self.read(now, id) {
            None => Withdrawn::NotFound,
            Some(Callback { decision: Some(decision), .. }) => Withdrawn::AlreadyResolved(decision),
            Some(_) => {
                let end = End::cancelled(id, now, &Canceller::Producer);
                let decision = end.decision.clone();
                self.end(now, id, end);
                Withdrawn::Closed(decision)
            }
        }
    }

    /// A user's open callbacks, oldest first.
    pub(super) fn open_callbacks(&mut self, now: u64, user: &UserId) -> Vec<Callback> {
        self.time_out_due_of(now, user);
        self.pending_of(user)
            .into_iter()
            .filter_map(|id| self.records.get(&id).map(|record| record.callback(id, now)))
            .collect()
    }

    /// Notes that a node with a connection of the user has the question; only the first time counts.
    pub(super) fn delivered(&mut self, now: u64, id: CallbackId) {
        if let Some(record) = self.records.get_mut(&id) {
            record.delivered_ms.get_or_insert(now);
        }
    }

    /// A page of everybody's open callbacks.
    pub(super) fn all_open_callbacks(
        &mut self,
        now: u64,
        cursor: Option<&Cursor>,
        most: usize,
    ) -> (Vec<Callback>, Option<Cursor>) {
        self.time_out_due(now);
        // No callback has turn 0, so the default is before the first.
        let after = cursor.and_then(place).unwrap_or_default();
        let mut rest = self.open.range((Bound::Excluded(after), Bound::Unbounded));
        let mut last = None;
        let page: Vec<_> = rest
            .by_ref()
            .take(most.max(1))
            .inspect(|(place, _)| last = Some(**place))
            .filter_map(|(_, id)| self.records.get(id).map(|record| record.callback(*id, now)))
            .collect();
        let more = rest.next().is_some();
        (page, last.filter(|_| more).map(|(partition, turn)| format!("{partition}:{turn}")))
    }

    /// Times out what is due.
    pub(super) fn sweep(&mut self, now: u64) -> Swept {
        let timed_out = self.time_out_due(now);
        Swept { timed_out, open: self.open.len() as u64, ..Swept::default() }
    }

    /// The ids of a user's open callbacks, oldest first.
    pub(super) fn pending_of(&self, user: &UserId) -> Vec<CallbackId> {
        self.pending.get(user).map(|pending| pending.values().copied().collect()).unwrap_or_default()
    }

    /// Which users have open callbacks, in the order of their partitions and names.
    pub(super) fn users_with_open(&self) -> Vec<UserId> {
        let mut users: Vec<_> = self.pending.keys().cloned().collect();
        users.sort_by_cached_key(|user| (countersign_protocol::Partition::of(user), user.clone()));
        users
    }

    /// The record of a callback.
    pub(super) fn get(&self, id: CallbackId) -> Option<&Record> {
        self.records.get(&id)
    }

    fn time_out_due(&mut self, now: u64) -> u64 {
        let mut timed_out = 0;
        while let Some(id) = self.deadlines.pop_due(now) {
            self.time_out_if_due(now, id);
            timed_out += 1;
        }
        timed_out
    }

    /// Times out what is due of one user.
    pub(super) fn time_out_due_of(&mut self, now: u64, user: &UserId) {
        for id in self.pending_of(user) {
            self.time_out_if_due(now, id);
        }
    }

    fn time_out_if_due(&mut self, now: u64, id: CallbackId) {
        if let Some(record) = self.records.get(&id).filter(|record| record.is_due(now)) {
            let end = End::timed_out(id, now, record.on_timeout);
            self.end(now, id, end);
        }
    }

    /// The one place where a callback ends.
    pub(super) fn end(&mut self, now: u64, id: CallbackId, end: End) {
        let Some(record) = self.records.get_mut(&id).filter(|record| record.end.is_none()) else { return };
        let (user, turn) = (record.user.clone(), record.turn);
        let decision = end.decision.clone();
        record.end = Some(end);
        if let Some(pending) = self.pending.get_mut(&user) {
            pending.remove(&turn);
            if pending.is_empty() {
                self.pending.remove(&user);
            }
        }
        self.open.remove(&(id.partition().number(), turn));
        self.deadlines.remove(&id);
        self.retain(now, id);
        let answer = Payload::encode(&decision).expect("a decision is an object with text keys");
        self.outbox.push((Channel::Answer(id), answer.bytes().clone()));
        let resolved = Event::CallbackResolved {
            callback_id: id,
            status: decision.status,
            by: decision.by,
            by_kind: decision.by_kind,
        };
        self.tell(&user, resolved.to_json().into());
    }

    fn retain(&mut self, now: u64, id: CallbackId) {
        self.retentions.set(id, now.saturating_add(millis(self.settings.callback_retention)));
    }

    /// Publishes to a user and, in open mode, to the guests.
    pub(super) fn tell(&mut self, user: &UserId, message: Bytes) {
        self.outbox.push((Channel::User(user.clone()), message.clone()));
        if self.settings.guests {
            self.outbox.push((Channel::Guests, message));
        }
    }

    /// Publishes to one channel.
    pub(super) fn say(&mut self, channel: Channel, message: Bytes) {
        self.outbox.push((channel, message));
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
            && self.pending.is_empty()
            && self.open.is_empty()
            && self.keys.is_empty()
            && self.tombstones.is_empty()
            && self.outbox.is_empty()
            && self.deadlines.len() + self.retentions.len() == 0
    }
}

/// Reads a cursor: the partition and the turn of the last callback of the page before.
fn place(cursor: &Cursor) -> Option<(u16, u64)> {
    let (partition, turn) = cursor.split_once(':')?;
    Some((partition.parse().ok()?, turn.parse().ok()?))
}

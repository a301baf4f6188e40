//! What the addresses remember: numbering, messages, and the results of keyed publications. A pure state machine: no IO,
//! no clock, no chance; the time and a fresh epoch are handed in. A position is never given twice: when the store came back
//! from an older copy ([`Pasts::begin_run`]), every numbering begins anew.

use std::collections::{HashMap, VecDeque};

use countersign_protocol::{Address, IdempotencyKey, Payload, Position};
use sha2::{Digest, Sha256};

use super::{clock::millis, expiry::Expiries};
use crate::{BackplaneError, History, HistoryPolicy, Publication, Result};

/// What all addresses remember.
#[derive(Debug, Clone)]
pub(super) struct Pasts {
    key_retention_ms: u64,
    /// Counts how often the store may have lost what it had acknowledged.
    run: u64,
    addresses: HashMap<Address, Past>,
    keys: HashMap<(Address, IdempotencyKey), Kept>,
    messages_end: Expiries<Address>,
    numberings_end: Expiries<Address>,
    keys_end: Expiries<(Address, IdempotencyKey)>,
}

/// One address's numbering and messages.
#[derive(Debug, Clone)]
struct Past {
    /// Under which it began.
    run: u64,
    epoch: String,
    offset: u64,
    messages: VecDeque<(u64, Payload)>,
    /// What is left of the numbering before, which another run had begun.
    before: Option<(String, VecDeque<(u64, Payload)>)>,
}

/// The result of a keyed publication.
#[derive(Debug, Clone)]
struct Kept {
    digest: [u8; 32],
    position: Option<Position>,
}

/// What is to be done with a publication.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Numbered {
    /// Publish it, with this position.
    New(Option<Position>),
    /// It was published before, with this position.
    Repeat(Option<Position>),
}

impl Pasts {
    pub(super) fn new(key_retention_ms: u64) -> Self {
        Self {
            key_retention_ms,
            run: 0,
            addresses: HashMap::new(),
            keys: HashMap::new(),
            messages_end: Expiries::default(),
            numberings_end: Expiries::default(),
            keys_end: Expiries::default(),
        }
    }

    /// The store is an older copy of itself, which was `now` a moment ago.
    pub(super) fn begin_run(&mut self, now: &Self) {
        self.run = now.run + 1;
    }

    /// Forgets what has expired.
    pub(super) fn purge(&mut self, now: u64) {
        while let Some(address) = self.messages_end.pop_due(now) {
            if let Some(past) = self.addresses.get_mut(&address) {
                past.messages = VecDeque::new();
                if let Some((_, left)) = &mut past.before {
                    *left = VecDeque::new();
                }
            }
        }
        while let Some(address) = self.numberings_end.pop_due(now) {
            self.addresses.remove(&address);
        }
        while let Some(key) = self.keys_end.pop_due(now) {
            self.keys.remove(&key);
        }
    }

    /// Numbers a message and remembers it, as far as its address and its key ask for it.
    pub(super) fn publish(&mut self, now: u64, fresh_epoch: u64, publication: &Publication) -> Result<Numbered> {
        let Publication { address, message, history, key } = publication;
        let Some(key) = key else {
            return Ok(Numbered::New(self.number(now, fresh_epoch, address, message, *history)));
        };
        let digest = Sha256::digest(message.bytes()).into();
        let scope = (address.clone(), key.clone());
        match self.keys.get(&scope) {
            Some(kept) if kept.digest == digest => Ok(Numbered::Repeat(kept.position.clone())),
            Some(_) => Err(BackplaneError::Conflict),
            None => {
                let position = self.number(now, fresh_epoch, address, message, *history);
                self.keys_end.set(scope.clone(), now.saturating_add(self.key_retention_ms));
                self.keys.insert(scope, Kept { digest, position: position.clone() });
                Ok(Numbered::New(position))
            }
        }
    }

    fn number(
        &mut self,
        now: u64,
        fresh_epoch: u64,
        address: &Address,
        message: &Payload,
        policy: HistoryPolicy,
    ) -> Option<Position> {
        if policy.size == 0 {
            return None;
        }
        let past = self.addresses.entry(address.clone()).or_insert_with(|| Past::new(self.run, fresh_epoch));
        past.belong_to(self.run, fresh_epoch);
        past.offset += 1;
        past.messages.push_back((past.offset, message.clone()));
        let surplus = past.messages.len().saturating_sub(policy.size);
        past.messages.drain(..surplus);
        let ttl = millis(policy.ttl);
        self.messages_end.set(address.clone(), now.saturating_add(ttl));
        // The numbering outlives the messages, so that a client that is up to date can be told so, and every result that
        // names a position of it.
        let numbering_ends = now.saturating_add(ttl).saturating_add(ttl.max(self.key_retention_ms));
        self.numberings_end.put_off(address.clone(), numbering_ends);
        Some(past.position())
    }

    /// Where an address is now.
    pub(super) fn position(&mut self, fresh_epoch: u64, address: &Address) -> Position {
        self.current(fresh_epoch, address).map_or_else(Position::beginning, Past::position)
    }

    /// The messages of an address after `since`.
    pub(super) fn history(&mut self, fresh_epoch: u64, address: &Address, since: &Position, most: usize) -> History {
        let from_beginning = *since == Position::beginning();
        let Some(past) = self.current(fresh_epoch, address) else {
            let position = Position::beginning();
            return History { complete: from_beginning, position, epoch: String::new(), messages: Vec::new() };
        };
        let after = |messages: &VecDeque<(u64, Payload)>, after: u64| -> Vec<_> {
            messages.iter().filter(|(offset, _)| *offset > after).take(most).cloned().collect()
        };
        if let Some((epoch, left)) = &past.before
            && (since.epoch == *epoch || from_beginning)
        {
            let messages = after(left, since.offset);
            return History { position: past.position(), epoch: epoch.clone(), messages, complete: false };
        }
        let current = since.epoch == past.epoch || from_beginning;
        let since = if current { since.offset } else { 0 };
        let messages = after(&past.messages, since);
        let complete = current && past.offset.checked_sub(since) == Some(messages.len() as u64);
        History { position: past.position(), epoch: past.epoch.clone(), messages, complete }
    }

    /// An address's past, of this run.
    fn current(&mut self, fresh_epoch: u64, address: &Address) -> Option<&Past> {
        let past = self.addresses.get_mut(address)?;
        past.belong_to(self.run, fresh_epoch);
        Some(past)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.addresses.is_empty()
            && self.keys.is_empty()
            && self.messages_end.len() + self.numberings_end.len() + self.keys_end.len() == 0
    }
}

impl Past {
    fn new(run: u64, fresh_epoch: u64) -> Self {
        let epoch = format!("{fresh_epoch:016x}");
        Self { run, epoch, offset: 0, messages: VecDeque::new(), before: None }
    }

    /// A numbering of another run may go on where it was lost: a new one begins.
    fn belong_to(&mut self, run: u64, fresh_epoch: u64) {
        if self.run != run {
            let old = std::mem::replace(self, Self::new(run, fresh_epoch));
            self.before = Some((old.epoch, old.messages));
        }
    }

    fn position(&self) -> Position {
        Position::new(self.epoch.clone(), self.offset)
    }
}

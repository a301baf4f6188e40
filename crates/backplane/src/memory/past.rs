//! What the addresses remember: numbering, messages, and the results of keyed publications. A pure state machine: no IO,
//! no clock, no chance; the time and a fresh epoch are handed in. A position is never given twice within an epoch.

use std::collections::{HashMap, VecDeque};

use countersign_protocol::{Address, IdempotencyKey, Payload, Position};
use sha2::{Digest, Sha256};

use super::{clock::millis, expiry::Expiries};
use crate::{BackplaneError, History, HistoryPolicy, Publication, Result};

/// What all addresses remember.
#[derive(Debug)]
pub(super) struct Pasts {
    key_retention_ms: u64,
    addresses: HashMap<Address, Past>,
    keys: HashMap<(Address, IdempotencyKey), Kept>,
    messages_end: Expiries<Address>,
    numberings_end: Expiries<Address>,
    keys_end: Expiries<(Address, IdempotencyKey)>,
}

/// One address's numbering and messages.
#[derive(Debug)]
struct Past {
    epoch: String,
    offset: u64,
    messages: VecDeque<(u64, Payload)>,
}

/// The result of a keyed publication.
#[derive(Debug)]
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
            addresses: HashMap::new(),
            keys: HashMap::new(),
            messages_end: Expiries::default(),
            numberings_end: Expiries::default(),
            keys_end: Expiries::default(),
        }
    }

    /// Forgets what has expired.
    pub(super) fn purge(&mut self, now: u64) {
        while let Some(address) = self.messages_end.pop_due(now) {
            if let Some(past) = self.addresses.get_mut(&address) {
                past.messages = VecDeque::new();
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
        let past = self.addresses.entry(address.clone()).or_insert_with(|| Past {
            epoch: format!("{fresh_epoch:016x}"),
            offset: 0,
            messages: VecDeque::new(),
        });
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
    pub(super) fn position(&self, address: &Address) -> Position {
        self.addresses.get(address).map_or_else(Position::beginning, Past::position)
    }

    /// The messages of an address after `since`.
    pub(super) fn history(&self, address: &Address, since: &Position, most: usize) -> History {
        let Some(past) = self.addresses.get(address) else {
            let position = Position::beginning();
            return History { complete: *since == position, position, messages: Vec::new() };
        };
        let current = since.epoch == past.epoch || *since == Position::beginning();
        let after = if current { since.offset } else { 0 };
        let messages: Vec<_> = past.messages.iter().filter(|(offset, _)| *offset > after).take(most).cloned().collect();
        let complete = current && past.offset.checked_sub(after) == Some(messages.len() as u64);
        History { position: past.position(), messages, complete }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.addresses.is_empty()
            && self.keys.is_empty()
            && self.messages_end.len() + self.numberings_end.len() + self.keys_end.len() == 0
    }
}

impl Past {
    fn position(&self) -> Position {
        Position::new(self.epoch.clone(), self.offset)
    }
}

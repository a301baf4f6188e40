//! Receipts as a pure state machine: the time is handed in. A receipt ends with its retention, and so does its key.

use std::collections::HashMap;

use async_trait::async_trait;
use countersign_protocol::{ConnectionId, IdempotencyKey, MessageId, UserId};

use super::{
    MemoryNode,
    clock::{millis, seconds},
    expiry::Expiries,
    store::Store,
};
use crate::{
    BackplaneError, Channel, Result,
    callbacks::Answerer,
    receipts::{Ack, MOST_ACKS, OpenReceipt, Receipt, Receipts},
};

/// All receipts.
#[derive(Debug, Default)]
pub(super) struct ReceiptBook {
    entries: HashMap<MessageId, Entry>,
    /// Results of keyed messages, each with the digest of the message; they go with their receipt.
    keys: HashMap<(UserId, IdempotencyKey), (String, MessageId)>,
    ends: Expiries<MessageId>,
}

#[derive(Debug)]
struct Entry {
    receipt: Receipt,
    key: Option<IdempotencyKey>,
}

impl ReceiptBook {
    fn open(&mut self, now: u64, open: OpenReceipt) -> Result<(Receipt, bool)> {
        if let Some(entry) = self.entries.get(&open.id) {
            return Ok((entry.receipt.clone(), false));
        }
        if let Some((key, digest)) = &open.key
            && let Some((first, id)) = self.keys.get(&(open.user.clone(), key.clone()))
        {
            if first != digest {
                return Err(BackplaneError::Conflict);
            }
            if let Some(entry) = self.entries.get(id) {
                return Ok((entry.receipt.clone(), false));
            }
        }
        let OpenReceipt { id, user, key, retention } = open;
        let receipt = Receipt { id, user: user.clone(), queued_at: seconds(now), delivered_at: None, acks: Vec::new() };
        let key = key.map(|(key, digest)| {
            self.keys.insert((user, key.clone()), (digest, id));
            key
        });
        self.ends.set(id, now.saturating_add(millis(retention).max(1)));
        self.entries.insert(id, Entry { receipt: receipt.clone(), key });
        Ok((receipt, true))
    }

    fn delivered(&mut self, now: u64, id: MessageId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.receipt.delivered_at.get_or_insert(seconds(now));
        }
    }

    /// Whether there is such a receipt, and whether that is news to those who wait.
    fn ack(&mut self, now: u64, id: MessageId, by: &Answerer, connection: &ConnectionId) -> (bool, bool) {
        let finds = |entry: &&mut Entry| match by {
            Answerer::User(user) => *user == entry.receipt.user,
            Answerer::Guest => true,
        };
        let Some(Entry { receipt, .. }) = self.entries.get_mut(&id).filter(finds) else { return (false, false) };
        if receipt.acks.len() >= MOST_ACKS || receipt.acks.iter().any(|ack| ack.connection == *connection) {
            return (true, false);
        }
        receipt.delivered_at.get_or_insert(seconds(now));
        receipt.acks.push(Ack {
            by: by.as_str().to_owned(),
            by_kind: Some(by.kind()),
            connection: connection.clone(),
            at: seconds(now),
        });
        (true, true)
    }

    /// Forgets what has expired.
    pub(super) fn purge(&mut self, now: u64) {
        while let Some(id) = self.ends.pop_due(now) {
            if let Some(Entry { receipt, key: Some(key) }) = self.entries.remove(&id) {
                self.keys.remove(&(receipt.user, key));
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.keys.is_empty() && self.ends.len() == 0
    }
}

impl Store {
    fn ack(&mut self, now: u64, id: MessageId, by: &Answerer, connection: &ConnectionId) -> bool {
        let (found, news) = self.receipts.ack(now, id, by, connection);
        if news {
            let told = format!("{{\"message_id\":\"{id}\"}}");
            self.deliver(&Channel::Ack(id), &told.into());
        }
        found
    }
}

#[async_trait]
impl Receipts for MemoryNode {
    async fn open_receipt(&self, open: OpenReceipt) -> Result<(Receipt, bool)> {
        self.step(|store, now| store.receipts.open(now, open))?
    }

    async fn delivered(&self, id: MessageId) -> Result<()> {
        self.step(|store, now| store.receipts.delivered(now, id))
    }

    async fn ack(&self, id: MessageId, by: &Answerer, connection: &ConnectionId) -> Result<bool> {
        self.step(|store, now| store.ack(now, id, by, connection))
    }

    async fn receipt(&self, id: MessageId) -> Result<Option<Receipt>> {
        self.step(|store, _| store.receipts.entries.get(&id).map(|entry| entry.receipt.clone()))
    }
}

//! Publishing, positions and history. The publishing node hears its own message like every other one: there is no
//! second path.

use std::time::Duration;

use async_trait::async_trait;
use countersign_protocol::{Address, IdempotencyKey, Payload, Position, producer::Published};

use crate::Result;

/// How much of an address's past is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryPolicy {
    /// Messages; 0 keeps none, and then there are no positions.
    pub size: usize,
    /// How long after the last message.
    pub ttl: Duration,
}

impl HistoryPolicy {
    /// No history.
    pub const NONE: Self = Self { size: 0, ttl: Duration::ZERO };
}

/// A message to be published.
#[derive(Debug, Clone)]
pub struct Publication {
    /// Where it goes.
    pub address: Address,
    /// What goes there.
    pub message: Payload,
    /// How much of the address's past is kept.
    pub history: HistoryPolicy,
    /// The producer's name of this message; its scope is (address, key).
    pub key: Option<IdempotencyKey>,
}

/// What an address remembers.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    /// The newest message, whether it is still kept or not.
    pub position: Position,
    /// The numbering of `messages`: that of `position`, or the one of `since`, whose end is not known because the store may
    /// have lost it (it came back from an older copy, or another server took over): then a new numbering has begun, and
    /// `messages` are what is left.
    pub epoch: String,
    /// Messages after `since`, oldest first.
    pub messages: Vec<(u64, Payload)>,
    /// Whether `messages` holds every message after `since`: its epoch is current and nothing between is missing.
    pub complete: bool,
}

/// Publishing and remembering. A store that may have lost what it had acknowledged begins every numbering anew, so that no
/// position is ever given twice.
#[async_trait]
pub trait Messages: Send + Sync {
    /// Publishes one message. With history or a key it is one atomic step: idempotency result, epoch, offset, history,
    /// publication. A repeat with the same key and message publishes nothing and returns the first position.
    ///
    /// # Errors
    /// `Unavailable`; `Conflict` for a key that came before with another message.
    async fn publish(&self, publication: Publication) -> Result<Published>;

    /// Publishes many, in order, in as few round trips as possible; each has its own result.
    async fn publish_all(&self, publications: Vec<Publication>) -> Vec<Result<Published>>;

    /// Where each address is now ([`Position::beginning`] when it has no history).
    ///
    /// # Errors
    /// `Unavailable`.
    async fn positions(&self, addresses: &[Address]) -> Result<Vec<Position>>;

    /// The messages of an address after `since`, at most `most` of them (not complete when there are more).
    ///
    /// # Errors
    /// `Unavailable`.
    async fn history(&self, address: &Address, since: &Position, most: usize) -> Result<History>;
}

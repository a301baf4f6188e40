//! Receipts of messages that want to be acknowledged: `queued`, then `delivered` when a node with a connection of the user
//! has heard it, then `acked` when a device says so. A receipt is a record: any node may write it and any may read it.

use std::time::Duration;

use async_trait::async_trait;
use countersign_protocol::{ByKind, ConnectionId, IdempotencyKey, MessageId, UserId};

use crate::{Result, callbacks::Answerer};

/// The most acknowledgements that a receipt keeps; later ones are taken and forgotten.
pub const MOST_ACKS: usize = 100;

/// A receipt to be opened.
#[derive(Debug, Clone)]
pub struct OpenReceipt {
    /// Minted by the gateway; a repeat of the step with the same id is the same receipt.
    pub id: MessageId,
    /// Who is to acknowledge.
    pub user: UserId,
    /// The producer's name of the message, scope (user, key), and a digest of it.
    pub key: Option<(IdempotencyKey, String)>,
    /// How long it can be read.
    pub retention: Duration,
}

/// A receipt as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct Receipt {
    /// Of which message.
    pub id: MessageId,
    /// Who is to acknowledge.
    pub user: UserId,
    /// When it was opened, in Unix seconds by the backplane's clock.
    pub queued_at: f64,
    /// When a node with a connection of the user first heard it.
    pub delivered_at: Option<f64>,
    /// Who acknowledged, in order; a connection once.
    pub acks: Vec<Ack>,
}

/// One acknowledgement.
#[derive(Debug, Clone, PartialEq)]
pub struct Ack {
    /// The user's id, or `guest`.
    pub by: String,
    /// Which of the two; `None` where an older version has not recorded it.
    pub by_kind: Option<ByKind>,
    /// From which connection.
    pub connection: ConnectionId,
    /// When, in Unix seconds by the backplane's clock.
    pub at: f64,
}

/// Receipts.
#[async_trait]
pub trait Receipts: Send + Sync {
    /// Opens a receipt, or finds the one that the same id or key opened before, and whether it is new.
    ///
    /// # Errors
    /// `Unavailable`: repeat with the same id. `Conflict`: the key came before with another digest.
    async fn open_receipt(&self, open: OpenReceipt) -> Result<(Receipt, bool)>;

    /// Notes that the message was delivered; only the first time counts.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn delivered(&self, id: MessageId) -> Result<()>;

    /// Acknowledges, and publishes `{"message_id"}` on [`crate::Channel::Ack`] for those who wait; an acknowledged message was
    /// delivered. Whether there is such a receipt
    /// of this user's (a guest finds every one).
    ///
    /// # Errors
    /// `Unavailable`: repeat.
    async fn ack(&self, id: MessageId, by: &Answerer, connection: &ConnectionId) -> Result<bool>;

    /// A receipt as it is now.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn receipt(&self, id: MessageId) -> Result<Option<Receipt>>;
}

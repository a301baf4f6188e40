//! The durable door: a stream that producers append to while nodes come and go. One node at a time reads it, in order, under a
//! lease; what it has done is deleted, what it left undone the next holder does again.

use std::sync::Arc;

use async_trait::async_trait;

use crate::Result;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxEntry {
    /// The stream's id of it, also its idempotency key when it names none.
    pub id: String,
    /// Its fields, in order; none when it is too long.
    pub fields: Vec<(String, Vec<u8>)>,
    /// The bytes of its names and values.
    pub length: usize,
}

/// What a look into the inbox brought.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Taken {
    /// The oldest entries that are not done, oldest first.
    pub entries: Vec<InboxEntry>,
    /// How many there are in all, these included.
    pub waiting: u64,
}

/// The stream. Only Redis has one: without it there is no door of Redis either.
#[async_trait]
pub trait Inbox: Send + Sync {
    /// Takes or renews the lease (5 s). Whether this node holds it now.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn hold(&self) -> Result<bool>;

    /// Gives the lease back, so that another node goes on at once.
    ///
    /// # Errors
    /// `Unavailable`; the lease then runs out.
    async fn release(&self) -> Result<()>;

    /// The next entries, at most `most`: first those that an earlier holder left undone, then new ones; waits about a second for
    /// one. Entries come again until they are done. One that is longer than `longest` bytes comes without its fields. Renews
    /// the lease; whoever does not hold it any more takes nothing. Cancellation safe.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn next(&self, most: usize, longest: usize) -> Result<Taken>;

    /// These are done: acknowledges and deletes them.
    ///
    /// # Errors
    /// `Unavailable`: they may come again.
    async fn done(&self, ids: &[String]) -> Result<()>;

    /// This one is wrong: moves it to the dead-letter stream with the reason, unless somebody has done so before.
    ///
    /// # Errors
    /// `Unavailable`: it may come again.
    async fn bury(&self, id: &str, reason: &str) -> Result<()>;
}

/// The doors that a backplane itself has for producers.
pub trait Doors {
    /// The inbox, where there is one; with it come reply lists.
    fn inbox(&self) -> Option<Arc<dyn Inbox>>;
}

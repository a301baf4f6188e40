//! The durable door: a stream that producers append to while nodes come and go. One node at a time reads it, in order, under a
//! lease; what it has done is deleted, what it left undone the next holder does again.

use std::sync::Arc;

use async_trait::async_trait;
use countersign_protocol::ReplyName;

use crate::{Publication, Result};

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxEntry {
    /// The stream's id of it.
    pub id: String,
    /// Its fields, in order; none when it is too long.
    pub fields: Vec<(String, Vec<u8>)>,
    /// When it is too long: the beginnings of its first fields.
    pub beginnings: Vec<(String, Vec<u8>)>,
    /// The bytes of its names and values.
    pub length: usize,
}

/// A message that an entry wants published.
#[derive(Debug, Clone)]
pub struct Letter {
    /// The entry's.
    pub id: String,
    /// Its key is the producer's; without one the entry itself is what makes a repeat harmless.
    pub publication: Publication,
}

/// What became of letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// So many of them, counted from the first, are done: published, now or under their key before, and deleted. At least one.
    Done(usize),
    /// None, because they are not what the inbox begins with (any more), or this node does not hold the lease: look again.
    Moved,
}

/// What a look into the inbox brought.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Taken {
    /// The oldest entries that are not done, oldest first.
    pub entries: Vec<InboxEntry>,
    /// How many there are in all, these included.
    pub waiting: u64,
    /// Which stream they are of: one that was deleted and begun anew is another one, and gives their ids to others.
    pub stream: String,
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

    /// The oldest entries, at most `most`; waits about a second for one. Entries come again until they are done. One that is longer than `longest` bytes comes without its fields. Renews
    /// the lease; whoever does not hold it any more takes nothing. Cancellation safe.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn next(&self, most: usize, longest: usize) -> Result<Taken>;

    /// The same of those that come after an entry, as they are: does not wait.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn after(&self, id: &str, most: usize, longest: usize) -> Result<Taken>;

    /// Publishes what the oldest entries of `stream` say, in order, and deletes them. Each is published once, whoever repeats
    /// this, and whoever else has the same entries in hand.
    ///
    /// # Errors
    /// Of the first letter, when none is done: `Conflict` for a key that came before with another message, `Unreadable`, `Full`,
    /// `Unavailable`.
    async fn publish(&self, stream: &str, letters: &[Letter]) -> Result<Progress>;

    /// These are done: deletes them.
    ///
    /// # Errors
    /// `Unavailable`: they may come again.
    async fn done(&self, ids: &[String]) -> Result<()>;

    /// Pushes a reply that is no decision to a reply list, at least once. A list that is none is passed over.
    ///
    /// # Errors
    /// `Unavailable`, `Full`: it may not have been pushed.
    async fn reply(&self, list: &ReplyName, reply: &[u8]) -> Result<()>;

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

//! What producers published and what every reader read, as plain data, while it is being written.
//!
//! Messages are numbered per address, from 1, and a producer sends the next one only when this one was accepted: so the order
//! of the numbers is the order in which the gateway promised to deliver. Everybody writes down what happened and nothing
//! that it concluded; [`delivery`](crate::delivery) draws the conclusions. Times are Unix seconds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::history::now;

/// A position as a message carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Of the history.
    pub epoch: Arc<str>,
    /// Within it.
    pub offset: u64,
}

/// One message, from the producer's side.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// When it was sent first.
    pub sent: f64,
    /// When the gateway said yes; `None`: it never did.
    pub accepted: Option<f64>,
    /// How often it was sent.
    pub attempts: u32,
}

/// What happened to a reader, in its order.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// It has a connection to this node.
    Connected {
        /// When.
        at: f64,
        /// Which.
        node: String,
    },
    /// It has none any more.
    Cut {
        /// When.
        at: f64,
        /// 1006 for a cut without a word.
        code: u16,
    },
    /// From now on it is owed everything that is accepted for this address.
    Joined(String),
    /// A message.
    Read {
        /// When.
        at: f64,
        /// Of which address.
        address: String,
        /// Which one.
        number: u64,
        /// Where it said that it was.
        place: Option<Place>,
    },
    /// The gateway said that something of this address is missing here: `gap` or `recovered: false`.
    Told {
        /// When.
        at: f64,
        /// Of which address.
        address: String,
        /// In which epoch it goes on, if that was said.
        epoch: Option<Arc<str>>,
    },
}

/// Everything, when it is over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Account {
    /// By address, the messages 1, 2, ….
    pub published: BTreeMap<String, Vec<Published>>,
    /// By the readers' names.
    pub read: BTreeMap<String, Vec<Line>>,
    /// When the fault began.
    pub began: Option<f64>,
    /// When it was over.
    pub ended: Option<f64>,
    /// When nodes were not ready, and again: `(node, ready, at)`.
    pub readiness: Vec<(String, bool, f64)>,
}

/// An [`Account`] that is being written; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<Mutex<Account>>);

impl Ledger {
    /// What has been written so far.
    pub fn account(&self) -> Account {
        self.open().clone()
    }

    /// A message is about to be sent for the first time; its number.
    pub(crate) fn sends(&self, address: &str) -> u64 {
        let mut account = self.open();
        let messages = account.published.entry(address.to_owned()).or_default();
        messages.push(Published { sent: now(), accepted: None, attempts: 0 });
        number_of(messages.len())
    }

    /// It was sent (again).
    pub(crate) fn attempted(&self, address: &str, number: u64) {
        self.message(address, number, |message| message.attempts += 1);
    }

    /// The gateway said yes.
    pub(crate) fn accepted(&self, address: &str, number: u64) {
        self.message(address, number, |message| message.accepted = Some(now()));
    }

    /// Something happened to a reader.
    pub(crate) fn line(&self, reader: &str, line: Line) {
        let mut account = self.open();
        match account.read.get_mut(reader) {
            Some(lines) => lines.push(line),
            None => drop(account.read.insert(reader.to_owned(), vec![line])),
        }
    }

    /// A fault begins.
    pub(crate) fn fault_begins(&self) {
        self.open().began = Some(now());
    }

    /// It is over.
    pub(crate) fn fault_ends(&self) {
        self.open().ended = Some(now());
    }

    /// A node became ready, or is not any more.
    pub(crate) fn ready(&self, node: &str, ready: bool) {
        self.open().readiness.push((node.to_owned(), ready, now()));
    }

    /// For a look without a copy.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&Account) -> T) -> T {
        look(&self.open())
    }

    fn message(&self, address: &str, number: u64, change: impl FnOnce(&mut Published)) {
        let index = usize::try_from(number - 1).expect("numbers begin at 1 and are few");
        let mut account = self.open();
        change(account.published.get_mut(address).and_then(|all| all.get_mut(index)).expect("it was sent"));
    }

    fn open(&self) -> MutexGuard<'_, Account> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number of the last of so many messages.
pub(crate) fn number_of(count: usize) -> u64 {
    u64::try_from(count).expect("a run has few messages")
}

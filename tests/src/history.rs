//! What the people and the callers of a scenario saw of its questions, as plain data.
//!
//! Every participant writes down what it was told, and nothing that it concluded; [`audit`](crate::audit) draws the
//! conclusions. A [`Notebook`] is the history while it is being written: participants share it, and a test may look into it.
//! All times are Unix seconds: the tests, the nodes and Redis share one machine and so one clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// Now, in Unix seconds.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs_f64()
}

/// What a decision says, as far as two of them can differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ending {
    /// `confirmed`, `declined`, `timed_out` or `cancelled`.
    pub status: String,
    /// Whether to go on; `None` is a failure.
    pub proceed: Option<bool>,
    /// Names the very answer: in these scenarios every answer has a feedback of its own.
    pub feedback: Option<String>,
    /// Who decided.
    pub by: Option<String>,
}

impl Ending {
    /// Of a decision as it comes from the gateway.
    pub fn of(decision: &Value) -> Self {
        let text = |field: &str| decision[field].as_str().map(str::to_owned);
        Self {
            status: text("status").unwrap_or_default(),
            proceed: decision["proceed"].as_bool(),
            feedback: text("feedback"),
            by: text("by"),
        }
    }

    /// A user's yes or no with this feedback.
    pub fn answered(user: &str, proceed: bool, feedback: &str) -> Self {
        Self {
            status: if proceed { "confirmed" } else { "declined" }.to_owned(),
            proceed: Some(proceed),
            feedback: Some(feedback.to_owned()),
            by: Some(user.to_owned()),
        }
    }

    /// A cancellation or a withdrawal, `by` a user or `producer`.
    pub fn cancelled(by: &str) -> Self {
        Self { status: "cancelled".to_owned(), proceed: Some(false), feedback: None, by: Some(by.to_owned()) }
    }

    /// The deadline's decision.
    pub fn timed_out(proceed: Option<bool>) -> Self {
        Self { status: "timed_out".to_owned(), proceed, feedback: None, by: None }
    }
}

/// A question that somebody put: one key, however often it was sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// Its idempotency key.
    pub key: String,
    /// How many callers wait for its answer until they have it.
    pub callers: usize,
    /// What the deadline would decide.
    pub on_timeout: Option<bool>,
}

/// A question shown on a connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// On which connection.
    pub connection: u64,
    /// Which question.
    pub key: String,
    /// Under which id.
    pub callback: String,
    /// Its deadline.
    pub deadline: f64,
}

/// An attempt to end a callback: an answer, a cancellation, a withdrawal.
#[derive(Clone, Debug, PartialEq)]
pub struct Bid {
    /// Which callback.
    pub callback: String,
    /// How it ends if this attempt decides.
    pub ending: Ending,
    /// What the gateway said to it.
    pub outcome: Outcome,
}

/// What an attempt to end a callback came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It decided.
    Won,
    /// Something else had, namely this.
    Lost(Ending),
    /// Something else had, and this door does not say what (a task's cancellation closed no callbacks).
    Late,
    /// Refused for another reason.
    Refused(String),
    /// Nobody said: the connection or Redis was away.
    Unknown,
}

/// One request that waited for a decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Wait {
    /// For the answer to which question.
    pub key: String,
    /// Which of its callers.
    pub caller: usize,
    /// Where it was sent.
    pub door: String,
    /// Whether it put the question (again, with its key) before it waited; else it waited by the callback's id.
    pub put: bool,
    /// When it was sent.
    pub started: f64,
    /// When it was answered.
    pub ended: f64,
    /// With what.
    pub end: End,
}

/// How a wait ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// With the decision.
    Decided {
        /// Of which callback.
        callback: String,
        /// Which.
        ending: Ending,
        /// When it was decided.
        at: f64,
    },
    /// Still open, ask again.
    Pending {
        /// Which callback.
        callback: String,
    },
    /// Not known, ask again.
    Unknown,
    /// Another status.
    Refused(u16),
    /// No reply: the connection was refused or cut, or the caller gave the request up.
    Cut,
}

/// All that was seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// What was asked.
    pub questions: Vec<Question>,
    /// What devices were shown.
    pub shown: Vec<Shown>,
    /// The lists of open callbacks that devices got: connection, ids.
    pub lists: Vec<(u64, BTreeSet<String>)>,
    /// The ends that devices heard of: connection, id.
    pub told: Vec<(u64, String)>,
    /// The callbacks that each connection shows, if it does as the protocol says: a question adds one, its end takes it
    /// away, and a list takes away every other.
    pub screens: BTreeMap<u64, BTreeSet<String>>,
    /// Connections that lasted to the end.
    pub lasting: BTreeSet<u64>,
    /// What people and producers tried.
    pub bids: Vec<Bid>,
    /// What callers got.
    pub waits: Vec<Wait>,
    /// Since when, and how long, putting a question may take before it is a wait, in seconds: Redis is away.
    pub putting: Option<(f64, f64)>,
    /// When whoever is behind a door stood still: door, from, to.
    pub stopped: Vec<(String, f64, f64)>,
    /// How late this machine itself was at its worst, in seconds: no process can be expected to be quicker.
    pub machine_lag: f64,
}

/// A history that is being written. Clones write into the same one.
#[derive(Clone, Debug, Default)]
pub struct Notebook(Arc<Mutex<Pages>>);

#[derive(Debug, Default)]
struct Pages {
    history: History,
    connections: u64,
}

/// Where a bid was written down, for its outcome.
#[derive(Clone, Copy, Debug)]
pub struct BidAt(usize);

impl Notebook {
    /// A question is about to be put.
    pub fn asks(&self, question: Question) {
        self.lock().history.questions.push(question);
    }

    /// A connection begins; its number. It counts as lasting until [`Self::ended`].
    pub fn connected(&self) -> u64 {
        let mut pages = self.lock();
        pages.connections += 1;
        let connection = pages.connections;
        pages.history.lasting.insert(connection);
        connection
    }

    /// A connection is over.
    pub fn ended(&self, connection: u64) {
        self.lock().history.lasting.remove(&connection);
    }

    /// A message came on a connection; what has nothing to do with questions is passed over. The question's key is
    /// expected as its task id.
    pub fn heard(&self, connection: u64, message: &Value) {
        let history = &mut self.lock().history;
        let callback = || message["callback_id"].as_str().unwrap_or_default().to_owned();
        let screen = history.screens.entry(connection).or_default();
        match message["type"].as_str() {
            Some("task_step_result") => drop(screen.insert(callback())),
            Some("callback_resolved") => drop(screen.remove(&callback())),
            Some("open_callbacks") => {
                let ids: Vec<_> = message["callback_ids"].as_array().into_iter().flatten().collect();
                screen.retain(|shown| ids.iter().any(|id| *id == shown));
            }
            _ => {}
        }
        match message["type"].as_str() {
            Some("task_step_result") => history.shown.push(Shown {
                connection,
                key: message["task_id"].as_str().unwrap_or_default().to_owned(),
                callback: callback(),
                deadline: message["deadline"].as_f64().unwrap_or_default(),
            }),
            Some("callback_resolved") => history.told.push((connection, callback())),
            Some("open_callbacks") => {
                let ids = message["callback_ids"].as_array().into_iter().flatten();
                history.lists.push((connection, ids.filter_map(Value::as_str).map(str::to_owned).collect()));
            }
            _ => {}
        }
    }

    /// Somebody tries to end a callback; nothing is known of it yet.
    pub fn bids(&self, callback: &str, ending: Ending) -> BidAt {
        let bids = &mut self.lock().history.bids;
        bids.push(Bid { callback: callback.to_owned(), ending, outcome: Outcome::Unknown });
        BidAt(bids.len() - 1)
    }

    /// What the attempt came to.
    pub fn outcome(&self, bid: BidAt, outcome: Outcome) {
        self.lock().history.bids[bid.0].outcome = outcome;
    }

    /// A device's attempt came to this verdict, `confirmation_accepted` or `confirmation_rejected`.
    pub fn verdict(&self, bid: BidAt, verdict: &Value) {
        self.outcome(bid, Outcome::of(verdict));
    }

    /// A request was answered, or not.
    pub fn waited(&self, wait: Wait) {
        self.lock().history.waits.push(wait);
    }

    /// A node stood still (SIGSTOP) since `from`, and goes on now.
    pub fn stood_still(&self, door: &str, from: f64) {
        self.lock().history.stopped.push((door.to_owned(), from, now()));
    }

    /// Redis will be away: putting a question may take so many seconds from now on, as long as a node repeats it.
    pub fn putting_may_take(&self, seconds: f64) {
        self.lock().history.putting = Some((now(), seconds));
    }

    /// This machine was late by so many seconds.
    pub fn lagged(&self, seconds: f64) {
        let history = &mut self.lock().history;
        history.machine_lag = history.machine_lag.max(seconds);
    }

    /// What was written so far.
    pub fn read<T>(&self, read: impl FnOnce(&History) -> T) -> T {
        read(&self.lock().history)
    }

    /// A copy of all of it.
    pub fn history(&self) -> History {
        self.read(History::clone)
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outcome {
    fn of(verdict: &Value) -> Self {
        match (verdict["type"].as_str(), verdict["reason"].as_str()) {
            (Some("confirmation_accepted"), _) => Self::Won,
            (_, Some("already_resolved")) if verdict["decision"].is_object() => {
                Self::Lost(Ending::of(&verdict["decision"]))
            }
            (_, Some("unavailable")) => Self::Unknown,
            (_, reason) => Self::Refused(reason.unwrap_or("no reason").to_owned()),
        }
    }
}

impl End {
    /// What a reply of the gateway says. `status` 0 is no reply.
    pub fn of(status: u16, body: &Value) -> Self {
        let callback = || body["callback_id"].as_str().unwrap_or_default().to_owned();
        match status {
            0 => Self::Cut,
            200 => Self::Decided {
                callback: callback(),
                ending: Ending::of(body),
                at: body["at"].as_f64().unwrap_or_default(),
            },
            202 => Self::Pending { callback: callback() },
            502..=504 => Self::Unknown,
            other => Self::Refused(other),
        }
    }
}

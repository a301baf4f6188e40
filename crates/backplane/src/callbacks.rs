//! The life cycle of callbacks. Each step is atomic and looks at the clock first: whoever touches a callback past its
//! deadline times it out. One decision ends it, for ever; the loser of a race is told who won.

use std::time::Duration;

use async_trait::async_trait;
use countersign_protocol::{
    Answer, ByKind, CallbackId, ConnectionId, Decision, IdempotencyKey, NodeId, OnTimeout, Payload, ReplyName, Status,
    TaskId, UserId,
};

use crate::Result;

/// A question to be put.
#[derive(Debug, Clone)]
pub struct OpenCallback {
    /// Minted by the gateway; a repeat of the step with the same id is the same question.
    pub id: CallbackId,
    /// Whom.
    pub user: UserId,
    /// About which task.
    pub task: TaskId,
    /// The message for clients without its closing `,"deadline":…,"timestamp":…}`, which the step writes by its own clock
    /// (Unix seconds with three decimals).
    pub message_head: String,
    /// From now to the deadline.
    pub timeout: Duration,
    /// What the deadline decides.
    pub on_timeout: OnTimeout,
    /// Whether a bare yes or no answers it; if not, [`Confirmed::Judge`] comes before a decision.
    pub plain: bool,
    /// The producer's name of the request, scope (user, key), and a digest of its body.
    pub key: Option<(IdempotencyKey, String)>,
    /// The reply list to which the decision is pushed too; only where there is an inbox.
    pub reply_to: Option<ReplyName>,
}

/// A callback as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct Callback {
    /// Which.
    pub id: CallbackId,
    /// Whom it asks.
    pub user: UserId,
    /// About which task.
    pub task: TaskId,
    /// The message that clients see.
    pub message: Payload,
    /// When it was asked, in Unix seconds by the backplane's clock.
    pub asked_at: f64,
    /// When it times out, in Unix seconds by the backplane's clock.
    pub deadline: f64,
    /// From the read to the deadline; zero when it has passed.
    pub remaining: Duration,
    /// How it ended, if it has.
    pub decision: Option<Decision>,
    /// What it went through.
    pub trail: Trail,
}

/// What a callback went through, for whoever has to account for a decision later.
#[derive(Debug, Clone, PartialEq)]
pub struct Trail {
    /// The node through which it was asked.
    pub asked_via: NodeId,
    /// When a node with a connection of the user first had the question, in Unix seconds.
    pub first_delivered_at: Option<f64>,
    /// Through what a person answered, if one has.
    pub answered_via: Option<AnsweredVia>,
}

/// The way of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct AnsweredVia {
    /// The person's connection; `None` for an answer that came without one.
    pub connection: Option<ConnectionId>,
    /// The node that it was on.
    pub node: NodeId,
}

impl Callback {
    /// `pending`, or how it ended.
    pub fn status(&self) -> Status {
        self.decision.as_ref().map_or(Status::Pending, |decision| decision.status)
    }
}

/// Of opening.
#[derive(Debug, Clone, PartialEq)]
pub struct Opened {
    /// The new callback, or the one that the same id or key opened before.
    pub callback: Callback,
    /// Whether this step made it.
    pub new: bool,
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answerer {
    /// A user; only the addressed one finds the callback.
    User(UserId),
    /// A guest of open mode, who finds every callback.
    Guest,
}

impl Answerer {
    /// The `by` of its answers.
    pub fn as_str(&self) -> &str {
        match self {
            Self::User(id) => id.as_str(),
            Self::Guest => GUEST,
        }
    }

    /// What kind of party that is.
    pub fn kind(&self) -> ByKind {
        match self {
            Self::User(_) => ByKind::User,
            Self::Guest => ByKind::Guest,
        }
    }
}

/// The `by` of a guest.
const GUEST: &str = "guest";

/// A person's answer.
#[derive(Debug, Clone)]
pub struct Confirm {
    /// To which callback.
    pub id: CallbackId,
    /// From whom.
    pub by: Answerer,
    /// The answer; its `proceed` is what was judged, or as it came when it has not been judged.
    pub answer: Answer,
    /// What the answer decides.
    pub proceed: bool,
    /// Whether the answer was held against the options of this very callback.
    pub judged: bool,
    /// Whether it has to be, even if the callback turns out to be plain: the answer is more, or less, than a yes or no.
    pub must_be_judged: bool,
    /// From which connection.
    pub connection: Option<ConnectionId>,
}

/// Of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Confirmed {
    /// It decided; or it is the winner's repeat (same person, same `answer_id`, same answer).
    Accepted(Decision),
    /// Something else decided before.
    AlreadyResolved(Decision),
    /// No such callback, or not this user's.
    NotFound,
    /// Nothing was decided: the callback offers options, or the answer must be judged. Hold it against them and come again with
    /// `judged`.
    Judge(Box<Callback>),
}

/// Of a producer's withdrawal.
#[derive(Debug, Clone, PartialEq)]
pub enum Withdrawn {
    /// It ended `cancelled`.
    Closed(Decision),
    /// It had ended before.
    AlreadyResolved(Decision),
    /// No such callback.
    NotFound,
}

/// Who cancels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Canceller {
    /// A user.
    User(UserId),
    /// A guest of open mode.
    Guest,
    /// A producer.
    Producer,
}

impl Canceller {
    /// The `by` of the decisions that it makes.
    pub fn as_str(&self) -> &str {
        match self {
            Self::User(id) => id.as_str(),
            Self::Guest => GUEST,
            Self::Producer => "producer",
        }
    }

    /// What kind of party that is.
    pub fn kind(&self) -> ByKind {
        match self {
            Self::User(_) => ByKind::User,
            Self::Guest => ByKind::Guest,
            Self::Producer => ByKind::Producer,
        }
    }
}

/// Of a cancelled task of one user.
#[derive(Debug, Clone, PartialEq)]
pub struct CancelledTask {
    /// Whose.
    pub user: UserId,
    /// When, in Unix seconds.
    pub at: f64,
    /// How many open callbacks it closed.
    pub callbacks_closed: u64,
}

/// What is known of a task.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskState {
    /// Who cancelled it and when, if it is cancelled.
    pub cancelled: Option<Cancellation>,
    /// Its open callbacks, oldest first.
    pub open: Vec<CallbackId>,
}

/// Of a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Cancellation {
    /// Who cancelled it.
    pub by: String,
    /// What kind of party that is; `None` where an older version has not recorded it.
    pub by_kind: Option<ByKind>,
    /// When, in Unix seconds.
    pub at: f64,
}

/// Where a listing goes on; text that only the implementation reads.
pub type Cursor = String;

/// Of one sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Callbacks that this sweep timed out.
    pub timed_out: u64,
    /// Callbacks that are open in the whole cluster.
    pub open: u64,
    /// Heartbeats that this sweep sent.
    pub beats: u64,
}

/// The life cycle.
#[async_trait]
pub trait Callbacks: Send + Sync {
    /// Opens a callback: record, pending index, deadline index, idempotency result and publication in one step. On a
    /// cancelled task it ends `cancelled` at once and nobody is asked.
    ///
    /// # Errors
    /// `Unavailable`: repeat with the same id. `Conflict`, `TooManyCallbacks`: nothing was written.
    async fn open(&self, open: OpenCallback) -> Result<Opened>;

    /// Answers a callback.
    ///
    /// # Errors
    /// `Unavailable`: repeat with the same `answer_id`.
    async fn confirm(&self, confirm: Confirm) -> Result<Confirmed>;

    /// A callback as it is now; past its deadline it is timed out first.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn read(&self, id: CallbackId) -> Result<Option<Callback>>;

    /// Ends a callback as `cancelled` by `"producer"`.
    ///
    /// # Errors
    /// `Unavailable`: repeat.
    async fn withdraw(&self, id: CallbackId) -> Result<Withdrawn>;

    /// Cancels one user's task: its tombstone, the end of its open callbacks, and `task_cancelled` to the user's
    /// channel, the topic `task:<id>`, the guests and the producers' channel `cancelled`.
    ///
    /// # Errors
    /// `Unavailable`: repeat. `TooManyCancellations`: it is by a person who has cancelled so many tasks that had no open callback,
    /// as this one; nothing was cancelled.
    async fn cancel_task(&self, user: &UserId, task: &TaskId, by: &Canceller) -> Result<CancelledTask>;

    /// Cancels every user's task of this name, atomic per user; also for users who are asked later, until the
    /// tombstone's retention ends. Returns the users whose callbacks it closed; each of them has its own `task_cancelled`,
    /// and one with `"user_id":null` for all follows on `task:<id>` and the producers' channel.
    ///
    /// # Errors
    /// `Unavailable`: some partitions may be done; repeat.
    async fn cancel_tasks_named(&self, task: &TaskId, by: &Canceller) -> Result<Vec<CancelledTask>>;

    /// Lifts the cancellation of one user's task, or (without a user) the one of every user's task of this name made by
    /// [`Self::cancel_tasks_named`]. Whether there was one.
    ///
    /// # Errors
    /// `Unavailable`: repeat.
    async fn lift(&self, user: Option<&UserId>, task: &TaskId) -> Result<bool>;

    /// What is known of a user's task.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn task(&self, user: &UserId, task: &TaskId) -> Result<TaskState>;

    /// A user's open callbacks, oldest first, complete; those past their deadline are timed out first.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn open_callbacks(&self, user: &UserId) -> Result<Vec<Callback>>;

    /// As [`Self::open_callbacks`], to be shown to a device of the user: what was not delivered before is from now on.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn deliver_open_callbacks(&self, user: &UserId) -> Result<Vec<Callback>>;

    /// Open callbacks of everybody, partition by partition, about `most` a page, and where the next page begins.
    ///
    /// # Errors
    /// `Unavailable`. A cursor that is none begins anew.
    async fn all_open_callbacks(&self, cursor: Option<&Cursor>, most: usize)
    -> Result<(Vec<Callback>, Option<Cursor>)>;

    /// Times out what is due and sends the heartbeats that are, everywhere. Cost does not depend on how many are not yet due.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn sweep(&self) -> Result<Swept>;
}

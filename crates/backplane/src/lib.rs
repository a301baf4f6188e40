//! What connects the nodes: Redis, or the embedded in-memory backplane of a single node.
//!
//! A tour, one sentence a file:
//! - [`channel`]: the pub/sub channels that nodes listen to.
//! - [`audience`]: who a channel is for, one person or a crowd, which a node hears on connections of their own.
//! - [`interest`]: which channels a node wants to hear, as state that a subscriber reconciles.
//! - [`listener`]: the node's ear: what it is told, in order, by one reader.
//! - [`messages`]: publishing, positions and history.
//! - [`callbacks`]: the life cycle of callbacks: one atomic step decides.
//! - [`heartbeats`]: "still executing", kept up by the cluster.
//! - [`receipts`]: messages that want to be acknowledged.
//! - [`presence`]: who is in a topic.
//! - [`connections`]: which connections a user has, and how many it may have.
//! - [`inbox`]: the durable door of producers.
//! - [`cluster`]: which nodes there are, and whether the link to them holds.
//! - [`wire`]: the payload format of publications, `{…}` or `<epoch>:<offset>:{…}`.
//! - [`memory`]: everything in one process; several nodes may share it in tests.
//! - [`redis`]: everything in Redis; `.lua` files beside the Rust that loads them; all key names in `keys.rs`.
//!
//! Both implementations pass one conformance suite (`tests/conformance`).
#![forbid(unsafe_code)]

pub mod audience;
pub mod callbacks;
pub mod channel;
pub mod cluster;
pub mod connections;
pub mod heartbeats;
pub mod inbox;
pub mod interest;
pub mod listener;
pub mod memory;
pub mod messages;
pub mod presence;
pub mod receipts;
pub mod redis;
pub mod wire;

use std::time::Duration;

pub use audience::{Audience, ByAudience};
pub use callbacks::{Callback, Callbacks};
pub use channel::Channel;
pub use cluster::{Cluster, Link};
pub use connections::Connections;
pub use heartbeats::Heartbeats;
pub use inbox::{Doors, Inbox};
pub use interest::{ChannelNumber, Interest, Wanted};
pub use listener::{Heard, Listener, Observation};
pub use messages::{History, HistoryPolicy, Messages, Publication};
pub use presence::Presence;
pub use receipts::Receipts;

/// Everything that a node asks of what connects it with the others.
pub trait Backplane: Messages + Callbacks + Heartbeats + Receipts + Presence + Connections + Doors + Cluster {}
impl<T: Messages + Callbacks + Heartbeats + Receipts + Presence + Connections + Doors + Cluster> Backplane for T {}

/// What every node of a cluster has to agree on.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The first part of every key and channel name.
    pub prefix: String,
    /// Open mode: questions, ends of callbacks and cancellations are published to the guests' channel too.
    pub guests: bool,
    /// How long the record of an ended callback, and its idempotency result, can be read.
    pub callback_retention: Duration,
    /// The most open callbacks of one user.
    pub callback_user_limit: u64,
    /// The most cancelled tasks of one user that the user cancelled without closing a callback.
    pub cancel_user_limit: u64,
    /// How long a cancelled task stays cancelled.
    pub cancel_retention: Duration,
    /// How long the idempotency result of a message is kept.
    pub message_key_retention: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            prefix: "cs".to_owned(),
            guests: false,
            callback_retention: Duration::from_secs(3600),
            callback_user_limit: 1000,
            cancel_user_limit: 1000,
            cancel_retention: Duration::from_secs(3600),
            message_key_retention: Duration::from_secs(3600),
        }
    }
}

/// Why the backplane did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackplaneError {
    /// It did not answer in time, or said that it cannot now. Whether the step was taken is not known: ask again with the same id or key.
    #[error("the backplane did not answer: {0}")]
    Unavailable(String),
    /// It has no room for what was to be written, and nothing was: ask again when it has.
    #[error("the backplane is full: {0}")]
    Full(String),
    /// The idempotency key came before with another body.
    #[error("the idempotency key was used before with another body")]
    Conflict,
    /// The user has as many open callbacks as one may have.
    #[error("the user has {0} open callbacks, the most that one user may have")]
    TooManyCallbacks(u64),
    /// The user has cancelled as many tasks as one may that had no open callback.
    #[error("the user has cancelled {0} tasks that had no open callback, the most that one user may")]
    TooManyCancellations(u64),
    /// A key holds what this version did not write.
    #[error("the backplane holds what this version cannot read: {0}")]
    Unreadable(String),
}

/// The result of a step.
pub type Result<T, E = BackplaneError> = std::result::Result<T, E>;

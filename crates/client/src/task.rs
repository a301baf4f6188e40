//! What a producer is told about tasks.

use countersign_protocol::{ByKind, CallbackId, TaskId, UserId};
use serde::Deserialize;

use crate::event::TaskCancelled;

/// A task of one user.
///
/// ```no_run
/// # async fn example(producer: countersign_client::Producer) -> countersign_client::Result<()> {
/// let task = producer.task("import-42", "alice").await?;
/// if task.cancelled {
///     println!("cancelled by {:?}", task.cancelled_by);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Task {
    /// Which.
    pub task_id: TaskId,
    /// Whose.
    pub user_id: UserId,
    /// Whether it is cancelled: questions of a cancelled task end `cancelled` at once.
    pub cancelled: bool,
    /// A user id, `"producer"` or `"guest"`.
    #[serde(default)]
    pub cancelled_by: Option<String>,
    /// What kind of party that is: a user may be called `producer`. `None` where it is not known.
    #[serde(default, deserialize_with = "ByKind::deserialize_known")]
    pub cancelled_by_kind: Option<ByKind>,
    /// When, in Unix seconds by the gateway's clock.
    #[serde(default)]
    pub cancelled_at: Option<f64>,
    /// Its open questions, oldest first.
    #[serde(default)]
    pub open_callbacks: Vec<CallbackId>,
}

/// What a cancellation did.
///
/// ```no_run
/// # async fn example(producer: countersign_client::Producer) -> countersign_client::Result<()> {
/// let done = producer.cancel_task("import-42", None).await?;
/// for cancelled in &done.cancelled {
///     println!("{}: {} questions closed", cancelled.user_id, cancelled.callbacks_closed);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct CancelledTasks {
    /// Of which name.
    pub task_id: TaskId,
    /// How many open questions this closed, over all users.
    pub callbacks_closed: u64,
    /// One for each user.
    pub cancelled: Vec<TaskCancelled>,
}

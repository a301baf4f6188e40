//! Cancelling tasks. One step per user closes everything open and stays readable until it is lifted.

use countersign_backplane::callbacks::{CancelledTask, Canceller};
use countersign_protocol::{Event, Status, TaskId, UserId};

use crate::{error::GatewayError, node::Node};

impl Node {
    /// Cancels one user's task, or every user's task of this name.
    pub(crate) async fn cancel(
        &self,
        user: Option<&UserId>,
        task: &TaskId,
        by: &Canceller,
    ) -> Result<Vec<CancelledTask>, GatewayError> {
        let cancelled = match user {
            Some(user) => vec![self.backplane.cancel_task(user, task, by).await?],
            None => self.backplane.cancel_tasks_named(task, by).await?,
        };
        let closed = cancelled.iter().map(|task| task.callbacks_closed).sum();
        self.metrics.callbacks_ended_by(Status::Cancelled, closed);
        Ok(cancelled)
    }
}

/// What is said of a cancelled task.
pub(crate) fn cancelled_event(cancelled: CancelledTask, task: &TaskId) -> Event {
    let CancelledTask { user, at, callbacks_closed } = cancelled;
    Event::TaskCancelled { user_id: user, task_id: task.clone(), timestamp: at, callbacks_closed }
}

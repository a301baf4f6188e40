//! Cancelling tasks: the tombstone, the end of the open callbacks, and `task_cancelled` for everybody whom it concerns.
//! The second half of [`Lifecycle`], as pure as the first.

use bytes::Bytes;
use countersign_protocol::{CallbackId, Event, TaskId, TopicName, UserId};

use super::{clock::seconds, lifecycle::Lifecycle, record::End};
use crate::{
    BackplaneError, Channel, Result,
    callbacks::{Cancellation, CancelledTask, Canceller, TaskState},
};

impl Lifecycle {
    /// Cancels one user's task.
    pub(super) fn cancel_task(
        &mut self,
        now: u64,
        user: &UserId,
        task: &TaskId,
        by: &Canceller,
    ) -> Result<CancelledTask> {
        self.time_out_due_of(now, user);
        let most = self.cancel_user_limit();
        let is_idle = self.open_of_task(user, task).is_empty();
        if is_idle && !self.tombstones.has_room(user, task, by, most) {
            return Err(BackplaneError::TooManyCancellations(most));
        }
        self.tombstones.set(now, Some(user), task, by);
        if is_idle {
            self.tombstones.was_idle(user, task, by);
        }
        let callbacks_closed = self.close_task(now, user, task, by);
        Ok(self.announce_cancelled(now, user, task, callbacks_closed))
    }

    /// Cancels every user's task of this name; those whose callbacks it closed.
    pub(super) fn cancel_tasks_named(&mut self, now: u64, task: &TaskId, by: &Canceller) -> Vec<CancelledTask> {
        self.tombstones.set(now, None, task, by);
        let mut cancelled = Vec::new();
        for user in self.users_with_open() {
            let callbacks_closed = self.close_task(now, &user, task, by);
            if callbacks_closed > 0 {
                cancelled.push(self.announce_cancelled(now, &user, task, callbacks_closed));
            }
        }
        // Whoever works on the task hears it also when nobody was asked anything.
        let callbacks_closed: u64 = cancelled.iter().map(|task| task.callbacks_closed).sum();
        let event = serde_json::json!({
            "type": "task_cancelled", "user_id": null, "task_id": task, "timestamp": seconds(now),
            "callbacks_closed": callbacks_closed,
        });
        self.say_of_task(task, event.to_string().into());
        cancelled
    }

    /// What is known of a user's task.
    pub(super) fn task(&mut self, now: u64, user: &UserId, task: &TaskId) -> TaskState {
        self.time_out_due_of(now, user);
        let cancelled = self.tombstones.find(user, task).map(|tombstone| Cancellation {
            by: tombstone.by.as_str().to_owned(),
            by_kind: Some(tombstone.by.kind()),
            at: seconds(tombstone.at_ms),
        });
        TaskState { cancelled, open: self.open_of_task(user, task) }
    }

    /// Ends the open callbacks of a user's task; how many were not timed out but cancelled.
    fn close_task(&mut self, now: u64, user: &UserId, task: &TaskId, by: &Canceller) -> u64 {
        self.time_out_due_of(now, user);
        let open = self.open_of_task(user, task);
        for id in &open {
            self.end(now, *id, End::cancelled(*id, now, by));
        }
        open.len() as u64
    }

    fn open_of_task(&self, user: &UserId, task: &TaskId) -> Vec<CallbackId> {
        let mut open = self.pending_of(user);
        open.retain(|id| self.get(*id).is_some_and(|record| record.task == *task));
        open
    }

    fn announce_cancelled(&mut self, now: u64, user: &UserId, task: &TaskId, callbacks_closed: u64) -> CancelledTask {
        let at = seconds(now);
        let event =
            Event::TaskCancelled { user_id: user.clone(), task_id: task.clone(), timestamp: at, callbacks_closed };
        let message = Bytes::from(event.to_json());
        self.tell(user, message.clone());
        self.say_of_task(task, message);
        CancelledTask { user: user.clone(), at, callbacks_closed }
    }

    fn say_of_task(&mut self, task: &TaskId, message: Bytes) {
        // A task id may be too long for a topic; then nobody can have subscribed to it.
        if let Ok(topic) = TopicName::of_task(task) {
            self.say(Channel::Topic(topic), message);
        }
    }
}

//! Cancelling tasks in Redis. A cancelled task is a tombstone that opening looks at; a user's own, or one for all users of
//! a name, of which every partition has a copy.

use countersign_protocol::{ByKind, CallbackId, Partition, TaskId, UserId};
use redis::{Cmd, Value, cmd, from_redis_value};

use super::{
    RedisBackplane, callbacks::minted, failure::CommandError, keys::heartbeat_member, lanes::Step,
    messages::unreadable, millis, record::seconds, retry::repeat, scripts::SCRIPTS,
};
use crate::{
    BackplaneError, Result,
    callbacks::{Cancellation, CancelledTask, Canceller, TaskState},
};

impl RedisBackplane {
    pub(super) async fn cancel_one(&self, user: &UserId, task: &TaskId, by: &Canceller) -> Result<CancelledTask> {
        let partition = Partition::of(user);
        let mut script = self.on_partition(&SCRIPTS.cancel_task, partition);
        script
            .key(self.keys.cancelled_task(user, task))
            .key(self.keys.pending(user))
            .key(self.keys.deadlines(partition))
            .key(match by {
                Canceller::Guest => self.keys.idle_cancellations_of_guests(partition),
                Canceller::User(_) | Canceller::Producer => self.keys.idle_cancellations(user),
            })
            .arg(user.as_str())
            .arg(task.as_str())
            .arg(by.as_str())
            .arg(millis(self.settings.cancel_retention).max(1))
            .arg(minted())
            .arg(by.kind().as_str())
            .arg(self.settings.cancel_user_limit)
            .arg(heartbeat_member(user, task));
        let answer = self.verb(&script).await?.value;
        let parts = from_redis_value::<Vec<Value>>(answer).map_err(unreadable)?;
        let [at, callbacks_closed] = parts.as_slice() else {
            return Err(BackplaneError::TooManyCancellations(self.settings.cancel_user_limit));
        };
        let at = from_redis_value(at.clone()).map_err(unreadable)?;
        let callbacks_closed = from_redis_value(callbacks_closed.clone()).map_err(unreadable)?;
        self.replicated().await;
        Ok(CancelledTask { user: user.clone(), at: seconds(at), callbacks_closed })
    }

    /// One script a partition, in one round trip; each tells of the users whose callbacks it closed, as if they were
    /// cancelled one by one. Whoever listens to the task or to cancellations then hears one notice with `"user_id":null`,
    /// which stands for every user, because a worker between two questions has to stop as well.
    pub(super) async fn cancel_everywhere(&self, task: &TaskId, by: &Canceller) -> Result<Vec<CancelledTask>> {
        let name = minted();
        let steps: Vec<_> = Partition::all()
            .map(|partition| {
                let mut script = self.on_partition(&SCRIPTS.cancel_tasks_named, partition);
                script
                    .key(self.keys.cancelled_tasks(partition, task))
                    .key(self.keys.deadlines(partition))
                    .arg(task.as_str())
                    .arg(by.as_str())
                    .arg(millis(self.settings.cancel_retention).max(1))
                    .arg(&name)
                    .arg(by.kind().as_str());
                Step::Script(script)
            })
            .collect();
        // Partitions that are done answer the same again.
        let parts = repeat(|| async {
            let answers = self.verbs(self.lanes.pipeline(&[&SCRIPTS.cancel_tasks_named], &steps).await?).await;
            answers.into_iter().map(|answer| read_partition(answer?)).collect::<Result<Vec<_>, CommandError>>()
        });
        let parts = parts.await?.value;
        let at = parts.iter().map(|(at, _)| *at).max().unwrap_or_default();
        let cancelled: Vec<_> = parts.into_iter().flat_map(|(_, cancelled)| cancelled).collect();
        let closed: u64 = cancelled.iter().map(|task| task.callbacks_closed).sum();
        self.tell_of_everybody(task, at, closed).await?;
        self.replicated().await;
        Ok(cancelled)
    }

    async fn tell_of_everybody(&self, task: &TaskId, at: u64, closed: u64) -> Result<()> {
        let event = serde_json::json!({
            "type": "task_cancelled", "user_id": null, "task_id": task, "timestamp": seconds(at),
            "callbacks_closed": closed,
        })
        .to_string();
        let steps = [self.keys.task_channel(task), self.keys.cancelled_channel()].map(|channel| {
            let mut command = cmd("PUBLISH");
            command.arg(channel).arg(&event);
            Step::Command(command)
        });
        repeat(|| self.lanes.all(&steps)).await?;
        Ok(())
    }

    pub(super) async fn lift_cancellation(&self, user: Option<&UserId>, task: &TaskId) -> Result<bool> {
        let steps: Vec<_> = match user {
            Some(user) => {
                // What counted makes room.
                let forget = |index: String| {
                    let mut command = cmd("ZREM");
                    command.arg(index).arg(heartbeat_member(user, task));
                    Step::Command(command)
                };
                vec![
                    Step::Command(delete(self.keys.cancelled_task(user, task))),
                    forget(self.keys.idle_cancellations(user)),
                    forget(self.keys.idle_cancellations_of_guests(Partition::of(user))),
                ]
            }
            // Each partition's own slot: one DEL of all would be refused by a cluster.
            None => Partition::all()
                .map(|partition| Step::Command(delete(self.keys.cancelled_tasks(partition, task))))
                .collect(),
        };
        let answers = repeat(|| self.lanes.all(&steps)).await?.value;
        let tombstones = if user.is_some() { 1 } else { answers.len() };
        let mut lifted = false;
        for answer in answers.into_iter().take(tombstones) {
            lifted |= from_redis_value::<u64>(answer).map_err(unreadable)? > 0;
        }
        Ok(lifted)
    }

    pub(super) async fn task_state(&self, user: &UserId, task: &TaskId) -> Result<TaskState> {
        let partition = Partition::of(user);
        let mut script = self.on_partition(&SCRIPTS.task, partition);
        script
            .key(self.keys.cancelled_task(user, task))
            .key(self.keys.cancelled_tasks(partition, task))
            .key(self.keys.pending(user))
            .arg(user.as_str())
            .arg(task.as_str());
        let answer = self.verb(&script).await?.value;
        let mut parts = from_redis_value::<Vec<Value>>(answer).map_err(unreadable)?.into_iter();
        let by: String = from_redis_value(parts.next().unwrap_or_default()).map_err(unreadable)?;
        let kind: String = from_redis_value(parts.next().unwrap_or_default()).map_err(unreadable)?;
        let at: u64 = from_redis_value(parts.next().unwrap_or_default()).map_err(unreadable)?;
        let open = parts.map(|id| {
            let id: String = from_redis_value(id).map_err(unreadable)?;
            CallbackId::parse(&id).map_err(unreadable)
        });
        let cancelled =
            (!by.is_empty()).then(|| Cancellation { by, by_kind: ByKind::from_text(&kind), at: seconds(at) });
        Ok(TaskState { cancelled, open: open.collect::<Result<_, CommandError>>()? })
    }
}

/// `{at, user, closed, user, closed, …}`.
fn read_partition(answer: Value) -> Result<(u64, Vec<CancelledTask>), CommandError> {
    let mut parts = from_redis_value::<Vec<Value>>(answer).map_err(unreadable)?.into_iter();
    let at: u64 = from_redis_value(parts.next().unwrap_or_default()).map_err(unreadable)?;
    let mut cancelled = Vec::new();
    while let (Some(user), Some(closed)) = (parts.next(), parts.next()) {
        let user: String = from_redis_value(user).map_err(unreadable)?;
        cancelled.push(CancelledTask {
            user: UserId::parse(&user).map_err(unreadable)?,
            at: seconds(at),
            callbacks_closed: from_redis_value(closed).map_err(unreadable)?,
        });
    }
    Ok((at, cancelled))
}

fn delete(key: String) -> Cmd {
    let mut command = cmd("DEL");
    command.arg(key);
    command
}

//! The life cycle of callbacks in Redis: each verb is one script in the user's partition, repeated with the same id or name
//! until its outcome is known. What is done to tasks is in `tasks.rs`, what is done to everybody's in `sweep.rs`.

use async_trait::async_trait;
use countersign_protocol::{CallbackId, Decision, Partition, TaskId, UserId};
use redis::{Script, ScriptInvocation, Value, from_redis_value};
use uuid::Uuid;

use super::{
    RedisBackplane,
    failure::CommandError,
    messages::unreadable,
    millis,
    record::{read_decision, read_record},
    scripts::SCRIPTS,
};
use crate::{
    BackplaneError, Callback, Callbacks, Result,
    callbacks::{
        Answerer, CancelledTask, Canceller, Confirm, Confirmed, Cursor, OpenCallback, Opened, Swept, TaskState,
        Withdrawn,
    },
};

#[async_trait]
impl Callbacks for RedisBackplane {
    async fn open(&self, open: OpenCallback) -> Result<Opened> {
        let script = self.open_script(&open);
        let tried = self.verb(&script).await?;
        let (word, now, rest) = read_answer(tried.value)?;
        match word.as_str() {
            "new" | "old" => {
                let callback = read_record(rest, now)?.callback;
                // Our own earlier try, of which we heard nothing, is this step too.
                let new = word == "new" || (tried.maybe_before && callback.id == open.id);
                if new {
                    self.replicated().await;
                }
                Ok(Opened { callback, new })
            }
            "conflict" => Err(BackplaneError::Conflict),
            "full" => Err(BackplaneError::TooManyCallbacks(from_redis_value(rest).map_err(unreadable)?)),
            other => Err(unknown_word(other)),
        }
    }

    async fn confirm(&self, confirm: Confirm) -> Result<Confirmed> {
        let script = self.confirm_script(&confirm);
        let (word, now, rest) = read_answer(self.verb(&script).await?.value)?;
        Ok(match word.as_str() {
            "accepted" => {
                self.replicated().await;
                Confirmed::Accepted(decision_of(rest)?)
            }
            "resolved" => Confirmed::AlreadyResolved(decision_of(rest)?),
            "judge" => Confirmed::Judge(Box::new(read_record(rest, now)?.callback)),
            "none" => Confirmed::NotFound,
            other => return Err(unknown_word(other)),
        })
    }

    async fn read(&self, id: CallbackId) -> Result<Option<Callback>> {
        let mut script = self.on_partition(&SCRIPTS.read, id.partition());
        script.key(self.keys.record(id)).arg(id.to_string());
        let (word, now, rest) = read_answer(self.verb(&script).await?.value)?;
        Ok(if word == "found" { Some(read_record(rest, now)?.callback) } else { None })
    }

    async fn withdraw(&self, id: CallbackId) -> Result<Withdrawn> {
        let mut script = self.on_partition(&SCRIPTS.withdraw, id.partition());
        script.key(self.keys.record(id)).arg(id.to_string()).arg(minted());
        let (word, _, rest) = read_answer(self.verb(&script).await?.value)?;
        Ok(match word.as_str() {
            "closed" => {
                self.replicated().await;
                Withdrawn::Closed(decision_of(rest)?)
            }
            "resolved" => Withdrawn::AlreadyResolved(decision_of(rest)?),
            "none" => Withdrawn::NotFound,
            other => return Err(unknown_word(other)),
        })
    }

    async fn cancel_task(&self, user: &UserId, task: &TaskId, by: &Canceller) -> Result<CancelledTask> {
        self.cancel_one(user, task, by).await
    }

    async fn cancel_tasks_named(&self, task: &TaskId, by: &Canceller) -> Result<Vec<CancelledTask>> {
        self.cancel_everywhere(task, by).await
    }

    async fn lift(&self, user: Option<&UserId>, task: &TaskId) -> Result<bool> {
        self.lift_cancellation(user, task).await
    }

    async fn task(&self, user: &UserId, task: &TaskId) -> Result<TaskState> {
        self.task_state(user, task).await
    }

    async fn open_callbacks(&self, user: &UserId) -> Result<Vec<Callback>> {
        self.open_callbacks_of(user, false).await
    }

    async fn deliver_open_callbacks(&self, user: &UserId) -> Result<Vec<Callback>> {
        self.open_callbacks_of(user, true).await
    }

    async fn all_open_callbacks(
        &self,
        cursor: Option<&Cursor>,
        most: usize,
    ) -> Result<(Vec<Callback>, Option<Cursor>)> {
        self.page(cursor, most).await
    }

    async fn sweep(&self) -> Result<Swept> {
        self.sweep_partitions().await
    }
}

impl RedisBackplane {
    /// A script of a verb of callbacks, with the arguments that all of them have.
    pub(super) fn on_partition(&self, script: &'static Script, partition: Partition) -> ScriptInvocation<'static> {
        let mut invocation = script.prepare_invoke();
        invocation
            .arg(self.keys.tag(partition))
            .arg(self.keys.prefix())
            .arg(u8::from(self.settings.guests))
            .arg(millis(self.settings.callback_retention).max(1));
        invocation
    }

    fn open_script(&self, open: &OpenCallback) -> ScriptInvocation<'static> {
        let partition = open.id.partition();
        let mut script = self.on_partition(&SCRIPTS.open, partition);
        script
            .key(self.keys.record(open.id))
            .key(self.keys.pending(&open.user))
            .key(self.keys.deadlines(partition))
            .key(self.keys.cancelled_task(&open.user, &open.task))
            .key(self.keys.cancelled_tasks(partition, &open.task));
        if let Some((key, _)) = &open.key {
            script.key(self.keys.callback_result(&open.user, key));
        }
        script
            .arg(open.id.to_string())
            .arg(open.user.as_str())
            .arg(open.task.as_str())
            .arg(&open.message_head)
            .arg(millis(open.timeout))
            .arg(open.on_timeout.as_str())
            .arg(u8::from(open.plain))
            .arg(self.settings.callback_user_limit)
            .arg(open.key.as_ref().map_or("", |(key, _)| key.as_str()))
            .arg(open.key.as_ref().map_or("", |(_, digest)| digest.as_str()))
            .arg(open.reply_to.as_ref().map_or("", |list| list.as_str()))
            .arg(self.node.as_str());
        script
    }

    async fn open_callbacks_of(&self, user: &UserId, shown: bool) -> Result<Vec<Callback>> {
        let mut script = self.on_partition(&SCRIPTS.open_callbacks, Partition::of(user));
        script.key(self.keys.pending(user)).arg(user.as_str()).arg(u8::from(shown));
        let answer = self.verb(&script).await?.value;
        let mut parts = from_redis_value::<Vec<Value>>(answer).map_err(unreadable)?.into_iter();
        let now = from_redis_value(parts.next().unwrap_or_default()).map_err(unreadable)?;
        parts.map(|told| Ok(read_record(told, now)?.callback)).collect()
    }

    fn confirm_script(&self, confirm: &Confirm) -> ScriptInvocation<'static> {
        let Confirm { id, by, answer, proceed, judged, must_be_judged, connection } = confirm;
        let (user, kind) = match by {
            Answerer::User(user) => (user.as_str(), 'u'),
            Answerer::Guest => ("", 'g'),
        };
        // Without a name of the client's, the answer gets one of ours, so that our own repeat is recognised.
        let answer_name = match answer.answer_id.as_deref() {
            Some(id) if !id.is_empty() => format!("{kind}:{id}"),
            _ => minted(),
        };
        let mut script = self.on_partition(&SCRIPTS.confirm, id.partition());
        script
            .key(self.keys.record(*id))
            .arg(id.to_string())
            .arg(user)
            .arg(json(&by.as_str()))
            .arg(u8::from(*judged))
            .arg(if *proceed { "confirmed" } else { "declined" })
            .arg(json(proceed))
            .arg(json(&answer.feedback))
            .arg(json(&answer.choice))
            .arg(json(&answer.data))
            .arg(answer_name)
            .arg(connection.as_ref().map_or("", |connection| connection.as_str()))
            .arg(self.node.as_str())
            .arg(u8::from(*must_be_judged));
        script
    }
}

/// A name that no client can give: clients' names begin with `u:` or `g:`.
pub(super) fn minted() -> String {
    format!("m:{}", Uuid::new_v4().simple())
}

/// `{word, now, rest}`.
fn read_answer(answer: Value) -> Result<(String, u64, Value), CommandError> {
    let mut parts = from_redis_value::<Vec<Value>>(answer).map_err(unreadable)?.into_iter();
    let mut next = || parts.next().unwrap_or_default();
    let word = from_redis_value(next()).map_err(unreadable)?;
    let now = from_redis_value(next()).map_err(unreadable)?;
    Ok((word, now, next()))
}

fn decision_of(value: Value) -> Result<Decision, CommandError> {
    read_decision(&from_redis_value::<Vec<u8>>(value).map_err(unreadable)?)
}

fn unknown_word(word: &str) -> BackplaneError {
    CommandError::unreadable(format!("a script answered {word:?}")).into()
}

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("texts, flags and JSON values always encode")
}

//! Reply lists: for a producer that only knows Redis, a decision is pushed to the list that its question named. The script that
//! decides puts it into its partition's reply outbox, in the same step; whoever ran the script pushes it and only then takes
//! it out; what is left a second later is pushed by a sweep. So it comes at least once, whoever dies when.

use countersign_protocol::{CallbackId, Partition, ReplyName};
use redis::{ScriptInvocation, Value, cmd, from_redis_value};

use super::{
    RedisBackplane,
    failure::CommandError,
    lanes::Step,
    messages::unreadable,
    millis,
    retry::{Tried, repeat},
    scripts::SCRIPTS,
};

/// A decision that is still to be pushed.
#[derive(Debug)]
struct Reply {
    id: CallbackId,
    list: ReplyName,
    decision: Vec<u8>,
}

impl RedisBackplane {
    /// Runs a verb of callbacks until its outcome is known, and pushes the replies that it made.
    pub(super) async fn verb(&self, script: &ScriptInvocation<'_>) -> Result<Tried<Value>, CommandError> {
        let Tried { value, maybe_before } = repeat(|| self.lanes.script(script)).await?;
        let mut replies = Vec::new();
        let value = take_replies(value, &mut replies)?;
        self.push(replies).await;
        Ok(Tried { value, maybe_before })
    }

    /// What verbs of callbacks answered in a pipeline; pushes the replies that they made.
    pub(super) async fn verbs(&self, answers: Vec<Result<Value, CommandError>>) -> Vec<Result<Value, CommandError>> {
        let mut replies = Vec::new();
        let take = |answer: Result<Value, CommandError>| take_replies(answer?, &mut replies);
        let answers = answers.into_iter().map(take).collect();
        self.push(replies).await;
        answers
    }

    /// Pushes what is left in the outboxes of these partitions.
    pub(super) async fn push_left(&self, partitions: &[Partition]) {
        if partitions.is_empty() {
            return;
        }
        let steps: Vec<_> = partitions
            .iter()
            .map(|partition| {
                let mut script = self.on_partition(&SCRIPTS.claim_replies, *partition);
                script.key(self.keys.replies(*partition)).arg(MOST_CLAIMED).arg(LEFT_TO_THE_DECIDER_MS);
                Step::Script(script)
            })
            .collect();
        let mut replies = Vec::new();
        match self.lanes.pipeline(&[&SCRIPTS.claim_replies], &steps).await {
            Ok(answers) => {
                for answer in answers {
                    match answer.and_then(read_replies) {
                        Ok(claimed) => replies.extend(claimed),
                        Err(error) => tracing::debug!(%error, "a reply outbox was not read; the next sweep does it"),
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "reply outboxes were not read; the next sweep does it"),
        }
        self.push(replies).await;
    }

    /// One try: what fails is still in the outbox.
    async fn push(&self, replies: Vec<Reply>) {
        if replies.is_empty() {
            return;
        }
        let pushes: Vec<_> = replies
            .iter()
            .map(|reply| {
                let mut script = SCRIPTS.reply.prepare_invoke();
                script.key(self.keys.reply(&reply.list)).arg(reply.decision.as_slice());
                script.arg(millis(self.settings.callback_retention).max(1));
                Step::Script(script)
            })
            .collect();
        let answers = match self.lanes.pipeline(&[&SCRIPTS.reply], &pushes).await {
            Ok(answers) => answers,
            Err(error) => {
                tracing::debug!(%error, replies = replies.len(), "replies were not pushed; a sweep does it");
                return;
            }
        };
        let mut removals = Vec::new();
        for (reply, answer) in replies.iter().zip(answers) {
            match answer {
                Ok(_) => {}
                Err(error) if error.transient => {
                    tracing::debug!(%error, "a reply was not pushed; a sweep does it");
                    continue;
                }
                // It would fail for ever: the key is no list.
                Err(error) => {
                    let (callback_id, reply_to) = (reply.id, &reply.list);
                    tracing::warn!(%callback_id, ?reply_to, %error, "a reply cannot be pushed and is dropped");
                }
            }
            let mut remove = cmd("ZREM");
            remove.arg(self.keys.replies(reply.id.partition())).arg(reply.id.to_string());
            removals.push(Step::Command(remove));
        }
        if removals.is_empty() {
            return;
        }
        if let Err(error) = self.lanes.pipeline(&[], &removals).await {
            tracing::debug!(%error, "replies stay in the outbox and are pushed again");
        }
    }
}

/// What a verb answered without its replies: `{'replies', answer, {{id, list, decision}, …}}` when it has made some.
fn take_replies(answer: Value, replies: &mut Vec<Reply>) -> Result<Value, CommandError> {
    let Value::Array(mut parts) = answer else { return Ok(answer) };
    if !matches!(parts.first(), Some(Value::BulkString(word)) if word == b"replies") {
        return Ok(Value::Array(parts));
    }
    let (made, answer) = (parts.pop().unwrap_or_default(), parts.pop().unwrap_or_default());
    replies.extend(read_replies(made)?);
    Ok(answer)
}

fn read_replies(told: Value) -> Result<Vec<Reply>, CommandError> {
    let replies: Vec<(String, String, Vec<u8>)> = from_redis_value(told).map_err(unreadable)?;
    let read = |(id, list, decision): (String, String, Vec<u8>)| {
        let id = CallbackId::parse(&id).map_err(unreadable)?;
        Ok(Reply { id, list: ReplyName::parse(&list).map_err(unreadable)?, decision })
    };
    replies.into_iter().map(read).collect()
}

/// A reply is pushed by a sweep when it was not by whoever decided it within this time.
pub(super) const LEFT_TO_THE_DECIDER_MS: u64 = 1000;
/// Replies of one partition in one sweep.
const MOST_CLAIMED: u64 = 1000;

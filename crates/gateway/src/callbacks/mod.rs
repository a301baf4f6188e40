//! Asking a person and waiting. What is decided is decided by the backplane, in one step; this is the way there and back.

mod sweep;
mod wait;

use std::time::Duration;

use countersign_backplane::{
    BackplaneError,
    callbacks::{Answerer, Confirm, Confirmed, OpenCallback, Opened, Withdrawn},
};
use countersign_protocol::{
    Answer, CallbackId, ConnectionId, Decision, FieldError, Notification, Partition, event::Rejection,
    question::Question,
};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout_at};

pub(crate) use sweep::sweep;
pub(crate) use wait::{PAST_DEADLINE, REREAD, SUBSCRIBED, Waited};

use crate::{
    error::GatewayError,
    node::{Node, random},
};

/// Why an answer does not count.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rejected {
    pub(crate) reason: Rejection,
    /// What to do about it.
    pub(crate) message: Option<String>,
    /// What was decided instead.
    pub(crate) decision: Option<Box<Decision>>,
}

impl Node {
    /// Opens a callback, or finds the one that the same key opened before. Ends within a second after the deadline.
    pub(crate) async fn ask(&self, notification: &Notification) -> Result<Opened, GatewayError> {
        if let Some(list) = &notification.reply_to
            && self.backplane.inbox().is_none()
        {
            let expected = "nothing, as the embedded backplane has no lists";
            return Err(FieldError::new("reply_to", expected, format!("{list:?}")).into());
        }
        let id = CallbackId::new(Partition::of(&notification.user_id), random()?);
        let timeout = self.timeout(notification.timeout)?;
        // The caller hears within a second after the deadline, also when the backplane says nothing at all.
        let until = Instant::now() + timeout + PAST_DEADLINE;
        let open = OpenCallback {
            id,
            user: notification.user_id.clone(),
            task: notification.task_id.clone(),
            message_head: notification.message_head(id),
            timeout,
            on_timeout: notification.on_timeout.unwrap_or(self.config.callback_on_timeout),
            plain: notification.question.is_plain(),
            key: notification.idempotency_key.clone().map(|key| (key, digest_of(notification))),
            reply_to: notification.reply_to.clone(),
        };
        let unanswered = |why| GatewayError::Unanswered { id, why };
        let opened = match timeout_at(until, self.backplane.open(open)).await {
            Ok(Err(BackplaneError::Unavailable(why))) => return Err(unanswered(why)),
            Ok(opened) => opened?,
            Err(_) => return Err(unanswered("no answer until the deadline".to_owned())),
        };
        if opened.new {
            self.metrics.callback_opened();
        }
        Ok(opened)
    }

    /// Answers a callback.
    pub(crate) async fn confirm(
        &self,
        id: CallbackId,
        by: Answerer,
        connection: ConnectionId,
        answer: Answer,
    ) -> Result<Decision, Rejected> {
        // Only the backplane knows whose question it is, so it sees the answer before the question is looked at: what is said of
        // another user's question is what is said of none.
        let plain = answer.choice.is_none() && answer.data.is_none();
        let must_be_judged = !plain || answer.proceed.is_none();
        let (proceed, connection) = (answer.proceed.unwrap_or(false), Some(connection));
        let mut confirm = Confirm { id, by, proceed, judged: false, must_be_judged, connection, answer };
        loop {
            match self.backplane.confirm(confirm.clone()).await {
                Ok(Confirmed::Accepted(decision)) => {
                    self.metrics.callback_ended(decision.status);
                    return Ok(decision);
                }
                Ok(Confirmed::AlreadyResolved(decision)) => return Err(Rejected::already_resolved(decision)),
                Ok(Confirmed::NotFound) => return Err(Rejected::not_found()),
                // The question does not change: one judgement is enough, and a judged answer is never sent back.
                Ok(Confirmed::Judge(callback)) => judge(&mut confirm, callback.message.bytes())?,
                Err(error) => return Err(Rejected::unavailable(&error)),
            }
        }
    }

    /// Takes a question back, as a producer.
    pub(crate) async fn withdraw(&self, id: CallbackId) -> Result<Withdrawn, GatewayError> {
        let withdrawn = self.backplane.withdraw(id).await?;
        if let Withdrawn::Closed(decision) = &withdrawn {
            self.metrics.callback_ended(decision.status);
        }
        Ok(withdrawn)
    }

    fn timeout(&self, seconds: Option<f64>) -> Result<Duration, FieldError> {
        let Some(seconds) = seconds else { return Ok(self.config.callback_timeout) };
        let most = self.config.callback_max_timeout;
        Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(|timeout| (SHORTEST_TIMEOUT..=most).contains(timeout))
            .ok_or_else(|| {
                let expected = format!(
                    "seconds from {} to {} (CALLBACK_MAX_TIMEOUT)",
                    SHORTEST_TIMEOUT.as_secs_f64(),
                    most.as_secs()
                );
                FieldError::new("timeout", expected, seconds.to_string())
            })
    }
}

/// The backplane counts milliseconds.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(1);

fn judge(confirm: &mut Confirm, message: &[u8]) -> Result<(), Rejected> {
    let question = Question::from_message(message);
    confirm.proceed =
        question.and_then(|question| question.judge(&confirm.answer)).map_err(|error| Rejected::invalid(&error))?;
    confirm.judged = true;
    Ok(())
}

/// Of everything that a request with the same key has to have in common.
fn digest_of(notification: &Notification) -> String {
    let mut digest = Sha256::new_with_prefix(notification.canonical.as_bytes());
    if let Some(list) = &notification.reply_to {
        digest.update(b"\nreply_to ");
        digest.update(list.as_str().as_bytes());
    }
    crate::hex::first(16, &digest.finalize())
}

impl Rejected {
    fn not_found() -> Self {
        Self { reason: Rejection::NotFound, message: None, decision: None }
    }

    fn already_resolved(decision: Decision) -> Self {
        Self { reason: Rejection::AlreadyResolved, message: None, decision: Some(Box::new(decision)) }
    }

    fn invalid(error: &FieldError) -> Self {
        Self { reason: Rejection::Invalid, message: Some(error.to_string()), decision: None }
    }

    fn unavailable(error: &BackplaneError) -> Self {
        let message = format!("{error}: repeat with the same answer_id");
        Self { reason: Rejection::Unavailable, message: Some(message), decision: None }
    }
}

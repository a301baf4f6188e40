//! What can go wrong, sorted by what the caller does next: correct the request ([`Error::Refused`]), ask again
//! with the same key or id ([`Error::Unavailable`]), or mend the program (the others). No error here ever stands for
//! an answer, and [`NoAnswer`] is what a decision without an answer becomes.

use std::{fmt, time::Duration};

use countersign_protocol::{CallbackId, FieldError, IdempotencyKey};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request did not do what was wanted.
///
/// ```
/// use countersign_client::Error;
///
/// fn what_next(error: &Error) -> &'static str {
///     match error {
///         Error::Refused(problem) if problem.status == 409 => "this key was used for another question",
///         Error::Refused(_) => "correct the request",
///         Error::Unavailable { .. } => "ask again with the same key",
///         _ => "mend the program",
///     }
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The gateway understood the request and said no. Repeating it unchanged gives the same answer.
    #[error("refused: {0}")]
    Refused(Box<Problem>),
    /// It is not known what became of the request, and patience has ended. Ask again with the same key or id: nobody is
    /// asked twice.
    #[error("no definite answer within {waited:?}, ask again with the same key or id; the last attempt: {last}")]
    Unavailable {
        /// The callback, when its id was learnt: [`Producer::wait`](crate::Producer::wait) goes on from there.
        callback_id: Option<CallbackId>,
        /// The key of the request: [`Ask::idempotency_key`](crate::Ask::idempotency_key) repeats it.
        idempotency_key: Option<IdempotencyKey>,
        /// How long this went on.
        waited: Duration,
        /// What the last attempt ended with.
        last: String,
    },
    /// A name or a body that the gateway would refuse; nothing was sent.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The address of the gateway is none.
    #[error("{url:?} is no address of a gateway: expected {expected}")]
    Url {
        /// What was given.
        url: String,
        /// What would have been accepted.
        expected: &'static str,
    },
    /// Something answered that does not speak this protocol: look at what stands between here and the gateway.
    #[error("not an answer of the gateway: {0}")]
    Unexpected(String),
    /// No connection, and the gateway (or the token) says that coming back is useless.
    #[error("the connection has ended for good: {0}")]
    Ended(String),
    /// The connection was cut before the reply came, and the action may not be repeated unasked.
    #[error("the connection was cut before the reply came")]
    Cut,
}

/// An `application/problem+json` of the gateway; its refusals elsewhere have no status.
///
/// ```
/// let problem: countersign_client::Problem =
///     serde_json::from_str(r#"{"status": 409, "code": "conflict", "detail": "same key, other body"}"#).unwrap();
/// assert_eq!(problem.to_string(), "409 conflict: same key, other body");
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Problem {
    /// The HTTP status; 0 where it did not come over HTTP.
    #[serde(default)]
    pub status: u16,
    /// For programs.
    #[serde(default)]
    pub code: String,
    /// The kind of problem, for people.
    #[serde(default)]
    pub title: Option<String>,
    /// This occurrence, for people: what was wrong and where.
    #[serde(default)]
    pub detail: Option<String>,
    /// Everything else that the gateway said.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = (self.status != 0).then(|| self.status.to_string());
        let code = (!self.code.is_empty()).then(|| self.code.clone());
        let kind: Vec<String> = status.into_iter().chain(code).collect();
        f.write_str(&kind.join(" "))?;
        match self.detail.as_ref().or(self.title.as_ref()) {
            Some(words) if kind.is_empty() => f.write_str(words),
            Some(words) => write!(f, ": {words}"),
            None => Ok(()),
        }
    }
}

/// The callback ended, and nobody said yes or no: it timed out with `on_timeout: "fail"`.
///
/// ```
/// # use countersign_client::{NoAnswer, Proceeds, Decision};
/// fn go_on(decision: &Decision) -> Result<bool, NoAnswer> {
///     decision.proceeds()
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("callback {callback_id} ended without an answer; handle it as a failure, never as consent")]
pub struct NoAnswer {
    /// Which callback.
    pub callback_id: CallbackId,
}

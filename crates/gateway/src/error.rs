//! What can go wrong with a request to the gateway, in words that tell the caller what to do next. The HTTP doors turn
//! it into `application/problem+json`, library users see it as it is.

use countersign_backplane::BackplaneError;
use countersign_protocol::{CallbackId, FieldError};

/// Why the gateway did not do what was asked.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GatewayError {
    /// The request is wrong; repeating it does not help.
    #[error(transparent)]
    Invalid(#[from] FieldError),
    /// The message is longer than `PUBLISH_MAX_BYTES`.
    #[error("the message has {0} bytes, more than PUBLISH_MAX_BYTES ({1})")]
    TooLong(usize, usize),
    /// Whether it was done is not known, or it was not: repeat with the same id or key.
    #[error("not done for certain ({0}): repeat with the same id or idempotency key")]
    Unavailable(String),
    /// Whether the question was put is not known: read it by its id, which finds nothing if it was not, or repeat with the
    /// same key.
    #[error(
        "it is not known whether the question was put ({why}): read callback {id}, or repeat with the same idempotency key"
    )]
    Unanswered {
        /// The id that it has if it was put.
        id: CallbackId,
        /// Why it is not known.
        why: String,
    },
    /// The backplane has no room, and nothing was done.
    #[error("not done ({0}): repeat when it has room")]
    Full(String),
    /// What is kept under one of the names of this request was not written by this version; nothing was done.
    #[error(
        "not done, as the backplane holds what this version cannot read ({0}): look at that key, a repeat does not help"
    )]
    Unreadable(String),
    /// The idempotency key came before with another body.
    #[error("the idempotency key was used before with another body: use a new key for a new request")]
    Conflict,
    /// The user has too many open callbacks.
    #[error(
        "the user has {0} open callbacks, the most that one user may have (CALLBACK_USER_LIMIT): wait for answers or withdraw some"
    )]
    TooManyCallbacks(u64),
    /// The user has cancelled too many tasks that had no question.
    #[error(
        "the user has cancelled {0} tasks within an hour that had no open callback, the most that one user may (CALLBACK_CANCEL_LIMIT): a task with an open callback can still be cancelled"
    )]
    TooManyCancellations(u64),
    /// Nobody is counted.
    #[error("presence is off on this gateway (PRESENCE_TTL=0)")]
    PresenceOff,
    /// No such callback, or its retention is over.
    #[error("there is no such callback, or its retention is over")]
    NotFound,
}

impl GatewayError {
    /// For programs: the `code` of an error event, of a problem over HTTP and of a refusal on a reply list.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid_field",
            Self::TooLong(..) => "too_long",
            Self::Unavailable(_) | Self::Unanswered { .. } => Self::UNAVAILABLE,
            Self::Full(_) => "backplane_full",
            Self::Unreadable(_) => "unreadable",
            Self::Conflict => "conflict",
            Self::TooManyCallbacks(_) => "too_many_callbacks",
            Self::TooManyCancellations(_) => "too_many_cancellations",
            Self::PresenceOff => "presence_off",
            Self::NotFound => "not_found",
        }
    }

    pub(crate) const UNAVAILABLE: &str = "unavailable";
}

impl From<BackplaneError> for GatewayError {
    fn from(error: BackplaneError) -> Self {
        match error {
            BackplaneError::Conflict => Self::Conflict,
            BackplaneError::TooManyCallbacks(limit) => Self::TooManyCallbacks(limit),
            BackplaneError::TooManyCancellations(limit) => Self::TooManyCancellations(limit),
            BackplaneError::Unavailable(_) => Self::Unavailable(error.to_string()),
            BackplaneError::Full(_) => Self::Full(error.to_string()),
            BackplaneError::Unreadable(what) => Self::Unreadable(what),
        }
    }
}

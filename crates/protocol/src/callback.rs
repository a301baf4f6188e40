//! Statuses and decisions of callbacks. A callback is `pending` until it ends, exactly once, with a [`Decision`];
//! silence (`resolution: "timeout"`) can always be told from consent (`resolution: "user"`).

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::{fields::FieldError, ids::CallbackId};

/// The life cycle of a callback: `pending`, then one of the others for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Nobody has decided yet.
    Pending,
    /// A person said: proceed.
    Confirmed,
    /// A person said: do not proceed.
    Declined,
    /// The task or the callback was cancelled.
    Cancelled,
    /// The deadline passed.
    TimedOut,
}

impl Status {
    /// As it is written on the wire and in Redis.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Confirmed => "confirmed",
            Self::Declined => "declined",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
        }
    }

    /// Reads what [`Self::as_str`] wrote.
    pub fn from_text(text: &str) -> Option<Self> {
        [Self::Pending, Self::Confirmed, Self::Declined, Self::Cancelled, Self::TimedOut]
            .into_iter()
            .find(|status| status.as_str() == text)
    }
}

/// What ended a callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// A person's answer.
    User,
    /// The deadline: nobody answered.
    Timeout,
    /// A cancellation, by a person or by a producer.
    Cancelled,
}

/// What happens at the deadline, chosen when asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnTimeout {
    /// `proceed: true`.
    #[default]
    Proceed,
    /// `proceed: false`.
    Decline,
    /// `proceed: null`: the caller has to handle it as a failure.
    Fail,
}

impl OnTimeout {
    /// As it is written on the wire, in the environment and in Redis.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proceed => "proceed",
            Self::Decline => "decline",
            Self::Fail => "fail",
        }
    }

    /// Reads what [`Self::as_str`] wrote.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Self, FieldError> {
        [Self::Proceed, Self::Decline, Self::Fail].into_iter().find(|choice| choice.as_str() == text).ok_or_else(|| {
            FieldError::new(
                "on_timeout",
                "\"proceed\", \"decline\" or \"fail\"",
                format!("{:?}", crate::fields::shorten(text)),
            )
        })
    }

    /// The `proceed` of a decision made by the deadline.
    pub fn proceed(self) -> Option<bool> {
        match self {
            Self::Proceed => Some(true),
            Self::Decline => Some(false),
            Self::Fail => None,
        }
    }
}

/// What kind of party a `by` names: a user may be called `producer` or `guest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ByKind {
    /// A user, named by id.
    User,
    /// A connection without a user, in open mode.
    Guest,
    /// A producer.
    Producer,
}

impl ByKind {
    /// As it is written on the wire and in Redis.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Guest => "guest",
            Self::Producer => "producer",
        }
    }

    /// Reads what [`Self::as_str`] wrote.
    pub fn from_text(text: &str) -> Option<Self> {
        [Self::User, Self::Guest, Self::Producer].into_iter().find(|kind| kind.as_str() == text)
    }

    /// Reads a `by_kind` that may be null, absent (with `#[serde(default)]`), or of a kind that a newer version knows.
    ///
    /// # Errors
    /// What is neither text nor null.
    pub fn deserialize_known<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        Ok(text.as_deref().and_then(Self::from_text))
    }
}

/// How a callback ended, and the confirmation: what every wait returns, now and until the record's retention ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Of which callback.
    pub callback_id: CallbackId,
    /// Never `pending`.
    pub status: Status,
    /// The answer. `None` (null) only for a timeout with `on_timeout: "fail"`; it must not be taken for `true`.
    pub proceed: Option<bool>,
    /// What the person wrote.
    pub feedback: Option<String>,
    /// Which of the options the person chose.
    pub choice: Option<String>,
    /// What the person filled in.
    pub data: Option<Value>,
    /// What ended it.
    pub resolution: Resolution,
    /// The user id of the person, `"producer"` for a cancellation by one, `"guest"` for an unnamed connection in open mode, `None` for a timeout.
    pub by: Option<String>,
    /// What kind of party `by` names; `None` for a timeout, and where an older version has not recorded it.
    #[serde(default, deserialize_with = "ByKind::deserialize_known")]
    pub by_kind: Option<ByKind>,
    /// When, in Unix seconds, by the backplane's clock.
    pub at: f64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_text_of_a_status_is_its_json() {
        for status in [Status::Pending, Status::Confirmed, Status::Declined, Status::Cancelled, Status::TimedOut] {
            assert_eq!(json!(status), json!(status.as_str()));
            assert_eq!(Status::from_text(status.as_str()), Some(status));
        }
        for choice in [OnTimeout::Proceed, OnTimeout::Decline, OnTimeout::Fail] {
            assert_eq!(json!(choice), json!(choice.as_str()));
            assert_eq!(OnTimeout::parse(choice.as_str()), Ok(choice));
        }
        for kind in [ByKind::User, ByKind::Guest, ByKind::Producer] {
            assert_eq!(json!(kind), json!(kind.as_str()));
            assert_eq!(ByKind::from_text(kind.as_str()), Some(kind));
        }
    }

    #[test]
    fn a_decision_of_an_older_or_a_newer_version_can_be_read() {
        let decision = |by_kind: Option<Value>| {
            let mut decision = json!({
                "callback_id": "07-00000000000000000000000000000001", "status": "cancelled", "proceed": false,
                "feedback": null, "choice": null, "data": null, "resolution": "cancelled", "by": "producer", "at": 1.0,
            });
            if let Some(kind) = by_kind {
                decision["by_kind"] = kind;
            }
            serde_json::from_value::<Decision>(decision).map(|decision| decision.by_kind)
        };
        assert_eq!(decision(None).unwrap(), None);
        assert_eq!(decision(Some(Value::Null)).unwrap(), None);
        assert_eq!(decision(Some(json!("from_the_future"))).unwrap(), None);
        assert_eq!(decision(Some(json!("producer"))).unwrap(), Some(ByKind::Producer));
        assert!(decision(Some(json!(5))).is_err());
    }
}

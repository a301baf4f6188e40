//! What the gateway says to clients, apart from producers' messages (which are delivered as they are) and the
//! questions of callbacks (which are stored as bytes). Timestamps are Unix seconds.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    callback::{ByKind, Decision, Status},
    close::Close,
    ids::{CallbackId, ConnectionId, NodeId, TaskId, TopicName, UserId},
    position::Position,
};

/// An event, and the `id` of the action that it answers.
#[derive(Debug, Clone, Serialize)]
pub struct Reply {
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
    /// The client's `id` of the action.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<Value>,
}

/// The position of an address as told to a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ToldPosition {
    /// The newest message.
    #[serde(flatten)]
    pub position: Position,
    /// Whether everything after the client's `since` was replayed; absent when it gave none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered: Option<bool>,
}

/// Why a confirmation was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    /// Somebody or something else decided; the decision is attached.
    AlreadyResolved,
    /// No such callback, or not this user's.
    NotFound,
    /// Not an answer to this question; the callback is still open.
    Invalid,
    /// The backplane did not answer: repeat with the same `answer_id`.
    Unavailable,
}

/// Topics as `subscribe` takes them: `topic` for one, `topics` for several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Topics {
    /// One.
    Topic(String),
    /// Several.
    Topics(Vec<String>),
}

/// What the gateway says.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// The first event of every connection.
    Connected {
        /// Of this connection.
        connection_id: ConnectionId,
        /// `None` (null) for a guest.
        user_id: Option<UserId>,
        /// The node that holds the connection.
        node_id: NodeId,
        /// Seconds between two WebSocket pings of the gateway.
        ping_interval: f64,
        /// Of every address that the connection hears from the start.
        positions: BTreeMap<String, ToldPosition>,
    },
    /// The complete list of the user's open callbacks: drop every other.
    OpenCallbacks {
        /// Oldest first.
        callback_ids: Vec<CallbackId>,
    },
    /// A callback ended.
    CallbackResolved {
        /// Which.
        callback_id: CallbackId,
        /// How.
        status: Status,
        /// Who ended it.
        by: Option<String>,
        /// What kind of party that is.
        by_kind: Option<ByKind>,
    },
    /// Answer to `ping`.
    Pong {
        /// When.
        timestamp: f64,
        /// Everything that was sent.
        original_data: Map<String, Value>,
    },
    /// Answer to `subscribe`, one for each topic.
    SubscriptionConfirmed {
        /// As the client names the address.
        topic: String,
        /// When a user's address was asked for.
        #[serde(skip_serializing_if = "Option::is_none")]
        user_id: Option<UserId>,
        /// The newest message; later ones follow.
        #[serde(skip_serializing_if = "Option::is_none")]
        position: Option<Position>,
        /// Whether everything after `since` was replayed.
        #[serde(skip_serializing_if = "Option::is_none")]
        recovered: Option<bool>,
    },
    /// Answer to `unsubscribe`, one for each topic.
    Unsubscribed {
        /// As the client names the address.
        topic: String,
    },
    /// The answer counts.
    ConfirmationAccepted {
        /// Which callback.
        callback_id: CallbackId,
    },
    /// The answer does not count.
    ConfirmationRejected {
        /// Which callback.
        callback_id: CallbackId,
        /// Why.
        reason: Rejection,
        /// What to do about it, when there is something.
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<String>,
        /// What was decided instead.
        #[serde(skip_serializing_if = "Option::is_none")]
        decision: Option<Decision>,
    },
    /// A task was cancelled.
    TaskCancelled {
        /// Whose.
        user_id: UserId,
        /// Which.
        task_id: TaskId,
        /// When.
        timestamp: f64,
        /// How many open callbacks this closed.
        callbacks_closed: u64,
    },
    /// Answer to `publish`.
    Published {
        /// Where the topic keeps history.
        #[serde(skip_serializing_if = "Option::is_none")]
        position: Option<Position>,
    },
    /// Who is in a topic: answer to `presence`, and after an interruption for those who hear `joined` and `left`.
    Presence {
        /// Which.
        topic: TopicName,
        /// Users by name, sorted; not all, when there are very many.
        members: Vec<UserId>,
        /// How many there are.
        count: u64,
    },
    /// Messages of an address were missed and cannot be filled in.
    Gap {
        /// As the client names the address.
        topic: String,
        /// Always false.
        recovered: bool,
        /// Where the address is now, if it keeps history.
        position: Option<Position>,
    },
    /// The client reads too slowly and prefers missing messages of an address to being closed.
    MessagesDropped {
        /// As the client names the address.
        topic: String,
        /// How many messages.
        count: u64,
        /// Of the last message before those, if the address keeps history: `subscribe` with it as `since` brings them.
        position: Option<Position>,
    },
    /// Something was wrong; the connection goes on.
    Error {
        /// For programs.
        code: &'static str,
        /// For people.
        message: String,
        /// When.
        timestamp: f64,
        /// With `too_long`: the most bytes that a message may have.
        #[serde(skip_serializing_if = "Option::is_none")]
        limit: Option<u32>,
        /// The topics that are not subscribed because of it, named as `subscribe` takes them.
        #[serde(flatten, skip_serializing_if = "Option::is_none")]
        topics: Option<Topics>,
    },
    /// Why an SSE stream or a socket ends.
    Closing {
        /// As a WebSocket would be closed.
        code: u16,
        /// In words.
        reason: String,
    },
}

impl Event {
    /// The JSON text of the event.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("events have text keys and encode always")
    }

    /// An error of a program's word and people's words.
    pub fn error(code: &'static str, message: String, timestamp: f64) -> Self {
        Self::Error { code, message, timestamp, limit: None, topics: None }
    }

    /// The event that says what a close code says, where there is no close frame.
    pub fn closing(close: Close) -> Self {
        Self::Closing { code: close.code, reason: close.reason.to_owned() }
    }
}

impl Reply {
    /// The JSON text of the reply.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("events have text keys and encode always")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn value(reply: &Reply) -> Value {
        serde_json::from_str(&reply.to_json()).unwrap()
    }

    #[test]
    fn a_reply_carries_the_id_of_its_action() {
        let event = Event::Unsubscribed { topic: "a".into() };
        assert_eq!(
            value(&Reply { event: event.clone(), reply_to: Some(json!(7)) }),
            json!({"type": "unsubscribed", "topic": "a", "reply_to": 7})
        );
        assert_eq!(value(&Reply { event, reply_to: None }), json!({"type": "unsubscribed", "topic": "a"}));
    }

    #[test]
    fn an_error_names_its_limit_and_its_topics() {
        let error = |limit, topics| {
            let message = "m".to_owned();
            value(&Reply { event: Event::Error { code: "c", message, timestamp: 1.0, limit, topics }, reply_to: None })
        };
        let plain = json!({"type": "error", "code": "c", "message": "m", "timestamp": 1.0});
        assert_eq!(error(None, None), plain);
        let with = |field: &str, value: Value| {
            let mut all = plain.clone();
            all[field] = value;
            all
        };
        assert_eq!(error(Some(5), None), with("limit", json!(5)));
        assert_eq!(error(None, Some(Topics::Topic("a".into()))), with("topic", json!("a")));
        assert_eq!(error(None, Some(Topics::Topics(vec!["a".into(), "b".into()]))), with("topics", json!(["a", "b"])));
    }

    #[test]
    fn a_guest_is_told_that_it_has_no_user() {
        let event = Event::Connected {
            connection_id: ConnectionId::parse("c1").unwrap(),
            user_id: None,
            node_id: NodeId::parse("n1").unwrap(),
            ping_interval: 30.0,
            positions: BTreeMap::from([(
                "broadcast".to_owned(),
                ToldPosition { position: Position::beginning(), recovered: None },
            )]),
        };
        let expected = json!({"type": "connected", "connection_id": "c1", "user_id": null, "node_id": "n1", "ping_interval": 30.0, "positions": {"broadcast": {"epoch": "", "offset": 0}}});
        assert_eq!(value(&Reply { event, reply_to: None }), expected);
    }
}

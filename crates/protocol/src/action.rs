//! What clients say. One frame is one action; a frame that is none gets an error with the words that existing
//! clients know (`Invalid JSON format`, `Unknown action: X`, `Empty message`), never a closed connection.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::{
    address::Address,
    fields::{FieldError, Fields, describe, shorten},
    ids::{CallbackId, MessageId, TaskId, TopicName, UserId},
    payload::Payload,
    position::Position,
};

/// The longest `id` of an action when it is a string, and the longest `answer_id`, in bytes.
pub const LONGEST_ACTION_ID: usize = 64;

const ACTIONS: [&str; 9] =
    ["ping", "subscribe", "unsubscribe", "confirm", "cancel", "ack", "publish", "presence", "refresh"];

/// An action and the name that its reply has to carry.
#[derive(Debug, Clone, PartialEq)]
pub struct Incoming {
    /// The client's `id`, a string or a number; echoed as `reply_to`.
    pub id: Option<Value>,
    /// What is wanted, or what is wrong with it.
    pub action: Result<Action, ActionError>,
}

/// What a client wants.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Answer with everything that was sent.
    Ping {
        /// The whole object.
        data: Map<String, Value>,
    },
    /// Hear these addresses.
    Subscribe {
        /// At least one, unless `user_id` is given.
        subscriptions: Vec<Subscription>,
        /// One's own id, or the one that a guest wants to become.
        user_id: Option<UserId>,
        /// Hear `joined` and `left` of these topics, too.
        presence: bool,
    },
    /// Hear them no longer.
    Unsubscribe {
        /// At least one.
        addresses: Vec<Address>,
    },
    /// Answer a callback.
    Confirm {
        /// Which.
        callback_id: CallbackId,
        /// The answer.
        answer: Answer,
    },
    /// Cancel a task.
    Cancel {
        /// Which.
        task_id: TaskId,
        /// Whose; one's own unless a guest says it.
        user_id: Option<UserId>,
    },
    /// Acknowledge a message.
    Ack {
        /// The `message_id` that it carried.
        message_id: MessageId,
    },
    /// Publish to a topic.
    Publish {
        /// Which.
        topic: TopicName,
        /// What.
        message: Payload,
    },
    /// Ask who is there.
    Presence {
        /// Where.
        topic: TopicName,
    },
    /// Go on with a new token.
    Refresh {
        /// The new token.
        token: String,
    },
}

/// One address that a client wants to hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Which.
    pub address: Address,
    /// The position from which to replay.
    pub since: Option<Position>,
}

/// What a person answered.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answer {
    /// Yes or no; with options it may be left to the option.
    pub proceed: Option<bool>,
    /// Free text.
    pub feedback: Option<String>,
    /// The id of an offered option.
    pub choice: Option<String>,
    /// What the question's schema asked for.
    pub data: Option<Value>,
    /// The client's own name of this answer, so that its repeat is accepted again.
    pub answer_id: Option<String>,
}

/// Why a frame is no action.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActionError {
    /// Not one JSON object.
    #[error("Invalid JSON format")]
    InvalidJson,
    /// Nothing in it.
    #[error("Empty message")]
    Empty,
    /// A word that is no action.
    #[error("Unknown action: {0}")]
    Unknown(String),
    /// A field is missing or wrong.
    #[error(transparent)]
    Field(#[from] FieldError),
}

impl ActionError {
    /// The `code` of the error event.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidJson => "invalid_json",
            Self::Empty => "empty_message",
            Self::Unknown(_) => "unknown_action",
            Self::Field(_) => "invalid_field",
        }
    }
}

impl Incoming {
    /// Reads one frame, a text or a binary one that holds UTF-8.
    pub fn parse(text: &str) -> Self {
        let error = |error| Self { id: None, action: Err(error) };
        if text.trim().is_empty() {
            return error(ActionError::Empty);
        }
        let Ok(Value::Object(map)) = serde_json::from_str(text) else { return error(ActionError::InvalidJson) };
        if map.is_empty() {
            return error(ActionError::Empty);
        }
        let fields = Fields::of(&map);
        let id = match id(&fields) {
            Ok(id) => id,
            Err(wrong) => return error(wrong.into()),
        };
        if let Some("ping") = map.get("action").and_then(Value::as_str) {
            return Self { id, action: Ok(Action::Ping { data: map }) };
        }
        Self { id, action: Action::parse(&fields) }
    }
}

fn id(fields: &Fields<'_>) -> Result<Option<Value>, FieldError> {
    match fields.get("id") {
        None => Ok(None),
        Some(Value::String(text)) if text.len() <= LONGEST_ACTION_ID => Ok(Some(Value::String(text.clone()))),
        Some(Value::Number(number)) => Ok(Some(Value::Number(number.clone()))),
        Some(_) => Err(fields.wrong("id", format!("a number or a string of at most {LONGEST_ACTION_ID} bytes"))),
    }
}

impl Action {
    fn parse(fields: &Fields<'_>) -> Result<Self, ActionError> {
        let name = match fields.get("action") {
            Some(Value::String(name)) => name.as_str(),
            _ => return Err(fields.wrong("action", format!("one of {}", ACTIONS.join(", "))).into()),
        };
        Ok(match name {
            "subscribe" => subscribe(fields)?,
            "unsubscribe" => unsubscribe(fields)?,
            "confirm" => Self::Confirm {
                callback_id: fields.required("callback_id", CallbackId::parse)?,
                answer: Answer::from_fields(fields)?,
            },
            "cancel" => Self::Cancel {
                task_id: fields.required("task_id", TaskId::parse)?,
                user_id: fields.parsed("user_id", UserId::parse)?,
            },
            "ack" => Self::Ack { message_id: fields.required("message_id", MessageId::parse)? },
            "publish" => Self::Publish {
                topic: fields.required("topic", TopicName::parse)?,
                message: match fields.object("message")? {
                    Some(message) => Payload::parse_body(Bytes::from(Value::Object(message.clone()).to_string()))?,
                    None => return Err(fields.wrong("message", "a JSON object").into()),
                },
            },
            "presence" => Self::Presence { topic: fields.required("topic", TopicName::parse)? },
            "refresh" => Self::Refresh { token: fields.required_text("token")?.to_owned() },
            other => return Err(ActionError::Unknown(shorten(other))),
        })
    }

    /// Its name on the wire, also a label of metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ping { .. } => "ping",
            Self::Subscribe { .. } => "subscribe",
            Self::Unsubscribe { .. } => "unsubscribe",
            Self::Confirm { .. } => "confirm",
            Self::Cancel { .. } => "cancel",
            Self::Ack { .. } => "ack",
            Self::Publish { .. } => "publish",
            Self::Presence { .. } => "presence",
            Self::Refresh { .. } => "refresh",
        }
    }
}

impl Answer {
    /// Reads the fields of a `confirm`. Whether they fit the question is [`crate::question::Question::judge`]'s to say.
    ///
    /// # Errors
    /// A field of the wrong type, or an answer that says nothing at all.
    pub fn from_fields(fields: &Fields<'_>) -> Result<Self, FieldError> {
        let answer = Self {
            proceed: fields.flag("proceed")?,
            feedback: fields.text("feedback")?.map(str::to_owned),
            choice: fields.text("choice")?.map(str::to_owned),
            data: fields.get("data").cloned(),
            answer_id: fields.text("answer_id")?.map(str::to_owned),
        };
        if answer.answer_id.as_ref().is_some_and(|id| id.is_empty() || id.len() > LONGEST_ACTION_ID) {
            return Err(fields.wrong("answer_id", format!("1 to {LONGEST_ACTION_ID} bytes of text")));
        }
        if answer.proceed.is_none() && answer.choice.is_none() {
            return Err(fields.wrong("proceed", "true or false"));
        }
        Ok(answer)
    }
}

fn subscribe(fields: &Fields<'_>) -> Result<Action, FieldError> {
    let user_id = fields.parsed("user_id", UserId::parse)?;
    let mut subscriptions: Vec<_> =
        shorthands(fields)?.into_iter().map(|address| Subscription { address, since: None }).collect();
    if let (Some(only), Some(since)) = (subscriptions.first_mut(), fields.object("since")?) {
        only.since = Some(Position::from_fields(&Fields::within("since", since))?);
    }
    for (at, item) in fields.list("topics")?.unwrap_or_default().iter().enumerate() {
        subscriptions.push(subscription(&format!("topics[{at}]"), item)?);
    }
    if subscriptions.is_empty() && user_id.is_none() {
        return Err(nothing_named(fields));
    }
    Ok(Action::Subscribe { subscriptions, user_id, presence: fields.flag("presence")?.unwrap_or(false) })
}

fn unsubscribe(fields: &Fields<'_>) -> Result<Action, FieldError> {
    let mut addresses = shorthands(fields)?;
    for (at, item) in fields.list("topics")?.unwrap_or_default().iter().enumerate() {
        addresses.push(subscription(&format!("topics[{at}]"), item)?.address);
    }
    if addresses.is_empty() { Err(nothing_named(fields)) } else { Ok(Action::Unsubscribe { addresses }) }
}

fn nothing_named(fields: &Fields<'_>) -> FieldError {
    fields.wrong("topic", "a topic (or topics, task_id, workflow_id)")
}

/// `topic`, `task_id` and `workflow_id`, in this order.
fn shorthands(fields: &Fields<'_>) -> Result<Vec<Address>, FieldError> {
    let named = |name: &str, prefix: &'static str| {
        fields.parsed(name, move |id| {
            TaskId::parse(id).and_then(|id| TopicName::parse(&format!("{prefix}{id}"))).map(Address::Topic)
        })
    };
    let all = [
        fields.parsed("topic", Address::parse_client)?,
        named("task_id", "task:")?,
        named("workflow_id", "workflow:")?,
    ];
    Ok(all.into_iter().flatten().collect())
}

/// An item of `topics`: a name, or `{topic, since}`.
fn subscription(path: &str, item: &Value) -> Result<Subscription, FieldError> {
    match item {
        Value::String(name) => Address::parse_client(name)
            .map(|address| Subscription { address, since: None })
            .map_err(|error| FieldError { field: path.to_owned(), ..error }),
        Value::Object(map) => {
            let fields = Fields::within(path, map);
            let address = fields.required("topic", Address::parse_client)?;
            let since_path = format!("{path}.since");
            let since = fields
                .object("since")?
                .map(|map| Position::from_fields(&Fields::within(&since_path, map)))
                .transpose()?;
            Ok(Subscription { address, since })
        }
        other => Err(FieldError::new(path, "a name or {topic, since}", describe(other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: &Value) -> Result<Action, ActionError> {
        Incoming::parse(&value.to_string()).action
    }

    fn topic(name: &str) -> Subscription {
        Subscription { address: Address::parse_client(name).unwrap(), since: None }
    }

    #[test]
    fn the_error_texts_are_those_that_existing_clients_know() {
        let cases = [
            ("", "Empty message"),
            ("  \n", "Empty message"),
            ("{}", "Empty message"),
            ("{", "Invalid JSON format"),
            ("[1]", "Invalid JSON format"),
            ("5", "Invalid JSON format"),
            (r#"{"action":"fly"}"#, "Unknown action: fly"),
        ];
        for (frame, message) in cases {
            assert_eq!(Incoming::parse(frame).action.unwrap_err().to_string(), message, "{frame}");
        }
        let deep = format!(r#"{{"action":"ping","x":{}{}}}"#, "[".repeat(50_000), "]".repeat(50_000));
        assert_eq!(Incoming::parse(&deep).action, Err(ActionError::InvalidJson));
    }

    #[test]
    fn a_wrong_field_is_named_with_what_was_expected() {
        let id = "07-000000000000000000000000000000ab";
        let cases = [
            (
                json!({"id": 5}),
                "action: expected one of ping, subscribe, unsubscribe, confirm, cancel, ack, publish, presence, refresh, got nothing",
            ),
            (json!({"action": "confirm", "proceed": true}), "callback_id: expected a string, got nothing"),
            (
                json!({"action": "confirm", "callback_id": "x", "proceed": true}),
                "callback_id: expected two digits (00 to 63), a hyphen and 32 lower-case hex digits, got \"x\"",
            ),
            (json!({"action": "confirm", "callback_id": id}), "proceed: expected true or false, got nothing"),
            (
                json!({"action": "confirm", "callback_id": id, "proceed": "yes"}),
                "proceed: expected true or false, got the string \"yes\"",
            ),
            (json!({"action": "subscribe"}), "topic: expected a topic (or topics, task_id, workflow_id), got nothing"),
            (json!({"action": "subscribe", "topics": ["a", 5]}), "topics[1]: expected a name or {topic, since}, got 5"),
            (
                json!({"action": "subscribe", "topics": [{"topic": "a", "since": {"epoch": "e", "offset": -1}}]}),
                "topics[0].since.offset: expected a whole number of at least 0, got -1",
            ),
            (
                json!({"action": "publish", "topic": "user:x", "message": {}}),
                "topic: expected a name other than \"broadcast\" and \"user:…\", which are addresses of their own, got \"user:x\"",
            ),
            (
                json!({"action": "publish", "topic": "x", "message": {"_meta": 1}}),
                "_meta: expected nothing, as the gateway writes this field itself, got a value",
            ),
            (
                json!({"action": "ping", "id": {}}),
                "id: expected a number or a string of at most 64 bytes, got an object",
            ),
        ];
        for (frame, message) in cases {
            assert_eq!(parse(&frame).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_subscription_may_be_written_in_every_way_that_clients_use() {
        let cases = [
            (json!({"topic": "room:1"}), vec![topic("room:1")]),
            (json!({"topics": ["a", {"topic": "b"}]}), vec![topic("a"), topic("b")]),
            (json!({"task_id": "t1"}), vec![topic("task:t1")]),
            (json!({"workflow_id": "w1", "topic": "broadcast"}), vec![topic("broadcast"), topic("workflow:w1")]),
            (json!({"user_id": "alice"}), vec![]),
        ];
        for (mut frame, expected) in cases {
            frame["action"] = json!("subscribe");
            match parse(&frame) {
                Ok(Action::Subscribe { subscriptions, .. }) => assert_eq!(subscriptions, expected),
                other => panic!("{frame}: {other:?}"),
            }
        }
        let since = json!({"action": "subscribe", "topic": "a", "since": {"epoch": "e1", "offset": 7}});
        let Ok(Action::Subscribe { subscriptions, .. }) = parse(&since) else { panic!("{since}") };
        assert_eq!(subscriptions[0].since, Some(Position::new("e1", 7)));
    }

    #[test]
    fn the_id_is_kept_even_when_the_action_is_wrong() {
        let incoming = Incoming::parse(r#"{"action":"fly","id":"a1"}"#);
        assert_eq!((incoming.id, incoming.action), (Some(json!("a1")), Err(ActionError::Unknown("fly".into()))));
    }

    #[test]
    fn a_long_unknown_action_is_shortened_in_the_reply() {
        let error = parse(&json!({"action": "x".repeat(5000)})).unwrap_err().to_string();
        assert!(error.len() < 120);
    }
}

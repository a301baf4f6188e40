//! What clients say. One frame is one action; a frame that is none gets an error with the words that existing
//! clients know (`Invalid JSON format`, `Unknown action: X`, `Empty message`), never a closed connection. The error is
//! addressed to the action, and to the callback that it wants to answer, whenever these can be read: an answer that is lost
//! in silence could become a decision of the deadline.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::{
    address::Address,
    fields::{FieldError, Fields, describe, shorten},
    ids::{CallbackId, MessageId, TaskId, TopicName, UserId},
    json,
    payload::Payload,
    position::Position,
};

/// The longest `id` of an action when it is a string, and the longest `answer_id`, in bytes.
pub const LONGEST_ACTION_ID: usize = 64;
/// The deepest nesting of an answer's `data`: it travels within a decision within a reply, which readers have to be able to read,
/// too.
pub const DEEPEST_DATA: usize = 100;

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
    /// A `confirm` that cannot be taken, of a callback whose id can be read.
    #[error("{message}")]
    Answer {
        /// The callback, which stays open.
        callback_id: CallbackId,
        /// As for an error event.
        code: &'static str,
        /// What is wrong with the answer.
        message: String,
    },
}

impl ActionError {
    /// The `code` of the error event.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidJson => "invalid_json",
            Self::Empty => "empty_message",
            Self::Unknown(_) => "unknown_action",
            Self::Field(_) => "invalid_field",
            Self::Answer { code, .. } => code,
        }
    }

    /// The same, addressed to the callback that was to be answered.
    fn of_answer(self, callback_id: Option<CallbackId>) -> Self {
        match callback_id {
            Some(callback_id) => Self::Answer { callback_id, code: self.code(), message: self.to_string() },
            None => self,
        }
    }
}

/// Who has to hear that a message cannot be taken, as far as that can be read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sender {
    /// The client's `id` of the action.
    pub id: Option<Value>,
    /// The callback that it wants to answer.
    pub callback_id: Option<CallbackId>,
}

impl Sender {
    /// Reads what can be read from the beginning of a message.
    pub fn of(beginning: &[u8]) -> Self {
        Self::of_fields(&Fields::of(&json::readable_fields(beginning, &["id", "action", "callback_id"])))
    }

    fn of_fields(fields: &Fields<'_>) -> Self {
        let confirms = matches!(fields.text("action"), Ok(Some("confirm")));
        let callback_id = fields.parsed("callback_id", CallbackId::parse).ok().flatten();
        Self { id: id(fields).ok().flatten(), callback_id: callback_id.filter(|_| confirms) }
    }
}

impl Incoming {
    /// Reads one frame, a text or a binary one that holds UTF-8.
    pub fn parse(text: &str) -> Self {
        let error = |error| Self { id: None, action: Err(error) };
        if text.trim().is_empty() {
            return error(ActionError::Empty);
        }
        let map = match json::read(text) {
            Ok(Value::Object(map)) => map,
            Ok(_) => return error(ActionError::InvalidJson),
            Err(why) => return Self::unreadable(text, &why),
        };
        if map.is_empty() {
            return error(ActionError::Empty);
        }
        let fields = Fields::of(&map);
        let id = match id(&fields) {
            Ok(id) => id,
            Err(wrong) => {
                return error(ActionError::from(wrong).of_answer(Sender::of_fields(&fields).callback_id));
            }
        };
        if let Some("ping") = map.get("action").and_then(Value::as_str) {
            return Self { id, action: Ok(Action::Ping { data: map }) };
        }
        Self { id, action: Action::parse(&fields) }
    }

    fn unreadable(text: &str, why: &serde_json::Error) -> Self {
        let Sender { id, callback_id } = Sender::of(text.as_bytes());
        let wrong = ActionError::InvalidJson;
        let action = match callback_id {
            Some(callback_id) => {
                ActionError::Answer { callback_id, code: wrong.code(), message: format!("{wrong}: {why}") }
            }
            None => wrong,
        };
        Self { id, action: Err(action) }
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
            "confirm" => {
                let callback_id = fields.required("callback_id", CallbackId::parse)?;
                let answer = Answer::from_fields(fields)
                    .map_err(|wrong| ActionError::from(wrong).of_answer(Some(callback_id)))?;
                Self::Confirm { callback_id, answer }
            }
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
        if answer.data.as_ref().is_some_and(|data| !is_within(data, DEEPEST_DATA)) {
            return Err(FieldError::new("data", format!("at most {DEEPEST_DATA} nested objects and arrays"), "more"));
        }
        Ok(answer)
    }
}

/// Whether a value has at most so many levels of objects and arrays.
fn is_within(value: &Value, levels: usize) -> bool {
    let within = |value| levels > 0 && is_within(value, levels - 1);
    match value {
        Value::Array(list) => levels > 0 && list.iter().all(within),
        Value::Object(map) => levels > 0 && map.values().all(within),
        _ => true,
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

    const ID: &str = "07-000000000000000000000000000000ab";

    #[test]
    fn half_an_emoji_in_an_answer_is_taken_as_a_replacement_character() {
        let text = r#"{"action":"confirm","id":"\udc00","callback_id":"ID","proceed":false,"feedback":"x\ud83d","data":{"\ud83d":"\ude00"}}"#;
        let incoming = Incoming::parse(&text.replace("ID", ID));
        assert_eq!(incoming.id, Some(json!("\u{fffd}")));
        let Ok(Action::Confirm { answer, .. }) = incoming.action else { panic!("{incoming:?}") };
        assert_eq!(answer.proceed, Some(false));
        assert_eq!(answer.feedback.as_deref(), Some("x\u{fffd}"));
        assert_eq!(answer.data, Some(json!({"\u{fffd}": "\u{fffd}"})));
    }

    #[test]
    fn what_cannot_be_taken_is_refused_to_its_action_and_to_its_callback() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let data =
            |data: &str| format!(r#"{{"action":"confirm","id":7,"callback_id":"{ID}","proceed":false,"data":{data}}}"#);
        for (text, code, said) in [
            (data(r#"{"n":1e400}"#), "invalid_json", "Invalid JSON format: number out of range"),
            (data(&nested(130)), "invalid_json", "Invalid JSON format: recursion limit exceeded"),
            (data("nul"), "invalid_json", "Invalid JSON format: "),
            (data(&nested(DEEPEST_DATA + 1)), "invalid_field", "data: expected at most 100 nested objects and arrays"),
            (data("1").replace("false", "\"no\""), "invalid_field", "proceed: expected true or false, got the string"),
        ] {
            let incoming = Incoming::parse(&text);
            assert_eq!(incoming.id, Some(json!(7)), "{text}");
            let Err(ActionError::Answer { callback_id, code: named, message }) = incoming.action else {
                panic!("{text}")
            };
            assert_eq!((callback_id.to_string().as_str(), named), (ID, code));
            assert!(message.starts_with(said), "{message}");
        }
        assert!(Incoming::parse(&data(&nested(DEEPEST_DATA))).action.is_ok());
        let other = Incoming::parse(r#"{"action":"publish","id":"a","topic":"t","message":{"n":1e400}}"#);
        assert_eq!(other, Incoming { id: Some(json!("a")), action: Err(ActionError::InvalidJson) });
    }

    #[test]
    fn an_answer_whose_id_is_wrong_is_refused_to_its_callback() {
        let text = format!(r#"{{"action":"confirm","id":[],"callback_id":"{ID}","proceed":true}}"#);
        let incoming = Incoming::parse(&text);
        assert!(matches!(incoming.action, Err(ActionError::Answer { code: "invalid_field", .. })), "{incoming:?}");
        assert_eq!(incoming.id, None);
        let text = format!(r#"{{"action":"fly","id":1,"callback_id":"{ID}","x":1e400}}"#);
        assert_eq!(Incoming::parse(&text).action, Err(ActionError::InvalidJson));
    }

    #[test]
    fn a_long_unknown_action_is_shortened_in_the_reply() {
        let error = parse(&json!({"action": "x".repeat(5000)})).unwrap_err().to_string();
        assert!(error.len() < 120);
    }
}

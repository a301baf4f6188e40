//! The body that opens a callback (`POST /v1/notifications`, inbox op `notify`), and the `task_step_result` that clients see
//! of it. The producer's `result`, `options` and `schema` reach the client as the bytes that they came as.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};

use crate::{
    callback::OnTimeout,
    fields::{FieldError, Fields},
    ids::{CallbackId, IdempotencyKey, ReplyName, TaskId, UserId},
    json::{self, DEEPEST},
    payload::JsonText,
    question::Question,
};

/// What a backend asks a person.
#[derive(Debug, Clone)]
pub struct Notification {
    /// Whom.
    pub user_id: UserId,
    /// About which task.
    pub task_id: TaskId,
    /// Seconds until the deadline; the node's default when absent.
    pub timeout: Option<f64>,
    /// What the deadline decides; the node's default when absent.
    pub on_timeout: Option<OnTimeout>,
    /// The producer's name of this request.
    pub idempotency_key: Option<IdempotencyKey>,
    /// The list to which the decision is to be pushed too.
    pub reply_to: Option<ReplyName>,
    /// What may be answered.
    pub question: Question,
    /// The body without its idempotency key and its reply list, in one canonical text: equal requests have equal texts.
    pub canonical: String,
    /// The fields of the client's message between `task_id` and `deadline`, as JSON text without braces.
    shown: String,
}

/// The result of one step, as a worker reports it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct StepResult {
    /// The name of the step.
    #[serde(default)]
    pub step: Option<String>,
    /// Whatever the step produced.
    #[serde(default)]
    pub result: Value,
    /// Whether the step came to its end.
    #[serde(default)]
    pub completed: bool,
    /// For people.
    pub message: String,
    /// A word of the producer's, such as `completed` or `failed`.
    pub status: String,
    /// For programs, when it failed.
    #[serde(default)]
    pub error_code: Option<String>,
    /// For people, when it failed.
    #[serde(default)]
    pub error_message: Option<String>,
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow)]
    step_result: RawStep<'a>,
    #[serde(borrow, default)]
    options: Option<&'a RawValue>,
    #[serde(borrow, default)]
    schema: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RawStep<'a> {
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
}

impl Notification {
    /// Reads a body.
    ///
    /// # Errors
    /// Not one JSON object, or the first field that is wrong.
    pub fn parse(body: &[u8]) -> Result<Self, FieldError> {
        let wrong = |got: String| {
            FieldError::new("body", format!("one JSON object in UTF-8, at most {DEEPEST} levels deep"), got)
        };
        let text = std::str::from_utf8(body).map_err(|_| wrong("bytes that are not UTF-8".to_owned()))?;
        let text = &*json::mended(text);
        let mut map = match serde_json::from_str(text).map_err(|error| wrong(error.to_string()))? {
            Value::Object(map) => map,
            other => return Err(wrong(crate::fields::describe(&other))),
        };
        let fields = Fields::of(&map);
        fields.only(&FIELDS)?;
        let user_id = fields.required("user_id", UserId::parse)?;
        let task_id = fields.required("task_id", TaskId::parse)?;
        let timeout = fields.number("timeout")?;
        let on_timeout = fields.parsed("on_timeout", OnTimeout::parse)?;
        let idempotency_key = fields.parsed("idempotency_key", IdempotencyKey::parse)?;
        let reply_to = fields.parsed("reply_to", ReplyName::parse)?;
        let step = match fields.get("step") {
            None => Value::Null,
            Some(step @ (Value::Number(_) | Value::String(_))) => step.clone(),
            Some(_) => return Err(fields.wrong("step", "a number or a string")),
        };
        let question = Question::asked(&fields)?;
        let result = fields.object("step_result")?.ok_or_else(|| {
            fields.wrong(
                "step_result",
                "an object {step?, result?, completed?, message, status, error_code?, error_message?}",
            )
        })?;
        let raw: Raw<'_> = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        let result = Fields::within("step_result", result);
        result.only(&STEP_FIELDS)?;
        let shown = shown(&step, &result, &raw)?;
        map.remove("idempotency_key");
        map.remove("reply_to");
        let canonical = canonical(map);
        Ok(Self { user_id, task_id, timeout, on_timeout, idempotency_key, reply_to, question, canonical, shown })
    }

    /// The body of a request made by a program that holds its parts.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn new(step_result: &StepResult, user_id: &str, task_id: &str, step: u64) -> Result<Self, FieldError> {
        let body =
            serde_json::json!({"user_id": user_id, "task_id": task_id, "step": step, "step_result": step_result});
        Self::parse(body.to_string().as_bytes())
    }

    /// The `task_step_result` that clients get, but for its closing `,"deadline":…,"timestamp":…}`, which only the clock
    /// that decides can write.
    pub fn message_head(&self, id: CallbackId) -> String {
        format!(
            r#"{{"type":"task_step_result","callback_id":"{id}","user_id":{},"task_id":{},{}"#,
            JsonText(self.user_id.as_str()),
            JsonText(self.task_id.as_str()),
            self.shown
        )
    }
}

/// Of a body. Another one is refused: a misspelt `on_timeout` would turn silence into consent.
const FIELDS: [&str; 10] = [
    "user_id",
    "task_id",
    "step",
    "step_result",
    "timeout",
    "on_timeout",
    "options",
    "schema",
    "idempotency_key",
    "reply_to",
];

/// Of its `step_result`.
const STEP_FIELDS: [&str; 7] = ["step", "result", "completed", "message", "status", "error_code", "error_message"];

fn shown(step: &Value, result: &Fields<'_>, raw: &Raw<'_>) -> Result<String, FieldError> {
    let optional = |name: &str| {
        result.text(name).map(|text| text.map_or_else(|| "null".to_owned(), |text| JsonText(text).to_string()))
    };
    let raw_or_null = |value: Option<&RawValue>| value.map_or("null", RawValue::get).to_owned();
    let mut out = String::new();
    write!(
        out,
        r#""step":{step},"step_name":{},"message":{},"result":{},"status":{},"completed":{},"error_code":{},"error_message":{},"options":{}"#,
        optional("step")?,
        JsonText(result.required_text("message")?),
        raw_or_null(raw.step_result.result),
        JsonText(result.required_text("status")?),
        result.flag("completed")?.unwrap_or(false),
        optional("error_code")?,
        optional("error_message")?,
        raw_or_null(raw.options),
    )
    .expect("writing to a string cannot fail");
    if let Some(schema) = raw.schema.filter(|schema| schema.get() != "null") {
        write!(out, r#","schema":{schema}"#).expect("writing to a string cannot fail");
    }
    Ok(out)
}

/// Keys in order at every level, so that equal bodies have equal texts.
fn canonical(map: Map<String, Value>) -> String {
    fn sorted(value: Value) -> Value {
        match value {
            Value::Object(map) => {
                let mut pairs: Vec<_> = map.into_iter().collect();
                pairs.sort_by(|a, b| a.0.cmp(&b.0));
                Value::Object(pairs.into_iter().map(|(key, value)| (key, sorted(value))).collect())
            }
            Value::Array(list) => Value::Array(list.into_iter().map(sorted).collect()),
            other => other,
        }
    }
    sorted(Value::Object(map)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Partition;
    use serde_json::json;

    fn body() -> Value {
        json!({"user_id": "user_123", "task_id": "task_456", "step": 1, "step_result": {
            "step": "data_validation", "message": "found 5 errors", "status": "completed", "completed": true, "result": {"validated_rows": 1000}}})
    }

    fn message(notification: &Notification) -> Value {
        let id = CallbackId::new(Partition::of(&notification.user_id), 1);
        serde_json::from_str(&(notification.message_head(id) + r#","deadline":2.0,"timestamp":1.0}"#)).unwrap()
    }

    #[test]
    fn clients_see_the_fields_that_existing_clients_know() {
        let notification = Notification::parse(body().to_string().as_bytes()).unwrap();
        let id = CallbackId::new(Partition::of(&notification.user_id), 1);
        assert_eq!(
            message(&notification),
            json!({"type": "task_step_result", "callback_id": id, "user_id": "user_123", "task_id": "task_456", "step": 1, "step_name": "data_validation",
                "message": "found 5 errors", "result": {"validated_rows": 1000}, "status": "completed", "completed": true, "error_code": null, "error_message": null,
                "options": null, "deadline": 2.0, "timestamp": 1.0})
        );
    }

    #[test]
    fn the_result_keeps_its_bytes() {
        let text = body()
            .to_string()
            .replace(r#"{"validated_rows":1000}"#, r#"{"b":1.50, "a":123456789012345678901234567890}"#);
        let notification = Notification::parse(text.as_bytes()).unwrap();
        let id = CallbackId::new(Partition::of(&notification.user_id), 1);
        assert!(notification.message_head(id).contains(r#""result":{"b":1.50, "a":123456789012345678901234567890}"#));
    }

    #[test]
    fn half_an_emoji_is_asked_as_a_replacement_character() {
        let text = body().to_string().replace("found 5 errors", r"found \ud83d").replace("validated_rows", r"\uDE00");
        let asked = Notification::parse(text.as_bytes()).unwrap();
        let message = message(&asked);
        assert_eq!(message["message"], "found \u{fffd}");
        assert_eq!(message["result"], json!({"\u{fffd}": 1000}));
    }

    #[test]
    fn equal_requests_have_equal_texts_whatever_their_key_their_reply_list_and_white_space() {
        let one = Notification::parse(body().to_string().as_bytes()).unwrap();
        let mut other = body();
        other["idempotency_key"] = json!("k1");
        other["reply_to"] = json!("job:42");
        let other = Notification::parse(serde_json::to_string_pretty(&other).unwrap().as_bytes()).unwrap();
        assert_eq!(one.canonical, other.canonical);
        assert_eq!(other.idempotency_key.unwrap().as_str(), "k1");
        assert_eq!(other.reply_to.unwrap().as_str(), "job:42");
    }

    #[test]
    fn a_wrong_field_is_named() {
        let cases = [
            (json!({"user_id": null}), "user_id"),
            (json!({"user_id": 5}), "user_id"),
            (json!({"user_id": "a\nb"}), "user_id"),
            (json!({"task_id": ""}), "task_id"),
            (json!({"step": []}), "step"),
            (json!({"timeout": "soon"}), "timeout"),
            (json!({"on_timeout": "maybe"}), "on_timeout"),
            (json!({"step_result": "x"}), "step_result"),
            (json!({"step_result": {"status": "s"}}), "step_result.message"),
            (json!({"step_result": {"message": "m"}}), "step_result.status"),
            (json!({"step_result": {"message": "m", "status": "s", "completed": "yes"}}), "step_result.completed"),
            (json!({"options": [{"id": ""}]}), "options[0].id"),
            (json!({"on_timout": "decline"}), "on_timout"),
            (json!({"step_result": {"message": "m", "status": "s", "complete": true}}), "step_result.complete"),
            (json!({"options": [{"id": "a", "label": "A", "procede": false}]}), "options[0].procede"),
            (
                json!({"schema": {"type": "object", "properties": {"a": {"type": "string", "format": "mac"}}}}),
                "schema.properties.a.format",
            ),
            (json!({"idempotency_key": ""}), "idempotency_key"),
            (json!({"reply_to": ""}), "reply_to"),
            (json!({"reply_to": 42}), "reply_to"),
            (json!({"schema": {}}), "schema.type"),
            (json!({"schema": []}), "schema"),
        ];
        for (change, field) in cases {
            let mut wrong = body();
            for (key, value) in change.as_object().unwrap() {
                wrong[key] = value.clone();
            }
            assert_eq!(Notification::parse(wrong.to_string().as_bytes()).unwrap_err().field, field);
        }
        for wrong in ["", "[]", "{", "\u{0}"] {
            assert_eq!(Notification::parse(wrong.as_bytes()).unwrap_err().field, "body");
        }
    }
}

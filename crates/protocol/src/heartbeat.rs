//! The body that starts a heartbeat (`PUT /v1/tasks/{id}/heartbeat`, inbox op `heartbeat`), and the message that clients see
//! of each beat.

use std::time::Duration;

use serde_json::Value;

use crate::{
    fields::{FieldError, Fields, describe},
    ids::{TaskId, UserId},
    json,
    payload::JsonText,
};

/// Seconds between two messages, when the producer names none.
pub const INTERVAL: u64 = 30;
/// The most seconds between two messages; the least is 1.
pub const LONGEST_INTERVAL: u64 = 3600;
/// Seconds until a heartbeat ends, when the producer does not say.
pub const TTL: u64 = 3600;
/// The most seconds that a heartbeat may last without being started again; the least is 1.
pub const LONGEST_TTL: u64 = 604_800;

/// "Still executing", every `interval` until `ttl` is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// Who hears it.
    pub user_id: UserId,
    /// Between two messages; whole seconds.
    pub interval: Duration,
    /// From now to the end; whole seconds.
    pub ttl: Duration,
}

impl Heartbeat {
    /// Reads a body.
    ///
    /// # Errors
    /// Not one JSON object, or the first field that is wrong.
    pub fn parse(body: &[u8]) -> Result<Self, FieldError> {
        let wrong = |got: String| FieldError::new("body", "{user_id, interval?, ttl?}", got);
        let text = std::str::from_utf8(body).map_err(|_| wrong("bytes that are not UTF-8".to_owned()))?;
        match json::read(text) {
            Ok(Value::Object(map)) => {
                let fields = Fields::of(&map);
                fields.only(&["user_id", "interval", "ttl"])?;
                Self::from_fields(&fields)
            }
            Ok(other) => Err(wrong(describe(&other))),
            Err(error) => Err(wrong(error.to_string())),
        }
    }

    /// Reads the fields of a body.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn from_fields(fields: &Fields<'_>) -> Result<Self, FieldError> {
        Ok(Self {
            user_id: fields.required("user_id", UserId::parse)?,
            interval: seconds(fields, "interval", INTERVAL, LONGEST_INTERVAL)?,
            ttl: seconds(fields, "ttl", TTL, LONGEST_TTL)?,
        })
    }

    /// The message of each beat without its closing `,"timestamp":…}`.
    pub fn message_head(&self, task: &TaskId) -> String {
        let (user, task) = (JsonText(self.user_id.as_str()), JsonText(task.as_str()));
        format!(r#"{{"type":"heartbeat","user_id":{user},"task_id":{task},"message":"Task is still executing""#)
    }
}

fn seconds(fields: &Fields<'_>, name: &str, default: u64, most: u64) -> Result<Duration, FieldError> {
    let wrong = || fields.wrong(name, format!("a whole number of seconds from 1 to {most}"));
    match fields.get(name) {
        None => Ok(Duration::from_secs(default)),
        // 30.0 is whole: some languages write their numbers so.
        Some(value) => value
            .as_f64()
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .filter(|length| length.subsec_nanos() == 0 && (1..=most).contains(&length.as_secs()))
            .ok_or_else(wrong),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(body: &Value) -> Result<Heartbeat, FieldError> {
        Heartbeat::parse(body.to_string().as_bytes())
    }

    #[test]
    fn what_is_not_said_has_a_default_and_limits_are_inclusive() {
        let heartbeat = parse(&json!({"user_id": "alice"})).unwrap();
        assert_eq!((heartbeat.interval.as_secs(), heartbeat.ttl.as_secs()), (30, 3600));
        for (interval, ttl) in [(json!(1), json!(1)), (json!(3600), json!(604_800)), (json!(5.0), json!(10.0))] {
            assert!(parse(&json!({"user_id": "alice", "interval": interval, "ttl": ttl})).is_ok(), "{interval} {ttl}");
        }
    }

    #[test]
    fn a_wrong_field_is_named_with_its_limits() {
        let whole = "expected a whole number of seconds from 1 to";
        for (body, expected) in [
            (json!({}), "user_id: expected a string, got nothing".to_owned()),
            (json!({"user_id": "a", "interval": 0}), format!("interval: {whole} 3600, got 0")),
            (json!({"user_id": "a", "interval": 3601}), format!("interval: {whole} 3600, got 3601")),
            (json!({"user_id": "a", "interval": 1.5}), format!("interval: {whole} 3600, got 1.5")),
            (json!({"user_id": "a", "interval": "30"}), format!("interval: {whole} 3600, got the string \"30\"")),
            (json!({"user_id": "a", "ttl": -1}), format!("ttl: {whole} 604800, got -1")),
            (json!({"user_id": "a", "ttl": 604_801}), format!("ttl: {whole} 604800, got 604801")),
        ] {
            assert_eq!(parse(&body).unwrap_err().to_string(), expected);
        }
        for body in ["", "[]", "5", "{"] {
            assert_eq!(Heartbeat::parse(body.as_bytes()).unwrap_err().field, "body");
        }
    }

    #[test]
    fn a_beat_is_what_existing_clients_know() {
        let heartbeat = parse(&json!({"user_id": "al\"ice"})).unwrap();
        let message = format!("{},\"timestamp\":1.500}}", heartbeat.message_head(&TaskId::parse("t\\1").unwrap()));
        let expected = json!({"type": "heartbeat", "user_id": "al\"ice", "task_id": "t\\1", "message": "Task is still executing", "timestamp": 1.5});
        assert_eq!(serde_json::from_str::<Value>(&message).unwrap(), expected);
    }
}

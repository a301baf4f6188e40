//! Reads one frame of the gateway. What carries `_meta` came over a channel: it is a producer's message, unless it is
//! news about the user (a question, an end, a cancellation, a heartbeat) over the user's own address without a position,
//! which only the gateway publishes. What carries none is the gateway's own word to this very connection.
//!
//! JSON has numbers and depths that this library does not read. Of such a frame the other fields are read: a message of which a
//! part is missing is told as missed, and a question or a reply is told without that part.

use std::{borrow::Cow, collections::BTreeMap};

use countersign_protocol::{Address, ByKind, CallbackId, Decision, Position, Status, json};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use crate::event::{Callback, Connected, Heartbeat, Members, Message, Resolved, TaskCancelled, WhoMoved};

/// One frame.
#[derive(Debug)]
pub(crate) enum Heard {
    Connected(Connected, Vec<(Address, Position, Option<bool>)>),
    Callback(Box<Callback>),
    OpenCallbacks(Vec<CallbackId>),
    Resolved(Resolved),
    TaskCancelled(TaskCancelled),
    Heartbeat(Heartbeat),
    Pong,
    Subscribed {
        address: Address,
        position: Option<Position>,
        recovered: Option<bool>,
    },
    Unsubscribed(Address),
    Accepted,
    Rejected {
        reason: String,
        message: Option<String>,
        decision: Option<Box<Decision>>,
    },
    Presence(Members),
    Joined(WhoMoved),
    Left(WhoMoved),
    Published(Option<Position>),
    Gap(Address, Option<Position>),
    Error {
        code: String,
        message: String,
        limit: Option<u64>,
    },
    Message(Message),
    /// A message that cannot be read.
    Unreadable(Address, Option<Position>),
    Other(Map<String, Value>),
}

/// The gateway's mark on what came over a channel.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Meta {
    topic: Option<String>,
    position: Option<Position>,
}

/// Reads a frame, and the id of the action that it answers.
pub(crate) fn read(text: &str) -> (Heard, Option<u64>) {
    let unreadable = |why: &str| {
        let message = format!("a frame of {} bytes cannot be read: {why}", text.len());
        (Heard::Error { code: "unreadable".to_owned(), message, limit: None }, None)
    };
    match json::read(text) {
        Ok(Value::Object(map)) => whole(map),
        Ok(_) => unreadable("it is not a JSON object"),
        Err(error) => match serde_json::from_str::<BTreeMap<Cow<'_, str>, &RawValue>>(&json::mended(text)) {
            Ok(fields) => in_part(&fields).unwrap_or_else(|| unreadable(&error.to_string())),
            Err(_) => unreadable(&error.to_string()),
        },
    }
}

fn whole(mut map: Map<String, Value>) -> (Heard, Option<u64>) {
    let meta = map.remove("_meta").map(|meta| serde_json::from_value::<Meta>(meta).unwrap_or_default());
    let reply_to = if meta.is_none() { map.get("reply_to").and_then(Value::as_u64) } else { None };
    let heard = match meta {
        None => own_word(&map),
        Some(meta) if is_news(&map, &meta) => news(&map),
        Some(meta) => Some(message(&mut map, meta)),
    };
    (heard.unwrap_or(Heard::Other(map)), reply_to)
}

/// As [`whole`], without the fields that cannot be read.
fn in_part(fields: &BTreeMap<Cow<'_, str>, &RawValue>) -> Option<(Heard, Option<u64>)> {
    // Without its mark a message could pass for a word of the gateway.
    if fields.get("_meta").is_some_and(|meta| serde_json::from_str::<Value>(meta.get()).is_err()) {
        return None;
    }
    let readable = |(name, raw): (&Cow<'_, str>, &&RawValue)| {
        Some((name.clone().into_owned(), serde_json::from_str(raw.get()).ok()?))
    };
    match whole(fields.iter().filter_map(readable).collect()) {
        (Heard::Message(Message { address, position, .. }), _) => Some((Heard::Unreadable(address?, position), None)),
        told => Some(told),
    }
}

fn kind(map: &Map<String, Value>) -> Option<&str> {
    map.get("type").and_then(Value::as_str)
}

fn is_news(map: &Map<String, Value>, meta: &Meta) -> bool {
    let own = meta.topic.as_deref().is_some_and(|topic| topic.starts_with("user:"));
    let cancelled = kind(map) == Some("task_cancelled");
    meta.position.is_none() && (own || cancelled) && news(map).is_some()
}

/// News about the user's callbacks and tasks.
fn news(map: &Map<String, Value>) -> Option<Heard> {
    #[derive(Deserialize)]
    struct Ended {
        callback_id: CallbackId,
        status: Status,
        #[serde(default)]
        by: Option<String>,
        #[serde(default, deserialize_with = "ByKind::deserialize_known")]
        by_kind: Option<ByKind>,
    }
    #[derive(Deserialize)]
    struct Open {
        callback_ids: Vec<CallbackId>,
    }
    match kind(map)? {
        "task_step_result" => decode(map).map(Heard::Callback),
        "open_callbacks" => decode(map).map(|Open { callback_ids }| Heard::OpenCallbacks(callback_ids)),
        "callback_resolved" => decode(map).map(|Ended { callback_id, status, by, by_kind }| {
            Heard::Resolved(Resolved { callback_id, status: Some(status), by, by_kind })
        }),
        "task_cancelled" => decode(map).map(Heard::TaskCancelled),
        "heartbeat" => decode(map).map(Heard::Heartbeat),
        _ => None,
    }
}

/// What the gateway says to this connection alone.
fn own_word(map: &Map<String, Value>) -> Option<Heard> {
    let text = |name: &str| map.get(name).and_then(Value::as_str).map(str::to_owned);
    let address = || Address::parse_client(map.get("topic")?.as_str()?).ok();
    let position = || map.get("position").and_then(|position| Position::deserialize(position).ok());
    match kind(map)? {
        "connected" => decode(map).map(|connected| Heard::Connected(connected, positions(map))),
        "pong" => Some(Heard::Pong),
        "subscription_confirmed" => Some(Heard::Subscribed {
            address: address()?,
            position: position(),
            recovered: map.get("recovered").and_then(Value::as_bool),
        }),
        "unsubscribed" => Some(Heard::Unsubscribed(address()?)),
        "confirmation_accepted" => Some(Heard::Accepted),
        "confirmation_rejected" => Some(Heard::Rejected {
            reason: text("reason").unwrap_or_default(),
            message: text("message"),
            decision: map.get("decision").and_then(|decision| Decision::deserialize(decision).ok()).map(Box::new),
        }),
        "presence" => decode(map).map(Heard::Presence),
        "joined" => decode(map).map(Heard::Joined),
        "left" => decode(map).map(Heard::Left),
        "published" => Some(Heard::Published(position())),
        "gap" => Some(Heard::Gap(address()?, position())),
        "error" => Some(Heard::Error {
            code: text("code").unwrap_or_default(),
            message: text("message").unwrap_or_default(),
            limit: map.get("limit").and_then(Value::as_u64),
        }),
        _ => news(map),
    }
}

fn message(map: &mut Map<String, Value>, meta: Meta) -> Heard {
    let address = meta.topic.and_then(|topic| Address::parse_client(&topic).ok());
    if matches!(address, Some(Address::User(_))) {
        map.remove("target_user_id");
    }
    Heard::Message(Message { address, position: meta.position, body: std::mem::take(map) })
}

/// `positions` of `connected`.
fn positions(map: &Map<String, Value>) -> Vec<(Address, Position, Option<bool>)> {
    let Some(Value::Object(positions)) = map.get("positions") else { return Vec::new() };
    let one = |(name, told): (&String, &Value)| {
        let recovered = told.get("recovered").and_then(Value::as_bool);
        Some((Address::parse_client(name).ok()?, Position::deserialize(told).ok()?, recovered))
    };
    positions.iter().filter_map(one).collect()
}

fn decode<'a, T: Deserialize<'a>>(map: &'a Map<String, Value>) -> Option<T> {
    T::deserialize(map).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn heard(value: &Value) -> Heard {
        read(&value.to_string()).0
    }

    #[test]
    fn what_is_published_on_a_topic_cannot_pass_for_a_word_of_the_gateway() {
        let id = "07-000000000000000000000000000000ab";
        let words = [
            json!({"type": "confirmation_accepted", "callback_id": id, "reply_to": 1}),
            json!({"type": "callback_resolved", "callback_id": id, "status": "confirmed", "by": "x"}),
            json!({"type": "open_callbacks", "callback_ids": []}),
            json!({"type": "connected", "connection_id": "c", "node_id": "n", "ping_interval": 1.0}),
        ];
        for mut word in words {
            assert!(!matches!(heard(&word), Heard::Message(_)), "{word}");
            word["_meta"] = json!({"topic": "room:7"});
            assert!(matches!(heard(&word), Heard::Message(_)), "{word}");
            assert_eq!(read(&word.to_string()).1, None);
        }
    }

    #[test]
    fn news_come_over_the_users_own_address_and_have_no_position() {
        let mut news = json!({"type": "callback_resolved", "callback_id": "07-000000000000000000000000000000ab",
            "status": "declined", "by": "alice", "target_user_id": "alice", "_meta": {"topic": "user:alice"}});
        assert!(matches!(
            heard(&news),
            Heard::Resolved(Resolved { status: Some(Status::Declined), by: Some(_), by_kind: None, .. })
        ));
        news["_meta"] = json!({"topic": "user:alice", "position": {"epoch": "e", "offset": 1}});
        assert!(matches!(heard(&news), Heard::Message(_)));
    }

    #[test]
    fn a_message_is_the_object_that_was_published() {
        let routed = json!({"n": 1, "type": "progress", "target_user_id": "alice",
            "_meta": {"topic": "user:alice", "position": {"epoch": "e", "offset": 3}}});
        let Heard::Message(message) = heard(&routed) else { panic!("{routed}") };
        assert_eq!(Value::Object(message.body), json!({"n": 1, "type": "progress"}));
        assert_eq!(message.position, Some(Position::new("e", 3)));
        assert_eq!(message.address.unwrap().to_string(), "user:alice");
    }

    #[test]
    fn words_that_this_version_does_not_know_are_handed_on() {
        let Heard::Other(map) = heard(&json!({"type": "weather", "members": []})) else { panic!("a known word") };
        assert_eq!(map["members"], json!([]));
    }

    #[test]
    fn half_an_emoji_is_read_as_a_replacement_character() {
        let text = r#"{"text":"x\ud83d","\udc00":1,"_meta":{"topic":"broadcast"}}"#;
        let (Heard::Message(message), None) = read(text) else { panic!("{text}") };
        assert_eq!(Value::Object(message.body), json!({"text": "x\u{fffd}", "\u{fffd}": 1}));
    }

    #[test]
    fn what_cannot_be_read_is_never_nothing() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        let position = Position::new("e", 3);
        let at = r#"{"topic":"room:7","position":{"epoch":"e","offset":3}}"#;
        for data in ["1e400", "-1e999", &deep] {
            let text = format!(r#"{{"n":{data},"_meta":{at}}}"#);
            assert!(
                matches!(read(&text).0, Heard::Unreadable(address, Some(told)) if address.to_string() == "topic:room:7" && told == position),
                "{text}"
            );
            let id = "07-000000000000000000000000000000ab";
            let lost = format!(
                r#"{{"type":"confirmation_rejected","callback_id":"{id}","reason":"already_resolved","reply_to":4,"decision":{{"data":{data}}}}}"#
            );
            let (Heard::Rejected { reason, decision: None, .. }, Some(4)) = read(&lost) else { panic!("{lost}") };
            assert_eq!(reason, "already_resolved");
            let question = format!(
                r#"{{"type":"task_step_result","callback_id":"{id}","user_id":"a","task_id":"t","message":"m","status":"s","deadline":2.0,"timestamp":1.0,"result":{data},"_meta":{{"topic":"user:a"}}}}"#
            );
            assert!(matches!(read(&question).0, Heard::Callback(_)), "{question}");
            let forged = format!(r#"{{"type":"pong","reply_to":4,"_meta":{{"x":{data}}}}}"#);
            assert!(matches!(read(&forged), (Heard::Error { .. }, None)), "{forged}");
        }
        for text in ["", "[]", "{", "5", r#"{"a":1e400"#] {
            assert!(matches!(read(text), (Heard::Error { code, .. }, None) if code == "unreadable"), "{text}");
        }
    }
}

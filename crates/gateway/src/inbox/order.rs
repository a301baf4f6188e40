//! What an entry of the inbox says: `op` and `body`, as the matching HTTP call has it, and in fields of their own what HTTP has in
//! its path and headers. Every error names the field.

use std::collections::BTreeMap;

use bytes::Bytes;
use countersign_backplane::inbox::InboxEntry;
use countersign_protocol::{
    Address, FieldError, IdempotencyKey, Notification, Payload, ReplyName, TaskId, TopicName, UserId,
    fields::{Fields, describe, shorten},
    heartbeat::Heartbeat,
    json,
    producer::BatchItem,
};
use serde_json::{Map, Value};

/// What an entry wants done.
#[derive(Debug)]
pub(super) enum Order {
    /// `broadcast`, `user`, `topic`.
    Publish(BatchItem),
    /// Everything else.
    Other(Errand),
}

/// What an entry wants done beside publishing.
#[derive(Debug)]
pub(super) enum Errand {
    /// `notify`.
    Notify(Box<Notification>),
    /// `cancel`; without a user, every user's task of this name.
    Cancel { user: Option<UserId>, task: TaskId },
    /// `heartbeat`.
    Heartbeat { task: TaskId, heartbeat: Heartbeat },
}

/// The words of `op`.
const OPS: [&str; 6] = ["broadcast", "user", "topic", "notify", "cancel", "heartbeat"];

impl Order {
    /// Reads an entry of a stream, whose body may have `most` bytes. A question without a key has the name of its entry.
    pub(super) fn read(entry: &InboxEntry, stream: &str, most: usize) -> Result<Self, FieldError> {
        let too_long = |length: usize| {
            let expected = format!("at most {most} bytes (PUBLISH_MAX_BYTES)");
            Err(FieldError::new("body", expected, format!("{length} bytes")))
        };
        if entry.fields.is_empty() {
            return too_long(entry.length);
        }
        let mut given = Given::of(entry)?;
        if given.body.is_some_and(|body| body.len() > most) {
            return too_long(given.body.map_or(0, <[u8]>::len));
        }
        let op = given.take("op")?;
        let key = given.parsed("idempotency_key", IdempotencyKey::parse)?;
        match op {
            Some("broadcast") => given.publication(Address::Broadcast, key),
            Some("user") => {
                let user = given.required("user_id", UserId::parse)?;
                given.publication(Address::User(user), key)
            }
            Some("topic") => {
                let topic = given.required("topic", TopicName::parse)?;
                given.publication(Address::Topic(topic), key)
            }
            Some("notify") => {
                let reply_to = given.parsed("reply_to", ReplyName::parse)?;
                let mut notification = Notification::parse(given.required_body()?)?;
                let key = one("idempotency_key", key, notification.idempotency_key.take())?;
                let own_key = || IdempotencyKey::parse(&format!("inbox:{stream}:{}", entry.id));
                notification.idempotency_key = Some(key.map_or_else(own_key, Ok)?);
                notification.reply_to = one("reply_to", reply_to, notification.reply_to.take())?;
                given.nothing_else()?;
                Ok(Self::Other(Errand::Notify(Box::new(notification))))
            }
            Some("cancel") => {
                let Named { task, user, body } = given.task()?;
                given.nothing_else()?;
                let fields = Fields::of(&body);
                fields.only(&["task_id", "user_id"])?;
                // Without a user it is everybody's, so a variable without a value is refused.
                fields.not_null("user_id")?;
                Ok(Self::Other(Errand::Cancel { user, task }))
            }
            Some("heartbeat") => {
                let Named { task, user, mut body } = given.task()?;
                given.nothing_else()?;
                Fields::of(&body).only(&["task_id", "user_id", "interval", "ttl"])?;
                if let Some(user) = user {
                    body.insert("user_id".to_owned(), Value::String(user.as_str().to_owned()));
                }
                let heartbeat = Heartbeat::from_fields(&Fields::of(&body))?;
                Ok(Self::Other(Errand::Heartbeat { task, heartbeat }))
            }
            other => {
                let got = other.map_or_else(|| "nothing".to_owned(), |op| format!("{:?}", shorten(op)));
                Err(FieldError::new("op", format!("one of {}", OPS.join(", ")), got))
            }
        }
    }
}

/// The list on which the producer of an entry that was refused waits: as much as can be read of it. Never a name that is none.
pub(super) fn list_of(entry: &InboxEntry) -> Option<ReplyName> {
    let fields = if entry.fields.is_empty() { &entry.beginnings } else { &entry.fields };
    let value = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_slice());
    let of_entry = value("reply_to").and_then(|text| ReplyName::parse(std::str::from_utf8(text).ok()?).ok());
    of_entry.or_else(|| {
        let body = value("body").filter(|_| value("op") == Some(b"notify"))?;
        ReplyName::parse(json::readable_fields(body, &["reply_to"]).get("reply_to")?.as_str()?).ok()
    })
}

/// What names a task, in the entry or in its body, and the body, which may be left out.
struct Named {
    task: TaskId,
    user: Option<UserId>,
    body: Map<String, Value>,
}

/// The fields of an entry that are not read yet.
struct Given<'a> {
    fields: BTreeMap<&'a str, &'a [u8]>,
    body: Option<&'a [u8]>,
    /// The names that were asked for.
    known: Vec<&'static str>,
}

impl<'a> Given<'a> {
    fn of(entry: &'a InboxEntry) -> Result<Self, FieldError> {
        let mut fields = BTreeMap::new();
        for (name, value) in &entry.fields {
            if fields.insert(name.as_str(), value.as_slice()).is_some() {
                return Err(FieldError::new(shorten(name), "one value", "several"));
            }
        }
        let body = fields.remove("body");
        Ok(Self { fields, body, known: Vec::new() })
    }

    fn take(&mut self, name: &'static str) -> Result<Option<&'a str>, FieldError> {
        self.known.push(name);
        let Some(value) = self.fields.remove(name) else { return Ok(None) };
        std::str::from_utf8(value).map(Some).map_err(|_| FieldError::new(name, "text in UTF-8", "other bytes"))
    }

    fn parsed<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, FieldError>,
    ) -> Result<Option<T>, FieldError> {
        let named = |error| FieldError { field: name.to_owned(), ..error };
        self.take(name)?.map(|text| parse(text).map_err(named)).transpose()
    }

    fn required<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, FieldError>,
    ) -> Result<T, FieldError> {
        self.parsed(name, parse)?.ok_or_else(|| FieldError::new(name, "a field of this name in the entry", "nothing"))
    }

    fn required_body(&mut self) -> Result<&'a [u8], FieldError> {
        self.body.ok_or_else(|| FieldError::new("body", "a JSON object", "nothing"))
    }

    /// A misspelt field must not be lost in silence.
    fn nothing_else(&self) -> Result<(), FieldError> {
        let Some(name) = self.fields.keys().next() else { return Ok(()) };
        let expected = format!("only the fields body, {} with this op", self.known.join(", "));
        Err(FieldError::new(shorten(name), expected, "this one"))
    }

    fn publication(mut self, address: Address, idempotency_key: Option<IdempotencyKey>) -> Result<Order, FieldError> {
        let body = Bytes::copy_from_slice(self.required_body()?);
        self.nothing_else()?;
        let message = Payload::parse_body(body).map_err(|error| match error.field.as_str() {
            "message" => FieldError { field: "body".to_owned(), ..error },
            _ => error,
        })?;
        Ok(Order::Publish(BatchItem { address, message, idempotency_key }))
    }

    fn task(&mut self) -> Result<Named, FieldError> {
        let wrong = |got: String| FieldError::new("body", "nothing, or a JSON object", got);
        let body = match self.body.filter(|body| !body.trim_ascii().is_empty()) {
            None => Map::new(),
            Some(body) => match std::str::from_utf8(body).map(json::read) {
                Ok(Ok(Value::Object(map))) => map,
                Ok(Ok(other)) => return Err(wrong(describe(&other))),
                Ok(Err(error)) => return Err(wrong(error.to_string())),
                Err(_) => return Err(wrong("bytes that are not UTF-8".to_owned())),
            },
        };
        let fields = Fields::of(&body);
        let task = one("task_id", self.parsed("task_id", TaskId::parse)?, fields.parsed("task_id", TaskId::parse)?)?;
        let user = one("user_id", self.parsed("user_id", UserId::parse)?, fields.parsed("user_id", UserId::parse)?)?;
        let task = task.ok_or_else(|| FieldError::new("task_id", "a task id in the entry or its body", "nothing"))?;
        Ok(Named { task, user, body })
    }
}

/// What may stand in the entry, in its body, or in both when it is the same.
fn one<T: PartialEq>(name: &str, entry: Option<T>, body: Option<T>) -> Result<Option<T>, FieldError> {
    match (entry, body) {
        (Some(entry), Some(body)) if entry != body => {
            Err(FieldError::new(name, "the same in the entry and in its body", "two values"))
        }
        (entry, body) => Ok(entry.or(body)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASK: &str = r#"{"user_id":"alice","task_id":"t1","step":1,"step_result":{"message":"go on?","status":"s"}}"#;

    fn read(fields: &[(&str, &str)]) -> Result<Order, FieldError> {
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
        Order::read(&InboxEntry { id: "17-0".to_owned(), fields, beginnings: Vec::new(), length: 5000 }, "s", 400)
    }

    #[test]
    fn the_list_of_a_refused_question_is_found_where_it_can_be_read() {
        let fields = |fields: &[(&str, &str)]| -> Vec<(String, Vec<u8>)> {
            fields.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect()
        };
        let long = "x".repeat(257);
        for (given, expected) in [
            (vec![("op", "notify"), ("reply_to", "42"), ("body", "nonsense")], Some("42")),
            (vec![("op", "notify"), ("body", r#"{"reply_to":"42","user_id":"#)], Some("42")),
            (vec![("op", "notify"), ("reply_to", "42"), ("body", r#"{"reply_to":"43"}"#)], Some("42")),
            (vec![("op", "notify"), ("reply_to", ""), ("body", r#"{"reply_to":"43"}"#)], Some("43")),
            (vec![("op", "notfy"), ("reply_to", "42"), ("body", "{}")], Some("42")),
            (vec![("op", "broadcast"), ("body", r#"{"reply_to":"42"}"#)], None),
            (vec![("op", "notify"), ("body", r#"{"reply_to":42}"#)], None),
            (vec![("op", "notify"), ("reply_to", &long), ("body", r#"{"reply_to":"a\nb"}"#)], None),
            (vec![("op", "notify")], None),
            (vec![], None),
        ] {
            let whole = InboxEntry { id: "1-0".to_owned(), fields: fields(&given), beginnings: vec![], length: 1 };
            let cut = InboxEntry { fields: vec![], beginnings: whole.fields.clone(), ..whole.clone() };
            for entry in [whole, cut] {
                assert_eq!(list_of(&entry).as_ref().map(ReplyName::as_str), expected, "{given:?}");
            }
        }
    }

    fn published(fields: &[(&str, &str)]) -> BatchItem {
        match read(fields) {
            Ok(Order::Publish(item)) => item,
            other => panic!("{fields:?}: {other:?}"),
        }
    }

    fn asked(fields: &[(&str, &str)]) -> Notification {
        match read(fields) {
            Ok(Order::Other(Errand::Notify(notification))) => *notification,
            other => panic!("{fields:?}: {other:?}"),
        }
    }

    #[test]
    fn a_message_is_its_body_and_has_the_key_that_the_producer_gave_it() {
        let item = published(&[("op", "broadcast"), ("body", r#"{"idempotency_key":5}"#)]);
        assert_eq!((item.address, item.message.as_str()), (Address::Broadcast, r#"{"idempotency_key":5}"#));
        assert_eq!(item.idempotency_key, None);
        let item = published(&[("op", "user"), ("user_id", "alice"), ("body", "{}"), ("idempotency_key", "k")]);
        assert_eq!(item.address, Address::User(UserId::parse("alice").unwrap()));
        assert_eq!(item.idempotency_key.unwrap().as_str(), "k");
        let item = published(&[("body", "{}"), ("topic", "room:1"), ("op", "topic")]);
        assert_eq!(item.address, Address::Topic(TopicName::parse("room:1").unwrap()));
    }

    #[test]
    fn a_question_may_have_its_key_and_its_list_in_either_place() {
        let plain = asked(&[("op", "notify"), ("body", ASK)]);
        assert_eq!(plain.idempotency_key.unwrap().as_str(), "inbox:s:17-0");
        assert_eq!(plain.reply_to, None);
        let within = ASK.replacen('{', r#"{"idempotency_key":"k","reply_to":"42","#, 1);
        for fields in [
            vec![("op", "notify"), ("body", ASK), ("idempotency_key", "k"), ("reply_to", "42")],
            vec![("op", "notify"), ("body", &within)],
            vec![("op", "notify"), ("body", &within), ("reply_to", "42")],
        ] {
            let asked = asked(&fields);
            assert_eq!(asked.idempotency_key.unwrap().as_str(), "k");
            assert_eq!(asked.reply_to.unwrap().as_str(), "42");
            assert_eq!(asked.canonical, plain.canonical);
        }
    }

    #[test]
    fn a_task_may_be_named_in_either_place() {
        for fields in [
            vec![("op", "cancel"), ("task_id", "t1"), ("user_id", "alice")],
            vec![("op", "cancel"), ("body", r#"{"task_id":"t1","user_id":"alice"}"#)],
            vec![("op", "cancel"), ("task_id", "t1"), ("body", r#"{"task_id":"t1","user_id":"alice"}"#)],
        ] {
            match read(&fields) {
                Ok(Order::Other(Errand::Cancel { user: Some(user), task })) => {
                    assert_eq!((user.as_str(), task.as_str()), ("alice", "t1"));
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(
            read(&[("op", "cancel"), ("task_id", "t1")]),
            Ok(Order::Other(Errand::Cancel { user: None, .. }))
        ));
        for fields in [
            vec![("op", "heartbeat"), ("task_id", "t1"), ("body", r#"{"user_id":"alice","interval":5}"#)],
            vec![("op", "heartbeat"), ("body", r#"{"user_id":"alice","task_id":"t1","interval":5}"#)],
            vec![("op", "heartbeat"), ("task_id", "t1"), ("user_id", "alice"), ("body", r#"{"interval":5}"#)],
        ] {
            match read(&fields) {
                Ok(Order::Other(Errand::Heartbeat { task, heartbeat })) => {
                    let Heartbeat { user_id, interval, .. } = heartbeat;
                    assert_eq!((user_id.as_str(), task.as_str(), interval.as_secs()), ("alice", "t1", 5));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn every_reason_names_the_field() {
        let long = format!(r#"{{"text":"{}"}}"#, "x".repeat(400));
        let without_message = ASK.replace("message", "massage");
        for (fields, reason) in [
            (
                vec![("body", "{}")],
                "op: expected one of broadcast, user, topic, notify, cancel, heartbeat, got nothing",
            ),
            (
                vec![("op", "fly"), ("body", "{}")],
                "op: expected one of broadcast, user, topic, notify, cancel, heartbeat, got \"fly\"",
            ),
            (vec![("op", "broadcast")], "body: expected a JSON object, got nothing"),
            (vec![("op", "broadcast"), ("body", "[]")], "body: expected one JSON object in UTF-8, got something else"),
            (
                vec![("op", "broadcast"), ("body", r#"{"_meta":1}"#)],
                "_meta: expected nothing, as the gateway writes this field itself, got a value",
            ),
            (
                vec![("op", "broadcast"), ("body", &long)],
                "body: expected at most 400 bytes (PUBLISH_MAX_BYTES), got 411 bytes",
            ),
            (vec![], "body: expected at most 400 bytes (PUBLISH_MAX_BYTES), got 5000 bytes"),
            (vec![("op", "user"), ("body", "{}")], "user_id: expected a field of this name in the entry, got nothing"),
            (
                vec![("op", "topic"), ("topic", "user:x"), ("body", "{}")],
                "topic: expected a name other than \"broadcast\" and \"user:…\", which are addresses of their own, got \"user:x\"",
            ),
            (
                vec![("op", "broadcast"), ("body", "{}"), ("idempotency_key", "")],
                "idempotency_key: expected 1 to 256 bytes of text without control characters, got an empty string",
            ),
            (
                vec![("op", "notify"), ("body", &without_message)],
                "step_result.massage: expected only the fields step, result, completed, message, status, error_code, \
                 error_message, got this one",
            ),
            (
                vec![("op", "cancel"), ("task_id", "t1"), ("body", r#"{"user_id":null}"#)],
                "user_id: expected a value, or no field of this name, got null",
            ),
            (
                vec![("op", "cancel"), ("task_id", "t1"), ("body", r#"{"userId":"alice"}"#)],
                "userId: expected only the fields task_id, user_id, got this one",
            ),
            (
                vec![("op", "heartbeat"), ("task_id", "t1"), ("body", r#"{"user_id":"a","intervall":5}"#)],
                "intervall: expected only the fields task_id, user_id, interval, ttl, got this one",
            ),
            (
                vec![("op", "notify"), ("body", ASK), ("replyto", "42")],
                "replyto: expected only the fields body, op, idempotency_key, reply_to with this op, got this one",
            ),
            (
                vec![("op", "broadcast"), ("body", "{}"), ("reply_to", "42")],
                "reply_to: expected only the fields body, op, idempotency_key with this op, got this one",
            ),
            (vec![("op", "notify"), ("op", "notify"), ("body", ASK)], "op: expected one value, got several"),
            (
                vec![("op", "cancel"), ("body", "{}")],
                "task_id: expected a task id in the entry or its body, got nothing",
            ),
            (
                vec![("op", "cancel"), ("task_id", "t1"), ("body", r#"{"task_id":"t2"}"#)],
                "task_id: expected the same in the entry and in its body, got two values",
            ),
            (
                vec![("op", "cancel"), ("task_id", "t1"), ("body", "5")],
                "body: expected nothing, or a JSON object, got 5",
            ),
            (vec![("op", "heartbeat"), ("task_id", "t1")], "user_id: expected a string, got nothing"),
        ] {
            assert_eq!(read(&fields).unwrap_err().to_string(), reason, "{fields:?}");
        }
        let bytes = InboxEntry {
            id: "1-0".to_owned(),
            fields: vec![("op".to_owned(), vec![0xff])],
            beginnings: Vec::new(),
            length: 3,
        };
        assert_eq!(
            Order::read(&bytes, "s", 400).unwrap_err().to_string(),
            "op: expected text in UTF-8, got other bytes"
        );
    }
}

//! Bytes that are known to be one JSON object, and the splice that adds routing facts to them.
//!
//! A producer's object is never decoded and encoded again: it is checked once, and the gateway's own fields are
//! written before its closing brace. JSON readers keep the last of equal keys, so the gateway's win.

use std::{fmt, io::Write};

use bytes::{BufMut, Bytes, BytesMut};
use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};

use crate::{
    address::Address,
    fields::FieldError,
    ids::MessageId,
    json::{self, DEEPEST, NotObject, Strings},
    position::Position,
    receipt::RECEIPT_FIELDS,
};

/// Keys that the gateway writes into messages; producers may not use them through HTTP and the inbox.
pub const RESERVED: [&str; 2] = ["target_user_id", "_meta"];

/// One JSON object, as UTF-8 bytes without white space around it.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(Bytes);

impl Payload {
    /// Checks that the bytes are one JSON object in UTF-8, nested at most [`DEEPEST`] deep. Half of a surrogate pair in it becomes
    /// U+FFFD, so that every reader can read the object.
    ///
    /// # Errors
    /// When they are not.
    pub fn parse(bytes: Bytes) -> Result<Self, FieldError> {
        let wrong = |got: String| FieldError::new("message", "one JSON object in UTF-8", got);
        simdutf8::basic::from_utf8(&bytes).map_err(|_| wrong("bytes that are not UTF-8".to_owned()))?;
        let bytes = trim(bytes);
        if bytes.first() != Some(&b'{') {
            return Err(wrong(if bytes.is_empty() { "nothing".to_owned() } else { "something else".to_owned() }));
        }
        match json::check_object(&bytes) {
            Ok(Strings::Whole) => Ok(Self(bytes)),
            Ok(Strings::Halved) => {
                let text = std::str::from_utf8(&bytes).expect("checked above");
                Ok(Self(json::mended(text).into_owned().into()))
            }
            Err(NotObject::TooDeep(_)) => {
                Err(FieldError::new("message", format!("at most {DEEPEST} nested objects and arrays"), "more"))
            }
            Err(NotObject::Malformed(at)) => {
                // The library's words, which say more.
                let said = serde_json::from_slice::<IgnoredAny>(&bytes).err().map(|error| error.to_string());
                Err(wrong(said.unwrap_or_else(|| format!("something else at byte {at}"))))
            }
        }
    }

    /// As [`Self::parse`], and refuses what only bare Redis `PUBLISH` may carry: [`RESERVED`] keys.
    ///
    /// # Errors
    /// The first of these that is wrong.
    pub fn parse_body(bytes: Bytes) -> Result<Self, FieldError> {
        let payload = Self::parse(bytes)?;
        payload.without(&RESERVED, "nothing, as the gateway writes this field itself")?;
        Ok(payload)
    }

    /// Wraps an object that this process has just encoded.
    ///
    /// # Errors
    /// When the value does not become a JSON object.
    pub fn encode<T: serde::Serialize>(value: &T) -> Result<Self, FieldError> {
        let bytes = serde_json::to_vec(value)
            .map_err(|error| FieldError::new("message", "a JSON object", error.to_string()))?;
        if bytes.first() == Some(&b'{') {
            Ok(Self(bytes.into()))
        } else {
            Err(FieldError::new("message", "a JSON object", "another value"))
        }
    }

    /// The object.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// The object as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("checked when it was made")
    }

    /// The object with `"target_user_id"` (for a user's message) and `"_meta"` before its closing brace.
    pub fn with_route(&self, address: &Address, position: Option<&Position>) -> Bytes {
        let mut out = Vec::with_capacity(self.routed_bytes());
        self.append_routed(address, position, &mut out);
        out.into()
    }

    /// About as many bytes as [`Self::append_routed`] appends, in most cases a few more.
    pub fn routed_bytes(&self) -> usize {
        self.0.len() + 160
    }

    /// Appends what [`Self::with_route`] gives. Every message to every client comes through here: nothing is formatted or copied
    /// twice.
    pub fn append_routed(&self, address: &Address, position: Option<&Position>, out: &mut Vec<u8>) {
        let (body, empty) = self.open_end();
        out.extend_from_slice(body);
        if !empty {
            out.push(b',');
        }
        if let Address::User(id) = address {
            out.extend_from_slice(b"\"target_user_id\":");
            append_json_text(&[id.as_str()], out);
            out.push(b',');
        }
        out.extend_from_slice(b"\"_meta\":{\"topic\":");
        match address {
            Address::Broadcast => append_json_text(&["broadcast"], out),
            Address::User(id) => append_json_text(&["user:", id.as_str()], out),
            Address::Topic(name) => append_json_text(&[name.as_str()], out),
        }
        if let Some(Position { epoch, offset }) = position {
            out.extend_from_slice(b",\"position\":{\"epoch\":");
            append_json_text(&[epoch], out);
            write!(out, ",\"offset\":{offset}}}").expect("writing to memory cannot fail");
        }
        out.extend_from_slice(b"}}");
    }

    /// The object with `"message_id"` and `"requires_ack":true` before its closing brace.
    ///
    /// # Errors
    /// When it has one of these fields itself.
    pub fn with_receipt(&self, id: MessageId) -> Result<Self, FieldError> {
        self.without(&RECEIPT_FIELDS, "nothing, as the gateway writes this field itself with ack=true")?;
        let (body, empty) = self.open_end();
        let mut out = BytesMut::with_capacity(body.len() + 80);
        out.put_slice(body);
        out.put_slice(if empty { b"" } else { b"," });
        out.put_slice(format!("\"message_id\":\"{id}\",\"requires_ack\":true}}").as_bytes());
        Ok(Self(out.freeze()))
    }

    /// # Errors
    /// When the object has a field of one of these names.
    fn without(&self, names: &[&'static str], expected: &str) -> Result<(), FieldError> {
        let mut text = serde_json::Deserializer::from_slice(&self.0);
        match KeyAmong(names).deserialize(&mut text) {
            Ok(None) => Ok(()),
            Ok(Some(name)) => Err(FieldError::new(name, expected, "a value")),
            // Keys that cannot be read might be among the names.
            Err(error) => Err(FieldError::new("message", "one JSON object in UTF-8", error.to_string())),
        }
    }

    /// Everything before the closing brace, and whether the object has no field.
    fn open_end(&self) -> (&[u8], bool) {
        let body = self.0.strip_suffix(b"}").expect("an object ends with a brace").trim_ascii_end();
        (body, body == b"{")
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.0.len())
    }
}

/// Appends texts as one JSON string.
fn append_json_text(parts: &[&str], out: &mut Vec<u8>) {
    // Nearly all names need no escape.
    if parts.iter().all(|part| !part.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\')) {
        out.push(b'"');
        for part in parts {
            out.extend_from_slice(part.as_bytes());
        }
        out.push(b'"');
    } else {
        serde_json::to_writer(out, &parts.concat()).expect("a string always encodes, and memory takes it");
    }
}

/// A text as a JSON string.
#[derive(Debug, Clone, Copy)]
pub struct JsonText<'a>(pub &'a str);

impl fmt::Display for JsonText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self.0).expect("a string always encodes"))
    }
}

fn trim(bytes: Bytes) -> Bytes {
    let trimmed = bytes.trim_ascii();
    if trimmed.len() == bytes.len() { bytes } else { bytes.slice_ref(trimmed) }
}

/// The first key of an object that is one of these names, decoded, so that escapes cannot hide one.
struct KeyAmong<'a>(&'a [&'static str]);

impl<'de> DeserializeSeed<'de> for KeyAmong<'_> {
    type Value = Option<&'static str>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for KeyAmong<'_> {
    type Value = Option<&'static str>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some((key, IgnoredAny)) = map.next_entry::<std::borrow::Cow<'de, str>, IgnoredAny>()? {
            found = found.or_else(|| self.0.iter().copied().find(|name| *name == key));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn payload(text: &'static str) -> Payload {
        Payload::parse(Bytes::from_static(text.as_bytes())).unwrap()
    }

    #[test]
    fn only_one_json_object_passes() {
        for wrong in ["", " ", "5", "[]", "\"x\"", "{", "{}{}", "{} x", "{\"a\":}", "null", "{'a':1}"] {
            assert!(Payload::parse(Bytes::from_static(wrong.as_bytes())).is_err(), "{wrong}");
        }
        assert!(Payload::parse(Bytes::from_static(b"{\"a\":\"\xff\"}")).is_err());
        assert_eq!(payload(" {\"a\":1}\r\n").as_str(), "{\"a\":1}");
    }

    #[test]
    fn bodies_may_not_use_the_gateways_fields_however_they_are_written() {
        for wrong in [
            r#"{"_meta":1}"#,
            r#"{"a":1,"target_user_id":"x"}"#,
            r#"{"\u005fmeta":1}"#,
            r#"{"\ud83d":0,"_meta":1}"#,
            r#"{"_meta":1,"\udc00":0}"#,
            r#"{"n":1e400,"_meta":1}"#,
        ] {
            let error = Payload::parse_body(Bytes::from_static(wrong.as_bytes())).unwrap_err();
            assert!(RESERVED.contains(&error.field.as_str()), "{error}");
        }
        assert!(Payload::parse_body(Bytes::from_static(br#"{"a":{"_meta":1}}"#)).is_ok());
    }

    #[test]
    fn half_a_surrogate_pair_becomes_a_character_that_every_reader_can_read() {
        assert_eq!(payload(r#"{"\ud83d":"x\uDC00"}"#).as_str(), r#"{"\ufffd":"x\ufffd"}"#);
        assert_eq!(payload(r#"{"a":"\ud83d\ude00"}"#).as_str(), r#"{"a":"\ud83d\ude00"}"#);
    }

    #[test]
    fn what_is_wrong_with_it_is_said() {
        let said = |text: String| Payload::parse(Bytes::from(text)).unwrap_err().to_string();
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(DEEPEST), "]".repeat(DEEPEST));
        assert_eq!(said(deep), "message: expected at most 127 nested objects and arrays, got more");
        let cut = said(r#"{"a":"#.to_owned());
        assert_eq!(cut, "message: expected one JSON object in UTF-8, got EOF while parsing a value at line 1 column 5");
    }

    #[test]
    fn routing_facts_win_over_equal_keys_and_leave_the_object_as_it_is() {
        let address = Address::parse("user:al\"ice").unwrap();
        let routed =
            payload(r#"{"n":1.0,"target_user_id":"mallory" }"#).with_route(&address, Some(&Position::new("e1", 7)));
        assert!(routed.starts_with(br#"{"n":1.0,"target_user_id":"mallory","#));
        let value: Value = serde_json::from_slice(&routed).unwrap();
        assert_eq!(
            value,
            json!({"n": 1.0, "target_user_id": "al\"ice", "_meta": {"topic": "user:al\"ice", "position": {"epoch": "e1", "offset": 7}}})
        );
    }

    #[test]
    fn a_message_that_wants_an_ack_carries_its_id_and_no_id_of_its_producer() {
        let id = MessageId::parse("07-000000000000000000000000000000ab").unwrap();
        assert_eq!(
            payload(r#"{"n":1.0}"#).with_receipt(id).unwrap().as_str(),
            r#"{"n":1.0,"message_id":"07-000000000000000000000000000000ab","requires_ack":true}"#
        );
        let only: Value = serde_json::from_str(payload("{}").with_receipt(id).unwrap().as_str()).unwrap();
        assert_eq!(only, json!({"message_id": id, "requires_ack": true}));
        for (wrong, field) in [
            (r#"{"message_id":1}"#, "message_id"),
            (r#"{"requires_ack":false}"#, "requires_ack"),
            (r#"{"\u006dessage_id":1}"#, "message_id"),
        ] {
            assert_eq!(payload(wrong).with_receipt(id).unwrap_err().field, field, "{wrong}");
        }
        assert!(payload(r#"{"a":{"message_id":1}}"#).with_receipt(id).is_ok());
    }

    #[test]
    fn an_empty_object_gets_no_comma() {
        let routed = payload("{ }").with_route(&Address::Broadcast, None);
        assert_eq!(routed, r#"{"_meta":{"topic":"broadcast"}}"#.as_bytes());
    }
}

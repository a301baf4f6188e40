//! The other bodies of the producers' doors. A message is published as the object that it is; only a batch wraps it.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{address::Address, fields::FieldError, ids::IdempotencyKey, json, payload::Payload, position::Position};

/// The most messages of one `POST /v1/batch`.
pub const MOST_MESSAGES: usize = 10_000;

/// One message of a batch.
#[derive(Debug, Clone)]
pub struct BatchItem {
    /// Where it goes.
    pub address: Address,
    /// What goes there.
    pub message: Payload,
    /// The producer's name of this message.
    pub idempotency_key: Option<IdempotencyKey>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBatch<'a> {
    #[serde(borrow)]
    messages: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawItem<'a> {
    #[serde(borrow)]
    address: Cow<'a, str>,
    #[serde(borrow)]
    message: &'a RawValue,
    #[serde(borrow, default)]
    idempotency_key: Option<Cow<'a, str>>,
}

/// Reads `{"messages":[{"address", "message", "idempotency_key"?}, …]}`; a wrong item does not spoil the others.
///
/// # Errors
/// When the body as a whole is none.
pub fn parse_batch(body: &Bytes) -> Result<Vec<Result<BatchItem, FieldError>>, FieldError> {
    let shape = r#"{"messages":[{"address", "message", "idempotency_key"?}, …]}"#;
    let text = std::str::from_utf8(body).map_err(|_| FieldError::new("body", shape, "bytes that are not UTF-8"))?;
    if let Cow::Owned(mended) = json::mended(text) {
        return parse_batch(&mended.into());
    }
    let batch: RawBatch<'_> =
        serde_json::from_str(text).map_err(|error| FieldError::new("body", shape, error.to_string()))?;
    if batch.messages.len() > MOST_MESSAGES {
        return Err(FieldError::new(
            "messages",
            format!("at most {MOST_MESSAGES} messages"),
            batch.messages.len().to_string(),
        ));
    }
    Ok(batch.messages.into_iter().enumerate().map(|(at, raw)| item(body, at, raw)).collect())
}

fn item(body: &Bytes, at: usize, raw: &RawValue) -> Result<BatchItem, FieldError> {
    let here = |error: FieldError| FieldError { field: format!("messages[{at}].{}", error.field), ..error };
    let item: RawItem<'_> = serde_json::from_str(raw.get()).map_err(|error| {
        FieldError::new(format!("messages[{at}]"), "{address, message, idempotency_key?}", error.to_string())
    })?;
    Ok(BatchItem {
        address: Address::parse(&item.address).map_err(here)?,
        message: Payload::parse_body(body.slice_ref(item.message.get().as_bytes())).map_err(here)?,
        idempotency_key: item.idempotency_key.as_deref().map(IdempotencyKey::parse).transpose().map_err(here)?,
    })
}

/// What publishing returns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Where the address keeps history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// How many nodes heard it; absent where the backplane cannot know (Redis Cluster), and for a repeat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_item_is_named_and_does_not_spoil_the_others() {
        let body = Bytes::from_static(
            br#"{"messages":[{"address":"broadcast","message":{"n":1.0}},{"address":"nowhere","message":{}},{"address":"topic:t","message":[]},{"address":"user:u","message":{"_meta":0}},{"message":{}}]}"#,
        );
        let items = parse_batch(&body).unwrap();
        assert_eq!(items[0].as_ref().unwrap().message.as_str(), r#"{"n":1.0}"#);
        let fields: Vec<_> = items[1..].iter().map(|item| item.as_ref().unwrap_err().field.clone()).collect();
        assert_eq!(fields, ["messages[1].address", "messages[2].message", "messages[3]._meta", "messages[4]"]);
    }

    #[test]
    fn half_an_emoji_spoils_no_item() {
        let body = Bytes::from_static(
            br#"{"messages":[{"address":"user:\ud83d","message":{"\udc00":"\ud83d"}},{"address":"broadcast","message":{"\ud83d":0,"_meta":1}}]}"#,
        );
        let items = parse_batch(&body).unwrap();
        let item = items[0].as_ref().unwrap();
        assert_eq!(item.address.to_string(), "user:\u{fffd}");
        assert_eq!(item.message.as_str(), r#"{"\ufffd":"\ufffd"}"#);
        assert_eq!(items[1].as_ref().unwrap_err().field, "messages[1]._meta");
    }

    #[test]
    fn a_body_that_is_no_batch_is_refused_as_a_whole() {
        for wrong in ["", "{}", "[]", r#"{"messages":{}}"#, r#"{"messages":[],"x":1}"#] {
            assert_eq!(parse_batch(&Bytes::from_static(wrong.as_bytes())).unwrap_err().field, "body");
        }
    }
}

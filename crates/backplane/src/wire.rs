//! The payload format of publications: a JSON object (first byte `{`: at most once, no position), or
//! `<epoch>:<offset>:` followed by the object. Anything else is bad input.

use bytes::Bytes;
use countersign_protocol::{FieldError, Payload, Position};

/// Reads what was published.
///
/// # Errors
/// When it is neither form.
pub fn decode(bytes: Bytes) -> Result<(Option<Position>, Payload), FieldError> {
    let wrong =
        || FieldError::new("message", "a JSON object, or <epoch>:<offset>: and a JSON object", "something else");
    if bytes.first().is_none_or(|first| *first == b'{' || first.is_ascii_whitespace()) {
        return Ok((None, Payload::parse(bytes)?));
    }
    // Epochs have no colon and an offset is at most 20 digits: the object begins within the first 100 bytes.
    let head = bytes.get(..bytes.len().min(100)).unwrap_or_default();
    let object = head.iter().position(|byte| *byte == b'{').ok_or_else(wrong)?;
    let position =
        head.get(..object).and_then(|head| head.strip_suffix(b":")).and_then(|head| std::str::from_utf8(head).ok());
    let position = Position::parse(position.ok_or_else(wrong)?).map_err(|_| wrong())?;
    Ok((Some(position), Payload::parse(bytes.slice(object..))?))
}

/// Writes a message that has a position.
pub fn encode(position: &Position, message: &Payload) -> Bytes {
    Bytes::from(format!("{position}:{}", message.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_nothing_else() {
        let position = Position::new("00ff", 18);
        let message = Payload::parse(Bytes::from_static(b"{\"a\":\"{\"}")).unwrap();
        assert_eq!(decode(encode(&position, &message)).unwrap(), (Some(position), message.clone()));
        assert_eq!(decode(message.bytes().clone()).unwrap(), (None, message));
        for wrong in ["", "hello", "e:1:", "e:1:[]", "e:1{}", "e:x:{}", ":::{}", "e:1:{} {}", "{", "\"{}\""] {
            assert!(decode(Bytes::from_static(wrong.as_bytes())).is_err(), "{wrong}");
        }
    }
}

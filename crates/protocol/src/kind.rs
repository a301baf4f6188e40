//! What a payload is to a node that delivers it. A node must know a question and the end of a question from other messages,
//! because they change what a device shows. It reads no message whole for that: the gateway and its backplane write the type and
//! the id first.

use crate::{ids::CallbackId, payload::Payload};

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// The question of a callback (`task_step_result`).
    Question(CallbackId),
    /// The end of a callback (`callback_resolved`).
    End(CallbackId),
    /// The end of a task (`task_cancelled`).
    TaskCancelled,
    /// Anything else. A producer's message is this, whatever its type says, unless it begins as one of the others.
    #[default]
    Other,
}

impl Kind {
    /// Of a payload. Every message to every node comes through here, so only its first bytes are compared.
    pub fn of(message: &Payload) -> Self {
        let Some(rest) = message.bytes().strip_prefix(TYPE) else { return Self::Other };
        if rest.starts_with(TASK_CANCELLED) {
            return Self::TaskCancelled;
        }
        let callback = |start| rest.strip_prefix(start).and_then(id);
        if let Some(id) = callback(QUESTION) {
            return Self::Question(id);
        }
        callback(END).map_or(Self::Other, Self::End)
    }

    /// Whether a device that misses this shows something wrong until it reads the state again.
    pub fn is_state(self) -> bool {
        match self {
            Self::Question(_) | Self::End(_) | Self::TaskCancelled => true,
            Self::Other => false,
        }
    }
}

/// The id with which these bytes begin, up to its closing quotation mark.
fn id(bytes: &[u8]) -> Option<CallbackId> {
    let (id, rest) = bytes.split_at_checked(ID_BYTES)?;
    if rest.first() != Some(&b'"') {
        return None;
    }
    CallbackId::parse(std::str::from_utf8(id).ok()?).ok()
}

/// `<NN>-<32 hex digits>`.
const ID_BYTES: usize = 35;
const TYPE: &[u8] = br#"{"type":""#;
const QUESTION: &[u8] = br#"task_step_result","callback_id":""#;
const END: &[u8] = br#"callback_resolved","callback_id":""#;
const TASK_CANCELLED: &[u8] = br#"task_cancelled""#;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::{Event, Notification, Partition, Status};

    fn kind(text: String) -> Kind {
        Kind::of(&Payload::parse(Bytes::from(text)).unwrap())
    }

    fn an_id() -> CallbackId {
        CallbackId::new(Partition::from_number(7).unwrap(), 0xab)
    }

    #[test]
    fn what_the_gateway_writes_is_known_by_its_first_bytes() {
        let body = json!({
            "user_id": "alice", "task_id": "t", "step": 1, "step_result": {"message": "go on?", "status": "completed"},
        });
        let notification = Notification::parse(body.to_string().as_bytes()).unwrap();
        assert_eq!(kind(notification.message_head(an_id()) + "}"), Kind::Question(an_id()));
        let ended =
            Event::CallbackResolved { callback_id: an_id(), status: Status::Confirmed, by: None, by_kind: None };
        assert_eq!(kind(ended.to_json()), Kind::End(an_id()));
        assert_eq!(kind(r#"{"type":"task_cancelled","user_id":null}"#.to_owned()), Kind::TaskCancelled);
    }

    #[test]
    fn everything_else_is_something_else() {
        let id = an_id();
        for other in [
            "{}".to_owned(),
            r#"{"type":"callback_resolved"}"#.to_owned(),
            format!(r#"{{"type":"callback_resolved","callback_id":"{id}x"}}"#),
            format!(r#"{{"type":"callback_resolved","callback_id":"{}"}}"#, "z".repeat(35)),
            format!(r#"{{"callback_id":"{id}","type":"callback_resolved"}}"#),
            format!(r#"{{"type":"confirmation_accepted","callback_id":"{id}"}}"#),
            r#"{"type":"task_cancelled_too"}"#.to_owned(),
        ] {
            assert_eq!(kind(other.clone()), Kind::Other, "{other}");
        }
    }

    #[test]
    fn what_changes_a_device_is_state() {
        for state in [Kind::Question(an_id()), Kind::End(an_id()), Kind::TaskCancelled] {
            assert!(state.is_state(), "{state:?}");
        }
        assert!(!Kind::Other.is_state());
    }
}

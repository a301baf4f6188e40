//! What the sender of a message that is too long hears before its connection is closed. The message itself was not read, but
//! for its beginning: if that says which action it is, or which question it answers, the refusal is addressed to it.

use countersign_protocol::{Event, Reply, Sender, event::Rejection};

/// The last words, in order. `limit` is the most bytes that a message may have.
pub(super) fn last_words(beginning: &[u8], limit: u32, timestamp: f64) -> Vec<String> {
    let Sender { id, callback_id } = Sender::of(beginning);
    let message = format!("Message too long: expected at most {limit} bytes (WEBSOCKET_MAX_MESSAGE_BYTES)");
    let rejected = callback_id.map(|callback_id| Event::ConfirmationRejected {
        callback_id,
        reason: Rejection::Invalid,
        message: Some(format!("{message}; shorten the answer and give it again")),
        decision: None,
    });
    let error = Event::Error { code: CODE, message, timestamp, limit: Some(limit), topics: None };
    let reply = |event| Reply { event, reply_to: id.clone() }.to_json();
    rejected.into_iter().chain([error]).map(reply).collect()
}

/// Also a label of metrics.
pub(super) const CODE: &str = "too_long";

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const ID: &str = "07-000000000000000000000000000000ab";

    fn said(beginning: &str) -> Vec<Value> {
        last_words(beginning.as_bytes(), 100, 1.0).iter().map(|word| serde_json::from_str(word).unwrap()).collect()
    }

    #[test]
    fn the_refusal_is_addressed_to_what_can_be_read() {
        let message = "Message too long: expected at most 100 bytes (WEBSOCKET_MAX_MESSAGE_BYTES)";
        let error = json!({"type": "error", "code": "too_long", "message": message, "timestamp": 1.0, "limit": 100});
        for unreadable in ["", "{", r#"{"id":7"#, r#"{"x":"\xff"#, r#"{"feedback":"xxx"#] {
            assert_eq!(said(unreadable), std::slice::from_ref(&error), "{unreadable}");
        }
        let mut to_seven = error.clone();
        to_seven["reply_to"] = json!(7);
        assert_eq!(said(r#"{"action":"ping","id":7,"data":"xxx"#), [to_seven.clone()]);
        let answer =
            format!(r#"{{"action":"confirm","id":7,"callback_id":"{ID}","proceed":false,"feedback":"x\\ud83d"#);
        let message = format!("{message}; shorten the answer and give it again");
        let rejected = json!({"type": "confirmation_rejected", "callback_id": ID, "reason": "invalid", "message": message, "reply_to": 7});
        assert_eq!(said(&answer), [rejected, to_seven]);
    }
}

//! Reply lists, for a producer that puts its questions into the inbox of Redis and pops the decision from a list.

use countersign_protocol::{Decision, json};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    error::{Error, Problem, Result},
    http::shown,
};

/// What the gateway pushes for a question that it refused: beside these, the fields of a decision, which are null.
#[derive(Deserialize)]
struct Refused {
    code: String,
    reason: String,
    field: Option<String>,
    entry: Option<String>,
}

/// Reads what `BLPOP <prefix>:reply:<name>` returned.
///
/// # Errors
/// [`Error::Refused`] for a question that the inbox refused, so nobody was asked: `code` and `detail` say why, and `more` has
/// the `field` that is wrong and the `entry` of the inbox. [`Error::Unexpected`] for anything else that is no decision.
///
/// ```
/// use countersign_client::{Error, decision_of_reply};
///
/// let popped = br#"{"callback_id":null,"status":"refused","proceed":null,"feedback":null,"choice":null,"data":null,
///     "resolution":null,"by":null,"at":1790000000.5,"code":"invalid_field","field":"task_id",
///     "reason":"task_id: expected a string, got nothing","entry":"1790000000123-0"}"#;
/// match decision_of_reply(popped) {
///     Err(Error::Refused(problem)) => assert_eq!(problem.more["field"], "task_id"),
///     other => panic!("{other:?}"),
/// }
/// ```
pub fn decision_of_reply(popped: &[u8]) -> Result<Decision> {
    let unexpected = |why: &dyn std::fmt::Display| Error::Unexpected(format!("{why}: {}", shown(popped)));
    let text = std::str::from_utf8(popped).map_err(|error| unexpected(&error))?;
    let reply = json::read(text).map_err(|error| unexpected(&error))?;
    if reply.get("status").and_then(Value::as_str) != Some("refused") {
        return Decision::deserialize(reply).map_err(|error| unexpected(&error));
    }
    let Refused { code, reason, field, entry } = Refused::deserialize(reply).map_err(|error| unexpected(&error))?;
    let more = [("field", field), ("entry", entry)];
    let more = more.into_iter().map(|(name, value)| (name.to_owned(), value.map_or(Value::Null, Value::String)));
    let more = more.collect::<Map<String, Value>>();
    Err(Error::Refused(Box::new(Problem { code, detail: Some(reason), more, ..Problem::default() })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_read_and_what_is_none_is_an_error() {
        let decided = br#"{"callback_id":"07-000000000000000000000000000000ab","status":"timed_out","proceed":null,
            "feedback":null,"choice":null,"data":null,"resolution":"timeout","by":null,"at":1.5}"#;
        assert_eq!(decision_of_reply(decided).unwrap().proceed, None);
        for wrong in [&b"\xff"[..], b"", b"{}", b"null", br#"{"status":"refused"}"#, br#"{"proceed":true}"#] {
            assert!(matches!(decision_of_reply(wrong), Err(Error::Unexpected(_))), "{wrong:?}");
        }
    }

    #[test]
    fn a_refusal_says_what_was_wrong() {
        let refused =
            br#"{"status":"refused","code":"conflict","field":null,"reason":"why","entry":"1-0","proceed":null}"#;
        let Err(Error::Refused(problem)) = decision_of_reply(refused) else { panic!("a refusal") };
        assert_eq!(problem.to_string(), "conflict: why");
        assert_eq!((&problem.more["field"], &problem.more["entry"]), (&Value::Null, &Value::from("1-0")));
    }
}

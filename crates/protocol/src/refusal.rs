//! What a reply list gets for a question that was refused, so that its producer does not wait in vain. It has every field of a
//! decision, so a reader that looks only for `proceed` finds null, which is not a yes.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::callback::Decision;

/// Why a question was not asked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Refusal<'a> {
    /// For programs, as over HTTP.
    pub code: &'a str,
    /// The field that is wrong, if it is one.
    pub field: Option<&'a str>,
    /// For people.
    pub reason: &'a str,
    /// The entry of the inbox.
    pub entry: &'a str,
    /// When, in Unix seconds.
    pub at: f64,
}

impl Refusal<'_> {
    /// The status, which no decision has.
    pub const STATUS: &'static str = "refused";

    /// The reply: `status`, `at` and the reason; every other field of a decision is null.
    pub fn to_json(&self) -> String {
        let mut reply = decision_without_values();
        reply.extend(fields(self));
        reply.insert("status".to_owned(), Value::from(Self::STATUS));
        Value::Object(reply).to_string()
    }
}

/// The fields of a decision, each null.
fn decision_without_values() -> Map<String, Value> {
    let any: Decision = serde_json::from_str(
        r#"{"callback_id":"00-00000000000000000000000000000000","status":"cancelled","proceed":null,"feedback":null,
            "choice":null,"data":null,"resolution":"cancelled","by":null,"at":0.0}"#,
    )
    .expect("a decision");
    fields(&any).into_iter().map(|(name, _)| (name, Value::Null)).collect()
}

fn fields<T: Serialize>(value: &T) -> Map<String, Value> {
    let object = serde_json::to_value(value).and_then(serde_json::from_value);
    object.expect("a struct of texts and numbers encodes as an object always")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_refusal_has_all_fields_of_a_decision_and_decides_nothing() {
        let refusal = Refusal { code: "invalid_field", field: Some("task_id"), reason: "why", entry: "17-0", at: 1.5 };
        let mut reply: Map<String, Value> = serde_json::from_str(&refusal.to_json()).unwrap();
        for (name, expected) in [
            ("status", json!("refused")),
            ("at", json!(1.5)),
            ("code", json!("invalid_field")),
            ("field", json!("task_id")),
            ("reason", json!("why")),
            ("entry", json!("17-0")),
        ] {
            assert_eq!(reply.remove(name), Some(expected), "{name}");
        }
        assert!(reply.values().all(Value::is_null), "{reply:?}");
        let mut names: Vec<String> = reply.keys().cloned().chain(["status".to_owned(), "at".to_owned()]).collect();
        names.sort();
        let mut of_a_decision: Vec<String> = decision_without_values().keys().cloned().collect();
        of_a_decision.sort();
        assert_eq!(names, of_a_decision);
        assert!(reply.contains_key("proceed") && reply.contains_key("callback_id"));
        assert!(serde_json::from_str::<Decision>(&refusal.to_json()).is_err(), "no reader takes it for a decision");
    }
}

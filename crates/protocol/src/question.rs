//! What may be answered: a plain yes or no, or one of the offered options, and data of a certain form. Judged by whichever node the answer arrives
//! on, before anything is decided, so that an invalid answer does not consume the callback.

use serde_json::Value;

use crate::{
    action::Answer,
    fields::{FieldError, Fields, shorten},
    schema::{self, Schema},
};

/// The most options of one callback.
pub const MOST_OPTIONS: usize = 32;
/// The longest id of an option, in bytes.
const LONGEST_OPTION_ID: usize = 64;

/// One offered option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What `choice` of the answer has to be.
    pub id: String,
    /// The `proceed` of an answer that leaves it out.
    pub proceed: bool,
}

/// What may be answered.
#[derive(Debug, Clone, Default)]
pub struct Question {
    choices: Vec<Choice>,
    schema: Option<Schema>,
}

impl Question {
    /// As [`Self::from_fields`], for a question that is put now: nothing in it may be ignored when it is answered. A misspelt
    /// `proceed` would turn a no into a yes. Records of other versions are not judged by this.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn asked(fields: &Fields<'_>) -> Result<Self, FieldError> {
        let question = Self::from_fields(fields)?;
        for (at, option) in fields.list("options")?.into_iter().flatten().enumerate() {
            if let Value::Object(option) = option {
                Fields::within(&format!("options[{at}]"), option).only(&["id", "label", "proceed"])?;
            }
        }
        if let Some(schema) = fields.object("schema")? {
            schema::check_formats(schema)?;
        }
        Ok(question)
    }

    /// Reads `options: [{id, label, proceed?}]` and `schema` of a notification.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn from_fields(fields: &Fields<'_>) -> Result<Self, FieldError> {
        let schema = fields.object("schema")?.map(Schema::parse).transpose()?;
        let Some(list) = fields.list("options")? else { return Ok(Self { choices: Vec::new(), schema }) };
        if list.is_empty() || list.len() > MOST_OPTIONS {
            return Err(fields.wrong("options", format!("1 to {MOST_OPTIONS} options")));
        }
        let mut choices: Vec<Choice> = Vec::with_capacity(list.len());
        for (at, option) in list.iter().enumerate() {
            let path = format!("options[{at}]");
            let Value::Object(map) = option else {
                return Err(FieldError::new(path, "an object {id, label, proceed?}", crate::fields::describe(option)));
            };
            let fields = Fields::within(&path, map);
            let id = fields.required_text("id")?;
            if id.is_empty() || id.len() > LONGEST_OPTION_ID {
                return Err(fields.wrong("id", format!("1 to {LONGEST_OPTION_ID} bytes of text")));
            }
            if choices.iter().any(|other| other.id == id) {
                return Err(fields.wrong("id", "an id that no other option has"));
            }
            fields.required_text("label")?;
            choices.push(Choice { id: id.to_owned(), proceed: fields.flag("proceed")?.unwrap_or(true) });
        }
        Ok(Self { choices, schema })
    }

    /// Reads the question back from the message that was shown.
    ///
    /// # Errors
    /// When they are none, which is a record that this version did not write.
    pub fn from_message(message: &[u8]) -> Result<Self, FieldError> {
        match serde_json::from_slice(message) {
            Ok(Value::Object(map)) => Self::from_fields(&Fields::of(&map)),
            _ => Err(FieldError::new("message", "a JSON object", "something else")),
        }
    }

    /// Whether a bare yes or no is enough.
    pub fn is_plain(&self) -> bool {
        self.choices.is_empty() && self.schema.is_none()
    }

    /// What the answer decides: its `proceed`, after checking that it is one of those offered.
    ///
    /// # Errors
    /// The field that is missing or was not offered, with what was.
    pub fn judge(&self, answer: &Answer) -> Result<bool, FieldError> {
        let proceed = self.judge_choice(answer)?;
        match (&self.schema, &answer.data) {
            (Some(schema), Some(data)) => schema.check(data)?,
            // Whoever says no owes nothing.
            (Some(_), None) if proceed => {
                return Err(FieldError::new("data", "an object that the question's schema describes", "nothing"));
            }
            _ => {}
        }
        Ok(proceed)
    }

    fn judge_choice(&self, answer: &Answer) -> Result<bool, FieldError> {
        let got = |text: Option<&str>| text.map_or_else(|| "nothing".to_owned(), |text| format!("{:?}", shorten(text)));
        if self.choices.is_empty() {
            if let Some(choice) = &answer.choice {
                return Err(FieldError::new("choice", "nothing, as no options were offered", got(Some(choice))));
            }
            return answer.proceed.ok_or_else(|| FieldError::new("proceed", "true or false", "nothing"));
        }
        let chosen = answer.choice.as_deref().and_then(|id| self.choices.iter().find(|choice| choice.id == id));
        let Some(chosen) = chosen else {
            let ids: Vec<_> = self.choices.iter().map(|choice| format!("{:?}", choice.id)).collect();
            return Err(FieldError::new("choice", format!("one of {}", ids.join(", ")), got(answer.choice.as_deref())));
        };
        match answer.proceed {
            // Two answers in one: nobody may guess which of them was meant.
            Some(proceed) if proceed != chosen.proceed => Err(FieldError::new(
                "proceed",
                format!("{}, as the option {:?} has it, or nothing", chosen.proceed, chosen.id),
                proceed.to_string(),
            )),
            _ => Ok(chosen.proceed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn question(options: &Value) -> Result<Question, FieldError> {
        Question::from_fields(&Fields::of(json!({ "options": options }).as_object().unwrap()))
    }

    fn answer(proceed: Option<bool>, choice: Option<&str>) -> Answer {
        Answer { proceed, choice: choice.map(str::to_owned), ..Answer::default() }
    }

    #[test]
    fn a_plain_question_wants_proceed_and_nothing_chosen() {
        let plain = question(&Value::Null).unwrap();
        assert_eq!(plain.judge(&answer(Some(false), None)), Ok(false));
        assert_eq!(plain.judge(&answer(None, None)).unwrap_err().field, "proceed");
        assert_eq!(plain.judge(&answer(Some(true), Some("x"))).unwrap_err().field, "choice");
    }

    #[test]
    fn an_offered_option_is_required_and_brings_its_proceed() {
        let offered =
            question(&json!([{"id": "retry", "label": "Retry"}, {"id": "abort", "label": "Abort", "proceed": false}]))
                .unwrap();
        assert_eq!(offered.judge(&answer(None, Some("retry"))), Ok(true));
        assert_eq!(offered.judge(&answer(None, Some("abort"))), Ok(false));
        assert_eq!(offered.judge(&answer(Some(false), Some("abort"))), Ok(false));
        for contradiction in [answer(Some(false), Some("retry")), answer(Some(true), Some("abort"))] {
            assert_eq!(offered.judge(&contradiction).unwrap_err().field, "proceed");
        }
        for wrong in [answer(Some(true), None), answer(None, Some("skip"))] {
            let error = offered.judge(&wrong).unwrap_err();
            assert_eq!(error.expected, r#"one of "retry", "abort""#);
        }
    }

    #[test]
    fn options_that_cannot_be_told_apart_are_refused() {
        let wrong = [
            (json!([]), "options"),
            (json!("x"), "options"),
            (json!([5]), "options[0]"),
            (json!([{"label": "x"}]), "options[0].id"),
            (json!([{"id": "a"}]), "options[0].label"),
            (json!([{"id": "a", "label": "A"}, {"id": "a", "label": "B"}]), "options[1].id"),
            (json!([{"id": "a", "label": "A", "proceed": "yes"}]), "options[0].proceed"),
        ];
        for (options, field) in wrong {
            assert_eq!(question(&options).unwrap_err().field, field);
        }
    }

    #[test]
    fn data_is_owed_with_a_yes_and_has_to_fit() {
        let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
        let question = Question::from_fields(&Fields::of(json!({ "schema": schema }).as_object().unwrap())).unwrap();
        assert!(!question.is_plain());
        let with = |data: Value| Answer { data: Some(data), ..answer(Some(true), None) };
        assert_eq!(question.judge(&with(json!({"n": 1}))), Ok(true));
        assert_eq!(question.judge(&with(json!({"n": "1"}))).unwrap_err().field, "data.n");
        assert_eq!(question.judge(&answer(Some(true), None)).unwrap_err().field, "data");
        assert_eq!(question.judge(&answer(Some(false), None)), Ok(false));
    }
}

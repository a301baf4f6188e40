//! Reads fields of a JSON object so that every error names the field, what was expected and what came.
//! Shared by the clients' actions and the producers' bodies; never fails with a position in the text
//! instead of a name.

use serde_json::{Map, Value};

/// What is wrong with one field of an input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: expected {expected}, got {got}")]
pub struct FieldError {
    /// Path of the field, such as `step_result.message`.
    pub field: String,
    /// What would have been accepted.
    pub expected: String,
    /// What was there, shortened.
    pub got: String,
}

impl FieldError {
    /// An error for `field`; `expected` and `got` complete "expected …, got …".
    pub fn new(field: impl Into<String>, expected: impl Into<String>, got: impl Into<String>) -> Self {
        Self { field: field.into(), expected: expected.into(), got: got.into() }
    }
}

/// The fields of one JSON object and the path that leads to it.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    path: &'a str,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The fields of the outermost object.
    pub fn of(map: &'a Map<String, Value>) -> Self {
        Self { path: "", map }
    }

    /// The fields of an object that sits in the field `path`.
    pub fn within(path: &'a str, map: &'a Map<String, Value>) -> Self {
        Self { path, map }
    }

    /// The value of a field; an explicit `null` counts as absent.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// Refuses an explicit `null`, where absence would mean more than any value: a variable that holds nothing must not widen
    /// what is done.
    ///
    /// # Errors
    /// When the field is there and `null`.
    pub fn not_null(&self, name: &str) -> Result<(), FieldError> {
        match self.map.get(name) {
            Some(Value::Null) => Err(FieldError::new(self.path_of(name), "a value, or no field of this name", "null")),
            _ => Ok(()),
        }
    }

    /// An error about the field `name`.
    pub fn wrong(&self, name: &str, expected: impl Into<String>) -> FieldError {
        FieldError::new(self.path_of(name), expected, self.get(name).map_or_else(|| "nothing".to_owned(), describe))
    }

    /// A string, or nothing.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>, FieldError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "a string")),
        }
    }

    /// A string that must be there.
    pub fn required_text(&self, name: &str) -> Result<&'a str, FieldError> {
        self.text(name)?.ok_or_else(|| self.wrong(name, "a string"))
    }

    /// `true`, `false` or nothing.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, FieldError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.wrong(name, "true or false")),
        }
    }

    /// A number, or nothing.
    pub fn number(&self, name: &str) -> Result<Option<f64>, FieldError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Number(number)) => Ok(number.as_f64()),
            Some(_) => Err(self.wrong(name, "a number")),
        }
    }

    /// A whole number of at least 0, or nothing.
    pub fn whole(&self, name: &str) -> Result<Option<u64>, FieldError> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => value.as_u64().map(Some).ok_or_else(|| self.wrong(name, "a whole number of at least 0")),
        }
    }

    /// A JSON object, or nothing.
    pub fn object(&self, name: &str) -> Result<Option<&'a Map<String, Value>>, FieldError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(_) => Err(self.wrong(name, "a JSON object")),
        }
    }

    /// A JSON array, or nothing.
    pub fn list(&self, name: &str) -> Result<Option<&'a [Value]>, FieldError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(_) => Err(self.wrong(name, "an array")),
        }
    }

    /// A field read by the parser of its type ([`crate::UserId::parse`] and its like), or nothing.
    pub fn parsed<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, FieldError>,
    ) -> Result<Option<T>, FieldError> {
        self.text(name)?
            .map(|text| parse(text).map_err(|error| FieldError { field: self.path_of(name), ..error }))
            .transpose()
    }

    /// As [`Self::parsed`], for a field that must be there.
    pub fn required<T>(&self, name: &str, parse: impl Fn(&str) -> Result<T, FieldError>) -> Result<T, FieldError> {
        self.parsed(name, parse)?.ok_or_else(|| self.wrong(name, "a string"))
    }

    /// Refuses every field but these: a misspelt one must not be lost in silence.
    pub fn only(&self, known: &[&str]) -> Result<(), FieldError> {
        match self.map.keys().find(|name| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => {
                let expected = format!("only the fields {}", known.join(", "));
                Err(FieldError::new(self.path_of(&shorten(name)), expected, "this one"))
            }
        }
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}

/// A few words for a value that was not expected; never the whole of a long one.
pub fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("the string {:?}", shorten(text)),
        Value::Array(list) => format!("an array of {}", list.len()),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// At most the first 64 characters of a text that came from outside.
pub fn shorten(text: &str) -> String {
    const LONGEST: usize = 64;
    let mut short: String = text.chars().take(LONGEST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_error_names_the_path_of_the_field_and_what_was_expected() {
        let body = json!({"message": 5, "long": "x".repeat(300)});
        let fields = Fields::within("step_result", body.as_object().unwrap());
        assert_eq!(fields.text("message").unwrap_err().to_string(), "step_result.message: expected a string, got 5");
        assert_eq!(
            fields.required_text("status").unwrap_err().to_string(),
            "step_result.status: expected a string, got nothing"
        );
        assert!(fields.whole("long").unwrap_err().to_string().len() < 200);
    }

    #[test]
    fn null_counts_as_absent() {
        let body = json!({"feedback": null});
        assert_eq!(Fields::of(body.as_object().unwrap()).text("feedback"), Ok(None));
    }
}

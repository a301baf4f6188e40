//! The flat JSON Schema of an answer's data: one object whose properties are texts, numbers or switches, so that a form can be
//! drawn from it. What may stand in a schema is decided here; what it means is the `jsonschema` library's to say. Patterns
//! run on an engine without backtracking, so no answer can make a node think for long.

use std::{fmt, sync::Arc};

use jsonschema::{Draft, PatternOptions, Validator, error::ValidationErrorKind};
use serde_json::{Map, Value};

use crate::fields::{FieldError, Fields, describe, shorten};

/// The most properties of one schema.
pub const MOST_PROPERTIES: usize = 64;

const OBJECT_KEYWORDS: [&str; 7] =
    ["$schema", "type", "title", "description", "properties", "required", "additionalProperties"];
const PROPERTY_KEYWORDS: [&str; 16] = [
    "type",
    "title",
    "description",
    "default",
    "examples",
    "enum",
    "const",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
];
/// The formats that are checked.
const FORMATS: [&str; 10] =
    ["date", "time", "date-time", "duration", "email", "uri", "hostname", "ipv4", "ipv6", "uuid"];
const PROPERTY_TYPES: [&str; 4] = ["string", "number", "integer", "boolean"];

/// A schema that is ready to check data.
#[derive(Clone)]
pub struct Schema(Arc<Validator>);

impl Schema {
    /// Reads a schema.
    ///
    /// # Errors
    /// Not flat, or not a schema: the field, and what was expected.
    pub fn parse(schema: &Map<String, Value>) -> Result<Self, FieldError> {
        let fields = Fields::within("schema", schema);
        if fields.text("type")? != Some("object") {
            return Err(fields.wrong("type", "\"object\""));
        }
        known_keywords("schema", schema, &OBJECT_KEYWORDS)?;
        if fields.get("additionalProperties").is_some() {
            fields.flag("additionalProperties")?;
        }
        let properties = fields.object("properties")?.ok_or_else(|| fields.wrong("properties", "a JSON object"))?;
        if properties.len() > MOST_PROPERTIES {
            return Err(fields.wrong("properties", format!("at most {MOST_PROPERTIES} properties")));
        }
        for (name, property) in properties {
            let path = format!("schema.properties.{}", shorten(name));
            let Value::Object(property) = property else {
                return Err(FieldError::new(path, "a JSON object", describe(property)));
            };
            let of_type = Fields::within(&path, property);
            if !of_type.text("type")?.is_some_and(|word| PROPERTY_TYPES.contains(&word)) {
                let expected = format!("one of {}, as the schema is flat", PROPERTY_TYPES.join(", "));
                return Err(of_type.wrong("type", expected));
            }
            known_keywords(&path, property, &PROPERTY_KEYWORDS)?;
        }
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .with_pattern_options(PatternOptions::regex())
            // A record of another version may have a format that is not checked; nobody can ask with one.
            .should_validate_formats(true)
            .should_ignore_unknown_formats(true)
            .build(&Value::Object(schema.clone()));
        validator
            .map(|validator| Self(Arc::new(validator)))
            .map_err(|error| FieldError::new("schema", "a JSON Schema of draft 2020-12", shorten(&error.to_string())))
    }

    /// Holds data against the schema.
    ///
    /// # Errors
    /// The first field that does not fit, with what the schema asks for.
    pub fn check(&self, data: &Value) -> Result<(), FieldError> {
        let Some(error) = self.0.iter_errors(data).next() else { return Ok(()) };
        let path: String = error.instance_path().as_str().replace('/', ".");
        let field = match error.kind() {
            ValidationErrorKind::Required { property } => {
                format!("data.{}", property.as_str().map_or_else(|| property.to_string(), shorten))
            }
            _ => format!("data{}", shorten(&path)),
        };
        Err(FieldError::new(
            field,
            "what the question's schema asks for",
            format!("this: {}", shorten(&error.to_string())),
        ))
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Schema")
    }
}

/// Refuses formats that would be ignored: unknown ones, and those of what is no string.
///
/// # Errors
/// The first one.
pub(crate) fn check_formats(schema: &Map<String, Value>) -> Result<(), FieldError> {
    let properties = Fields::within("schema", schema).object("properties")?.into_iter().flatten();
    for (name, property) in properties {
        let Value::Object(property) = property else { continue };
        let path = format!("schema.properties.{}", shorten(name));
        let fields = Fields::within(&path, property);
        if fields.get("format").is_none() {
            continue;
        }
        if fields.text("type")? != Some("string") {
            return Err(fields.wrong("format", "nothing, as only a string has a format"));
        }
        if !fields.text("format")?.is_some_and(|format| FORMATS.contains(&format)) {
            return Err(fields.wrong("format", format!("one of {}", FORMATS.join(", "))));
        }
    }
    Ok(())
}

fn known_keywords(path: &str, map: &Map<String, Value>, known: &[&str]) -> Result<(), FieldError> {
    match map.keys().find(|keyword| !known.contains(&keyword.as_str())) {
        None => Ok(()),
        Some(keyword) => Err(FieldError::new(
            format!("{path}.{}", shorten(keyword)),
            format!("one of the keywords of a flat schema ({})", known.join(", ")),
            "another one",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema(value: &Value) -> Result<Schema, FieldError> {
        Schema::parse(value.as_object().unwrap())
    }

    fn form() -> Value {
        json!({"type": "object", "required": ["name"], "additionalProperties": false, "properties": {
            "name": {"type": "string", "minLength": 1, "pattern": "^[a-z]+$"}, "count": {"type": "integer", "minimum": 1, "maximum": 5},
            "mode": {"type": "string", "enum": ["fast", "safe"]}, "force": {"type": "boolean"}}})
    }

    #[test]
    fn data_that_does_not_fit_is_refused_with_its_field() {
        let schema = schema(&form()).unwrap();
        assert_eq!(schema.check(&json!({"name": "x", "count": 5, "mode": "safe", "force": true})), Ok(()));
        let wrong = [
            (json!({}), "data.name"),
            (json!({"name": ""}), "data.name"),
            (json!({"name": "X1"}), "data.name"),
            (json!({"name": "x", "count": 6}), "data.count"),
            (json!({"name": "x", "count": "5"}), "data.count"),
            (json!({"name": "x", "mode": "slow"}), "data.mode"),
            (json!({"name": "x", "other": 1}), "data"),
            (json!([]), "data"),
        ];
        for (data, field) in wrong {
            assert_eq!(schema.check(&data).unwrap_err().field, field, "{data}");
        }
    }

    #[test]
    fn a_schema_that_is_not_flat_is_refused_with_the_place() {
        let property = |property: Value| json!({"type": "object", "properties": {"a": property}});
        let wrong = [
            (json!({}), "schema.type"),
            (json!({"type": "string"}), "schema.type"),
            (json!({"type": "object"}), "schema.properties"),
            (json!({"type": "object", "properties": {}, "$ref": "http://127.0.0.1/"}), "schema.$ref"),
            (property(json!(5)), "schema.properties.a"),
            (property(json!({"type": "object"})), "schema.properties.a.type"),
            (property(json!({"type": "array"})), "schema.properties.a.type"),
            (property(json!({})), "schema.properties.a.type"),
            (property(json!({"type": "string", "$ref": "#"})), "schema.properties.a.$ref"),
            (property(json!({"type": "string", "pattern": "("})), "schema"),
            (property(json!({"type": "string", "minLength": -1})), "schema"),
            (json!({"type": "object", "properties": {}, "additionalProperties": {}}), "schema.additionalProperties"),
        ];
        for (value, field) in wrong {
            assert_eq!(schema(&value).unwrap_err().field, field, "{value}");
        }
    }

    #[test]
    fn a_format_holds() {
        let with =
            |format: &str, kind: &str| json!({"type": "object", "properties": {"a": {"type": kind, "format": format}}});
        let cases = [
            ("date", "2026-02-28", "2026-02-30"),
            ("time", "08:30:00Z", "25:00:00Z"),
            ("date-time", "2026-01-01T00:00:00Z", "2026-01-01"),
            ("duration", "P1D", "one day"),
            ("email", "ann@example.com", "ann"),
            ("uri", "https://example.com/a", "not a uri"),
            ("hostname", "a.example.com", "-a-"),
            ("ipv4", "10.0.0.1", "10.0.0.256"),
            ("ipv6", "::1", "10.0.0.1"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123"),
        ];
        assert_eq!(cases.map(|(format, ..)| format), FORMATS);
        for (format, right, wrong) in cases {
            let value = with(format, "string");
            assert_eq!(check_formats(value.as_object().unwrap()), Ok(()));
            let schema = schema(&value).unwrap();
            assert_eq!(schema.check(&json!({"a": right})), Ok(()), "{format}");
            assert_eq!(schema.check(&json!({"a": wrong})).unwrap_err().field, "data.a", "{format}");
        }
    }

    #[test]
    fn a_format_that_would_not_hold_cannot_be_asked_for_and_is_read_from_records() {
        for (format, kind) in [("mac", "string"), ("regex", "string"), ("Date", "string"), ("email", "integer")] {
            let value = json!({"type": "object", "properties": {"a": {"type": kind, "format": format}}});
            let error = check_formats(value.as_object().unwrap()).unwrap_err();
            assert_eq!(error.field, "schema.properties.a.format", "{format} {kind}");
            assert!(schema(&value).is_ok(), "{format} {kind}");
        }
    }

    #[test]
    fn a_hostile_pattern_costs_nothing() {
        let schema =
            schema(&json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}})).unwrap();
        assert!(schema.check(&json!({"a": "a".repeat(50_000) + "!"})).is_err());
    }
}

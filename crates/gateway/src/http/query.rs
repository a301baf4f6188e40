//! What stands behind the question mark of a request, checked before any of it is used: UTF-8, so that no name is read as another
//! one, and not too many fields, so that nobody makes the node decode thousands of them before it is known who asks.

use std::borrow::Cow;

use axum::http::{StatusCode, Uri};
use countersign_protocol::{FieldError, fields::shorten};
use percent_encoding::percent_decode_str;

use super::problem::Problem;

/// The most fields of a query. A client that comes back to hundreds of topics fits, each with its position.
const MOST_FIELDS: usize = 1024;

/// A query that has passed these checks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    /// # Errors
    /// Too many fields, or bytes that are not UTF-8.
    pub(crate) fn of(uri: &'a Uri) -> Result<Self, Problem> {
        let query = uri.query().unwrap_or_default();
        let wrong = |detail: String| Problem::new(StatusCode::BAD_REQUEST, "invalid_query", detail);
        if query.bytes().filter(|byte| *byte == b'&').count() >= MOST_FIELDS {
            return Err(wrong(format!("the query has more than {MOST_FIELDS} fields")));
        }
        if percent_decode_str(query).decode_utf8().is_err() {
            return Err(wrong("the query is not UTF-8".to_owned()));
        }
        Ok(Self(query))
    }

    /// The fields in order, decoded one by one.
    pub(crate) fn fields(self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
        form_urlencoded::parse(self.0.as_bytes())
    }

    /// The values of all fields of one name.
    pub(crate) fn all(self, name: &str) -> impl Iterator<Item = Cow<'a, str>> {
        self.fields().filter(move |(known, _)| known.as_ref() == name).map(|(_, value)| value)
    }

    /// Refuses what would be ignored: a field of another name, or the second one of a name that may come once. Each entry of
    /// `once` is a name and its synonyms.
    ///
    /// # Errors
    /// The first field that is one too many.
    pub(crate) fn only(self, once: &[&[&str]], repeatable: &[&str]) -> Result<(), FieldError> {
        let mut seen = vec![false; once.len()];
        for (name, _) in self.fields() {
            if repeatable.contains(&&*name) {
                continue;
            }
            let Some(at) = once.iter().position(|names| names.contains(&&*name)) else {
                let known: Vec<&str> = once.iter().flat_map(|names| names.iter()).chain(repeatable).copied().collect();
                let expected = format!("only the query fields {}", known.join(", "));
                return Err(FieldError::new(shorten(&name), expected, "this one"));
            };
            if let Some(seen) = seen.get_mut(at)
                && std::mem::replace(seen, true)
            {
                return Err(FieldError::new(shorten(&name), "one value", "several"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Result<Vec<(String, String)>, String> {
        let uri: Uri = format!("/?{text}").parse().unwrap();
        let query = Query::of(&uri).map_err(|problem| format!("{problem:?}"))?;
        Ok(query.fields().map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    #[test]
    fn a_query_is_text_of_some_fields() {
        assert_eq!(query("a=%C3%BC+%26&b").unwrap(), [("a".into(), "ü &".into()), ("b".into(), String::new())]);
        for text in ["a=%ff", "%C3=%BC", "a=%ED%A0%80", "a=1&b=%C3"] {
            assert!(query(text).unwrap_err().contains("UTF-8"), "{text}");
        }
        assert_eq!(query(&"t=a&".repeat(MOST_FIELDS - 1)).unwrap().len(), MOST_FIELDS - 1);
        assert!(query(&"t=a&".repeat(1500)).unwrap_err().contains("1024"));
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        let only = |text: &str| {
            let uri: Uri = format!("/?{text}").parse().unwrap();
            let query = Query::of(&uri).unwrap();
            query.only(&[&["user_id"], &["token", "access_token"]], &["topic"]).map_err(|error| error.field)
        };
        for text in ["", "user_id=a&topic=b&topic=c&access_token=d", "topic=a&topic=a"] {
            assert_eq!(only(text), Ok(()), "{text}");
        }
        for (text, field) in [
            ("topics=a", "topics"),
            ("user_id=a&user_id=a", "user_id"),
            ("token=a&access_token=a", "access_token"),
            ("User_id=a", "User_id"),
            ("=", ""),
        ] {
            assert_eq!(only(text), Err(field.to_owned()), "{text}");
        }
    }
}

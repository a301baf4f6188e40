//! Lists in header fields (RFC 9110 §5.6): read in one pass, whatever they hold.

use http::{HeaderMap, HeaderName, HeaderValue};

/// How many elements a list may have over all its fields: a browser sends a few, and every element costs work.
pub(super) const ELEMENTS: usize = 32;

/// Whether a byte may be in a token (RFC 9110 §5.6.2).
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether a text is a token.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}

/// Whether a field's list contains a token, whatever its case, over any number of fields.
pub(super) fn list_contains(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|element| element.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// The value of a field that must be there once.
pub(super) fn once<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

/// The tokens of a list, all different; `None` when it is no such list or too long.
pub(super) fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<Vec<&'h str>> {
    let mut tokens: Vec<&str> = Vec::new();
    for value in headers.get_all(name) {
        // Empty elements are to be overlooked (RFC 9110 §5.6.1).
        for element in value.to_str().ok()?.split(',').map(str::trim_ascii).filter(|element| !element.is_empty()) {
            // At most 32 comparisons each.
            if !is_token(element) || tokens.contains(&element) || tokens.len() == ELEMENTS {
                return None;
            }
            tokens.push(element);
        }
    }
    Some(tokens)
}

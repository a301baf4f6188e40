//! UTF-8 of a text that arrives in pieces: bad as soon as it is bad, not only at its end (RFC 6455 §8.1).

/// Whether the bytes may be the beginning of a text; then how many at the end are a character that is not whole yet
/// (at most three).
pub(crate) fn beginning(bytes: &[u8]) -> Option<u8> {
    match simdutf8::compat::from_utf8(bytes) {
        Ok(_) => Some(0),
        Err(error) if error.error_len().is_none() => u8::try_from(bytes.len() - error.valid_up_to()).ok(),
        Err(_) => None,
    }
}

/// The bytes as text.
pub(crate) fn whole(bytes: &[u8]) -> Option<&str> {
    simdutf8::basic::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_may_be_cut_inside_a_character_but_not_go_wrong() {
        for (bytes, expected) in [
            (&b"abc"[..], Some(0)),
            (b"\xc3", Some(1)),
            (b"a\xe2\x82", Some(2)),
            (b"\xf0\x9f\x98", Some(3)),
            (b"\xff", None),
            // The second byte already tells: a surrogate, past the last character, too long a form.
            (b"\xed\xa0", None),
            (b"\xf4\x90", None),
            (b"\xe0\x80", None),
            (b"\xc0", None),
            (b"\xc3(", None),
        ] {
            assert_eq!(beginning(bytes), expected, "{bytes:x?}");
        }
    }
}

//! The body of a close frame (RFC 6455 §5.5.1): nothing, or a code of two bytes and a reason in UTF-8.

use crate::{utf8, violation::Violation};

/// What a reason may have beside the code's two bytes in a control frame's 125.
pub const LONGEST_REASON: usize = 123;

/// Whether a code may be on the wire (RFC 6455 §7.4 and the registry that it founded): not 1004, which means nothing yet;
/// not 1005, 1006 and 1015, which are said about connections and never in them; nothing unregistered below 3000.
pub fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Reads a body.
///
/// # Errors
/// A single byte, a code that must not be sent, a reason that is not UTF-8.
pub fn parse(body: &[u8]) -> Result<Option<(u16, &str)>, Violation> {
    let Some((code, reason)) = body.split_first_chunk::<2>() else {
        return if body.is_empty() { Ok(None) } else { Err(Violation::ShortClose) };
    };
    let code = u16::from_be_bytes(*code);
    if !may_be_sent(code) {
        return Err(Violation::CloseCode(code));
    }
    let reason = utf8::whole(reason).ok_or(Violation::CloseReason)?;
    Ok(Some((code, reason)))
}

/// As much of a reason as fits into a close frame, cut between characters.
pub fn fitting(reason: &str) -> &str {
    // A character has at most four bytes, so one of four neighbours is a boundary.
    let ends = (0..=LONGEST_REASON.min(reason.len())).rev();
    ends.take(4).find_map(|end| reason.get(..end)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_body_is_read_as_the_rfc_says() {
        for (body, expected) in [
            (&b""[..], Ok(None)),
            (b"\x03", Err(Violation::ShortClose)),
            (b"\x03\xe8", Ok(Some((1000, "")))),
            (b"\x03\xe8gone", Ok(Some((1000, "gone")))),
            (b"\x03\xe8\xff", Err(Violation::CloseReason)),
            (b"\x03\xed", Err(Violation::CloseCode(1005))),
        ] {
            assert_eq!(parse(body), expected, "{body:x?}");
        }
    }

    #[test]
    fn only_registered_and_private_codes_may_be_sent() {
        let sent: Vec<u16> = (0..=u16::MAX).filter(|code| may_be_sent(*code)).collect();
        let expected: Vec<u16> = (1000..=1003).chain(1007..=1014).chain(3000..=4999).collect();
        assert_eq!(sent, expected);
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        assert_eq!(fitting("short"), "short");
        assert_eq!(fitting(&"é".repeat(100)).len(), 122);
        assert_eq!(fitting(&"x".repeat(200)).len(), LONGEST_REASON);
    }
}

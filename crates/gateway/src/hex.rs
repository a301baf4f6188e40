//! Bytes as lower-case hex digits.

use std::fmt::Write;

/// The first `length` bytes, or as many as there are.
pub(crate) fn first(length: usize, bytes: &[u8]) -> String {
    bytes.iter().take(length).fold(String::with_capacity(2 * length), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

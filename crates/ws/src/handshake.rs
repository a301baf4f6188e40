//! The HTTP request and answer that open a connection (RFC 6455 §4), as pure functions over headers. Each field is
//! checked by itself, and a refusal names it and says what was expected.
//!
//! - [`server`]: reads a client's request and writes the answer.
//! - [`client`]: writes a request and reads the server's answer.
//! - [`extensions`]: the offers of `Sec-WebSocket-Extensions`.

pub mod client;
pub mod extensions;
mod fields;
pub mod server;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use http::{HeaderName, HeaderValue, StatusCode};
use sha1::{Digest as _, Sha1};
use thiserror::Error;

/// What is wrong with a handshake.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field}: expected {expected}")]
pub struct Refusal {
    /// To answer with; of a server's answer, which nobody answers, always 502.
    pub status: StatusCode,
    /// The header's name, or `method`, `version`, `status`.
    pub field: HeaderName,
    /// In words.
    pub expected: &'static str,
}

impl Refusal {
    /// A header that the answer must have: the version that is spoken, with 426 (RFC 6455 §4.2.2).
    pub fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        (self.status == StatusCode::UPGRADE_REQUIRED)
            .then_some((http::header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION)))
    }
}

/// The only version that there is.
const VERSION: &str = "13";

/// `Sec-WebSocket-Key`: 16 random bytes of the client in base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key([u8; Key::LENGTH]);

impl Key {
    const LENGTH: usize = 24;

    /// From 16 bytes that the caller drew at random.
    pub fn new(random: [u8; 16]) -> Self {
        let mut key = [0; Self::LENGTH];
        BASE64.encode_slice(random, &mut key).expect("16 bytes are 24 in base64");
        Self(key)
    }

    /// Reads the field. The four bits that base64 leaves over may be anything, as some clients draw all 22 digits.
    pub fn parse(field: &[u8]) -> Option<Self> {
        let key: [u8; Self::LENGTH] = field.try_into().ok()?;
        let digits = key.strip_suffix(b"==")?;
        let good = digits.iter().all(|digit| digit.is_ascii_alphanumeric() || matches!(digit, b'+' | b'/'));
        good.then_some(Self(key))
    }

    /// As the field's value.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("base64 is ASCII")
    }

    /// `Sec-WebSocket-Accept`: proves that the server has read this key as a WebSocket handshake (RFC 6455 §4.2.2).
    pub fn accept(&self) -> HeaderValue {
        let digest = Sha1::new().chain_update(self.0).chain_update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
        HeaderValue::try_from(BASE64.encode(digest)).expect("base64 may stand in a header")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_key_of_the_rfc() {
        let key = Key::parse(b"dGhlIHNhbXBsZSBub25jZQ==").unwrap();
        assert_eq!(key.accept(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(Key::new(*b"the sample nonce"), key);
        assert_eq!(key.as_str(), "dGhlIHNhbXBsZSBub25jZQ==");
    }

    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
        for bad in [
            "",
            "dGhlIHNhbXBsZSBub25jZQ",
            "dGhlIHNhbXBsZSBub25jZQ=",
            "dGhlIHNhbXBsZSBub25jZTE=",
            "dGhlIHNhbXBsZSBub25jZTEy",
            "dGhlIHNhbXBsZSBub2-jZQ==",
            "dGhlIHNhbXBsZSBub25jZQ== ",
        ] {
            assert_eq!(Key::parse(bad.as_bytes()), None, "{bad:?}");
        }
    }
}

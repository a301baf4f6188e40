//! What the two sides agree on (RFC 7692 §7.1).

use std::fmt::Write as _;

use http::HeaderValue;

use crate::handshake::extensions::{Extension, Parameter};

const NAME: &str = "permessage-deflate";
const SERVER_NO_CONTEXT_TAKEOVER: &str = "server_no_context_takeover";
const CLIENT_NO_CONTEXT_TAKEOVER: &str = "client_no_context_takeover";
const SERVER_MAX_WINDOW_BITS: &str = "server_max_window_bits";
const CLIENT_MAX_WINDOW_BITS: &str = "client_max_window_bits";

/// A client's offer: no context takeover in either direction, windows as the server likes.
pub const OFFER: &str =
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover; client_max_window_bits";

/// The window that DEFLATE itself has.
const WIDEST: u8 = 15;
/// The narrowest in which zlib can deflate: it refuses 8 for a stream without a header.
const NARROWEST: u8 = 9;

/// What was agreed: compressed messages in both directions. What a peer may refer back to, when it sends, is not
/// limited: messages are inflated in the widest window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    window_bits: u8,
}

impl Agreed {
    /// How far what we send may refer back: 9 to 15 bits.
    pub fn window_bits(self) -> u8 {
        self.window_bits
    }

    /// Whether a message of so many bytes that was deflated with a window of 15 bits may be sent to this peer: in a
    /// message that is no longer than the peer's window, nothing can refer further back.
    pub fn takes_shared(self, message_bytes: usize) -> bool {
        self.window_bits == WIDEST || message_bytes <= 1 << self.window_bits
    }
}

/// The first offer that can be accepted, and the value of the answer's `Sec-WebSocket-Extensions`. An offer with
/// parameters that are unknown, repeated or not well formed is declined (RFC 7692 §7.1), and so is one that wants a
/// window of 8 bits. Context takeover is declined in both directions whether or not the offer says so (§7.1.1).
pub fn negotiate(offers: &[Extension<'_>]) -> Option<(Agreed, HeaderValue)> {
    let parameters =
        offers.iter().filter(|offer| offer.name == NAME).find_map(|offer| Parameters::of(offer, Bits::MayBeBare))?;
    let window_bits = parameters.server_bits.unwrap_or(WIDEST);
    let mut answer = format!("{NAME}; {SERVER_NO_CONTEXT_TAKEOVER}; {CLIENT_NO_CONTEXT_TAKEOVER}");
    if parameters.server_bits.is_some() {
        write!(answer, "; {SERVER_MAX_WINDOW_BITS}={window_bits}").expect("a String takes everything");
    }
    Some((Agreed { window_bits }, HeaderValue::try_from(answer).expect("names and digits may stand in a header")))
}

/// Reads a server's answer to [`OFFER`]: `Ok(None)` if it does not want compression.
///
/// # Errors
/// In words, what the answer must be: the client fails the connection (RFC 7692 §7.1).
pub fn check(answer: &[Extension<'_>]) -> Result<Option<Agreed>, &'static str> {
    let extension = match answer {
        [] => return Ok(None),
        [extension] if extension.name == NAME => extension,
        _ => return Err("permessage-deflate, once, or nothing"),
    };
    let parameters = Parameters::of(extension, Bits::HaveAValue)
        .ok_or("permessage-deflate with known parameters and windows of 9 to 15 bits")?;
    if !parameters.server_no_context {
        return Err("permessage-deflate with server_no_context_takeover");
    }
    Ok(Some(Agreed { window_bits: parameters.client_bits.unwrap_or(WIDEST) }))
}

/// Whether `client_max_window_bits` may come without a value: in an offer only.
#[derive(Clone, Copy, PartialEq)]
enum Bits {
    MayBeBare,
    HaveAValue,
}

#[derive(Default)]
struct Parameters {
    server_no_context: bool,
    client_no_context: bool,
    server_bits: Option<u8>,
    /// Whether `client_max_window_bits` was there.
    client_bits_named: bool,
    client_bits: Option<u8>,
}

impl Parameters {
    /// `None` when anything in them is unknown, repeated or not well formed, or when we would have to deflate in a window
    /// of 8 bits.
    fn of(extension: &Extension<'_>, bits: Bits) -> Option<Self> {
        let mut found = Self::default();
        for Parameter { name, value } in &extension.parameters {
            let repeated = match (*name, value) {
                (SERVER_NO_CONTEXT_TAKEOVER, None) => std::mem::replace(&mut found.server_no_context, true),
                (CLIENT_NO_CONTEXT_TAKEOVER, None) => std::mem::replace(&mut found.client_no_context, true),
                (SERVER_MAX_WINDOW_BITS, Some(value)) => found.server_bits.replace(window_bits(value)?).is_some(),
                (CLIENT_MAX_WINDOW_BITS, None) if bits == Bits::MayBeBare => {
                    std::mem::replace(&mut found.client_bits_named, true)
                }
                (CLIENT_MAX_WINDOW_BITS, Some(value)) => {
                    found.client_bits = Some(window_bits(value)?);
                    std::mem::replace(&mut found.client_bits_named, true)
                }
                _ => return None,
            };
            if repeated {
                return None;
            }
        }
        // Of the other side's window nothing is asked: 8 bits are as welcome as any.
        let ours = match bits {
            Bits::MayBeBare => found.server_bits,
            Bits::HaveAValue => found.client_bits,
        };
        (ours.unwrap_or(WIDEST) >= NARROWEST).then_some(found)
    }
}

/// 8 to 15, in decimal and without leading zeros (RFC 7692 §7.1.2).
fn window_bits(value: &str) -> Option<u8> {
    let bits: u8 = value.parse().ok()?;
    let canonical = !value.starts_with(['0', '+']);
    (canonical && (8..=WIDEST).contains(&bits)).then_some(bits)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, header::SEC_WEBSOCKET_EXTENSIONS};

    use super::*;
    use crate::handshake::extensions;

    const PLAIN: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    fn read<T>(value: &str, with: impl FnOnce(&[Extension<'_>]) -> T) -> T {
        let headers: HeaderMap =
            [(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_str(value).unwrap())].into_iter().collect();
        with(&extensions::parse(&headers).unwrap())
    }

    #[test]
    fn an_offer_is_answered_as_the_rfc_says() {
        let with_bits = |bits: u8| format!("{PLAIN}; server_max_window_bits={bits}");
        for (offer, expected) in [
            ("permessage-deflate", Some((15, PLAIN.to_owned()))),
            // What browsers send.
            ("permessage-deflate; client_max_window_bits", Some((15, PLAIN.to_owned()))),
            (
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
                Some((15, PLAIN.to_owned())),
            ),
            ("permessage-deflate; server_max_window_bits=10", Some((10, with_bits(10)))),
            ("permessage-deflate; server_max_window_bits=\"9\"", Some((9, with_bits(9)))),
            ("permessage-deflate; server_max_window_bits=15", Some((15, with_bits(15)))),
            ("permessage-deflate; client_max_window_bits=8", Some((15, PLAIN.to_owned()))),
            // The next offer is taken when the first cannot be.
            ("permessage-deflate; server_max_window_bits=8, permessage-deflate", Some((15, PLAIN.to_owned()))),
            (
                "x-other, permessage-deflate; unknown, permessage-deflate; server_max_window_bits=12",
                Some((12, with_bits(12))),
            ),
            ("permessage-deflate; server_max_window_bits=8", None),
            ("permessage-deflate; server_max_window_bits=7", None),
            ("permessage-deflate; server_max_window_bits=16", None),
            ("permessage-deflate; server_max_window_bits=010", None),
            ("permessage-deflate; server_max_window_bits=+9", None),
            ("permessage-deflate; server_max_window_bits=x", None),
            ("permessage-deflate; server_max_window_bits", None),
            ("permessage-deflate; server_max_window_bits=10; server_max_window_bits=10", None),
            ("permessage-deflate; client_max_window_bits; client_max_window_bits=10", None),
            ("permessage-deflate; client_max_window_bits=7", None),
            ("permessage-deflate; server_no_context_takeover=1", None),
            ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", None),
            ("permessage-deflate; client_no_context_takeover; client_no_context_takeover", None),
            ("permessage-deflate; unknown", None),
            ("x-webkit-deflate-frame", None),
        ] {
            let agreed = read(offer, negotiate);
            let agreed = agreed.map(|(agreed, answer)| (agreed.window_bits(), answer.to_str().unwrap().to_owned()));
            assert_eq!(agreed, expected, "{offer}");
        }
        assert_eq!(negotiate(&[]), None);
    }

    #[test]
    fn an_answer_must_be_one_to_our_offer() {
        assert_eq!(check(&[]), Ok(None));
        for (answer, expected) in [
            (PLAIN, Some(15)),
            ("permessage-deflate; server_no_context_takeover", Some(15)),
            ("permessage-deflate; server_no_context_takeover; client_max_window_bits=11", Some(11)),
            ("permessage-deflate; server_no_context_takeover; server_max_window_bits=8", Some(15)),
            ("permessage-deflate", None),
            ("permessage-deflate; server_no_context_takeover; client_max_window_bits", None),
            ("permessage-deflate; server_no_context_takeover; client_max_window_bits=8", None),
            ("permessage-deflate; server_no_context_takeover; x", None),
            ("permessage-deflate; server_no_context_takeover, permessage-deflate", None),
            ("other", None),
        ] {
            let agreed = read(answer, check).ok().map(|agreed| agreed.unwrap().window_bits());
            assert_eq!(agreed, expected, "{answer}");
        }
    }

    #[test]
    fn our_offer_is_answered_and_the_answer_is_one_to_it() {
        let (agreed, answer) = read(OFFER, negotiate).unwrap();
        assert_eq!(read(answer.to_str().unwrap(), check), Ok(Some(agreed)));
    }
}

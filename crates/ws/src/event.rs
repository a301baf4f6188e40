//! What a decoder says. Everything in it is lent: from the bytes that were read where a frame was whole, else from the
//! decoder, which takes it back at the next call.

/// A whole message or a control frame (RFC 6455 §5.5, §5.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// Asks for a pong with the same body of at most 125 bytes.
    Ping(&'a [u8]),
    /// Answers a ping, or is a sign of life that nobody asked for.
    Pong(&'a [u8]),
    /// The last thing that is heard of this peer: code and reason, if it gave any.
    Close(Option<(u16, &'a str)>),
}

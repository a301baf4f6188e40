//! Events that outlive the decoder, and frames of both roles.
#![allow(dead_code, reason = "each test binary uses its part")]

use countersign_ws::{Decoder, Event, Header, Inflater, Limits, Opcode, Role, Violation, frame};

/// An event with its own memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
    Violation(Violation),
}

impl From<Event<'_>> for Heard {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Text(text) => Self::Text(text.to_owned()),
            Event::Binary(bytes) => Self::Binary(bytes.to_vec()),
            Event::Ping(body) => Self::Ping(body.to_vec()),
            Event::Pong(body) => Self::Pong(body.to_vec()),
            Event::Close(why) => Self::Close(why.map(|(code, reason)| (code, reason.to_owned()))),
        }
    }
}

pub(crate) fn text(text: &str) -> Heard {
    Heard::Text(text.to_owned())
}

/// Feeds one read.
pub(crate) fn feed(decoder: &mut Decoder, bytes: &[u8]) -> Vec<Heard> {
    feed_either(decoder, None, bytes)
}

/// Feeds one read of a connection on which compression was agreed.
pub(crate) fn feed_inflating(decoder: &mut Decoder, inflater: &mut Inflater, bytes: &[u8]) -> Vec<Heard> {
    feed_either(decoder, Some(inflater), bytes)
}

fn feed_either(decoder: &mut Decoder, mut inflater: Option<&mut Inflater>, bytes: &[u8]) -> Vec<Heard> {
    let mut scratch = bytes.to_vec();
    let mut unread = scratch.as_mut_slice();
    let mut heard = Vec::new();
    loop {
        let next = match &mut inflater {
            Some(inflater) => decoder.next_inflating(&mut unread, inflater),
            None => decoder.next(&mut unread),
        };
        match next {
            Ok(Some(event)) => heard.push(event.into()),
            Ok(None) => break,
            Err(violation) => {
                heard.push(Heard::Violation(violation));
                break;
            }
        }
    }
    assert!(unread.is_empty(), "everything is taken");
    heard
}

/// Feeds reads of at most `piece` bytes.
pub(crate) fn feed_in_pieces(decoder: &mut Decoder, bytes: &[u8], piece: usize) -> Vec<Heard> {
    bytes.chunks(piece).flat_map(|read| feed(decoder, read)).collect()
}

pub(crate) const LIMITS: usize = 1 << 20;

pub(crate) fn decoder(role: Role) -> Decoder {
    Decoder::new(role, Limits::new(LIMITS))
}

/// A frame for the peer of `role`.
pub(crate) fn to(role: Role, last: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mask = (role == Role::Server).then_some([0x37, 0xfa, 0x21, 0x3d]);
    let mut out = Vec::new();
    frame::append(Header { last, mask, ..Header::whole(opcode, 0) }, payload, &mut out);
    out
}

/// A frame of a client that is a whole message.
pub(crate) fn whole(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    to(Role::Server, true, opcode, payload)
}

/// A fragment of a client.
pub(crate) fn fragment(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    to(Role::Server, false, opcode, payload)
}

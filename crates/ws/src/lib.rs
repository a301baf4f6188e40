//! WebSocket (RFC 6455) and permessage-deflate (RFC 7692) as a pure machine, for both roles: no IO, no clock, no
//! runtime, no randomness. Bytes go in and events come out; frames come out as bytes; mask keys are handed in.
//!
//! A tour, one sentence a file:
//! - [`decoder`]: what a connection keeps between two reads, and the loop that turns bytes into events.
//! - [`event`]: what a decoder says: a whole message or a control frame, lent.
//! - [`violation`]: what a peer does against the rules, each with its close code and a text.
//! - [`limits`]: how much a peer may send at once.
//! - [`header`]: the head of a frame, read and written.
//! - [`frame`]: whole frames, written; and read where they lie, for a peer that needs no messages put together.
//! - [`close`]: the body of a close frame, and which codes may be on the wire.
//! - [`deflate`]: permessage-deflate without context takeover: agreed on, made and read.
//! - [`mask`]: exclusive or, eight bytes at a time.
//! - [`handshake`]: the HTTP request and answer that open a connection, field by field, from both sides.
//!
//! The read loop of a connection, with one scratch buffer for all connections of a thread:
//!
//! ```
//! use countersign_ws::{Decoder, Event, Limits, Role, Violation};
//!
//! fn read(decoder: &mut Decoder, scratch: &mut [u8]) -> Result<(), Violation> {
//!     let mut unread = scratch;
//!     while let Some(event) = decoder.next(&mut unread)? {
//!         match event {
//!             Event::Text(text) => drop(text.len()),
//!             Event::Binary(bytes) | Event::Ping(bytes) | Event::Pong(bytes) => drop(bytes.len()),
//!             Event::Close(_) => return Ok(()),
//!         }
//!     }
//!     Ok(())
//! }
//!
//! let mut decoder = Decoder::new(Role::Server, Limits::new(64 * 1024));
//! // "Hello", masked: the example of RFC 6455 §5.7.
//! let mut scratch = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
//! assert_eq!(decoder.next(&mut scratch.as_mut_slice()), Ok(Some(Event::Text("Hello"))));
//! assert_eq!(read(&mut decoder, &mut []), Ok(()));
//! ```
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

pub mod close;
pub mod decoder;
pub mod deflate;
pub mod event;
pub mod frame;
pub mod handshake;
pub mod header;
pub mod limits;
pub mod mask;
mod utf8;
pub mod violation;

pub use decoder::{Decoder, Role};
pub use deflate::{Deflater, Inflater};
pub use event::Event;
pub use header::{Compression, Header, Opcode};
pub use limits::Limits;
pub use violation::Violation;

//! permessage-deflate (RFC 7692) without context takeover in either direction: every message is deflated by itself. So
//! a message is deflated once for all who agreed, and one [`Deflater`] and one [`Inflater`] serve all connections of a
//! thread; a connection keeps nothing but its [`Agreed`].
//!
//! - [`negotiate`] and [`check`]: what is agreed, from the server's and the client's side.
//! - [`Deflater`]: makes the payload of a compressed frame.
//! - [`Inflater`]: reads one, never further than its limit.

mod deflater;
mod inflater;
mod negotiation;

pub use deflater::Deflater;
pub use inflater::Inflater;
pub use negotiation::{Agreed, OFFER, check, negotiate};

/// How much memory is kept for the next message when one has been dealt with.
const KEPT: usize = 64 * 1024;

#[cfg(test)]
mod tests;

//! Makes the payload of a compressed frame (RFC 7692 §7.2.1): DEFLATE, flushed to a byte, without the four bytes that
//! every such flush ends in.

use std::fmt;

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress};

use super::KEPT;

/// Deflates messages, one by one; serves all connections of a thread.
pub struct Deflater {
    level: Compression,
    /// By window, 9 to 15 bits, each made when first needed: some 270 KB for the widest.
    by_window: [Option<Compress>; WINDOWS],
    deflated: Vec<u8>,
}

const NARROWEST: u8 = 9;
const WIDEST: u8 = 15;
const WINDOWS: usize = 7;
/// What a flush ends in.
const FLUSHED: &[u8] = &[0, 0, 0xff, 0xff];

impl Deflater {
    /// With a level from 1, fast, to 9, small; others count as the nearest of these.
    pub fn new(level: u32) -> Self {
        Self { level: Compression::new(level.clamp(1, 9)), by_window: Default::default(), deflated: Vec::new() }
    }

    /// The payload of a compressed frame for a peer that agreed to a window of 9 to 15 bits (others count as the nearest);
    /// `None` when it would not be at least a tenth shorter than the message, which is then better sent as it is.
    pub fn compress(&mut self, message: &[u8], window_bits: u8) -> Option<Bytes> {
        let bits = window_bits.clamp(NARROWEST, WIDEST);
        // Nothing refers further back than the message is long, so the widest serves them all while messages are short.
        let bits = if message.len() <= 1 << bits { WIDEST } else { bits };
        let slot = self.by_window.get_mut(usize::from(bits - NARROWEST))?;
        let compress = slot.get_or_insert_with(|| Compress::new_with_window_bits(self.level, false, bits));
        compress.reset();
        let longest = message.len() - message.len().div_ceil(10);
        if self.deflated.capacity() > KEPT {
            self.deflated = Vec::new();
        }
        self.deflated.clear();
        // Room for the worst: nine bits a byte, and the flush. It is not cut short at `longest`, because a compressor that
        // still holds output cannot be used again (zlib-rs 0.6: `reset` does not rewind what did not fit, and it panics
        // when no room is left).
        self.deflated.reserve(message.len() + message.len() / 8 + 64);
        let done = compress.compress_vec(message, &mut self.deflated, FlushCompress::Sync).is_ok();
        let whole = u64::try_from(message.len()) == Ok(compress.total_in());
        if !done || !whole || self.deflated.len() == self.deflated.capacity() {
            *slot = None;
            return None;
        }
        self.deflated.strip_suffix(FLUSHED).filter(|deflated| deflated.len() <= longest).map(Bytes::copy_from_slice)
    }
}

impl fmt::Debug for Deflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deflater").field("level", &self.level.level()).finish_non_exhaustive()
    }
}

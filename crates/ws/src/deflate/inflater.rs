//! Reads the payload of a compressed message (RFC 7692 §7.2.2), bounded while it works: a few bytes can stand for a
//! thousand times as many.

use std::fmt;

use flate2::{Decompress, FlushDecompress, Status};

use super::KEPT;
use crate::violation::Violation;

/// Inflates messages, one by one; serves all connections of a thread. What it has inflated is lent until the next.
pub struct Inflater {
    inflate: Decompress,
    inflated: Vec<u8>,
}

/// What the sender took off its last block, then an empty block that is marked as the last of all: only if the message
/// ended where a block may end will the stream end here.
const END: &[u8] = &[0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];
/// What is expected of a message at first: JSON shrinks to a quarter.
const USUAL: usize = 4;

impl Inflater {
    /// About 40 KB.
    pub fn new() -> Self {
        Self { inflate: Decompress::new(false), inflated: Vec::new() }
    }

    /// The message behind the payloads of its frames.
    ///
    /// # Errors
    /// It is longer than `longest` bytes, of which no more than one byte further is inflated; or it is not DEFLATE.
    pub fn inflate(&mut self, deflated: &[u8], longest: usize) -> Result<&[u8], Violation> {
        self.fill(deflated, longest).map(|()| self.inflated())
    }

    /// What was inflated last, as far as it could be.
    pub(crate) fn inflated(&self) -> &[u8] {
        &self.inflated
    }

    /// As [`Self::inflate`]; [`Self::inflated`] has the message.
    pub(crate) fn fill(&mut self, deflated: &[u8], longest: usize) -> Result<(), Violation> {
        if self.inflated.capacity() > KEPT {
            self.inflated = Vec::new();
        }
        self.inflated.clear();
        self.inflate.reset(false);
        self.grow(deflated.len().saturating_mul(USUAL).max(256), longest);
        let mut rest = deflated;
        // A block may be marked as the last of its stream (§7.2.3.4); what follows is another stream.
        while self.run(&mut rest, longest)? {
            if rest.is_empty() {
                return Ok(());
            }
            self.inflate.reset(false);
        }
        rest = END;
        if self.run(&mut rest, longest)? && rest.is_empty() { Ok(()) } else { Err(Violation::BadDeflate) }
    }

    /// Inflates until the input is used up or its stream has ended: whether it has ended.
    fn run(&mut self, input: &mut &[u8], longest: usize) -> Result<bool, Violation> {
        loop {
            if self.inflated.len() == self.inflated.capacity() {
                self.grow(self.inflated.len(), longest);
            }
            let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress_vec(input, &mut self.inflated, FlushDecompress::Sync);
            let status = status.map_err(|_| Violation::BadDeflate)?;
            let used = self.inflate.total_in() - read;
            *input = usize::try_from(used).ok().and_then(|used| input.get(used..)).unwrap_or_default();
            if self.inflated.len() > longest {
                return Err(Violation::too_long(longest));
            }
            if status == Status::StreamEnd {
                return Ok(true);
            }
            // With room left, nothing more is to come of what was read.
            if self.inflated.len() < self.inflated.capacity() {
                if input.is_empty() {
                    return Ok(false);
                }
                if used == 0 && self.inflate.total_out() == written {
                    return Err(Violation::BadDeflate);
                }
            }
        }
    }

    /// Makes room for so many bytes more, but not for more than one byte past the limit.
    fn grow(&mut self, bytes: usize, longest: usize) {
        let room = longest.saturating_add(1).saturating_sub(self.inflated.len());
        self.inflated.reserve_exact(bytes.min(room));
    }
}

impl Default for Inflater {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflater").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deflate::Deflater;

    #[test]
    fn no_memory_is_taken_for_what_passes_the_limit() {
        let bomb = Deflater::new(9).compress(&vec![b' '; 5_000_000], 15).unwrap();
        for longest in [100, 10_000, 200_000] {
            let mut inflater = Inflater::new();
            assert!(inflater.inflate(&bomb, longest).is_err());
            assert!(inflater.inflated.capacity() <= longest + 1, "{} for {longest}", inflater.inflated.capacity());
        }
        // What a long message took is given back at the next.
        let mut inflater = Inflater::new();
        assert!(inflater.inflate(&bomb, 5_000_000).is_ok());
        assert!(inflater.inflate(&[0], 5_000_000).is_ok());
        assert!(inflater.inflated.capacity() <= KEPT);
    }
}

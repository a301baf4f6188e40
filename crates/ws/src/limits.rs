//! How much a peer may send at once. Each limit is checked as soon as a frame's head tells that it will be passed, before
//! anything is allocated or added up.

/// Limits of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    message_bytes: u32,
    fragments: u32,
}

/// A peer that streams a message sends some tens of fragments; a peer that sends it byte by byte means harm, because
/// every fragment costs work (CVE-2026-48779).
const FRAGMENTS: u32 = 1024;

impl Limits {
    /// Messages of at most so many bytes, over all their fragments and after inflating; more than 4 GiB count as 4 GiB.
    /// At most 1024 fragments a message.
    pub fn new(message_bytes: usize) -> Self {
        Self { message_bytes: u32::try_from(message_bytes).unwrap_or(u32::MAX), fragments: FRAGMENTS }
    }

    /// At most so many fragments a message, at least one.
    #[must_use]
    pub fn with_fragments(self, fragments: u32) -> Self {
        Self { fragments: fragments.max(1), ..self }
    }

    /// Of a message.
    pub fn message_bytes(&self) -> usize {
        usize::try_from(self.message_bytes).unwrap_or(usize::MAX)
    }

    /// Of a message.
    pub fn fragments(&self) -> u32 {
        self.fragments
    }
}

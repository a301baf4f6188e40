//! What a peer does against the rules. Each has the close code that answers it and a text that fits into a close frame
//! and tells the peer's author what was expected.

use thiserror::Error;

/// The peer is wrong: close with [`Violation::close_code`] and this as the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Violation {
    /// RFC 6455 §5.1.
    #[error("a client's frame must be masked")]
    Unmasked,
    /// RFC 6455 §5.1.
    #[error("a server's frame must not be masked")]
    Masked,
    /// RFC 6455 §5.2, RFC 7692 §6: RSV2 and RSV3 never, RSV1 only on the first frame of a message, and only if
    /// compression was agreed.
    #[error("a reserved bit is set that no agreed extension defines for this frame")]
    ReservedBit,
    /// RFC 6455 §5.2.
    #[error("opcode {0:#x} is reserved")]
    ReservedOpcode(u8),
    /// RFC 6455 §5.5.
    #[error("a control frame must not be fragmented")]
    FragmentedControl,
    /// RFC 6455 §5.5.
    #[error("a control frame must be at most 125 bytes long")]
    LongControl,
    /// RFC 6455 §5.2.
    #[error("a frame's length must be written in the fewest bytes")]
    LongerLength,
    /// RFC 6455 §5.2.
    #[error("the highest bit of a frame's length must be 0")]
    HugeLength,
    /// RFC 6455 §5.4.
    #[error("a continuation without a message to continue")]
    NothingToContinue,
    /// RFC 6455 §5.4.
    #[error("a new message before the last fragment of the one before")]
    Interleaved,
    /// RFC 6455 §5.5.1.
    #[error("a close frame's body must be empty or begin with a code of two bytes")]
    ShortClose,
    /// RFC 6455 §7.4.
    #[error("close code {0} must not be sent")]
    CloseCode(u16),
    /// RFC 6455 §5.5.1.
    #[error("a close frame's reason must be UTF-8")]
    CloseReason,
    /// RFC 6455 §8.1.
    #[error("a text message must be UTF-8")]
    NotUtf8,
    /// RFC 7692 §7.2.2.
    #[error("a compressed message must be whole DEFLATE blocks")]
    BadDeflate,
    /// [`Limits::new`](crate::Limits::new).
    #[error("a message must be at most {0} bytes long")]
    TooLong(u32),
    /// [`Limits::with_fragments`](crate::Limits::with_fragments).
    #[error("a message must have at most {0} fragments")]
    TooManyFragments(u32),
}

impl Violation {
    /// Longer than so many bytes.
    pub(crate) fn too_long(limit: usize) -> Self {
        Self::TooLong(u32::try_from(limit).unwrap_or(u32::MAX))
    }

    /// RFC 6455 §7.4.1.
    pub fn close_code(self) -> u16 {
        match self {
            Self::Unmasked
            | Self::Masked
            | Self::ReservedBit
            | Self::ReservedOpcode(_)
            | Self::FragmentedControl
            | Self::LongControl
            | Self::LongerLength
            | Self::HugeLength
            | Self::NothingToContinue
            | Self::Interleaved
            | Self::ShortClose
            | Self::CloseCode(_) => 1002,
            Self::CloseReason | Self::NotUtf8 | Self::BadDeflate => 1007,
            Self::TooManyFragments(_) => 1008,
            Self::TooLong(_) => 1009,
        }
    }
}

//! The head of a frame (RFC 6455 §5.2): two to fourteen bytes that say what follows and how long it is.

use std::ops::Deref;

use crate::{decoder::Role, violation::Violation};

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// A further fragment of a message.
    Continuation = 0,
    /// A text message, or its first fragment.
    Text = 1,
    /// A binary message, or its first fragment.
    Binary = 2,
    /// The sender sends nothing more.
    Close = 8,
    /// Asks for a pong.
    Ping = 9,
    /// Answers a ping.
    Pong = 10,
}

impl Opcode {
    fn from_bits(bits: u8) -> Result<Self, Violation> {
        Ok(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            reserved => return Err(Violation::ReservedOpcode(reserved)),
        })
    }

    /// Close, ping and pong: short, whole, and allowed between the fragments of a message.
    pub fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub opcode: Opcode,
    /// FIN: the frame ends its message.
    pub last: bool,
    /// RSV1: the message is deflated (RFC 7692 §6); only on its first frame.
    pub compressed: bool,
    /// Of the payload, in bytes.
    pub length: u64,
    /// Present on what a client sends.
    pub mask: Option<[u8; 4]>,
}

/// Whether RSV1 may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// permessage-deflate was agreed.
    Agreed,
    /// It was not.
    None,
}

/// The longest payload of a control frame, and the longest whose length is in the second byte.
pub(crate) const SHORT: u64 = 125;
/// The length is in the next two bytes.
const TWO_BYTES: u8 = 126;
/// The length is in the next eight bytes.
const EIGHT_BYTES: u8 = 127;
const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const RSV2_RSV3: u8 = 0x30;
const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;

impl Header {
    /// Of a frame that is a whole message, not compressed and not masked.
    pub fn whole(opcode: Opcode, length: usize) -> Self {
        // No machine has a usize of more than 64 bits.
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        Self { opcode, last: true, compressed: false, length, mask: None }
    }

    /// In bytes, on the wire: 2 to 14.
    pub fn size(&self) -> usize {
        let length = match self.length {
            0..=SHORT => 0,
            126..=0xffff => 2,
            _ => 8,
        };
        2 + length + if self.mask.is_some() { 4 } else { 0 }
    }

    /// On the wire.
    pub fn encode(&self) -> Encoded {
        let mut encoded = Encoded { bytes: [0; LONGEST], length: 0 };
        let flags = if self.last { FIN } else { 0 } | if self.compressed { RSV1 } else { 0 };
        let masked = if self.mask.is_some() { MASKED } else { 0 };
        encoded.push(&[flags | self.opcode as u8]);
        match (u8::try_from(self.length), u16::try_from(self.length)) {
            (Ok(length @ 0..=125), _) => encoded.push(&[masked | length]),
            (_, Ok(length)) => {
                encoded.push(&[masked | TWO_BYTES]);
                encoded.push(&length.to_be_bytes());
            }
            _ => {
                encoded.push(&[masked | EIGHT_BYTES]);
                encoded.push(&self.length.to_be_bytes());
            }
        }
        if let Some(mask) = self.mask {
            encoded.push(&mask);
        }
        encoded
    }

    /// Reads the head at the beginning of `bytes` from the peer of `role`, with its size in bytes; `None` while it is not
    /// whole. Two bytes are enough to refuse most of what is wrong.
    ///
    /// # Errors
    /// Everything that RFC 6455 §5.1, §5.2 and §5.5 forbid in a head alone.
    #[inline]
    pub fn parse(role: Role, compression: Compression, bytes: &[u8]) -> Result<Option<(Self, usize)>, Violation> {
        let &[first, second, ..] = bytes else { return Ok(None) };
        let opcode = Opcode::from_bits(first & OPCODE)?;
        let starts = matches!(opcode, Opcode::Text | Opcode::Binary);
        let compressed = first & RSV1 != 0;
        if first & RSV2_RSV3 != 0 || (compressed && !(starts && compression == Compression::Agreed)) {
            return Err(Violation::ReservedBit);
        }
        match role {
            Role::Server if second & MASKED == 0 => return Err(Violation::Unmasked),
            Role::Client if second & MASKED != 0 => return Err(Violation::Masked),
            _ => {}
        }
        if opcode.is_control() {
            if first & FIN == 0 {
                return Err(Violation::FragmentedControl);
            }
            if u64::from(second & LENGTH) > SHORT {
                return Err(Violation::LongControl);
            }
        }
        match Self::read(opcode, bytes)? {
            Some((header, size)) if size > header.size() => Err(Violation::LongerLength),
            whole => Ok(whole),
        }
    }

    /// Reads a head of a peer that has broken the rules already: only where the frame ends is of interest, and whether it
    /// is a close frame. A reserved opcode is read as a continuation.
    ///
    /// # Errors
    /// The length is none.
    pub(crate) fn skim(bytes: &[u8]) -> Result<Option<(Self, usize)>, Violation> {
        let &[first, ..] = bytes else { return Ok(None) };
        Self::read(Opcode::from_bits(first & OPCODE).unwrap_or(Opcode::Continuation), bytes)
    }

    /// Reads everything but the opcode.
    fn read(opcode: Opcode, bytes: &[u8]) -> Result<Option<(Self, usize)>, Violation> {
        let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
        let (length, rest) = match second & LENGTH {
            TWO_BYTES => {
                let Some((length, rest)) = rest.split_first_chunk::<2>() else { return Ok(None) };
                (u64::from(u16::from_be_bytes(*length)), rest)
            }
            EIGHT_BYTES => {
                let Some((length, rest)) = rest.split_first_chunk::<8>() else { return Ok(None) };
                (u64::from_be_bytes(*length), rest)
            }
            length => (u64::from(length), rest),
        };
        if length >> 63 != 0 {
            return Err(Violation::HugeLength);
        }
        let (mask, rest) = match (second & MASKED != 0, rest.split_first_chunk::<4>()) {
            (false, _) => (None, rest),
            (true, Some((mask, rest))) => (Some(*mask), rest),
            (true, None) => return Ok(None),
        };
        let header = Self { opcode, last: first & FIN != 0, compressed: first & RSV1 != 0, length, mask };
        Ok(Some((header, bytes.len() - rest.len())))
    }
}

/// The longest head.
pub(crate) const LONGEST: usize = 14;

/// A head on the wire, 2 to 14 bytes.
#[derive(Debug, Clone, Copy)]
pub struct Encoded {
    bytes: [u8; LONGEST],
    length: u8,
}

impl Encoded {
    fn push(&mut self, part: &[u8]) {
        let free = self.bytes.iter_mut().skip(usize::from(self.length));
        for (to, from) in free.zip(part) {
            *to = *from;
            self.length += 1;
        }
    }
}

impl Deref for Encoded {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, Violation> {
        Header::parse(Role::Client, Compression::None, bytes)
    }

    #[test]
    fn a_head_reads_back_at_every_border_of_its_length() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, u64::MAX >> 1] {
            for mask in [None, Some([1, 2, 3, 4])] {
                for last in [true, false] {
                    let header = Header { opcode: Opcode::Binary, last, compressed: true, length, mask };
                    let encoded = header.encode();
                    assert_eq!(encoded.len(), header.size());
                    let role = if mask.is_some() { Role::Server } else { Role::Client };
                    let whole = Ok(Some((header, encoded.len())));
                    assert_eq!(Header::parse(role, Compression::Agreed, &encoded), whole);
                    for cut in 0..encoded.len() {
                        assert_eq!(Header::parse(role, Compression::Agreed, &encoded[..cut]), Ok(None), "cut {cut}");
                    }
                }
            }
        }
    }

    #[test]
    fn two_bytes_of_a_head_are_enough_to_refuse_it() {
        for (bytes, expected) in [
            ([0x83, 0], Violation::ReservedOpcode(3)),
            ([0x87, 0], Violation::ReservedOpcode(7)),
            ([0x8b, 0], Violation::ReservedOpcode(11)),
            ([0x8f, 0], Violation::ReservedOpcode(15)),
            ([0xc1, 0], Violation::ReservedBit),
            ([0xa1, 0], Violation::ReservedBit),
            ([0x91, 0], Violation::ReservedBit),
            ([0xc9, 0], Violation::ReservedBit),
            ([0x81, 0x80], Violation::Masked),
            ([0x09, 0], Violation::FragmentedControl),
            ([0x08, 0], Violation::FragmentedControl),
            ([0x89, 126], Violation::LongControl),
            ([0x88, 127], Violation::LongControl),
        ] {
            assert_eq!(parse(&bytes), Err(expected), "{bytes:x?}");
        }
        assert_eq!(Header::parse(Role::Server, Compression::None, &[0x81, 0]), Err(Violation::Unmasked));
    }

    #[test]
    fn a_compressed_bit_is_for_the_first_frame_of_a_message_only() {
        for (first, allowed) in [(0xc1, true), (0xc2, true), (0x41, true), (0xc0, false), (0xc8, false), (0xc9, false)]
        {
            let parsed = Header::parse(Role::Client, Compression::Agreed, &[first, 0]);
            assert_eq!(parsed.is_ok(), allowed, "{first:x}");
        }
    }

    #[test]
    fn a_length_is_written_in_the_fewest_bytes() {
        for (bytes, expected) in [
            (&[0x81, 126, 0, 125][..], Violation::LongerLength),
            (&[0x81, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff], Violation::LongerLength),
            (&[0x81, 127, 0, 0, 0, 0, 0, 0, 0, 0], Violation::LongerLength),
            (&[0x81, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], Violation::HugeLength),
            (&[0x81, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Violation::HugeLength),
        ] {
            assert_eq!(parse(bytes), Err(expected), "{bytes:x?}");
        }
    }
}

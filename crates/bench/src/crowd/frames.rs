//! The least of RFC 6455 that a load generator needs, as pure functions over bytes: read the frames of a server in
//! place, write the frames of a client. Nothing is copied and nothing is unmasked, because servers do not mask and the
//! mask of this client is zero, which the RFC's wire format allows.

use anyhow::{Result, bail};

/// Opcodes (RFC 6455 §5.2).
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

const CONTINUATION: u8 = 0;

const FINAL: u8 = 0x80;
const OPCODE: u8 = 0x0F;
const MASKED: u8 = 0x80;
/// The length is in the next two bytes.
const TWO_BYTES: u8 = 0x7E;
/// The length is in the next eight bytes.
const EIGHT_BYTES: u8 = 0x7F;

/// A frame of a server, in the buffer in which it arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) opcode: u8,
    pub(crate) payload: &'a [u8],
}

/// The first frame of `bytes` and how many bytes it takes; `None` when it is not complete.
pub(crate) fn read(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>> {
    let &[first, second, ..] = bytes else { return Ok(None) };
    if first & 0x70 != 0 || second & MASKED != 0 {
        bail!("the server sent a frame that is compressed or masked, which was not negotiated");
    }
    if first & FINAL == 0 || first & OPCODE == CONTINUATION {
        bail!("the server sent a message in fragments, which this load generator does not join");
    }
    // Behind the two bytes of the head: nothing, or the length in two or eight bytes.
    let wide = |width: usize| -> Option<u64> {
        let digits = bytes.get(2..2 + width)?;
        Some(digits.iter().fold(0, |length, digit| length << 8 | u64::from(*digit)))
    };
    let (head, length): (usize, _) = match second {
        TWO_BYTES => (4, wide(2)),
        EIGHT_BYTES => (10, wide(8)),
        length => (2, Some(u64::from(length))),
    };
    let Some(length) = length else { return Ok(None) };
    let end = usize::try_from(length).ok().and_then(|length| head.checked_add(length));
    let Some(end) = end else { bail!("the server sent a frame of {length} bytes") };
    Ok(bytes.get(head..end).map(|payload| (Frame { opcode: first & OPCODE, payload }, end)))
}

/// Appends a client's frame.
pub(crate) fn write(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(FINAL | opcode);
    // The mask bit, then the length in 7, 7 + 16 or 7 + 64 bits.
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ 0..=125), _) => out.push(MASKED | length),
        (_, Ok(length)) => {
            out.push(MASKED | TWO_BYTES);
            out.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            out.push(MASKED | EIGHT_BYTES);
            out.extend_from_slice(&u64::try_from(payload.len()).expect("a length fits").to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
}

/// The code and the reason of a close frame; 1005 when it has none.
pub(crate) fn close_reason(payload: &[u8]) -> (u16, String) {
    match payload {
        &[a, b, ref reason @ ..] => (u16::from_be_bytes([a, b]), String::from_utf8_lossy(reason).into_owned()),
        _ => (1005, String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write(opcode, payload, &mut out);
        // As a server would: without the mask bit and the mask.
        out[1] &= 0x7F;
        let head = out.len() - payload.len();
        out.drain(head - 4..head);
        out
    }

    #[test]
    fn frames_of_every_length_read_back_and_a_cut_one_waits_for_the_rest() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let mut stream = server_frame(TEXT, &vec![b'x'; length]);
            let whole = stream.len();
            stream.extend_from_slice(&[0x81, 1]);
            let (frame, end) = read(&stream).unwrap().unwrap();
            assert_eq!((frame.payload.len(), end), (length, whole));
            assert_eq!(read(&stream[whole..]).unwrap(), None);
            for cut in [0, 1, whole / 2, whole - 1] {
                assert_eq!(read(&stream[..cut]).unwrap(), None, "{cut} of {whole} bytes");
            }
        }
    }

    #[test]
    fn what_was_not_negotiated_is_refused() {
        for wrong in [[0xC1, 0], [0x01, 0], [0x80, 0], [0x81, 0x80]] {
            assert!(read(&wrong).is_err(), "{wrong:?}");
        }
        assert!(read(&[0x81, 127, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]).is_err());
    }

    #[test]
    fn a_close_frame_says_why() {
        assert_eq!(close_reason(&[0x0F, 0xA1, b's']), (4001, "s".to_owned()));
        assert_eq!(close_reason(&[]).0, 1005);
    }
}

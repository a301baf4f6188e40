//! Whole frames, written. A server's frame is the same for everybody, so it is made once and shared; a client's frame is
//! masked with a key that the caller draws afresh for each frame (RFC 6455 §5.3 wants it unpredictable).
//!
//! And whole frames, read where they lie: for a peer that trusts the other side to be well formed and counts every
//! nanosecond, such as a load generator. Everybody else has the [`Decoder`](crate::Decoder), which joins fragments,
//! inflates, and checks texts and close frames.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    close,
    decoder::Role,
    header::{Compression, Header, Opcode},
    mask,
    violation::Violation,
};

/// The first frame of `bytes` from the peer of `role` and what is behind it; `None` while it is not whole. The payload is
/// as it lies there: not unmasked, not inflated, not checked to be UTF-8.
///
/// # Errors
/// Like [`Header::parse`].
#[inline]
pub fn split_first(role: Role, compression: Compression, bytes: &[u8]) -> Result<Option<Split<'_>>, Violation> {
    let Some((header, size)) = Header::parse(role, compression, bytes)? else { return Ok(None) };
    let behind = bytes.get(size..).unwrap_or_default();
    // What has more bytes than there are addresses is never whole.
    let length = usize::try_from(header.length).unwrap_or(usize::MAX);
    let Some((payload, rest)) = behind.split_at_checked(length) else { return Ok(None) };
    Ok(Some(Split { header, payload, rest }))
}

/// A frame where it lies, and what is behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split<'a> {
    /// Its head.
    pub header: Header,
    /// As it was sent.
    pub payload: &'a [u8],
    /// Behind the frame.
    pub rest: &'a [u8],
}

/// A server's frame that is a whole message, as one run of bytes.
pub fn server(opcode: Opcode, payload: &[u8]) -> Bytes {
    contiguous(Header::whole(opcode, payload.len()), payload)
}

/// A server's frame of a message that was deflated.
pub fn server_compressed(opcode: Opcode, deflated: &[u8]) -> Bytes {
    contiguous(Header { compressed: true, ..Header::whole(opcode, deflated.len()) }, deflated)
}

fn contiguous(header: Header, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(header.size() + payload.len());
    frame.put_slice(&header.encode());
    frame.put_slice(payload);
    frame.freeze()
}

/// A server's close frame; a reason of more than 123 bytes is cut between characters.
pub fn server_close(code: u16, reason: &str) -> Bytes {
    let reason = close::fitting(reason);
    let mut frame = BytesMut::with_capacity(4 + reason.len());
    frame.put_slice(&Header::whole(Opcode::Close, 2 + reason.len()).encode());
    frame.put_u16(code);
    frame.put_slice(reason.as_bytes());
    frame.freeze()
}

/// Appends a server's frame that is a whole message.
pub fn append_server(opcode: Opcode, payload: &[u8], out: &mut impl BufMut) {
    out.put_slice(&Header::whole(opcode, payload.len()).encode());
    out.put_slice(payload);
}

/// Appends a client's frame that is a whole message.
pub fn append_client(opcode: Opcode, payload: &[u8], key: [u8; 4], out: &mut impl BufMut) {
    append(Header { mask: Some(key), ..Header::whole(opcode, payload.len()) }, payload, out);
}

/// Appends a client's close frame; a reason of more than 123 bytes is cut between characters.
pub fn append_client_close(code: u16, reason: &str, key: [u8; 4], out: &mut impl BufMut) {
    let reason = close::fitting(reason);
    let body = [&code.to_be_bytes(), reason.as_bytes()].concat();
    append_client(Opcode::Close, &body, key, out);
}

/// Appends a frame of any kind, such as a fragment; the header's length is the payload's, its mask is applied.
pub fn append(header: Header, payload: &[u8], out: &mut impl BufMut) {
    let header = Header { length: u64::try_from(payload.len()).unwrap_or(u64::MAX), ..header };
    out.put_slice(&header.encode());
    let Some(key) = header.mask else { return out.put_slice(payload) };
    // A multiple of four, so that every piece meets the key from its first byte.
    let mut piece = [0; 1024];
    for plain in payload.chunks(piece.len()) {
        if let Some(masked) = piece.get_mut(..plain.len()) {
            masked.copy_from_slice(plain);
            mask::apply(key, masked);
            out.put_slice(masked);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc_are_written_as_printed() {
        assert_eq!(&server(Opcode::Text, b"Hello")[..], [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        assert_eq!(&server(Opcode::Binary, &[0; 256])[..4], [0x82, 0x7e, 0x01, 0x00]);
        assert_eq!(&server(Opcode::Binary, &vec![0; 65536])[..10], [0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]);
        let mut masked = Vec::new();
        append_client(Opcode::Text, b"Hello", [0x37, 0xfa, 0x21, 0x3d], &mut masked);
        assert_eq!(masked, [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
        // RFC 7692 §7.2.3.1.
        let deflated = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        assert_eq!(&server_compressed(Opcode::Text, &deflated)[..3], [0xc1, 0x07, 0xf2]);
    }

    #[test]
    fn frames_are_found_where_they_lie_and_a_cut_one_waits_for_the_rest() {
        fn first(bytes: &[u8]) -> Result<Option<Split<'_>>, Violation> {
            split_first(Role::Client, Compression::None, bytes)
        }
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let frame = server(Opcode::Text, &vec![b'x'; length]);
            let stream = [&frame[..], &[0x81, 1]].concat();
            let split = first(&stream).unwrap().unwrap();
            assert_eq!((split.header, split.rest), (Header::whole(Opcode::Text, length), &[0x81, 1][..]));
            assert_eq!(split.payload.len(), length);
            assert_eq!(first(split.rest), Ok(None));
            for cut in [0, 1, frame.len() / 2, frame.len() - 1] {
                assert_eq!(first(&stream[..cut]), Ok(None), "{cut} of {} bytes", frame.len());
            }
        }
        assert_eq!(first(&[0x81, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), Ok(None));
        assert_eq!(first(&[0x81, 0x80]), Err(Violation::Masked));
        assert_eq!(first(&[0xc1, 0]), Err(Violation::ReservedBit));
        assert!(split_first(Role::Client, Compression::Agreed, &[0xc1, 0]).unwrap().unwrap().header.compressed);
    }

    #[test]
    fn a_close_frame_always_fits() {
        assert_eq!(&server_close(1000, "bye")[..], [0x88, 5, 0x03, 0xe8, b'b', b'y', b'e']);
        assert_eq!(server_close(1000, &"x".repeat(500)).len(), 2 + 125);
        let mut client = BytesMut::new();
        append_client_close(1000, &"x".repeat(500), [0; 4], &mut client);
        assert_eq!(client.len(), 2 + 4 + 125);
    }

    #[test]
    fn a_long_frame_is_masked_as_if_in_one_piece() {
        let payload: Vec<u8> = (0..5000u32).map(|n| n.to_le_bytes()[0]).collect();
        let key = [9, 8, 7, 6];
        let mut frame = Vec::new();
        append_client(Opcode::Binary, &payload, key, &mut frame);
        let mut masked = frame.split_off(8);
        mask::apply(key, &mut masked);
        assert_eq!(masked, payload);
    }
}

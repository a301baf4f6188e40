use super::*;
use crate::violation::Violation;

const LONGEST: usize = 1 << 20;

/// Text that shrinks, with references as far back as it is long.
fn json(bytes: usize) -> Vec<u8> {
    let mut text = Vec::new();
    let mut number = 0u64;
    while text.len() < bytes {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        text.extend_from_slice(format!(r#"{{"user_id":"user_{}","step":{}}},"#, number >> 60, number >> 40).as_bytes());
    }
    text.truncate(bytes);
    text
}

/// Bytes that do not shrink.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    (0..bytes).map(|_| next()).collect()
}

#[test]
fn the_examples_of_the_rfc_are_read() {
    let mut inflater = Inflater::new();
    for (deflated, expected) in [
        // §7.2.3.1: one block.
        (&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..], "Hello"),
        // §7.2.3.3: no compression.
        (&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00], "Hello"),
        // §7.2.3.4: a block that is marked as the last.
        (&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00], "Hello"),
        // The same without the byte that should follow.
        (&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], "Hello"),
        // §7.2.3.5: two blocks.
        (&[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00], "Hello"),
        // §7.2.3.6: nothing.
        (&[0x00], ""),
    ] {
        assert_eq!(inflater.inflate(deflated, LONGEST), Ok(expected.as_bytes()), "{deflated:x?}");
    }
}

#[test]
fn what_is_no_deflate_is_refused() {
    let mut inflater = Inflater::new();
    for bad in [
        &[][..],
        &[0xff],
        &[0x07],
        // Cut inside a block.
        &[0xf2, 0x48, 0xcd],
        &[0x00, 0x05, 0x00, 0xfa, 0xff],
        // §7.2.3.2: refers to the message before, which is context takeover.
        &[0xf2, 0x00, 0x11, 0x00, 0x00],
        // Behind a last block.
        &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0xff],
    ] {
        assert_eq!(inflater.inflate(bad, LONGEST), Err(Violation::BadDeflate), "{bad:x?}");
    }
    // And nothing of it is left for the next message.
    assert_eq!(inflater.inflate(&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], 5), Ok(b"Hello".as_slice()));
}

#[test]
fn what_is_deflated_is_read_back_at_every_length_and_window() {
    let mut inflater = Inflater::new();
    for level in [1, 6, 9] {
        let mut deflater = Deflater::new(level);
        for bits in 9..=15 {
            for length in [100, 511, 512, 513, 4096, 40_000, 300_000] {
                let message = json(length);
                let deflated = deflater.compress(&message, bits).unwrap();
                assert!(deflated.len() * 10 <= length * 9);
                assert!(inflater.inflate(&deflated, LONGEST) == Ok(&message), "{length} bytes, {bits} bits");
            }
        }
    }
}

#[test]
fn a_message_refers_no_further_back_than_its_window() {
    use flate2::{Decompress, FlushDecompress};
    let mut deflater = Deflater::new(6);
    for bits in 9..=15u8 {
        // Random letters, twice: the copy can be found only by who looks back far enough.
        for length in [1 << bits, 4 << bits] {
            let half: Vec<u8> = json(1 << 20).into_iter().rev().take(length / 2).collect();
            let message = half.repeat(2);
            let deflated = deflater.compress(&message, bits).unwrap();
            // A peer with a window of exactly this size, which it fills in small steps.
            let mut peer = Decompress::new_with_window_bits(false, bits);
            let (mut inflated, mut input) = (Vec::new(), [&deflated[..], &[0, 0, 0xff, 0xff]].concat());
            while inflated.len() < message.len() {
                let mut step = Vec::with_capacity(100);
                let before = peer.total_in();
                peer.decompress_vec(&input, &mut step, FlushDecompress::Sync).unwrap();
                input.drain(..usize::try_from(peer.total_in() - before).unwrap());
                assert!(!step.is_empty());
                inflated.extend(step);
            }
            assert!(inflated == message, "{bits} bits, {length} bytes");
        }
    }
}

#[test]
fn what_does_not_shrink_by_a_tenth_is_better_sent_as_it_is() {
    let mut deflater = Deflater::new(1);
    let noise = noise(20_000);
    for length in [0, 1, 10, 100, 20_000] {
        assert_eq!(deflater.compress(&noise[..length], 15), None, "{length} bytes");
    }
}

#[test]
fn a_message_that_does_not_shrink_leaves_nothing_for_the_next() {
    // zlib-rs 0.6 forgets, when it is reset, to rewind output that did not fit, until there is no room left.
    let (noise, good) = (noise(200_000), json(100_000));
    let mut inflater = Inflater::new();
    for level in [1, 6] {
        let mut deflater = Deflater::new(level);
        for length in [100, 1000, 10_000, 60_000, 65_000, 70_000, 130_000, 200_000] {
            assert_eq!(deflater.compress(&noise[..length], 15), None);
            let deflated = deflater.compress(&good, 15).unwrap();
            assert!(inflater.inflate(&deflated, LONGEST) == Ok(&good), "behind {length} bytes of noise");
        }
    }
}

#[test]
fn inflating_ends_at_the_limit() {
    let (mut deflater, mut inflater) = (Deflater::new(9), Inflater::new());
    let bomb = deflater.compress(&vec![b' '; 50_000_000], 15).unwrap();
    assert!(bomb.len() < 60_000);
    assert_eq!(inflater.inflate(&bomb, 65_536), Err(Violation::TooLong(65_536)));
    // Exactly the limit is a message, a byte more is none.
    for length in [100, 255, 256, 257, 5000, 65_536] {
        let message = vec![b' '; length];
        let deflated = deflater.compress(&message, 15).unwrap();
        assert!(inflater.inflate(&deflated, length) == Ok(&message));
        assert_eq!(
            inflater.inflate(&deflated, length - 1),
            Err(Violation::TooLong(u32::try_from(length - 1).unwrap()))
        );
    }
}

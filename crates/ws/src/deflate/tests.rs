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
    for level in [1, 6] {
        let mut deflater = Deflater::new(level);
        for bits in 9..=15 {
            let window = 1 << bits;
            // The same twice: the copy can be found only by who looks back far enough.
            for length in [window, window * 4] {
                let message: Vec<u8> = json(1 << 20).into_iter().rev().take(length / 2).collect::<Vec<_>>().repeat(2);
                let deflated = deflater.compress(&message, bits).unwrap();
                let farthest = farthest(&deflated);
                assert!(farthest > 0 && farthest <= window, "{farthest} back, {length} bytes, {bits} bits");
            }
        }
        // It can be told: the widest window does look further back.
        let message: Vec<u8> = json(1 << 20).into_iter().rev().take(4096).collect::<Vec<_>>().repeat(2);
        assert!(farthest(&deflater.compress(&message, 15).unwrap()) > 1 << 9);
    }
}

/// How far back DEFLATE (RFC 1951) refers at most: read bit by bit, slowly, and with no library.
fn farthest(deflated: &[u8]) -> usize {
    let end = [deflated, &[0, 0, 0xff, 0xff]].concat();
    let mut bits = BitReader { bytes: &end, at: 0 };
    let mut farthest = 0;
    while bits.at + 3 < end.len() * 8 {
        let last = bits.take(1);
        match bits.take(2) {
            0 => {
                bits.at = bits.at.next_multiple_of(8);
                let length = bits.take(16);
                bits.take(16);
                bits.at += length * 8;
            }
            kind => {
                let (literals, distances) = if kind == 1 { fixed() } else { dynamic(&mut bits) };
                farthest = farthest.max(block(&mut bits, &literals, &distances));
            }
        }
        assert_eq!(last, 0, "no block of ours is the last");
    }
    farthest
}

struct BitReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl BitReader<'_> {
    fn take(&mut self, count: usize) -> usize {
        (0..count).fold(0, |value, bit| {
            let next = usize::from(self.bytes[self.at / 8] >> (self.at % 8) & 1);
            self.at += 1;
            value | next << bit
        })
    }

    fn symbol(&mut self, codes: &Codes) -> usize {
        let (mut code, mut length) = (0, 0);
        loop {
            code = code << 1 | self.take(1);
            length += 1;
            if let Some(symbol) = codes.get(&(length, code)) {
                return *symbol;
            }
        }
    }
}

/// Symbols by length and code.
type Codes = std::collections::HashMap<(usize, usize), usize>;

fn codes(lengths: &[usize]) -> Codes {
    let (mut codes, mut code) = (Codes::new(), 0);
    for length in 1..=15 {
        for symbol in (0..lengths.len()).filter(|symbol| lengths[*symbol] == length) {
            codes.insert((length, code), symbol);
            code += 1;
        }
        code <<= 1;
    }
    codes
}

fn fixed() -> (Codes, Codes) {
    let literals = [[8; 144].as_slice(), &[9; 112], &[7; 24], &[8; 8]].concat();
    (codes(&literals), codes(&[5; 30]))
}

fn dynamic(bits: &mut BitReader<'_>) -> (Codes, Codes) {
    let (literals, distances, used) = (bits.take(5) + 257, bits.take(5) + 1, bits.take(4) + 4);
    let mut lengths = [0; 19];
    for place in &[16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15][..used] {
        lengths[*place] = bits.take(3);
    }
    let code = codes(&lengths);
    let mut lengths: Vec<usize> = Vec::new();
    while lengths.len() < literals + distances {
        let (length, times) = match bits.symbol(&code) {
            16 => (*lengths.last().unwrap(), 3 + bits.take(2)),
            17 => (0, 3 + bits.take(3)),
            18 => (0, 11 + bits.take(7)),
            length => (length, 1),
        };
        lengths.extend(std::iter::repeat_n(length, times));
    }
    (codes(&lengths[..literals]), codes(&lengths[literals..]))
}

/// The farthest reference of a block.
fn block(bits: &mut BitReader<'_>, literals: &Codes, distances: &Codes) -> usize {
    let mut farthest = 0;
    loop {
        match bits.symbol(literals) {
            0..=255 => {}
            256 => return farthest,
            length => {
                bits.take(if length == 285 { 0 } else { (length - 257).saturating_sub(4) / 4 });
                let symbol = bits.symbol(distances);
                let extra = (symbol / 2).saturating_sub(1);
                let base = if symbol < 2 { symbol } else { (2 + symbol % 2) << extra };
                farthest = farthest.max(base + bits.take(extra) + 1);
            }
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

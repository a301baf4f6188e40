//! Masking (RFC 6455 §5.3): exclusive or with a key of four bytes, over and over. The same work masks and unmasks.

/// Masks or unmasks bytes in place; the key's first byte meets the first of `bytes`.
pub fn apply(mask: [u8; 4], bytes: &mut [u8]) {
    if mask == [0; 4] {
        return;
    }
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    // A plain loop over whole words: the compiler makes vector instructions of it.
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= key;
    }
}

/// The key as it meets the byte behind `taken` bytes.
pub(crate) fn rotated(mut mask: [u8; 4], taken: usize) -> [u8; 4] {
    mask.rotate_left(taken % 4);
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masking_twice_gives_the_bytes_back_at_every_length_and_cut() {
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        let plain: Vec<u8> = (0..=255).collect();
        for length in 0..plain.len() {
            let mut bytes = plain[..length].to_vec();
            apply(mask, &mut bytes);
            for (at, byte) in bytes.iter().enumerate() {
                assert_eq!(*byte, plain[at] ^ mask[at % 4], "byte {at} of {length}");
            }
            let cut = length / 3;
            let (left, right) = bytes.split_at_mut(cut);
            apply(mask, left);
            apply(rotated(mask, cut), right);
            assert_eq!(bytes, plain[..length]);
        }
    }
}

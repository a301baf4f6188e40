//! Compressed messages on connections: where the bit may be, what the limits count, what is left behind.

mod support;

use countersign_ws::{Decoder, Deflater, Header, Inflater, Limits, Opcode, Role, Violation, frame};
use support::{Heard, feed, feed_inflating, fragment, text, whole};

/// A compressed first frame of a client.
fn compressed(last: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let header = Header { last, compressed: true, mask: Some([1, 2, 3, 4]), ..Header::whole(opcode, 0) };
    frame::append(header, payload, &mut out);
    out
}

/// "Hello" (RFC 7692 §7.2.3.1).
const HELLO: [u8; 7] = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];

fn decoder() -> Decoder {
    Decoder::new(Role::Server, Limits::new(1000))
}

#[test]
fn a_compressed_message_is_heard_however_it_is_cut() {
    let stream = [
        compressed(true, Opcode::Text, &HELLO),
        whole(Opcode::Text, b"plain"),
        // §7.2.3.1: fragments, with a control frame between them.
        compressed(false, Opcode::Text, &HELLO[..3]),
        whole(Opcode::Ping, b"p"),
        fragment(Opcode::Continuation, b""),
        whole(Opcode::Continuation, &HELLO[3..]),
        compressed(true, Opcode::Binary, &HELLO),
        whole(Opcode::Close, b""),
    ]
    .concat();
    let expected = [
        text("Hello"),
        text("plain"),
        Heard::Ping(b"p".to_vec()),
        text("Hello"),
        Heard::Binary(b"Hello".to_vec()),
        Heard::Close(None),
    ];
    let mut inflater = Inflater::new();
    for piece in 1..=stream.len() {
        let mut decoder = decoder();
        let heard: Vec<Heard> =
            stream.chunks(piece).flat_map(|read| feed_inflating(&mut decoder, &mut inflater, read)).collect();
        assert_eq!(heard, expected, "pieces of {piece}");
        assert_eq!(decoder.held_bytes(), 0, "nothing is kept between messages");
    }
}

#[test]
fn the_compressed_bit_is_refused_where_it_was_not_agreed_or_does_not_belong() {
    let mut inflater = Inflater::new();
    let refused = [Heard::Violation(Violation::ReservedBit)];
    assert_eq!(feed(&mut decoder(), &compressed(true, Opcode::Text, &HELLO)), refused);
    for stream in [
        compressed(true, Opcode::Ping, b""),
        compressed(true, Opcode::Close, b""),
        [compressed(false, Opcode::Text, &HELLO[..3]), compressed(true, Opcode::Continuation, &HELLO[3..])].concat(),
        [fragment(Opcode::Text, b"a"), compressed(true, Opcode::Continuation, b"b")].concat(),
    ] {
        assert_eq!(feed_inflating(&mut decoder(), &mut inflater, &stream), refused);
    }
    // A caller that forgets its inflater in the middle of a message hears no nonsense.
    let mut decoder = decoder();
    assert_eq!(feed_inflating(&mut decoder, &mut inflater, &compressed(false, Opcode::Text, &HELLO[..3])), []);
    assert_eq!(feed(&mut decoder, &whole(Opcode::Continuation, &HELLO[3..])), refused);
}

#[test]
fn limits_count_before_and_after_inflating() {
    let mut inflater = Inflater::new();
    let mut deflater = Deflater::new(1);
    let bomb = deflater.compress(&vec![b'x'; 100_000], 15).unwrap();
    assert!(bomb.len() < 1000);
    let fits = deflater.compress(&[b'x'; 1000], 15).unwrap();
    let too_long = deflater.compress(&[b'x'; 1001], 15).unwrap();
    for (payload, heard) in [
        (&bomb[..], Heard::Violation(Violation::TooLong(1000))),
        (&too_long, Heard::Violation(Violation::TooLong(1000))),
        (&fits, text(&"x".repeat(1000))),
        (&[0xff; 2000], Heard::Violation(Violation::TooLong(1000))),
        (&[0xff; 20], Heard::Violation(Violation::BadDeflate)),
        // Deflated, but not UTF-8: a block of one byte.
        (&[0x00, 0x01, 0x00, 0xfe, 0xff, 0xff, 0x00], Heard::Violation(Violation::NotUtf8)),
    ] {
        let stream = compressed(true, Opcode::Text, payload);
        for piece in [7, stream.len()] {
            let mut decoder = decoder();
            let found: Vec<Heard> =
                stream.chunks(piece).flat_map(|read| feed_inflating(&mut decoder, &mut inflater, read)).collect();
            assert!(found == [heard.clone()], "{found:?}");
            let beginning = match heard {
                // What it would have become, as far as it was inflated.
                Heard::Violation(Violation::TooLong(_)) if payload[0] != 0xff => vec![b'x'; 1001],
                _ => vec![],
            };
            assert_eq!(decoder.held_bytes(), beginning.len());
            if let Heard::Violation(_) = heard {
                assert_eq!(decoder.beginning(), Some(&beginning[..]));
            }
            // Whatever it was, the close frame behind it is found.
            feed_inflating(&mut decoder, &mut inflater, &whole(Opcode::Close, b""));
            assert!(decoder.heard_close());
        }
    }
}

#[test]
fn what_cannot_be_deflated_may_be_as_long_as_what_is_plain() {
    // One stored block of exactly the limit, with its head of five bytes and the flush's one.
    let mut payload = vec![0x00, 0xe8, 0x03, 0x17, 0xfc];
    payload.extend([b'x'; 1000]);
    payload.push(0);
    let heard = feed_inflating(&mut decoder(), &mut Inflater::new(), &compressed(true, Opcode::Text, &payload));
    assert!(heard == [text(&"x".repeat(1000))], "{heard:?}");
}

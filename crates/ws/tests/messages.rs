//! What a decoder hears, and what it refuses, read by read.

mod support;

use countersign_ws::{Decoder, Event, Limits, Opcode, Role, Violation, decoder::BEGINNING};
use support::{Heard, LIMITS, decoder, feed, feed_in_pieces, fragment, text, to, whole};

const ROLES: [Role; 2] = [Role::Server, Role::Client];

#[test]
fn a_connection_costs_64_bytes() {
    assert!(size_of::<Decoder>() <= 64, "{}", size_of::<Decoder>());
}

#[test]
fn a_whole_message_is_lent_from_where_it_was_read() {
    let mut scratch = whole(Opcode::Text, b"hello");
    let (start, end) = (scratch.as_ptr_range().start, scratch.as_ptr_range().end);
    let mut decoder = decoder(Role::Server);
    let mut unread = scratch.as_mut_slice();
    let Ok(Some(Event::Text(lent))) = decoder.next(&mut unread) else { panic!("no text") };
    assert_eq!(lent, "hello");
    assert!(lent.as_ptr() >= start && lent.as_ptr() < end, "copied");
    assert_eq!(decoder.held_bytes(), 0);
}

#[test]
fn messages_of_every_length_come_through_however_they_are_cut() {
    for role in ROLES {
        let payloads: Vec<String> = [0, 1, 125, 126, 127, 65_535, 65_536].iter().map(|n| "x".repeat(*n)).collect();
        let stream: Vec<u8> =
            payloads.iter().flat_map(|payload| to(role, true, Opcode::Text, payload.as_bytes())).collect();
        for piece in [1, 2, 3, 7, 1000, 4096, stream.len()] {
            let mut decoder = decoder(role);
            let heard = feed_in_pieces(&mut decoder, &stream, piece);
            assert!(heard == payloads.iter().map(|payload| text(payload)).collect::<Vec<_>>(), "pieces of {piece}");
            assert_eq!(decoder.held_bytes(), 0, "nothing is kept between messages");
        }
    }
}

#[test]
fn control_frames_are_heard_between_the_fragments_and_between_the_reads() {
    let stream = [
        fragment(Opcode::Text, "sm\u{f6}r".as_bytes()),
        whole(Opcode::Ping, b"one"),
        fragment(Opcode::Continuation, b""),
        whole(Opcode::Pong, b""),
        whole(Opcode::Continuation, "g\u{e5}s".as_bytes()),
        whole(Opcode::Close, b"\x03\xe8bye"),
    ]
    .concat();
    let expected = [
        Heard::Ping(b"one".to_vec()),
        Heard::Pong(vec![]),
        text("sm\u{f6}rg\u{e5}s"),
        Heard::Close(Some((1000, "bye".to_owned()))),
    ];
    for piece in 1..=stream.len() {
        let mut decoder = decoder(Role::Server);
        assert_eq!(feed_in_pieces(&mut decoder, &stream, piece), expected, "pieces of {piece}");
        assert!(decoder.heard_close());
        assert_eq!(feed(&mut decoder, &whole(Opcode::Text, b"late")), [], "nothing is heard after a close frame");
        assert_eq!(decoder.held_bytes(), 0);
    }
}

#[test]
fn a_decoder_that_is_as_new_may_be_thrown_away() {
    let stream = [
        whole(Opcode::Text, b"one"),
        whole(Opcode::Ping, b"p"),
        fragment(Opcode::Text, "sm\u{f6}r".as_bytes()),
        whole(Opcode::Ping, b""),
        whole(Opcode::Continuation, "g\u{e5}s".as_bytes()),
        whole(Opcode::Binary, &[7; 300]),
        whole(Opcode::Text, b"last"),
    ]
    .concat();
    let expected = feed(&mut decoder(Role::Server), &stream);
    for piece in 1..=stream.len() {
        let (mut kept, mut heard, mut thrown) = (decoder(Role::Server), Vec::new(), 0);
        for bytes in stream.chunks(piece) {
            heard.extend(feed(&mut kept, bytes));
            if kept.is_as_new() {
                kept = decoder(Role::Server);
                thrown += 1;
            }
        }
        assert_eq!(heard, expected, "pieces of {piece}");
        assert!(thrown > 0, "the stream ends between two messages");
    }
    let mut closed = decoder(Role::Server);
    feed(&mut closed, &whole(Opcode::Close, b""));
    assert!(!closed.is_as_new(), "after a close frame nothing more may come");
}

#[test]
fn fragments_in_the_wrong_place_are_refused() {
    for (stream, expected) in [
        (whole(Opcode::Continuation, b"x"), Violation::NothingToContinue),
        (fragment(Opcode::Continuation, b"x"), Violation::NothingToContinue),
        ([whole(Opcode::Text, b"a"), whole(Opcode::Continuation, b"x")].concat(), Violation::NothingToContinue),
        ([fragment(Opcode::Text, b"a"), whole(Opcode::Text, b"b")].concat(), Violation::Interleaved),
        ([fragment(Opcode::Text, b""), fragment(Opcode::Binary, b"b")].concat(), Violation::Interleaved),
        (fragment(Opcode::Ping, b"a"), Violation::FragmentedControl),
        (whole(Opcode::Ping, &[0; 126]), Violation::LongControl),
        (to(Role::Client, true, Opcode::Text, b"x"), Violation::Unmasked),
    ] {
        for piece in [1, 5, stream.len()] {
            let heard = feed_in_pieces(&mut decoder(Role::Server), &stream, piece);
            assert_eq!(heard.last(), Some(&Heard::Violation(expected)), "pieces of {piece}");
            assert_eq!(expected.close_code(), 1002);
        }
    }
    let heard = feed(&mut decoder(Role::Client), &whole(Opcode::Text, b"x"));
    assert_eq!(heard, [Heard::Violation(Violation::Masked)]);
}

#[test]
fn a_bad_text_is_refused_as_soon_as_it_is_bad() {
    // Autobahn 6.4: bad in the second of three fragments, before the rest of the frame has come.
    let valid = "\u{3ba}\u{1f79}\u{3c3}\u{3bc}\u{3b5}".as_bytes();
    for bad in [&b"\xf4\x90"[..], b"\xed\xa0", b"\xff", b"\xc0"] {
        let frame = whole(Opcode::Continuation, &[bad, &[b'x'; 100]].concat());
        let mut decoder = decoder(Role::Server);
        assert_eq!(feed(&mut decoder, &fragment(Opcode::Text, valid)), []);
        let head = 6 + bad.len();
        assert_eq!(feed(&mut decoder, &frame[..head]), [Heard::Violation(Violation::NotUtf8)], "{bad:x?}");
    }
    // Cut inside a character at the end of the message.
    for stream in [
        whole(Opcode::Text, b"a\xe2\x82"),
        [fragment(Opcode::Text, b"a\xe2"), whole(Opcode::Continuation, b"\x82")].concat(),
        [fragment(Opcode::Text, b"a\xe2"), whole(Opcode::Continuation, b"")].concat(),
    ] {
        for piece in [1, stream.len()] {
            let heard = feed_in_pieces(&mut decoder(Role::Server), &stream, piece);
            assert_eq!(heard, [Heard::Violation(Violation::NotUtf8)]);
        }
    }
    // A character may be cut anywhere, and bytes need not be text.
    let stream = [fragment(Opcode::Text, b"a\xe2"), whole(Opcode::Continuation, b"\x82\xac")].concat();
    assert_eq!(feed(&mut decoder(Role::Server), &stream), [text("a\u{20ac}")]);
    let heard = feed_in_pieces(&mut decoder(Role::Server), &whole(Opcode::Binary, b"\xff\xfe"), 1);
    assert_eq!(heard, [Heard::Binary(b"\xff\xfe".to_vec())]);
}

#[test]
fn a_message_that_will_be_too_long_is_refused_at_its_head() {
    let limits = Limits::new(1000);
    let too_long = [Heard::Violation(Violation::TooLong(1000))];
    let fits = whole(Opcode::Binary, &[0; 1000]);
    assert_eq!(feed(&mut Decoder::new(Role::Server, limits), &fits).len(), 1);
    for length in [1001u64, 65_536, u64::MAX >> 1] {
        let header =
            countersign_ws::Header { length, mask: Some([0; 4]), ..countersign_ws::Header::whole(Opcode::Text, 0) };
        let mut decoder = Decoder::new(Role::Server, limits);
        assert_eq!(feed(&mut decoder, &header.encode()), too_long, "{length}");
        assert_eq!(decoder.held_bytes(), 0, "a length alone costs nothing");
    }
    // The sum of the fragments counts, and so does one that would overflow it.
    for length in [1, 1000, u64::MAX >> 1] {
        let mut decoder = Decoder::new(Role::Server, limits);
        assert_eq!(feed(&mut decoder, &fragment(Opcode::Text, &[b'x'; 1000])), []);
        let header = countersign_ws::Header {
            length,
            mask: Some([0; 4]),
            ..countersign_ws::Header::whole(Opcode::Continuation, 0)
        };
        assert_eq!(feed(&mut decoder, &header.encode()), too_long, "{length}");
    }
}

#[test]
fn the_beginning_of_a_message_that_is_too_long_is_kept_and_nothing_else_of_it() {
    let message: Vec<u8> = (b'a'..=b'z').cycle().take(1_000_000).collect();
    let beginning = &message[..BEGINNING];
    for piece in [1, 7, 500, 4096, 100_000, 2_000_000] {
        let mut decoder = Decoder::new(Role::Server, Limits::new(5000));
        let mut heard = Vec::new();
        for read in whole(Opcode::Text, &message).chunks(piece) {
            heard.extend(feed(&mut decoder, read));
            assert!(decoder.held_bytes() <= BEGINNING, "{} held in pieces of {piece}", decoder.held_bytes());
        }
        assert_eq!(heard, [Heard::Violation(Violation::TooLong(5000))]);
        assert_eq!(decoder.beginning(), Some(beginning), "pieces of {piece}");
        assert_eq!(feed(&mut decoder, &whole(Opcode::Close, b"")), [Heard::Close(None)]);
        assert_eq!((decoder.heard_close(), decoder.beginning()), (true, Some(beginning)));
    }
    // In fragments, with a ping between them.
    let head = whole(Opcode::Continuation, &message);
    for first in [&message[..0], &message[..3], &message[..4000]] {
        for piece in [1, 7, 2_000_000] {
            let mut decoder = Decoder::new(Role::Server, Limits::new(5000));
            let stream = [fragment(Opcode::Text, first), whole(Opcode::Ping, b"p"), head.clone()].concat();
            let heard = feed_in_pieces(&mut decoder, &stream, piece);
            assert_eq!(heard, [Heard::Ping(b"p".to_vec()), Heard::Violation(Violation::TooLong(5000))]);
            let expected = [first, &message].concat();
            assert_eq!(decoder.beginning(), Some(&expected[..BEGINNING]));
        }
    }
}

#[test]
fn the_beginning_of_a_short_frame_that_is_too_long_is_all_of_it() {
    let mut decoder = Decoder::new(Role::Server, Limits::new(10));
    let stream = [whole(Opcode::Text, b"hello, world"), whole(Opcode::Ping, b"p")].concat();
    assert_eq!(decoder.beginning(), None);
    assert_eq!(feed(&mut decoder, &stream[..10]), [Heard::Violation(Violation::TooLong(10))]);
    assert_eq!(decoder.beginning(), None, "more of it is to come");
    feed(&mut decoder, &stream[10..]);
    assert_eq!(decoder.beginning(), Some(&b"hello, world"[..]));
    let mut decoder = self::decoder(Role::Server);
    feed(&mut decoder, &whole(Opcode::Text, b"\xff"));
    assert_eq!(decoder.beginning(), Some(&b""[..]), "after another violation nothing is kept");
}

#[test]
fn fragments_are_counted_as_well_as_bytes() {
    let limits = Limits::new(1000).with_fragments(3);
    let more = fragment(Opcode::Continuation, b"");
    let mut decoder = Decoder::new(Role::Server, limits);
    assert_eq!(feed(&mut decoder, &[fragment(Opcode::Text, b""), more.repeat(2)].concat()), []);
    assert_eq!(feed(&mut decoder, &more), [Heard::Violation(Violation::TooManyFragments(3))]);
    // Each message counts anew.
    let mut decoder = Decoder::new(Role::Server, limits);
    let message = [fragment(Opcode::Text, b"a"), more, whole(Opcode::Continuation, b"b")].concat();
    assert_eq!(feed(&mut decoder, &message.repeat(3)), [text("ab"), text("ab"), text("ab")]);
    assert_eq!(Violation::TooManyFragments(3).close_code(), 1008);
}

#[test]
fn memory_follows_what_has_come() {
    let mut decoder = decoder(Role::Server);
    let stream = whole(Opcode::Binary, &vec![7; LIMITS]);
    let mut come = 0;
    for read in stream.chunks(1000).take(1000) {
        assert_eq!(feed(&mut decoder, read), []);
        come += read.len();
        assert!(decoder.held_bytes() <= 2 * come.max(32), "{} held of {come}", decoder.held_bytes());
        assert!(decoder.held_bytes() <= LIMITS, "{} held", decoder.held_bytes());
    }
    assert!(come > 900_000);
}

#[test]
fn the_peers_close_frame_is_found_behind_a_violation() {
    let unmasked = to(Role::Client, true, Opcode::Text, b"hello");
    for (first, expected) in [
        (whole(Opcode::Text, &[b'x'; 5000]), Violation::TooLong(1000)),
        (whole(Opcode::Text, b"\xff and so on"), Violation::NotUtf8),
        (whole(Opcode::Continuation, b"what?"), Violation::NothingToContinue),
        (fragment(Opcode::Ping, b"half"), Violation::FragmentedControl),
        (whole(Opcode::Ping, &[0; 200]), Violation::LongControl),
        ([&[0xf1], &whole(Opcode::Text, b"reserved")[1..]].concat(), Violation::ReservedBit),
        ([&[0x8b], &whole(Opcode::Text, b"reserved")[1..]].concat(), Violation::ReservedOpcode(11)),
        (unmasked, Violation::Unmasked),
        (vec![0x81, 0xfe, 0, 1, 0, 0, 0, 0, b'x'], Violation::LongerLength),
        (vec![0x81, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, b'x'], Violation::LongerLength),
    ] {
        for after in [vec![], whole(Opcode::Ping, b"still here"), fragment(Opcode::Text, b"\xff")] {
            let late = whole(Opcode::Text, b"late");
            let stream = [first.clone(), after, whole(Opcode::Close, b"\x03\xf1"), late].concat();
            for piece in [1, 100, stream.len()] {
                let mut decoder = Decoder::new(Role::Server, Limits::new(1000));
                let mut heard = feed_in_pieces(&mut decoder, &stream, piece);
                assert_eq!(heard.remove(0), Heard::Violation(expected));
                assert!(heard.is_empty() || heard == [Heard::Close(Some((1009, String::new())))], "{heard:?}");
                assert!(decoder.heard_close(), "{expected:?} in pieces of {piece}");
                let kept = if expected == Violation::TooLong(1000) { BEGINNING } else { 0 };
                assert!(decoder.held_bytes() <= 2 * kept, "{expected:?} in pieces of {piece}");
                assert_eq!(decoder.beginning(), Some(&vec![b'x'; kept][..]));
            }
        }
    }
}

#[test]
fn nothing_is_heard_once_it_is_unknown_where_frames_begin() {
    let stream = [vec![0x81, 0xff, 0x80], vec![0; 11], whole(Opcode::Close, b""), whole(Opcode::Text, b"x")].concat();
    for piece in [1, 3, stream.len()] {
        let mut decoder = decoder(Role::Server);
        assert_eq!(feed_in_pieces(&mut decoder, &stream, piece), [Heard::Violation(Violation::HugeLength)]);
        assert!(!decoder.heard_close());
    }
}

#[test]
fn a_close_frame_whose_head_is_wrong_still_says_that_the_peer_closes() {
    for first in [vec![0xf8, 0x80, 0, 0, 0, 0], vec![0x78, 0x00]] {
        for piece in [1, 6] {
            let mut decoder = decoder(Role::Server);
            let heard = feed_in_pieces(&mut decoder, &first, piece);
            assert_eq!(heard.first(), Some(&Heard::Violation(Violation::ReservedBit)));
            assert!(decoder.heard_close(), "{first:x?} in pieces of {piece}");
        }
    }
}

#[test]
fn a_close_frame_that_is_too_long_still_says_that_the_peer_closes() {
    for first in [vec![], whole(Opcode::Continuation, b"")] {
        let stream = [first, whole(Opcode::Close, &[0; 300]), whole(Opcode::Text, b"x")].concat();
        for piece in [1, 50, stream.len()] {
            let mut decoder = decoder(Role::Server);
            assert_eq!(feed_in_pieces(&mut decoder, &stream, piece).len(), 1, "one violation");
            assert!(decoder.heard_close());
        }
    }
}

#[test]
fn a_close_frame_that_is_wrong_is_a_violation_once() {
    for (body, expected) in [
        (&b"\x03"[..], Violation::ShortClose),
        (b"\x03\xed", Violation::CloseCode(1005)),
        (b"\x03\xe8\xff", Violation::CloseReason),
    ] {
        let stream = whole(Opcode::Close, body).repeat(2);
        for piece in [1, stream.len()] {
            let mut decoder = decoder(Role::Server);
            assert_eq!(feed_in_pieces(&mut decoder, &stream, piece), [Heard::Violation(expected)]);
            assert!(decoder.heard_close());
        }
        // Behind another violation it is no second one.
        let stream = [whole(Opcode::Continuation, b""), whole(Opcode::Close, body)].concat();
        for piece in [1, stream.len()] {
            let mut decoder = decoder(Role::Server);
            let heard = feed_in_pieces(&mut decoder, &stream, piece);
            assert_eq!(heard, [Heard::Violation(Violation::NothingToContinue)]);
            assert!(decoder.heard_close());
        }
    }
}

#[test]
fn every_violation_fits_into_a_close_frame() {
    for violation in [
        Violation::Unmasked,
        Violation::Masked,
        Violation::ReservedBit,
        Violation::ReservedOpcode(15),
        Violation::FragmentedControl,
        Violation::LongControl,
        Violation::LongerLength,
        Violation::HugeLength,
        Violation::NothingToContinue,
        Violation::Interleaved,
        Violation::ShortClose,
        Violation::CloseCode(u16::MAX),
        Violation::CloseReason,
        Violation::NotUtf8,
        Violation::BadDeflate,
        Violation::TooLong(u32::MAX),
        Violation::TooManyFragments(u32::MAX),
    ] {
        let text = violation.to_string();
        assert_eq!(countersign_ws::close::fitting(&text), text);
        assert!(countersign_ws::close::may_be_sent(violation.close_code()));
    }
}

//! What holds for any messages, any cuts and any bytes.

mod support;

use countersign_ws::{Decoder, Limits, Opcode, Role};
use proptest::{collection::vec, prelude::*, sample::Index};
use support::{Heard, decoder, feed, to};

/// Something that a peer sends: a message in its fragments with control frames between them, or a control frame.
#[derive(Debug, Clone)]
enum Sent {
    Message { text: bool, payload: String, cuts: Vec<Index>, between: Option<Vec<u8>> },
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

fn sent() -> impl Strategy<Value = Sent> {
    let payload = prop_oneof![
        4 => "\\PC{0,60}",
        2 => "[a-z]{120,130}",
        1 => (65_500usize..65_600).prop_map(|length| "é".repeat(length / 2)),
    ];
    let control = vec(any::<u8>(), 0..=125);
    prop_oneof![
        4 => (any::<bool>(), payload, vec(any::<Index>(), 0..4), proptest::option::of(control.clone()))
            .prop_map(|(text, payload, cuts, between)| Sent::Message { text, payload, cuts, between }),
        1 => control.clone().prop_map(Sent::Ping),
        1 => control.prop_map(Sent::Pong),
    ]
}

/// The frames of what is sent, and what is to be heard of it.
fn encode(role: Role, sent: &Sent, wire: &mut Vec<u8>, expected: &mut Vec<Heard>) {
    match sent {
        Sent::Ping(body) => {
            wire.extend(to(role, true, Opcode::Ping, body));
            expected.push(Heard::Ping(body.clone()));
        }
        Sent::Pong(body) => {
            wire.extend(to(role, true, Opcode::Pong, body));
            expected.push(Heard::Pong(body.clone()));
        }
        Sent::Message { text, payload, cuts, between } => {
            let bytes = payload.as_bytes();
            let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            ends.sort_unstable();
            ends.push(bytes.len());
            let mut start = 0;
            for (at, end) in ends.iter().enumerate() {
                let opcode = match (at, text) {
                    (0, true) => Opcode::Text,
                    (0, false) => Opcode::Binary,
                    _ => Opcode::Continuation,
                };
                let last = at + 1 == ends.len();
                wire.extend(to(role, last, opcode, &bytes[start..*end]));
                if let (false, Some(body)) = (last, between) {
                    wire.extend(to(role, true, Opcode::Ping, body));
                    expected.push(Heard::Ping(body.clone()));
                }
                start = *end;
            }
            expected.push(if *text { Heard::Text(payload.clone()) } else { Heard::Binary(bytes.to_vec()) });
        }
    }
}

/// Cuts a stream into reads of the given lengths, over and over.
fn reads<'a>(mut stream: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut reads = Vec::new();
    for length in lengths.iter().cycle() {
        let (read, rest) = stream.split_at((*length).min(stream.len()));
        reads.push(read);
        stream = rest;
        if stream.is_empty() {
            break;
        }
    }
    reads
}

proptest! {
    #[test]
    fn what_is_sent_is_heard_however_it_is_cut(
        client in any::<bool>(),
        sent in vec(sent(), 1..6),
        lengths in vec(prop_oneof![1usize..20, 1usize..5000], 1..5),
    ) {
        let role = if client { Role::Client } else { Role::Server };
        let (mut wire, mut expected) = (Vec::new(), Vec::new());
        for one in &sent {
            encode(role, one, &mut wire, &mut expected);
        }
        let mut decoder = decoder(role);
        let heard: Vec<Heard> = reads(&wire, &lengths).into_iter().flat_map(|read| feed(&mut decoder, read)).collect();
        prop_assert!(heard == expected, "heard {heard:?}");
        prop_assert_eq!(decoder.held_bytes(), 0);
    }

    #[test]
    fn no_bytes_make_it_panic_or_hold_more_than_has_come(
        client in any::<bool>(),
        stream in vec(prop_oneof![any::<u8>(), Just(0x81), Just(0x80), Just(0x01), Just(0x89), Just(0x85), Just(0xff)], 0..600),
        lengths in vec(1usize..40, 1..5),
    ) {
        let role = if client { Role::Client } else { Role::Server };
        let mut decoder = Decoder::new(role, Limits::new(300));
        let (mut come, mut violations) = (0, 0);
        for read in reads(&stream, &lengths) {
            come += read.len();
            violations += feed(&mut decoder, read).iter().filter(|heard| matches!(heard, Heard::Violation(_))).count();
            prop_assert!(decoder.held_bytes() <= (2 * come).max(32), "{} held of {come}", decoder.held_bytes());
        }
        prop_assert!(violations <= 1, "a violation is said once");
    }

    /// Frames with good heads and bad contents go further in than arbitrary bytes do.
    #[test]
    fn well_formed_heads_with_any_contents_are_survived(
        frames in vec((any::<bool>(), 0u8..6, vec(any::<u8>(), 0..140)), 0..12),
        lengths in vec(1usize..60, 1..5),
    ) {
        let opcodes = [Opcode::Continuation, Opcode::Text, Opcode::Binary, Opcode::Close, Opcode::Ping, Opcode::Pong];
        let wire: Vec<u8> = frames
            .iter()
            .flat_map(|(last, opcode, payload)| to(Role::Server, *last, opcodes[usize::from(*opcode)], payload))
            .collect();
        let run = |lengths: &[usize]| {
            let mut decoder = Decoder::new(Role::Server, Limits::new(300).with_fragments(4));
            let heard: Vec<Heard> = reads(&wire, lengths).into_iter().flat_map(|read| feed(&mut decoder, read)).collect();
            (heard, decoder.heard_close())
        };
        let whole = run(&[wire.len().max(1)]);
        let mut cut = run(&lengths);
        // A close frame behind a violation is heard as an event if it comes with a later read.
        if whole.0.iter().any(|heard| matches!(heard, Heard::Violation(_))) {
            let end = cut.0.iter().position(|heard| matches!(heard, Heard::Violation(_))).map_or(cut.0.len(), |at| at + 1);
            cut.0.truncate(end);
        }
        prop_assert_eq!(cut, whole);
    }
}

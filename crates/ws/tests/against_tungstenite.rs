//! The same bytes, read by tungstenite and by us, mean the same; where they do not, that is meant and listed.

#![allow(clippy::panic, reason = "a test")]

mod support;

use std::io::{self, Cursor, Read, Write};

use countersign_ws::{Decoder, Limits, Opcode, Role};
use proptest::{collection::vec, prelude::*};
use support::{Heard, LIMITS, decoder, feed, to};
use tungstenite_oracle::{
    Bytes, Error, Message, WebSocket,
    protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
};

/// What either side makes of a stream: events, and the close code of the violation that ended it.
type Reading = (Vec<Heard>, Option<u16>);

/// Bytes to be read once; what is written to it is kept.
struct Wire {
    incoming: Cursor<Vec<u8>>,
    outgoing: Vec<u8>,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.incoming.read(buffer)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn socket(role: Role, incoming: &[u8]) -> WebSocket<Wire> {
    let wire = Wire { incoming: Cursor::new(incoming.to_vec()), outgoing: Vec::new() };
    let role = match role {
        Role::Server => tungstenite_oracle::protocol::Role::Server,
        Role::Client => tungstenite_oracle::protocol::Role::Client,
    };
    let config = WebSocketConfig::default().max_message_size(Some(LIMITS)).max_frame_size(Some(LIMITS));
    WebSocket::from_raw_socket(wire, role, Some(config))
}

fn theirs(role: Role, stream: &[u8]) -> Reading {
    let mut socket = socket(role, stream);
    let mut heard = Vec::new();
    loop {
        heard.push(match socket.read() {
            Ok(Message::Text(text)) => Heard::Text(text.as_str().to_owned()),
            Ok(Message::Binary(bytes)) => Heard::Binary(bytes.to_vec()),
            Ok(Message::Ping(body)) => Heard::Ping(body.to_vec()),
            Ok(Message::Pong(body)) => Heard::Pong(body.to_vec()),
            Ok(Message::Close(why)) => {
                heard.push(Heard::Close(why.map(|why| (why.code.into(), why.reason.as_str().to_owned()))));
                return (heard, None);
            }
            Ok(Message::Frame(_)) => panic!("a raw frame"),
            Err(Error::Protocol(tungstenite_oracle::error::ProtocolError::ResetWithoutClosingHandshake)) => {
                return (heard, None);
            }
            Err(Error::Protocol(_)) => return (heard, Some(1002)),
            Err(Error::Utf8(_)) => return (heard, Some(1007)),
            Err(Error::Capacity(_)) => return (heard, Some(1009)),
            Err(other) => panic!("{other}"),
        });
    }
}

fn ours(role: Role, stream: &[u8], piece: usize) -> Reading {
    let mut decoder = Decoder::new(role, Limits::new(LIMITS));
    let mut heard = Vec::new();
    for event in stream.chunks(piece).flat_map(|read| feed(&mut decoder, read)) {
        match event {
            Heard::Violation(violation) => return (heard, Some(violation.close_code())),
            event => heard.push(event),
        }
    }
    (heard, None)
}

/// One frame: its first byte as it is on the wire, a payload, and whether it is masked as it should be.
fn frame(role: Role, first: u8, payload: &[u8], masked_rightly: bool) -> Vec<u8> {
    let other = if role == Role::Server { Role::Client } else { Role::Server };
    let mut frame = to(if masked_rightly { role } else { other }, true, Opcode::Binary, payload);
    frame[0] = first;
    frame
}

/// First bytes, more often allowed ones.
fn first() -> impl Strategy<Value = u8> {
    prop_oneof![
        12 => prop::sample::select(vec![0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x89, 0x8a]),
        1 => any::<u8>(),
    ]
}

/// Payloads that text may or may not be made of.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => "\\PC{0,40}".prop_map(String::into_bytes),
        // Halves of characters.
        2 => prop::sample::select(vec![b"\xe2".to_vec(), b"\x82\xac".to_vec(), b"\xf0\x9f".to_vec(), b"\x98\x80".to_vec()]),
        1 => vec(any::<u8>(), 0..140),
        1 => vec(any::<u8>(), 100..300),
    ]
}

fn close_body() -> impl Strategy<Value = Vec<u8>> {
    let code =
        prop::sample::select(vec![1000u16, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 4999]);
    prop_oneof![
        Just(vec![]),
        Just(vec![3]),
        (code, "[a-zé]{0,20}").prop_map(|(code, reason)| [&code.to_be_bytes(), reason.as_bytes()].concat()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_stream_of_whole_frames_means_the_same(
        client in any::<bool>(),
        frames in vec((first(), payload(), prop::bool::weighted(0.98)), 0..10),
        close in proptest::option::of(close_body()),
        piece in 1usize..100,
    ) {
        let role = if client { Role::Client } else { Role::Server };
        let mut stream: Vec<u8> = frames
            .iter()
            // Close frames come last, with bodies of their own.
            .filter(|(first, ..)| first & 0x0f != 8)
            .flat_map(|(first, payload, masked)| frame(role, *first, payload, *masked))
            .collect();
        if let Some(body) = close {
            stream.extend(frame(role, 0x88, &body, true));
        }
        let (their_events, their_code) = theirs(role, &stream);
        let (our_events, our_code) = ours(role, &stream, piece);
        prop_assert_eq!(our_events, their_events);
        prop_assert_eq!(our_code.is_some(), their_code.is_some(), "we {:?}, they {:?}", our_code, their_code);
    }

    #[test]
    fn what_tungstenite_writes_we_hear(
        client in any::<bool>(),
        messages in vec(("\\PC{0,300}", 0..4), 1..10),
        piece in 1usize..1000,
    ) {
        // They write as the peer of the role in which we read.
        let (we, they) = if client { (Role::Client, Role::Server) } else { (Role::Server, Role::Client) };
        let mut socket = socket(they, &[]);
        let mut expected = Vec::new();
        for (text, kind) in messages {
            let short: Vec<u8> = text.bytes().take(125).collect();
            let (message, heard) = match kind {
                0 => (Message::text(text.clone()), Heard::Text(text)),
                1 => (Message::binary(text.clone()), Heard::Binary(text.into_bytes())),
                2 => (Message::Ping(Bytes::from(short.clone())), Heard::Ping(short)),
                _ => (Message::Pong(Bytes::from(short.clone())), Heard::Pong(short)),
            };
            socket.send(message).unwrap();
            expected.push(heard);
        }
        socket.close(Some(CloseFrame { code: CloseCode::Away, reason: "bye".into() })).unwrap();
        expected.push(Heard::Close(Some((1001, "bye".to_owned()))));
        prop_assert_eq!(ours(we, &socket.get_ref().outgoing, piece), (expected, None));
    }
}

#[test]
fn where_we_differ_from_tungstenite_that_is_meant() {
    let text = |text: &str| Heard::Text(text.to_owned());
    let close = |code: u16, reason: &str| Heard::Close(Some((code, reason.to_owned())));
    let half = frame(Role::Server, 0x01, b"\xed\xa0 and more", true);
    let differences: Vec<(&str, Vec<u8>, Reading, Reading)> = vec![
        (
            "RFC 6455 5.2 wants lengths in the fewest bytes: they do not mind",
            vec![0x81, 0xfe, 0, 1, 0, 0, 0, 0, b'x'],
            (vec![], Some(1002)),
            (vec![text("x")], None),
        ),
        (
            "a close code that must not be sent is a violation: they report it as a close frame with another code",
            frame(Role::Server, 0x88, &1005u16.to_be_bytes(), true),
            (vec![], Some(1002)),
            (vec![close(1002, "Protocol violation")], None),
        ),
        (
            "1014 has been registered since: they take it for undefined",
            frame(Role::Server, 0x88, &1014u16.to_be_bytes(), true),
            (vec![close(1014, "")], None),
            (vec![close(1002, "Protocol violation")], None),
        ),
        (
            "what is wrong in a head is refused when it has come: they wait for the payload",
            vec![0xc1, 0x85, 0, 0],
            (vec![], Some(1002)),
            (vec![], None),
        ),
        (
            "a bad text is refused in the middle of a frame: they wait for its end",
            half[..10].to_vec(),
            (vec![], Some(1007)),
            (vec![], None),
        ),
        (
            "fragments are counted as well as bytes: they count bytes only",
            [frame(Role::Server, 0x01, b"", true), frame(Role::Server, 0x00, b"", true).repeat(1024)].concat(),
            (vec![], Some(1008)),
            (vec![], None),
        ),
    ];
    for (difference, stream, we, they) in differences {
        assert_eq!(ours(Role::Server, &stream, stream.len()), we, "we: {difference}");
        assert_eq!(theirs(Role::Server, &stream), they, "they: {difference}");
    }
}

#[test]
fn what_we_write_tungstenite_hears() {
    use countersign_ws::{Deflater, frame};
    let long = "é".repeat(40_000);
    let mut server = Vec::new();
    let mut client = Vec::new();
    for message in ["", "hello", &long] {
        server.extend_from_slice(&frame::server(Opcode::Text, message.as_bytes()));
        frame::append_client(Opcode::Text, message.as_bytes(), [7, 77, 177, 0], &mut client);
    }
    server.extend_from_slice(&frame::server_close(4001, "Slow consumer"));
    frame::append_client_close(4001, "Slow consumer", [1, 2, 3, 4], &mut client);
    for (role, stream) in [(Role::Client, server), (Role::Server, client)] {
        let (heard, violation) = theirs(role, &stream);
        let why = Heard::Close(Some((4001, "Slow consumer".to_owned())));
        assert!(heard == [support::text(""), support::text("hello"), support::text(&long), why]);
        assert_eq!(violation, None);
    }
    // They do not know compression, so what is compressed for nobody is refused by them, and by us without an inflater.
    let deflated = Deflater::new(1).compress(long.as_bytes(), 15).unwrap();
    let stream = frame::server_compressed(Opcode::Text, &deflated);
    assert_eq!(theirs(Role::Client, &stream), (vec![], Some(1002)));
    assert_eq!(feed(&mut decoder(Role::Client), &stream).len(), 1);
}

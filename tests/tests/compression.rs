//! permessage-deflate: messages are deflated once per node for those who offered it, and never for the others; what clients
//! deflate is inflated within the limit of a message.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use countersign_ws::{
    Decoder, Deflater, Event, Header, Inflater, Limits, Opcode, Role,
    deflate::OFFER,
    frame,
    handshake::{
        Key,
        client::{self, Request},
    },
};
use harness::{Device, Node, PATIENCE};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// A client that shows what was on the wire.
struct RawClient {
    stream: TcpStream,
    decoder: Decoder,
    inflater: Inflater,
    agreed: bool,
    /// Bytes that came, frames and all.
    came: usize,
    heard: std::collections::VecDeque<Value>,
    closed: Option<u16>,
}

impl RawClient {
    async fn connect(node: &Node, user: &str, offer: Option<&str>) -> Self {
        let mut stream = TcpStream::connect(node.address()).await.expect("the node listens");
        let (target, key) = (format!("/ws?user_id={user}"), Key::new([7; 16]));
        let request = Request { host: node.address(), target: &target, key, protocols: &[], extensions: offer };
        stream.write_all(&request.encode()).await.expect("sent");
        let mut head = Vec::new();
        let response = loop {
            let byte = timeout(PATIENCE, stream.read_u8()).await.expect("an answer in time").expect("an answer");
            head.push(byte);
            if let Some((response, _)) = client::read_answer(&head).expect("an answer to a handshake") {
                break response;
            }
        };
        let agreed = !request.check(&response).expect("accepted").extensions.is_empty();
        let decoder = Decoder::new(Role::Client, Limits::new(1 << 24));
        let (inflater, heard) = (Inflater::new(), std::collections::VecDeque::new());
        let mut client = Self { stream, decoder, inflater, agreed, came: 0, heard, closed: None };
        client.next_of("connected").await;
        client
    }

    async fn send(&mut self, header: Header, payload: &[u8]) {
        let mut bytes = Vec::new();
        frame::append(Header { mask: Some([1, 2, 3, 4]), ..header }, payload, &mut bytes);
        self.stream.write_all(&bytes).await.expect("sent");
    }

    async fn read(&mut self) {
        let mut bytes = vec![0; 64 * 1024];
        let read = timeout(PATIENCE, self.stream.read(&mut bytes)).await.expect("something in time").expect("a read");
        assert!(read > 0, "the node hung up without a close");
        self.came += read;
        let mut unread = &mut bytes[..read];
        loop {
            let next = if self.agreed {
                self.decoder.next_inflating(&mut unread, &mut self.inflater)
            } else {
                self.decoder.next(&mut unread)
            };
            match next.expect("frames as the RFC wants them") {
                Some(Event::Text(text)) => self.heard.push_back(serde_json::from_str(text).expect("JSON")),
                Some(Event::Close(code)) => self.closed = code.map(|(code, _)| code),
                Some(_) => {}
                None => return,
            }
        }
    }

    async fn next_of(&mut self, kind: &str) -> Value {
        loop {
            match self.heard.pop_front() {
                Some(message) if message["type"] == kind => return message,
                Some(_) => {}
                None => self.read().await,
            }
        }
    }
}

fn long_message() -> Value {
    let rows: Vec<Value> = (0..100).map(|n| json!({"row": n, "status": "completed", "errors": 0})).collect();
    json!({"type": "table", "rows": rows})
}

#[tokio::test]
async fn a_message_is_compressed_for_those_who_offered_it_and_plain_for_the_others() {
    let node = Node::builder().env("WEBSOCKET_COMPRESSION", "on").start().await;
    let mut plain = RawClient::connect(&node, "alice", None).await;
    let mut offering = RawClient::connect(&node, "bob", Some(OFFER)).await;
    let mut narrow = RawClient::connect(&node, "carol", Some("permessage-deflate; server_max_window_bits=9")).await;
    let mut browser = Device::of_user(&node.ws_url(), "dora").await;
    assert_eq!((plain.agreed, offering.agreed, narrow.agreed), (false, true, true));
    let message = long_message();
    let length = message.to_string().len();
    let before = [plain.came, offering.came, narrow.came];
    node.api().post("/v1/broadcast", &message).await.expect_status(200);
    for client in [&mut plain, &mut offering, &mut narrow] {
        assert_eq!(client.next_of("table").await["rows"], message["rows"]);
    }
    assert_eq!(browser.expect_type("table").await["rows"], message["rows"]);
    assert!(plain.came - before[0] >= length);
    assert!(offering.came - before[1] < length / 3, "{} of {length} bytes", offering.came - before[1]);
    assert!(narrow.came - before[2] >= length, "a message that is longer than the client's window comes as it is");
}

#[tokio::test]
async fn a_short_message_is_not_worth_it() {
    let node = Node::builder().env("WEBSOCKET_COMPRESSION", "on").start().await;
    let mut offering = RawClient::connect(&node, "bob", Some(OFFER)).await;
    let before = offering.came;
    let message = json!({"type": "short", "text": "a".repeat(300)});
    node.api().post("/v1/broadcast", &message).await.expect_status(200);
    offering.next_of("short").await;
    assert!(offering.came - before > 300);
}

#[tokio::test]
async fn compression_is_off_unless_it_is_switched_on() {
    let node = Node::builder().start().await;
    let offering = RawClient::connect(&node, "bob", Some(OFFER)).await;
    assert!(!offering.agreed);
}

#[tokio::test]
async fn what_a_client_compresses_is_understood_and_a_bomb_ends_its_own_connection_alone() {
    let node = Node::builder().env("WEBSOCKET_COMPRESSION", "on").start().await;
    let mut good = RawClient::connect(&node, "alice", Some(OFFER)).await;
    let mut bad = RawClient::connect(&node, "mallory", Some(OFFER)).await;
    let mut deflater = Deflater::new(9);
    let compressed = Header { compressed: true, ..Header::whole(Opcode::Text, 0) };

    let ping = json!({"action": "ping", "padding": "x".repeat(2000)}).to_string();
    let deflated = deflater.compress(ping.as_bytes(), 15).expect("it shrinks");
    good.send(compressed, &deflated).await;
    assert_eq!(good.next_of("pong").await["original_data"]["padding"], "x".repeat(2000));

    let bomb = deflater.compress(&vec![b' '; 50 << 20], 15).expect("it shrinks");
    assert!(bomb.len() < 65_536, "it is within the limit as long as it is compressed");
    bad.send(compressed, &bomb).await;
    while bad.closed.is_none() {
        bad.read().await;
    }
    assert_eq!(bad.closed, Some(1009));
    good.send(Header::whole(Opcode::Text, 0), br#"{"action":"ping"}"#).await;
    good.next_of("pong").await;
}

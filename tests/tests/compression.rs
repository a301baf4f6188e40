//! permessage-deflate: messages are deflated once per node for those who offered it, and never for the others; what clients
//! deflate is inflated within the limit of a message.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use countersign_ws::{Deflater, Header, Opcode, deflate::OFFER};
use harness::{Device, Node, RawClient};
use serde_json::{Value, json};

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

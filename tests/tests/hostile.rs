//! What an unkind or careless world does to a gateway: more open questions than an outbox holds, replays that do not fit, pages of
//! other origins, misspelt fields, peers that ping and never read.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use std::{collections::HashSet, time::Duration};

use futures_util::{SinkExt, StreamExt};
use harness::{Device, Node, PATIENCE};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{
        Message,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

async fn embedded() -> Node {
    Node::builder().start().await
}

#[tokio::test]
async fn a_user_with_more_open_questions_than_an_outbox_holds_gets_all_of_them() {
    let node = Node::builder().env("WEBSOCKET_OUTBOX_BYTES", "100000").start().await;
    let result = json!({"message": "Go on?", "status": "completed", "result": "y".repeat(60_000)});
    let mut asked = HashSet::new();
    for n in 0..20 {
        asked.insert(node.api().ask("alice", &format!("t{n}"), json!({"step_result": result})).await);
    }
    let mut alice = Device::connect(&format!("{}?user_id=alice", node.ws_url())).await;
    let open = alice.expect_type("open_callbacks").await;
    let listed: HashSet<String> = open["callback_ids"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|id| id.as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(listed, asked);
    let id = asked.iter().next().expect("twenty were asked");
    assert_eq!(alice.confirm(id, true).await["type"], "confirmation_accepted");
}

#[tokio::test]
async fn a_replay_that_does_not_fit_says_start_anew() {
    let node = Node::builder().env("WEBSOCKET_OUTBOX_BYTES", "100000").start().await;
    let mut epoch = String::new();
    for _ in 0..10 {
        let message = json!({"x": "y".repeat(60_000)});
        let published = node.api().post("/v1/topics/long/messages", &message).await.expect_status(200);
        published["position"]["epoch"].as_str().unwrap_or_default().clone_into(&mut epoch);
    }
    let mut alice = Device::connect(&format!("{}?user_id=alice", node.ws_url())).await;
    let since = json!({"epoch": epoch, "offset": 0});
    alice.send(json!({"action": "subscribe", "topic": "long", "since": since})).await;
    let closed = alice.closed().await;
    assert_eq!((closed.code, closed.reason.as_str()), (4003, "Resync"));
}

#[tokio::test]
async fn a_polite_close_is_answered() {
    let node = embedded().await;
    let (mut socket, _) = connect_async(format!("{}?user_id=alice", node.ws_url())).await.expect("connects");
    let frame = CloseFrame { code: CloseCode::Normal, reason: "done".into() };
    socket.send(Message::Close(Some(frame))).await.expect("sent");
    let answered = async {
        while let Some(message) = socket.next().await {
            if let Ok(Message::Close(Some(frame))) = message {
                return Some(u16::from(frame.code));
            }
        }
        None
    };
    assert_eq!(tokio::time::timeout(PATIENCE, answered).await.expect("in time"), Some(1000));
}

#[tokio::test]
async fn a_page_of_another_origin_can_do_nothing_at_an_open_gateway() {
    let node = embedded().await;
    let api = node.api();
    let body = json!({"type": "x"});
    for (origin, host) in [("https://evil.test", None), ("null", None), ("http://evil.test", Some("evil.test"))] {
        let mut headers = vec![("origin", origin), ("content-type", "text/plain")];
        headers.extend(host.map(|host| ("host", host)));
        for path in ["/v1/broadcast", "/v1/tasks/t1/cancel"] {
            let reply = api.send(Method::POST, path, &headers, Some(&body)).await;
            assert_eq!(reply.status, 403, "{origin} {host:?} {path}: {reply:?}");
        }
    }
    let refused = Device::dial(&format!("{}?user_id=alice", node.ws_url()), &[("origin", "http://evil.test")]).await;
    assert_eq!(refused.expect_err("a foreign page").status, 403);
    let own = node.url();
    let reply = api.send(Method::POST, "/v1/broadcast", &[("origin", &own)], Some(&body)).await;
    assert_eq!(reply.status, 200, "the gateway's own page may: {reply:?}");
}

#[tokio::test]
async fn a_misspelt_field_is_refused_and_touches_nobody() {
    let node = embedded().await;
    let api = node.api();
    let open = api.ask("alice", "t1", json!({})).await;
    let cases: [(&str, Value, &str); 4] = [
        ("/v1/tasks/t1/cancel", json!({"userId": "bob"}), "userId"),
        ("/v1/notifications?wait=0", ask_with("on_timout"), "on_timout"),
        ("/v1/notifications?wait=0", ask_with("timout"), "timout"),
        ("/v1/batch", json!({"messages": [], "message": 1}), "body"),
    ];
    for (path, body, field) in cases {
        let reply = api.post(path, &body).await.expect_status(400);
        assert_eq!(reply["field"], field, "{path}: {reply}");
    }
    assert_eq!(api.post("/v1/notifications?wiat=0", &ask_with("step")).await.status, 400);
    assert_eq!(api.post_once("/v1/batch", "k1", &json!({"messages": []})).await.status, 400);
    let listed = api.get("/v1/callbacks?user_id=alice").await.expect_status(200);
    let callbacks = listed["callbacks"].as_array().expect("a list");
    assert!(callbacks.len() == 1 && callbacks[0]["callback_id"] == open.as_str(), "{listed}");
}

fn ask_with(field: &str) -> Value {
    let mut body = json!({"user_id": "alice", "task_id": "t2", "step_result": {"message": "m", "status": "s"}});
    body[field] = json!(1);
    body
}

/// Resident memory of a process, from `/proc`.
fn resident_bytes(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.process().id())).expect("the node runs");
    let kilobytes =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse().ok());
    kilobytes.map(|kilobytes: u64| kilobytes * 1024).expect("VmRSS is there")
}

#[tokio::test]
async fn a_peer_that_pings_and_never_reads_costs_the_node_its_limit_at_most() {
    const PINGS: usize = 400_000;
    let node = embedded().await;
    let mut alice = Device::of_user(&node.ws_url(), "alice").await;
    let before = resident_bytes(&node);
    let (mut socket, _) = connect_async(format!("{}?user_id=eve", node.ws_url())).await.expect("connects");
    // As much as goes out while nothing is read; the node may also cut the connection, or stop reading.
    let flood = async {
        for _ in 0..PINGS {
            if socket.feed(Message::Ping(vec![0; 125].into())).await.is_err() {
                break;
            }
        }
        socket.flush().await.ok();
    };
    tokio::time::timeout(Duration::from_secs(20), flood).await.ok();
    alice.ping().await;
    let grown = resident_bytes(&node).saturating_sub(before);
    println!("{PINGS} pings of 125 bytes, none of the answers read: the node grew by {grown} bytes");
    assert!(grown < 16 * 1024 * 1024, "the node grew by {grown} bytes");
}

#[tokio::test]
async fn a_subscribe_that_is_refused_leaves_everything_as_it_was() {
    let node = Node::builder().env("WEBSOCKET_TOPICS", "3").start().await;
    let mut alice = Device::of_user(&node.ws_url(), "alice").await;
    alice.subscribe("a").await;
    let since = json!({"epoch": "", "offset": 0});
    alice.send(json!({"action": "subscribe", "topics": [{"topic": "a", "since": since}, "b", "c", "d"]})).await;
    assert_eq!(alice.expect_type("error").await["code"], "too_many_subscriptions");
    node.api().post("/v1/topics/a/messages", &json!({"type": "still heard"})).await.expect_status(200);
    alice.expect_type("still heard").await;
    assert_eq!(node.api().get("/v1/topics/a/presence").await.expect_status(200)["members"], json!(["alice"]));
}

#[tokio::test]
async fn a_topic_that_is_named_twice_is_replayed_once() {
    let node = Node::builder().start().await;
    for n in 1..=3 {
        node.api().post("/v1/topics/a/messages", &json!({"type": "n", "n": n})).await.expect_status(200);
    }
    let mut alice = Device::of_user(&node.ws_url(), "alice").await;
    let since = json!({"topic": "a", "since": {"epoch": "", "offset": 0}});
    alice.send(json!({"action": "subscribe", "topics": ["a", since, since]})).await;
    alice.expect_type("subscription_confirmed").await;
    for n in 1..=3 {
        assert_eq!(alice.expect_type("n").await["n"], n);
    }
    alice.ping().await;
    alice.assert_none("a repeat", |message| message["type"] == "n" || message["type"] == "subscription_confirmed");
}

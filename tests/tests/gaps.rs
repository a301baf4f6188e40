//! What a connection misses while its node has lost Redis is filled in from history, in order and once, or the
//! connection is told that it is missing. The connection itself stays.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use harness::{Device, Node, RedisServer, TcpProxy};
use serde_json::{Value, json};

/// A node that can be cut off from Redis, and one that cannot.
struct Scene {
    redis: RedisServer,
    proxy: TcpProxy,
    cut_off: Node,
    other: Node,
}

impl Scene {
    async fn start(history: &str) -> Self {
        let redis = RedisServer::start().await;
        let proxy = TcpProxy::to(redis.address()).await;
        let through_proxy = redis.url().replace(&redis.address(), &proxy.address());
        let node = |url: String| Node::builder().env("REDIS_URL", url).env("HISTORY_OVERRIDES", history).start();
        let (cut_off, other) = (node(through_proxy).await, node(redis.url()).await);
        Self { redis, proxy, cut_off, other }
    }

    async fn publish(&self, topic: &str, numbers: std::ops::RangeInclusive<u64>) {
        for n in numbers {
            let message = json!({"type": "number", "n": n});
            self.other.api().post(&format!("/v1/topics/{topic}/messages"), &message).await.expect_status(200);
        }
    }

    async fn cut(&self) {
        self.proxy.cut();
        self.cut_off.wait_for_readiness(503).await;
    }

    async fn mend(&self) {
        self.proxy.resume();
        self.cut_off.wait_for_readiness(200).await;
    }
}

/// The next number; anything else of that topic is a fault.
async fn next_number(device: &mut Device) -> u64 {
    let message = device.wait_for("a number or a gap", |m| m["type"] == "number" || m["type"] == "gap").await;
    message["n"].as_u64().expect("a number and no gap: history has everything")
}

#[tokio::test]
async fn what_was_missed_is_filled_in_before_what_follows() {
    let scene = Scene::start("room:=100").await;
    let mut alice = Device::of_user(&scene.cut_off.ws_url(), "alice").await;
    alice.subscribe("room:7").await;
    scene.publish("room:7", 1..=3).await;
    for n in 1..=3 {
        assert_eq!(next_number(&mut alice).await, n);
    }
    scene.cut().await;
    scene.publish("room:7", 4..=40).await;
    alice.ping().await;
    alice.assert_none("what the node cannot have heard", |message| message["n"] == 4);
    scene.mend().await;
    scene.publish("room:7", 41..=50).await;
    for n in 4..=50 {
        assert_eq!(next_number(&mut alice).await, n);
    }
    alice.ping().await;
    alice.assert_none("a repeat", |message| message["type"] == "number");
    println!("published 50, delivered 50 in order, lost 0, duplicated 0, with an interruption after 3");
}

#[tokio::test]
async fn what_cannot_be_filled_in_is_told() {
    let scene = Scene::start("room:=5,bare:=0").await;
    let mut alice = Device::of_user(&scene.cut_off.ws_url(), "alice").await;
    alice.subscribe("room:7").await;
    alice.subscribe("bare:7").await;
    scene.publish("room:7", 1..=1).await;
    assert_eq!(next_number(&mut alice).await, 1);
    scene.cut().await;
    scene.publish("room:7", 2..=20).await;
    scene.mend().await;
    let is_gap = |topic: &'static str| move |m: &Value| m["type"] == "gap" && m["topic"] == topic;
    let gap = alice.wait_for("the gap of the short history", is_gap("room:7")).await;
    assert_eq!((&gap["recovered"], &gap["position"]["offset"]), (&json!(false), &json!(20)), "{gap}");
    let gap = alice.wait_for("the gap of the address without history", is_gap("bare:7")).await;
    assert_eq!((&gap["recovered"], &gap["position"]), (&json!(false), &Value::Null), "{gap}");
    scene.publish("room:7", 21..=21).await;
    assert_eq!(next_number(&mut alice).await, 21, "never a part of what was missed");
}

#[tokio::test]
async fn a_number_that_was_never_heard_is_a_gap_too() {
    let scene = Scene::start("room:=100").await;
    let mut alice = Device::of_user(&scene.cut_off.ws_url(), "alice").await;
    alice.subscribe("room:7").await;
    scene.publish("room:7", 1..=2).await;
    for n in 1..=2 {
        assert_eq!(next_number(&mut alice).await, n);
    }
    // A message that is in the history and was published to nobody, as by a Redis that lost the subscriber for a moment.
    let meta: Vec<String> = scene.redis.query(&["KEYS", "cs:{*room*}:meta"]).await;
    let (meta, history) = (&meta[0], meta[0].replace(":meta", ":history"));
    let offset: u64 = scene.redis.query(&["HINCRBY", meta, "offset", "1"]).await;
    let unheard = json!({"type": "number", "n": offset}).to_string();
    let id: String = scene.redis.query(&["XADD", &history, &format!("{offset}-0"), "m", &unheard]).await;
    assert_eq!(id, "3-0");
    scene.publish("room:7", 4..=5).await;
    for n in 3..=5 {
        assert_eq!(next_number(&mut alice).await, n);
    }
}

#[tokio::test]
async fn a_device_that_was_cut_off_learns_what_was_asked_and_answered_meanwhile() {
    let scene = Scene::start("room:=0").await;
    let mut cut_off = Device::of_user(&scene.cut_off.ws_url(), "alice").await;
    let mut other = Device::of_user(&scene.other.ws_url(), "alice").await;
    let answered = scene.other.api().ask("alice", "t1", json!({})).await;
    cut_off.wait_for("the question", |m| m["callback_id"] == answered.as_str()).await;
    scene.cut().await;
    other.confirm(&answered, true).await;
    let asked = scene.other.api().ask("alice", "t2", json!({})).await;
    scene.mend().await;
    cut_off.wait_for("the question that was asked meanwhile", |m| m["callback_id"] == asked.as_str()).await;
    let open = cut_off.expect_type("open_callbacks").await;
    assert_eq!(open["callback_ids"], json!([asked]), "the complete list");
}

#[tokio::test]
async fn a_made_up_position_in_a_bare_publish_makes_no_message_vanish() {
    let redis = RedisServer::start().await;
    let node = Node::builder().redis(&redis).start().await;
    let mut alice = Device::of_user(&node.ws_url(), "alice").await;
    alice.subscribe("room:7").await;
    let publish = async |number: u64| {
        let message = json!({"type": "number", "number": number});
        node.api().post("/v1/topics/room:7/messages", &message).await.expect_status(200);
    };
    publish(1).await;
    let first = alice.wait_for("the first message", |message| message["number"] == 1).await;
    let epoch = first["_meta"]["position"]["epoch"].as_str().expect("an epoch");
    let forged = format!(r#"{epoch}:2:{{"type":"number","number":"forged"}}"#);
    let _: u64 = redis.query(&["PUBLISH", "cs:topic:room:7", &forged]).await;
    alice.wait_for("what was made up", |message| message["number"] == "forged").await;
    publish(2).await;
    let gap = alice.expect_type("gap").await;
    assert_eq!(gap["position"], json!({"epoch": epoch, "offset": 1}), "{gap}");
    alice.wait_for("the real message", |message| message["number"] == 2).await;
    publish(3).await;
    alice.wait_for("the next message", |message| message["number"] == 3).await;
    node.wait_for_metric("countersign_messages_refused_total", "", 1.0).await;
    // A repeat that was made up changes nothing.
    let forged = format!(r#"{epoch}:3:{{"type":"number","number":"forged again"}}"#);
    let _: u64 = redis.query(&["PUBLISH", "cs:topic:room:7", &forged]).await;
    publish(4).await;
    alice.wait_for("the last message", |message| message["number"] == 4).await;
    alice.assert_none("what was made up, or a gap", |message| {
        message["number"] == "forged again" || message["type"] == "gap"
    });
    node.wait_for_metric("countersign_messages_refused_total", "", 2.0).await;
}

//! What a client may say, what it is told when it says something else, and that nobody else suffers from it.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use harness::{Closed, Device, Node, RedisServer};
use serde_json::{Value, json};

/// A node with two devices: one misbehaves, the other one must not notice.
struct Scene {
    node: Node,
    clumsy: Device,
    bystander: Device,
}

impl Scene {
    async fn start() -> Self {
        let node = Node::builder().start().await;
        let clumsy = Device::of_user(&node.ws_url(), "clumsy").await;
        let bystander = Device::of_user(&node.ws_url(), "bystander").await;
        Self { node, clumsy, bystander }
    }

    async fn assert_bystander_is_served(&mut self) {
        self.node.api().post("/v1/users/bystander/messages", &json!({"type": "hello"})).await.expect_status(200);
        self.bystander.expect_type("hello").await;
        self.bystander.ping().await;
        assert_eq!(self.bystander.unread(), Vec::<&Value>::new(), "nothing of the clumsy one's troubles");
    }
}

#[tokio::test]
async fn a_mistake_is_told_and_never_closes_the_connection() {
    let mut scene = Scene::start().await;
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let deep_field = format!(r#"{{"action":"ping","a":{deep}}}"#);
    let mistakes = [
        ("not json", "Invalid JSON format"),
        (r#"{"action":"ping""#, "Invalid JSON format"),
        ("[1,2,3]", "Invalid JSON format"),
        ("7", "Invalid JSON format"),
        (r#"{"action":"ping"}{"action":"ping"}"#, "Invalid JSON format"),
        (deep.as_str(), "Invalid JSON format"),
        (deep_field.as_str(), "Invalid JSON format"),
        (r#"{"action":"ping","n":1e999999}"#, "Invalid JSON format"),
        ("", "Empty message"),
        ("   ", "Empty message"),
        ("{}", "Empty message"),
        (r#"{"action":"explode"}"#, "Unknown action: explode"),
        (r#"{"action":7}"#, "action"),
        (r#"{"hello":"world"}"#, "action"),
        (r#"{"action":"confirm"}"#, "callback_id"),
        (r#"{"action":"confirm","callback_id":7,"proceed":true}"#, "callback_id"),
        (r#"{"action":"subscribe"}"#, "topic"),
        (r#"{"action":"subscribe","topic":7}"#, "topic"),
        (r#"{"action":"subscribe","topic":""}"#, "topic"),
        (r#"{"action":"subscribe","topics":{}}"#, "topics"),
        (r#"{"action":"cancel"}"#, "task_id"),
        (r#"{"action":"ack"}"#, "message_id"),
        (r#"{"action":"publish","topic":"t"}"#, "message"),
        (r#"{"action":"publish","topic":"t","message":[1]}"#, "message"),
    ];
    for (frame, expected) in mistakes {
        let shown: String = frame.chars().take(80).collect();
        scene.clumsy.send_raw(frame).await;
        let error = scene.clumsy.expect_type("error").await;
        let told = error["message"].as_str().unwrap_or_default();
        assert!(told.contains(expected), "{shown}: {error}");
        assert!(error["code"].is_string() && error["timestamp"].is_number(), "{shown}: {error}");
        assert!(told.len() < 500, "what was wrong is not sent back whole: {told}");
        scene.clumsy.ping().await;
    }
    assert_eq!(scene.clumsy.unread(), Vec::<&Value>::new(), "one error for each mistake");
    scene.assert_bystander_is_served().await;
}

#[tokio::test]
async fn a_message_that_is_too_long_closes_the_connection_with_1009() {
    let mut scene = Scene::start().await;
    let fits = format!(r#"{{"action":"ping","a":"{}"}}"#, "x".repeat(65_536 - 26));
    assert!(fits.len() <= 65_536);
    scene.clumsy.send_raw(fits).await;
    scene.clumsy.expect_type("pong").await;
    for longer in [65_536, 200_000, 3_000_000] {
        let mut device = Device::of_user(&scene.node.ws_url(), "clumsy").await;
        device.send_raw(format!(r#"{{"action":"ping","a":"{}"}}"#, "x".repeat(longer))).await;
        let error = device.expect_type("error").await;
        assert_eq!((&error["code"], &error["limit"]), (&json!("too_long"), &json!(65_536)), "{error}");
        let expected = Closed { code: 1009, reason: "Message too long".to_owned() };
        assert_eq!(device.closed().await, expected, "{longer} bytes");
    }
    scene.assert_bystander_is_served().await;
}

#[tokio::test]
async fn text_that_is_not_utf8_closes_the_connection_with_1007() {
    let mut scene = Scene::start().await;
    scene.clumsy.send_bytes_as_text(b"{\"action\":\"ping\",\"a\":\"\xff\xfe\"}".to_vec()).await;
    assert_eq!(scene.clumsy.closed().await.code, 1007);
    scene.assert_bystander_is_served().await;
}

#[tokio::test]
async fn a_binary_frame_is_read_like_a_text_frame() {
    let mut scene = Scene::start().await;
    scene.clumsy.send_binary(br#"{"action":"ping","id":1}"#.to_vec()).await;
    assert_eq!(scene.clumsy.expect_type("pong").await["reply_to"], 1);
}

#[tokio::test]
async fn a_ping_is_answered_with_what_was_sent_and_a_reply_names_its_action() {
    let mut scene = Scene::start().await;
    let ping = json!({"action": "ping", "id": "p-1", "payload": {"deep": [1, 2.5, null, "ü"]}});
    scene.clumsy.send(ping.clone()).await;
    let pong = scene.clumsy.expect_type("pong").await;
    assert_eq!(pong["original_data"], ping);
    assert_eq!(pong["reply_to"], "p-1");
    assert!(pong["timestamp"].is_f64(), "{pong}");

    scene.clumsy.send(json!({"action": "explode", "id": 7})).await;
    assert_eq!(scene.clumsy.expect_type("error").await["message"], "Unknown action: explode");
    scene.clumsy.send(json!({"action": "subscribe", "id": 8, "topics": ["a", {"topic": "b"}]})).await;
    for topic in ["a", "b"] {
        let confirmed = scene.clumsy.expect_type("subscription_confirmed").await;
        assert_eq!((&confirmed["topic"], &confirmed["reply_to"]), (&json!(topic), &json!(8)), "{confirmed}");
    }
}

#[tokio::test]
async fn a_ping_overtakes_actions_that_wait_for_redis_and_these_keep_their_order() {
    let redis = RedisServer::start().await;
    // A client whose action waits has to be asked for signs of life meanwhile, and must not be taken for silent.
    let builder = Node::builder().redis(&redis).env("WEBSOCKET_PING_INTERVAL", "0.5");
    let node = builder.env("WEBSOCKET_PING_TIMEOUT", "0.5").start().await;
    let mut alice = Device::of_user(&node.ws_url(), "alice").await;
    let is_reply = |message: &Value| message.get("reply_to").is_some();
    redis.pause();
    for number in 0..3 {
        alice.send(json!({"action": "subscribe", "topic": format!("room:{number}"), "id": number})).await;
    }
    for ping in ["one", "two"] {
        alice.send(json!({"action": "ping", "id": ping})).await;
        let reply = alice.wait_for("a reply", is_reply).await;
        assert_eq!((&reply["type"], &reply["reply_to"]), (&json!("pong"), &json!(ping)), "{reply}");
    }
    for number in 0..3 {
        let reply = alice.wait_for("a reply", is_reply).await;
        assert_eq!((&reply["code"], &reply["reply_to"]), (&json!("unavailable"), &json!(number)), "{reply}");
    }
    redis.resume();
    node.wait_for_readiness(200).await;
    alice.subscribe("room:4").await;
    alice.ping().await;
}

#[tokio::test]
async fn a_connection_is_told_who_and_where_it_is() {
    let node = Node::builder().env("NODE_ID", "node-x").start().await;
    let alice = Device::of_user(&node.ws_url(), "alice").await;
    let welcome = alice.welcome();
    assert_eq!((&welcome["user_id"], &welcome["node_id"]), (&json!("alice"), &json!("node-x")), "{welcome}");
    assert!(welcome["connection_id"].is_string() && welcome["ping_interval"].is_number(), "{welcome}");
    for address in ["broadcast", "user:alice"] {
        let position = &welcome["positions"][address];
        assert_eq!((&position["epoch"], &position["offset"]), (&json!(""), &json!(0)), "{welcome}");
    }
}

#[tokio::test]
async fn existing_clients_may_connect_to_the_bare_host() {
    let node = Node::builder().start().await;
    for path in ["/", "/ws", "/ws/"] {
        let url = format!("ws://{}{path}", node.address());
        Device::of_user(&url, "alice").await;
    }
}

#[tokio::test]
async fn the_addresses_of_everybody_and_of_users_are_no_topics() {
    let mut scene = Scene::start().await;
    for topic in ["broadcast", "user:bystander"] {
        let own = scene.node.api().post(&format!("/v1/topics/{topic}/messages"), &json!({"type": "x"})).await;
        assert!((400..500).contains(&own.status), "{topic}: {own:?}");
    }
    scene.clumsy.send(json!({"action": "subscribe", "topic": "user:bystander"})).await;
    scene.clumsy.expect_type("error").await;
    scene.assert_bystander_is_served().await;
}

#[tokio::test]
async fn mistakes_of_producers_are_told_as_problems() {
    let node = Node::builder().start().await;
    let api = node.api();
    let step = json!({"step": "s", "message": "m", "status": "completed", "completed": true});
    let bodies = [
        (json!({"task_id": "t", "step": 1, "step_result": step}), "user_id"),
        (json!({"user_id": "u", "step": 1, "step_result": step}), "task_id"),
        (json!({"user_id": "u", "task_id": "t", "step": 1}), "step_result"),
        (json!({"user_id": "u", "task_id": "t", "step_result": {"status": "completed"}}), "message"),
        (json!({"user_id": "u", "task_id": "t", "step_result": step, "on_timeout": "explode"}), "on_timeout"),
        (json!({"user_id": "u", "task_id": "t", "step_result": step, "timeout": -1}), "timeout"),
        (json!({"user_id": "u", "task_id": "t", "step_result": step, "timeout": 1e9}), "timeout"),
    ];
    for (body, field) in bodies {
        let reply = api.post("/v1/notifications?wait=0", &body).await;
        assert!((400..500).contains(&reply.status), "{body}: {reply:?}");
        assert_eq!(reply.header("content-type"), "application/problem+json", "{body}: {reply:?}");
        assert_eq!(reply.body["status"], reply.status, "{reply:?}");
        assert!(reply.body["code"].is_string(), "{reply:?}");
        assert!(reply.body.to_string().contains(field), "{field}: {reply:?}");
    }
    let long = json!({"text": "x".repeat(1_100_000)});
    assert_eq!(api.post("/v1/broadcast", &long).await.status, 413);
    assert_eq!(api.get("/v1/nothing").await.status, 404);
    let list = json!([1, 2]);
    assert_eq!(api.post("/v1/broadcast", &list).await.status, 400);
}

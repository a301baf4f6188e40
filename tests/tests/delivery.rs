//! Messages reach whoever they are addressed to, on whichever node, in order, and nobody else.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use harness::{Cluster, Device, PATIENCE, eventually};
use serde_json::{Value, json};

/// Publishes a broadcast through node 0 and waits until each device has it: what was meant to come before it
/// on the same connection has come. Only a fence for what went through the same Redis before.
async fn fence(cluster: &Cluster, devices: &mut [&mut Device]) {
    let published = cluster.api(0).post("/v1/broadcast", &json!({"type": "fence"})).await;
    assert_eq!(published.status, 200, "{published:?}");
    for device in devices {
        device.expect_type("fence").await;
    }
}

/// The messages of a device that carry `n`, in the order of their arrival.
fn numbers(device: &Device) -> Vec<u64> {
    device.unread().iter().filter_map(|message| message["n"].as_u64()).collect()
}

#[tokio::test]
async fn a_broadcast_reaches_every_device_on_every_node_once() {
    let cluster = Cluster::start(3).await;
    let mut alice = cluster.device(0, "alice").await;
    let mut bob = cluster.device(1, "bob").await;
    let mut carol = cluster.balanced_device("carol").await;
    let mut guest = Device::connect(&cluster.node(2).ws_url()).await;

    let reply = cluster.balanced_api().post("/v1/broadcast", &json!({"type": "news", "n": 1})).await;
    let published = reply.expect_status(200);
    assert_eq!(published["nodes"], 3, "{published}");

    for device in [&mut alice, &mut bob, &mut carol, &mut guest] {
        let news = device.expect_type("news").await;
        assert_eq!(news["n"], 1);
        assert_eq!(news["_meta"]["topic"], "broadcast", "{news}");
        assert_eq!(news["_meta"]["position"], published["position"], "{news}");
    }
    fence(&cluster, &mut [&mut alice, &mut bob, &mut carol, &mut guest]).await;
    for device in [&alice, &bob, &carol, &guest] {
        device.assert_none("second copy of the news", |message| message["type"] == "news");
    }
}

#[tokio::test]
async fn a_users_message_reaches_all_devices_of_that_user_and_nobody_else() {
    let cluster = Cluster::start(3).await;
    let mut laptop = cluster.device(0, "alice").await;
    let mut phone = cluster.device(1, "alice").await;
    let mut bob = cluster.device(1, "bob").await;
    let mut guest = Device::connect(&cluster.node(2).ws_url()).await;

    let body = json!({"type": "progress", "percent": 40});
    let published = cluster.api(2).post("/v1/users/alice/messages", &body).await.expect_status(200);
    assert_eq!(published["nodes"], 2, "node 3 has no connection of alice: {published}");

    for device in [&mut laptop, &mut phone] {
        let progress = device.expect_type("progress").await;
        assert_eq!(progress["percent"], 40);
        assert_eq!(progress["target_user_id"], "alice", "{progress}");
    }
    fence(&cluster, &mut [&mut bob, &mut guest, &mut laptop]).await;
    for device in [&bob, &guest, &laptop] {
        device.assert_none("(further) copy of alice's message", |message| message["type"] == "progress");
    }
}

#[tokio::test]
async fn a_topic_message_reaches_its_subscribers_on_every_node_until_they_leave_it() {
    let cluster = Cluster::start(3).await;
    let mut alice = cluster.device(0, "alice").await;
    let mut bob = cluster.device(1, "bob").await;
    let mut carol = cluster.device(2, "carol").await;
    alice.subscribe("room:7").await;
    bob.subscribe("room:7").await;

    let api = cluster.api(2);
    api.post("/v1/topics/room:7/messages", &json!({"type": "said", "n": 1})).await.expect_status(200);
    for device in [&mut alice, &mut bob] {
        let said = device.expect_type("said").await;
        assert_eq!(said["_meta"]["topic"], "room:7", "{said}");
    }

    bob.send(json!({"action": "unsubscribe", "topic": "room:7"})).await;
    assert_eq!(bob.expect_type("unsubscribed").await["topic"], "room:7");
    api.post("/v1/topics/room:7/messages", &json!({"type": "said", "n": 2})).await.expect_status(200);
    assert_eq!(alice.expect_type("said").await["n"], 2);
    fence(&cluster, &mut [&mut bob, &mut carol]).await;
    for device in [&bob, &carol] {
        device.assert_none("message of a topic without subscription", |message| message["type"] == "said");
    }
}

#[tokio::test]
async fn a_workflow_update_reaches_those_who_watch_that_workflow_untouched() {
    let cluster = Cluster::start(2).await;
    let url = cluster.nginx().ws_url().replace("/ws", "/api/workflows/wf-1/updates");
    let mut watcher = Device::connect(&url).await;
    let mut subscriber = cluster.device(1, "alice").await;
    subscriber.send(json!({"action": "subscribe", "workflow_id": "wf-1"})).await;
    subscriber.expect_type("subscription_confirmed").await;
    let mut other = Device::connect(&url.replace("wf-1", "wf-2")).await;
    eventually(PATIENCE, "a node that listens to each workflow", || async {
        let one = cluster.redis().listeners("cs:topic:workflow:wf-1").await;
        let two = cluster.redis().listeners("cs:topic:workflow:wf-2").await;
        (one >= 1 && two == 1).then_some(())
    })
    .await;

    let update = json!({
        "type": "workflow_update", "workflow_id": "wf-1", "status": "running",
        "timestamp": "2026-11-21T08:00:00Z", "details": {"ratio": 1.0, "label": "ünïcode"},
    });
    cluster.api(0).post("/v1/topics/workflow:wf-1/messages", &update).await.expect_status(200);
    for device in [&mut watcher, &mut subscriber] {
        let mut heard = device.expect_type("workflow_update").await;
        let meta = heard.as_object_mut().and_then(|heard| heard.remove("_meta"));
        assert_eq!(meta.map(|meta| meta["topic"].clone()), Some(json!("workflow:wf-1")));
        assert_eq!(heard, update);
    }
    fence(&cluster, &mut [&mut other]).await;
    other.assert_none("update of another workflow", |message| message["type"] == "workflow_update");
}

#[tokio::test]
async fn a_bare_redis_publish_is_delivered_without_a_position() {
    let cluster = Cluster::start(2).await;
    let mut alice = cluster.device(0, "alice").await;
    let mut bob = cluster.device(1, "bob").await;
    alice.subscribe("room:7").await;

    let publish = async |channel: &str, text: &str| cluster.redis().query::<u64>(&["PUBLISH", channel, text]).await;
    assert_eq!(publish("cs:broadcast", r#"{"type":"all"}"#).await, 2);
    assert_eq!(publish("cs:user:alice", r#"{"type":"hers"}"#).await, 1);
    assert_eq!(publish("cs:topic:room:7", r#"{"type":"room"}"#).await, 1);

    for (kind, topic) in [("all", "broadcast"), ("hers", "user:alice"), ("room", "room:7")] {
        let message = alice.expect_type(kind).await;
        let meta = &message["_meta"];
        assert!(meta.is_null() || meta["topic"] == topic, "{message}");
        assert!(meta["position"].is_null(), "nobody counted it: {message}");
    }
    bob.expect_type("all").await;
    fence(&cluster, &mut [&mut bob]).await;
    bob.assert_none("message for alice", |message| message["type"] == "hers" || message["type"] == "room");
}

#[tokio::test]
async fn bad_input_on_a_channel_is_logged_and_harms_nobody() {
    let cluster = Cluster::start(1).await;
    let mut alice = cluster.device(0, "alice").await;
    for bad in ["not json", "[1,2]", "", r#"{"a":1"#, r#"{"a":1}{"b":2}"#, "e:1:nonsense", "7"] {
        cluster.redis().query::<u64>(&["PUBLISH", "cs:user:alice", bad]).await;
    }
    cluster.redis().query::<u64>(&["PUBLISH", "cs:user:alice", r#"{"type":"good"}"#]).await;
    alice.expect_type("good").await;
    alice.ping().await;
    assert_eq!(alice.unread(), Vec::<&Value>::new(), "nothing bad is forwarded");
    cluster.node(0).wait_for_metric("countersign_messages_refused_total", "", 7.0).await;
    let named = |line: &String| line.contains("user:alice") && line.contains("\"WARN\"");
    assert!(cluster.node(0).process().log().iter().any(named), "a log line that names the channel");
}

#[tokio::test]
async fn redis_counts_exactly_the_nodes_with_interested_connections() {
    let cluster = Cluster::start(3).await;
    let redis = cluster.redis();
    assert_eq!(redis.listeners("cs:user:alice").await, 0);

    let first = cluster.device(0, "alice").await;
    let second = cluster.device(0, "alice").await;
    let mut third = cluster.device(1, "alice").await;
    third.subscribe("room:7").await;
    assert_eq!(redis.listeners("cs:user:alice").await, 2);
    assert_eq!(redis.listeners("cs:topic:room:7").await, 1);

    first.close().await;
    redis.wait_for_listeners("cs:user:alice", 2).await;
    second.close().await;
    redis.wait_for_listeners("cs:user:alice", 1).await;
    third.close().await;
    redis.wait_for_listeners("cs:user:alice", 0).await;
    redis.wait_for_listeners("cs:topic:room:7", 0).await;
}

#[tokio::test]
async fn messages_of_an_address_arrive_in_order_without_repeats() {
    let cluster = Cluster::start(2).await;
    let mut alice = cluster.device(0, "alice").await;
    let mut bob = cluster.device(1, "bob").await;
    alice.subscribe("room:7").await;
    bob.subscribe("room:7").await;
    let api = cluster.balanced_api();
    for n in 0..200_u64 {
        api.post("/v1/topics/room:7/messages", &json!({"type": "count", "n": n})).await.expect_status(200);
    }
    fence(&cluster, &mut [&mut alice, &mut bob]).await;
    let all: Vec<u64> = (0..200).collect();
    for device in [&mut alice, &mut bob] {
        // The fence went another way (another address): wait for the last one before looking.
        device.wait_for("last message", |message| message["type"] == "fence" || message["n"] == 199).await;
    }
    assert_eq!(numbers(&alice), all.get(..199).unwrap_or_default());
    assert_eq!(numbers(&bob), all.get(..199).unwrap_or_default());
}

#[tokio::test]
async fn what_was_missed_is_replayed_in_order_on_another_node() {
    let cluster = Cluster::start(2).await;
    let api = cluster.api(1);
    let mut alice = cluster.device(0, "alice").await;
    alice.subscribe("room:7").await;
    api.post("/v1/topics/room:7/messages", &json!({"type": "count", "n": 0})).await.expect_status(200);
    let position = alice.expect_type("count").await["_meta"]["position"].clone();
    assert!(position["offset"].is_u64(), "{position}");
    alice.close().await;

    for n in 1..=5 {
        api.post("/v1/topics/room:7/messages", &json!({"type": "count", "n": n})).await.expect_status(200);
    }
    let mut alice = cluster.device(1, "alice").await;
    alice.send(json!({"action": "subscribe", "topics": [{"topic": "room:7", "since": position}]})).await;
    let confirmed = alice.expect_type("subscription_confirmed").await;
    assert_eq!(confirmed["recovered"], true, "{confirmed}");
    alice.wait_for("the last message", |message| message["n"] == 5).await;
    assert_eq!(numbers(&alice), [1, 2, 3, 4]);

    alice
        .send(json!({"action": "subscribe", "topics": [{"topic": "room:8", "since": {"epoch": "gone", "offset": 3}}]}))
        .await;
    let other = alice.wait_for("confirmation", |m| m["topic"] == "room:8").await;
    assert_eq!(other["recovered"], false, "a foreign epoch is never a silent hole: {other}");
}

#[tokio::test]
async fn what_a_user_missed_is_replayed_at_connect() {
    let cluster = Cluster::start(2).await;
    let api = cluster.api(0);
    let mut alice = cluster.device(0, "alice").await;
    api.post("/v1/users/alice/messages", &json!({"type": "count", "n": 0})).await.expect_status(200);
    let position = alice.expect_type("count").await["_meta"]["position"].clone();
    alice.close().await;
    for n in 1..=3 {
        api.post("/v1/users/alice/messages", &json!({"type": "count", "n": n})).await.expect_status(200);
    }
    let epoch = position["epoch"].as_str().unwrap_or_default();
    let url = format!("{}?since=user:alice@{epoch}:{}", cluster.node(1).ws_url(), position["offset"]);
    let mut alice = Device::of_user(&url, "alice").await;
    let told = &alice.welcome()["positions"]["user:alice"];
    assert_eq!(told["recovered"], true, "{told}");
    alice.wait_for("the last message", |message| message["n"] == 3).await;
    assert_eq!(numbers(&alice), [1, 2]);
}

#[tokio::test]
async fn a_client_publishes_to_a_topic_and_gets_its_position() {
    let cluster = Cluster::start(2).await;
    let mut alice = cluster.device(0, "alice").await;
    let mut bob = cluster.device(1, "bob").await;
    bob.subscribe("room:7").await;
    alice
        .send(json!({"action": "publish", "id": "p1", "topic": "room:7", "message": {"type": "said", "text": "hi"}}))
        .await;
    let published = alice.expect_type("published").await;
    assert_eq!(published["reply_to"], "p1");
    let said = bob.expect_type("said").await;
    assert_eq!(said["text"], "hi");
    assert_eq!(said["_meta"]["position"], published["position"]);
}

#[tokio::test]
async fn routing_facts_cannot_be_forged_by_a_producer() {
    let cluster = Cluster::start(1).await;
    let mut alice = cluster.device(0, "alice").await;
    let api = cluster.api(0);
    for forged in [json!({"_meta": {}}), json!({"target_user_id": "bob"})] {
        let reply = api.post("/v1/users/alice/messages", &forged).await;
        assert!((400..500).contains(&reply.status), "{reply:?}");
        assert_eq!(reply.header("content-type"), "application/problem+json");
    }
    let forged = r#"{"type":"forged","target_user_id":"bob","_meta":{"topic":"broadcast"}}"#;
    cluster.redis().query::<u64>(&["PUBLISH", "cs:user:alice", forged]).await;
    let heard = alice.expect_type("forged").await;
    assert_eq!(heard["target_user_id"], "alice", "the last of two equal keys wins in every JSON parser: {heard}");
}

#[tokio::test]
async fn a_batch_publishes_to_many_addresses() {
    let cluster = Cluster::start(2).await;
    let mut alice = cluster.device(0, "alice").await;
    let mut bob = cluster.device(1, "bob").await;
    bob.subscribe("room:7").await;
    let batch = json!({"messages": [
        {"address": "user:alice", "message": {"type": "one"}},
        {"address": "topic:room:7", "message": {"type": "two"}},
        {"address": "broadcast", "message": {"type": "three"}},
    ]});
    cluster.balanced_api().post("/v1/batch", &batch).await.expect_status(200);
    alice.expect_type("one").await;
    bob.expect_type("two").await;
    alice.expect_type("three").await;
    bob.expect_type("three").await;
}

#[tokio::test]
async fn a_message_published_twice_with_one_key_arrives_once() {
    let cluster = Cluster::start(2).await;
    let mut alice = cluster.device(1, "alice").await;
    let body = json!({"type": "count", "n": 1});
    let first = cluster.api(0).post_once("/v1/users/alice/messages", "key-1", &body).await.expect_status(200);
    let second = cluster.api(1).post_once("/v1/users/alice/messages", "key-1", &body).await.expect_status(200);
    assert_eq!(first["position"], second["position"]);
    let other = cluster.api(1).post_once("/v1/users/alice/messages", "key-1", &json!({"n": 2})).await;
    assert_eq!(other.status, 409, "{other:?}");
    alice.expect_type("count").await;
    fence(&cluster, &mut [&mut alice]).await;
    assert_eq!(numbers(&alice), Vec::<u64>::new());
}

//! "Still executing" is kept up by the cluster, not by the node that was asked.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]
#![allow(clippy::panic, reason = "in a test that is how to say that it failed")]

use std::collections::BTreeSet;

use harness::{Api, Cluster, Device, Node};
use serde_json::{Value, json};

/// Starts a heartbeat of `alice` with an interval of one second, and returns when it began and when it ends.
async fn start(api: &Api, task: &str, ttl: u64) -> (f64, f64) {
    let body = json!({"user_id": "alice", "interval": 1, "ttl": ttl});
    let started = api.put(&format!("/v1/tasks/{task}/heartbeat"), &body).await.expect_status(200);
    let ends_at = started["ends_at"].as_f64().unwrap_or_else(|| panic!("{started}"));
    let expected = json!({"task_id": task, "user_id": "alice", "interval": 1, "ttl": ttl, "ends_at": ends_at});
    assert_eq!(started, expected);
    // A ttl of this size is a float without a fraction.
    let length = f64::from(u32::try_from(ttl).expect("a short life"));
    (ends_at - length, ends_at)
}

fn at(beat: &Value) -> f64 {
    beat["timestamp"].as_f64().unwrap_or_else(|| panic!("{beat}"))
}

/// The next beat of a task.
async fn beat(device: &mut Device, task: &str) -> Value {
    let wanted = task.to_owned();
    device.wait_for("beat", move |m| m["type"] == "heartbeat" && m["task_id"] == *wanted).await
}

#[tokio::test]
async fn a_heartbeat_outlives_the_node_that_was_asked_and_beats_once_an_interval() {
    let cluster = Cluster::start(3).await;
    let mut alice = cluster.device(1, "alice").await;
    let mut bob = cluster.device(1, "bob").await;
    let mut guest = Device::connect(&cluster.node(2).ws_url()).await;
    let (began_at, _) = start(&cluster.api(0), "t1", 60).await;
    cluster.node(0).kill();

    let mut intervals = BTreeSet::new();
    for _ in 0..4 {
        let beat = beat(&mut alice, "t1").await;
        assert_eq!(
            (&beat["user_id"], &beat["message"]),
            (&json!("alice"), &json!("Task is still executing")),
            "{beat}"
        );
        assert!(beat["_meta"]["position"].is_null(), "a heartbeat is no history: {beat}");
        let interval = (at(&beat) - began_at).floor();
        assert!(interval >= 1.0, "the first comes after one interval: {beat} {began_at}");
        assert!(intervals.insert(interval.to_string()), "two nodes sweep, and one of them beats: {beat}");
    }
    for device in [&mut bob, &mut guest] {
        device.ping().await;
        device.assert_none("heartbeat of alice's", |message| message["type"] == "heartbeat");
    }
    let (one, two) = (cluster.node(1), cluster.node(2));
    let name = "countersign_heartbeats_sent_total";
    assert!(one.metric(name, "").await + two.metric(name, "").await >= 4.0);
}

#[tokio::test]
async fn a_heartbeat_ends_when_it_is_stopped_and_when_its_ttl_is_over() {
    let cluster = Cluster::start(2).await;
    let mut alice = cluster.device(1, "alice").await;
    let (api, other) = (cluster.api(0), cluster.api(1));
    let (_, ends_at) = start(&api, "short", 3).await;
    start(&api, "stopped", 60).await;
    // Goes on, and shows by its own beats that there were sweeps.
    start(&api, "fence", 60).await;
    beat(&mut alice, "stopped").await;
    let path = "/v1/tasks/stopped/heartbeat?user_id=alice";
    let stopped = other.delete(path).await.expect_status(200);
    assert_eq!(stopped, json!({"task_id": "stopped", "user_id": "alice", "stopped": true}));
    let again = api.delete(path).await.expect_status(200);
    assert_eq!(again["stopped"], false, "{again}");
    alice.ping().await;
    let before = alice.unread().iter().filter(|message| message["task_id"] == "stopped").count();

    while at(&beat(&mut alice, "fence").await) < ends_at + 2.0 {}
    let of =
        |task: &str| alice.unread().into_iter().filter(|beat| beat["task_id"] == task).cloned().collect::<Vec<_>>();
    assert_eq!(of("stopped").len(), before, "{:?}", of("stopped"));
    let short = of("short");
    assert!(!short.is_empty() && short.iter().all(|beat| at(beat) < ends_at), "{ends_at} {short:?}");
}

#[tokio::test]
async fn the_heartbeat_of_a_cancelled_task_is_silent_until_the_lift() {
    let cluster = Cluster::start(2).await;
    let mut alice = cluster.device(1, "alice").await;
    let api = cluster.api(0);
    start(&api, "t1", 60).await;
    start(&api, "fence", 60).await;
    beat(&mut alice, "t1").await;
    alice.send(json!({"action": "cancel", "task_id": "t1"})).await;
    let cancelled_at = at(&alice.expect_type("task_cancelled").await);
    while at(&beat(&mut alice, "fence").await) < cancelled_at + 3.0 {}
    let late =
        |message: &Value| message["task_id"] == "t1" && message["type"] == "heartbeat" && at(message) > cancelled_at;
    alice.assert_none("beat of a cancelled task", late);
    api.delete("/v1/tasks/t1/cancel?user_id=alice").await.expect_status(200);
    while at(&beat(&mut alice, "t1").await) < cancelled_at {}
}

#[tokio::test]
async fn a_wrong_field_is_named_with_its_limits() {
    let cluster = Cluster::start(1).await;
    let api = cluster.api(0);
    for (body, field, limits) in [
        (json!({}), "user_id", "a string"),
        (json!({"user_id": "alice", "interval": 0}), "interval", "from 1 to 3600"),
        (json!({"user_id": "alice", "interval": 0.5}), "interval", "from 1 to 3600"),
        (json!({"user_id": "alice", "ttl": 604_801}), "ttl", "from 1 to 604800"),
        (json!([]), "body", "{user_id, interval?, ttl?}"),
    ] {
        let refused = api.put("/v1/tasks/t1/heartbeat", &body).await.expect_status(400);
        assert_eq!(refused["field"], field, "{refused}");
        assert!(refused["detail"].as_str().unwrap_or_default().contains(limits), "{refused}");
    }
    let refused = api.delete("/v1/tasks/t1/heartbeat").await.expect_status(400);
    assert_eq!(refused["field"], "user_id", "{refused}");
    let started = api.put("/v1/tasks/t1/heartbeat", &json!({"user_id": "alice"})).await.expect_status(200);
    assert_eq!((&started["interval"], &started["ttl"]), (&json!(30), &json!(3600)), "{started}");
}

#[tokio::test]
async fn a_single_node_without_redis_beats_too() {
    let node = Node::builder().start().await;
    let mut alice = Device::of_user(&node.ws_url(), "alice").await;
    start(&node.api(), "t1", 60).await;
    let first = beat(&mut alice, "t1").await;
    assert!(at(&beat(&mut alice, "t1").await) > at(&first));
}

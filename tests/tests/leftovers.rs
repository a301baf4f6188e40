//! When everybody is gone, nothing is left: no key in Redis that would stay for ever, no gauge above zero, no task that
//! holds up the end of a node.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use std::time::Duration;

use harness::audit::print_figures;
use harness::{Cluster, Device, Node, PATIENCE, RedisServer, TcpProxy, callback_id, eventually};
use reqwest::Method;
use serde_json::json;

/// The producers' own door, empty: what they put there is to be done however long no node is there.
const DOOR: &str = "cs:inbox";

/// Every key, and those among them that never expire.
async fn keys(redis: &RedisServer) -> (usize, Vec<String>) {
    let mut all = Vec::new();
    let mut cursor = "0".to_owned();
    loop {
        let (next, found): (String, Vec<String>) = redis.query(&["SCAN", &cursor, "COUNT", "1000"]).await;
        all.extend(found);
        cursor = next;
        if cursor == "0" {
            break;
        }
    }
    let mut for_ever = Vec::new();
    for key in &all {
        // -1: no time to live; -2: gone meanwhile.
        if redis.query::<i64>(&["PTTL", key]).await == -1 {
            for_ever.push(key.clone());
        }
    }
    (all.len(), for_ever)
}

/// Two people on two nodes, and something of every kind that the gateway writes down.
async fn busy(cluster: &Cluster) -> Vec<Device> {
    let (api, other) = (cluster.api(0), cluster.api(1));
    let mut alice = cluster.device(0, "alice").await;
    let mut bob = cluster.device(1, "bob").await;
    for device in [&mut alice, &mut bob] {
        device.subscribe("room:7").await;
    }
    for n in 0..5 {
        let message = json!({"type": "number", "n": n});
        for path in ["/v1/broadcast", "/v1/users/alice/messages", "/v1/topics/room:7/messages"] {
            api.post(path, &message).await.expect_status(200);
            api.post_once(path, &format!("key-{n}"), &message).await.expect_status(200);
        }
    }
    // Asked and answered, withdrawn, timed out, cancelled.
    let answered = api.ask("alice", "answered", json!({"idempotency_key": "a"})).await;
    alice.confirm(&answered, true).await;
    let withdrawn = other.ask("alice", "withdrawn", json!({})).await;
    other.delete(&format!("/v1/callbacks/{withdrawn}")).await.expect_status(200);
    let silent = other.ask("bob", "silent", json!({"timeout": 1})).await;
    other.wait(&silent, 5).await.expect_status(200);
    let cancelled = api.ask("bob", "cancelled", json!({})).await;
    api.post("/v1/tasks/cancelled/cancel", &json!({})).await.expect_status(200);
    assert_eq!(api.wait(&cancelled, 5).await.expect_status(200)["status"], "cancelled");
    // A heartbeat, a receipt, and the inbox with something good, something bad and a question with a reply.
    api.put("/v1/tasks/beating/heartbeat", &json!({"user_id": "alice", "interval": 1, "ttl": 60}))
        .await
        .expect_status(200);
    alice.expect_type("heartbeat").await;
    let receipt = other.post("/v1/users/bob/messages?ack=true&timeout=0.1", &json!({"type": "deploy"})).await;
    assert!([200, 202].contains(&receipt.status), "{receipt:?}");
    let message = bob.expect_type("deploy").await;
    bob.send(json!({"action": "ack", "message_id": message["message_id"]})).await;
    let question = json!({"user_id": "alice", "task_id": "inbox", "step": 1, "step_result": {
        "step": "s", "message": "go on?", "status": "completed", "completed": true}});
    let add =
        async |fields: &[&str]| cluster.redis().query::<String>(&[&["XADD", "cs:inbox", "*"], fields].concat()).await;
    add(&["op", "broadcast", "body", r#"{"message":{"type":"news"}}"#]).await;
    add(&["op", "nonsense", "body", "{}"]).await;
    add(&["op", "notify", "body", &question.to_string(), "reply_to", "job"]).await;
    let shown = alice.wait_for("the question from the inbox", |m| m["task_id"] == "inbox").await;
    alice.confirm(&callback_id(&shown), true).await;
    eventually(PATIENCE, "an empty inbox and a reply", || async {
        let waiting: u64 = cluster.redis().query(&["XLEN", "cs:inbox"]).await;
        let replies: u64 = cluster.redis().query(&["LLEN", "cs:reply:job"]).await;
        (waiting == 0 && replies == 1).then_some(())
    })
    .await;
    vec![alice, bob]
}

#[tokio::test]
async fn when_everybody_has_left_no_key_stays_for_ever_no_gauge_is_up_and_the_nodes_end_in_time() {
    const DRAIN: Duration = Duration::from_secs(5);
    let cluster = Cluster::builder(2).env("DRAIN_TIMEOUT", DRAIN.as_secs().to_string()).start().await;
    let devices = busy(&cluster).await;
    let heartbeat = cluster.api(1).delete("/v1/tasks/beating/heartbeat?user_id=alice").await;
    assert_eq!(heartbeat.status, 200, "{heartbeat:?}");
    for device in devices {
        device.close().await;
    }
    for node in cluster.nodes() {
        for gauge in ["connections", "waits", "outbox_frames", "callbacks_open", "inbox_waiting"] {
            node.wait_for_metric(&format!("countersign_{gauge}"), "", 0.0).await;
        }
        // Nobody listens to anything any more.
        node.wait_for_metric("countersign_rooms", "", 0.0).await;
    }
    for node in cluster.nodes() {
        let begun = std::time::Instant::now();
        node.terminate();
        assert_eq!(node.wait_exit(PATIENCE).await, Some(0));
        let took = begun.elapsed();
        print_figures("the end of a node without clients", format!("{took:.1?} of {DRAIN:?}"));
        assert!(took < DRAIN, "{took:?}: something held it up");
        assert!(!node.has_logged("drained not everything"));
    }
    let (all, for_ever) = keys(cluster.redis()).await;
    print_figures("keys", format!("{all} in Redis, without TTL {}: {for_ever:?}", for_ever.len()));
    assert!(all > 20, "there was something to look at: {all}");
    assert_eq!(for_ever, [DOOR]);
    assert_eq!(cluster.redis().query::<u64>(&["XLEN", DOOR]).await, 0);
    // The scan finds what is there to be found.
    let _: () = cluster.redis().query(&["SET", "cs:planted", "1"]).await;
    assert!(keys(cluster.redis()).await.1.contains(&"cs:planted".to_owned()));
}

#[tokio::test]
async fn what_killed_nodes_leave_behind_in_redis_does_not_stay_for_ever() {
    let cluster = Cluster::start(2).await;
    let devices = busy(&cluster).await;
    // Open when they die: a question, a wait for it, a heartbeat.
    let api = cluster.api(0);
    let open = api.ask("alice", "open", json!({"timeout": 60})).await;
    let path = format!("/v1/callbacks/{open}?wait=20");
    let waiting = api.try_send(Method::GET, &path, &[], None);
    let killing = async {
        cluster.node(0).wait_for_metric("countersign_waits", "", 1.0).await;
        for node in cluster.nodes() {
            node.kill();
        }
    };
    let (cut, ()) = tokio::join!(waiting, killing);
    assert!(cut.is_err(), "the caller sees the cut: {cut:?}");
    drop(devices);
    let (all, for_ever) = keys(cluster.redis()).await;
    print_figures("keys after kill -9", format!("{all} in Redis, without TTL {}: {for_ever:?}", for_ever.len()));
    assert_eq!(for_ever, [DOOR]);
}

/// A node that holds a wait, a connection whose device reads nothing more, and much that this device should have read.
#[tokio::test]
async fn a_node_ends_in_time_although_a_client_reads_nothing_and_redis_stands_still() {
    const DRAIN: Duration = Duration::from_secs(3);
    let redis = RedisServer::start().await;
    let builder = Node::builder().redis(&redis).env("DRAIN_TIMEOUT", DRAIN.as_secs().to_string());
    let node = builder.env("WEBSOCKET_OUTBOX_BYTES", "16777216").start().await;
    let proxy = TcpProxy::to(node.address()).await;
    let deaf = Device::of_user(&format!("ws://{}/ws", proxy.address()), "deaf").await;
    let mut here = Device::of_user(&node.ws_url(), "here").await;
    let api = node.api();
    let open = api.ask("here", "t1", json!({"timeout": 60})).await;
    proxy.stall();
    let text = "x".repeat(500_000);
    eventually(PATIENCE, "frames that wait for a client that does not read", || async {
        api.post("/v1/users/deaf/messages", &json!({"type": "bulk", "text": text})).await.expect_status(200);
        (node.metric("countersign_outbox_frames", "").await >= 1.0).then_some(())
    })
    .await;
    let path = format!("/v1/callbacks/{open}?wait=50");
    let waiting = api.try_send(Method::GET, &path, &[], None);
    let ending = async {
        node.wait_for_metric("countersign_waits", "", 1.0).await;
        redis.pause();
        let begun = std::time::Instant::now();
        node.terminate();
        let closed = here.closed().await;
        assert_eq!(closed.code, 1012, "whoever reads is told to come back: {closed:?}");
        let code = node.wait_exit(PATIENCE).await;
        (code, begun.elapsed())
    };
    let (held, (code, took)) = tokio::join!(waiting, ending);
    redis.resume();
    let held = held.expect("a held wait is answered").status;
    print_figures(
        "the end of a node in trouble",
        format!("exit {code:?} after {took:.1?} of {DRAIN:?}; the wait got {held}"),
    );
    assert_eq!(code, Some(0));
    assert!([202, 503].contains(&held), "ask again: {held}");
    assert!(took < DRAIN + Duration::from_secs(1), "{took:?}");
    drop(deaf);
}

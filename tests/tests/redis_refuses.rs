//! A Redis that is full, and one that is away: what is refused is refused at once with a code that says why, what can go on goes on,
//! and a node that waits neither works nor writes logs in the meantime.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use std::time::{Duration, Instant};

use harness::audit::print_figures;
use harness::{Device, Node, PATIENCE, RedisServer, eventually, fault_lasts};
use serde_json::{Value, json};

/// Refusals that were not waited for; the repeats of one call take three seconds.
const AT_ONCE: Duration = Duration::from_secs(2);

fn question(key: &str) -> Value {
    let result = json!({"step": "check", "result": {}, "completed": true, "message": "go on?", "status": "completed"});
    json!({"user_id": "alice", "task_id": "t", "step": 1, "idempotency_key": key, "step_result": result})
}

#[tokio::test]
async fn a_full_redis_refuses_what_is_written_at_once_and_serves_everything_else() {
    let redis = RedisServer::start().await;
    let node = Node::builder().redis(&redis).env("HISTORY_OVERRIDES", "bare:=0,broadcast=0").start().await;
    let mut alice = Device::of_user(&node.ws_url(), "alice").await;
    alice.subscribe("room:7").await;
    let asked = node.api().ask("alice", "before", json!({"timeout": 600})).await;
    alice.wait_for("the question", |m| m["callback_id"] == asked.as_str()).await;
    let due = node.api().ask("alice", "due", json!({"timeout": 1})).await;
    let room = "/v1/topics/room:7/messages";
    node.api().post(room, &json!({"type": "number", "n": 1})).await.expect_status(200);
    let position = alice.wait_for("the message", |m| m["n"] == 1).await["_meta"]["position"].clone();

    let _: () = redis.query(&["CONFIG", "SET", "maxmemory", "1"]).await;
    for (path, body) in [("/v1/notifications?wait=0", question("k1")), (room, json!({"type": "number", "n": 2}))] {
        let begun = Instant::now();
        let refused = node.api().post(path, &body).await;
        assert_eq!((refused.status, &refused.body["code"]), (503, &json!("backplane_full")), "{refused:?}");
        assert_eq!(refused.header("retry-after"), "1");
        assert!(begun.elapsed() < AT_ONCE, "{path}: {:?}", begun.elapsed());
        assert!(refused.body["detail"].as_str().is_some_and(|detail| detail.contains("Redis is full")), "{refused:?}");
    }
    let answer = alice.confirm(&asked, true).await;
    assert_eq!(
        (&answer["type"], &answer["reason"]),
        (&json!("confirmation_rejected"), &json!("unavailable")),
        "{answer}"
    );
    // Past its deadline, and nobody can write that down.
    eventually(PATIENCE, "a question that is due", || async {
        let read = node.api().get(&format!("/v1/callbacks/{due}")).await;
        (read.status == 503).then_some(())
    })
    .await;
    // Who connects is served, with what is open and what was missed.
    let mut tablet = Device::connect(&format!("{}?user_id=alice", node.ws_url())).await;
    let open = tablet.expect_type("open_callbacks").await;
    assert_eq!(open["callback_ids"], json!([asked]), "what is due is not open");
    tablet.send(json!({"action": "subscribe", "topics": [{"topic": "room:7", "since": position}]})).await;
    assert_eq!(tablet.expect_type("subscription_confirmed").await["recovered"], json!(true));
    for path in ["/v1/broadcast", "/v1/topics/bare:1/messages"] {
        node.api().post(path, &json!({"type": "bare"})).await.expect_status(200);
    }
    tablet.wait_for("the broadcast", |m| m["type"] == "bare").await;
    assert_eq!(node.readiness().await, 200, "a full Redis carries messages");
    assert!(node.metric("countersign_backplane_errors_total", "kind=\"oom\"").await >= 3.0);

    let _: () = redis.query(&["CONFIG", "SET", "maxmemory", "0"]).await;
    node.api().post("/v1/notifications?wait=0", &question("k1")).await.expect_status(202);
    assert_eq!(alice.confirm(&asked, true).await["type"], "confirmation_accepted");
    assert_eq!(node.api().wait(&due, 5).await.expect_status(200)["status"], "timed_out");
}

/// The time that a process has worked, in hundredths of a second (`proc(5)`).
fn worked(node: &Node) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", node.process().id())).expect("the node runs");
    let after_name = stat.rsplit_once(')').expect("a name in brackets").1;
    after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks")).sum()
}

#[tokio::test]
async fn a_node_whose_redis_is_away_refuses_at_once_and_waits_quietly() {
    let mut redis = RedisServer::start().await;
    let node = Node::builder().redis(&redis).env("RUST_LOG", "info").start().await;
    let mut alice = Device::of_user(&node.ws_url(), "alice").await;
    redis.kill();
    node.wait_for_readiness(503).await;
    alice.ping().await;
    let (lines, work) = (node.process().log().len(), worked(&node));
    let mut refusals = 0;
    let absence = async {
        fault_lasts(Duration::from_secs(5)).await;
    };
    let callers = async {
        loop {
            let begun = Instant::now();
            let refused = node.api().post("/v1/notifications?wait=0", &question("k")).await;
            assert_eq!((refused.status, refused.header("retry-after")), (503, "1"), "{refused:?}");
            assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
            refusals += 1;
            // As the header asks, but more often.
            fault_lasts(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = absence => {}
        () = callers => {}
    }
    let (lines, work) = (node.process().log().len() - lines, worked(&node) - work);
    print_figures(
        "Redis away for 5 s",
        format!("{lines} log lines, {work}0 ms of work, {refusals} requests refused at once"),
    );
    assert!(lines < 20, "{lines} log lines in 5 s:\n{}", node.process().log().join("\n"));
    assert!(work < 250, "a node that waits worked for {work} hundredths of 5 s");
    redis.restart().await;
    node.wait_for_readiness(200).await;
    node.api().post("/v1/notifications?wait=0", &question("k")).await.expect_status(202);
}

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

/// A node whose user of Redis may hear no topics but those whose name begins with `open`.
async fn with_few_topics() -> (RedisServer, Node) {
    let redis = RedisServer::start().await;
    let rights = ["on", ">secret", "~*", "+@all", "resetchannels", "&cs:[^t]*", "&cs:topic:open*"];
    let _: () = redis.query(&[["ACL", "SETUSER", "gateway"].as_slice(), &rights].concat()).await;
    let url = redis.url().replace("redis://", "redis://gateway:secret@");
    let node = Node::builder().env("REDIS_URL", url).start().await;
    (redis, node)
}

#[tokio::test]
async fn a_topic_that_the_nodes_user_of_redis_may_not_hear_is_refused_to_its_subscriber_alone() {
    let (redis, node) = with_few_topics().await;
    let mut alice = Device::of_user(&node.ws_url(), "alice").await;
    alice.subscribe("open:0").await;
    let connects = node.metric("countersign_subscriber_connects_total", "").await;

    let mut topics: Vec<String> = (1..=40).map(|number| format!("open:{number}")).collect();
    topics.insert(13, "shut:1".to_owned());
    topics.insert(30, "shut:2".to_owned());
    let mut bob = Device::of_user(&node.ws_url(), "bob").await;
    bob.send(json!({"action": "subscribe", "topics": topics, "id": 7})).await;
    for _ in 1..=40 {
        let confirmed = bob.expect_type("subscription_confirmed").await;
        assert!(confirmed["topic"].as_str().is_some_and(|topic| topic.starts_with("open:")), "{confirmed}");
    }
    let refused = bob.expect_type("error").await;
    assert_eq!((&refused["code"], &refused["reply_to"]), (&json!("forbidden"), &json!(7)), "{refused}");
    assert!(refused["message"].as_str().is_some_and(|message| message.contains("shut:1")), "{refused}");

    // One that names the topic when it connects is connected, and told.
    let mut carol = Device::connect(&format!("{}?user_id=carol&topic=shut:3&topic=open:3", node.ws_url())).await;
    assert_eq!(carol.expect_type("error").await["code"], "forbidden");
    carol.expect_type("subscription_confirmed").await;

    // The others hear what they heard, over the same connection.
    for (device, topic) in [(&mut alice, "open:0"), (&mut bob, "open:40"), (&mut carol, "open:3")] {
        node.api().post(&format!("/v1/topics/{topic}/messages"), &json!({"type": "x"})).await.expect_status(200);
        device.wait_for("a message", |message| message["_meta"]["topic"] == topic).await;
        device.assert_none("gap", |message| message["type"] == "gap");
    }
    assert_eq!(node.readiness().await, 200);
    let now = node.metric("countersign_subscriber_connects_total", "").await;
    assert!(now <= connects, "no connection was made again: {now}");
    assert!(node.metric("countersign_backplane_errors_total", "kind=\"noperm\"").await >= 3.0);
    assert!(node.has_logged("does not let this node subscribe to a topic"), "{}", node.process().log().join("\n"));

    // With the right it can be heard, and without it again those who hear it come back to be told.
    let _: () = redis.query(&["ACL", "SETUSER", "gateway", "&cs:topic:shut*"]).await;
    bob.subscribe("shut:1").await;
    let rights = ["resetchannels", "&cs:[^t]*", "&cs:topic:open*"];
    let _: () = redis.query(&[["ACL", "SETUSER", "gateway"].as_slice(), &rights].concat()).await;
    assert_eq!(bob.closed().await.code, 1013);
    node.wait_for_readiness(200).await;
    node.api().post("/v1/topics/open:0/messages", &json!({"type": "after"})).await.expect_status(200);
    alice.expect_type("after").await;
}

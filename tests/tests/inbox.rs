//! A producer that only knows Redis: what it appends to the inbox is done, in order and once, whoever dies when; and the answer
//! to its question comes to a list.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use std::time::Duration;

use harness::{Cluster, Device, Node, PATIENCE, RedisServer, eventually};
use serde_json::{Value, json};

/// `XADD cs:inbox * …`; the id of the entry.
async fn add(redis: &RedisServer, fields: &[&str]) -> String {
    redis.query(&[&["XADD", "cs:inbox", "*"], fields].concat()).await
}

async fn wait_until_empty(redis: &RedisServer) {
    eventually(PATIENCE, "an empty inbox", || async {
        (redis.query::<u64>(&["XLEN", "cs:inbox"]).await == 0).then_some(())
    })
    .await;
}

/// Which node reads the inbox.
async fn holder(cluster: &Cluster) -> usize {
    let name = eventually(PATIENCE, "a node that reads the inbox", || async {
        cluster.redis().query::<Option<String>>(&["GET", "cs:inbox:lease"]).await
    })
    .await;
    let number = name.strip_prefix("node-").and_then(|number| number.parse::<usize>().ok());
    number.expect("nodes are named node-1, node-2, …") - 1
}

/// `BLPOP cs:reply:<name> 12`: the decision, or nothing.
async fn pop(redis: &RedisServer, name: &str) -> Option<Value> {
    let popped: Option<(String, String)> = redis.query(&["BLPOP", &format!("cs:reply:{name}"), "12"]).await;
    popped.map(|(_, text)| serde_json::from_str(&text).expect("a decision is JSON"))
}

fn question(user: &str, task: &str) -> String {
    json!({"user_id": user, "task_id": task, "step": 1, "step_result": {
        "step": "validation", "message": "5 rows look wrong. Go on?", "status": "completed", "completed": true}})
    .to_string()
}

#[tokio::test]
async fn redis_cli_alone_asks_a_person_and_waits_for_the_answer() {
    let cluster = Cluster::start(2).await;
    let elsewhere = 1 - holder(&cluster).await;
    let mut alice = cluster.device(elsewhere, "alice").await;
    let body = question("alice", "t1");
    let waiting = async {
        add(cluster.redis(), &["op", "notify", "body", &body, "reply_to", "job:42"]).await;
        pop(cluster.redis(), "job:42").await.expect("a decision")
    };
    let answering = async {
        let shown = alice.expect_type("task_step_result").await;
        let id = shown["callback_id"].as_str().expect("an id").to_owned();
        alice.confirm_with(&id, json!({"proceed": false, "feedback": "not yet"})).await;
        id
    };
    let (decision, id) = tokio::join!(waiting, answering);
    let read = cluster.api(0).wait(&id, 5).await.expect_status(200);
    assert_eq!(decision, read, "the list holds what everybody else is told");
    assert_eq!((&decision["status"], &decision["feedback"]), (&json!("declined"), &json!("not yet")), "{decision}");
    wait_until_empty(cluster.redis()).await;
}

#[tokio::test]
async fn a_deadline_and_a_cancellation_reply_too() {
    let cluster = Cluster::start(2).await;
    let redis = cluster.redis();
    let soon = question("alice", "t1").replacen('{', r#"{"timeout":0.2,"on_timeout":"decline","#, 1);
    add(redis, &["op", "notify", "body", &soon, "reply_to", "soon"]).await;
    let decision = pop(redis, "soon").await.expect("a decision of the clock");
    assert_eq!((&decision["resolution"], &decision["proceed"]), (&json!("timeout"), &json!(false)), "{decision}");

    add(redis, &["op", "notify", "body", &question("alice", "t2"), "reply_to", "taken back"]).await;
    add(redis, &["op", "cancel", "task_id", "t2", "user_id", "alice"]).await;
    let decision = pop(redis, "taken back").await.expect("a decision of the producer");
    assert_eq!((&decision["status"], &decision["by"]), (&json!("cancelled"), &json!("producer")), "{decision}");
    add(redis, &["op", "notify", "body", &question("alice", "t2"), "reply_to", "too late"]).await;
    let decision = pop(redis, "too late").await.expect("a decision at once");
    assert_eq!(decision["status"], "cancelled", "{decision}");
    eventually(PATIENCE, "empty reply outboxes", || async {
        redis.query::<Vec<String>>(&["KEYS", "cs:{*}:replies"]).await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_question_over_http_may_name_a_list_too() {
    let cluster = Cluster::start(1).await;
    let id = cluster.api(0).ask("alice", "t1", json!({"reply_to": "42", "idempotency_key": "k"})).await;
    let other = json!({"reply_to": "43", "idempotency_key": "k"});
    assert_eq!(cluster.api(0).notify("alice", "t1", "?wait=0", other).await.status, 409, "that is another request");
    cluster.api(0).delete(&format!("/v1/callbacks/{id}")).await.expect_status(200);
    assert_eq!(pop(cluster.redis(), "42").await.expect("a decision")["callback_id"], *id);

    let alone = Node::builder().start().await;
    let refused = alone.api().notify("alice", "t1", "?wait=0", json!({"reply_to": "42"})).await.expect_status(400);
    assert_eq!(refused["field"], "reply_to", "{refused}");
    assert_eq!(
        refused["detail"], "reply_to: expected nothing, as the embedded backplane has no lists, got \"42\"",
        "{refused}"
    );
}

#[tokio::test]
async fn what_was_appended_while_no_node_was_there_is_done_when_one_comes() {
    let redis = RedisServer::start().await;
    for n in 0..3 {
        let body = json!({"type": "line", "n": n}).to_string();
        add(&redis, &["op", "topic", "topic", "job:1", "body", &body]).await;
    }
    add(&redis, &["op", "notify", "body", &question("alice", "t1"), "reply_to", "42"]).await;
    let node = Node::builder().redis(&redis).start().await;
    wait_until_empty(&redis).await;
    let mut alice = Device::of_user(&node.ws_url(), "alice").await;
    let beginning = json!({"epoch": "", "offset": 0});
    alice.send(json!({"action": "subscribe", "topics": [{"topic": "job:1", "since": beginning}]})).await;
    for n in 0..3 {
        assert_eq!(alice.expect_type("line").await["n"], n);
    }
    let shown = alice.expect_type("task_step_result").await;
    alice.confirm(shown["callback_id"].as_str().expect("an id"), true).await;
    assert_eq!(pop(&redis, "42").await.expect("a decision")["status"], "confirmed");
}

/// 500 numbered messages, during which something happens to the node that reads them; the cluster and that node.
async fn five_hundred_lines(fault: impl AsyncFn(&Cluster, usize)) -> (Cluster, usize) {
    const LINES: u64 = 500;
    let cluster = Cluster::builder(3).env("HISTORY_SIZE", "1000").start().await;
    let reading = holder(&cluster).await;
    let mut reader = cluster.device((reading + 1) % 3, "reader").await;
    reader.subscribe("job:1").await;
    let producing = async {
        for n in 0..LINES {
            let body = json!({"type": "line", "n": n}).to_string();
            add(cluster.redis(), &["op", "topic", "topic", "job:1", "body", &body]).await;
        }
    };
    let failing = async {
        eventually(PATIENCE, "some lines", || async {
            (cluster.redis().query::<u64>(&["XLEN", "cs:{topic%3Ajob%3A1}:history"]).await > 50).then_some(())
        })
        .await;
        fault(&cluster, reading).await;
        let done: u64 = cluster.redis().query(&["XLEN", "cs:{topic%3Ajob%3A1}:history"]).await;
        assert!(done < LINES, "it happened in the middle");
    };
    tokio::join!(producing, failing);
    let mut heard: Vec<Value> = Vec::new();
    while heard.last().is_none_or(|n| *n != LINES - 1) {
        heard.push(reader.expect_type("line").await["n"].clone());
    }
    let expected: Vec<Value> = (0..LINES).map(Value::from).collect();
    assert_eq!(heard, expected, "each line once, in order");
    wait_until_empty(cluster.redis()).await;
    let kept: u64 = cluster.redis().query(&["XLEN", "cs:{topic%3Ajob%3A1}:history"]).await;
    assert_eq!((kept, cluster.redis().query::<u64>(&["EXISTS", "cs:inbox:dead"]).await), (LINES, 0));
    (cluster, reading)
}

#[tokio::test]
async fn a_reader_that_is_killed_loses_and_repeats_nothing() {
    five_hundred_lines(async |cluster, reading| cluster.node(reading).kill()).await;
}

#[tokio::test]
async fn a_reader_that_stood_still_past_its_lease_does_no_harm() {
    let (cluster, paused) = five_hundred_lines(async |cluster, reading| cluster.node(reading).pause()).await;
    let mut alice = cluster.device(holder(&cluster).await, "alice").await;
    cluster.node(paused).resume();
    cluster.node(paused).wait_for_readiness(200).await;
    for n in 0..100 {
        let body = json!({"type": "line", "n": n}).to_string();
        add(cluster.redis(), &["op", "user", "user_id", "alice", "body", &body]).await;
    }
    for n in 0..100 {
        assert_eq!(alice.expect_type("line").await["n"], n);
    }
    alice.ping().await;
    alice.assert_none("second line", |message| message["type"] == "line");
}

#[tokio::test]
async fn a_question_that_comes_again_is_asked_once() {
    let cluster = Cluster::start(1).await;
    let redis = cluster.redis();
    let mut alice = cluster.device(0, "alice").await;
    add(redis, &["op", "user", "user_id", "alice", "body", r#"{"type":"line"}"#]).await;
    alice.expect_type("line").await;
    cluster.node(0).pause();
    add(redis, &["op", "notify", "body", &question("alice", "t1")]).await;
    assert_eq!(redis.query::<u64>(&["COPY", "cs:inbox", "copy"]).await, 1);
    cluster.node(0).resume();
    wait_until_empty(redis).await;
    // As if the node had been killed when it had asked and not yet deleted the entry.
    assert_eq!(redis.query::<u64>(&["COPY", "copy", "cs:inbox", "REPLACE"]).await, 1);
    wait_until_empty(redis).await;
    alice.expect_type("task_step_result").await;
    add(redis, &["op", "user", "user_id", "alice", "body", r#"{"type":"last"}"#]).await;
    alice.expect_type("last").await;
    alice.assert_none("second question", |message| message["type"] == "task_step_result");
    assert_eq!(redis.query::<u64>(&["EXISTS", "cs:inbox:dead"]).await, 0);
}

#[tokio::test]
async fn in_a_stream_that_began_anew_equal_ids_are_other_entries() {
    let cluster = Cluster::start(1).await;
    let redis = cluster.redis();
    let mut alice = cluster.device(0, "alice").await;
    for round in ["first", "second"] {
        redis.query::<u64>(&["DEL", "cs:inbox"]).await;
        let body = json!({"type": round}).to_string();
        redis.query::<String>(&["XADD", "cs:inbox", "5-1", "op", "user", "user_id", "alice", "body", &body]).await;
        let ask = question("alice", round);
        redis.query::<String>(&["XADD", "cs:inbox", "5-2", "op", "notify", "body", &ask]).await;
        alice.expect_type(round).await;
        assert_eq!(alice.expect_type("task_step_result").await["task_id"], round);
        wait_until_empty(redis).await;
    }
    assert_eq!(redis.query::<u64>(&["EXISTS", "cs:inbox:dead"]).await, 0);
}

#[tokio::test]
async fn a_reader_that_drains_hands_over_at_once() {
    let cluster = Cluster::start(2).await;
    let reading = holder(&cluster).await;
    let mut alice = cluster.device(1 - reading, "alice").await;
    cluster.node(reading).terminate();
    assert_eq!(cluster.node(reading).wait_exit(Cluster::drain_deadline()).await, Some(0));
    let lease: Option<String> = cluster.redis().query(&["GET", "cs:inbox:lease"]).await;
    assert_ne!(lease, Some(format!("node-{}", reading + 1)), "it was given back");
    add(cluster.redis(), &["op", "broadcast", "body", r#"{"type":"news"}"#]).await;
    alice.expect_type("news").await;
}

#[tokio::test]
async fn a_wrong_entry_is_put_aside_with_its_reason_and_stops_nobody() {
    let cluster = Cluster::builder(1).env("PUBLISH_MAX_BYTES", "2000").start().await;
    let redis = cluster.redis();
    let mut alice = cluster.device(0, "alice").await;
    redis.query::<()>(&["SET", "cs:{topic%3Abroken}:meta", "not ours"]).await;
    let long = json!({"text": "x".repeat(2000)}).to_string();
    let wrong: &[(&[&str], &str)] = &[
        (&["hello", "world"], "op: expected one of broadcast, user, topic, notify, cancel, heartbeat, got nothing"),
        (&["op", "user", "body", "{}"], "user_id: expected a field of this name in the entry, got nothing"),
        (&["op", "broadcast", "body", "[1]"], "body: expected one JSON object in UTF-8, got something else"),
        (&["op", "broadcast", "body", &long], "body: expected at most 2000 bytes (PUBLISH_MAX_BYTES), got 2011 bytes"),
        (&["op", "notify", "body", r#"{"user_id":"alice"}"#], "task_id: expected a string, got nothing"),
        (&["op", "topic", "topic", "broken", "body", "{}"], "this version cannot read"),
        (&["op", "broadcast", "idempotency_key", "k", "body", r#"{"type":"other"}"#], "used before with another body"),
    ];
    add(redis, &["op", "broadcast", "idempotency_key", "k", "body", r#"{"type":"first"}"#]).await;
    for (fields, _) in wrong {
        add(redis, fields).await;
    }
    add(redis, &["op", "broadcast", "idempotency_key", "k", "body", r#"{"type":"first"}"#]).await;
    add(redis, &["op", "user", "user_id", "alice", "body", r#"{"type":"last"}"#]).await;
    alice.expect_type("first").await;
    let last = alice.expect_type("last").await;
    assert_eq!(last["target_user_id"], "alice", "{last}");
    alice.ping().await;
    alice.assert_none("second first", |message| message["type"] == "first" || message["type"] == "other");

    wait_until_empty(redis).await;
    let mut dead: Vec<(String, Vec<String>)> = redis.query(&["XRANGE", "cs:inbox:dead", "-", "+"]).await;
    // What Redis finds out itself is known after what the node sees at once.
    dead.sort_by(|(_, one), (_, other)| one[1].cmp(&other[1]));
    assert_eq!(dead.len(), wrong.len(), "{dead:#?}");
    for ((_, entry), (fields, reason)) in dead.iter().zip(wrong) {
        assert_eq!((entry[0].as_str(), entry[2].as_str()), ("id", "reason"));
        assert!(entry[3].contains(reason), "{fields:?}: {}", entry[3]);
        assert_eq!(entry[4..], **fields);
    }
    let node = cluster.node(0);
    node.wait_for_metric("countersign_inbox_entries_total", "outcome=\"dead\"", 7.0).await;
    node.wait_for_metric("countersign_inbox_entries_total", "outcome=\"done\"", 3.0).await;
    node.wait_for_metric("countersign_inbox_waiting", "", 0.0).await;
}

#[tokio::test]
async fn a_question_that_is_refused_ends_the_wait_of_whoever_asked_it() {
    let cluster = Cluster::builder(2).env("PUBLISH_MAX_BYTES", "2000").env("CALLBACK_USER_LIMIT", "1").start().await;
    let redis = cluster.redis();
    add(redis, &["op", "notify", "body", &question("bob", "t1"), "reply_to", "taken", "idempotency_key", "k"]).await;
    let long = question("alice", "t1").replace("Go on?", &"x".repeat(2000));
    let very_long = question("alice", "t1").replace("Go on?", &"x".repeat(20_000));
    let within = long.replacen('{', r#"{"reply_to":"4","#, 1);
    let very_long_within = very_long.replacen('{', r#"{"reply_to":"6","#, 1);
    let late = question("alice", "t1").replacen('{', r#"{"timeout":0,"#, 1);
    let refused: &[(&[&str], &str, Value, &str)] = &[
        (
            &["op", "notify", "body", r#"{"user_id":"alice"}"#],
            "invalid_field",
            json!("task_id"),
            "a string, got nothing",
        ),
        (&["op", "notify", "body", r#"{"user_id":"al"#], "invalid_field", json!("body"), "EOF while parsing"),
        (&["op", "notify"], "invalid_field", json!("body"), "got nothing"),
        (&["op", "notify", "body", &long], "invalid_field", json!("body"), "PUBLISH_MAX_BYTES"),
        (&["op", "notify", "body", &within], "invalid_field", json!("body"), "PUBLISH_MAX_BYTES"),
        (&["op", "notify", "body", &very_long], "invalid_field", json!("body"), "PUBLISH_MAX_BYTES"),
        (&["op", "notify", "body", &very_long_within], "invalid_field", json!("body"), "PUBLISH_MAX_BYTES"),
        (&["op", "notify", "body", &late], "invalid_field", json!("timeout"), "CALLBACK_MAX_TIMEOUT"),
        (&["op", "notfy", "body", &question("alice", "t1")], "invalid_field", json!("op"), "expected one of"),
        (&["op", "notify", "body", &question("bob", "t2")], "too_many_callbacks", Value::Null, "CALLBACK_USER_LIMIT"),
        (
            &["op", "notify", "body", &question("bob", "t3"), "idempotency_key", "k"],
            "conflict",
            Value::Null,
            "used before",
        ),
    ];
    let decided = ["callback_id", "proceed", "feedback", "choice", "data", "resolution", "by"];
    for (n, (fields, code, field, reason)) in refused.iter().enumerate() {
        let name = n.to_string();
        // Two of them name the list in their body.
        let list: &[&str] = if [4, 6].contains(&n) { &[] } else { &["reply_to", &name] };
        let entry = add(redis, &[*fields, list].concat()).await;
        let reply = pop(redis, &name).await.unwrap_or_else(|| panic!("{fields:?} was not answered"));
        assert_eq!(
            (&reply["status"], &reply["code"], &reply["field"], &reply["entry"]),
            (&json!("refused"), &json!(code), field, &json!(entry)),
            "{reply}"
        );
        assert!(reply["reason"].as_str().is_some_and(|said| said.contains(reason)), "{reply}");
        assert!(reply["at"].is_f64(), "{reply}");
        for key in decided {
            assert_eq!(reply.get(key), Some(&Value::Null), "{key} of {reply}");
        }
        match countersign_client::decision_of_reply(reply.to_string().as_bytes()) {
            Err(countersign_client::Error::Refused(problem)) => assert_eq!(problem.code, *code),
            other => panic!("{other:?}"),
        }
    }
    wait_until_empty(redis).await;
    assert_eq!(redis.query::<u64>(&["XLEN", "cs:inbox:dead"]).await, refused.len() as u64);
    assert!((0..2).any(|node| cluster.node(node).has_logged("put to the dead letters")), "a line of the log says so");
}

#[tokio::test]
async fn a_refusal_is_pushed_to_no_list_whose_name_is_wrong_or_that_is_none() {
    let cluster = Cluster::start(1).await;
    let redis = cluster.redis();
    redis.query::<()>(&["SET", "cs:reply:text", "x"]).await;
    let long = "x".repeat(257);
    for list in ["", "a\nb", &long, "text"] {
        add(redis, &["op", "notify", "body", "{}", "reply_to", list]).await;
    }
    add(redis, &["op", "notify", "body", "{}", "reply_to", "good"]).await;
    assert_eq!(pop(redis, "good").await.expect("the others stop nobody")["status"], "refused");
    wait_until_empty(redis).await;
    assert_eq!(redis.query::<Vec<String>>(&["KEYS", "cs:reply:*"]).await, ["cs:reply:text"]);
    assert_eq!(redis.query::<u64>(&["XLEN", "cs:inbox:dead"]).await, 5);
}

#[tokio::test]
async fn every_op_does_what_its_call_does() {
    let cluster = Cluster::start(2).await;
    let redis = cluster.redis();
    let mut alice = cluster.device(1, "alice").await;
    alice.subscribe("room:7").await;
    add(redis, &["op", "broadcast", "body", r#"{"type":"news"}"#]).await;
    add(redis, &["op", "user", "user_id", "alice", "body", r#"{"type":"hers"}"#]).await;
    add(redis, &["op", "user", "user_id", "bob", "body", r#"{"type":"his"}"#]).await;
    add(redis, &["op", "topic", "topic", "room:7", "body", r#"{"type":"said"}"#]).await;
    add(redis, &["op", "heartbeat", "task_id", "t1", "body", r#"{"user_id":"alice","interval":1,"ttl":60}"#]).await;
    add(redis, &["op", "notify", "body", &question("alice", "t1")]).await;
    for kind in ["news", "hers", "said", "task_step_result", "heartbeat"] {
        alice.expect_type(kind).await;
    }
    add(redis, &["op", "cancel", "body", r#"{"task_id":"t1","user_id":"alice"}"#]).await;
    let cancelled = alice.expect_type("task_cancelled").await;
    assert_eq!((&cancelled["task_id"], &cancelled["callbacks_closed"]), (&json!("t1"), &json!(1)), "{cancelled}");
    alice.expect_type("callback_resolved").await;
    alice.assert_none("message of bob's", |message| message["type"] == "his");
    wait_until_empty(redis).await;
    assert_eq!(redis.query::<u64>(&["EXISTS", "cs:inbox:dead"]).await, 0);
}

#[tokio::test]
async fn what_redis_refuses_now_is_done_later_and_in_order() {
    let redis = RedisServer::start().await;
    for n in 0..5 {
        let body = json!({"type": "line", "n": n}).to_string();
        add(&redis, &["op", "topic", "topic", "job:1", "body", &body]).await;
    }
    redis.query::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let node = Node::builder().redis(&redis).start_listening().await;
    eventually(Duration::from_secs(30), "a log line that says so", || async {
        node.has_logged("the inbox stands still").then_some(())
    })
    .await;
    assert_eq!(redis.query::<u64>(&["XLEN", "cs:inbox"]).await, 5, "nothing is acknowledged");
    redis.query::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    wait_until_empty(&redis).await;
    let kept: Vec<(String, Vec<String>)> = redis.query(&["XRANGE", "cs:{topic%3Ajob%3A1}:history", "-", "+"]).await;
    let lines: Vec<&str> = kept.iter().map(|(_, entry)| entry[1].as_str()).collect();
    assert_eq!(lines, (0..5).map(|n| json!({"type": "line", "n": n}).to_string()).collect::<Vec<_>>());
    assert_eq!(redis.query::<u64>(&["EXISTS", "cs:inbox:dead"]).await, 0);
}

//! Silence decides once, in time, and can always be told from consent.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use std::time::{Duration, Instant};

use harness::{Api, Cluster};
use serde_json::{Value, json};

/// Asks with a timeout of one second and waits; returns the answer and how long it took.
async fn unanswered(api: &Api, task: &str, on_timeout: &str) -> (Value, Duration) {
    let started = Instant::now();
    let reply = api.notify("alice", task, "", json!({"timeout": 1, "on_timeout": on_timeout})).await;
    (reply.expect_status(200), started.elapsed())
}

#[tokio::test]
async fn silence_decides_as_it_was_agreed_and_is_told_from_consent() {
    let cluster = Cluster::start(2).await;
    let mut alice = cluster.device(1, "alice").await;
    let api = cluster.api(0);
    let (proceed, decline, fail) = tokio::join!(
        unanswered(&api, "t1", "proceed"),
        unanswered(&api, "t2", "decline"),
        unanswered(&api, "t3", "fail"),
    );
    for ((answer, took), expected) in [(proceed, json!(true)), (decline, json!(false)), (fail, Value::Null)] {
        assert_eq!(answer["status"], "timed_out", "{answer}");
        assert_eq!(answer["proceed"], expected, "{answer}");
        assert_eq!((&answer["resolution"], &answer["by"]), (&json!("timeout"), &Value::Null), "{answer}");
        assert!(took >= Duration::from_secs(1), "not before the deadline: {took:?}");
        // The promise is one second after the deadline; the rest is for opening the callback on a busy machine.
        assert!(took < Duration::from_millis(2_800), "{took:?}");
    }
    for _ in 0..3 {
        assert_eq!(alice.expect_type("callback_resolved").await["status"], "timed_out");
    }
}

#[tokio::test]
async fn a_deadline_that_nobody_waits_for_still_fires() {
    let cluster = Cluster::start(2).await;
    let mut alice = cluster.device(1, "alice").await;
    let api = cluster.api(0);
    let id = api.ask("alice", "t1", json!({"timeout": 1, "on_timeout": "decline"})).await;
    let question = alice.expect_type("task_step_result").await;
    let over = alice.expect_type("callback_resolved").await;
    assert_eq!((&over["callback_id"], &over["status"]), (&json!(id), &json!("timed_out")), "{over}");
    let late = alice.confirm(&id, true).await;
    assert_eq!(late["reason"], "already_resolved", "{late}");
    assert_eq!(late["decision"]["resolution"], "timeout", "{late}");
    let answer = api.wait(&id, 5).await.expect_status(200);
    let (at, deadline) = (answer["at"].as_f64(), question["deadline"].as_f64());
    assert!(at >= deadline, "not before the deadline: {answer} {question}");
}

#[tokio::test]
async fn an_answer_at_the_last_moment_and_the_deadline_never_both_count() {
    let cluster = Cluster::start(2).await;
    let mut alice = cluster.device(0, "alice").await;
    let mut clock = 0;
    for round in 0..10 {
        let task = format!("t{round}");
        let id = cluster.api(1).ask("alice", &task, json!({"timeout": 0.3, "on_timeout": "decline"})).await;
        let question = alice.wait_for("question", |m| m["callback_id"] == *id).await;
        // Spread around the deadline by how many round trips are made before the answer.
        let deadline = Instant::now() + Duration::from_millis(240 + 15 * round);
        assert!(question["deadline"].is_f64());
        while Instant::now() < deadline {
            alice.ping().await;
        }
        let verdict = alice.confirm(&id, true).await;
        let answer = cluster.api(1).wait(&id, 5).await.expect_status(200);
        let again = cluster.api(0).wait(&id, 5).await.expect_status(200);
        assert_eq!(answer, again);
        if verdict["type"] == "confirmation_accepted" {
            assert_eq!(answer["status"], "confirmed", "{verdict} {answer}");
        } else {
            clock += 1;
            assert_eq!(answer["status"], "timed_out", "{verdict} {answer}");
            assert_eq!(verdict["decision"]["resolution"], "timeout", "{verdict}");
        }
    }
    assert!(clock > 0, "the deadline won at least once, else this test shows nothing");
}

//! Somebody sets a clock: the node's, which nobody outside notices; Redis's, by which deadlines are judged, and which keeps
//! no caller waiting; and that of a node with the embedded backplane.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use std::time::{Duration, Instant};

use harness::{Api, Device, Node, PATIENCE, RedisServer, WallClock, eventually};
use serde_json::{Value, json};

/// A wait ends a second after its deadline at the latest; the rest is for a busy machine.
const PAST_DEADLINE: Duration = Duration::from_millis(1_700);

/// Asks and waits in one request; the reply's status and body, and how long it took.
async fn notify(api: &Api, task: &str, timeout: f64) -> (u16, Value, Duration) {
    let begun = Instant::now();
    let reply = api.notify("alice", task, "", json!({"timeout": timeout, "on_timeout": "decline"})).await;
    (reply.status, reply.body, begun.elapsed())
}

/// Waits by the id until it ends.
async fn wait(api: &Api, id: &str) -> (u16, Value, Duration) {
    let begun = Instant::now();
    let reply = api.wait(id, 30).await;
    (reply.status, reply.body, begun.elapsed())
}

/// The lines that say that Redis's clock was set.
fn set_lines(node: &Node) -> Vec<String> {
    let log = node.process().log();
    log.into_iter().filter(|line| line.contains("WARN") && line.contains("the clock of Redis was set")).collect()
}

/// Whether the only line names this step. The node reports the part of a step that is certain, which
/// is less than the step by the time that its two requests to Redis took.
fn is_one_step(lines: &[String], step: f64) -> bool {
    let [line] = lines else { return false };
    let fields: Value = serde_json::from_str(line).expect("a line of the log is JSON");
    let seconds: f64 = fields["seconds"].as_str().and_then(|text| text.parse().ok()).expect("seconds");
    seconds.signum() == step.signum() && (step.abs() - 6.0..=step.abs()).contains(&seconds.abs())
}

#[tokio::test]
async fn a_redis_that_is_set_back_an_hour_keeps_no_caller_waiting() {
    let clock = WallClock::new();
    let redis = RedisServer::start_at(&clock).await;
    let node = Node::builder().redis(&redis).start().await;
    let api = node.api();
    let timeout = Duration::from_secs(3);
    let early = api.ask("alice", "early", json!({"timeout": timeout.as_secs()})).await;
    let setting = async {
        node.wait_for_metric("countersign_waits", "", 2.0).await;
        clock.set("-3600");
        // A wait that begins afterwards knows the deadline from a clock that is an hour slow.
        wait(&api, &early).await
    };
    let (asked, by_id, late) = tokio::join!(notify(&api, "t", timeout.as_secs_f64()), wait(&api, &early), setting);
    for (name, (status, body, took)) in [("asked", &asked), ("by id", &by_id), ("begun afterwards", &late)] {
        assert_eq!(*status, 503, "{name}: {body}");
        assert!(*took < timeout + PAST_DEADLINE, "{name}: {took:?}");
    }
    assert!(asked.2 >= timeout, "not before the deadline: {:?}", asked.2);
    assert_eq!(by_id.1["callback_id"], json!(early), "the caller can ask with it: {}", by_id.1);
    let lines = eventually(PATIENCE, "a line about the clock", || async {
        Some(set_lines(&node)).filter(|lines| !lines.is_empty())
    })
    .await;
    assert!(is_one_step(&lines, -3600.0), "{lines:#?}");
    // The right time again: the deadline is past, and whoever asks hears what it decided.
    clock.set("+0");
    let id = asked.1["callback_id"].as_str().expect("the id of the question").to_owned();
    eventually(PATIENCE, "the decision of the deadline", || async {
        let reply = api.wait(&id, 1).await;
        (reply.status == 200 && reply.body["status"] == "timed_out").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_is_set_forward_a_minute_ends_questions_early_and_the_log_says_so() {
    let clock = WallClock::new();
    let redis = RedisServer::start_at(&clock).await;
    let node = Node::builder().redis(&redis).start().await;
    let api = node.api();
    let setting = async {
        node.wait_for_metric("countersign_waits", "", 1.0).await;
        clock.set("+60");
        Instant::now()
    };
    let ((status, body, took), set_at) = tokio::join!(notify(&api, "t", 50.0), setting);
    assert_eq!((status, &body["status"], &body["proceed"]), (200, &json!("timed_out"), &json!(false)), "{body}");
    assert!(set_at.elapsed() < Duration::from_secs(10) && took < Duration::from_secs(40), "{took:?}");
    eventually(PATIENCE, "a line about the clock", || async { (!set_lines(&node).is_empty()).then_some(()) }).await;
    // Both connections to Redis have looked since, and the clock goes on from there.
    let looked = node.metric("countersign_backplane_seconds_count", "").await;
    eventually(PATIENCE, "more looks", || async {
        (node.metric("countersign_backplane_seconds_count", "").await > looked + 10.0).then_some(())
    })
    .await;
    let lines = set_lines(&node);
    assert!(is_one_step(&lines, 60.0), "{lines:#?}");
    assert_eq!(node.readiness().await, 200);
}

#[tokio::test]
async fn an_embedded_backplane_counts_the_time_that_passes() {
    let clock = WallClock::new();
    let node = clock.environment().into_iter().fold(Node::builder(), |node, (name, value)| node.env(name, value));
    let node = node.start().await;
    let mut alice = Device::of_user(&node.ws_url(), "alice").await;
    let api = node.api();
    for by in ["+60", "-60", "+0"] {
        let setting = async {
            node.wait_for_metric("countersign_waits", "", 1.0).await;
            let before = pong(&mut alice).await;
            clock.set(by);
            // The node's own log shows that its wall clock has jumped.
            node.wait_for_wall_clock(by.parse().expect("seconds")).await;
            (before, pong(&mut alice).await)
        };
        let ((status, body, took), (before, after)) = tokio::join!(notify(&api, by, 2.0), setting);
        assert_eq!((status, &body["status"]), (200, &json!("timed_out")), "{by}: {body}");
        assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(2) + PAST_DEADLINE, "{by}: {took:?}");
        assert!((0.0..20.0).contains(&(after - before)), "{by}: what it tells has jumped by {} s", after - before);
    }
}

/// What time the node tells.
async fn pong(device: &mut Device) -> f64 {
    device.send(json!({"action": "ping"})).await;
    device.expect_type("pong").await["timestamp"].as_f64().expect("a time")
}

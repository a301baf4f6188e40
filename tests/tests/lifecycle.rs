//! Starting, stopping, and being replaced under load.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use harness::{Api, Cluster, Device, Node, PATIENCE, callback_id, eventually};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn a_node_that_is_told_to_stop_sends_everybody_on_and_exits_with_0() {
    let cluster = Cluster::builder(2).env("DRAIN_TIMEOUT", "5").start().await;
    let mut alice = cluster.device(0, "alice").await;
    let leaving = cluster.api(0);
    let asking = leaving.notify("alice", "t1", "", json!({}));
    let stopping = async {
        alice.expect_type("task_step_result").await;
        cluster.node(0).terminate();
    };
    let (reply, ()) = tokio::join!(asking, stopping);
    assert!(!reply.header("retry-after").is_empty(), "{reply:?}");
    let pending = reply.expect_status(202);
    assert_eq!(pending["status"], "pending");

    let closed = alice.closed().await;
    assert!([1012, 1001].contains(&closed.code), "come back: {closed:?}");
    assert_eq!(cluster.node(0).wait_exit(Cluster::drain_deadline()).await, Some(0));

    let mut alice = cluster.balanced_device("alice").await;
    let id = callback_id(&pending);
    let balanced = cluster.balanced_api();
    let (answer, _) = tokio::join!(balanced.wait(&id, 20), alice.confirm(&id, true));
    assert_eq!(answer.expect_status(200)["status"], "confirmed");
}

#[tokio::test]
async fn a_second_signal_ends_a_node_at_once() {
    let node = Node::builder().env("DRAIN_DELAY", "100").env("DRAIN_TIMEOUT", "200").start().await;
    node.terminate();
    node.wait_for_readiness(503).await;
    assert_eq!(node.process().exit_code(), None, "it is within its DRAIN_DELAY");
    node.terminate();
    node.wait_exit(PATIENCE).await;
}

#[tokio::test]
async fn metrics_can_be_read_and_count() {
    let node = Node::builder().start().await;
    let text = node.api().get("/metrics").await;
    let mut typed = BTreeSet::new();
    let mut samples = 0;
    for line in text.text().lines().filter(|line| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix("# TYPE ") {
            typed.extend(comment.split(' ').next());
        } else if !line.starts_with('#') {
            let (sample, value) = line.rsplit_once(' ').expect("a sample has a value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let name = sample.split('{').next().unwrap_or_default();
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
            assert!(typed.contains(name) || family.is_some_and(|family| typed.contains(family)), "no TYPE: {line}");
            samples += 1;
        }
    }
    assert!(samples > 20, "{}", text.text());

    let alice = Device::of_user(&node.ws_url(), "alice").await;
    let _bob = Device::of_user(&node.ws_url(), "bob").await;
    node.wait_for_metric("countersign_connections", "", 2.0).await;
    alice.close().await;
    node.wait_for_metric("countersign_connections", "", 1.0).await;
}

#[tokio::test]
async fn the_status_tells_of_this_node_and_of_the_cluster() {
    let cluster = Cluster::start(2).await;
    let _alice = cluster.device(0, "alice").await;
    cluster.api(0).ask("alice", "t1", json!({})).await;
    eventually(PATIENCE, "a status with one connection, one open callback and two nodes", || async {
        let status = cluster.api(0).get("/v1/status").await.expect_status(200);
        for field in ["running", "status", "active_connections", "pending_callbacks", "metrics", "timestamp"] {
            assert!(!status[field].is_null(), "{field}: {status}");
        }
        let text = status.to_string();
        let both = text.contains("node-1") && text.contains("node-2");
        (both && status["active_connections"] == 1 && status["pending_callbacks"] == 1).then_some(())
    })
    .await;
}

// --- a deploy under load -----------------------------------------------------------------------------------

const DECISIONS_BEFORE_EACH: usize = 12;

/// What the worker of one task has been told: step → the callback that was asked, and its decision.
type Ledger = BTreeMap<u64, (String, Value)>;

/// Asks step after step through nginx until told to stop, as an SDK does: repeats on 202, 503 and a cut
/// connection with the same key or id.
async fn work(api: Api, task: &str, stop: &AtomicBool, decided: &AtomicUsize) -> Ledger {
    let mut ledger = Ledger::new();
    for step in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let body = json!({
            "user_id": "alice", "task_id": task, "step": step, "idempotency_key": format!("{task}-{step}"),
            "step_result": {"step": "s", "message": "go on?", "status": "completed", "completed": true},
        });
        let what = format!("the answer to step {step} of {task}");
        let decision = eventually(Duration::from_secs(60), &what, || async {
            let reply = api.try_send(Method::POST, "/v1/notifications?wait=5", &[], Some(&body)).await;
            let reply = reply.ok()?;
            assert!([200, 202, 503].contains(&reply.status), "{reply:?}");
            (reply.status == 200).then_some(reply.body)
        })
        .await;
        ledger.insert(step, (callback_id(&decision), decision));
        decided.fetch_add(1, Ordering::Relaxed);
    }
    ledger
}

/// Which callbacks were shown for each step of each task.
type Shown = BTreeMap<(String, u64), BTreeSet<String>>;

/// Answers everything that is asked, and comes back whenever the connection ends; for ever.
async fn answer(url: &str, shown: &mut Shown) -> Infallible {
    loop {
        let url = format!("{url}?user_id=alice");
        let mut device = eventually(PATIENCE, "a connection", || async { Device::dial(&url, &[]).await.ok() }).await;
        while let Some(message) = device.next().await {
            if message["type"] != "task_step_result" {
                continue;
            }
            let id = callback_id(&message);
            let task = message["task_id"].as_str().unwrap_or_default().to_owned();
            let step = message["step"].as_u64().unwrap_or_default();
            let answer = json!({
                "action": "confirm", "callback_id": id, "proceed": true, "feedback": step.to_string(),
                "answer_id": format!("answer-{id}"),
            });
            device.send(answer).await;
            shown.entry((task, step)).or_default().insert(id);
        }
    }
}

#[tokio::test]
async fn a_rolling_restart_under_load_loses_and_doubles_no_decision() {
    let mut cluster = Cluster::builder(3).env("DRAIN_TIMEOUT", "5").start().await;
    let (stop, decided) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (api, url) = (cluster.balanced_api(), cluster.nginx().ws_url());
    let mut shown = Shown::new();

    let deploy = async {
        for index in 0..3 {
            // Nodes come and go within a second: each finds work under way, however slow the machine is.
            let wanted = decided.load(Ordering::Relaxed) + DECISIONS_BEFORE_EACH;
            let under_way = || async { (decided.load(Ordering::Relaxed) >= wanted).then_some(()) };
            eventually(PATIENCE * 2, "decisions before the next node leaves", under_way).await;
            cluster.node(index).terminate();
            assert_eq!(cluster.node(index).wait_exit(Cluster::drain_deadline()).await, Some(0));
            cluster.restart_node(index).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let deploy_under_load = async {
        tokio::join!(
            deploy,
            work(api.clone(), "t1", &stop, &decided),
            work(api.clone(), "t2", &stop, &decided),
            work(api, "t3", &stop, &decided)
        )
    };
    let ((), first, second, third) = tokio::select! {
        never = answer(&url, &mut shown) => match never {},
        ledgers = deploy_under_load => ledgers,
    };

    let mut decisions = 0;
    for (task, ledger) in [("t1", first), ("t2", second), ("t3", third)] {
        for (step, (id, decision)) in &ledger {
            assert_eq!(decision["status"], "confirmed", "{task} {step}: {decision}");
            assert_eq!(decision["feedback"], step.to_string(), "the answer to this very step: {decision}");
            let asked = shown.get(&(task.to_owned(), *step)).cloned().unwrap_or_default();
            assert_eq!(asked, BTreeSet::from([id.clone()]), "{task} {step}: asked exactly once");
            decisions += 1;
        }
    }
    assert!(decisions >= 3 * DECISIONS_BEFORE_EACH, "only {decisions} decisions: this was no load");
}

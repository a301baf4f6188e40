//! Redis dies, stands still and forgets; what it has not forgotten is answered once, and nothing else is ever answered.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use harness::audit::print_figures;
use harness::{Cluster, Storm, callback_id, fault_lasts};
use serde_json::{Value, json};

/// The same storm around every fault of Redis, straight to the nodes; every node is ready again when it returns.
async fn weathers(scenario: &str, fault: impl AsyncFnOnce(&mut Cluster)) {
    let mut cluster = Cluster::start(3).await;
    // What was acknowledged is on disk: whatever is lost, we have lost it.
    let _: () = cluster.redis().query(&["CONFIG", "SET", "appendfsync", "always"]).await;
    let storm = Storm::straight_to(&cluster, &[0, 1, 2], &[1, 2], &[2, 0]);
    let questions = storm.questions();
    let report = storm
        .around(&mut cluster, async |cluster, notebook| {
            // A node tries this long to write a question down; every wait for one that is known has its second.
            notebook.putting_may_take(3.0);
            fault(cluster).await;
            for node in cluster.nodes() {
                node.wait_for_readiness(200).await;
            }
        })
        .await;
    let figures = Storm::expect_weathered(report, questions, scenario);
    assert_eq!(figures.cut, 0, "the nodes answered all the time: {figures:?}");
}

#[tokio::test]
async fn redis_killed_and_started_again_with_its_data_loses_nothing() {
    weathers("kill -9 of Redis, back after 3 s", async |cluster| {
        cluster.redis_mut().kill();
        fault_lasts(Duration::from_secs(3)).await;
        cluster.redis_mut().restart().await;
    })
    .await;
}

#[tokio::test]
async fn redis_killed_and_started_again_at_once_loses_nothing() {
    weathers("kill -9 of Redis, back at once", async |cluster| cluster.redis_mut().restart().await).await;
}

#[tokio::test]
async fn redis_that_pauses_its_clients_for_two_seconds_loses_nothing() {
    weathers("CLIENT PAUSE 2 s", async |cluster| pause_clients(cluster, 2).await).await;
}

#[tokio::test]
async fn redis_that_pauses_its_clients_for_five_seconds_loses_nothing() {
    weathers("CLIENT PAUSE 5 s", async |cluster| pause_clients(cluster, 5).await).await;
}

async fn pause_clients(cluster: &Cluster, seconds: u64) {
    let _: () = cluster.redis().query(&["CLIENT", "PAUSE", &(seconds * 1000).to_string(), "ALL"]).await;
    fault_lasts(Duration::from_secs(seconds)).await;
}

#[tokio::test]
async fn redis_that_stands_still_for_two_seconds_loses_nothing() {
    weathers("SIGSTOP of Redis, 2 s", async |cluster| stand_still(cluster, 2).await).await;
}

#[tokio::test]
async fn redis_that_stands_still_for_four_seconds_loses_nothing() {
    weathers("SIGSTOP of Redis, 4 s", async |cluster| stand_still(cluster, 4).await).await;
}

async fn stand_still(cluster: &Cluster, seconds: u64) {
    cluster.redis().pause();
    fault_lasts(Duration::from_secs(seconds)).await;
    cluster.redis().resume();
}

/// Waits for six callbacks are held, three put with a key and three by id, when Redis forgets everything.
async fn forgets(scenario: &str, fault: impl AsyncFnOnce(&mut Cluster)) {
    let mut cluster = Cluster::start(2).await;
    let mut alice = cluster.device(1, "alice").await;
    let api = cluster.api(0);
    let keys: Vec<String> = (0..6).map(|number| format!("key-{number}")).collect();
    let mut ids = Vec::new();
    for key in &keys {
        let more = json!({"idempotency_key": key, "timeout": 60, "on_timeout": "proceed"});
        ids.push(api.ask("alice", key, more).await);
    }
    let waits = join_all(ids.iter().zip(&keys).enumerate().map(|(number, (id, key))| {
        let api = api.clone();
        async move {
            if number % 2 == 0 {
                api.wait(id, 30).await
            } else {
                let more = json!({"idempotency_key": key, "timeout": 60, "on_timeout": "proceed"});
                api.notify("alice", key, "", more).await
            }
        }
    }));
    let forgetting = async {
        cluster.node(0).wait_for_metric("countersign_waits", "", 6.0).await;
        fault(&mut cluster).await;
        let begun = Instant::now();
        cluster.node(0).wait_for_metric("countersign_waits", "", 0.0).await;
        begun.elapsed()
    };
    let (ends, took) = tokio::join!(waits, forgetting);
    for end in &ends {
        assert!([404, 503].contains(&end.status), "a plain failure: {end:?}");
        assert!(end.body["proceed"].is_null(), "never a decision, least of all to go on: {end:?}");
    }
    for node in cluster.nodes() {
        node.wait_for_readiness(200).await;
    }
    for id in &ids {
        let late = alice.confirm(id, true).await;
        assert_eq!((&late["type"], &late["reason"]), (&json!("confirmation_rejected"), &json!("not_found")), "{late}");
        let read = cluster.api(1).wait(id, 5).await;
        assert_eq!(read.status, 404, "{read:?}");
    }
    // Life goes on: the same key asks again, as nobody remembers it.
    cluster.redis().wait_for_listeners("cs:user:alice", 1).await;
    let asking = cluster.api(0);
    let asking = asking.notify("alice", "key-0", "", json!({"idempotency_key": "key-0", "timeout": 60}));
    let answering = async {
        let again = |m: &Value| m["type"] == "task_step_result" && !ids.contains(&callback_id(m));
        let question = alice.wait_for("new question", again).await;
        alice.confirm(&callback_id(&question), true).await
    };
    let (answer, _) = tokio::join!(asking, answering);
    assert_eq!(answer.expect_status(200)["status"], "confirmed");
    let not_found = ends.iter().filter(|end| end.status == 404).count();
    let unknown = ends.len() - not_found;
    print_figures(
        scenario,
        format!(
            "waits {}, ended 404 {not_found}, 503 {unknown}, proceed 0, within {took:.1?}; late answers {}, not_found {}",
            ends.len(),
            ids.len(),
            ids.len()
        ),
    );
}

#[tokio::test]
async fn after_a_flush_waits_fail_plainly_and_late_answers_find_nothing() {
    forgets("FLUSHALL", async |cluster| {
        let _: () = cluster.redis().query(&["FLUSHALL"]).await;
    })
    .await;
}

#[tokio::test]
async fn after_a_restart_without_data_waits_fail_plainly_and_late_answers_find_nothing() {
    forgets("Redis restarted empty", async |cluster| cluster.redis_mut().restart_empty().await).await;
}

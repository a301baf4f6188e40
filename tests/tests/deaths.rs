//! Nodes are killed and stand still; no answer is lost, nobody is asked twice, every wait ends in time.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use std::time::Duration;

use futures_util::future::join_all;
use harness::audit::Violation;
use harness::history::now;
use harness::{Cluster, PATIENCE, Storm, callback_id, eventually, fault_lasts};
use serde_json::json;

/// The faults here last longer than the questions that nobody answers.
const FAULT: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_killed_node_of_the_callers_takes_nothing_with_it() {
    let mut cluster = Cluster::start(3).await;
    let storm = Storm::straight_to(&cluster, &[0, 1, 2], &[1, 2], &[2, 1]);
    let questions = storm.questions();
    let report = storm.around(&mut cluster, async |cluster, _| cluster.node(0).kill()).await;
    let figures = Storm::expect_weathered(report, questions, "kill -9 of the asking node");
    assert!(figures.cut >= 2 * questions, "every caller was cut off: {figures:?}");
}

#[tokio::test]
async fn a_killed_node_of_the_people_takes_nothing_with_it() {
    let mut cluster = Cluster::start(3).await;
    let storm = Storm::straight_to(&cluster, &[1, 2], &[0, 1, 2], &[0, 2, 1]);
    let questions = storm.questions();
    let report = storm.around(&mut cluster, async |cluster, _| cluster.node(0).kill()).await;
    Storm::expect_weathered(report, questions, "kill -9 of the person's node");
}

#[tokio::test]
async fn with_all_nodes_killed_and_started_again_nothing_is_lost() {
    let mut cluster = Cluster::start(3).await;
    let storm = Storm::through_nginx(&cluster);
    let questions = storm.questions();
    let report = storm
        .around(&mut cluster, async |cluster, _| {
            for node in cluster.nodes() {
                node.kill();
            }
            fault_lasts(FAULT).await;
            for index in 0..3 {
                cluster.restart_node(index).await;
            }
        })
        .await;
    let figures = Storm::expect_weathered(report, questions, "kill -9 of all nodes");
    assert!(figures.unknown + figures.cut >= 2 * questions, "every caller was cut off: {figures:?}");
}

#[tokio::test]
async fn a_node_that_stands_still_holds_nobody_up_who_asks_again_elsewhere() {
    let mut cluster = Cluster::start(3).await;
    let mut storm = Storm::straight_to(&cluster, &[0, 1, 2], &[0, 1, 2], &[1, 2]);
    storm.gives_up = Duration::from_millis(2_500);
    let questions = storm.questions();
    let report = storm
        .around(&mut cluster, async |cluster, notebook| {
            let from = now();
            cluster.node(0).pause();
            fault_lasts(FAULT).await;
            cluster.node(0).resume();
            cluster.node(0).wait_for_readiness(200).await;
            notebook.stood_still(&cluster.node(0).url(), from);
        })
        .await;
    let figures = Storm::expect_weathered(report, questions, "SIGSTOP of a node, 3 s");
    assert!(figures.cut >= 2 * questions, "every caller went elsewhere: {figures:?}");
}

#[tokio::test]
async fn a_wait_that_a_node_ends_too_late_is_noticed() {
    let mut cluster = Cluster::start(1).await;
    let storm = Storm { users: 2, each: 1, ..Storm::straight_to(&cluster, &[0], &[0], &[0]) };
    let report = storm
        .around(&mut cluster, async |cluster, _| {
            cluster.node(0).pause();
            fault_lasts(FAULT).await;
            cluster.node(0).resume();
            // Nobody writes down that it stood still.
        })
        .await;
    assert!(report.count(|violation| matches!(violation, Violation::LateWait(..))) > 0, "{report}");
}

#[tokio::test]
async fn callers_that_hang_up_leave_nothing_behind_but_their_questions() {
    const CALLERS: usize = 60;
    let cluster = Cluster::start(2).await;
    let mut alice = cluster.device(1, "alice").await;
    let node = cluster.node(0);
    let ids = {
        let api = cluster.api(0);
        let asks = (0..CALLERS).map(|number| {
            let (api, task) = (api.clone(), format!("t{number}"));
            async move { api.notify("alice", &task, "", json!({})).await }
        });
        let everybody = join_all(asks);
        tokio::pin!(everybody);
        let asked = async {
            let mut ids = Vec::new();
            for _ in 0..CALLERS {
                ids.push(callback_id(&alice.expect_type("task_step_result").await));
            }
            node.wait_for_metric("countersign_waits", "", 60.0).await;
            ids
        };
        tokio::select! {
            replies = &mut everybody => panic!("nobody has answered: {replies:?}"),
            ids = asked => ids,
        }
        // Everybody hangs up here.
    };
    node.wait_for_metric("countersign_waits", "", 0.0).await;
    eventually(PATIENCE, "no channel of an answer", || async {
        let channels: Vec<String> = cluster.redis().query(&["PUBSUB", "CHANNELS", "cs:answer:*"]).await;
        channels.is_empty().then_some(())
    })
    .await;
    for id in &ids {
        assert_eq!(cluster.api(1).get(&format!("/v1/callbacks/{id}")).await.expect_status(202)["status"], "pending");
        assert_eq!(alice.confirm(id, true).await["type"], "confirmation_accepted");
        assert_eq!(cluster.api(0).wait(id, 5).await.expect_status(200)["status"], "confirmed");
    }
    println!("callers {CALLERS}, hung up {CALLERS}; waits left 0, channels left 0; answered afterwards {}", ids.len());
}

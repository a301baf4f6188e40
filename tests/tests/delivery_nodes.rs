//! Nodes are killed, stand still and are replaced, and the balancer before them reloads, while messages flow by the
//! thousand: with history nothing is lost, nothing comes twice, nothing comes out of order, and nobody is told of a gap.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use std::time::Duration;

use harness::audit::print_figures;
use harness::{Api, Cluster, PATIENCE, Traffic, eventually, fault_lasts};
use serde_json::json;
use tokio::task::JoinSet;

/// So many readers of one topic through nginx, and so many messages a second to it.
async fn crowd(cluster: &Cluster, readers: usize, per_second: u32) -> Traffic {
    crowd_beside(cluster, readers, per_second, &[cluster.balanced_api()]).await
}

/// The same with a producer of its own ways.
async fn crowd_beside(cluster: &Cluster, readers: usize, per_second: u32, doors: &[Api]) -> Traffic {
    let mut traffic = Traffic::new();
    traffic.watch(cluster.nodes());
    let url = [cluster.nginx().ws_url()];
    for number in 0..readers {
        let name = format!("reader-{number}");
        let reader = traffic.reader(&name, Some(&name), &["room:1"], &url);
        traffic.add(reader);
    }
    traffic.joined().await;
    traffic.publish("room:1", doors, per_second, 0);
    traffic.flowing(10).await;
    traffic
}

fn cluster_with_history() -> harness::ClusterBuilder {
    Cluster::builder(3).env("HISTORY_SIZE", "2000")
}

#[tokio::test]
async fn a_node_that_stands_still_delays_its_readers_and_loses_nothing() {
    let mut cluster = cluster_with_history().start().await;
    let traffic = Traffic::usual(&cluster).await;
    let report = traffic
        .around(&mut cluster, async |cluster| {
            cluster.node(0).pause();
            fault_lasts(Duration::from_secs(3)).await;
            cluster.node(0).resume();
            cluster.node(0).wait_for_readiness(200).await;
        })
        .await;
    report.expect_complete("SIGSTOP of a node, 3 s");
}

#[tokio::test]
async fn a_node_killed_under_a_thousand_deliveries_a_second_loses_no_message() {
    let mut cluster = cluster_with_history().start().await;
    let traffic = crowd(&cluster, 20, 50).await;
    let report = traffic
        .around(&mut cluster, async |cluster| {
            cluster.node(0).kill();
            fault_lasts(Duration::from_secs(1)).await;
            cluster.restart_node(0).await;
        })
        .await;
    let figures = report.expect_complete("kill -9 of a node, 1,000 deliveries/s");
    let cut: usize = figures.cuts.values().sum();
    assert!(cut >= 4, "some were on it: {figures:?}");
}

#[tokio::test]
async fn with_all_nodes_killed_and_started_again_everybody_is_let_in_again() {
    const READERS: u32 = 60;
    let mut cluster = cluster_with_history().start().await;
    // Nothing but streams through nginx: it has no short request from which to learn that a node is well again.
    let doors = [cluster.api(0), cluster.api(1), cluster.api(2)];
    let traffic = crowd_beside(&cluster, 60, 10, &doors).await;
    let report = traffic
        .around(&mut cluster, async |cluster| {
            for node in cluster.nodes() {
                node.kill();
            }
            // Until the balancer knows that they are gone.
            fault_lasts(Duration::from_secs(1)).await;
            for index in 0..3 {
                cluster.restart_node(index).await;
            }
            eventually(PATIENCE, "everybody back", || async {
                let mut connections = 0.0;
                for node in cluster.nodes() {
                    connections += node.metric("countersign_connections", "").await;
                }
                (connections >= f64::from(READERS)).then_some(())
            })
            .await;
        })
        .await;
    report.expect_complete("kill -9 of all nodes, 60 readers");
}

#[tokio::test]
async fn with_all_nodes_killed_and_started_again_callers_who_wait_are_let_in_again() {
    const CALLERS: u32 = 60;
    let mut cluster = Cluster::start(3).await;
    let api = cluster.balanced_api();
    for node in cluster.nodes() {
        node.kill();
    }
    // The balancer hears of each node that it is gone.
    for _ in 0..3 {
        assert_eq!(api.notify("alice", "nobody", "?wait=0", json!({})).await.status, 503);
        assert_eq!(api.get("/v1/status").await.status, 503);
    }
    for index in 0..3 {
        cluster.restart_node(index).await;
    }
    let mut callers = JoinSet::new();
    for number in 0..CALLERS {
        let api = cluster.balanced_api();
        callers.spawn(async move {
            let (task, key) = (format!("t{number}"), json!({"idempotency_key": format!("k{number}")}));
            // Nobody answers: whoever is let in stays in.
            eventually(PATIENCE, "a node", || async {
                let reply = api.notify("alice", &task, "?wait=60", key.clone()).await;
                (reply.status != 503).then_some(())
            })
            .await;
        });
    }
    cluster.node(0).wait_for_metric("countersign_callbacks_open", "", f64::from(CALLERS)).await;
}

#[tokio::test]
async fn nginx_that_reloads_under_load_cuts_nobody_and_loses_nothing() {
    let mut cluster = cluster_with_history().start().await;
    let traffic = crowd(&cluster, 10, 50).await;
    let report = traffic
        .around(&mut cluster, async |cluster| {
            for _ in 0..3 {
                cluster.nginx().reload();
                fault_lasts(Duration::from_millis(500)).await;
            }
        })
        .await;
    let figures = report.expect_complete("nginx reloaded 3 times");
    assert!(figures.cuts.is_empty(), "connections stay with the workers that have them: {figures:?}");
    assert!(cluster.nginx().workers() > 2, "the reloads took place: {} workers", cluster.nginx().workers());
}

#[tokio::test]
async fn nginx_that_is_restarted_cuts_everybody_and_loses_nothing() {
    let mut cluster = cluster_with_history().start().await;
    let traffic = crowd(&cluster, 10, 50).await;
    let report = traffic.around(&mut cluster, async |cluster| cluster.nginx_mut().restart().await).await;
    let figures = report.expect_complete("nginx restarted");
    assert_eq!(figures.cuts.values().sum::<usize>(), 10, "everybody: {figures:?}");
}

#[tokio::test]
async fn a_rolling_restart_under_ten_thousand_deliveries_a_second_loses_and_doubles_no_message() {
    let mut cluster = cluster_with_history().env("DRAIN_TIMEOUT", "5").start().await;
    let mut traffic = crowd(&cluster, 200, 50).await;
    traffic
        .fault(async |traffic| {
            for index in 0..3 {
                cluster.node(index).terminate();
                // The load goes on while it leaves, while it is away, and when it is back.
                traffic.accepted(10).await;
                assert_eq!(cluster.node(index).wait_exit(Cluster::drain_deadline()).await, Some(0));
                traffic.accepted(10).await;
                cluster.restart_node(index).await;
                traffic.accepted(30).await;
            }
        })
        .await;
    let figures = traffic.over().await.expect_complete("rolling restart of 3 nodes, 200 readers of 50 messages/s");
    assert!(figures.cuts.values().sum::<usize>() >= 200, "everybody had to move: {figures:?}");
    assert!(figures.cuts.keys().all(|code| [1001, 1012].contains(code)), "and was told so politely: {figures:?}");
    print_figures("rolling restart", format!("cuts by code {:?}", figures.cuts));
}

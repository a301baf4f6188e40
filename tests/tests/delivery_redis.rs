//! Redis restarts, cuts, pauses and stands still, and the network to it goes dark, while messages flow: nothing is lost
//! without a word, nothing comes twice, nothing comes out of order.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use std::time::Duration;

use harness::audit::print_figures;
use harness::delivery::Figures;
use harness::{Cluster, Node, RedisServer, TcpProxy, Traffic, fault_lasts};

/// The node's probe is sent once a second and waited for three (`backplane/src/redis/probe.rs`): a node that is deaf says
/// so within that, and what a busy machine adds.
const PROBE: f64 = 4.0 + 1.5;

/// A cluster whose history has room for every message of such a scenario.
async fn cluster(nodes: usize) -> Cluster {
    let cluster = Cluster::builder(nodes).env("HISTORY_SIZE", "2000").start().await;
    // What was acknowledged is on disk: whatever is lost, we have lost it.
    let _: () = cluster.redis().query(&["CONFIG", "SET", "appendfsync", "always"]).await;
    cluster
}

async fn all_ready(cluster: &Cluster) {
    for node in cluster.nodes() {
        node.wait_for_readiness(200).await;
    }
}

#[tokio::test]
async fn redis_restarted_with_its_data_loses_no_message_without_a_word() {
    let mut cluster = cluster(3).await;
    let traffic = Traffic::usual(&cluster).await;
    let report = traffic
        .around(&mut cluster, async |cluster| {
            cluster.redis_mut().restart().await;
            all_ready(cluster).await;
        })
        .await;
    report.expect_kept("Redis restarted with its data");
}

#[tokio::test]
async fn redis_restarted_empty_is_told_to_every_reader_of_every_address() {
    let mut cluster = cluster(3).await;
    let traffic = Traffic::usual(&cluster).await;
    let report = traffic
        .around(&mut cluster, async |cluster| {
            cluster.redis_mut().restart_empty().await;
            all_ready(cluster).await;
        })
        .await;
    let figures = report.expect_kept("Redis restarted without data");
    // Nine readers; three addresses for alice's six, two that are published to for bob's three.
    assert!(figures.told >= 6 * 3 + 3 * 2, "everybody is told of every address: {figures:?}");
}

#[tokio::test]
async fn subscribers_killed_again_and_again_miss_nothing() {
    let mut cluster = cluster(3).await;
    let traffic = Traffic::usual(&cluster).await;
    let report = traffic
        .around(&mut cluster, async |cluster| {
            for _ in 0..8 {
                let _: u64 = cluster.redis().query(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
                fault_lasts(Duration::from_millis(250)).await;
            }
            all_ready(cluster).await;
        })
        .await;
    report.expect_complete("CLIENT KILL TYPE pubsub, 8 times");
    for node in cluster.nodes() {
        assert!(node.metric("countersign_subscriber_connects_total", "").await >= 3.0);
    }
}

#[tokio::test]
async fn subscribers_that_redis_cuts_for_their_full_buffers_miss_nothing() {
    let mut cluster = cluster(2).await;
    let traffic = Traffic::usual(&cluster).await;
    let limit = async |cluster: &Cluster, limit: &str| {
        let _: () = cluster.redis().query(&["CONFIG", "SET", "client-output-buffer-limit", limit]).await;
    };
    let ledger = traffic.ledger().clone();
    let report = traffic
        .around(&mut cluster, async |cluster| {
            // Less than one message of the burst: whoever is to hear it is cut.
            limit(cluster, "pubsub 16kb 16kb 0").await;
            let doors = [cluster.api(0), cluster.api(1)];
            Traffic::writing_into(&ledger).burst("user:bob", &doors, 8, 30_000).await;
            limit(cluster, "pubsub 256mb 64mb 60").await;
            all_ready(cluster).await;
        })
        .await;
    report.expect_complete("client-output-buffer-limit pubsub 16kb, a burst of 30 kB messages");
}

#[tokio::test]
async fn redis_that_pauses_its_clients_delays_messages_and_loses_none() {
    let mut cluster = cluster(3).await;
    let traffic = Traffic::usual(&cluster).await;
    let report = traffic
        .around(&mut cluster, async |cluster| {
            let _: () = cluster.redis().query(&["CLIENT", "PAUSE", "3000", "ALL"]).await;
            fault_lasts(Duration::from_secs(3)).await;
            all_ready(cluster).await;
        })
        .await;
    report.expect_complete("CLIENT PAUSE 3 s");
}

#[tokio::test]
async fn redis_that_stands_still_delays_messages_and_loses_none() {
    let mut cluster = cluster(3).await;
    let traffic = Traffic::usual(&cluster).await;
    let report = traffic
        .around(&mut cluster, async |cluster| {
            cluster.redis().pause();
            fault_lasts(Duration::from_secs(4)).await;
            cluster.redis().resume();
            all_ready(cluster).await;
        })
        .await;
    report.expect_complete("SIGSTOP of Redis, 4 s");
}

#[tokio::test]
async fn what_redis_forgot_before_a_node_heard_it_is_told_to_the_readers_there() {
    let mut redis = RedisServer::start().await;
    let proxy = TcpProxy::to(redis.address()).await;
    let node = |url: String| Node::builder().env("REDIS_URL", url).env("HISTORY_SIZE", "2000").start();
    let nodes = [node(format!("redis://{}/0", proxy.address())).await, node(redis.url()).await];
    let mut traffic = Traffic::new();
    traffic.watch(&nodes);
    for (name, node) in ["deaf", "hearing"].iter().zip(&nodes) {
        let reader = traffic.reader(name, Some("alice"), &["room:1"], &[node.ws_url()]);
        traffic.add(reader);
    }
    traffic.joined().await;
    traffic.publish("room:1", &[nodes[1].api()], 50, 0);
    traffic.flowing(3).await;
    traffic
        .fault(async |traffic| {
            proxy.cut();
            // Some that the one node hears and the other does not.
            traffic.accepted(5).await;
            redis.restart_empty().await;
            proxy.resume();
            for node in &nodes {
                node.wait_for_readiness(200).await;
            }
        })
        .await;
    let figures = traffic.over().await.expect_kept("Redis forgets what one node has not heard");
    assert!(figures.told_lost >= 5, "it was lost, and told: {figures:?}");
}

/// One of two nodes is behind a proxy to Redis, which `goes_dark` until that node is not ready.
async fn dark(scenario: &str, goes_dark: impl FnOnce(&TcpProxy)) -> (Figures, Node) {
    let redis = RedisServer::start().await;
    let proxy = TcpProxy::to(redis.address()).await;
    let node = |url: String| Node::builder().env("REDIS_URL", url).env("HISTORY_SIZE", "2000").start();
    let nodes = [node(format!("redis://{}/0", proxy.address())).await, node(redis.url()).await];
    let mut traffic = Traffic::new();
    traffic.watch(&nodes[..1]);
    for (name, node) in ["dark", "light"].iter().zip(&nodes) {
        let reader = traffic.reader(name, Some("alice"), &["room:1"], &[node.ws_url()]);
        traffic.add(reader);
        traffic.add_sdk(&format!("sdk-{name}"), "alice", &["room:1"], &node.ws_url());
    }
    traffic.joined().await;
    let (dark, light) = (nodes[0].api(), nodes[1].api());
    traffic.publish("room:1", &[dark.clone(), light.clone()], 20, 0);
    traffic.publish("user:alice", &[light], 20, 0);
    traffic.flowing(3).await;
    traffic
        .fault(async |traffic| {
            goes_dark(&proxy);
            traffic.noticed().await;
            nodes[0].wait_for_metric("countersign_link_up", "", 0.0).await;
            proxy.resume();
            nodes[0].wait_for_readiness(200).await;
            nodes[0].wait_for_metric("countersign_link_up", "", 1.0).await;
        })
        .await;
    let figures = traffic.over().await.expect_complete(scenario);
    assert!(figures.unready.is_some_and(|seconds| seconds < PROBE), "the probe finds out: {figures:?}");
    assert_eq!(figures.cuts.len(), 0, "sockets stay: {figures:?}");
    let [dark, _] = nodes;
    (figures, dark)
}

#[tokio::test]
async fn a_subscriber_in_the_dark_is_found_by_the_probe_and_misses_nothing() {
    let (_, node) = dark("subscriber in the dark", TcpProxy::stall_subscribers).await;
    let connects = node.metric("countersign_subscriber_connects_total", "").await;
    print_figures("subscriber in the dark", format!("subscriber connections {connects}"));
    assert!(connects >= 2.0, "a deaf subscription is made anew");
}

#[tokio::test]
async fn command_lanes_in_the_dark_are_found_by_the_probe_and_cost_no_message() {
    let (_, node) = dark("commands in the dark", TcpProxy::stall_commands).await;
    assert!(node.metric("countersign_backplane_errors_total", "").await >= 1.0, "failed commands are counted");
}

#[tokio::test]
async fn a_node_in_the_dark_is_not_ready_and_its_readers_miss_nothing() {
    let (_, node) = dark("node in the dark", TcpProxy::stall).await;
    assert!(node.metric("countersign_backplane_errors_total", "").await >= 1.0, "failed commands are counted");
}

#[tokio::test]
async fn connections_to_redis_that_the_network_has_forgotten_are_made_anew() {
    let (_, node) = dark("connections forgotten", TcpProxy::forget).await;
    assert!(node.metric("countersign_subscriber_connects_total", "").await >= 2.0);
}

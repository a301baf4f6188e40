//! Readers who come and go all the time while something fails: the moments between subscribing, reading the past and hearing
//! what is new are hit again and again, on every node. And what history cannot give back is told.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use std::time::Duration;

use harness::{Cluster, Node, RedisServer, TcpProxy, Traffic, fault_lasts};

const TOPICS: [&str; 4] = ["room:1", "room:2", "room:3", "room:4"];

/// Twelve readers of everything, of whom nine leave after a moment and come back to another node, and one who uses the
/// SDK; messages to everybody, to their user and to four topics.
async fn restless(cluster: &Cluster) -> Traffic {
    let mut traffic = Traffic::new();
    traffic.watch(cluster.nodes());
    for number in 0..12_u8 {
        let first = usize::from(number);
        let urls: Vec<String> = (0..3).map(|turn| cluster.node((first + turn) % 3).ws_url()).collect();
        let reader = traffic.reader(&format!("reader-{number}"), Some("alice"), &TOPICS, &urls);
        traffic.add(if number < 9 {
            reader.restless(Duration::from_millis(40 + 45 * u64::from(number)))
        } else {
            reader
        });
    }
    traffic.add_sdk("sdk", "alice", &TOPICS, &cluster.nginx().ws_url());
    traffic.joined().await;
    let doors = |first: usize| [cluster.api(first % 3), cluster.api((first + 1) % 3), cluster.api((first + 2) % 3)];
    for (number, address) in TOPICS.iter().copied().chain(["broadcast", "user:alice"]).enumerate() {
        traffic.publish(address, &doors(number), 15, 0);
    }
    traffic.flowing(3).await;
    traffic
}

async fn weathers(history: &str, fault: impl AsyncFnOnce(&mut Cluster)) -> harness::delivery::Report {
    let mut cluster = Cluster::builder(3).env("HISTORY_SIZE", history).start().await;
    let traffic = restless(&cluster).await;
    traffic
        .around(&mut cluster, async |cluster| {
            fault(cluster).await;
            for node in cluster.nodes() {
                node.wait_for_readiness(200).await;
            }
        })
        .await
}

async fn kill_subscribers(cluster: &Cluster, times: u32) {
    for _ in 0..times {
        let _: u64 = cluster.redis().query(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        fault_lasts(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn readers_who_come_and_go_miss_nothing() {
    let report = weathers("2000", async |_| fault_lasts(Duration::from_secs(2)).await).await;
    let figures = report.expect_complete("readers come and go");
    assert!(figures.cuts.values().sum::<usize>() > 20, "they came and went: {figures:?}");
}

#[tokio::test]
async fn readers_who_come_and_go_miss_nothing_while_subscribers_are_killed() {
    let report = weathers("2000", async |cluster| kill_subscribers(cluster, 10).await).await;
    report.expect_complete("readers come and go, CLIENT KILL TYPE pubsub 10 times");
}

#[tokio::test]
async fn readers_who_come_and_go_miss_nothing_while_every_connection_to_redis_is_killed() {
    let report = weathers("2000", async |cluster| {
        for _ in 0..6 {
            let _: u64 = cluster.redis().query(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
            let _: u64 = cluster.redis().query(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
            fault_lasts(Duration::from_millis(250)).await;
        }
    })
    .await;
    report.expect_complete("readers come and go, every client of Redis killed 6 times");
}

#[tokio::test]
async fn readers_who_come_and_go_are_told_what_a_flush_took() {
    let report = weathers("2000", async |cluster| {
        for _ in 0..4 {
            let _: () = cluster.redis().query(&["FLUSHALL"]).await;
            fault_lasts(Duration::from_millis(400)).await;
        }
    })
    .await;
    let figures = report.expect_kept("readers come and go, FLUSHALL 4 times");
    assert!(figures.told > 0, "a foreign epoch is told: {figures:?}");
}

#[tokio::test]
async fn without_history_every_interruption_is_told() {
    let report = weathers("0", async |cluster| kill_subscribers(cluster, 4).await).await;
    let figures = report.expect_kept("no history, CLIENT KILL TYPE pubsub 4 times");
    assert!(figures.told >= 13 * 6, "each of 13 readers, of each of 6 addresses: {figures:?}");
}

#[tokio::test]
async fn what_history_has_no_room_for_is_told() {
    let report = weathers("5", async |cluster| kill_subscribers(cluster, 6).await).await;
    let figures = report.expect_kept("a history of 5, CLIENT KILL TYPE pubsub 6 times");
    assert!(figures.told > 0, "{figures:?}");
}

/// A node whose way to Redis is `bad` for a while, and readers who come and go there.
async fn bad_way(scenario: &str, bad: impl AsyncFnOnce(&TcpProxy)) -> harness::delivery::Figures {
    let redis = RedisServer::start().await;
    let proxy = TcpProxy::to(redis.address()).await;
    let node = |url: String| Node::builder().env("REDIS_URL", url).env("HISTORY_SIZE", "2000").start();
    let nodes = [node(format!("redis://{}/0", proxy.address())).await, node(redis.url()).await];
    let mut traffic = Traffic::new();
    traffic.watch(&nodes[..1]);
    for number in 0..4_u8 {
        let urls = [nodes[0].ws_url(), nodes[usize::from(number == 0)].ws_url()];
        let reader = traffic.reader(&format!("reader-{number}"), Some("alice"), &["room:1"], &urls);
        traffic.add(if number < 3 {
            reader.restless(Duration::from_millis(60 + 130 * u64::from(number)))
        } else {
            reader
        });
    }
    traffic.joined().await;
    traffic.publish("room:1", &[nodes[1].api()], 40, 0);
    traffic.publish("user:alice", &[nodes[0].api(), nodes[1].api()], 20, 0);
    traffic.flowing(3).await;
    traffic
        .fault(async |_| {
            bad(&proxy).await;
            proxy.resume();
            nodes[0].wait_for_readiness(200).await;
        })
        .await;
    traffic.over().await.expect_complete(scenario)
}

#[tokio::test]
async fn connections_to_redis_that_are_reset_again_and_again_cost_no_message() {
    bad_way("RST between a node and Redis, 8 times", async |proxy| {
        for _ in 0..8 {
            proxy.reset();
            fault_lasts(Duration::from_millis(250)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_long_way_to_redis_delays_messages_and_loses_none() {
    let figures = bad_way("200 ms each way between a node and Redis", async |proxy| {
        proxy.delay(Duration::from_millis(200));
        fault_lasts(Duration::from_secs(3)).await;
    })
    .await;
    assert_eq!(figures.unready, None, "late is not dead: {figures:?}");
}

//! Nodes that should not be neighbours: the same prefix in two databases of one Redis, and one id for two nodes.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use harness::{Node, NodeBuilder, PATIENCE, RedisServer, eventually};
use serde_json::json;

fn in_database(redis: &RedisServer, database: u8) -> NodeBuilder {
    Node::builder().env("REDIS_URL", format!("redis://{}/{database}", redis.address()))
}

/// Lines of warning that contain `text`.
fn warnings(node: &Node, text: &str) -> usize {
    node.process().log().iter().filter(|line| line.contains("WARN") && line.contains(text)).count()
}

#[tokio::test]
async fn a_prefix_in_two_databases_of_one_redis_makes_both_nodes_not_ready_until_one_is_gone() {
    let redis = RedisServer::start().await;
    let one = in_database(&redis, 1).env("NODE_ID", "one").start().await;
    let beside = in_database(&redis, 2).env("NODE_ID", "beside").env("REDIS_PREFIX", "other").start().await;
    let two = in_database(&redis, 2).env("NODE_ID", "two").start_listening().await;
    for (node, own, other) in [(&one, 1, 2), (&two, 2, 1)] {
        node.wait_for_readiness(503).await;
        let why = node.api().get("/health/ready").await.body.to_string();
        for part in [format!("database {own}"), format!("database {other}"), "REDIS_PREFIX".to_owned()] {
            assert!(why.contains(&part), "{part}: {why}");
        }
        assert_eq!(node.api().post("/v1/broadcast", &json!({})).await.status, 503);
        assert_eq!(warnings(node, "REDIS_PREFIX"), 1);
    }
    assert_eq!(beside.readiness().await, 200, "another prefix is another world");
    two.kill();
    one.wait_for_readiness(200).await;
    let three = in_database(&redis, 1).env("NODE_ID", "three").start().await;
    assert_eq!((one.readiness().await, three.readiness().await), (200, 200), "one database is one cluster");
}

#[tokio::test]
async fn two_live_nodes_with_one_id_both_say_so_until_one_is_gone() {
    let redis = RedisServer::start().await;
    let node = || Node::builder().redis(&redis).env("NODE_ID", "node-1");
    let (one, two) = (node().start().await, node().start().await);
    for node in [&one, &two] {
        node.wait_for_metric("countersign_node_id_shared", "", 1.0).await;
        assert_eq!(node.api().get("/v1/status").await.expect_status(200)["node_id_shared"], json!(true));
        assert_eq!(warnings(node, "NODE_ID"), 1, "once a minute");
        assert_eq!(node.readiness().await, 200);
    }
    two.kill();
    one.wait_for_metric("countersign_node_id_shared", "", 0.0).await;
    eventually(PATIENCE, "a status without it", || async {
        (one.api().get("/v1/status").await.body["node_id_shared"] == json!(false)).then_some(())
    })
    .await;
}

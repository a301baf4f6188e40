//! A Redis that answers and cannot run the scripts: the node says so, once, and takes no work.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use harness::{Node, PATIENCE, RedisServer, eventually, repository};

/// The rights of the shipped user, but for its password.
fn shipped_rights() -> String {
    let file = std::fs::read_to_string(repository().join("deploy/redis/users.acl")).expect("the shipped file");
    let user = file.lines().find_map(|line| line.strip_prefix("user countersign on resetpass "));
    user.expect("the file has our user").to_owned()
}

#[tokio::test]
async fn a_node_whose_redis_forbids_what_scripts_need_is_not_ready_and_says_once_what_is_missing() {
    let redis = RedisServer::start().await;
    let rights = shipped_rights();
    let set_rights = async |change: &str| {
        let words = format!("ACL SETUSER countersign reset on >secret {rights} {change}");
        let _: () = redis.query(&words.split_whitespace().collect::<Vec<_>>()).await;
    };
    set_rights("-time -pexpiretime").await;
    let url = redis.url().replace("redis://", "redis://countersign:secret@");
    let node = Node::builder().env("REDIS_URL", url).env("RUST_LOG", "info").start_listening().await;
    let api = node.api();
    let readiness = eventually(PATIENCE, "the reason", || async {
        let readiness = api.get("/health/ready").await;
        readiness.body.to_string().contains("PEXPIRETIME").then_some(readiness)
    })
    .await;
    assert_eq!(readiness.status, 503);
    // Both connections have tried more than once.
    eventually(PATIENCE, "several tries", || async {
        (node.metric("countersign_backplane_errors_total", "kind=\"unfit\"").await >= 6.0).then_some(())
    })
    .await;
    let log = node.process().log();
    let lines: Vec<_> = log.iter().filter(|line| line.contains("not ready") && line.contains("PEXPIRETIME")).collect();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    for part in ["WARN", "no right to TIME, PEXPIRETIME", "deploy/redis/users.acl", "Redis 7.0"] {
        assert!(lines[0].contains(part), "{part}: {lines:?}");
    }
    set_rights("").await;
    node.wait_for_readiness(200).await;
    // A question can be put.
    node.api().ask("alice", "t", serde_json::json!({})).await;
}

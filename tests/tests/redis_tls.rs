//! Redis behind TLS, and behind a user with few rights: what works, and what a node says when it does not.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use harness::{Authority, Device, Node, NodeBuilder, PATIENCE, RedisServer, eventually, free_port, repository};
use serde_json::json;

/// A Redis with a TLS port beside its plain one, which only the harness uses.
struct Encrypted {
    _redis: RedisServer,
    port: u16,
}

impl Encrypted {
    async fn start(authority: &Authority, clients: &str) -> Self {
        let (certificate, key) = authority.sign("redis");
        let port = free_port();
        let path = |path: &std::path::Path| path.display().to_string();
        let redis = RedisServer::start_with(&[
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &path(&certificate),
            "--tls-key-file",
            &path(&key),
            "--tls-ca-cert-file",
            &path(&authority.file()),
            "--tls-auth-clients",
            clients,
        ])
        .await;
        Self { _redis: redis, port }
    }

    fn node(&self, trusted: &Authority) -> NodeBuilder {
        let url = format!("rediss://127.0.0.1:{}/0", self.port);
        Node::builder().env("REDIS_URL", url).env("REDIS_TLS_CA_FILE", trusted.file().display().to_string())
    }
}

/// A question is asked and answered, and a message with history is heard.
async fn works(node: &Node) {
    let mut alice = Device::of_user(&node.ws_url(), "alice").await;
    alice.subscribe("room:7").await;
    node.api().post("/v1/topics/room:7/messages", &json!({"type": "number", "n": 1})).await.expect_status(200);
    alice.wait_for("the message", |m| m["n"] == 1).await;
    let asked = node.api().ask("alice", "t", json!({})).await;
    assert_eq!(alice.confirm(&asked, true).await["type"], "confirmation_accepted");
    assert_eq!(node.api().wait(&asked, 5).await.expect_status(200)["status"], "confirmed");
}

/// Not ready, and the log says why.
async fn says_why(node: &Node, why: &str) {
    let what = format!("a log line with {why:?}");
    eventually(PATIENCE, &what, || async { node.has_logged(why).then_some(()) }).await;
    assert_eq!(node.readiness().await, 503);
}

#[tokio::test]
async fn a_private_authority_is_trusted_when_its_file_is_given() {
    let authority = Authority::new();
    let redis = Encrypted::start(&authority, "no").await;
    works(&redis.node(&authority).start().await).await;
}

#[tokio::test]
async fn a_redis_that_wants_a_certificate_gets_one() {
    let authority = Authority::new();
    let redis = Encrypted::start(&authority, "yes").await;
    let (certificate, key) = authority.sign("node");
    let node = redis.node(&authority).env("REDIS_TLS_CERT_FILE", certificate.display().to_string());
    works(&node.env("REDIS_TLS_KEY_FILE", key.display().to_string()).start().await).await;
    let without = redis.node(&authority).start_listening().await;
    says_why(&without, "not connected to Redis").await;
}

#[tokio::test]
async fn another_authority_is_not_trusted_and_the_log_says_so() {
    let authority = Authority::new();
    let redis = Encrypted::start(&authority, "no").await;
    let node = redis.node(&Authority::new()).start_listening().await;
    says_why(&node, "invalid peer certificate").await;
    let public =
        Node::builder().env("REDIS_URL", format!("rediss://127.0.0.1:{}/0", redis.port)).start_listening().await;
    says_why(&public, "invalid peer certificate: UnknownIssuer").await;
}

#[tokio::test]
async fn a_file_that_is_no_certificate_is_refused_at_the_start() {
    let node = Node::builder().env("REDIS_URL", "rediss://127.0.0.1:1").env("REDIS_TLS_CA_FILE", "/nowhere/ca.pem");
    let exit = node.refused().await;
    assert_eq!(exit.code, Some(64), "{}", exit.log);
    assert!(exit.log.contains("REDIS_TLS_CA_FILE") && exit.log.contains("/nowhere/ca.pem"), "{}", exit.log);
}

/// A Redis with the shipped users, and a password.
async fn with_shipped_users(more: &str) -> (RedisServer, String) {
    let shipped = std::fs::read_to_string(repository().join("deploy/redis/users.acl")).expect("the file is shipped");
    let ours = shipped.lines().find(|line| line.starts_with("user countersign ")).expect("the file has our user");
    let rights = ours.replace(" resetpass ", " >secret-of-the-test ");
    let words: Vec<&str> = rights.split(' ').skip(2).chain(more.split(' ').filter(|word| !word.is_empty())).collect();
    let redis = RedisServer::start().await;
    let command: Vec<&str> = ["ACL", "SETUSER", "countersign"].into_iter().chain(words).collect();
    let _: () = redis.query(&command).await;
    let url = redis.url().replace("redis://", "redis://countersign:secret-of-the-test@");
    (redis, url)
}

#[tokio::test]
async fn the_shipped_user_is_enough_and_has_no_more() {
    let (redis, url) = with_shipped_users("").await;
    let node = Node::builder().env("REDIS_URL", url.clone()).start().await;
    works(&node).await;
    let _entry: String = redis
        .query(&["XADD", "cs:inbox", "*", "op", "topic", "body", r#"{"topic":"room:7","message":{"type":"x"}}"#])
        .await;
    eventually(PATIENCE, "an inbox that was read", || async {
        (redis.query::<u64>(&["XLEN", "cs:inbox"]).await == 0).then_some(())
    })
    .await;
    let log: Vec<redis::Value> = redis.query(&["ACL", "LOG"]).await;
    assert!(log.is_empty(), "nothing was refused: {log:?}");
    for (command, why) in [
        (vec!["GET", "other:key"], "the keys of others"),
        (vec!["PUBLISH", "other", "{}"], "the channels of others"),
        (vec!["FLUSHALL"], "an administrator's command"),
        (vec!["KEYS", "*"], "a look around"),
        (vec!["CONFIG", "GET", "*"], "the settings"),
    ] {
        let dry: String = redis.query(&[["ACL", "DRYRUN", "countersign"].as_slice(), &command].concat()).await;
        assert!(dry.contains("has no permissions"), "{why}: {dry}");
    }
}

#[tokio::test]
async fn wrong_credentials_and_missing_rights_are_told_and_counted() {
    let (redis, url) = with_shipped_users("-publish").await;
    let errors = "countersign_backplane_errors_total";
    for (url, why, kind) in [
        (url.replace("secret-of-the-test", "wrong"), "WRONGPASS", "noauth"),
        (url.clone(), "no right to PUBLISH", "unfit"),
    ] {
        let node = Node::builder().env("REDIS_URL", url).start_listening().await;
        says_why(&node, why).await;
        eventually(PATIENCE, "a counted error", || async {
            (node.metric(errors, &format!("kind=\"{kind}\"")).await > 0.0).then_some(())
        })
        .await;
        assert!(!node.has_logged("secret-of-the-test"));
    }
    let _: () = redis.query(&["CONFIG", "SET", "requirepass", "another"]).await;
    let node = Node::builder().env("REDIS_URL", redis.url()).start_listening().await;
    says_why(&node, "NOAUTH").await;
}

//! Two doors, each with its own credentials, and limits on who comes in.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use std::time::Duration;

use harness::{Closed, Device, Node, NodeBuilder, token};
use serde_json::json;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const KEY: &str = "producer-key-0123456789";
const HOUR: Duration = Duration::from_secs(3600);

fn guarded() -> NodeBuilder {
    Node::builder().env("AUTH_JWT_SECRET", SECRET).env("AUTH_API_KEYS", format!("another-key-0123456789,{KEY}"))
}

#[tokio::test]
async fn a_token_says_who_a_client_is() {
    let node = guarded().start().await;
    let alice = token(SECRET, "alice", HOUR);
    let by_query = Device::connect(&format!("{}?token={alice}", node.ws_url())).await;
    assert_eq!(by_query.welcome()["user_id"], "alice");

    let offered = format!("countersign.v1, bearer.{alice}");
    let mut by_protocol =
        Device::dial(&node.ws_url(), &[("Sec-WebSocket-Protocol", &offered)]).await.expect("an upgrade");
    assert_eq!(by_protocol.expect_type("connected").await["user_id"], "alice");

    let header = format!("Bearer {alice}");
    let mut by_header = Device::dial(&node.ws_url(), &[("Authorization", &header)]).await.expect("an upgrade");
    assert_eq!(by_header.expect_type("connected").await["user_id"], "alice");

    by_header.send(json!({"action": "subscribe", "user_id": "bob"})).await;
    let refused = by_header.expect_type("error").await;
    assert_eq!(refused["code"], "forbidden", "only one's own: {refused}");
}

#[tokio::test]
async fn a_bad_token_is_upgraded_and_closed_with_4500_before_anything_is_sent() {
    let node = guarded().start().await;
    let foreign = token("ffffffffffffffffffffffffffffffff", "alice", HOUR);
    for query in ["", "?token=", "?token=nonsense", &format!("?token={foreign}"), "?user_id=alice"] {
        let mut device = Device::dial(&format!("{}{query}", node.ws_url()), &[]).await.expect("an upgrade");
        assert_eq!(device.closed().await.code, 4500, "{query}");
        assert!(device.unread().is_empty(), "{query}: {:?}", device.unread());
    }
}

#[tokio::test]
async fn a_connection_ends_with_its_token() {
    let node = guarded().start().await;
    let short = token(SECRET, "alice", Duration::from_secs(2));
    let mut device = Device::connect(&format!("{}?token={short}", node.ws_url())).await;
    assert_eq!(device.closed().await, Closed { code: 4004, reason: "Token expired".to_owned() });
}

#[tokio::test]
async fn producers_need_a_key_and_clients_tokens_are_none() {
    let node = guarded().start().await;
    let body = json!({"type": "x"});
    assert_eq!(node.api().post("/v1/broadcast", &body).await.status, 401);
    let alice = token(SECRET, "alice", HOUR);
    for wrong in ["", "producer-key", "producer-key-0123456788", "producer-key-01234567890", &alice] {
        let reply = node.api().with_key(wrong).post("/v1/broadcast", &body).await;
        assert_eq!(reply.status, 401, "{wrong}");
        assert_eq!(reply.header("content-type"), "application/problem+json");
    }
    for right in [KEY, "another-key-0123456789"] {
        node.api().with_key(right).post("/v1/broadcast", &body).await.expect_status(200);
    }
}

#[tokio::test]
async fn an_insecure_node_still_asks_at_a_door_that_has_credentials() {
    let node = guarded().env("AUTH_INSECURE", "true").start().await;
    assert_eq!(node.api().post("/v1/broadcast", &json!({"type": "x"})).await.status, 401);
    let mut device = Device::dial(&node.ws_url(), &[]).await.expect("an upgrade");
    assert_eq!(device.closed().await.code, 4500);
}

#[tokio::test]
async fn a_page_of_a_foreign_origin_is_refused() {
    let node = Node::builder().start().await;
    let own = node.url();
    let other_port = "http://127.0.0.1:1";
    for foreign in ["https://evil.example", "null", other_port, "http://127.0.0.1.evil.example"] {
        let refused = Device::dial(&node.ws_url(), &[("Origin", foreign)]).await.expect_err(foreign);
        assert_eq!(refused.status, 403, "{foreign}: {refused:?}");
    }
    Device::dial(&node.ws_url(), &[("Origin", &own)]).await.expect("the page's own host");

    let listed = Node::builder().env("WEBSOCKET_ALLOWED_ORIGINS", "https://app.example.com").start().await;
    Device::dial(&listed.ws_url(), &[("Origin", "https://app.example.com")]).await.expect("a listed origin");
    let refused = Device::dial(&listed.ws_url(), &[("Origin", "https://app.example.com.evil.example")]).await;
    assert_eq!(refused.expect_err("not listed").status, 403);
}

#[tokio::test]
async fn one_connection_too_many_is_told_to_come_back() {
    let node = Node::builder().env("WEBSOCKET_MAX_CONNECTIONS", "2").start().await;
    let first = Device::of_user(&node.ws_url(), "alice").await;
    let mut second = Device::of_user(&node.ws_url(), "bob").await;
    let mut third = Device::dial(&node.ws_url(), &[]).await.expect("an upgrade");
    let expected = Closed { code: 1013, reason: "Server connection limit reached".to_owned() };
    assert_eq!(third.closed().await, expected);
    second.ping().await;

    first.close().await;
    harness::eventually(harness::PATIENCE, "room for another connection", || async {
        let mut device = Device::dial(&node.ws_url(), &[]).await.ok()?;
        device.send(json!({"action": "ping"})).await;
        let first = device.next().await?;
        (first["type"] == "connected").then_some(())
    })
    .await;
}

#[tokio::test]
async fn operations_need_no_key_unless_there_is_one() {
    let open = Node::builder().start().await;
    for path in ["/health/live", "/health/ready", "/metrics"] {
        assert_eq!(open.api().get(path).await.status, 200, "{path}");
    }
    let keyed = guarded().env("METRICS_KEY", "metrics-key-0123456789").start_listening().await;
    assert_eq!(keyed.api().get("/metrics").await.status, 401);
    assert_eq!(keyed.api().with_key(KEY).get("/metrics").await.status, 401, "a producer's key is another key");
    let asked = keyed.api().with_key("metrics-key-0123456789");
    for path in ["/health/live", "/health/ready", "/metrics"] {
        assert_eq!(asked.get(path).await.status, 200, "{path}");
    }
}

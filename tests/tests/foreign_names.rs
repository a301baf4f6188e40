//! Names that reach a gateway: an open one answers to its own machine's only, whatever a page points at it, and every request
//! names one host.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use harness::{Node, NodeBuilder, PATIENCE};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// What a node answers to a request that is written by hand: its status, and the rest.
async fn answer(node: &Node, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(node.address()).await.expect("the node listens");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    // An upgraded connection stays, so this reads until the head is there, and behind the head of a problem its object.
    let whole = |answer: &[u8]| {
        let head = answer.windows(4).any(|bytes| bytes == b"\r\n\r\n");
        head && (!answer.starts_with(b"HTTP/1.1 4") || answer.ends_with(b"}"))
    };
    let read = async {
        while !whole(&answer) {
            if stream.read_buf(&mut answer).await.expect("a read") == 0 {
                break;
            }
        }
    };
    timeout(PATIENCE, read).await.expect("an answer in time");
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, text)
}

async fn asked_as(node: &Node, host: &str, path: &str) -> (u16, String) {
    let upgrade = if path.starts_with("/ws") || path.starts_with("/api") {
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    } else {
        "Connection: close\r\n"
    };
    answer(node, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{upgrade}\r\n")).await
}

const OPEN: [&str; 9] = [
    "/",
    "/console/console.js",
    "/ws?user_id=alice",
    "/ws/?user_id=alice",
    "/api/workflows/7/updates",
    "/v1/callbacks?user_id=alice",
    "/v1/status",
    "/v1/users/alice",
    "/metrics",
];

#[tokio::test]
async fn an_open_gateway_answers_to_this_machines_names_only() {
    let node = Node::builder().env("WEBSOCKET_ALLOWED_ORIGINS", "same-host,http://dev.test").start().await;
    for path in OPEN {
        let (status, text) = asked_as(&node, "evil.test", path).await;
        assert_eq!(status, 403, "{path}: {text}");
        assert!(text.contains(r#""code":"foreign_host""#) && text.contains("WEBSOCKET_ALLOWED_ORIGINS"), "{text}");
        for own in [node.address(), "localhost", "x.localhost:80", "[::1]", "dev.test"] {
            let (status, text) = asked_as(&node, own, path).await;
            assert!(status == 200 || status == 101, "{own} {path}: {text}");
        }
    }
    for path in ["/health/live", "/health/ready"] {
        assert_eq!(asked_as(&node, "evil.test", path).await.0, 200, "{path}");
    }
}

#[tokio::test]
async fn a_gateway_that_has_credentials_or_is_open_on_purpose_answers_to_every_name() {
    let guarded: NodeBuilder = Node::builder()
        .env("AUTH_JWT_SECRET", "0123456789abcdef0123456789abcdef")
        .env("AUTH_API_KEYS", "producer-key-0123456789");
    for (builder, read) in [(guarded, 401), (Node::builder().env("AUTH_INSECURE", "true"), 200)] {
        let node = builder.start_listening().await;
        node.wait_for_readiness(200).await;
        assert_eq!(asked_as(&node, "gateway.test", "/v1/callbacks").await.0, read);
        for (path, status) in [("/", 200), ("/metrics", 200), ("/ws?user_id=alice", 101)] {
            assert_eq!(asked_as(&node, "gateway.test", path).await.0, status, "{path}");
        }
    }
}

#[tokio::test]
async fn a_proxy_before_an_open_gateway_is_told_once() {
    let node = Node::builder().start().await;
    let told = || node.process().log().iter().filter(|line| line.contains("a proxy forwards requests")).count();
    node.api().get("/v1/status").await.expect_status(200);
    assert_eq!(told(), 0);
    for _ in 0..3 {
        let headers = [("x-forwarded-for", "203.0.113.7")];
        node.api().send(reqwest::Method::GET, "/v1/status", &headers, None).await.expect_status(200);
    }
    harness::eventually(PATIENCE, "the warning", || async { (told() == 1).then_some(()) }).await;
    let line = node.process().log().into_iter().find(|line| line.contains("a proxy forwards requests"));
    assert!(line.is_some_and(|line| line.contains("WARN") && line.contains("AUTH_API_KEYS")));
}

#[tokio::test]
async fn a_request_names_exactly_one_host() {
    let node = Node::builder().env("AUTH_INSECURE", "true").start().await;
    for (head, status) in [
        ("GET /v1/status HTTP/1.1\r\nHost: a.test\r\n", 200),
        ("GET /v1/status HTTP/1.0\r\n", 200),
        ("GET /v1/status HTTP/1.1\r\n", 400),
        ("GET /health/live HTTP/1.1\r\n", 400),
        ("GET / HTTP/1.1\r\nHost:\r\n", 400),
        ("GET /v1/status HTTP/1.1\r\nHost: a.test\r\nHost: a.test\r\n", 400),
        ("GET /v1/status HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n", 400),
        ("GET /nothing HTTP/1.1\r\nHost: u@a.test\r\n", 400),
    ] {
        let (answered, text) = answer(&node, &format!("{head}Connection: close\r\n\r\n")).await;
        assert_eq!(answered, status, "{head}: {text}");
        assert!(status == 200 || text.contains("invalid_host"), "{text}");
    }
}

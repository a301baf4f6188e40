//! More connections and waits than a node may have: it stays healthy, says no politely, and serves again when there is room.

#![forbid(unsafe_code)]
#![allow(clippy::panic, reason = "in a test that is how to say that it failed")]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use std::fs;
use std::time::Duration;

use futures_util::future::join_all;
use harness::{Api, Device, Node, PATIENCE, callback_id, eventually};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// An HTTP connection that is kept alive.
struct Caller(TcpStream);

impl Caller {
    /// A connection that says nothing.
    async fn silent(node: &Node) -> Self {
        Self(timeout(PATIENCE, TcpStream::connect(node.address())).await.expect("in time").expect("the node listens"))
    }

    /// The head and the body of the reply, as text.
    async fn get(&mut self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
        self.0.write_all(request.as_bytes()).await.expect("the node reads");
        let mut text = String::new();
        let reply = async {
            loop {
                let mut bytes = [0; 4096];
                let read = self.0.read(&mut bytes).await.expect("a reply");
                text.push_str(&String::from_utf8_lossy(&bytes[..read]));
                let Some((head, body)) = text.split_once("\r\n\r\n") else {
                    assert!(read > 0, "cut in the middle: {text}");
                    continue;
                };
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                if read == 0 || length.is_some_and(|length: usize| body.len() >= length) {
                    return;
                }
            }
        };
        timeout(PATIENCE, reply).await.expect("a reply in time");
        text
    }

    /// Waits for the end.
    async fn is_closed(&mut self) {
        let mut rest = Vec::new();
        // A reset is an end too.
        drop(timeout(2 * PATIENCE, self.0.read_to_end(&mut rest)).await.expect("the node closes it"));
    }
}

async fn healthy(node: &Node) {
    for path in ["/health/live", "/health/ready", "/metrics"] {
        let mut prober = Caller::silent(node).await;
        let reply = prober.get(path).await;
        assert!(reply.starts_with("HTTP/1.1 200"), "{path}: {reply}");
    }
}

#[tokio::test]
async fn beyond_the_limit_of_http_connections_only_health_and_metrics_are_answered() {
    let node = Node::builder().env("LIMIT_HTTP_CONNECTIONS", "5").env("WEBSOCKET_MAX_CONNECTIONS", "5").start().await;
    // Those that asked before, for readiness, are gone.
    node.wait_for_metric("countersign_http_connections", "", 1.0).await;
    let mut seated = Vec::new();
    let mut refused = 0;
    for number in 0..300 {
        let mut caller = Caller::silent(&node).await;
        let reply = caller.get("/v1/status").await;
        if reply.starts_with("HTTP/1.1 200") {
            seated.push(caller);
            continue;
        }
        let head = reply.to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 503") && head.contains("\r\nretry-after: 1\r\n"), "{number}: {reply}");
        assert!(head.contains("connection: close") && head.contains(r#""code":"too_many_connections""#), "{reply}");
        caller.is_closed().await;
        refused += 1;
    }
    // The caller that asked for the metric may have had a seat for a moment.
    assert!((4..=5).contains(&seated.len()), "{} were served, {refused} refused", seated.len());
    healthy(&node).await;
    // A WebSocket begins as an HTTP connection.
    let refusal = Device::dial(&node.ws_url(), &[]).await.expect_err("no seat");
    assert_eq!(refusal.status, 503, "{refusal:?}");
    assert!(node.metric("countersign_limited_total", r#"limit="http_connections""#).await >= f64::from(refused));
    // Whoever has a seat keeps it, and a seat that is given back is taken by the next.
    for caller in &mut seated {
        assert!(caller.get("/v1/status").await.starts_with("HTTP/1.1 200"));
    }
    seated.truncate(1);
    let device = eventually(PATIENCE, "a seat", || async { Device::dial(&node.ws_url(), &[]).await.ok() }).await;
    device.close().await;
}

#[tokio::test]
async fn silent_sockets_take_no_file_that_health_needs() {
    const FILES: u32 = 256;
    let node = Node::builder().open_files(FILES).start().await;
    let mut silent = Vec::new();
    for _ in 0..2 * FILES {
        silent.push(Caller::silent(&node).await);
    }
    healthy(&node).await;
    let mut device = Device::of_user(&node.ws_url(), "alice").await;
    device.ping().await;
    assert!(node.open_files() < 200, "{} files are open", node.open_files());
    assert!(node.metric("countersign_limited_total", r#"limit="silent_connections""#).await > 0.0);
    // The oldest have made room; those that stay are closed because they never ask for anything.
    join_all(silent.iter_mut().map(Caller::is_closed)).await;
    device.ping().await;
}

#[tokio::test]
async fn waits_beyond_the_limit_are_answered_at_once_and_never_refused() {
    let node = Node::builder().env("LIMIT_WAITS", "3").start().await;
    let mut alice = Device::of_user(&node.ws_url(), "alice").await;
    let api = node.api();
    let ids = join_all((0..8).map(|task| {
        let api = api.clone();
        async move { api.ask("alice", &format!("task-{task}"), json!({"timeout": 300})).await }
    }))
    .await;
    let held: Vec<_> = ids[..3].iter().map(|id| tokio::spawn(wait(api.clone(), id.clone()))).collect();
    node.wait_for_metric("countersign_waits", "", 3.0).await;
    // Each of these would hold its caller for a minute.
    let later = |reply: &harness::Reply, id: &str| {
        assert_eq!((reply.status, &reply.body["callback_id"]), (202, &json!(id)), "{reply:?}");
        assert_eq!(reply.body["status"], "pending");
        let after: u64 = reply.header("retry-after").parse().expect("seconds");
        assert!((2..=6).contains(&after), "{reply:?}");
    };
    for id in &ids {
        later(&api.wait(id, 60).await, id);
    }
    let asked = api.notify("alice", "task-9", "", json!({"timeout": 300})).await;
    later(&asked, &callback_id(&asked.body));
    let published = api.post("/v1/users/alice/messages?ack=true&timeout=60", &json!({"type": "news"})).await;
    assert_eq!((published.status, &published.body["status"]), (200, &json!("delivered")), "{published:?}");
    assert!(node.metric("countersign_limited_total", r#"limit="waits""#).await >= 10.0);
    // The held ones hear their decision, and make room.
    for id in &ids {
        alice.confirm(id, true).await;
    }
    for wait in held {
        let reply = wait.await.expect("no panic");
        assert_eq!((reply.status, &reply.body["proceed"]), (200, &json!(true)), "{reply:?}");
    }
    node.wait_for_metric("countersign_waits", "", 0.0).await;
    // What is decided is told even without a permit, and now there are some.
    assert_eq!(api.wait(&ids[5], 60).await.body["proceed"], true);
}

async fn wait(api: Api, id: String) -> harness::Reply {
    api.wait(&id, 60).await
}

#[tokio::test]
async fn a_node_raises_its_soft_limit_on_open_files_and_warns_when_the_hard_one_is_too_low() {
    let node = Node::builder().soft_open_files(128).start().await;
    let limits = fs::read_to_string(format!("/proc/{}/limits", node.process().id())).expect("the node runs");
    let files: Vec<&str> = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .map(|rest| rest.split_whitespace().collect())
        .expect("a limit of open files");
    assert!(files[0] == files[1] && files[0] != "128", "{files:?}");

    let low = Node::builder().open_files(200).start().await;
    let warned = || async { low.has_logged("the open-file limit is lower than").then_some(()) };
    eventually(Duration::from_secs(5), "a warning", warned).await;
}

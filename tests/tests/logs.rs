//! The log: whoever reads it, or does not, a node goes on; and it says what an operator has to know, once.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use std::{
    io::{Read, Write, pipe},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use harness::{Api, Device, Node, PATIENCE, RedisServer, countersign_binary, eventually, free_port};
use serde_json::{Value, json};

/// A pipe that nobody reads and that is full: whoever writes to it waits.
struct FullPipe {
    reader: std::io::PipeReader,
    writer: std::io::PipeWriter,
}

impl FullPipe {
    fn new() -> Self {
        let (reader, writer) = pipe().expect("a pipe");
        let mut filler = writer.try_clone().expect("one more end");
        // More than any pipe holds, so this thread waits until the test is over and the pipe has no reader.
        std::thread::spawn(move || drop(filler.write_all(&vec![b'\n'; 8 << 20])));
        Self { reader, writer }
    }
}

/// A node whose log is not the harness's. Killed when dropped.
struct Silent(Child);

impl Drop for Silent {
    fn drop(&mut self) {
        // An error means that it has ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test]
async fn a_reader_of_the_log_that_stands_still_does_not_hold_up_the_node() {
    let FullPipe { mut reader, writer } = FullPipe::new();
    let port = free_port();
    let child = Command::new(countersign_binary())
        .env_clear()
        .env("WEBSOCKET_PORT", port.to_string())
        .env("RUST_LOG", "debug")
        .env("DRAIN_TIMEOUT", "20")
        .stdin(Stdio::null())
        .stdout(writer)
        .spawn()
        .expect("the binary starts");
    let mut node = Silent(child);
    let api = Api::at(format!("http://127.0.0.1:{port}"));
    let ready = || async {
        let asked = api.try_send(reqwest::Method::GET, "/health/ready", &[], None).await;
        asked.is_ok_and(|reply| reply.status == 200).then_some(())
    };
    eventually(PATIENCE, "a node that is ready while its log stands still", ready).await;

    let mut alice = Device::of_user(&format!("ws://127.0.0.1:{port}/ws"), "alice").await;
    // Each of these connections is a line of a kilobyte, so the queue fills up.
    let mut dropped = async || {
        for _ in 0..200 {
            let mut guest = TcpStream::connect(("127.0.0.1", port)).expect("the node listens");
            write!(
                guest,
                "GET /ws?user_id={} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                "%22".repeat(256)
            )
            .expect("sent");
            let mut answer = [0; 12];
            guest.read_exact(&mut answer).expect("an answer");
            assert_eq!(&answer, b"HTTP/1.1 101");
        }
        api.post("/v1/users/alice/messages", &json!({"type": "x"})).await.expect_status(200);
        alice.expect_type("x").await;
        let metrics = api.get("/metrics").await;
        let text = metrics.text();
        let line =
            text.lines().find(|line| line.starts_with("countersign_log_lines_dropped_total ")).map(str::to_owned);
        line.filter(|line| !line.ends_with(" 0"))
    };
    let began = Instant::now();
    while dropped().await.is_none() {
        assert!(began.elapsed() < PATIENCE * 6, "nothing was dropped, or it was not counted");
    }

    let stopped = Command::new("sh").arg("-c").arg(format!("kill -TERM {}", node.0.id())).status();
    assert!(stopped.is_ok_and(|status| status.success()));
    assert_eq!(alice.closed().await.code, 1012);
    let mut code = None;
    let deadline = Instant::now() + Duration::from_secs(21);
    while code.is_none() && Instant::now() < deadline {
        code = node.0.try_wait().expect("a child can be waited for");
        tokio::task::yield_now().await;
    }
    assert_eq!(code.and_then(|status| status.code()), Some(0), "it ends by SIGTERM within DRAIN_TIMEOUT");
    // Nobody has read until now.
    reader.read_exact(&mut [0]).expect("the pipe was full");
}

#[tokio::test]
async fn everything_is_written_before_the_process_ends() {
    let node = Node::builder().env("RUST_LOG", "trace").start().await;
    for _ in 0..50 {
        node.api().get("/v1/status").await.expect_status(200);
    }
    node.terminate();
    assert_eq!(node.wait_exit(PATIENCE).await, Some(0));
    let log = node.process().last_log();
    assert!(log.iter().all(|line| serde_json::from_str::<Value>(line).is_ok()), "whole lines only");
    assert!(log.iter().any(|line| line.contains("stopped")), "to its last one: {:?}", log.last());
}

#[tokio::test]
async fn the_start_says_which_address_to_open_and_which_doors_are_open() {
    let key = ("AUTH_API_KEYS", "producer-key-0123456789");
    let secret = ("AUTH_JWT_SECRET", "0123456789abcdef0123456789abcdef");
    for (given, open) in
        [(&[][..], "clients and producers"), (&[key], "clients"), (&[secret], "producers"), (&[key, secret], "none")]
    {
        let builder =
            given.iter().fold(Node::builder().env("RUST_LOG", "info"), |node, (name, value)| node.env(name, *value));
        let node = builder.start_listening().await;
        let log = node.process().log();
        assert!(log.len() < 10, "a start is some lines: {log:#?}");
        let line = log.iter().find(|line| line.contains("\"listening\"")).expect("it was waited for");
        let line: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!((&line["open_doors"], &line["url"]), (&json!(open), &json!(format!("{}/", node.url()))), "{line}");
        assert!(!log.iter().any(|line| line.contains("\"setting\"")), "{log:#?}");
    }
}

#[tokio::test]
async fn why_somebody_was_refused_is_one_line_that_names_the_setting() {
    let node = Node::builder()
        .env("RUST_LOG", "info")
        .env("AUTH_JWT_SECRET", "0123456789abcdef0123456789abcdef")
        .env("AUTH_API_KEYS", "producer-key-0123456789")
        .start_listening()
        .await;
    for _ in 0..20 {
        let refused = Device::dial(&node.ws_url(), &[("Origin", "https://evil.test")]).await;
        assert_eq!(refused.expect_err("a foreign page").status, 403);
        let mut stranger =
            Device::dial(&format!("{}?token=not-to-be-told", node.ws_url()), &[]).await.expect("an upgrade");
        assert_eq!(stranger.closed().await.code, 4500);
        node.api().with_key("not-to-be-told").get("/v1/status").await.expect_status(401);
    }
    for (message, setting, detail) in [
        ("a page was refused", "WEBSOCKET_ALLOWED_ORIGINS", "https://evil.test"),
        ("a client was refused", "AUTH_JWT_SECRET", "the token cannot be read"),
        ("a producer was refused", "AUTH_API_KEYS", "not one of the gateway's"),
    ] {
        let lines = || node.process().log().into_iter().filter(|line| line.contains(message)).collect::<Vec<_>>();
        eventually(PATIENCE, message, || async { (!lines().is_empty()).then_some(()) }).await;
        let lines = lines();
        assert!(lines.len() < 10, "once a second at most: {lines:#?}");
        for line in lines {
            assert!(line.contains("WARN") && line.contains(setting) && line.contains(detail), "{line}");
        }
    }
    assert!(!node.has_logged("not-to-be-told"));
}

#[tokio::test]
async fn that_redis_is_away_is_said_by_its_name() {
    let mut redis = RedisServer::start().await;
    let node = Node::builder().redis(&redis).start().await;
    let status = node.api().get("/v1/status").await.expect_status(200);
    assert_eq!((&status["status"], &status["running"]), (&json!("ready"), &json!(true)), "{status}");
    redis.kill();
    node.wait_for_readiness(503).await;
    let status = node.api().get("/v1/status").await.expect_status(200);
    assert_eq!(status["running"], false, "{status}");
    assert!(status["status"].as_str().is_some_and(|status| status.contains("Redis")), "{status}");
    let refused = node.api().get("/v1/callbacks").await.expect_status(503);
    assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("Redis")), "{refused}");
}

#[tokio::test]
async fn a_node_that_drains_does_not_say_that_it_begins_to_read_the_inbox() {
    let redis = RedisServer::start().await;
    let reads = Node::builder().redis(&redis).env("NODE_ID", "reads").start().await;
    let begins = |node: &Node| node.has_logged("this node reads the inbox");
    eventually(PATIENCE, "one node reads", || async { begins(&reads).then_some(()) }).await;
    let waits = Node::builder().redis(&redis).env("NODE_ID", "waits").start().await;
    // It is asked for the lease when the drain comes: the answer never does.
    redis.pause();
    waits.wait_for_readiness(503).await;
    waits.terminate();
    assert_eq!(waits.wait_exit(PATIENCE).await, Some(0));
    let log = waits.process().last_log();
    assert!(!log.iter().any(|line| line.contains("this node reads the inbox")), "{log:#?}");
}

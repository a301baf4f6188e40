//! Peers that speak no proper HTTP or WebSocket: each is shown out, and nobody else notices.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use std::time::Duration;

use harness::{Device, Node, PATIENCE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A TCP connection that a test writes bytes to.
struct Raw(TcpStream);

impl Raw {
    async fn connect(node: &Node) -> Self {
        Self(TcpStream::connect(node.address()).await.expect("the node listens"))
    }

    /// A connection that has been upgraded, so that frames can be written by hand.
    async fn upgraded(node: &Node) -> Self {
        let mut raw = Self::connect(node).await;
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            node.address()
        );
        raw.write(request.as_bytes()).await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(PATIENCE, raw.0.read_u8()).await.expect("in time").expect("a response"));
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        raw
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.expect("the node still reads");
    }

    /// Everything until the node ends the connection.
    async fn read_to_end(&mut self, patience: Duration) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A reset is an end too.
        drop(timeout(patience, self.0.read_to_end(&mut bytes)).await.expect("the node ends the connection"));
        bytes
    }

    /// The close code, from the last frame before the end.
    async fn close_code(&mut self) -> Option<u16> {
        let mut bytes = self.read_to_end(PATIENCE).await.into_iter();
        // The frames of a server have no mask.
        while let Some(first) = bytes.next() {
            let length = match bytes.next()? {
                126 => u64::from(u16::from_be_bytes([bytes.next()?, bytes.next()?])),
                short => u64::from(short),
            };
            if first & 0x0f == 0x8 {
                return Some(u16::from_be_bytes([bytes.next()?, bytes.next()?]));
            }
            for _ in 0..length {
                bytes.next()?;
            }
        }
        None
    }
}

#[tokio::test]
async fn frames_against_the_protocol_are_closed_with_1002() {
    let node = Node::builder().start().await;
    let mut bystander = Device::of_user(&node.ws_url(), "bystander").await;
    let long_ping = [b"\x89\xfe\x00\x7e\0\0\0\0".as_slice(), &[0; 126]].concat();
    let frames: [(&str, &[u8]); 6] = [
        ("without a mask", b"\x81\x02{}"),
        ("with a reserved bit", b"\xc1\x80\0\0\0\0"),
        ("of an unknown kind", b"\x83\x80\0\0\0\0"),
        ("ping in pieces", b"\x09\x80\0\0\0\0"),
        ("ping of 126 bytes", &long_ping),
        ("continuation of nothing", b"\x80\x80\0\0\0\0"),
    ];
    for (what, frame) in frames {
        let mut raw = Raw::upgraded(&node).await;
        raw.write(frame).await;
        assert_eq!(raw.close_code().await, Some(1002), "{what}");
        bystander.ping().await;
    }
}

#[tokio::test]
async fn a_frame_that_announces_more_than_is_allowed_is_closed_before_it_comes() {
    let node = Node::builder().start().await;
    for length in [1_u64 << 20, u64::from(u32::MAX), u64::MAX >> 1] {
        let mut raw = Raw::upgraded(&node).await;
        let mut frame = vec![0x81, 0xff];
        frame.extend(length.to_be_bytes());
        frame.extend([0; 4]);
        raw.write(&frame).await;
        assert_eq!(raw.close_code().await, Some(1009), "{length}");
    }
}

#[tokio::test]
async fn a_request_that_never_ends_is_given_up() {
    let node = Node::builder().start().await;
    let mut raw = Raw::connect(&node).await;
    raw.write(b"GET /ws HTTP/1.1\r\nHost: x\r\nX-Slow: ").await;
    raw.read_to_end(PATIENCE * 2).await;
    assert_eq!(node.readiness().await, 200);
}

#[tokio::test]
async fn heads_that_are_too_large_or_no_http_are_refused() {
    let node = Node::builder().start().await;
    let many = "X-A: b\r\n".repeat(1_000);
    let long = format!("X-A: {}\r\n", "b".repeat(100_000));
    for head in [many, long] {
        let mut raw = Raw::connect(&node).await;
        // It may be refused before it is read whole.
        drop(raw.0.write_all(format!("GET / HTTP/1.1\r\nHost: x\r\n{head}\r\n").as_bytes()).await);
        let answer = raw.read_to_end(PATIENCE).await;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    }
    let mut raw = Raw::connect(&node).await;
    raw.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello tls\r\n\r\n").await;
    raw.read_to_end(PATIENCE).await;
    assert_eq!(node.readiness().await, 200);
}

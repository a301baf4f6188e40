//! Free loopback ports, for servers that cannot be asked for port 0 (Redis, nginx) and for nodes that
//! must come back where they were.
//!
//! The ports lie below the range from which Linux takes the source ports of outgoing connections
//! (32768–60999): a client that keeps dialling a dead server in that range would one day be given the
//! very port that it dials, connect to itself, and keep the server from coming back.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 18_000;
const COUNT: u32 = 14_000;
/// Coprime to `COUNT`, so that one process visits every port before it repeats one.
const STRIDE: u32 = 4_801;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A port of 127.0.0.1 that nobody listens on. Another process may still take it before the caller
/// does, so whoever starts a server on it checks that it talks to its own server, and tries again.
pub fn free_port() -> u16 {
    for _ in 0..COUNT {
        let visit = NEXT.fetch_add(1, Ordering::Relaxed);
        let start = std::process::id().wrapping_mul(7_919);
        let offset = start.wrapping_add(visit.wrapping_mul(STRIDE)) % COUNT;
        let port = u16::try_from(FIRST + offset).expect("18000 + 13999 is a port");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("none of {COUNT} loopback ports from {FIRST} is free");
}

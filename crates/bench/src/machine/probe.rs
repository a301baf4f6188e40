//! A bare round trip, again and again, beside a run: what a client with no work of its own waits for an answer. Held beside
//! the latency of a gateway, it tells what of that is the gateway's, and what Redis and the cores that all share.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use reqwest::Url;

use super::clock::nanos;
use crate::account::{meter::latencies, report::Latency};

/// Between two round trips: seldom enough to be no load.
const EVERY: Duration = Duration::from_millis(5);
/// An answer that takes longer is none.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Runs in a thread of its own, until it is finished or dropped.
#[derive(Debug)]
pub(crate) struct Probe {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<Result<Latency>>>,
}

impl Probe {
    /// `PING` at a Redis.
    pub(crate) fn redis(url: &str) -> Result<Self> {
        Self::start(url, b"PING\r\n".to_vec())
    }

    /// `GET /health/live` at a node, on one connection.
    pub(crate) fn node(url: &str) -> Result<Self> {
        Self::start(url, b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec())
    }

    /// The answer to `question` is taken to come in one piece, as it has a few hundred bytes at most.
    fn start(url: &str, question: Vec<u8>) -> Result<Self> {
        let parsed = Url::parse(url).with_context(|| format!("{url:?} is no address"))?;
        let host = parsed.host_str().context("no host")?;
        let port = parsed.port_or_known_default().unwrap_or(6379);
        let mut stream = TcpStream::connect((host, port)).with_context(|| format!("connecting to {url}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let run = move || {
            let (mut latencies, mut answer) = (latencies(), [0; 4096]);
            while !told.load(Relaxed) {
                thread::sleep(EVERY);
                let asked = Instant::now();
                stream.write_all(&question).context("asking")?;
                ensure!(stream.read(&mut answer).context("hearing")? > 0, "the server hung up on a probe");
                latencies.saturating_record(nanos(asked.elapsed()));
            }
            Ok(Latency::of(&latencies))
        };
        let thread = thread::Builder::new().name("probe".to_owned()).spawn(run)?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// What was waited.
    pub(crate) fn finish(mut self) -> Result<Latency> {
        self.stop.store(true, Relaxed);
        let thread = self.thread.take().context("a probe ends once")?;
        thread.join().map_err(|_| anyhow!("a probe panicked"))?
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_probe_waits_for_each_answer_and_says_when_there_is_none() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = [0; 64];
            for _ in 0..3 {
                assert_eq!(stream.read(&mut question).unwrap(), 6);
                thread::sleep(Duration::from_millis(20));
                stream.write_all(b"+PONG\r\n").unwrap();
            }
        });
        let probe = Probe::redis(&url).unwrap();
        server.join().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !probe.thread.as_ref().unwrap().is_finished() {
            assert!(Instant::now() < deadline, "a probe goes on that nobody answers");
            thread::yield_now();
        }
        assert!(probe.finish().is_err(), "the server hung up after three answers");
    }
}

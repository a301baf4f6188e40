//! Whole runs against a tiny gateway that does what it should, or not: a load generator that cannot see a fault proves
//! nothing. The tiny one speaks WebSocket by a library, so the hand-written client is held against another hand's work.

use std::{
    net::SocketAddr,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::broadcast,
};
use tokio_tungstenite::{
    accept_async,
    tungstenite::{
        Message,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use crate::{
    account::{
        ledger::Tally,
        meter::{Live, Meter},
        report::Report,
    },
    args::{Crowd, Flow, Server},
    crowd::{Audience, Listener, Seating},
    dialect::Dialect,
    fanout::{self, Fanout},
    idle::{self, Idle},
    machine::clock::Clock,
    pingpong::{self, PingPong},
    progress::Progress,
};

/// What the gateway does with every tenth message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Lose,
    LoseAndSaySo,
    Repeat,
    /// After the next one.
    Delay,
    /// Closes the connection as a slow consumer, once.
    Close,
}

/// Ends with its owner.
struct TinyGateway {
    server: Server,
    runtime: Option<Runtime>,
}

impl TinyGateway {
    fn start(fault: Fault) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (published, _) = broadcast::channel(10_000);
        let (sockets, http) = runtime.block_on(async {
            (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap())
        });
        let address = |listener: &TcpListener| -> SocketAddr { listener.local_addr().unwrap() };
        let server = Server {
            urls: vec![format!("ws://{}/ws", address(&sockets))],
            http: vec![format!("http://{}", address(&http))],
            redis: None,
            door: None,
            dialect: Dialect::Countersign,
            redis_prefix: "cs".to_owned(),
            api_key: None,
            pids: vec![std::process::id()],
            beside: Vec::new(),
        };
        let publisher = published.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = http.accept().await {
                tokio::spawn(producer(stream, publisher.clone()));
            }
        });
        runtime.spawn(async move {
            while let Ok((stream, _)) = sockets.accept().await {
                tokio::spawn(client(stream, published.subscribe(), fault));
            }
        });
        Self { server, runtime: Some(runtime) }
    }
}

impl Drop for TinyGateway {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[derive(serde::Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    messages: Vec<Item<'a>>,
}

#[derive(serde::Deserialize)]
struct Item<'a> {
    #[serde(borrow)]
    message: &'a serde_json::value::RawValue,
}

/// Takes one `POST /v1/broadcast` or `/v1/batch` after the other on one connection.
async fn producer(stream: TcpStream, published: broadcast::Sender<String>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                length = value.trim().parse().ok()?;
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        let body = String::from_utf8(body).ok()?;
        let messages = match serde_json::from_str::<Batch<'_>>(&body) {
            Ok(batch) => batch.messages.iter().map(|item| item.message.get().to_owned()).collect(),
            Err(_) => vec![body],
        };
        for message in messages {
            // Nobody may be there to hear it any more.
            drop(published.send(message));
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"nodes\":1}").await.ok()?;
    }
}

async fn client(stream: TcpStream, mut published: broadcast::Receiver<String>, fault: Fault) -> Option<()> {
    let mut socket = accept_async(stream).await.ok()?;
    socket.send(Message::text(r#"{"type":"open_callbacks","callback_ids":[]}"#)).await.ok()?;
    let (mut count, mut held) = (0, None);
    loop {
        tokio::select! {
            message = published.recv() => {
                let message = message.ok()?;
                count += 1;
                let chosen = count % 10 == 0;
                let frames = match (fault, chosen) {
                    (Fault::Lose, true) => vec![],
                    (Fault::LoseAndSaySo, true) => vec![r#"{"type":"gap","topic":"broadcast"}"#.to_owned()],
                    (Fault::Repeat, true) => vec![message.clone(), message],
                    (Fault::Delay, true) => {
                        held = Some(message);
                        vec![]
                    }
                    (Fault::Close, true) => {
                        let frame = CloseFrame { code: CloseCode::from(4001), reason: "Slow consumer".into() };
                        return socket.send(Message::Close(Some(frame))).await.ok();
                    }
                    _ => std::iter::once(message).chain(held.take()).collect(),
                };
                for frame in frames {
                    socket.send(Message::text(frame)).await.ok()?;
                }
            }
            heard = socket.next() => {
                if let Message::Text(text) = heard?.ok()? {
                    assert_eq!(text.as_str(), r#"{"action":"ping"}"#);
                    socket.send(Message::text(r#"{"type":"pong","timestamp":1.0,"original_data":{}}"#)).await.ok()?;
                }
            }
        }
    }
}

const CONNECTIONS: u64 = 5;

fn crowd() -> Crowd {
    Crowd { connections: CONNECTIONS, threads: 2, seconds: 0.4, warmup: 0.1 }
}

fn fan_out(fault: Fault, flow: Flow) -> Report {
    let gateway = TinyGateway::start(fault);
    let run = Fanout { crowd: crowd(), flow, topic: None, topics: None };
    fanout::run(&gateway.server, &run, Progress::new(true)).unwrap()
}

fn open_loop() -> Flow {
    Flow::at(200.0, 150)
}

#[test]
fn a_gateway_without_fault_is_found_without_fault() {
    let report = fan_out(Fault::None, open_loop());
    let sent = report.traffic.as_ref().unwrap().sent;
    assert!(sent > 20, "{sent} messages in half a second at 200 a second");
    assert_eq!(report.tally, Some(Tally { received: sent * CONNECTIONS, ..Tally::default() }));
    assert_eq!((report.fault(), report.ends.len()), (None, 0));
    let latency = report.latency_ms.as_ref().unwrap();
    assert!(latency.count > 0 && latency.p50 > 0.0 && latency.p50 <= latency.max, "{latency:?}");
    assert!(report.server.as_ref().unwrap().rss_end_mb > 1.0);
    let table = report.to_string();
    assert!(table.contains("lost 0 (announced 0), duplicated 0, reordered 0, misrouted 0"), "{table}");
}

#[test]
fn a_closed_loop_keeps_no_more_than_its_window_on_the_way_and_loses_nothing() {
    let report = fan_out(Fault::None, Flow { window: Some(8), ..Flow::most(150) });
    let sent = report.traffic.as_ref().unwrap().sent;
    assert_eq!(report.tally, Some(Tally { received: sent * CONNECTIONS, ..Tally::default() }));
    assert!(sent > 8, "the window moved: {sent}");
}

#[test]
fn every_fault_is_seen_and_told_apart() {
    for (fault, words) in [(Fault::Lose, "lost"), (Fault::Repeat, "duplicated"), (Fault::Delay, "reordered")] {
        let report = fan_out(fault, open_loop());
        let found = report.fault().unwrap_or_else(|| panic!("{fault:?} was not seen: {report}"));
        assert!(found.contains(words), "{fault:?}: {found}");
        let tally = report.tally.unwrap();
        let kinds = [tally.lost, tally.duplicated, tally.reordered].into_iter().filter(|count| *count > 0).count();
        assert!(kinds == 1 || fault == Fault::Delay, "{fault:?}: {tally:?}");
    }
}

#[test]
fn a_loss_that_the_gateway_announces_is_no_fault_and_yet_counted() {
    for fault in [Fault::LoseAndSaySo, Fault::Close] {
        let report = fan_out(fault, open_loop());
        assert_eq!(report.fault(), None, "{fault:?}: {report}");
        assert!(report.tally.unwrap().lost_announced > 0, "{fault:?}: {report}");
        let closed = report.ends.get("4001 Slow consumer").copied().unwrap_or_default();
        assert_eq!(closed, if fault == Fault::Close { CONNECTIONS } else { 0 });
    }
}

#[test]
fn pings_return_in_both_loops() {
    let gateway = TinyGateway::start(Fault::None);
    for rate in [None, Some(200)] {
        let report = pingpong::run(&gateway.server, &PingPong { crowd: crowd(), rate }, Progress::new(true)).unwrap();
        let traffic = report.traffic.as_ref().unwrap();
        assert!(traffic.arrived > 0 && traffic.sent >= traffic.arrived, "{rate:?}: {report}");
    }
}

#[test]
fn idle_connections_are_held_and_counted() {
    let gateway = TinyGateway::start(Fault::None);
    let idle = Idle { crowd: crowd(), topics: false };
    let report = idle::run(&gateway.server, &idle, Progress::new(true)).unwrap();
    assert!(report.server.is_some() && report.ends.is_empty(), "{report}");
}

/// Comes back when it is cut.
struct Boomerang {
    dialect: Dialect,
    opened: u64,
}

impl Listener for Boomerang {
    type Summary = u64;

    fn opened(&mut self, _now: u64, _out: &mut Vec<u8>) -> bool {
        self.opened += 1;
        false
    }

    fn is_ready(&self, text: &[u8]) -> bool {
        self.dialect.is_ready(text)
    }

    fn hear(&mut self, _text: &[u8], _now: u64, _meter: &mut Meter, _out: &mut Vec<u8>) {}

    fn ended(&mut self, now: u64) -> Option<u64> {
        Some(now)
    }

    fn summary(self, _closed: bool) -> u64 {
        self.opened
    }
}

#[test]
fn connections_that_are_cut_come_back_when_they_say_so() {
    let gateway = TinyGateway::start(Fault::None);
    let seating = Seating::new(gateway.server.endpoints().unwrap(), CONNECTIONS, Clock::start());
    let audience = Audience::open(&seating, |_| Boomerang { dialect: Dialect::Countersign, opened: 0 }).unwrap();
    let audience = audience.wait_until_ready().unwrap();
    let opened = |live: &Live| live.opened.load(Relaxed);
    assert_eq!(opened(&audience.live), CONNECTIONS);
    audience.cut().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while opened(&audience.live) < 2 * CONNECTIONS || audience.live.ready.load(Relaxed) < CONNECTIONS {
        assert!(Instant::now() < deadline, "{} handshakes after 20 s", opened(&audience.live));
        std::thread::sleep(Duration::from_millis(1));
    }
    let gathered = audience.close().unwrap();
    assert_eq!((gathered.summaries, gathered.ends.len()), (vec![2; 5], 0));
}

#[test]
fn a_server_that_is_not_there_is_an_error_that_says_so() {
    let mut gateway = TinyGateway::start(Fault::None);
    gateway.server.urls = vec!["ws://127.0.0.1:1/ws".to_owned()];
    let error = idle::run(&gateway.server, &Idle { crowd: crowd(), topics: false }, Progress::new(true)).unwrap_err();
    assert!(format!("{error:#}").contains("Connection refused"), "{error:#}");
}

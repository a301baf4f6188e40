//! `bench pingpong` and `bench churn`: something asked and answered on every connection, `ping` and `pong`, or in turn
//! `subscribe` and `unsubscribe`. Closed loop: the next when the last has
//! returned; open loop: at the times of a rate that is spread over the connections.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use anyhow::Result;
use clap::Args;

use crate::{
    account::{
        meter::Meter,
        report::{Latency, Report},
    },
    args::{Crowd, Server},
    crowd::{self, Audience, Listener, Seating},
    dialect::Dialect,
    machine::clock::{Clock, nanos},
    progress::Progress,
    publish::is_subscribed,
};

/// Timers here have a millisecond's resolution, which is not the server's fault: a ping that goes out this late still
/// counts from when it went out.
const TIMER_NANOS: u64 = 2_000_000;

#[derive(Debug, Args)]
pub(crate) struct PingPong {
    #[command(flatten)]
    pub(crate) crowd: Crowd,
    /// Exchanges a second over all connections (open loop); without it each connection sends the next when the last has
    /// returned.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exchange {
    Ping,
    /// Of a topic of this connection's own.
    Subscription,
}

struct Player {
    dialect: Dialect,
    exchange: Exchange,
    /// Of this connection.
    index: u64,
    /// Between two pings of this connection; `None`: as fast as they return.
    every: Option<u64>,
    /// When the next is due.
    due: u64,
    /// When the one on the way was meant to be sent.
    on_the_way: Option<u64>,
    has_started: bool,
    sent: u64,
}

impl Player {
    fn ping(&mut self, intended: u64, out: &mut Vec<u8>) {
        self.on_the_way = Some(intended);
        self.sent += 1;
        match self.exchange {
            Exchange::Ping => crowd::say(self.dialect.ping(), out),
            Exchange::Subscription => {
                let action = if self.sent % 2 == 1 { "subscribe" } else { "unsubscribe" };
                let text = format!(r#"{{"action":"{action}","topic":"bench:churn-{}"}}"#, self.index);
                crowd::say(text.as_bytes(), out);
            }
        }
    }

    fn is_answer(&self, text: &[u8]) -> bool {
        match self.exchange {
            Exchange::Ping => self.dialect.is_pong(text),
            Exchange::Subscription => is_subscribed(text) || text.starts_with(br#"{"type":"unsubscribed""#),
        }
    }

    /// A server may take pings only from those that it has let in.
    fn start(&mut self, now: u64, out: &mut Vec<u8>) {
        self.has_started = true;
        self.go_on(now, out);
    }

    /// The next one: at once, or when it is due. One that is overdue counts from when it was due.
    fn go_on(&mut self, now: u64, out: &mut Vec<u8>) {
        match self.every {
            None => self.ping(now, out),
            Some(every) if self.due <= now => {
                let late = now - self.due;
                self.ping(if late <= TIMER_NANOS { now } else { self.due }, out);
                self.due += every;
            }
            Some(_) => {}
        }
    }
}

impl Listener for Player {
    type Summary = u64;

    fn opened(&mut self, now: u64, out: &mut Vec<u8>) -> bool {
        self.dialect.greeting(self.index).iter().for_each(|words| crowd::say(words.as_bytes(), out));
        self.due += now;
        if !self.dialect.announces() {
            self.start(now, out);
        }
        !self.dialect.announces()
    }

    fn is_ready(&self, text: &[u8]) -> bool {
        self.dialect.is_ready(text)
    }

    fn hear(&mut self, text: &[u8], now: u64, meter: &mut Meter, out: &mut Vec<u8>) {
        if !self.has_started && self.dialect.is_ready(text) {
            self.start(now, out);
        } else if self.is_answer(text)
            && let Some(intended) = self.on_the_way.take()
        {
            meter.arrived();
            meter.took(intended, now);
            self.go_on(now, out);
        }
    }

    fn wakes_at(&self) -> Option<u64> {
        (self.has_started && self.every.is_some() && self.on_the_way.is_none()).then_some(self.due)
    }

    fn wake(&mut self, now: u64, out: &mut Vec<u8>) {
        self.go_on(now, out);
    }

    fn summary(self, _closed: bool) -> u64 {
        self.sent
    }
}

pub(crate) fn run(server: &Server, ping_pong: &PingPong, progress: Progress) -> Result<Report> {
    play("pingpong", Exchange::Ping, server, ping_pong, progress)
}

/// `bench churn`.
pub(crate) fn churn(server: &Server, churn: &PingPong, progress: Progress) -> Result<Report> {
    play("churn", Exchange::Subscription, server, churn, progress)
}

fn play(
    command: &'static str,
    exchange: Exchange,
    server: &Server,
    PingPong { crowd, rate }: &PingPong,
    progress: Progress,
) -> Result<Report> {
    let (clock, connections) = (Clock::start(), crowd.connections);
    let mut observer = server.observer()?;
    let seating = Seating { threads: crowd.threads, ..Seating::new(server.endpoints()?, connections, clock) };
    let dialect = server.dialect;
    let every = rate.map(|rate| nanos(Duration::from_secs(connections) / rate));
    let audience = Audience::open(&seating, move |index| {
        // The beginnings are spread over the first interval.
        let due = every.map_or(0, |every| every / connections * index);
        Player { dialect, exchange, index, every, due, on_the_way: None, has_started: false, sent: 0 }
    })?;
    progress.say(format_args!("opening {connections} connections"));
    let audience = audience.wait_until_ready()?;
    observer.connected()?;

    let measured = crowd.window(clock.now());
    audience.live.measure(measured.start, measured.end);
    let returned = || audience.live.delivered.load(Relaxed);
    progress.watch(&audience.live, clock, measured.start, || false);
    observer.begin(returned())?;
    progress.watch(&audience.live, clock, measured.end, || false);
    observer.end(returned())?;
    let gathered = audience.close()?;

    let load = rate.map_or_else(|| "as fast as they return".to_owned(), |rate| format!("{rate} a second"));
    let mut report = Report::new(command, load, connections, crowd.seconds);
    report.latency_ms = Some(Latency::of(&gathered.measured));
    report.ends = gathered.ends;
    observer.tell(&mut report, "round trips", gathered.summaries.iter().sum(), 0);
    Ok(report)
}

//! `bench hostile`: what a few clients that flood the node do to everybody else. Other clients ping at a fixed rate and a
//! monitor asks for `/health/live`, first alone, then beside clients that send pings or broken JSON as fast as the node
//! takes them, then alone again: the two runs alone are the noise.

use std::fmt;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use crate::{
    account::{
        meter::Meter,
        report::{Latency, round},
    },
    args::{Crowd, Server},
    crowd::{self, Audience, Listener, Seating},
    dialect::Dialect,
    machine::{clock::Clock, probe::Probe},
    pingpong::{self, PingPong},
    progress::Progress,
};

/// Goal: another client's ping and `/health/live` take at most so many times as long at the 99th percentile.
const GOAL: f64 = 3.0;
/// The hostile clients are other people than those who are measured.
const FIRST: u64 = 1_000_000;
/// Messages that each hostile client has on the way: a read of the node finds hundreds of them.
const WINDOW: u64 = 1_000;

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Hostile {
    /// Clients that flood.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) clients: u64,
    /// Clients that ping at a fixed rate, and are measured.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) connections: u64,
    /// Their pings a second, together.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: u32,
    /// How long each measurement lasts, after a second of warm-up.
    #[arg(long, default_value_t = 5.0)]
    pub(crate) seconds: f64,
}

/// What a hostile client sends again and again.
#[derive(Debug, Clone, Copy)]
enum Flood {
    Pings,
    BrokenJson,
}

impl Flood {
    fn text(self) -> &'static [u8] {
        match self {
            Self::Pings => Dialect::Countersign.ping(),
            Self::BrokenJson => br#"{"action":"ping""#,
        }
    }
}

/// The others under one flood.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    name: &'static str,
    /// Messages a second that the hostile clients got answered.
    flood_per_second: f64,
    pings_ms: Latency,
    health_ms: Latency,
}

/// The whole of it; the first and the last row have no flood.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    rows: Vec<Row>,
    /// The largest p99 of a ping beside a flood to the mean of those alone.
    pings_ratio: f64,
    /// The same of `/health/live`.
    health_ratio: f64,
}

struct Flooder {
    flood: Flood,
    /// Answers since the last messages were sent.
    answered: u64,
    sent: bool,
    total: u64,
}

impl Flooder {
    fn send(&self, messages: u64, out: &mut Vec<u8>) {
        (0..messages).for_each(|_| crowd::say(self.flood.text(), out));
    }
}

impl Listener for Flooder {
    type Summary = u64;

    fn opened(&mut self, _: u64, _: &mut Vec<u8>) -> bool {
        false
    }

    fn is_ready(&self, text: &[u8]) -> bool {
        Dialect::Countersign.is_ready(text)
    }

    fn hear(&mut self, text: &[u8], _: u64, meter: &mut Meter, out: &mut Vec<u8>) {
        if !self.sent {
            if self.is_ready(text) {
                self.sent = true;
                self.send(WINDOW, out);
            }
            return;
        }
        meter.arrived();
        self.total += 1;
        self.answered += 1;
        if self.answered == WINDOW / 2 {
            self.answered = 0;
            self.send(WINDOW / 2, out);
        }
    }

    fn summary(self, _: bool) -> u64 {
        self.total
    }
}

pub(crate) fn run(server: &Server, hostile: &Hostile, progress: Progress) -> Result<Table> {
    let mut rows = Vec::new();
    for (name, flood) in [
        ("alone", None),
        ("beside pings", Some(Flood::Pings)),
        ("beside broken JSON", Some(Flood::BrokenJson)),
        ("alone again", None),
    ] {
        progress.say(format_args!("pings of {} clients, {name}", hostile.connections));
        rows.push(row(name, server, hostile, flood)?);
    }
    let ratio = |p99: fn(&Row) -> f64| {
        let of = |flooded: bool| rows.iter().filter(move |row| (row.flood_per_second > 0.0) == flooded).map(p99);
        let alone = of(false).sum::<f64>() / of(false).count().max(1) as f64;
        round(of(true).fold(0.0, f64::max) / alone, 2)
    };
    let (pings_ratio, health_ratio) = (ratio(|row| row.pings_ms.p99), ratio(|row| row.health_ms.p99));
    Ok(Table { rows, pings_ratio, health_ratio })
}

fn row(name: &'static str, server: &Server, hostile: &Hostile, flood: Option<Flood>) -> Result<Row> {
    let clock = Clock::start();
    let audience = flood
        .map(|flood| {
            let seating = Seating { first: FIRST, ..Seating::new(server.endpoints()?, hostile.clients, clock) };
            let flooder = move |_| Flooder { flood, answered: 0, sent: false, total: 0 };
            Audience::open(&seating, flooder)?.wait_until_ready()
        })
        .transpose()?;
    let began = clock.now();
    let url = server.urls.first().context("no --url of a node")?.replacen("ws", "http", 1);
    let probe = Probe::node(&url)?;
    let crowd = Crowd { connections: hostile.connections, threads: 1, seconds: hostile.seconds, warmup: 1.0 };
    let pings = pingpong::run(server, &PingPong { crowd, rate: Some(hostile.rate) }, Progress::new(true))?;
    let health_ms = probe.finish()?;
    let seconds = (clock.now() - began) as f64 / 1e9;
    let answered: u64 = match audience {
        Some(audience) => audience.close()?.summaries.iter().sum(),
        None => 0,
    };
    let pings_ms = pings.latency_ms.context("no ping was answered")?;
    Ok(Row { name, flood_per_second: round(answered as f64 / seconds, 0), pings_ms, health_ms })
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| others | flood, answered/s | ping p50 ms | ping p99 ms | /health/live p50 ms | p99 ms |")?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for Row { name, flood_per_second, pings_ms, health_ms } in &self.rows {
            writeln!(
                f,
                "| {name} | {flood_per_second:.0} | {:.2} | {:.2} | {:.2} | {:.2} |",
                pings_ms.p50, pings_ms.p99, health_ms.p50, health_ms.p99
            )?;
        }
        for (what, ratio) in [("ping", self.pings_ratio), ("/health/live", self.health_ratio)] {
            let word = if ratio <= GOAL { "met" } else { "**missed**" };
            writeln!(f, "\n- G14 {what}: p99 ≤ {GOAL} × alone: {ratio:.2}, {word}")?;
        }
        Ok(())
    }
}

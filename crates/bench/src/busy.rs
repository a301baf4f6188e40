//! `bench busy`: how long an answer takes while the node has its hands full. Callbacks are asked at a fixed rate, first
//! alone, then while a topic with a thousand other connections is flooded on the same node, then alone again: the two runs
//! alone are the noise. Beside each, bare round trips to Redis and to the node, which share the cores with all of it.

use std::fmt;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use crate::{
    account::report::{Latency, Report, round},
    args::{Crowd, Flow, Server},
    callbacks::{self, Callbacks},
    machine::probe::Probe,
    pace::Pace,
    progress::Progress,
    publish::{Run, Spread},
};

/// An answer may take so many times as long while the node is flooded.
const GOAL: f64 = 3.0;
/// The flooded connections are other people than those who are asked.
const FIRST: u64 = 1_000_000;
const TOPIC: &str = "bench:flood";
/// Messages on the way in a flood, as in `bench fanout`.
const WINDOW: u64 = 64;
const PAYLOAD: usize = 166;

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Busy {
    /// Connections that are flooded.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) connections: u64,
    /// Callbacks a second, at their times.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: u32,
    /// How long each measurement lasts, after a second of warm-up.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seconds: u64,
    /// Also floods of so many deliveries a second, before the one as fast as it goes.
    #[arg(long, default_value_t = 100_000.0)]
    pub(crate) paced: f64,
}

/// Callbacks under one load.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    name: String,
    /// Of the flood.
    deliveries_per_second: f64,
    callbacks: Report,
    /// A bare `PING` meanwhile.
    redis_ms: Option<Latency>,
    /// A bare `GET /health/live` meanwhile.
    node_ms: Latency,
    flood: Option<Report>,
}

/// The whole of it.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    rows: Vec<Row>,
    /// p99 under the full flood to p99 alone, which is the mean of two.
    p99_ratio: f64,
    /// Of the two runs alone, the longer p99 to the shorter.
    noise: f64,
}

pub(crate) fn run(server: &Server, busy: &Busy, progress: Progress) -> Result<Table> {
    let mut rows = Vec::new();
    let full = Pace::Closed { window: WINDOW };
    let paced = Pace::Open { per_second: busy.paced / busy.connections as f64 };
    let flooded = format!("{} connections flooded", busy.connections);
    for (name, pace) in [
        ("alone".to_owned(), None),
        (format!("{flooded}, {:.0} deliveries/s", busy.paced), Some(paced)),
        (format!("{flooded}, as fast as it goes"), Some(full)),
        ("alone again".to_owned(), None),
    ] {
        progress.say(format_args!("callbacks, {name}"));
        rows.push(row(name, server, busy, pace)?);
    }
    let p99 = |at: usize| rows.get(at).and_then(Row::p99).context("no callback was answered");
    let (first, flood, last) = (p99(0)?, p99(2)?, p99(3)?);
    let p99_ratio = round(2.0 * flood / (first + last), 2);
    Ok(Table { p99_ratio, noise: round(first.max(last) / first.min(last), 2), rows })
}

fn row(name: String, server: &Server, busy: &Busy, pace: Option<Pace>) -> Result<Row> {
    let quiet = Progress::new(true);
    let (rate, seconds) = (Some(busy.rate), busy.seconds);
    let asking = Callbacks { users: 100, inflight: 1, rate, seconds, open: 0, warmup: 1 };
    let ask = || -> Result<(Report, Option<Latency>, Latency)> {
        let redis = server.redis.as_deref().map(Probe::redis).transpose()?;
        // The node that hears the answers, which is the one that is flooded.
        let url = server.urls.first().context("no --url of a node")?.replacen("ws", "http", 1);
        let node = Probe::node(&url)?;
        let callbacks = callbacks::run(server, &asking, quiet)?;
        Ok((callbacks, redis.map(Probe::finish).transpose()?, node.finish()?))
    };
    let Some(pace) = pace else {
        let (callbacks, redis_ms, node_ms) = ask()?;
        return Ok(Row { name, deliveries_per_second: 0.0, callbacks, redis_ms, node_ms, flood: None });
    };
    let crowd = Crowd { connections: busy.connections, threads: 1, seconds: 1.0, warmup: 1.0 };
    let flow = Flow::most(PAYLOAD);
    let spread = Spread::Topic(TOPIC.to_owned());
    let flood = Run { first: FIRST, ..Run::new("flood", server, &crowd, &flow, spread, pace) };
    let (flood, (callbacks, redis_ms, node_ms)) = flood.beside(quiet, ask)?;
    let deliveries_per_second = flood.traffic.as_ref().map_or(0.0, |traffic| traffic.arrived_per_second);
    Ok(Row { name, deliveries_per_second, callbacks, redis_ms, node_ms, flood: Some(flood) })
}

impl Row {
    fn p99(&self) -> Option<f64> {
        self.callbacks.latency_ms.as_ref().map(|latency| latency.p99).filter(|p99| *p99 > 0.0)
    }
}

impl Table {
    /// What went wrong under any load.
    pub(crate) fn fault(&self) -> Option<String> {
        let of = |row: &Row| {
            let flood = row.flood.as_ref().and_then(Report::fault);
            Some(format!("{}: {}", row.name, row.callbacks.fault().or(flood)?))
        };
        let faults: Vec<_> = self.rows.iter().filter_map(of).collect();
        (!faults.is_empty()).then(|| faults.join("; "))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| callbacks | deliveries/s beside | p50 ms | p99 ms | × alone | ask → question p50, p99 ms | answer → decision p50, p99 ms | \
             bare Redis p50, p99 ms | bare node p50, p99 ms |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|---|")?;
        let alone = (self.rows.first().and_then(Row::p99), self.rows.last().and_then(Row::p99));
        for row in &self.rows {
            let (p50, p99) = row.callbacks.latency_ms.as_ref().map_or((0.0, 0.0), |latency| (latency.p50, latency.p99));
            let ratio = match alone {
                (Some(first), Some(last)) => format!("{:.2}", 2.0 * p99 / (first + last)),
                _ => String::new(),
            };
            let bare = |latency: &Latency| format!("{:.2}, {:.2}", latency.p50, latency.p99);
            let stages = row.callbacks.stages_ms.as_ref();
            let question = stages.map_or_else(String::new, |stages| bare(&stages.ask_to_question));
            let decision = stages.map_or_else(String::new, |stages| bare(&stages.answer_to_decision));
            let redis = row.redis_ms.as_ref().map_or_else(String::new, bare);
            writeln!(
                f,
                "| {} | {:.0} | {p50:.2} | {p99:.2} | {ratio} | {question} | {decision} | {redis} | {} |",
                row.name,
                row.deliveries_per_second,
                bare(&row.node_ms)
            )?;
        }
        let word = if self.p99_ratio <= GOAL { "met" } else { "**missed**" };
        writeln!(f, "\n- p99 ≤ {GOAL} × alone: {:.2}, {word} (alone against alone: {:.2})", self.p99_ratio, self.noise)
    }
}

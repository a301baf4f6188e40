//! `bench slow`: what readers that stop reading do to the others. A topic is published to at a fixed rate; the latency of
//! the healthy readers is taken with all of them reading (twice, which is the noise), and with some that read nothing once
//! they are subscribed, until the node closes them or drops messages for them.

use std::fmt;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use crate::{
    account::report::{Report, round},
    args::{Crowd, Flow, Server},
    pace::Pace,
    progress::Progress,
    publish::{Run, Spread},
};

/// 100 KB a second for each connection: a slow reader's limit of 64 KiB, and what the kernel keeps for it, are full within
/// seconds.
const PAYLOAD: usize = 2_000;
const RATE: f64 = 50.0;

#[derive(Debug, Clone, Args)]
pub(crate) struct Slow {
    /// Readers of the topic, the slow ones among them.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(2..))]
    pub(crate) connections: u64,
    /// How many are slow, one run for each number.
    #[arg(long = "slow", default_values_t = [1, 10], value_delimiter = ',')]
    pub(crate) counts: Vec<u64>,
    /// How long each measurement lasts, after a second of warm-up.
    #[arg(long, default_value_t = 5.0)]
    pub(crate) seconds: f64,
}

/// The variable with which a node has the limit that this is made for.
pub(crate) fn least_outbox() -> (String, String) {
    ("WEBSOCKET_OUTBOX_BYTES".to_owned(), (64 * 1024).to_string())
}

/// A run with so many slow readers.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    slow: u64,
    /// Of the healthy readers.
    report: Report,
}

/// The whole of it; the first two rows have no slow readers.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

pub(crate) fn run(server: &Server, slow: &Slow, progress: Progress) -> Result<Table> {
    let mut rows = Vec::new();
    for count in [0, 0].iter().chain(&slow.counts) {
        progress.say(format_args!("{count} of {} readers stop reading", slow.connections));
        let crowd = Crowd { connections: slow.connections, threads: 1, seconds: slow.seconds, warmup: 1.0 };
        let flow = Flow::at(RATE, PAYLOAD);
        let (spread, pace) = (Spread::Topic("bench:slow".to_owned()), Pace::Open { per_second: RATE });
        let run = Run { slow: *count, ..Run::new("slow", server, &crowd, &flow, spread, pace) };
        rows.push(Row { slow: *count, report: run.run(Progress::new(true))? });
    }
    Ok(Table { rows })
}

impl Row {
    fn quantiles(&self) -> (f64, f64) {
        self.report.latency_ms.as_ref().map_or((0.0, 0.0), |latency| (latency.p50, latency.p99))
    }

    /// Slow ones that the server closed.
    fn closed(&self) -> u64 {
        self.report.ends.values().sum()
    }
}

impl Table {
    /// What the healthy readers missed, in any run.
    pub(crate) fn fault(&self) -> Option<String> {
        let of = |row: &Row| {
            let announced = row.report.tally.map_or(0, |tally| tally.lost_announced);
            let closed = (announced > 0).then(|| format!("{announced} lost, announced"));
            Some(format!("{} slow readers: the others had {}", row.slow, row.report.fault().or(closed)?))
        };
        let faults: Vec<_> = self.rows.iter().filter_map(of).collect();
        (!faults.is_empty()).then(|| faults.join("; "))
    }

    /// The rows, each with a word about what the node does; without the table's head.
    pub(crate) fn lines(&self, mode: &str) -> Vec<String> {
        let alone: Vec<_> = self.rows.iter().filter(|row| row.slow == 0).map(Row::quantiles).collect();
        let count = alone.len().max(1) as f64;
        let mean = alone.iter().fold((0.0, 0.0), |sum, row| (sum.0 + row.0 / count, sum.1 + row.1 / count));
        let line = |row: &Row| {
            let ((p50, p99), tally) = (row.quantiles(), row.report.tally.unwrap_or_default());
            format!(
                "| {}, {mode} | {} | {p50:.2} | {p99:.2} | {:.2} | {:.2} | {} | {} |",
                row.slow,
                row.closed(),
                round(p50 / mean.0, 2),
                round(p99 / mean.1, 2),
                tally.lost,
                tally.lost_announced
            )
        };
        self.rows.iter().map(line).collect()
    }
}

/// Of the tables that [`Table::lines`] are rows of.
pub(crate) const HEAD: &str = "| slow readers | of them closed | p50 ms | p99 ms | p50 × none | p99 × none | lost silently | lost, announced |\n\
                               |---|---|---|---|---|---|---|---|";

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEAD}")?;
        self.lines("as the node is set").iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

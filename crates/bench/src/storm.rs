//! `bench storm`: what a node keeps when people have gone. Memory is read when nobody has come yet, with everybody there,
//! some seconds after all have left at once, the same again, and after readers that stopped reading were dealt with. What
//! stays the second time beyond the first grows with every storm; what stays the first time only is a high-water mark.

use std::{fmt, thread, time::Duration};

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use crate::{
    account::report::{Report, grouped, round},
    args::{Crowd, Server},
    idle::{self, Idle},
    progress::Progress,
    slow::{self, Slow},
};

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Storm {
    /// Connections of a wave, each with a user and a topic of its own.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) connections: u64,
    /// How long after they have left to look, in seconds: longer than the node's leases and its presence are kept up.
    #[arg(long, default_value_t = 15.0)]
    pub(crate) after: f64,
    /// Readers of one topic that stop reading, of 1,000.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..1000))]
    pub(crate) slow: u64,
}

/// The server's resident memory at one moment.
#[derive(Debug, Serialize)]
pub(crate) struct Moment {
    name: String,
    rss_mb: f64,
}

/// The moments, in order.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    moments: Vec<Moment>,
    /// What was wrong with the runs between them.
    faults: Vec<String>,
}

pub(crate) fn run(server: &Server, storm: &Storm, progress: Progress) -> Result<Table> {
    let processes = server.processes();
    let rss = || -> Result<f64> {
        let usage = processes.usage()?.context("whose memory? --pid says so")?;
        Ok(round(usage.rss_bytes as f64 / 1e6, 2))
    };
    let (quiet, after) = (Progress::new(true), Duration::from_secs_f64(storm.after));
    let mut table = Table { moments: vec![Moment { name: "nobody yet".to_owned(), rss_mb: rss()? }], faults: vec![] };
    let mut tell = |name: String, rss_mb: f64| {
        progress.say(format_args!("{name}: {rss_mb} MB"));
        table.moments.push(Moment { name, rss_mb });
    };
    for wave in ["", ", the second time"] {
        let crowd = Crowd { connections: storm.connections, threads: 1, seconds: 1.0, warmup: 1.0 };
        let report: Report = idle::run(server, &Idle { crowd, topics: true }, quiet)?;
        let there = report.server.as_ref().context("whose memory? --pid says so")?.rss_connected_mb;
        tell(format!("{} connections{wave}", grouped(storm.connections)), there);
        thread::sleep(after);
        tell(format!("{} s after they left{wave}", storm.after), rss()?);
    }
    let readers = Slow { connections: 1_000, counts: vec![storm.slow], seconds: 5.0 };
    let slow = slow::run(server, &readers, quiet)?;
    thread::sleep(after);
    let rss = rss()?;
    tell(format!("{} s after {} of 1,000 readers had stopped reading", storm.after, storm.slow), rss);
    table.faults.extend(slow.fault());
    Ok(table)
}

impl Table {
    pub(crate) fn fault(&self) -> Option<String> {
        (!self.faults.is_empty()).then(|| self.faults.join("; "))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| | resident memory MB | × nobody yet |\n|---|---|---|")?;
        let first = self.moments.first().map_or(1.0, |moment| moment.rss_mb);
        for Moment { name, rss_mb } in &self.moments {
            writeln!(f, "| {name} | {rss_mb:.1} | {:.2} |", rss_mb / first)?;
        }
        Ok(())
    }
}

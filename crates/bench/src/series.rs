//! `bench series`: the same load again and again while one thing changes, each time with a Redis and gateways of its own:
//! the producers' doors with and without history, the number of nodes on one Redis, of connections and of topics, the size of
//! messages, compression.

use std::{fmt, path::PathBuf};

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::{
    account::{
        content::Content,
        report::{Report, grouped},
    },
    args::{Crowd, DoorKind, Flow},
    fanout::{self, Fanout},
    machine::{
        local::beside,
        stage::{Memory, Setting, Stage},
        start::Ending,
    },
    progress::Progress,
    user::{self, User},
};

#[derive(Debug, Args)]
pub(crate) struct Series {
    /// What changes.
    #[arg(value_enum)]
    what: What,
    /// The gateway's binary; without it, the one beside this binary, built if need be.
    #[arg(long)]
    countersign: Option<PathBuf>,
    /// How long each measurement lasts, after a second of warm-up.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    /// HTTP batches, the inbox and bare PUBLISH, with histories of 0 and 100 messages: messages a second.
    Doors,
    /// 1, 2, 4 and 8 nodes on one Redis, each interested in every message: what Redis pays.
    Nodes,
    /// Messages to 100 to 10,000 connections.
    Connections,
    /// Messages of 166 bytes to 16 KiB to 200 connections.
    Sizes,
    /// 1 to 1,000 topics over 1,000 connections.
    Topics,
    /// Progress reports of 150, 1,000 and 10,000 bytes, plain and compressed, to everybody and to single users.
    Compression,
}

/// One measurement of a series.
#[derive(Debug, Serialize)]
struct Step {
    name: String,
    /// That producers had published.
    messages_per_second: f64,
    deliveries_per_second: f64,
    /// Of the nodes, for each message.
    node_cpu_us: f64,
    /// Of Redis, for each message.
    redis_cpu_us: f64,
    report: Report,
}

/// A finished series.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    what: What,
    steps: Vec<Step>,
}

/// What one step does.
struct Load {
    name: String,
    nodes: u16,
    history: &'static str,
    door: DoorKind,
    connections: u64,
    payload: usize,
    content: Content,
    compression: bool,
    spread: Spread,
}

#[derive(Debug, Clone, Copy)]
enum Spread {
    Users,
    Everybody,
    Topics(u64),
}

/// `1 node`, `2 nodes`.
fn counted(count: u64, noun: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

impl What {
    fn loads(self) -> Vec<Load> {
        let load = |name: String| Load {
            name,
            nodes: 1,
            history: "100",
            door: DoorKind::Publish,
            connections: 100,
            payload: 166,
            content: Content::Pad,
            compression: false,
            spread: Spread::Users,
        };
        match self {
            Self::Compression => {
                let (connections, content) = (200, Content::Progress);
                let mut loads = Vec::new();
                for (whom, spread) in [("to everybody", Spread::Everybody), ("to single users", Spread::Users)] {
                    for (payload, compression) in
                        [150, 1_000, 10_000].into_iter().flat_map(|payload| [(payload, false), (payload, true)])
                    {
                        let how = if compression { "compressed" } else { "plain" };
                        let load = load(format!("{payload} bytes {whom}, {how}"));
                        loads.push(Load { connections, payload, content, compression, spread, ..load });
                    }
                }
                loads
            }
            Self::Doors => {
                let doors =
                    [(DoorKind::Http, "HTTP batches"), (DoorKind::Inbox, "inbox"), (DoorKind::Publish, "PUBLISH")];
                let each = |(door, name): (DoorKind, &str)| {
                    let histories = if door == DoorKind::Publish { &["0"][..] } else { &["0", "100"] };
                    let named = |history: &&'static str| {
                        let name = format!("{name}, history of {history}");
                        Load { history, door, ..load(name) }
                    };
                    histories.iter().map(named).collect::<Vec<_>>()
                };
                doors.into_iter().flat_map(each).collect()
            }
            Self::Nodes => [1, 2, 4, 8]
                .map(|nodes| Load { nodes, spread: Spread::Everybody, ..load(counted(nodes.into(), "node")) })
                .into(),
            Self::Connections => [100, 1_000, 5_000, 10_000]
                .map(|connections| Load {
                    connections,
                    spread: Spread::Everybody,
                    ..load(format!("{} connections", grouped(connections)))
                })
                .into(),
            Self::Sizes => [166, 1024, 4096, 16_384]
                .map(|payload| {
                    let (connections, spread) = (200, Spread::Everybody);
                    Load { connections, payload, spread, ..load(format!("{payload} bytes")) }
                })
                .into(),
            Self::Topics => [1, 10, 100, 1000]
                .map(|topics| {
                    let (connections, spread) = (1000, Spread::Topics(topics));
                    Load { connections, spread, ..load(counted(topics, "topic")) }
                })
                .into(),
        }
    }
}

pub(crate) fn run(series: &Series, progress: Progress) -> Result<Table> {
    let binary = match &series.countersign {
        Some(path) => path.clone(),
        None => beside(progress)?,
    };
    measure(series.what, &binary, series.seconds, &Ending::on_signals()?, progress)
}

/// One series.
pub(crate) fn measure(
    what: What,
    binary: &PathBuf,
    seconds: f64,
    ending: &Ending,
    progress: Progress,
) -> Result<Table> {
    let (mut steps, quiet) = (Vec::new(), Progress::new(true));
    for load in what.loads() {
        progress.say(format_args!("{}", load.name));
        let compression = if load.compression { "on" } else { "off" };
        let variables = [("HISTORY_SIZE", load.history), ("WEBSOCKET_COMPRESSION", compression)];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let setting = Setting {
            binary,
            nodes: load.nodes,
            is_pinned: true,
            redis: Some(Memory::Forgotten),
            variables: &variables,
            door: Some(load.door),
        };
        let stage = Stage::start(setting, ending)?;
        let mut server = stage.server();
        server.urls = stage.urls();
        let crowd = Crowd { connections: load.connections, threads: 1, seconds, warmup: 1.0 };
        let flow = Flow { compression: load.compression, content: load.content, ..Flow::most(load.payload) };
        let to = |topics| Fanout { crowd: crowd.clone(), flow: flow.clone(), topic: None, topics };
        let (report, copies) = match load.spread {
            Spread::Users => (user::run(&server, &User { crowd, flow }, quiet)?, 1),
            Spread::Everybody => (fanout::run(&server, &to(None), quiet)?, load.connections),
            Spread::Topics(topics) => (fanout::run(&server, &to(Some(topics)), quiet)?, load.connections / topics),
        };
        steps.push(Step::of(load.name, copies, report));
    }
    Ok(Table { what, steps })
}

impl Step {
    /// `copies`: how many connections hear a message.
    fn of(name: String, copies: u64, report: Report) -> Self {
        let deliveries_per_second = report.traffic.as_ref().map_or(0.0, |traffic| traffic.arrived_per_second);
        let messages_per_second = deliveries_per_second / copies as f64;
        // A percent of a core is 10,000 µs a second.
        let each = |percent: Option<f64>| percent.unwrap_or_default() * 10_000.0 / messages_per_second;
        let node_cpu_us = each(report.server.as_ref().map(|cost| cost.cpu_percent));
        let redis_cpu_us = each(report.beside_cpu_percent);
        Self { name, messages_per_second, deliveries_per_second, node_cpu_us, redis_cpu_us, report }
    }
}

impl Table {
    /// What grows, or does not, as one thing changes: what it is, and how much of it in each step.
    pub(crate) fn growth(&self) -> (&'static str, Vec<(String, f64)>) {
        let cpu_us_each =
            |step: &Step| step.report.server.as_ref().and_then(|cost| cost.cpu_us_each).unwrap_or_default();
        let (what, of): (_, &dyn Fn(&Step) -> f64) = match self.what {
            What::Doors => ("messages/s", &|step| step.messages_per_second),
            What::Nodes => ("Redis CPU µs a message", &|step| step.redis_cpu_us),
            What::Sizes | What::Topics => ("node CPU µs a message", &|step| step.node_cpu_us),
            What::Connections | What::Compression => ("node CPU µs a delivery", &cpu_us_each),
        };
        (what, self.steps.iter().map(|step| (step.name.clone(), of(step))).collect())
    }

    /// What went wrong in any step.
    pub(crate) fn fault(&self) -> Option<String> {
        let faults: Vec<_> =
            self.steps.iter().filter_map(|step| Some(format!("{}: {}", step.name, step.report.fault()?))).collect();
        (!faults.is_empty()).then(|| faults.join("; "))
    }

    /// Steps in pairs: plain, then the same compressed.
    fn beside_plain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| | deliveries/s | node CPU µs a delivery | × plain | bytes on the wire | × plain | p50 ms | p99 ms |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|")?;
        let of = |step: &Step| {
            let cpu = step.report.server.as_ref().and_then(|cost| cost.cpu_us_each);
            (cpu.unwrap_or_default(), step.report.wire_bytes_each.unwrap_or_default())
        };
        for (at, step) in self.steps.iter().enumerate() {
            let (cpu, bytes) = of(step);
            let [to_cpu, to_bytes] = match at.checked_sub(1).and_then(|before| self.steps.get(before)) {
                Some(plain) if at % 2 == 1 => {
                    [cpu / of(plain).0, bytes / of(plain).1].map(|ratio| format!("{ratio:.2}"))
                }
                _ => [String::new(), String::new()],
            };
            let (p50, p99) = step.report.latency_ms.as_ref().map_or((0.0, 0.0), |latency| (latency.p50, latency.p99));
            writeln!(
                f,
                "| {} | {:.0} | {cpu:.2} | {to_cpu} | {bytes:.0} | {to_bytes} | {p50:.2} | {p99:.2} |",
                step.name, step.deliveries_per_second
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.what == What::Compression {
            return self.beside_plain(f);
        }
        writeln!(
            f,
            "| | messages/s | deliveries/s | node CPU µs a message | Redis CPU µs a message | p50 ms | p99 ms |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|")?;
        for Step { name, messages_per_second, deliveries_per_second, node_cpu_us, redis_cpu_us, report } in &self.steps
        {
            let (p50, p99) = report.latency_ms.as_ref().map_or((0.0, 0.0), |latency| (latency.p50, latency.p99));
            writeln!(
                f,
                "| {name} | {messages_per_second:.0} | {deliveries_per_second:.0} | {node_cpu_us:.2} | {redis_cpu_us:.2} | \
                 {p50:.2} | {p99:.2} |"
            )?;
        }
        Ok(())
    }
}

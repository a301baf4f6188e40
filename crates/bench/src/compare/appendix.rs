//! What is told beside the comparison, of the gateway alone: the series, callbacks beside a flood, slow readers, outages, and
//! how fast people can come in. Each is the command of that name, with its defaults.

use std::{
    fmt::{Display, Write as _},
    path::PathBuf,
};

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    plot::{Bar, Chart, Plot},
    stats::Spread,
};
use crate::{
    account::report::{Report, grouped},
    args::Crowd,
    busy::{self, Busy},
    connect::{self, Connect},
    machine::{
        stage::{Memory, Setting, Stage},
        start::Ending,
    },
    outage::{
        reconnect::{self, Reconnect},
        recovery::{self, Recovery},
    },
    pingpong::{self, PingPong},
    progress::Progress,
    series::{self, What},
    slow::{self, Slow},
    storm::{self, Storm},
};

/// A table with its title.
#[derive(Debug, Serialize)]
pub(crate) struct Section {
    pub(crate) title: &'static str,
    /// As Markdown.
    pub(crate) table: String,
    /// What of it is drawn.
    #[serde(skip)]
    pub(crate) plot: Option<Plot>,
    /// What the table was made of.
    pub(crate) figures: Value,
    pub(crate) fault: Option<String>,
}

const SLOW_READERS: &str = "Slow readers: the latency of the others, 1,000 readers, 50 messages/s of 2,000 bytes";
const STORM: &str = "Memory after a storm: two waves of connections, then readers that stop reading";
const CHURN: &str = "Churn: subscribing and unsubscribing, 1,000 connections, each a topic of its own";
const OUTAGES: &str = "Outages: until everybody is back, and what was lost";

/// Secret of the tokens; the gateway that checks them is given the same.
const SECRET: &str = "only-for-this-measurement-0123456789";

/// Measures everything.
pub(super) fn sections(binary: &PathBuf, seconds: f64, ending: &Ending, progress: Progress) -> Vec<Section> {
    let mut sections = Vec::new();
    for (what, title) in [
        (What::Doors, "Producers' doors: messages a second into one node, to 100 users"),
        (What::Nodes, "Nodes on one Redis: a broadcast that every node hears"),
        (What::Connections, "Connections: as many as go to everybody"),
        (What::Sizes, "Sizes: as many as go, 200 connections"),
        (What::Topics, "Topics: as many as go, 1,000 connections spread over them"),
        (What::Compression, "Compression: progress reports as JSON, as many as go, 200 connections"),
    ] {
        let measured = series::measure(what, binary, seconds, ending, progress);
        let plot = measured.as_ref().ok().map(|table| growth(what, title, table));
        sections.push(Section { plot, ..section(title, measured, series::Table::fault) });
    }
    for (nodes, title) in [
        (1, "Busy: callbacks while another topic is flooded, one node"),
        (2, "Busy: callbacks while another topic is flooded, asked at one node and answered at the flooded one"),
    ] {
        sections.push(section(title, flooded(nodes, binary, ending, progress), busy::Table::fault));
    }
    sections.push(slow_readers(binary, ending, progress).unwrap_or_else(|error| unmeasured(SLOW_READERS, &error)));
    sections.push(section(STORM, memory(binary, ending, progress), storm::Table::fault));
    sections.push(churn(binary, seconds, ending, progress).unwrap_or_else(|error| unmeasured(CHURN, &error)));
    sections.push(outages(binary, ending, progress).unwrap_or_else(|error| unmeasured(OUTAGES, &error)));
    sections
}

/// What of a series is drawn.
fn growth(what: What, title: &str, table: &series::Table) -> Plot {
    let (figure, steps) = table.growth();
    let bar = |(name, value)| Some(Bar { name, spread: Spread::of([value])?, is_ours: true });
    let chart = Chart { title: format!("{title}; {figure}"), bars: steps.into_iter().filter_map(bar).collect() };
    Plot { file: format!("series-{}.svg", what.to_possible_value().expect("no series is hidden").get_name()), chart }
}

/// A table as a section.
fn section<T: Serialize + Display>(
    title: &'static str,
    measured: Result<T>,
    fault: impl Fn(&T) -> Option<String>,
) -> Section {
    let told = measured.and_then(|table| Ok((serde_json::to_value(&table)?, table)));
    match told {
        Ok((figures, table)) => Section { title, table: table.to_string(), plot: None, figures, fault: fault(&table) },
        Err(error) => unmeasured(title, &error),
    }
}

/// What went wrong here must not cost the figures of all the rest.
fn unmeasured(title: &'static str, error: &anyhow::Error) -> Section {
    let why = format!("It could not be measured: {error:#}");
    Section {
        title,
        table: format!("{why}\n"),
        plot: None,
        figures: Value::Null,
        fault: Some(format!("{title}: {why}")),
    }
}

/// A gateway with its Redis.
fn stage<'a>(
    binary: &'a PathBuf,
    redis: Memory,
    variables: &'a [(String, String)],
    ending: &Ending,
) -> Result<Stage<'a>> {
    Stage::start(Setting { binary, nodes: 1, is_pinned: true, redis: Some(redis), variables, door: None }, ending)
}

/// Callbacks while a topic is flooded.
fn flooded(nodes: u16, binary: &PathBuf, ending: &Ending, progress: Progress) -> Result<busy::Table> {
    let redis = Some(Memory::Forgotten);
    let setting = Setting { binary, nodes, is_pinned: true, redis, variables: &[], door: None };
    let standing = Stage::start(setting, ending)?;
    let busy = Busy { connections: 1_000, rate: 100, seconds: 5, paced: 100_000.0 };
    busy::run(&standing.server(), &busy, progress)
}

/// Waves of connections, and readers that stop reading.
fn memory(binary: &PathBuf, ending: &Ending, progress: Progress) -> Result<storm::Table> {
    let variables = [slow::least_outbox()];
    let standing = stage(binary, Memory::Forgotten, &variables, ending)?;
    storm::run(&standing.server(), &Storm { connections: 10_000, after: 15.0, slow: 100 }, progress)
}

/// Topics that are wanted and let go.
fn churn(binary: &PathBuf, seconds: f64, ending: &Ending, progress: Progress) -> Result<Section> {
    progress.say(format_args!("churn"));
    let mut table =
        "| | answered/s | node CPU µs each | Redis CPU % of a core | p50 ms | p99 ms |\n|---|---|---|---|---|---|\n"
            .to_owned();
    let (mut faults, mut figures) = (Vec::new(), Vec::new());
    for (name, rate) in [("10,000 a second", Some(10_000)), ("as many as go", None)] {
        let standing = stage(binary, Memory::Forgotten, &[], ending)?;
        let crowd = Crowd { connections: 1_000, threads: 1, seconds, warmup: 1.0 };
        let report = pingpong::churn(&standing.server(), &PingPong { crowd, rate }, Progress::new(true))?;
        let (p50, p99) = report.latency_ms.as_ref().map_or((0.0, 0.0), |latency| (latency.p50, latency.p99));
        let cpu = report.server.as_ref().and_then(|cost| cost.cpu_us_each).unwrap_or_default();
        let answered = report.traffic.as_ref().map_or(0.0, |traffic| traffic.arrived_per_second);
        let redis = report.beside_cpu_percent.unwrap_or_default();
        writeln!(table, "| {name} | {answered:.0} | {cpu:.1} | {redis:.0} | {p50:.2} | {p99:.2} |")?;
        faults.extend(report.fault().map(|fault| format!("{name}: {fault}")));
        figures.push(json!({"name": name, "report": report}));
    }
    let fault = (!faults.is_empty()).then(|| faults.join("; "));
    Ok(Section { title: CHURN, table, plot: None, figures: figures.into(), fault })
}

/// Readers that stop reading, by what the node does with them.
fn slow_readers(binary: &PathBuf, ending: &Ending, progress: Progress) -> Result<Section> {
    let (mut lines, mut figures, mut faults) = (vec![slow::HEAD.to_owned()], Vec::new(), Vec::new());
    for mode in ["close", "drop"] {
        let variables = [slow::least_outbox(), ("WEBSOCKET_SLOW_CONSUMER".to_owned(), mode.to_owned())];
        let standing = stage(binary, Memory::Forgotten, &variables, ending)?;
        let run = Slow { connections: 1_000, counts: vec![1, 10], seconds: 5.0 };
        let table = slow::run(&standing.server(), &run, progress)?;
        lines.extend(table.lines(mode));
        figures.push(json!({"mode": mode, "table": serde_json::to_value(&table)?}));
        faults.extend(table.fault());
    }
    lines.push(String::new());
    let fault = (!faults.is_empty()).then(|| faults.join("; "));
    Ok(Section { title: SLOW_READERS, table: lines.join("\n"), plot: None, figures: figures.into(), fault })
}

/// People who lose their connection, Redis that dies, and people who come in.
fn outages(binary: &PathBuf, ending: &Ending, progress: Progress) -> Result<Section> {
    let quiet = Progress::new(true);
    let mut rows = vec![
        "| | connections | all back after ms | p50 ms | p99 ms | lost silently | lost, announced | duplicated |"
            .to_owned(),
        "|---|---|---|---|---|---|---|---|".to_owned(),
    ];
    let (mut faults, mut figures) = (Vec::new(), Vec::new());
    let mut tell = |name: &str, report: &Report| {
        let tally = report.tally.unwrap_or_default();
        let (p50, p99) = report.latency_ms.as_ref().map_or((0.0, 0.0), |latency| (latency.p50, latency.p99));
        let all = report.outage.map_or(report.seconds * 1e3, |outage| outage.all_back_ms);
        rows.push(format!(
            "| {name} | {} | {all:.0} | {p50:.0} | {p99:.0} | {} | {} | {} |",
            grouped(report.connections),
            tally.lost,
            tally.lost_announced,
            tally.duplicated
        ));
        figures.push(json!({"name": name, "report": report}));
        faults.extend(report.fault().map(|fault| format!("{name}: {fault}")));
    };
    let secret = [("AUTH_JWT_SECRET".to_owned(), SECRET.to_owned())];
    let stage = |redis, variables| stage(binary, redis, variables, ending);
    let storm = Reconnect { connections: 2_000, rate: 20.0, at_once: 512, restart: false };
    let death = Recovery { connections: 1_000, rate: 50.0, down: 2.0, empty: false };
    for (name, secret, variables) in [
        ("connecting, no token", None, &[][..]),
        ("connecting with a token (HS256)", Some(SECRET.to_owned()), &secret[..]),
    ] {
        progress.say(format_args!("{name}"));
        let come = Connect { connections: 5_000, at_once: 128, jwt_secret: secret };
        tell(name, &connect::run(&stage(Memory::Forgotten, variables)?.server(), &come, quiet)?);
    }
    progress.say(format_args!("every socket is cut"));
    let standing = stage(Memory::Forgotten, &[])?;
    tell("every socket cut", &reconnect::run(&standing.server(), &storm, None, quiet)?);
    drop(standing);
    progress.say(format_args!("the node is restarted"));
    let mut standing = stage(Memory::Forgotten, &[])?;
    let server = standing.server();
    tell(
        "node killed and started again",
        &reconnect::run(&server, &storm, Some(&mut || standing.restart_node()), quiet)?,
    );
    drop(standing);
    for (name, memory) in [
        ("Redis away for 2 s, back with its data", Memory::Kept),
        ("Redis away for 2 s, back empty", Memory::Forgotten),
    ] {
        progress.say(format_args!("{name}"));
        let mut standing = stage(memory, &[])?;
        let server = standing.server();
        let death = Recovery { empty: memory == Memory::Forgotten, ..death };
        tell(name, &recovery::run(&server, &death, &mut |switch| standing.switch_redis(switch), quiet)?);
    }
    rows.push(String::new());
    let fault = (!faults.is_empty()).then(|| faults.join("; "));
    Ok(Section { title: OUTAGES, table: rows.join("\n"), plot: None, figures: figures.into(), fault })
}

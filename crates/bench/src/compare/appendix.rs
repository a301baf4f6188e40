//! What is told beside the comparison, of the gateway alone: the series, outages, and how fast people can come in. Each is
//! the command of that name, with its defaults.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;

use crate::{
    account::report::{Report, grouped},
    connect::{self, Connect},
    machine::{
        stage::{Memory, Setting, Stage},
        start::Ending,
    },
    outage::{
        reconnect::{self, Reconnect},
        recovery::{self, Recovery},
    },
    progress::Progress,
    series::{self, What},
};

/// A table with its title.
#[derive(Debug, Serialize)]
pub(crate) struct Section {
    pub(crate) title: &'static str,
    /// As Markdown.
    pub(crate) table: String,
    pub(crate) fault: Option<String>,
}

/// Secret of the tokens; the gateway that checks them is given the same.
const SECRET: &str = "only-for-this-measurement-0123456789";

/// Measures everything.
pub(super) fn sections(binary: &PathBuf, seconds: f64, ending: &Ending, progress: Progress) -> Result<Vec<Section>> {
    let mut sections = Vec::new();
    for (what, title) in [
        (What::Doors, "Producers' doors: messages a second into one node, to 100 users"),
        (What::Nodes, "Nodes on one Redis: a broadcast that every node hears"),
        (What::Sizes, "Sizes: as many as go, 200 connections"),
        (What::Topics, "Topics: as many as go, 1,000 connections spread over them"),
    ] {
        let table = series::measure(what, binary, seconds, ending, progress)?;
        sections.push(Section { title, table: table.to_string(), fault: table.fault() });
    }
    sections.push(outages(binary, ending, progress)?);
    Ok(sections)
}

/// People who lose their connection, Redis that dies, and people who come in.
fn outages(binary: &PathBuf, ending: &Ending, progress: Progress) -> Result<Section> {
    let quiet = Progress::new(true);
    let mut rows = vec![
        "| | connections | all back after ms | p50 ms | p99 ms | lost silently | lost, announced | duplicated |"
            .to_owned(),
        "|---|---|---|---|---|---|---|---|".to_owned(),
    ];
    let mut faults = Vec::new();
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
        faults.extend(report.fault().map(|fault| format!("{name}: {fault}")));
    };
    let secret = [("AUTH_JWT_SECRET".to_owned(), SECRET.to_owned())];
    let stage = |redis, variables| {
        let setting = Setting { binary, nodes: 1, is_pinned: true, redis: Some(redis), variables, door: None };
        Stage::start(setting, ending)
    };
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
    Ok(Section { title: "Outages: until everybody is back, and what was lost", table: rows.join("\n"), fault })
}

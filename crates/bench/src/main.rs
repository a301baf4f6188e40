//! Loads a realtime gateway and counts: what was lost, duplicated and reordered, how long it took, what it cost.
//!
//! A tour, one sentence a place:
//! - `args`: what can be said on the command line.
//! - `fanout`, `user`, `pingpong` (with `churn`), `idle`, `connect`, `overload`, `callbacks`: one command each.
//! - `busy`, `slow`, `hostile`: what a flood does to callbacks, readers that stop reading to the others, and clients that
//!   flood the node to everybody else.
//! - `storm`: what a node keeps when people have gone.
//! - `outage`: reconnect storms, and Redis' death and return.
//! - `series`: what grows with nodes, sizes and topics, and what each of the producers' doors takes.
//! - `compare`: the gateway and its peers side by side, with ratios, goals, tables and plots.
//! - `publish`: a run of numbered messages from a producer's door to many sockets; `pace`: when to send what.
//! - `backlog`: callbacks that stay open meanwhile; `stages`: where the time of a callback goes.
//! - `crowd`: the many connections, on few threads, as cheap as they can be.
//! - `dialect`: what a server says inside its frames, so that peers can be measured with the same load.
//! - `doors`: the producer's ways in: Redis or HTTP.
//! - `account`: numbered messages, the ledger of each connection, latencies, the report.
//! - `machine`: the clock, processes and their cost, servers that are started for a run.
//! - `progress`: what is said while it runs.
#![deny(unsafe_code)]

mod account;
mod args;
mod backlog;
mod busy;
mod callbacks;
mod compare;
mod connect;
mod crowd;
mod dialect;
mod doors;
mod fanout;
mod hostile;
mod idle;
mod machine;
mod outage;
mod overload;
mod pace;
mod pingpong;
mod progress;
mod publish;
mod series;
mod slow;
mod stages;
mod storm;
#[cfg(test)]
mod tests;
mod user;

use std::{fmt::Display, io::Write, process::ExitCode};

use anyhow::Result;
use clap::Parser;
use serde::Serialize;

use crate::{
    account::report::Report,
    args::{Cli, Command},
    machine::local::{self, Told},
    outage::reconnect,
    progress::Progress,
};

/// Exit status when something went wrong that the server should have said.
const FAULT: u8 = 3;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode> {
    let progress = Progress::new(cli.quiet);
    let tell = |report: Report| show(&report, report.fault(), cli.json);
    match &cli.command {
        Command::Fanout(on) => tell(fanout::run(&on.server, &on.run, progress)?),
        Command::User(on) => tell(user::run(&on.server, &on.run, progress)?),
        Command::Pingpong(on) => tell(pingpong::run(&on.server, &on.run, progress)?),
        Command::Churn(on) => tell(pingpong::churn(&on.server, &on.run, progress)?),
        Command::Connect(on) => tell(connect::run(&on.server, &on.run, progress)?),
        Command::Overload(on) => tell(overload::run(&on.server, &on.run, progress)?),
        Command::Reconnect(on) => tell(reconnect::run(&on.server, &on.run, None, progress)?),
        Command::Idle(on) => tell(idle::run(&on.server, &on.run, progress)?),
        Command::Callbacks(on) => tell(callbacks::run(&on.server, &on.run, progress)?),
        Command::Busy(on) => {
            let table = busy::run(&on.server, &on.run, progress)?;
            show(&table, table.fault(), cli.json)
        }
        Command::Slow(on) => {
            let table = slow::run(&on.server, &on.run, progress)?;
            show(&table, table.fault(), cli.json)
        }
        Command::Hostile(on) => {
            // Being slow is no fault, but a goal that is missed.
            show(&hostile::run(&on.server, &on.run, progress)?, None, cli.json)
        }
        Command::Storm(on) => {
            let table = storm::run(&on.server, &on.run, progress)?;
            show(&table, table.fault(), cli.json)
        }
        Command::Local(local) => match local::run(local, progress)? {
            Told::Report(report) => tell(*report),
            Told::Busy(table) => show(&table, table.fault(), cli.json),
            Told::Slow(table) => show(&table, table.fault(), cli.json),
            Told::Hostile(table) => show(&table, None, cli.json),
            Told::Storm(table) => show(&table, table.fault(), cli.json),
        },
        Command::Series(series) => {
            let table = series::run(series, progress)?;
            show(&table, table.fault(), cli.json)
        }
        Command::Compare(compare) => {
            let results = compare::run(compare, progress)?;
            show(&results, results.fault(), cli.json)
        }
    }
}

fn show(results: &(impl Serialize + Display), fault: Option<String>, json: bool) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, results)?;
        writeln!(out)?;
    } else {
        write!(out, "{results}")?;
    }
    Ok(match fault {
        Some(fault) => {
            eprintln!("bench: {fault}");
            ExitCode::from(FAULT)
        }
        None => ExitCode::SUCCESS,
    })
}

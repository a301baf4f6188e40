//! Loads a realtime gateway and counts: what was lost, duplicated and reordered, how long it took, what it cost.
//!
//! A tour, one sentence a file:
//! - `args`: what can be said on the command line.
//! - `fanout`, `user`, `pingpong`, `idle`, `callbacks`: one command each.
//! - `backlog`: callbacks that stay open meanwhile.
//! - `local`: starts Redis and gateways, runs a command against them, ends them.
//! - `publish`: a run of numbered messages from a producer's door to many sockets.
//! - `audience`: many connections on one thread, each with a listener.
//! - `socket` and `frames`: a WebSocket by hand, read in place, so that the figures are the server's.
//! - `door`: the producer's ways in: bare Redis `PUBLISH`, or HTTP.
//! - `message`: numbered messages, written and read without parsing.
//! - `ledger`: what one connection should have heard and what it heard.
//! - `pace`: when to send what: open loop at a fixed rate, or closed loop.
//! - `meter`: counts and latencies of a reader thread; `clock`: the one clock of a run.
//! - `observer` and `process`: processor time and memory of the server's processes.
//! - `progress` and `report`: what is said while it runs, and at the end.
#![deny(unsafe_code)]

mod args;
mod audience;
mod backlog;
mod callbacks;
mod clock;
mod door;
mod fanout;
mod frames;
mod idle;
mod ledger;
mod local;
mod message;
mod meter;
mod observer;
mod pace;
mod pingpong;
mod process;
mod progress;
mod publish;
mod report;
mod socket;
#[cfg(test)]
mod tests;
mod user;

use std::{io::Write, process::ExitCode};

use anyhow::Result;
use clap::Parser;

use crate::{
    args::{Cli, Command},
    progress::Progress,
    report::Report,
};

/// Exit status when something went wrong that the server should have said.
const FAULT: u8 = 3;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli).and_then(|report| show(&report, cli.json)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<Report> {
    let progress = Progress::new(cli.quiet);
    match &cli.command {
        Command::Fanout(on) => fanout::run(&on.server, &on.run, progress),
        Command::User(on) => user::run(&on.server, &on.run, progress),
        Command::Pingpong(on) => pingpong::run(&on.server, &on.run, progress),
        Command::Idle(on) => idle::run(&on.server, &on.run, progress),
        Command::Callbacks(on) => callbacks::run(&on.server, &on.run, progress),
        Command::Local(local) => local::run(local, progress),
    }
}

fn show(report: &Report, json: bool) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, report)?;
        writeln!(out)?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(match report.fault() {
        Some(fault) => {
            eprintln!("bench: {fault}");
            ExitCode::from(FAULT)
        }
        None => ExitCode::SUCCESS,
    })
}

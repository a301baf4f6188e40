//! `bench local`: starts a redis-server and one or more gateways on free ports of this machine, runs one command against
//! them, and ends what it started.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};

use super::{
    stage::{Memory, Setting, Stage},
    start::Ending,
};
use crate::{
    account::report::Report,
    args::DoorKind,
    busy::{self, Busy},
    callbacks::{self, Callbacks},
    connect::{self, Connect},
    fanout::{self, Fanout},
    hostile::{self, Hostile},
    idle::{self, Idle},
    outage::{
        reconnect::{self, Reconnect},
        recovery::{self, Recovery},
    },
    overload::{self, Overload},
    pingpong::{self, PingPong},
    progress::Progress,
    slow::{self, Slow},
    storm::{self, Storm},
    user::{self, User},
};

#[derive(Debug, Args)]
pub(crate) struct Local {
    /// The gateway's binary; without it, the one beside this binary, built if need be.
    #[arg(long)]
    countersign: Option<PathBuf>,
    /// Gateways. Clients connect to the last, producers call the first.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    nodes: u16,
    /// Gateways on one core, everything else on another (by taskset).
    #[arg(long)]
    pin: bool,
    /// Use the embedded backplane, no Redis. Messages are then published over HTTP.
    #[arg(long)]
    embedded: bool,
    /// How messages are published; by default with PUBLISH when there is a Redis.
    #[arg(long, value_enum)]
    door: Option<DoorKind>,
    /// A variable for the gateways, as NAME=value; may be given several times.
    #[arg(long = "env", value_parser = variable)]
    variables: Vec<(String, String)>,
    #[command(subcommand)]
    run: Run,
}

#[derive(Debug, Subcommand)]
enum Run {
    /// One message to every connection, again and again.
    Fanout(Fanout),
    /// Each message to one user of many.
    User(User),
    /// `ping` and `pong` on every connection.
    Pingpong(PingPong),
    /// `subscribe` and `unsubscribe` on every connection.
    Churn(PingPong),
    /// Connections that do nothing: what they cost.
    Idle(Idle),
    /// Connections that are opened as fast as it goes.
    Connect(Connect),
    /// More than can be delivered: what is lost, closed and hoarded.
    Overload(Overload),
    /// Every connection is lost at once and comes back.
    Reconnect(Reconnect),
    /// Redis dies and comes back.
    Recovery(Recovery),
    /// Notify, answer at once, decide: what lies between.
    Callbacks(Callbacks),
    /// Callbacks alone, and while a thousand connections are flooded on the same node.
    Busy(Busy),
    /// Readers that stop reading; their limit is 64 KiB then, unless --env says otherwise.
    Slow(Slow),
    /// Clients that flood the node, and what becomes of the others' pings and of /health/live.
    Hostile(Hostile),
    /// Waves of connections that come and go: what memory the node keeps.
    Storm(Storm),
}

/// What a command found out.
#[derive(Debug)]
pub(crate) enum Told {
    Report(Box<Report>),
    Busy(busy::Table),
    Slow(slow::Table),
    Hostile(hostile::Table),
    Storm(storm::Table),
}

impl From<Report> for Told {
    fn from(report: Report) -> Self {
        Self::Report(Box::new(report))
    }
}

pub(crate) fn run(local: &Local, progress: Progress) -> Result<Told> {
    let binary = match &local.countersign {
        Some(path) => path.clone(),
        None => beside(progress)?,
    };
    let mut variables = local.variables.clone();
    if let Run::Connect(Connect { jwt_secret: Some(secret), .. }) = &local.run {
        variables.push(("AUTH_JWT_SECRET".to_owned(), secret.clone()));
    }
    if matches!(&local.run, Run::Slow(_) | Run::Storm(_)) {
        // What is said last counts.
        variables.insert(0, slow::least_outbox());
    }
    let recovery = if let Run::Recovery(recovery) = &local.run { Some(recovery) } else { None };
    let setting = Setting {
        binary: &binary,
        nodes: local.nodes,
        is_pinned: local.pin,
        redis: match (local.embedded, recovery) {
            (true, _) => None,
            (false, Some(Recovery { empty: false, .. })) => Some(Memory::Kept),
            _ => Some(Memory::Forgotten),
        },
        variables: &variables,
        door: local.door,
    };
    let mut stage = Stage::start(setting, &Ending::on_signals()?)?;
    let server = stage.server();
    progress.say(format_args!("{} at {:?}", binary.display(), server.http));
    let report = match &local.run {
        Run::Busy(run) => return Ok(Told::Busy(busy::run(&server, run, progress)?)),
        Run::Slow(run) => return Ok(Told::Slow(slow::run(&server, run, progress)?)),
        Run::Hostile(run) => return Ok(Told::Hostile(hostile::run(&server, run, progress)?)),
        Run::Storm(run) => return Ok(Told::Storm(storm::run(&server, run, progress)?)),
        Run::Fanout(run) => fanout::run(&server, run, progress),
        Run::User(run) => user::run(&server, run, progress),
        Run::Pingpong(run) => pingpong::run(&server, run, progress),
        Run::Churn(run) => pingpong::churn(&server, run, progress),
        Run::Idle(run) => idle::run(&server, run, progress),
        Run::Connect(run) => connect::run(&server, run, progress),
        Run::Overload(run) => overload::run(&server, run, progress),
        Run::Callbacks(run) => callbacks::run(&server, run, progress),
        Run::Reconnect(run) => {
            let mut restart = || stage.restart_node();
            let restart: Option<&mut dyn FnMut() -> Result<()>> = run.restart.then_some(&mut restart);
            reconnect::run(&server, run, restart, progress)
        }
        Run::Recovery(run) => {
            ensure!(!local.embedded, "the embedded backplane cannot be taken away: leave --embedded out");
            recovery::run(&server, run, &mut |switch| stage.switch_redis(switch), progress)
        }
    };
    report.map(Told::from)
}

/// The gateway of the same build as this binary.
pub(crate) fn beside(progress: Progress) -> Result<PathBuf> {
    let own = env::current_exe().context("finding this binary")?;
    let directory = own.parent().context("this binary lies nowhere")?;
    let binary = directory.join("countersign");
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let words = ["build", "--profile", profile, "-p", "countersign-gateway"];
    match env::var_os("CARGO") {
        // Started by `cargo run`: what is measured is what the sources say.
        Some(cargo) => {
            progress.say(format_args!("cargo {}", words.join(" ")));
            let built = Command::new(cargo).args(words).status().context("building the gateway")?;
            ensure!(built.success(), "the gateway does not build");
        }
        None if binary.exists() => {}
        None => bail!(
            "no gateway at {}: build it with `cargo {}` or name it with --countersign",
            binary.display(),
            words.join(" ")
        ),
    }
    Ok(binary)
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=value is expected")?;
    Ok((name.to_owned(), value.to_owned()))
}

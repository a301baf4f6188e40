//! `bench local`: starts a redis-server and one or more gateways on free ports of this machine, runs one command against
//! them, and ends what it started.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};

use super::start::{Ending, Gateway, LOAD_CORE, SERVER_CORE, Started, free_port, pin_own, start_redis};
use crate::{
    account::report::Report,
    args::{DoorKind, Server},
    callbacks::{self, Callbacks},
    dialect::Dialect,
    fanout::{self, Fanout},
    idle::{self, Idle},
    pingpong::{self, PingPong},
    progress::Progress,
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
    /// Connections that do nothing: what they cost.
    Idle(Idle),
    /// Notify, answer at once, decide: what lies between.
    Callbacks(Callbacks),
}

pub(crate) fn run(local: &Local, progress: Progress) -> Result<Report> {
    let binary = match &local.countersign {
        Some(path) => path.clone(),
        None => beside(progress)?,
    };
    if local.pin {
        pin_own(LOAD_CORE)?;
    }
    let ending = Ending::on_signals()?;
    let redis_port = free_port()?;
    let redis = (!local.embedded).then(|| start_redis(&ending, redis_port)).transpose()?;
    ensure!(redis.is_some() || local.nodes == 1, "the embedded backplane is one node's own: take --nodes 1");
    let redis_url = redis.as_ref().map(|_| format!("redis://127.0.0.1:{redis_port}"));
    let mut nodes = Vec::new();
    for number in 1..=local.nodes {
        let gateway = Gateway {
            binary: &binary,
            number,
            port: free_port()?,
            redis: redis_url.as_deref(),
            core: local.pin.then_some(SERVER_CORE),
            variables: &local.variables,
        };
        nodes.push((gateway.start(&ending)?, gateway.port));
    }
    let (Some((_, first)), Some((_, last))) = (nodes.first(), nodes.last()) else { bail!("no node was started") };
    let server = Server {
        urls: vec![format!("ws://127.0.0.1:{last}/ws")],
        http: vec![format!("http://127.0.0.1:{first}")],
        redis: redis_url,
        door: local.door,
        dialect: Dialect::Countersign,
        redis_prefix: "cs".to_owned(),
        api_key: None,
        pids: nodes.iter().map(|(node, _)| node.pid()).collect(),
        beside: redis.iter().map(Started::pid).collect(),
    };
    progress.say(format_args!(
        "{} on ports {:?}",
        binary.display(),
        nodes.iter().map(|(_, port)| port).collect::<Vec<_>>()
    ));
    match &local.run {
        Run::Fanout(run) => fanout::run(&server, run, progress),
        Run::User(run) => user::run(&server, run, progress),
        Run::Pingpong(run) => pingpong::run(&server, run, progress),
        Run::Idle(run) => idle::run(&server, run, progress),
        Run::Callbacks(run) => callbacks::run(&server, run, progress),
    }
}

/// The gateway of the same build as this binary.
fn beside(progress: Progress) -> Result<PathBuf> {
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

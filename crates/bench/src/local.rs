//! `bench local`: starts a redis-server and one or more gateways on free ports of this machine, runs one command against
//! them, and ends what it started.

use std::{
    env,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, Weak},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    args::Server, callbacks, callbacks::Callbacks, fanout, fanout::Fanout, idle, idle::Idle, pingpong,
    pingpong::PingPong, progress::Progress, report::Report, user, user::User,
};

/// How long a server may take until it is ready.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// Exit status of a process that a signal ended, as shells give it for SIGINT.
const INTERRUPTED: i32 = 130;

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
    /// Publish over HTTP even though there is a Redis.
    #[arg(long)]
    over_http: bool,
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

/// A process that ends with its owner, or with this process when that is told to end.
struct Started(Arc<Mutex<Child>>);

impl Started {
    fn pid(&self) -> u32 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).id()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        end(&self.0);
    }
}

fn end(child: &Mutex<Child>) {
    let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
    // Both fail only when it has ended already.
    drop(child.kill());
    drop(child.wait());
}

/// The processes to end when this one is interrupted or told to end, which would run no destructor.
#[derive(Clone, Default)]
struct Ending(Arc<Mutex<Vec<Weak<Mutex<Child>>>>>);

impl Ending {
    /// Listens for the signals from now on.
    fn on_signals() -> Result<Self> {
        let ending = Self::default();
        let watched = ending.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut interrupt, mut terminate) = {
            let _here = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            });
            let children = watched.0.lock().unwrap_or_else(PoisonError::into_inner);
            children.iter().filter_map(Weak::upgrade).for_each(|child| end(&child));
            std::process::exit(INTERRUPTED);
        })?;
        Ok(ending)
    }

    fn start(&self, command: &mut Command) -> Result<Started> {
        let mut children = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let child = Arc::new(Mutex::new(command.stdin(Stdio::null()).spawn()?));
        children.push(Arc::downgrade(&child));
        Ok(Started(child))
    }
}

pub(crate) fn run(local: &Local, progress: Progress) -> Result<Report> {
    let binary = match &local.countersign {
        Some(path) => path.clone(),
        None => beside(progress)?,
    };
    if local.pin {
        pin(std::process::id())?;
    }
    let ending = Ending::on_signals()?;
    let redis = (!local.embedded).then(|| start_redis(&ending)).transpose()?;
    ensure!(redis.is_some() || local.nodes == 1, "the embedded backplane is one node's own: take --nodes 1");
    let redis_url = redis.as_ref().map(|(_, port)| format!("redis://127.0.0.1:{port}"));
    let mut nodes = Vec::new();
    for number in 1..=local.nodes {
        nodes.push(start_node(&ending, &binary, number, redis_url.as_deref(), local)?);
    }
    let (Some((_, first)), Some((_, last))) = (nodes.first(), nodes.last()) else { bail!("no node was started") };
    let server = Server {
        urls: vec![format!("ws://127.0.0.1:{last}/ws")],
        http: vec![format!("http://127.0.0.1:{first}")],
        redis: redis_url.filter(|_| !local.over_http || matches!(local.run, Run::Callbacks(_))),
        redis_prefix: "cs".to_owned(),
        api_key: None,
        pids: nodes.iter().map(|(node, _)| node.pid()).collect(),
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

fn start_redis(ending: &Ending) -> Result<(Started, u16)> {
    let port = free_port()?;
    let mut command = Command::new("redis-server");
    // It is told to keep nothing, so it writes nothing there.
    command.current_dir(env::temp_dir()).args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"]);
    let started = ending
        .start(command.arg(port.to_string()).stdout(Stdio::null()).stderr(Stdio::null()))
        .context("starting redis-server: is it installed?")?;
    wait_for("redis-server", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())?;
    Ok((started, port))
}

fn start_node(
    ending: &Ending,
    binary: &Path,
    number: u16,
    redis: Option<&str>,
    local: &Local,
) -> Result<(Started, u16)> {
    let port = free_port()?;
    let mut command = if local.pin {
        let mut pinned = Command::new("taskset");
        pinned.args(["-c", "0"]).arg(binary);
        pinned
    } else {
        Command::new(binary)
    };
    // What is set for a gateway in this shell is not meant for this one.
    for (name, _) in env::vars().filter(|(name, _)| is_gateways(name)) {
        command.env_remove(name);
    }
    command.env("WEBSOCKET_HOST", "127.0.0.1").env("WEBSOCKET_PORT", port.to_string());
    command.env("WEBSOCKET_MAX_CONNECTIONS", "1000000").env("NODE_ID", format!("bench-{number}"));
    command.env("RUST_LOG", "warn").envs(redis.map(|url| ("REDIS_URL", url)));
    command.envs(local.variables.iter().map(|(name, value)| (name, value)));
    let log = env::temp_dir().join(format!("countersign-bench-{port}.log"));
    let file = std::fs::File::create(&log).with_context(|| format!("making {}", log.display()))?;
    command.stdout(file.try_clone()?).stderr(file);
    let started = ending.start(&mut command).with_context(|| format!("starting {}", binary.display()))?;
    let ready = wait_for("the gateway", || is_ready(port));
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    // Its words are in `said` now; a file that stays behind is only litter.
    drop(std::fs::remove_file(&log));
    ready.with_context(|| format!("it said: {}", said.trim()))?;
    Ok((started, port))
}

fn is_gateways(name: &str) -> bool {
    ["WEBSOCKET_", "REDIS_", "AUTH_", "HISTORY_", "CALLBACK_"].iter().any(|prefix| name.starts_with(prefix))
}

/// Asks `/health/ready` by hand: one request, one line.
fn is_ready(port: u16) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return false };
    let request = b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut answer = String::new();
    stream.write_all(request).is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.contains(" 200 ")
}

fn wait_for(what: &str, is_there: impl Fn() -> bool) -> Result<()> {
    let started = Instant::now();
    while !is_there() {
        ensure!(started.elapsed() < START_TIMEOUT, "{what} is not ready after {START_TIMEOUT:?}");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
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

/// Everything of this process, and what it starts, on the second core.
fn pin(pid: u32) -> Result<()> {
    let words = ["-a", "-c", "-p", "1", &pid.to_string()];
    let done = Command::new("taskset").args(words).stdout(Stdio::null()).status().context("--pin needs taskset")?;
    ensure!(done.success(), "taskset could not pin this process to core 1: are there two?");
    Ok(())
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=value is expected")?;
    Ok((name.to_owned(), value.to_owned()))
}

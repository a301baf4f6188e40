//! Servers that are started for a run, on free ports of this machine, and end with it: `redis-server`, the gateway, and
//! whatever peer it is compared with.

use std::{
    env,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, Weak},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::signal::unix::{SignalKind, signal};

/// The core of the servers that are measured.
pub(crate) const SERVER_CORE: u32 = 0;
/// The core of the load generator and of Redis.
pub(crate) const LOAD_CORE: u32 = 1;
/// How long a server may take until it is ready.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a server that is asked to end may take, before it is killed.
const ASKED_FOR: Duration = Duration::from_millis(500);
/// Exit status of a process that a signal ended, as shells give it for SIGINT.
const INTERRUPTED: i32 = 130;

/// A process that ends with its owner, or with this process when that is told to end.
#[derive(Debug)]
pub(crate) struct Started(Arc<Mutex<Child>>);

impl Started {
    /// Ends it before its owner does.
    pub(crate) fn kill(&self) {
        end(&self.0);
    }

    pub(crate) fn pid(&self) -> u32 {
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
    // Asked first: a server with workers of its own takes them along, and leaves them behind when it is killed.
    if matches!(child.try_wait(), Ok(None)) && Command::new("kill").arg(child.id().to_string()).status().is_ok() {
        let asked = Instant::now();
        while asked.elapsed() < ASKED_FOR && matches!(child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(5));
        }
    }
    // Both fail only when it has ended already.
    drop(child.kill());
    drop(child.wait());
}

/// The processes to end when this one is interrupted or told to end, which would run no destructor.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ending(Arc<Mutex<Vec<Weak<Mutex<Child>>>>>);

impl Ending {
    /// Listens for the signals from now on.
    pub(crate) fn on_signals() -> Result<Self> {
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

    pub(crate) fn start(&self, command: &mut Command) -> Result<Started> {
        let mut children = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let child = Arc::new(Mutex::new(command.stdin(Stdio::null()).spawn()?));
        children.push(Arc::downgrade(&child));
        Ok(Started(child))
    }
}

/// A Redis on this port. With a folder, it has there all that it has acknowledged, and reads it when it starts.
pub(crate) fn start_redis(ending: &Ending, port: u16, folder: Option<&Path>) -> Result<Started> {
    let mut command = Command::new("redis-server");
    // Without a folder it is told to keep nothing, so it writes nothing there.
    command.current_dir(folder.unwrap_or(&env::temp_dir())).args(["--bind", "127.0.0.1", "--save", ""]);
    let keeps = if folder.is_some() { "yes" } else { "no" };
    command.args(["--appendonly", keeps, "--appendfsync", "always", "--port"]);
    // Its defaults cut a subscriber at 32 MB; they are what a gateway has to live with.
    let started = ending
        .start(command.arg(port.to_string()).stdout(Stdio::null()).stderr(Stdio::null()))
        .context("starting redis-server: is it installed?")?;
    wait_for("redis-server", || is_redis(port))?;
    Ok(started)
}

/// A gateway to be started.
#[derive(Debug)]
pub(crate) struct Gateway<'a> {
    pub(crate) binary: &'a Path,
    pub(crate) number: u16,
    pub(crate) port: u16,
    pub(crate) redis: Option<&'a str>,
    /// To run there and nowhere else.
    pub(crate) core: Option<u32>,
    pub(crate) variables: &'a [(String, String)],
}

impl Gateway<'_> {
    /// Starts it and waits until it is ready.
    pub(crate) fn start(&self, ending: &Ending) -> Result<Started> {
        let Self { binary, number, port, redis, core, variables } = self;
        let mut command = pinned(binary, *core);
        // What is set for a gateway in this shell is not meant for this one.
        for (name, _) in env::vars().filter(|(name, _)| is_gateways(name)) {
            command.env_remove(name);
        }
        command.env("WEBSOCKET_HOST", "127.0.0.1").env("WEBSOCKET_PORT", port.to_string());
        command.env("WEBSOCKET_MAX_CONNECTIONS", "1000000").env("NODE_ID", format!("bench-{number}"));
        command.env("RUST_LOG", "warn").envs(redis.map(|url| ("REDIS_URL", url)));
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        starts(ending, &mut command, &binary.display().to_string(), *port, || is_ready(*port))
    }
}

/// Starts a server and waits until it is there; if it is not, tells what it said.
pub(crate) fn starts(
    ending: &Ending,
    command: &mut Command,
    name: &str,
    port: u16,
    is_there: impl Fn() -> bool,
) -> Result<Started> {
    let log = env::temp_dir().join(format!("countersign-bench-{port}.log"));
    let file = std::fs::File::create(&log).with_context(|| format!("making {}", log.display()))?;
    command.stdout(file.try_clone()?).stderr(file);
    let started = ending.start(command).with_context(|| format!("starting {name}"))?;
    let ready = wait_for(name, is_there);
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    // Its words are in `said` now; a file that stays behind is only litter.
    drop(std::fs::remove_file(&log));
    ready.with_context(|| format!("it said: {}", said.trim()))?;
    Ok(started)
}

/// A command that runs on one core, or wherever it is put.
pub(crate) fn pinned(binary: &Path, core: Option<u32>) -> Command {
    let Some(core) = core else { return Command::new(binary) };
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(binary);
    command
}

/// Redis answers there, which it does not before it has read its data.
fn is_redis(port: u16) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return false };
    let mut answer = [0; 5];
    stream.write_all(b"PING\r\n").is_ok() && stream.read_exact(&mut answer).is_ok() && answer == *b"+PONG"
}

fn is_gateways(name: &str) -> bool {
    ["WEBSOCKET_", "REDIS_", "AUTH_", "HISTORY_", "CALLBACK_"].iter().any(|prefix| name.starts_with(prefix))
}

/// Asks `/health/ready` by hand: one request, one line.
pub(crate) fn is_ready(port: u16) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return false };
    let request = b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut answer = String::new();
    stream.write_all(request).is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.contains(" 200 ")
}

pub(crate) fn wait_for(what: &str, is_there: impl Fn() -> bool) -> Result<()> {
    let started = Instant::now();
    while !is_there() {
        ensure!(started.elapsed() < START_TIMEOUT, "{what} is not ready after {START_TIMEOUT:?}");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Everything of this process, and what it starts, on this core.
pub(crate) fn pin_own(core: u32) -> Result<()> {
    let words = ["-a", "-c", "-p", &core.to_string(), &std::process::id().to_string()];
    let done = Command::new("taskset").args(words).stdout(Stdio::null()).status().context("pinning needs taskset")?;
    ensure!(done.success(), "taskset could not pin this process to core {core}: are there two?");
    Ok(())
}

//! One node: the `countersign` binary as a process, with nothing of the tester's environment in it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::api::Api;
use crate::deadline::{PATIENCE, eventually};
use crate::port::free_port;
use crate::process::{Process, Signal};
use crate::redis_server::RedisServer;

/// How a node ended that did not want to run, or was not wanted any more.
#[derive(Debug)]
pub struct Exit {
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Everything that it wrote.
    pub log: String,
}

/// A running node. Killed when dropped; its log is printed when the test fails.
#[derive(Debug)]
pub struct Node {
    builder: NodeBuilder,
    process: Process,
    address: String,
}

impl Node {
    /// A node that would run with the embedded backplane on a port that the system chooses.
    pub fn builder() -> NodeBuilder {
        NodeBuilder { environment: Vec::new(), port: 0, files: None }
    }

    /// `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `ws://127.0.0.1:<port>/ws`.
    pub fn ws_url(&self) -> String {
        format!("ws://{}/ws", self.address)
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A producer's client of this very node.
    pub fn api(&self) -> Api {
        Api::at(self.url())
    }

    /// The process, for its log and signals.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Whether a log line contains `text`.
    pub fn has_logged(&self, text: &str) -> bool {
        self.process.log().iter().any(|line| line.contains(text))
    }

    /// The status of `/health/ready`; 0 when nobody listens.
    pub async fn readiness(&self) -> u16 {
        let api = self.api();
        let asked = api.try_send(reqwest::Method::GET, "/health/ready", &[], None);
        asked.await.map_or(0, |reply| reply.status)
    }

    /// Waits until `/health/ready` has this status.
    pub async fn wait_for_readiness(&self, status: u16) {
        let what = format!("status {status} of {}/health/ready", self.url());
        eventually(PATIENCE, &what, || async { (self.readiness().await == status).then_some(()) }).await;
    }

    /// One number of `/metrics`: the sum over all samples of this name whose labels contain `labels`.
    pub async fn metric(&self, name: &str, labels: &str) -> f64 {
        let reply = self.api().get("/metrics").await;
        assert_eq!(reply.status, 200, "{reply:?}");
        reply
            .text()
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .filter(|(sample, _)| {
                let (sample_name, sample_labels) = sample.split_once('{').unwrap_or((sample, ""));
                sample_name == name && sample_labels.contains(labels)
            })
            .filter_map(|(_, value)| value.parse::<f64>().ok())
            .sum()
    }

    /// Waits until the sum that [`metric`](Self::metric) reads is `expected`.
    pub async fn wait_for_metric(&self, name: &str, labels: &str, expected: f64) {
        let what = format!("{name}{{{labels}}} = {expected}");
        eventually(PATIENCE, &what, || async {
            ((self.metric(name, labels).await - expected).abs() < f64::EPSILON).then_some(())
        })
        .await;
    }

    /// Waits until its wall clock, as its log shows it, is `seconds` before or after the right time.
    pub async fn wait_for_wall_clock(&self, seconds: i64) {
        eventually(PATIENCE, &format!("a log line of a clock set by {seconds} s"), || async {
            // A connection is worth a line.
            drop(crate::Device::of_user(&self.ws_url(), "clockmaker").await);
            let line: Value = serde_json::from_str(self.process.log().last()?).ok()?;
            let logged = seconds_of(line["timestamp"].as_str()?);
            let right = crate::history::now();
            ((logged - right - seconds as f64).abs() < 15.0).then_some(())
        })
        .await;
    }

    /// Resident memory, in bytes.
    pub fn memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let kilobytes =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
        kilobytes.map_or_else(|| panic!("no VmRSS in {status}"), |kilobytes: u64| kilobytes * 1024)
    }

    /// Processor time that it has used.
    pub fn processor_time(&self) -> Duration {
        // Fields 14 and 15 of the line, counted behind the name in brackets, in hundredths of a second.
        let path = format!("/proc/{}/stat", self.process.id());
        let stat = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Files that it has open.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).map_or(0, Iterator::count)
    }

    /// SIGTERM: the node empties itself and ends.
    pub fn terminate(&self) {
        self.process.signal(Signal::Terminate);
    }

    /// SIGKILL, and back when it is gone.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// SIGSTOP: the node stands still, its sockets stay.
    pub fn pause(&self) {
        self.process.signal(Signal::Stop);
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.process.signal(Signal::Continue);
    }

    /// Waits for the end; `None` means that a signal ended it.
    pub async fn wait_exit(&self, deadline: Duration) -> Option<i32> {
        self.process.wait_exit(deadline).await
    }

    /// A new process with the same environment at the same address, after this one has ended. Only for
    /// a node that was started on a fixed port (those of a [`Cluster`](crate::Cluster) are).
    pub async fn restart(&mut self) {
        assert_ne!(self.builder.port, 0, "a restart needs a fixed port");
        self.process.kill();
        *self = self.builder.clone().start().await;
    }

    async fn wait_until_listening(process: &Process) -> Result<String, Exit> {
        eventually(START_DEADLINE, "a node's log line `listening`", || async {
            let lines = process.log();
            if let Some(address) = lines.iter().find_map(|line| listening_address(line)) {
                return Some(Ok(address));
            }
            let code = process.exit_code()?;
            let log = process.last_log().join("\n");
            Some(Err(Exit { code, log }))
        })
        .await
    }
}

/// What a node is to be started with.
#[derive(Clone, Debug)]
pub struct NodeBuilder {
    environment: Vec<(String, String)>,
    port: u16,
    /// What `ulimit` is called with before the node starts.
    files: Option<String>,
}

impl NodeBuilder {
    /// With this Redis as backplane.
    #[must_use]
    pub fn redis(self, redis: &RedisServer) -> Self {
        self.env("REDIS_URL", redis.url())
    }

    /// With this variable; an earlier value is replaced.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// On a port that is known beforehand, so that the node can come back to it.
    #[must_use]
    pub fn fixed_port(mut self) -> Self {
        self.port = free_port();
        self
    }

    /// With at most so many open files (`ulimit -n`).
    #[must_use]
    pub fn open_files(mut self, most: u32) -> Self {
        self.files = Some(format!("-n {most}"));
        self
    }

    /// With a soft limit of so many open files, which the node may raise (`ulimit -S -n`).
    #[must_use]
    pub fn soft_open_files(mut self, most: u32) -> Self {
        self.files = Some(format!("-S -n {most}"));
        self
    }

    /// Starts the node and waits until it is ready.
    pub async fn start(self) -> Node {
        let node = self.start_listening().await;
        node.wait_for_readiness(200).await;
        node
    }

    /// Starts the node and waits only until it listens: ready or not.
    pub async fn start_listening(self) -> Node {
        let process = self.spawn();
        match Node::wait_until_listening(&process).await {
            Ok(address) => Node { builder: self, process, address },
            Err(exit) => panic!("the node ended with {:?}:\n{}", exit.code, exit.log),
        }
    }

    /// Starts a node that has to refuse, and returns how it ended.
    pub async fn refused(self) -> Exit {
        let process = self.spawn();
        match Node::wait_until_listening(&process).await {
            Ok(address) => panic!("the node listens on {address} instead of refusing to start"),
            Err(exit) => exit,
        }
    }

    /// Runs `countersign` with arguments that make it end by itself, such as `--help`.
    pub async fn run(self, arguments: &[&str]) -> Exit {
        let process = Process::spawn("countersign", self.command().args(arguments));
        let code = process.wait_exit(PATIENCE).await;
        Exit { code, log: process.last_log().join("\n") }
    }

    fn spawn(&self) -> Process {
        let name =
            self.environment.iter().find(|(name, _)| name == "NODE_ID").map_or("node", |(_, value)| value.as_str());
        Process::spawn(name, &mut self.command())
    }

    fn command(&self) -> Command {
        let mut command = match &self.files {
            None => Command::new(countersign_binary()),
            Some(limit) => {
                let mut shell = Command::new("/bin/sh");
                shell.arg("-c").arg(format!("ulimit {limit} && exec \"$0\" \"$@\"")).arg(countersign_binary());
                shell
            }
        };
        command
            .env_clear()
            .env("WEBSOCKET_PORT", self.port.to_string())
            .env("LOG_FORMAT", "json")
            .env("RUST_LOG", "info,countersign_gateway=debug,countersign_backplane=debug")
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

const START_DEADLINE: Duration = Duration::from_secs(20);

/// The binary under test: in the target directory of this test, which lies in its `deps`, or of this program, which lies
/// beside it.
pub fn countersign_binary() -> PathBuf {
    let own = std::env::current_exe().expect("a test knows its own path");
    let folder = own.parent().expect("a program lies in a folder");
    let profile = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let binary = profile.join("countersign");
    assert!(binary.is_file(), "there is no {}: `cargo build --workspace` first, or run ./test", binary.display());
    binary
}

/// Unix seconds of an RFC 3339 time.
fn seconds_of(time: &str) -> f64 {
    let date = Command::new("date").args(["-u", "+%s", "-d", time]).output().expect("coreutils have date");
    String::from_utf8_lossy(&date.stdout).trim().parse().unwrap_or_else(|error| panic!("{time}: {error}"))
}

/// The address in the log line that says where a node listens, in either layout of JSON logs.
fn listening_address(line: &str) -> Option<String> {
    let event: Value = serde_json::from_str(line).ok()?;
    let fields = event.get("fields").unwrap_or(&event);
    if fields["message"] != "listening" {
        return None;
    }
    fields["addr"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_from_the_log() {
        let nested = r#"{"level":"INFO","fields":{"message":"listening","addr":"127.0.0.1:9"}}"#;
        let flat = r#"{"level":"INFO","message":"listening","addr":"127.0.0.1:9"}"#;
        for line in [nested, flat] {
            assert_eq!(listening_address(line).as_deref(), Some("127.0.0.1:9"));
        }
        for line in ["not json", r#"{"message":"ready","addr":"127.0.0.1:9"}"#] {
            assert_eq!(listening_address(line), None);
        }
    }
}

//! The soak: a cluster that people, callers, producers and readers use for a long time while one fault after another
//! strikes it. The same processes live through all of it, so that what leaks shows. Every round is audited; the audits
//! themselves are proved by doctored histories.
//!
//! ```text
//! cargo build -p countersign-gateway && cargo run -p countersign-tests --bin soak -- --minutes 60 --seed 1
//! ```
//!
//! A round is one [`Storm`] of questions and one [`Traffic`] of messages around one to three random faults. The run ends
//! with exit code 1 if a round broke a promise, or if something is left over when everybody has gone.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "figures are what such a run is for")]
#![allow(clippy::large_futures, reason = "a soak has a handful of futures, not one for each connection")]

use std::fmt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use fastrand::Rng;
use harness::history::{Notebook, now};
use harness::{Cluster, PATIENCE, Storm, Traffic, eventually, fault_lasts};
use harness::{audit, delivery};

/// Runs a cluster under faults and audits everything that was seen.
#[derive(Debug, Parser)]
struct Soak {
    /// How long to go on beginning new rounds.
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// Chooses the faults, their order and their times.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Gateway nodes behind nginx.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
}

/// What a fault does to the cluster; it is over when [`Fault::strike`] returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// SIGKILL of a node, and a new process in its place.
    KillNode,
    /// SIGTERM of each node in turn.
    RollingRestart,
    /// SIGSTOP of a node.
    PauseNode,
    /// SIGKILL of Redis, and a start from its append-only file.
    RestartRedis,
    /// `CLIENT PAUSE ALL`.
    PauseRedisClients,
    /// SIGSTOP of Redis.
    PauseRedis,
    /// `CLIENT KILL TYPE pubsub`, a few times.
    KillSubscribers,
    /// `CLIENT KILL TYPE normal`: connections of commands.
    KillCommands,
    /// A node's connections to Redis are closed, and new ones refused.
    CutLink,
    /// A node's connections to Redis stand still.
    StallLink,
    /// A node's subscriptions stand still, its commands do not.
    StallSubscriptions,
    /// A node's commands stand still, its subscriptions do not.
    StallCommands,
    /// Everything between a node and Redis is late.
    SlowLink,
    /// A node's connections to Redis vanish without an end.
    ForgetLink,
    /// A node's connections to Redis are reset, and everything is late when they are back.
    ResetSlowLink,
    /// nginx ends with every connection, and starts again.
    RestartNginx,
    /// nginx reads its configuration again.
    ReloadNginx,
}

impl Fault {
    const ALL: [Self; 17] = [
        Self::KillNode,
        Self::RollingRestart,
        Self::PauseNode,
        Self::RestartRedis,
        Self::PauseRedisClients,
        Self::PauseRedis,
        Self::KillSubscribers,
        Self::KillCommands,
        Self::CutLink,
        Self::StallLink,
        Self::StallSubscriptions,
        Self::StallCommands,
        Self::SlowLink,
        Self::ForgetLink,
        Self::ResetSlowLink,
        Self::RestartNginx,
        Self::ReloadNginx,
    ];

    /// Begins, lasts and is over when this returns. Writes down what the audit has to know.
    async fn strike(self, cluster: &mut Cluster, notebook: &Notebook, rng: &mut Rng) {
        let index = rng.usize(..cluster.nodes().len());
        let lasts = Duration::from_millis(rng.u64(500..3_500));
        match self {
            Self::KillNode => {
                cluster.node(index).kill();
                fault_lasts(lasts / 2).await;
                cluster.restart_node(index).await;
            }
            Self::RollingRestart => {
                for index in 0..cluster.nodes().len() {
                    cluster.node(index).terminate();
                    let code = cluster.node(index).wait_exit(Cluster::drain_deadline()).await;
                    assert_eq!(code, Some(0), "node-{} did not drain", index + 1);
                    cluster.restart_node(index).await;
                }
            }
            Self::PauseNode => {
                let from = now();
                cluster.node(index).pause();
                fault_lasts(lasts).await;
                cluster.node(index).resume();
                cluster.node(index).wait_for_readiness(200).await;
                notebook.stood_still(&cluster.node(index).url(), from);
                // Requests through nginx may have met it.
                notebook.stood_still(&cluster.nginx().url(), from);
            }
            Self::RestartRedis => {
                notebook.putting_may_take(PUTTING);
                cluster.redis_mut().kill();
                fault_lasts(lasts / 2).await;
                cluster.redis_mut().restart().await;
            }
            Self::PauseRedisClients => {
                notebook.putting_may_take(PUTTING);
                let pause = lasts.as_millis().to_string();
                let _: () = cluster.redis().query(&["CLIENT", "PAUSE", &pause, "ALL"]).await;
                fault_lasts(lasts).await;
            }
            Self::PauseRedis => {
                notebook.putting_may_take(PUTTING);
                cluster.redis().pause();
                fault_lasts(lasts).await;
                cluster.redis().resume();
            }
            Self::KillSubscribers => {
                for _ in 0..rng.usize(1..6) {
                    let _: u64 = cluster.redis().query(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
                    fault_lasts(lasts / 8).await;
                }
            }
            Self::KillCommands => {
                notebook.putting_may_take(PUTTING);
                for _ in 0..rng.usize(1..6) {
                    let _: u64 = cluster.redis().query(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
                    fault_lasts(lasts / 8).await;
                }
            }
            Self::CutLink | Self::StallLink | Self::StallSubscriptions | Self::StallCommands | Self::SlowLink => {
                notebook.putting_may_take(PUTTING);
                let link = cluster.link(index);
                match self {
                    Self::CutLink => link.cut(),
                    Self::StallLink => link.stall(),
                    Self::StallSubscriptions => link.stall_subscribers(),
                    Self::StallCommands => link.stall_commands(),
                    _ => link.delay(Duration::from_millis(rng.u64(50..400))),
                }
                fault_lasts(lasts).await;
                link.resume();
            }
            Self::ForgetLink => {
                notebook.putting_may_take(PUTTING);
                cluster.link(index).forget();
            }
            Self::ResetSlowLink => {
                notebook.putting_may_take(PUTTING);
                let link = cluster.link(index);
                link.reset();
                link.delay(Duration::from_millis(300));
                fault_lasts(lasts).await;
                link.resume();
            }
            Self::RestartNginx => cluster.nginx_mut().restart().await,
            Self::ReloadNginx => cluster.nginx().reload(),
        }
        for node in cluster.nodes() {
            node.wait_for_readiness(200).await;
        }
    }
}

/// How long a node repeats the script that opens a callback while Redis does not answer, in seconds.
const PUTTING: f64 = 3.0;

/// What all rounds came to.
#[derive(Debug, Default)]
struct Totals {
    rounds: usize,
    faults: usize,
    questions: usize,
    decided: usize,
    accepted: usize,
    delivered: usize,
    gaps: usize,
    latest: f64,
    violations: usize,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, faults, questions, decided, accepted, delivered, gaps, latest, violations } = self;
        write!(f, "{rounds} rounds, {faults} faults; {questions} questions, {decided} decided")?;
        write!(f, "; {accepted} messages accepted, {delivered} deliveries, {gaps} gaps announced")?;
        write!(f, "; latest wait {latest:+.3} s after its deadline; violations {violations}")
    }
}

impl Totals {
    fn add(&mut self, number: usize, faults: &[Fault], questions: &audit::Report, messages: &delivery::Report) {
        self.rounds += 1;
        self.faults += faults.len();
        self.questions += questions.figures.questions;
        self.decided += questions.figures.ended.values().sum::<usize>();
        self.accepted += messages.figures.accepted;
        self.delivered += messages.figures.delivered;
        self.gaps += messages.figures.told;
        self.latest = self.latest.max(questions.figures.latest);
        self.violations += questions.violations.len() + messages.breaches.len();
        for violation in &questions.violations {
            println!("VIOLATION in round {number} ({faults:?}): {violation:?}");
        }
        for breach in &messages.breaches {
            println!("VIOLATION in round {number} ({faults:?}): {breach:?}");
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let soak = Soak::parse();
    let ends = Instant::now() + Duration::from_secs_f64(soak.minutes * 60.0);
    let mut rng = Rng::with_seed(soak.seed);
    let builder = Cluster::builder(soak.nodes).env("HISTORY_SIZE", "2000").env("CALLBACK_RETENTION", "120");
    let mut cluster = builder.env("DRAIN_TIMEOUT", "5").env("RUST_LOG", "info").with_links().start().await;
    // What was acknowledged is on disk: whatever is lost, the gateway has lost it.
    let _: () = cluster.redis().query(&["CONFIG", "SET", "appendfsync", "always"]).await;
    let mut totals = Totals::default();
    let before: Vec<_> = cluster.nodes().iter().map(harness::Node::memory).collect();
    while Instant::now() < ends {
        let number = totals.rounds + 1;
        let faults: Vec<_> = (0..rng.usize(1..4)).map(|_| Fault::ALL[rng.usize(..Fault::ALL.len())]).collect();
        let (questions, messages) = round(&mut cluster, number, &faults, &mut rng).await;
        totals.add(number, &faults, &questions, &messages);
        println!("round {number} {faults:?}\n  {questions}\n  {messages}");
        println!("so far: {totals}");
    }
    let left = left_over(&cluster).await;
    for what in &left {
        println!("VIOLATION: left over: {what}");
    }
    let after: Vec<_> = cluster.nodes().iter().map(harness::Node::memory).collect();
    println!("resident memory of the nodes: {before:?} bytes before, {after:?} bytes after");
    println!("seed {}: {totals}; left over {}", soak.seed, left.len());
    if totals.violations + left.len() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Questions and messages around these faults, audited.
async fn round(
    cluster: &mut Cluster,
    number: usize,
    faults: &[Fault],
    rng: &mut Rng,
) -> (audit::Report, delivery::Report) {
    let mut storm = Storm::through_nginx(cluster);
    (storm.name, storm.users, storm.each) = (format!("round-{number}-"), 5, 4);
    if rng.bool() {
        // Straight to the nodes, each caller and device to the next one when its own is away.
        let urls: Vec<_> = cluster.nodes().iter().map(harness::Node::ws_url).collect();
        storm.doors = cluster.nodes().iter().map(harness::Node::api).collect();
        storm.phones = urls.iter().rev().cloned().collect();
        storm.laptops = urls;
    }
    let mut traffic = Traffic::usual(cluster).await;
    let questions = traffic
        .fault(async |_| {
            storm
                .around(cluster, async |cluster, notebook| {
                    for fault in faults {
                        fault.strike(cluster, notebook, rng).await;
                    }
                })
                .await
        })
        .await;
    (questions, traffic.over().await)
}

/// What is still there although everybody has gone: gauges above zero, and keys that would stay for ever.
async fn left_over(cluster: &Cluster) -> Vec<String> {
    let mut left = Vec::new();
    for node in cluster.nodes() {
        for gauge in ["connections", "waits", "outbox_frames", "callbacks_open", "inbox_waiting", "rooms"] {
            let name = format!("countersign_{gauge}");
            let settled = eventually(PATIENCE, &name, || async {
                let value = node.metric(&name, "").await;
                (value == 0.0).then_some(())
            });
            if tokio::time::timeout(PATIENCE.saturating_sub(Duration::from_secs(1)), settled).await.is_err() {
                left.push(format!("{name} {} at {}", node.metric(&name, "").await, node.url()));
            }
        }
    }
    let mut cursor = "0".to_owned();
    loop {
        let (next, keys): (String, Vec<String>) = cluster.redis().query(&["SCAN", &cursor, "COUNT", "1000"]).await;
        for key in keys {
            // -1: no time to live.
            if cluster.redis().query::<i64>(&["PTTL", &key]).await == -1 && key != "cs:inbox" {
                left.push(key);
            }
        }
        cursor = next;
        if cursor == "0" {
            return left;
        }
    }
}

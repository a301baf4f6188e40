//! A Redis with replicas that three real sentinels watch over, on loopback ports of their own. Gone when dropped.

use std::process::Command;
use std::time::Duration;

use redis::FromRedisValue;
use tempfile::TempDir;

use crate::deadline::{PATIENCE, eventually};
use crate::port::free_port;
use crate::process::Process;
use crate::redis_server::RedisServer;

/// What the sentinels call the master.
const NAME: &str = "main";
const SENTINELS: usize = 3;
/// How many of them have to agree.
const QUORUM: usize = 2;
/// After this long without an answer a sentinel takes a server for dead.
const DOWN_AFTER_MS: u64 = 1000;
/// Sentinel demotes an old master some time after it has promoted another one (ten seconds, if it is not told to look often).
const FOLLOWS_WITHIN: Duration = Duration::from_secs(60);
const START_DEADLINE: Duration = Duration::from_secs(20);

/// The sentinels and the servers.
#[derive(Debug)]
pub struct Sentinels {
    sentinels: Vec<Sentinel>,
    servers: Vec<RedisServer>,
}

#[derive(Debug)]
struct Sentinel {
    port: u16,
    _process: Process,
    _directory: TempDir,
}

impl Sentinels {
    /// Starts a master (server 0) with so many replicas, and three sentinels; returns when all of them know each other.
    pub async fn start(replicas: usize) -> Self {
        let mut servers = vec![RedisServer::start().await];
        servers[0].copy_at_once().await;
        for _ in 0..replicas {
            let replica = RedisServer::start().await;
            replica.copy_at_once().await;
            let _: () = replica.query(&["REPLICAOF", "127.0.0.1", &servers[0].port().to_string()]).await;
            servers.push(replica);
        }
        for replica in &servers[1..] {
            eventually(PATIENCE, "a replica that follows", || async {
                replica.query::<String>(&["INFO", "replication"]).await.contains("master_link_status:up").then_some(())
            })
            .await;
        }
        let mut sentinels = Vec::new();
        while sentinels.len() < SENTINELS {
            // A port that somebody else took is another one's the next time.
            sentinels.extend(Sentinel::start(servers[0].port()).await);
        }
        let started = Self { sentinels, servers };
        for sentinel in &started.sentinels {
            // They look seldom; a test is impatient.
            let often = ["SENTINEL", "DEBUG", "INFO-PERIOD", "1000", "PUBLISH-PERIOD", "500"];
            assert_eq!(sentinel.ask::<String>(&often).await.as_deref(), Some("OK"));
            eventually(PATIENCE, "a sentinel that knows the others", || async {
                let known: Vec<String> = sentinel.ask(&["SENTINEL", "MASTER", NAME]).await?;
                let is = |name: &str, value: usize| {
                    known.iter().position(|word| word == name).is_some_and(|at| known[at + 1] == value.to_string())
                };
                (is("num-other-sentinels", SENTINELS - 1) && is("num-slaves", replicas)).then_some(())
            })
            .await;
        }
        started
    }

    /// `redis+sentinel://127.0.0.1:…,127.0.0.1:…,127.0.0.1:…/main`.
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
        format!("redis+sentinel://{}/{NAME}", hosts.join(","))
    }

    /// A server, in the order of starting.
    pub fn server(&self, index: usize) -> &RedisServer {
        &self.servers[index]
    }

    /// The same, to kill and restart it.
    pub fn server_mut(&mut self, index: usize) -> &mut RedisServer {
        &mut self.servers[index]
    }

    /// Which server most sentinels take for the master.
    pub async fn master(&self) -> Option<usize> {
        let mut votes = vec![0; self.servers.len()];
        for sentinel in &self.sentinels {
            let Some((_, port)) = sentinel.ask::<(String, u16)>(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]).await
            else {
                continue;
            };
            if let Some(at) = self.servers.iter().position(|server| server.port() == port) {
                votes[at] += 1;
            }
        }
        votes.iter().position(|votes| *votes >= QUORUM)
    }

    /// Waits until another server than `before` is the master, by the sentinels and by its own word; which.
    pub async fn wait_for_another_master(&self, before: usize) -> usize {
        eventually(PATIENCE, "another master", || async {
            let master = self.master().await.filter(|master| *master != before)?;
            self.is(master, "role:master").await.then_some(master)
        })
        .await
    }

    /// Waits until a server follows another one.
    pub async fn wait_for_replica(&self, index: usize) {
        eventually(FOLLOWS_WITHIN, "a replica that follows", || async {
            self.is(index, "master_link_status:up").await.then_some(())
        })
        .await;
    }

    /// `SENTINEL FAILOVER`: a replica is promoted although the master is well.
    pub async fn fail_over(&self) {
        eventually(PATIENCE, "a sentinel that begins a failover", || async {
            self.sentinels[0].ask::<String>(&["SENTINEL", "FAILOVER", NAME]).await
        })
        .await;
    }

    async fn is(&self, index: usize, line: &str) -> bool {
        let asked = [String::from("INFO"), String::from("replication")];
        let info: Option<String> = ask(self.servers[index].port(), &asked.each_ref().map(String::as_str)).await;
        info.is_some_and(|info| info.contains(line))
    }
}

impl Sentinel {
    /// Nothing when it did not start.
    async fn start(master: u16) -> Option<Self> {
        let (port, directory) = (free_port(), TempDir::new().expect("a temporary directory can be made"));
        let file = directory.path().join("sentinel.conf");
        let settings = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {NAME} 127.0.0.1 {master} {QUORUM}\n\
             sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}\nsentinel failover-timeout {NAME} 6000\n",
            directory.path().display()
        );
        std::fs::write(&file, settings).expect("a file can be written");
        let mut command = Command::new("redis-sentinel");
        command.arg(&file);
        let process = Process::spawn(format!("redis-sentinel:{port}"), &mut command);
        let answers = || async {
            if process.exit_code().is_some() {
                return Some(false);
            }
            let info: String = ask(port, &["INFO", "server"]).await?;
            info.contains(&format!("process_id:{}\r\n", process.id())).then_some(true)
        };
        let started = eventually(START_DEADLINE, "an answer of redis-sentinel", answers).await;
        started.then_some(Self { port, _process: process, _directory: directory })
    }

    async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> Option<T> {
        ask(self.port, words).await
    }
}

async fn ask<T: FromRedisValue>(port: u16, words: &[&str]) -> Option<T> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).expect("our own URL");
    let mut connection = client.get_multiplexed_async_connection().await.ok()?;
    let mut command = redis::cmd(words.first().copied().unwrap_or_default());
    command.arg(words.get(1..).unwrap_or_default());
    command.query_async(&mut connection).await.ok()
}

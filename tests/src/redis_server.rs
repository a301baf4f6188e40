//! A real `redis-server` on a loopback port of its own, with the configuration file that the shipped
//! deployment uses, in a directory that is gone afterwards.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use redis::{AsyncConnectionConfig, FromRedisValue};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::deadline::{PATIENCE, eventually};
use crate::port::free_port;
use crate::process::{Process, Signal};
use crate::repository;
use crate::wall_clock::WallClock;

/// One Redis. Killed when dropped.
#[derive(Debug)]
pub struct RedisServer {
    port: u16,
    directory: TempDir,
    options: Vec<String>,
    environment: Vec<(&'static str, String)>,
    process: Option<Process>,
}

impl RedisServer {
    /// Starts a Redis and waits until it answers.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with more options.
    pub async fn start_with(options: &[&str]) -> Self {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Self { options, ..Self::reserved() }.started().await
    }

    /// Starts a Redis that has its wall clock from `clock`.
    pub async fn start_at(clock: &WallClock) -> Self {
        let mut environment = clock.environment();
        for (name, value) in &mut environment {
            if *name == "LD_PRELOAD" {
                // The C library before the allocator that Redis is linked with: that one and libfaketime call each other
                // before either is ready.
                value.push_str(" libc.so.6");
            }
        }
        Self { environment, ..Self::reserved() }.started().await
    }

    async fn started(self) -> Self {
        let mut server = self;
        for attempt in 1.. {
            server.launch();
            match server.wait_until_ready().await {
                Ok(()) => break,
                Err(why) if attempt == ATTEMPTS => panic!("redis-server did not start: {why}"),
                Err(_) => server.port = free_port(),
            }
        }
        server
    }

    /// An address without a server yet: for a node that is there before its Redis. `restart` starts it.
    pub fn reserved() -> Self {
        let directory = TempDir::new().expect("a temporary directory can be made");
        Self { port: free_port(), directory, options: Vec::new(), environment: Vec::new(), process: None }
    }

    /// Starts it again at the same address, from its append-only file, and waits until it answers.
    pub async fn restart(&mut self) {
        self.kill();
        self.launch();
        if let Err(why) = self.wait_until_ready().await {
            panic!("redis-server did not come back on port {}: {why}", self.port);
        }
    }

    /// Starts it again at the same address with nothing in it.
    pub async fn restart_empty(&mut self) {
        self.kill();
        self.directory = TempDir::new().expect("a temporary directory can be made");
        self.restart().await;
    }

    /// A copy of what is on its disk now, for [`Self::restart_from`].
    pub fn copy(&self) -> TempDir {
        let copy = TempDir::new().expect("a temporary directory can be made");
        copy_directory(self.directory.path(), copy.path());
        copy
    }

    /// SIGKILL, and a start at the same address from an older copy of its disk: what it has acknowledged since is lost, as
    /// with `appendfsync everysec`, an asynchronous failover or a restored volume.
    pub async fn restart_from(&mut self, copy: TempDir) {
        self.kill();
        self.directory = copy;
        self.restart().await;
    }

    /// `redis://127.0.0.1:<port>/0`.
    pub fn url(&self) -> String {
        format!("redis://{}/0", self.address())
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// SIGKILL. Connects are refused afterwards; what the append-only file has survives.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// A replica gets its copy as soon as it asks for it, and not some seconds later.
    pub async fn copy_at_once(&self) {
        let _: () = self.query(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]).await;
    }

    /// Whether it is not running because it was killed.
    pub fn is_killed(&self) -> bool {
        self.process.is_none()
    }

    /// SIGSTOP: connects are accepted by the kernel, nothing is answered.
    pub fn pause(&self) {
        self.running().signal(Signal::Stop);
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.running().signal(Signal::Continue);
    }

    /// Runs one command on a connection of its own, for as long as it takes (`BLPOP`), but never longer
    /// than a test's patience.
    pub async fn query<T: FromRedisValue>(&self, command: &[&str]) -> T {
        self.try_query(command).await.unwrap_or_else(|why| panic!("{command:?}: {why}"))
    }

    /// How many of the nodes listen to a channel: `PUBSUB NUMSUB`.
    pub async fn listeners(&self, channel: &str) -> u64 {
        let (_, count): (String, u64) = self.query(&["PUBSUB", "NUMSUB", channel]).await;
        count
    }

    /// Waits until exactly `count` nodes listen to a channel.
    pub async fn wait_for_listeners(&self, channel: &str, count: u64) {
        let what = format!("{count} nodes that listen to {channel}");
        eventually(PATIENCE, &what, || async { (self.listeners(channel).await == count).then_some(()) }).await;
    }

    async fn try_query<T: FromRedisValue>(&self, command: &[&str]) -> Result<T, String> {
        let run = async {
            let client = redis::Client::open(self.url())?;
            let config = AsyncConnectionConfig::new().set_response_timeout(None);
            let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            let mut cmd = redis::cmd(command.first().copied().unwrap_or_default());
            cmd.arg(command.get(1..).unwrap_or_default());
            cmd.query_async(&mut connection).await
        };
        match timeout(PATIENCE, run).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(redis::RedisError::to_string(&error)),
            Err(_) => Err(format!("no answer within {PATIENCE:?}")),
        }
    }

    fn launch(&mut self) {
        // A copy, because Sentinel has its servers rewrite theirs.
        let settings = self.directory.path().join("redis.conf");
        std::fs::copy(repository().join("deploy/redis.conf"), &settings).expect("the shipped file can be copied");
        let mut command = Command::new("redis-server");
        command
            .arg(&settings)
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .arg("--dir")
            .arg(self.directory.path())
            // No snapshots: the append-only file is what the deployment relies on.
            .args(["--save", "", "--daemonize", "no"])
            .args(&self.options)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.process = Some(Process::spawn(format!("redis-server:{}", self.port), &mut command));
    }

    /// Ready is: it answers, and it is our child that answers.
    async fn wait_until_ready(&self) -> Result<(), String> {
        let process = self.running();
        let mine = format!("process_id:{}\r\n", process.id());
        eventually(START_DEADLINE, "an answer of redis-server", || async {
            if process.exit_code().is_some() {
                return Some(Err(process.log().join("\n")));
            }
            let info: String = self.try_query(&["INFO", "server"]).await.ok()?;
            info.contains(&mine).then_some(Ok(()))
        })
        .await
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("this Redis is running")
    }
}

fn copy_directory(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a directory can be read") {
        let entry = entry.expect("a directory can be read");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a file has a type").is_dir() {
            std::fs::create_dir(&target).expect("a directory can be made");
            copy_directory(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).expect("a file can be copied");
        }
    }
}

const ATTEMPTS: u32 = 5;
const START_DEADLINE: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_written_survives_a_kill_and_a_restart() {
        let mut redis = RedisServer::start().await;
        let _: () = redis.query(&["SET", "a", "1"]).await;
        // `everysec` would be allowed to lose it: have it on disk first.
        let _: () = redis.query(&["CONFIG", "SET", "appendfsync", "always"]).await;
        let _: () = redis.query(&["SET", "b", "2"]).await;
        let url = redis.url();
        redis.kill();
        assert!(redis.try_query::<String>(&["PING"]).await.is_err());
        redis.restart().await;
        assert_eq!(redis.url(), url);
        let kept: Vec<String> = redis.query(&["MGET", "a", "b"]).await;
        assert_eq!(kept, ["1", "2"]);
    }

    #[tokio::test]
    async fn a_paused_redis_answers_after_it_was_resumed() {
        let redis = RedisServer::start().await;
        redis.pause();
        let late = timeout(Duration::from_millis(100), redis.try_query::<String>(&["PING"]));
        assert!(late.await.is_err(), "a paused Redis does not answer");
        redis.resume();
        assert_eq!(redis.query::<String>(&["PING"]).await, "PONG");
    }

    #[tokio::test]
    async fn the_shipped_configuration_never_evicts() {
        let redis = RedisServer::start().await;
        let policy: Vec<String> = redis.query(&["CONFIG", "GET", "maxmemory-policy"]).await;
        assert_eq!(policy, ["maxmemory-policy", "noeviction"]);
        let buffer: Vec<String> = redis.query(&["CONFIG", "GET", "client-output-buffer-limit"]).await;
        assert!(buffer[1].contains("pubsub 268435456 67108864 60"), "{buffer:?}");
    }

    #[tokio::test]
    async fn listeners_are_counted() {
        let redis = RedisServer::start().await;
        assert_eq!(redis.listeners("cs:user:nobody").await, 0);
        let client = redis::Client::open(redis.url()).expect("our own URL");
        let mut subscriber = client.get_async_pubsub().await.expect("a connection");
        subscriber.subscribe("cs:user:a").await.expect("subscribed");
        redis.wait_for_listeners("cs:user:a", 1).await;
    }
}

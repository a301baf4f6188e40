//! One's own `redis-server`, and a plain client of it.

use redis::{Cmd, FromRedisValue, aio::MultiplexedConnection};

use crate::support::RedisServer;

/// A server that a test may treat as it likes.
pub(crate) struct Server {
    pub(crate) process: RedisServer,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self { process: RedisServer::start() }
    }

    /// The same with more options.
    pub(crate) fn with(options: &[&str]) -> Self {
        Self { process: RedisServer::start_with(options) }
    }

    pub(crate) fn url(&self) -> String {
        self.process.url()
    }

    /// Stops its process without ending it: connections are accepted, nothing is answered.
    pub(crate) fn pause(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.pid().expect("the server runs").to_string();
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// A client of it.
    pub(crate) async fn client(&self) -> Client {
        let client = redis::Client::open(self.url()).unwrap();
        Client(client.get_multiplexed_async_connection().await.unwrap())
    }
}

/// A plain client.
#[derive(Clone)]
pub(crate) struct Client(MultiplexedConnection);

impl Client {
    /// Runs a command of words.
    pub(crate) async fn ask<T: FromRedisValue>(&mut self, words: &str) -> T {
        let mut words = words.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        for word in words {
            command.arg(word);
        }
        self.run(&command).await
    }

    /// Runs a command.
    pub(crate) async fn run<T: FromRedisValue>(&mut self, command: &Cmd) -> T {
        command.query_async(&mut self.0).await.unwrap()
    }

    /// Every key there is.
    pub(crate) async fn keys(&mut self) -> Vec<String> {
        let mut keys: Vec<String> = self.ask("KEYS *").await;
        keys.sort();
        keys
    }
}

//! A real `redis-server` for tests: on a free loopback port, in a directory of its own, without persistence, killed
//! when the last test that uses it ends.
#![allow(dead_code, reason = "every test binary compiles this module and uses a part of it")]

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tempfile::TempDir;

mod cluster;
mod patience;

#[allow(unused_imports, reason = "every test binary compiles this module and uses a part of it")]
pub(crate) use cluster::RedisCluster;
#[allow(unused_imports, reason = "every test binary compiles this module and uses a part of it")]
pub(crate) use patience::{PATIENCE, eventually};

/// How long a server may take to answer after its start.
const START_WITHIN: Duration = Duration::from_secs(10);

/// A running `redis-server`.
#[derive(Debug)]
pub(crate) struct RedisServer {
    port: u16,
    process: Mutex<Option<Child>>,
    directory: TempDir,
    options: Vec<String>,
}

impl RedisServer {
    /// A server of one's own, to be stopped, killed and filled at will.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with more options.
    pub(crate) fn start_with(options: &[&str]) -> Self {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let directory = TempDir::new().expect("a temporary directory can be made");
        // Somebody else may take the port between the look and the start; then the server says so by exiting.
        for _ in 0..10 {
            let port = free_port();
            if let Some(process) = launch(port, &directory, &options) {
                return Self { port, process: Mutex::new(Some(process)), directory, options };
            }
        }
        panic!("redis-server did not start; its log is {:?}", log(&directory));
    }

    /// A server of one's own with the user of [`Self::url_with_few_rights`].
    pub(crate) fn start_for_few_rights() -> Self {
        // The rights that are shipped, for the prefixes of tests.
        let rights = shipped_rights().replace("~cs:*", "~t*").replace("&cs:*", "&t*");
        let words = ["--user", "countersign", "on", ">secret"].into_iter().chain(rights.split(' '));
        Self::start_with(&words.collect::<Vec<_>>())
    }

    /// As [`Self::url`], as a user who has no more rights than those that are shipped.
    pub(crate) fn url_with_few_rights(&self) -> String {
        self.url().replace("redis://", "redis://countersign:secret@")
    }

    /// A server on this port, with more options; nothing when somebody else has taken the port.
    fn start_at(port: u16, options: &[String]) -> Option<Self> {
        let directory = TempDir::new().expect("a temporary directory can be made");
        let process = launch(port, &directory, options)?;
        Some(Self { port, process: Mutex::new(Some(process)), directory, options: options.to_vec() })
    }

    /// The server that the tests of this process share. Each takes a [`fresh_prefix`] of its own, and none may stop
    /// the server or change its configuration.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<RedisServer>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::start_for_few_rights());
            *shared = Arc::downgrade(&server);
            server
        })
    }

    /// `redis://127.0.0.1:<port>/`.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The process id, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Child::id)
    }

    /// Kills it; what it held is gone.
    pub(crate) fn kill(&self) {
        if let Some(mut process) = self.process.lock().unwrap_or_else(PoisonError::into_inner).take() {
            process.kill().expect("a child can be killed");
            process.wait().expect("a killed child can be waited for");
        }
    }

    /// Writes a snapshot: what it holds now is there when it starts again.
    pub(crate) fn save(&self) {
        let reply = self.command(&[b"SAVE"]);
        assert!(reply.starts_with("+OK"), "SAVE was answered {reply:?}");
    }

    /// Starts it again, empty or from its snapshot, on the same port.
    pub(crate) fn start_again(&self) {
        self.kill();
        let deadline = Instant::now() + START_WITHIN;
        let process = loop {
            if let Some(process) = launch(self.port, &self.directory, &self.options) {
                break process;
            }
            assert!(Instant::now() < deadline, "redis-server did not start again: {:?}", log(&self.directory));
        };
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
    }

    /// Sends one command and returns the beginning of the raw reply, such as `+OK\r\n`.
    pub(crate) fn command(&self, words: &[&[u8]]) -> String {
        ask(self.port, words).expect("the server answers")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The rights of the user in `deploy/redis/users.acl`, but for the password.
pub(crate) fn shipped_rights() -> String {
    let user = SHIPPED_USERS.lines().find_map(|line| line.strip_prefix("user countersign on resetpass "));
    user.expect("the file has our user").to_owned()
}

const SHIPPED_USERS: &str = include_str!("../../../../deploy/redis/users.acl");

/// A prefix that no other test of this process uses.
pub(crate) fn fresh_prefix() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A loopback port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("a loopback port can be bound")
        .port()
}

/// Starts a server and waits until it, and nobody else on its port, answers; `None` when it exited.
fn launch(port: u16, directory: &TempDir, options: &[String]) -> Option<Child> {
    let log = directory.path().join("log");
    let mut process = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .args(["--maxmemory-policy", "noeviction", "--logfile"])
        .arg(&log)
        .arg("--dir")
        .arg(directory.path())
        .args(options)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("these tests need redis-server (or a link of this name to valkey-server) on the PATH");
    let deadline = Instant::now() + START_WITHIN;
    let itself = format!("process_id:{}\r\n", process.id());
    loop {
        if ask(port, &[b"INFO", b"server"]).is_ok_and(|reply| reply.contains(&itself)) {
            return Some(process);
        }
        if process.try_wait().expect("a child can be asked for its state").is_some() {
            return None;
        }
        if Instant::now() > deadline {
            process.kill().expect("a child can be killed");
            process.wait().expect("a killed child can be waited for");
            return None;
        }
        // A poll of a process that has no other way to say that it listens.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One command over a connection of its own, blocking.
fn ask(port: u16, words: &[&[u8]]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut command = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        command.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        command.extend_from_slice(word);
        command.extend_from_slice(b"\r\n");
    }
    stream.write_all(&command)?;
    // QUIT makes the server close after its reply, so that the end of the reply is the end of the stream.
    stream.write_all(b"*1\r\n$4\r\nQUIT\r\n")?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply)?;
    Ok(String::from_utf8_lossy(&reply).into_owned())
}

fn log(directory: &TempDir) -> String {
    std::fs::read_to_string(directory.path().join("log")).unwrap_or_default()
}

//! A real Redis Cluster for tests: three masters (and replicas, if asked for) on free loopback ports, killed when the last
//! test that uses them ends.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use super::{RedisServer, free_port};

/// How long a cluster may take to agree.
const AGREE_WITHIN: Duration = Duration::from_secs(20);

/// A running Redis Cluster.
#[derive(Debug)]
pub(crate) struct RedisCluster {
    /// The masters in the order of their slots, as far as no failover has changed that; then a replica of each.
    servers: Vec<RedisServer>,
}

impl RedisCluster {
    /// Three masters of one's own, to be killed and resharded at will. That one of them is missing is no reason for the others to
    /// refuse their slots.
    pub(crate) fn start() -> Self {
        Self::of(1, QUICK)
    }

    /// The same with a replica of each master, that takes over soon when it is killed.
    pub(crate) fn with_replicas() -> Self {
        Self::of(2, QUICK)
    }

    fn of(copies: usize, node_timeout: Duration) -> Self {
        let servers: Vec<_> = (0..MASTERS * copies).map(|_| launch(node_timeout)).collect();
        let cluster = Self { servers };
        cluster.form();
        cluster
    }

    fn form(&self) {
        let (masters, replicas) = self.servers.split_at(MASTERS);
        for (n, server) in masters.iter().enumerate() {
            let (from, to) = (n * 16384 / MASTERS, (n + 1) * 16384 / MASTERS - 1);
            server.told(&format!("CLUSTER ADDSLOTSRANGE {from} {to}"));
            server.told(&format!("CLUSTER SET-CONFIG-EPOCH {}", n + 1));
        }
        for server in self.servers.iter().skip(1) {
            server.told(&format!("CLUSTER MEET 127.0.0.1 {} {}", self.servers[0].port(), self.bus_port()));
        }
        self.until("everybody knows everybody", || {
            let known = format!("cluster_known_nodes:{}\r\n", self.servers.len());
            self.servers.iter().all(|server| server.words("CLUSTER INFO").contains(&known))
        });
        for (n, replica) in replicas.iter().enumerate() {
            let master = id(&masters[n]);
            self.until("a replica has its master", || {
                replica.words(&format!("CLUSTER REPLICATE {master}")).starts_with("+OK")
            });
        }
        self.until("cluster_state:ok everywhere", || {
            let ok = |server: &RedisServer| {
                let info = server.words("CLUSTER INFO");
                info.contains("cluster_state:ok\r\n") && info.contains("cluster_slots_ok:16384\r\n")
            };
            self.servers.iter().all(ok)
        });
        // What is published before two servers have shaken hands does not reach the other.
        self.until("everybody is connected with everybody", || {
            self.servers.iter().all(|server| {
                let nodes = server.words("CLUSTER NODES");
                !nodes.contains("handshake") && !nodes.contains("disconnected")
            })
        });
        self.until("every replica is in step", || {
            replicas.iter().all(|replica| replica.words("INFO replication").contains("master_link_status:up"))
        });
    }

    fn bus_port(&self) -> u16 {
        bus_port(self.servers[0].port())
    }

    /// The cluster that the tests of this process share. Each takes a prefix of its own, and none may break it.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<RedisCluster>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let cluster = Arc::new(Self::of(1, CALM));
            *shared = Arc::downgrade(&cluster);
            cluster
        })
    }

    /// `redis://127.0.0.1:<port>` of every server, separated by commas.
    pub(crate) fn url(&self) -> String {
        let url = |server: &RedisServer| format!("redis://127.0.0.1:{}", server.port());
        self.servers.iter().map(url).collect::<Vec<_>>().join(",")
    }

    /// The servers: masters, then replicas.
    pub(crate) fn servers(&self) -> &[RedisServer] {
        &self.servers
    }

    /// The masters at the start.
    pub(crate) fn masters(&self) -> &[RedisServer] {
        &self.servers[..MASTERS]
    }

    /// The server that has the key now, by the word of the `asked` one.
    pub(crate) fn owner(&self, asked: usize, key: &str) -> &RedisServer {
        let reply = self.servers[asked].words(&format!("EXISTS {key}"));
        let Some(moved) = reply.strip_prefix("-MOVED ") else { return &self.servers[asked] };
        let port: u16 = moved.split_whitespace().nth(1).unwrap().rsplit_once(':').unwrap().1.parse().unwrap();
        self.servers.iter().find(|server| server.port() == port).unwrap()
    }

    /// A slot whose keys have moved has moved, and everybody is told.
    pub(crate) fn end_move(&self, slot: u16, to: &RedisServer) {
        for master in self.masters() {
            master.told(&format!("CLUSTER SETSLOT {slot} NODE {}", id(to)));
        }
    }

    /// Kills all; what they held is gone.
    pub(crate) fn kill(&self) {
        self.servers.iter().for_each(RedisServer::kill);
    }

    /// Starts all again, empty, on the same ports. They remember the cluster.
    pub(crate) fn start_again(&self) {
        self.servers.iter().for_each(RedisServer::start_again);
        self.until("cluster_state:ok again", || {
            self.servers.iter().all(|server| server.words("CLUSTER INFO").contains("cluster_state:ok\r\n"))
        });
    }

    fn until(&self, what: &str, is: impl Fn() -> bool) {
        let deadline = Instant::now() + AGREE_WITHIN;
        while !is() {
            let states = || self.servers.iter().map(|server| server.words("CLUSTER INFO")).collect::<String>();
            assert!(Instant::now() < deadline, "the Redis Cluster waited in vain until {what}: {}", states());
            // Processes that have no other way to say it.
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl RedisServer {
    /// A command of words; the beginning of the raw reply, or nothing from a server that is not there.
    pub(crate) fn words(&self, words: &str) -> String {
        let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        super::ask(self.port(), &words).unwrap_or_default()
    }

    /// The slot of a key.
    pub(crate) fn slot(&self, key: &str) -> u16 {
        let reply = self.words(&format!("CLUSTER KEYSLOT {key}"));
        reply.trim_start_matches(':').split("\r\n").next().unwrap().parse().unwrap()
    }

    /// How many slots are on their way to it.
    pub(crate) fn slots_imported(&self) -> usize {
        self.words("CLUSTER NODES").matches("-<-").count()
    }

    /// Begins to give a slot to another server of the cluster, as an operator does.
    pub(crate) fn begin_to_give(&self, slot: u16, to: &Self) {
        to.told(&format!("CLUSTER SETSLOT {slot} IMPORTING {}", id(self)));
        self.told(&format!("CLUSTER SETSLOT {slot} MIGRATING {}", id(to)));
    }

    /// Gives the keys of the slot, one by one.
    pub(crate) fn give_keys(&self, slot: u16, to: &Self) {
        let reply = self.words(&format!("CLUSTER GETKEYSINSLOT {slot} 1000"));
        for key in reply.split("\r\n").filter(|line| line.contains('{')) {
            self.told(&format!("MIGRATE 127.0.0.1 {} {key} 0 5000", to.port()));
        }
    }

    fn told(&self, words: &str) {
        let reply = self.words(words);
        assert!(reply.starts_with("+OK"), "{words} was answered {reply:?}");
    }
}

/// The name of a server in its cluster.
fn id(server: &RedisServer) -> String {
    server.words("CLUSTER MYID").lines().nth(1).unwrap().to_owned()
}

fn launch(node_timeout: Duration) -> RedisServer {
    // Servers of a cluster talk to each other on a second port.
    for _ in 0..50 {
        let port = free_port();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, bus_port(port))).is_ok()
            && let Some(server) = RedisServer::start_at(port, &options(port, node_timeout))
        {
            return server;
        }
    }
    panic!("redis-server did not start as a part of a cluster");
}

fn options(port: u16, node_timeout: Duration) -> Vec<String> {
    let mut options = vec!["--cluster-port".to_owned(), bus_port(port).to_string()];
    options.extend(["--cluster-node-timeout".to_owned(), node_timeout.as_millis().to_string()]);
    options.extend(CLUSTER_OPTIONS.map(str::to_owned));
    options
}

/// Ports of the kernel's choice are above 32768, and 10000 more may be too much.
fn bus_port(port: u16) -> u16 {
    port - 10_000
}

const MASTERS: usize = 3;
/// So a failover in a test takes some three seconds.
const QUICK: Duration = Duration::from_secs(2);
/// Servers cut each other's links, and lose what is published on them, when one is silent for half of this: where nothing is
/// killed, a busy machine must not be taken for a death.
const CALM: Duration = Duration::from_secs(60);
const CLUSTER_OPTIONS: [&str; 8] = [
    "--cluster-enabled",
    "yes",
    "--cluster-require-full-coverage",
    "no",
    "--cluster-replica-validity-factor",
    "0",
    "--cluster-config-file",
    "nodes.conf",
];

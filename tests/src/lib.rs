//! The harness of the cluster tests, as a library: real servers, started by a test and gone with it.
//!
//! Nothing here is simulated. [`RedisServer`] is a real `redis-server`, [`Nginx`] runs the nginx
//! configuration that the project ships, [`Node`] is the `countersign` binary as a process, and a
//! [`Cluster`] is all of them together. [`Device`] is a person's browser reduced to a WebSocket that
//! shows every frame and [`Api`] is a producer's HTTP client.
//! [`TcpProxy`] stands between any two of them when a test wants the network to misbehave.
//!
//! | file | noun |
//! |---|---|
//! | `deadline.rs` | [`eventually`]: the only place that polls |
//! | `port.rs` | free loopback ports for servers that cannot be asked for port 0 |
//! | `process.rs` | a child process with its log, ended when dropped |
//! | `redis_server.rs`, `sentinels.rs`, `nginx.rs`, `node.rs`, `nodes.rs`, `cluster.rs` | the servers |
//! | `device.rs`, `api.rs`, `token.rs` | the clients |
//! | `certificates.rs` | an authority of one's own, for TLS |
//! | `raw_client.rs` | a client that shows what is on the wire, and reads when it is told to |
//! | `browser.rs` | headless chromium, for the pages that a node serves |
//! | `proxy.rs` | a TCP connection that can be late, stalled, cut, reset and forgotten |
//! | `history.rs`, `audit.rs` | what people and callers saw, and whether it keeps the promises |
//! | `person.rs`, `caller.rs`, `scene.rs` | people who answer and come back, callers who insist, all of them together |
//! | `seat.rs` | a device moved by hand whose every message is written down |
//! | `knocks.rs` | clients who knock on a door that goes away |
//! | `storm.rs` | one fault in the middle of everything |
//! | `ledger.rs`, `delivery.rs` | what was published and read, and whether anything was lost, repeated or disordered |
//! | `press.rs`, `reader.rs`, `sdk_reader.rs`, `traffic.rs` | producers who insist, readers who come back, all of them around a fault |
//! | `fault.rs` | time that passes on purpose |
//! | `wall_clock.rs` | a wall clock that a test sets |
//!
//! A scenario never sleeps. It waits for a condition with a deadline, and when the deadline passes the
//! panic says what was awaited and what was seen instead; the logs of all nodes follow on stderr.
//!
//! The `countersign` binary is taken from the target directory in which the test itself was built, so it
//! has to be there: `cargo build --workspace` first, or simply `./test`.

#![forbid(unsafe_code)]
#![allow(clippy::panic, reason = "a harness has one way to say that the world is not as the test needs it")]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

mod api;
pub mod audit;
pub mod browser;
mod caller;
mod certificates;
mod cluster;
mod deadline;
pub mod delivery;
mod device;
mod fault;
pub mod history;
pub mod knocks;
pub mod ledger;
mod nginx;
mod node;
mod nodes;
mod person;
mod port;
mod press;
mod process;
mod proxy;
mod raw_client;
mod reader;
mod redis_server;
mod scene;
mod sdk_reader;
mod seat;
mod sentinels;
mod storm;
mod token;
mod traffic;
mod wall_clock;

pub use api::{Api, Reply, callback_id};
pub use caller::{Ask, Caller};
pub use certificates::Authority;
pub use cluster::{Cluster, ClusterBuilder};
pub use deadline::{PATIENCE, eventually};
pub use device::{Closed, Device, Refusal};
pub use fault::{Lag, aimed_at, fault_lasts};
pub use nginx::Nginx;
pub use node::{Exit, Node, NodeBuilder, countersign_binary};
pub use nodes::Nodes;
pub use person::Person;
pub use port::free_port;
pub use process::{Process, Signal};
pub use proxy::TcpProxy;
pub use raw_client::RawClient;
pub use reader::Reader;
pub use redis_server::RedisServer;
pub use scene::Scene;
pub use seat::Seat;
pub use sentinels::Sentinels;
pub use storm::Storm;
pub use token::token;
pub use traffic::Traffic;
pub use wall_clock::WallClock;

use std::path::{Path, PathBuf};

/// The root of the repository: where `nginx/`, `deploy/` and `docker-compose.yml` are.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate lies in the workspace").to_path_buf()
}

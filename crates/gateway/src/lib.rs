//! The gateway node of Countersign, as a library.
//!
//! [`Gateway::start`] serves on an address of its own; [`Gateway::open`] gives a router to be nested in another server.
//!
//! A tour, one sentence a file:
//! - [`gateway`]: the node as a library, and how it ends.
//! - `node`: what everything in one process shares.
//! - [`config`]: the environment, read once and validated as a whole.
//! - [`auth`]: who may enter through the clients' and the producers' door.
//! - `server`: the listener and the limits of HTTP.
//! - `http_connections`: how many HTTP connections there are at once.
//! - [`files`]: how many files may be open, and for whom.
//! - `http`: reads requests and shapes replies.
//! - `transport`: from a request to a WebSocket.
//! - `alarms`: when connections want to be woken.
//! - `wire`: the socket under a connection.
//! - `connection`: one WebSocket, one owner, one loop.
//! - `conformance`: an echo over the same connections, for the testsuite of the protocol.
//! - `session`: what a client may do once connected.
//! - `subscriptions`: subscribe, then read, then live.
//! - `hub`: which connection hears what, and the fan-out.
//! - `writers`: who writes what a fan-out has put into outboxes.
//! - `relay`: turns what the backplane hears into frames, once per node.
//! - `callbacks`: asking a person and waiting, on any node.
//! - `catch_up`: holes are filled in from history, or told.
//! - `tasks`: cancelling.
//! - `heartbeats`: "still executing", kept up by the cluster.
//! - `receipts`: messages that want to be acknowledged.
//! - `presence`: who is in a topic.
//! - `user_connections`: the connections of users, in the whole cluster.
//! - `leases`: what a node holds in the backplane for as long as it lives.
//! - `waiters`: who waits for what on this node.
//! - `inbox`: reading the durable door of producers.
//! - `publishing`: one way from every door to the backplane.
//! - [`status`]: what a node knows of itself and of the others.
//! - [`metrics`]: what Prometheus scrapes.
//! - [`logging`]: one line an event, nothing per message.
//! - `log_queue`: lines on their way out, which nothing waits for.
//! - `seldom`: lines of the log that outsiders can provoke.
//! - `hex`: bytes as digits.
//! - `shutdown`: the phases of a node's end.
//! - [`error`]: what can go wrong with a request, and what to do next.
#![forbid(unsafe_code)]

mod alarms;
pub mod auth;
mod callbacks;
mod catch_up;
mod clock;
pub mod config;
#[cfg(feature = "conformance")]
#[doc(hidden)]
pub mod conformance;
mod connection;
pub mod error;
pub mod files;
pub mod gateway;
mod heartbeats;
mod hex;
mod http;
mod http_connections;
mod hub;
mod inbox;
mod leases;
mod log_queue;
pub mod logging;
pub mod metrics;
mod node;
mod presence;
mod publishing;
mod receipts;
mod relay;
mod seldom;
mod server;
mod session;
mod shutdown;
#[cfg(test)]
mod simulation;
pub mod status;
mod subscriptions;
mod tasks;
mod transport;
mod user_connections;
mod waiters;
mod wire;
mod writers;

pub use config::Config;
pub use error::GatewayError;
pub use gateway::{Gateway, Running};
pub use node::StartError;

//! What only Redis can do to its backplane: die, come back, forget its scripts, cut connections, be slow, run out of memory;
//! and what only this backplane does to a Redis: keys, their lives and their size, and how many commands a verb takes;
//! and how it shares one with an older version.
//! What every backplane does is in the conformance suite.
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test that is how to say that it failed")]

mod support;

#[path = "redis/absence.rs"]
mod absence;
#[path = "redis/faults.rs"]
mod faults;
#[path = "redis/footprint.rs"]
mod footprint;
#[path = "redis/full.rs"]
mod full;
#[path = "redis/losing.rs"]
mod losing;
#[path = "redis/node.rs"]
mod node;
#[path = "redis/old_node.rs"]
mod old_node;
#[path = "redis/proxy.rs"]
mod proxy;
#[path = "redis/roles.rs"]
mod roles;
#[path = "redis/rolling.rs"]
mod rolling;
#[path = "redis/server.rs"]
mod server;
#[path = "redis/unfit.rs"]
mod unfit;

//! What only a Redis Cluster can do to its backplane: keep keys on three masters, lose one of them, promote a replica, give a slot
//! away. What every backplane does is in the conformance suite.
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test that is how to say that it failed")]

mod support;

#[path = "redis/node.rs"]
#[allow(dead_code, reason = "another test binary uses the rest")]
mod node;

#[path = "cluster/faults.rs"]
mod faults;
#[path = "cluster/spread.rs"]
mod spread;

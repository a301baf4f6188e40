//! The durable door in a real Redis: entries come in order to one node at a time, whoever dies when; what is wrong is put aside;
//! and a decision comes to the reply list that its question named, at least once.
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test that is how to say that it failed")]

mod support;

#[path = "redis/node.rs"]
#[allow(dead_code, reason = "another test binary uses the rest")]
mod node;
#[path = "redis/server.rs"]
#[allow(dead_code, reason = "another test binary uses the rest")]
mod server;

#[path = "inbox/entries.rs"]
mod entries;
#[path = "inbox/publishing.rs"]
mod publishing;
#[path = "inbox/replies.rs"]
mod replies;

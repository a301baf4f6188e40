//! Rust SDK of Countersign: ask people and wait, publish, listen, confirm.
//!
//! A backend holds a [`Producer`]; what shows things to a person holds a [`Connection`].
//!
//! A tour, one sentence a file:
//! - `producer`: a backend's client: ask, cancel, read, over HTTP.
//! - `messages`: what a backend publishes.
//! - `ask`: a question to a person and the wait for its decision.
//! - `asking`: the way from a question to its decision, as a pure machine.
//! - `patience`: how long to go on, and how long to pause, with full jitter.
//! - `http`: one request and what its status means.
//! - `reply`: reads what a reply list of Redis brings.
//! - `task`: what a producer is told about tasks.
//! - `decision`: from `Option<bool>` to a `bool` or an error.
//! - `client`: how to connect as a client: where, as whom, and what a failed attempt means.
//! - `connection`: what a consumer holds: events, and verbs with their replies.
//! - `driver`: the task that owns the socket and comes back after a cut.
//! - `session`: what a consumer knows, as a pure machine that outlives connections.
//! - `heard`: reads one frame, and tells the gateway's words from what is published.
//! - `event`: what a connection hears, as types.
//! - `error`: what can go wrong, sorted by what the caller does next.
//! - `tls`: the one crypto provider.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use countersign_client::{Proceeds, Producer, StepResult};
//!
//! let producer = Producer::new("http://localhost:8765")?;
//! let result = StepResult { message: "Deploy?".into(), status: "completed".into(), ..StepResult::default() };
//! let decision = producer.notify_user(&result, "alice", "deploy-7", 1).await?;
//! println!("{}", if decision.proceeds()? { "on we go" } else { "stopped" });
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod ask;
mod asking;
mod client;
mod connection;
mod decision;
mod driver;
mod error;
mod event;
mod heard;
mod http;
mod messages;
mod patience;
mod producer;
mod reply;
mod session;
mod task;
#[cfg(test)]
mod tests;
mod tls;

pub use ask::{Ask, CallbackState, Choice};
pub use client::Client;
pub use connection::{Connection, Remote};
pub use decision::Proceeds;
pub use error::{Error, NoAnswer, Problem, Result};
pub use event::{
    Callback, Connected, Event, Heartbeat, Members, Message, OfferedOption, Resolved, TaskCancelled, Verdict, WhoMoved,
};
pub use messages::item;
pub use producer::Producer;
pub use reply::decision_of_reply;
pub use task::{CancelledTasks, Task};

pub use countersign_protocol::{
    Address, Answer, ByKind, CallbackId, Decision, IdempotencyKey, OnTimeout, Payload, Position, Resolution, Status,
    TaskId, TopicName, UserId,
    notification::StepResult,
    producer::{BatchItem, Published},
    workflow::WorkflowUpdate,
};

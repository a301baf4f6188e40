//! "Still executing": messages that the cluster keeps up for a task, so that they outlive the node that was asked. They are
//! state with a next moment, sent by whichever node's sweep comes first.

use std::time::Duration;

use async_trait::async_trait;
use countersign_protocol::{TaskId, UserId};

use crate::Result;

/// A heartbeat to be kept up.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    /// Who hears it.
    pub user: UserId,
    /// Of which task; one heartbeat each.
    pub task: TaskId,
    /// Between two messages.
    pub interval: Duration,
    /// From now to the end, unless it is stopped or started again before; at the end and after it nothing is sent.
    pub ttl: Duration,
    /// The message without its closing `,"timestamp":…}`, which each beat writes by its own clock.
    pub message_head: String,
}

/// Heartbeats; they beat in [`crate::Callbacks::sweep`].
#[async_trait]
pub trait Heartbeats: Send + Sync {
    /// Starts a heartbeat, or replaces the one of the same task. The first message comes after one interval; with the interval
    /// that it had before it keeps its time. While the task is cancelled it is silent, as nobody is asked either; once that is
    /// lifted it goes on. Returns when it ends, in Unix seconds.
    ///
    /// # Errors
    /// `Unavailable`: repeat.
    async fn start_heartbeat(&self, heartbeat: Heartbeat) -> Result<f64>;

    /// Stops a heartbeat; whether there was one.
    ///
    /// # Errors
    /// `Unavailable`: repeat.
    async fn stop_heartbeat(&self, user: &UserId, task: &TaskId) -> Result<bool>;
}

//! Callbacks as the scripts tell them: `{id, user, task, terms, message, decision, asked via, delivered after, connection, node}`,
//! where the terms are `<asked ms> <deadline ms> <on_timeout> <plain>`.

use std::time::Duration;

use bytes::Bytes;
use countersign_protocol::{CallbackId, ConnectionId, Decision, NodeId, Payload, TaskId, UserId};
use redis::{Value, from_redis_value};

use super::{failure::CommandError, messages::unreadable};
use crate::{
    Callback,
    callbacks::{AnsweredVia, Trail},
};

/// A callback, and what the listing needs to go on after it.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) callback: Callback,
    pub(super) deadline_ms: u64,
}

/// Reads a record; `now` is the script's clock in ms.
pub(super) fn read_record(told: Value, now: u64) -> Result<Record, CommandError> {
    let mut parts = from_redis_value::<Vec<Vec<u8>>>(told).map_err(unreadable)?.into_iter();
    let mut text = || String::from_utf8(parts.next().unwrap_or_default()).map_err(unreadable);
    let (id, user, task, terms) = (text()?, text()?, text()?, text()?);
    let (message, decision) = (text()?, text()?);
    let (asked_via, delivered_after, connection, node) = (text()?, text()?, text()?, text()?);
    let mut terms = terms.split(' ').map(str::parse::<u64>);
    let (Some(Ok(asked_ms)), Some(Ok(deadline_ms))) = (terms.next(), terms.next()) else {
        return Err(CommandError::unreadable("the terms of a callback are of another version"));
    };
    let callback = Callback {
        id: CallbackId::parse(&id).map_err(unreadable)?,
        user: UserId::parse(&user).map_err(unreadable)?,
        task: TaskId::parse(&task).map_err(unreadable)?,
        message: Payload::parse(Bytes::from(message)).map_err(unreadable)?,
        asked_at: seconds(asked_ms),
        deadline: seconds(deadline_ms),
        remaining: Duration::from_millis(deadline_ms.saturating_sub(now)),
        decision: if decision.is_empty() { None } else { Some(read_decision(decision.as_bytes())?) },
        trail: Trail {
            asked_via: NodeId::parse(&asked_via).map_err(unreadable)?,
            first_delivered_at: match delivered_after.as_str() {
                "" => None,
                after => Some(seconds(asked_ms.saturating_add(after.parse().map_err(unreadable)?))),
            },
            answered_via: match node.as_str() {
                "" => None,
                node => Some(AnsweredVia {
                    connection: match connection.as_str() {
                        "" => None,
                        connection => Some(ConnectionId::parse(connection).map_err(unreadable)?),
                    },
                    node: NodeId::parse(node).map_err(unreadable)?,
                }),
            },
        },
    };
    Ok(Record { callback, deadline_ms })
}

/// Reads a decision.
pub(super) fn read_decision(text: &[u8]) -> Result<Decision, CommandError> {
    serde_json::from_slice(text).map_err(unreadable)
}

/// Milliseconds as seconds: the same number that the scripts write with three decimals.
pub(super) fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

//! Callbacks over HTTP: read or wait, again and again; list what is open; withdraw.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use countersign_backplane::{Callback, callbacks::Withdrawn};
use countersign_protocol::{CallbackId, ConnectionId, Decision, NodeId, Status, TaskId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{
    input::{Asked, Bare, Name, NoBody},
    notifications::{Patience, Wait, ask_later, may_wait, reply},
    problem::Problem,
};
use crate::{callbacks::Waited, error::GatewayError, node::Node};

/// `GET /v1/callbacks/{id}`; without `wait` it reads once.
pub(crate) async fn read(
    State(node): State<Arc<Node>>,
    Name(id): Name,
    Asked(wait): Asked<Wait>,
    _: NoBody,
) -> Result<Response, Problem> {
    let id = known(&id)?;
    let wait = match wait.patience()? {
        Patience::For(wait) if wait > Duration::ZERO => Some(wait),
        Patience::For(_) | Patience::UntilItEnds => None,
    };
    if let Some(wait) = wait
        && let Some(_permit) = may_wait(&node)
    {
        return reply(id, node.wait(id, Some(Instant::now() + wait), None).await);
    }
    let callback = node.backplane.read(id).await?.ok_or(GatewayError::NotFound)?;
    let deadline = callback.deadline;
    match callback.decision {
        Some(decision) => reply(id, Waited::Decided(decision)),
        None if wait.is_some() => Ok(ask_later(id, deadline)),
        None => reply(id, Waited::Pending { deadline }),
    }
}

/// `DELETE /v1/callbacks/{id}`; 409 with the decision when something else decided before.
pub(crate) async fn withdraw(State(node): State<Arc<Node>>, Name(id): Name, _: Bare) -> Result<Response, Problem> {
    match node.withdraw(known(&id)?).await? {
        Withdrawn::Closed(decision) => Ok(Json(decision).into_response()),
        Withdrawn::AlreadyResolved(decision) => Ok((StatusCode::CONFLICT, Json(decision)).into_response()),
        Withdrawn::NotFound => Err(GatewayError::NotFound.into()),
    }
}

/// A callback with everything that it went through, for whoever has to account for a decision.
#[derive(Debug, Serialize)]
pub(crate) struct Record {
    callback_id: CallbackId,
    user_id: UserId,
    task_id: TaskId,
    status: Status,
    /// The node through which it was asked.
    asked_via: NodeId,
    asked_at: f64,
    /// When a node with a connection of the user first had it.
    first_delivered_at: Option<f64>,
    deadline: f64,
    decision: Option<Decision>,
    answered_via: Option<AnsweredVia>,
    /// `sha256:` and the digest of the message that was shown.
    shown: String,
}

#[derive(Debug, Serialize)]
struct AnsweredVia {
    connection_id: Option<ConnectionId>,
    node_id: NodeId,
}

/// `GET /v1/callbacks/{id}/record`
pub(crate) async fn record(State(node): State<Arc<Node>>, Name(id): Name, _: Bare) -> Result<Json<Record>, Problem> {
    let callback = node.backplane.read(known(&id)?).await?.ok_or(GatewayError::NotFound)?;
    let digest = Sha256::digest(callback.message.bytes());
    Ok(Json(Record {
        callback_id: callback.id,
        status: callback.status(),
        asked_at: callback.asked_at,
        deadline: callback.deadline,
        shown: format!("sha256:{}", crate::hex::first(digest.len(), &digest)),
        asked_via: callback.trail.asked_via,
        first_delivered_at: callback.trail.first_delivered_at,
        answered_via: callback
            .trail
            .answered_via
            .map(|via| AnsweredVia { connection_id: via.connection, node_id: via.node }),
        decision: callback.decision,
        user_id: callback.user,
        task_id: callback.task,
    }))
}

/// What is no id of ours cannot be one of a callback.
fn known(id: &str) -> Result<CallbackId, Problem> {
    Ok(CallbackId::parse(id)?)
}

/// `?user_id=&task_id=&cursor=`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filter {
    user_id: Option<String>,
    task_id: Option<String>,
    cursor: Option<String>,
}

/// Open callbacks, and where the next page begins.
#[derive(Debug, Serialize)]
pub(crate) struct Page {
    callbacks: Vec<Open>,
    cursor: Option<String>,
}

#[derive(Debug, Serialize)]
struct Open {
    callback_id: CallbackId,
    user_id: UserId,
    task_id: TaskId,
    status: Status,
    asked_at: f64,
    deadline: f64,
    /// The `task_step_result` that clients see.
    message: Box<RawValue>,
}

/// Callbacks of one page when no user is named.
const PAGE: usize = 100;

/// `GET /v1/callbacks`
pub(crate) async fn list(
    State(node): State<Arc<Node>>,
    Asked(filter): Asked<Filter>,
    _: NoBody,
) -> Result<Json<Page>, Problem> {
    let task = filter.task_id.as_deref().map(TaskId::parse).transpose()?;
    let (callbacks, cursor) = match &filter.user_id {
        Some(user) => (node.backplane.open_callbacks(&UserId::parse(user)?).await?, None),
        None => node.backplane.all_open_callbacks(filter.cursor.as_ref(), PAGE).await?,
    };
    let callbacks = callbacks.into_iter().filter(|callback| task.as_ref().is_none_or(|task| *task == callback.task));
    Ok(Json(Page { callbacks: callbacks.map(open).collect(), cursor }))
}

fn open(callback: Callback) -> Open {
    Open {
        callback_id: callback.id,
        status: callback.status(),
        asked_at: callback.asked_at,
        deadline: callback.deadline,
        message: RawValue::from_string(callback.message.as_str().to_owned()).expect("a payload is JSON"),
        user_id: callback.user,
        task_id: callback.task,
    }
}

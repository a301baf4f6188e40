//! Cancelling tasks over HTTP, and reading whether one is cancelled.

use std::sync::Arc;

use axum::{Json, extract::State};
use countersign_backplane::callbacks::Canceller;
use countersign_protocol::{ByKind, CallbackId, FieldError, TaskId, UserId, fields::Fields, json};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    input::{Asked, Body, Name, NoBody},
    problem::Problem,
};
use crate::{node::Node, tasks::cancelled_event};

/// `?user_id=`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Whose {
    pub(crate) user_id: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct CancelReply {
    task_id: TaskId,
    callbacks_closed: u64,
    /// One for each user whose task was cancelled: `task_cancelled` as clients see it.
    cancelled: Vec<Value>,
}

/// `POST /v1/tasks/{id}/cancel`; an empty body cancels every user's task of this name.
pub(crate) async fn cancel(
    State(node): State<Arc<Node>>,
    Name(task): Name,
    Asked(whose): Asked<Whose>,
    Body(body): Body,
) -> Result<Json<CancelReply>, Problem> {
    let task = TaskId::parse(&task)?;
    let user = match (whose.user_id.as_deref().map(UserId::parse).transpose()?, user_of(&body)?) {
        (Some(query), Some(body)) if query != body => {
            return Err(FieldError::new("user_id", "the same user in the query and in the body", "two").into());
        }
        (query, body) => body.or(query),
    };
    let cancelled = node.cancel(user.as_ref(), &task, &Canceller::Producer).await?;
    let callbacks_closed = cancelled.iter().map(|cancelled| cancelled.callbacks_closed).sum();
    let events = cancelled.into_iter().map(|cancelled| {
        serde_json::to_value(cancelled_event(cancelled, &task)).expect("events have text keys and encode always")
    });
    Ok(Json(CancelReply { callbacks_closed, cancelled: events.collect(), task_id: task }))
}

fn user_of(body: &[u8]) -> Result<Option<UserId>, FieldError> {
    if body.trim_ascii().is_empty() {
        return Ok(None);
    }
    match std::str::from_utf8(body).map(json::read) {
        Ok(Ok(Value::Object(map))) => {
            let fields = Fields::of(&map);
            // Neither a misspelt user nor a variable without a value may become everybody.
            fields.only(&["user_id"])?;
            fields.not_null("user_id")?;
            fields.parsed("user_id", UserId::parse)
        }
        _ => Err(FieldError::new("body", "nothing, or {user_id?}", "something else")),
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct TaskReply {
    task_id: TaskId,
    user_id: UserId,
    cancelled: bool,
    cancelled_by: Option<String>,
    cancelled_by_kind: Option<ByKind>,
    cancelled_at: Option<f64>,
    open_callbacks: Vec<CallbackId>,
}

/// `GET /v1/tasks/{id}?user_id=`
pub(crate) async fn read(
    State(node): State<Arc<Node>>,
    Name(task): Name,
    Asked(whose): Asked<Whose>,
    _: NoBody,
) -> Result<Json<TaskReply>, Problem> {
    let task = TaskId::parse(&task)?;
    let user = whose.user_id.ok_or_else(|| FieldError::new("user_id", "the task's user in the query", "nothing"))?;
    let user = UserId::parse(&user)?;
    let state = node.backplane.task(&user, &task).await?;
    let cancelled = state.cancelled;
    Ok(Json(TaskReply {
        cancelled: cancelled.is_some(),
        cancelled_by_kind: cancelled.as_ref().and_then(|cancelled| cancelled.by_kind),
        cancelled_at: cancelled.as_ref().map(|cancelled| cancelled.at),
        cancelled_by: cancelled.map(|cancelled| cancelled.by),
        open_callbacks: state.open,
        task_id: task,
        user_id: user,
    }))
}

#[derive(Debug, Serialize)]
pub(crate) struct Lifted {
    task_id: TaskId,
    /// Whether there was a cancellation to lift.
    lifted: bool,
}

/// `DELETE /v1/tasks/{id}/cancel?user_id=`
pub(crate) async fn lift(
    State(node): State<Arc<Node>>,
    Name(task): Name,
    Asked(whose): Asked<Whose>,
    _: NoBody,
) -> Result<Json<Lifted>, Problem> {
    let task = TaskId::parse(&task)?;
    let user = whose.user_id.as_deref().map(UserId::parse).transpose()?;
    let lifted = node.backplane.lift(user.as_ref(), &task).await?;
    Ok(Json(Lifted { task_id: task, lifted }))
}

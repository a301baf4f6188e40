//! Heartbeats of tasks over HTTP.

use std::sync::Arc;

use axum::{Json, extract::State};
use countersign_protocol::{FieldError, TaskId, UserId, heartbeat::Heartbeat};
use serde::Serialize;

use super::{
    input::{Asked, Body, Name, NoBody, NoQuery},
    problem::Problem,
    tasks::Whose,
};
use crate::node::Node;

/// A heartbeat that is kept up; times in seconds.
#[derive(Debug, Serialize)]
pub(crate) struct StartReply {
    task_id: TaskId,
    user_id: UserId,
    interval: u64,
    ttl: u64,
    /// Unix seconds.
    ends_at: f64,
}

/// `PUT /v1/tasks/{id}/heartbeat`
pub(crate) async fn start(
    State(node): State<Arc<Node>>,
    Name(task): Name,
    _: NoQuery,
    Body(body): Body,
) -> Result<Json<StartReply>, Problem> {
    let task = TaskId::parse(&task)?;
    let heartbeat = Heartbeat::parse(&body)?;
    let ends_at = node.start_heartbeat(&task, &heartbeat).await?;
    let Heartbeat { user_id, interval, ttl } = heartbeat;
    Ok(Json(StartReply { task_id: task, user_id, interval: interval.as_secs(), ttl: ttl.as_secs(), ends_at }))
}

#[derive(Debug, Serialize)]
pub(crate) struct StopReply {
    task_id: TaskId,
    user_id: UserId,
    /// Whether there was one to stop.
    stopped: bool,
}

/// `DELETE /v1/tasks/{id}/heartbeat?user_id=`
pub(crate) async fn stop(
    State(node): State<Arc<Node>>,
    Name(task): Name,
    Asked(whose): Asked<Whose>,
    _: NoBody,
) -> Result<Json<StopReply>, Problem> {
    let task = TaskId::parse(&task)?;
    let user = whose.user_id.ok_or_else(|| FieldError::new("user_id", "the task's user in the query", "nothing"))?;
    let user = UserId::parse(&user)?;
    let stopped = node.stop_heartbeat(&user, &task).await?;
    Ok(Json(StopReply { task_id: task, user_id: user, stopped }))
}

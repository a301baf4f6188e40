//! Who is where, over HTTP: a topic's members, a user's connections, and how to end these.

use std::sync::Arc;

use axum::{Json, extract::State};
use countersign_backplane::connections::UserConnection;
use countersign_protocol::{ConnectionId, TopicName, UserId};
use serde::{Deserialize, Serialize};

use super::{
    input::{Asked, Bare, Name, NoBody},
    problem::Problem,
};
use crate::node::Node;

/// Who is in a topic.
#[derive(Debug, Serialize)]
pub(crate) struct Present {
    topic: TopicName,
    /// Sorted; at most 1,000.
    members: Vec<UserId>,
    /// All of them.
    count: u64,
}

/// `GET /v1/topics/{topic}/presence`
pub(crate) async fn topic(State(node): State<Arc<Node>>, Name(name): Name, _: Bare) -> Result<Json<Present>, Problem> {
    let topic = TopicName::parse(&name)?;
    let members = node.members(&topic).await?;
    Ok(Json(Present { topic, members: members.users, count: members.count }))
}

/// Where a user is.
#[derive(Debug, Serialize)]
pub(crate) struct Whereabouts {
    user_id: UserId,
    online: bool,
    /// Oldest first; at most 1,000.
    connections: Vec<UserConnection>,
    /// All of them.
    count: u64,
}

/// `GET /v1/users/{id}`
pub(crate) async fn user(State(node): State<Arc<Node>>, Name(id): Name, _: Bare) -> Result<Json<Whereabouts>, Problem> {
    let user_id = UserId::parse(&id)?;
    let found = node.connections_of(&user_id).await?;
    let (connections, count) = (found.connections, found.count);
    Ok(Json(Whereabouts { user_id, online: count > 0, connections, count }))
}

/// How many connections were told to close.
#[derive(Debug, Serialize)]
pub(crate) struct Disconnected {
    user_id: UserId,
    disconnected: u64,
}

/// `?connection_id=`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Which {
    connection_id: Option<String>,
}

/// `DELETE /v1/users/{id}/connections`: all of them, or the one that the query names.
pub(crate) async fn disconnect(
    State(node): State<Arc<Node>>,
    Name(id): Name,
    Asked(which): Asked<Which>,
    _: NoBody,
) -> Result<Json<Disconnected>, Problem> {
    let user_id = UserId::parse(&id)?;
    let only = which.connection_id.as_deref().map(ConnectionId::parse).transpose()?;
    let disconnected = node.disconnect(&user_id, only.as_ref()).await?;
    Ok(Json(Disconnected { user_id, disconnected }))
}

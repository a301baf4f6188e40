//! For operators: is the process alive, may it be given work, what do its numbers say. No user input is ever shown.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use secrecy::ExposeSecret;
use serde::Serialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{input::Bare, problem::Problem};
use crate::{
    auth::{host::Door, token},
    node::Node,
    status::ClusterStatus,
};

#[derive(Debug, Serialize)]
struct Health<'a> {
    status: &'a str,
}

/// `GET /health/live`: the process answers.
pub(crate) async fn live() -> Response {
    Json(Health { status: "live" }).into_response()
}

/// `GET /health/ready`: the node hears itself through the backplane and does not drain.
pub(crate) async fn ready(State(node): State<Arc<Node>>) -> Response {
    match node.ready() {
        Ok(()) => Json(Health { status: "ready" }).into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, Json(Health { status: &reason })).into_response(),
    }
}

/// `GET /metrics`: the text format 0.0.4 of Prometheus. With `METRICS_KEY`, for its bearer only.
pub(crate) async fn metrics(State(node): State<Arc<Node>>, headers: HeaderMap) -> Response {
    if !node.names.admit(Door::Metrics, &headers) {
        return super::foreign_host().into_response();
    }
    if let Some(key) = &node.config.metrics_key {
        let given = token::bearer(&headers).unwrap_or_default();
        // Digests have equal lengths: the comparison says nothing about the key.
        let same = Sha256::digest(given.as_bytes()).ct_eq(&Sha256::digest(key.expose_secret().as_bytes()));
        if !bool::from(same) {
            let detail = "send Authorization: Bearer <METRICS_KEY>";
            return Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail).into_response();
        }
    }
    let link = node.backplane.link().borrow().clone();
    node.metrics.dropped(node.hub.take_dropped());
    node.metrics.open_http_connections(node.http_connections.open());
    node.metrics.held(node.presence.count(), node.registry.count());
    let text = node.metrics.render(node.hub.load(), node.waiters.count() + node.acks.count(), &link);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// `GET /v1/status`
pub(crate) async fn status(State(node): State<Arc<Node>>, _: Bare) -> Json<ClusterStatus> {
    Json(node.cluster_status().await)
}

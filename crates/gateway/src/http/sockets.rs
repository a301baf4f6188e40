//! Where clients come in: the handshake, who they are, what they want to hear. Who may not come in hears why: browsers
//! cannot see a 401, so a bad token is upgraded and closed with 4500 before anything is sent.

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{header, request::Parts},
    response::{IntoResponse, Response},
};
use countersign_protocol::{
    Address, FieldError, Position, Subscription, TopicName,
    close::{self, Close},
    position,
};
use secrecy::ExposeSecret;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{
    console,
    input::{Asked, Name},
    problem::Problem,
};
use crate::{
    auth::token,
    connection::{self, Connection},
    http_connections::HttpConnection,
    metrics::Attempt,
    node::Node,
    seldom::Seldom,
    transport::Upgrade,
};

static FULL: Seldom = Seldom::new();

/// `GET /`: a socket for clients of the bare host, the page for people.
pub(crate) async fn page_or_socket(State(node): State<Arc<Node>>, request: Request) -> Response {
    let asks =
        request.headers().get(header::UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if asks { socket(State(node), request).await } else { console::page() }
}

/// `GET /ws`
pub(crate) async fn socket(State(node): State<Arc<Node>>, request: Request) -> Response {
    accept(node, request.into_parts().0, None).await.unwrap_or_else(|response| response)
}

/// `GET /api/workflows/{id}/updates`
pub(crate) async fn workflow(State(node): State<Arc<Node>>, Name(id): Name, request: Request) -> Response {
    let topic = match TopicName::parse(&format!("workflow:{id}")) {
        Ok(topic) => Address::Topic(topic),
        Err(error) => return Problem::from(error).into_response(),
    };
    accept(node, request.into_parts().0, Some(topic)).await.unwrap_or_else(|response| response)
}

type Query = Vec<(String, String)>;

async fn accept(node: Arc<Node>, mut parts: Parts, topic: Option<Address>) -> Result<Response, Response> {
    let refuse = |attempt: Attempt, problem: Problem| {
        node.metrics.attempt(attempt);
        problem.into_response()
    };
    if super::may_call(&node, &parts.headers).is_err() {
        return Err(refuse(Attempt::RefusedOrigin, super::foreign_origin()));
    }
    if let Err(reason) = node.ready() {
        return Err(refuse(Attempt::RefusedNotReady, Problem::not_ready(&reason)));
    }
    let protocol = token::subprotocol(&parts.headers);
    let upgrade = Upgrade::from_parts(&mut parts, protocol.as_deref(), node.config.compression)?;
    let Asked(query) =
        Asked::<Query>::from_request_parts(&mut parts, &()).await.map_err(IntoResponse::into_response)?;
    let (since, topics) = wishes(&query, topic).map_err(|error| refuse(Attempt::Failed, error.into()))?;

    let given = token::find(&parts.headers, &parts.uri);
    let user_id = query.iter().find(|(name, _)| name == "user_id").map(|(_, value)| value.as_str());
    let serving = node.shutdown.serving.token();
    // A socket that is refused keeps its place among the HTTP connections until it is closed.
    let seat = parts.extensions.remove::<Arc<HttpConnection>>();
    let closed = |reason: Close, seat| upgrade_and_close(reason, (node.shutdown.serving.token(), seat));
    let identity = match node.clients.identify(given.as_ref().map(ExposeSecret::expose_secret), user_id) {
        Ok(identity) => identity,
        Err(error) => {
            node.metrics.attempt(Attempt::RefusedToken);
            tracing::debug!(%error, "a client was not let in");
            let reason = if error.is_expired() { close::TOKEN_EXPIRED } else { close::BAD_TOKEN };
            return Ok(closed(reason, seat)(upgrade));
        }
    };
    let Ok(place) = Arc::clone(&node.places).try_acquire_owned() else {
        node.metrics.attempt(Attempt::RefusedLimit);
        if let Some(left_out) = FULL.line() {
            tracing::warn!(limit = "WEBSOCKET_MAX_CONNECTIONS", left_out, "a connection was refused");
        }
        return Ok(closed(close::FULL, seat)(upgrade));
    };
    Ok(upgrade.accept(move |socket| async move {
        let connection = Connection::new(node, socket, place, serving, &identity);
        if let Some(connection) = connection.begin(since, topics).await {
            tokio::spawn(connection.run());
        }
    }))
}

/// Accepts, only to be heard when it refuses. `held` is given back afterwards.
fn upgrade_and_close(
    reason: Close,
    held: (TaskTrackerToken, Option<Arc<HttpConnection>>),
) -> impl FnOnce(Upgrade) -> Response {
    move |upgrade| {
        upgrade.accept(move |socket| async move {
            connection::refuse(socket, reason).await;
            drop(held);
        })
    }
}

/// Where a client was, and what it wants to hear from the start.
type Wishes = (Vec<(Address, Position)>, Vec<Subscription>);

/// `?since=` and `?topic=`, both repeatable.
fn wishes(query: &Query, topic: Option<Address>) -> Result<Wishes, FieldError> {
    let values = |name: &'static str| query.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str());
    let since = values("since").map(position::parse_since).collect::<Result<Vec<_>, _>>()?;
    let mut topics: Vec<Address> = topic.into_iter().collect();
    for name in values("topic") {
        let address = Address::parse_client(name)?;
        // These are heard anyway.
        if matches!(address, Address::Topic(_)) && !topics.contains(&address) {
            topics.push(address);
        }
    }
    let since_of = |address: &Address| since.iter().find(|(of, _)| of == address).map(|(_, position)| position.clone());
    let topics = topics.into_iter().map(|address| Subscription { since: since_of(&address), address }).collect();
    Ok((since, topics))
}

//! Where clients come in: the handshake, who they are, what they want to hear. Who may not come in hears why: browsers
//! cannot see a 401, so a bad token is upgraded and closed with 4500 before anything is sent.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use axum::{
    extract::{Request, State},
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

use super::{console, input::Name, problem::Problem, query::Query};
use crate::{
    auth::{host::Door, token},
    connection::{self, Connection},
    http_connections::HttpConnection,
    metrics::Attempt,
    node::Node,
    seldom::Seldom,
    transport::Upgrade,
};

static FULL: Seldom = Seldom::new();
static STRANGERS: Seldom = Seldom::new();

/// `GET /`: a socket for clients of the bare host, the page for people.
pub(crate) async fn page_or_socket(State(node): State<Arc<Node>>, request: Request) -> Response {
    let asks =
        request.headers().get(header::UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if asks { socket(State(node), request).await } else { console::page() }
}

/// `GET /ws`
pub(crate) async fn socket(State(node): State<Arc<Node>>, request: Request) -> Response {
    accept(node, request.into_parts().0, None).unwrap_or_else(|response| response)
}

/// `GET /api/workflows/{id}/updates`
pub(crate) async fn workflow(State(node): State<Arc<Node>>, Name(id): Name, request: Request) -> Response {
    let topic = match TopicName::parse(&format!("workflow:{id}")) {
        Ok(topic) => Address::Topic(topic),
        Err(error) => return Problem::from(error).into_response(),
    };
    accept(node, request.into_parts().0, Some(topic)).unwrap_or_else(|response| response)
}

#[allow(clippy::result_large_err, reason = "the error is the response, and made once at most")]
fn accept(node: Arc<Node>, mut parts: Parts, topic: Option<Address>) -> Result<Response, Response> {
    let refuse = |attempt: Attempt, problem: Problem| {
        node.metrics.attempt(attempt);
        problem.into_response()
    };
    super::may_call(&node, Door::Clients, &parts.headers).map_err(|problem| refuse(Attempt::RefusedOrigin, problem))?;
    if let Err(reason) = node.ready() {
        return Err(refuse(Attempt::RefusedNotReady, Problem::not_ready(&reason)));
    }
    let protocol = token::subprotocol(&parts.headers);
    let upgrade = Upgrade::from_parts(&mut parts, protocol.as_deref(), node.config.compression)?;
    let query = Query::of(&parts.uri).map_err(|problem| refuse(Attempt::Failed, problem))?;
    // Who it is comes before what is wanted: what a stranger asks for is not even read.
    let given = token::find(&parts.headers, &parts.uri);
    let user_id = query.all("user_id").next();
    let user_id = user_id.as_deref();
    let serving = node.shutdown.serving.token();
    // A socket that is refused keeps its place among the HTTP connections until it is closed.
    let seat = parts.extensions.remove::<Arc<HttpConnection>>();
    let closed = |reason: Close, seat| upgrade_and_close(reason, (node.shutdown.serving.token(), seat));
    let identity = match node.clients.identify(given.as_ref().map(ExposeSecret::expose_secret), user_id) {
        Ok(identity) => identity,
        Err(error) => {
            node.metrics.attempt(Attempt::RefusedToken);
            // That tokens end is everyday life; that one is wrong, somebody has to put right.
            if let Some(left_out) = STRANGERS.line().filter(|_| !error.is_expired()) {
                tracing::warn!(setting = error.setting(), %error, left_out, "a client was refused");
            } else {
                tracing::debug!(%error, "a client was refused");
            }
            let reason = if error.is_expired() { close::TOKEN_EXPIRED } else { close::BAD_TOKEN };
            return Ok(closed(reason, seat)(upgrade));
        }
    };
    let wishes = query.only(&ONCE, &REPEATABLE).and_then(|()| wishes(query, topic));
    let (since, topics) = wishes.map_err(|error| refuse(Attempt::Failed, error.into()))?;
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

/// What a query may have once, each with its synonyms.
const ONCE: [&[&str]; 2] = [&["user_id"], &["token", "access_token"]];
/// What it may have more than once.
const REPEATABLE: [&str; 2] = ["topic", "since"];

/// `?since=` and `?topic=`, both repeatable.
fn wishes(query: Query<'_>, topic: Option<Address>) -> Result<Wishes, FieldError> {
    let since = query.all("since").map(|text| position::parse_since(&text)).collect::<Result<Vec<_>, _>>()?;
    let mut topics: Vec<Address> = topic.into_iter().collect();
    let mut named: HashSet<Address> = topics.iter().cloned().collect();
    for name in query.all("topic") {
        let address = Address::parse_client(&name)?;
        // The others are heard anyway.
        if matches!(address, Address::Topic(_)) && named.insert(address.clone()) {
            topics.push(address);
        }
    }
    // The first position of an address counts.
    let mut positions = HashMap::new();
    for (of, position) in &since {
        positions.entry(of).or_insert(position);
    }
    let since_of = |address: &Address| positions.get(address).map(|position| (*position).clone());
    let topics = topics.into_iter().map(|address| Subscription { since: since_of(&address), address }).collect();
    Ok((since, topics))
}

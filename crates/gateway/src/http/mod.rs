//! The HTTP doors: clients' sockets, the producers' calls under `/v1`, health and metrics for operators, the demo page.
//! Handlers read a request and shape a reply; what they ask for is done by the files of its noun.

mod callbacks;
mod console;
mod health;
mod heartbeats;
mod history;
mod input;
mod messages;
mod notifications;
mod presence;
mod problem;
mod query;
mod receipts;
mod sockets;
mod tasks;

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use countersign_protocol::fields::shorten;
pub(crate) use problem::Problem;
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    auth::{
        KeyError,
        host::{self, Door},
        origin,
    },
    http_connections::HttpConnection,
    metrics::Limit,
    node::Node,
    seldom::Seldom,
};

/// Everything that a node serves.
pub(crate) fn router(node: Arc<Node>) -> Router {
    let most = node.config.publish_max_bytes;
    // A message's braces, its address and its key come on top of what a message may have.
    let single = DefaultBodyLimit::max(most.saturating_add(4096));
    let batch = DefaultBodyLimit::max(most.saturating_mul(BATCH_BODIES));
    let producers = Router::new()
        .route("/v1/broadcast", post(messages::broadcast))
        .route("/v1/users/{id}/messages", post(messages::user))
        .route("/v1/topics/{topic}/messages", post(messages::topic))
        .route("/v1/users/{id}", get(presence::user))
        .route("/v1/users/{id}/connections", delete(presence::disconnect))
        .route("/v1/topics/{topic}/presence", get(presence::topic))
        .route("/v1/topics/{topic}/history", get(history::read))
        .route("/v1/messages/{id}", get(receipts::read))
        .route("/v1/notifications", post(notifications::notify))
        .route("/v1/callbacks", get(callbacks::list))
        .route("/v1/callbacks/{id}", get(callbacks::read).delete(callbacks::withdraw))
        .route("/v1/callbacks/{id}/record", get(callbacks::record))
        .route("/v1/tasks/{id}", get(tasks::read))
        .route("/v1/tasks/{id}/cancel", post(tasks::cancel).delete(tasks::lift))
        .route("/v1/tasks/{id}/heartbeat", put(heartbeats::start).delete(heartbeats::stop))
        .route("/v1/status", get(health::status))
        .layer(single)
        .merge(Router::new().route("/v1/batch", post(messages::batch)).layer(batch))
        .route("/v1/{*rest}", axum::routing::any(unknown))
        .layer(middleware::from_fn_with_state(Arc::clone(&node), producers_door));
    let page = Router::new()
        .route("/", get(sockets::page_or_socket))
        .route("/console/{*path}", get(console::asset))
        .layer(middleware::from_fn_with_state(Arc::clone(&node), page_door));
    Router::new()
        .merge(page)
        .route("/ws", get(sockets::socket))
        .route("/ws/", get(sockets::socket))
        .route("/api/workflows/{id}/updates", get(sockets::workflow))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/metrics", get(health::metrics))
        .merge(producers)
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::map_response_with_state(Arc::clone(&node), say_goodbye))
        .layer(middleware::from_fn_with_state(Arc::clone(&node), one_host))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(Arc::clone(&node), take_seat))
        .with_state(node)
}

/// How many messages of the largest size fit into one batch.
const BATCH_BODIES: usize = 8;

/// Lets in who has a key, and nobody while the node cannot do what is asked for. Counts.
async fn producers_door(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    let response = match may_call(&node, Door::Producers, request.headers())
        .and_then(|()| node.producers.admit(request.headers()).map_err(refused))
    {
        Err(problem) => problem.into_response(),
        // What is known of the node itself is said at any time.
        Ok(()) if request.uri().path().ends_with("/v1/status") => next.run(request).await,
        Ok(()) => match node.ready() {
            Err(reason) => Problem::not_ready(&reason).into_response(),
            Ok(()) => next.run(request).await,
        },
    };
    node.metrics.http_request(response.status().as_u16());
    response
}

/// A request on a connection without a seat is answered only if it is about the node itself, and is the connection's last.
async fn take_seat(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    let connection = request.extensions().get::<Arc<HttpConnection>>();
    // In a server that is not ours, that server has its own limits.
    if connection.is_none_or(|connection| connection.asks()) {
        return next.run(request).await;
    }
    let mut response = if matches!(request.uri().path(), "/health/live" | "/health/ready" | "/metrics") {
        next.run(request).await
    } else {
        node.metrics.limited(Limit::HttpConnections);
        if let Some(left_out) = NO_SEAT.line() {
            tracing::warn!(limit = "LIMIT_HTTP_CONNECTIONS", left_out, "a request was refused");
        }
        let detail = "this node has as many HTTP connections as it may (LIMIT_HTTP_CONNECTIONS): try again";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_connections", detail).into_response()
    };
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

static NO_SEAT: Seldom = Seldom::new();

/// What a page may not make a browser do, whatever door is open: call as a page of another origin, or by a name that is not the
/// gateway's.
fn may_call(node: &Node, door: Door, headers: &HeaderMap) -> Result<(), Problem> {
    let problem = if !node.names.admit(door, headers) {
        foreign_host()
    } else if origin::is_allowed(&node.config.allowed_origins, headers) {
        return Ok(());
    } else {
        foreign_origin()
    };
    if let Some(left_out) = FOREIGNERS.line() {
        let told = |name| headers.get(name).map(|value| shorten(&String::from_utf8_lossy(value.as_bytes())));
        let (origin, host) = (told(header::ORIGIN), told(header::HOST));
        tracing::warn!(setting = "WEBSOCKET_ALLOWED_ORIGINS", origin, host, left_out, "a page was refused");
    }
    Err(problem)
}

static FOREIGNERS: Seldom = Seldom::new();
static STRANGERS: Seldom = Seldom::new();

fn refused(error: KeyError) -> Problem {
    if let Some(left_out) = STRANGERS.line() {
        tracing::warn!(setting = "AUTH_API_KEYS", %error, left_out, "a producer was refused");
    }
    error.into()
}

fn foreign_origin() -> Problem {
    let detail = "pages of this origin may not connect: name it in WEBSOCKET_ALLOWED_ORIGINS";
    Problem::new(StatusCode::FORBIDDEN, "foreign_origin", detail)
}

fn foreign_host() -> Problem {
    let detail = "this door is open without credentials and answers only to names of its own machine, such as localhost: \
        list the origin of this host in WEBSOCKET_ALLOWED_ORIGINS, or close the door with AUTH_JWT_SECRET and AUTH_API_KEYS";
    Problem::new(StatusCode::FORBIDDEN, "foreign_host", detail)
}

/// The page shows what the open doors would tell it, so it is kept from foreign names as they are.
async fn page_door(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    if node.names.admit(Door::Page, request.headers()) {
        next.run(request).await
    } else {
        foreign_host().into_response()
    }
}

/// Every request names one host, so that all who read it mean the same one. Says when a proxy makes an open node public.
async fn one_host(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    if !host::is_one_host(request.version(), request.headers()) {
        let detail = "a request has exactly one Host header with one host in it";
        return Problem::new(StatusCode::BAD_REQUEST, "invalid_host", detail).into_response();
    }
    if let Some(header) = node.names.first_forwarded(request.headers()) {
        tracing::warn!(
            header,
            "a proxy forwards requests to this node, which is open without credentials: everybody who reaches the proxy can \
             enter; set AUTH_JWT_SECRET and AUTH_API_KEYS"
        );
    }
    next.run(request).await
}

/// A node that drains keeps no HTTP connection alive.
async fn say_goodbye(State(node): State<Arc<Node>>, mut response: Response) -> Response {
    if node.shutdown.has_begun() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn unknown() -> Problem {
    Problem::not_found("there is nothing at this path; the README lists what there is")
}

async fn wrong_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path has other methods (see Allow)")
}

/// A panic ends one request and never the node.
fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    tracing::error!("a request's handler panicked");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the gateway failed; its log says where")
        .into_response()
}

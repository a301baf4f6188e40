//! `POST /v1/notifications`: ask a person, and wait for the confirmation.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use countersign_protocol::{CallbackId, FieldError, Notification, Status};
use serde::{Deserialize, Serialize};
use tokio::{sync::SemaphorePermit, time::Instant};

use super::{
    input::{Asked, Body, idempotency_key, one_key},
    problem::{Problem, RETRY_AFTER},
};
use crate::{callbacks::Waited, error::GatewayError, metrics::Limit, node::Node, seldom::Seldom};

/// `?wait=`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wait {
    wait: Option<f64>,
}

/// How long a request waits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Patience {
    /// Until the callback ends.
    UntilItEnds,
    /// This long at most.
    For(Duration),
}

impl Wait {
    /// # Errors
    /// Neither absent nor seconds of at least 0.
    pub(crate) fn patience(&self) -> Result<Patience, FieldError> {
        match self.wait {
            None => Ok(Patience::UntilItEnds),
            Some(seconds) => Duration::try_from_secs_f64(seconds)
                .ok()
                .filter(|wait| *wait <= LONGEST_WAIT)
                .map(Patience::For)
                .ok_or_else(|| {
                    FieldError::new(
                        "wait",
                        format!("seconds from 0 to {}", LONGEST_WAIT.as_secs()),
                        seconds.to_string(),
                    )
                }),
        }
    }
}

/// As long as a callback can be open: `CALLBACK_MAX_TIMEOUT` has the same default.
const LONGEST_WAIT: Duration = Duration::from_secs(604_800);

/// Still open: ask again.
#[derive(Debug, Serialize)]
struct Pending {
    callback_id: CallbackId,
    status: Status,
    deadline: f64,
}

pub(crate) async fn notify(
    State(node): State<Arc<Node>>,
    Asked(wait): Asked<Wait>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, Problem> {
    let patience = wait.patience()?;
    let most = node.config.publish_max_bytes;
    if body.len() > most {
        return Err(GatewayError::TooLong(body.len(), most).into());
    }
    let mut notification = Notification::parse(&body)?;
    notification.idempotency_key = one_key(idempotency_key(&headers)?, notification.idempotency_key)?;
    let callback = node.ask(&notification).await?.callback;
    let until = match (patience, callback.decision.clone()) {
        (_, Some(decision)) => return reply(callback.id, Waited::Decided(decision)),
        (Patience::For(Duration::ZERO), None) => {
            return reply(callback.id, Waited::Pending { deadline: callback.deadline });
        }
        (Patience::For(wait), None) => Some(Instant::now() + wait),
        (Patience::UntilItEnds, None) => None,
    };
    match may_wait(&node) {
        Some(_permit) => reply(callback.id, node.wait(callback.id, until, Some(&callback)).await),
        None => Ok(ask_later(callback.id, callback.deadline)),
    }
}

/// A permit for one wait; `None` when the node holds as many as it may (`LIMIT_WAITS`): the caller asks again later.
pub(crate) fn may_wait(node: &Node) -> Option<SemaphorePermit<'_>> {
    let permit = node.wait_permits.try_acquire().ok();
    if permit.is_none() {
        node.metrics.limited(Limit::Waits);
        if let Some(left_out) = NO_WAIT.line() {
            tracing::warn!(limit = "LIMIT_WAITS", left_out, "a wait was answered at once");
        }
    }
    permit
}

static NO_WAIT: Seldom = Seldom::new();

/// The callback is open, and the node does not wait for it: 202, and the caller spreads its next request over some seconds.
pub(crate) fn ask_later(id: CallbackId, deadline: f64) -> Response {
    let pending = Pending { callback_id: id, status: Status::Pending, deadline };
    let after = HeaderValue::from(fastrand::u16(LATER));
    (StatusCode::ACCEPTED, [(header::RETRY_AFTER, after)], Json(pending)).into_response()
}

/// Seconds until a caller whose wait was not held should ask again: a thousand callers are 250 requests a second.
const LATER: std::ops::RangeInclusive<u16> = 2..=6;

/// What a wait returns over HTTP.
pub(crate) fn reply(id: CallbackId, waited: Waited) -> Result<Response, Problem> {
    match waited {
        Waited::Decided(decision) => Ok(Json(decision).into_response()),
        Waited::Pending { deadline } => {
            let pending = Pending { callback_id: id, status: Status::Pending, deadline };
            Ok((StatusCode::ACCEPTED, [(header::RETRY_AFTER, RETRY_AFTER)], Json(pending)).into_response())
        }
        Waited::NotFound => Err(GatewayError::NotFound.into()),
        Waited::Unknown => Err(Problem::unknown(id)),
    }
}

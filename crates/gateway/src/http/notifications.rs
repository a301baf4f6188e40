//! `POST /v1/notifications`: ask a person, and wait for the confirmation.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use countersign_protocol::{CallbackId, FieldError, Notification, Status};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    input::{Asked, Body, idempotency_key, one_key},
    problem::{Problem, RETRY_AFTER},
};
use crate::{callbacks::Waited, error::GatewayError, node::Node};

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
    let waited = match (patience, callback.decision.clone()) {
        (_, Some(decision)) => Waited::Decided(decision),
        (Patience::For(Duration::ZERO), None) => Waited::Pending { deadline: callback.deadline },
        (Patience::For(wait), None) => node.wait(callback.id, Some(Instant::now() + wait), Some(&callback)).await,
        (Patience::UntilItEnds, None) => node.wait(callback.id, None, Some(&callback)).await,
    };
    reply(callback.id, waited)
}

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

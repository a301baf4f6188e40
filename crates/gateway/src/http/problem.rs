//! Errors of the HTTP doors, as `application/problem+json` (RFC 9457): status, code, what was wrong, and where.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use countersign_protocol::{CallbackId, FieldError};
use serde::Serialize;

use crate::{
    auth::{AuthError, KeyError},
    error::GatewayError,
};

/// One error.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Problem {
    status: u16,
    /// For programs.
    code: &'static str,
    /// For people.
    detail: String,
    /// The field that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// Of which callback the answer is not known: ask again with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    callback_id: Option<Box<CallbackId>>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status: status.as_u16(), code, detail: detail.into(), field: None, callback_id: None }
    }

    /// A field that is wrong, with a status of its own.
    pub(crate) fn with_status(status: StatusCode, error: FieldError) -> Self {
        Self { status: status.as_u16(), ..error.into() }
    }

    pub(crate) fn not_ready(reason: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", format!("this node is not ready ({reason}): try again"))
    }

    /// Whether and how a callback ended is not known.
    pub(crate) fn unknown(id: CallbackId) -> Self {
        let error = GatewayError::Unavailable(format!("the answer to callback {id} is not known yet"));
        Self { callback_id: Some(Box::new(id)), ..error.into() }
    }

    pub(crate) fn not_found(detail: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }
}

/// Seconds after which a 503 may be tried again; also given with 202, for a wait to be taken up at once.
pub(crate) const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).expect("made from a status");
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<FieldError> for Problem {
    fn from(error: FieldError) -> Self {
        let detail = error.to_string();
        Self { field: Some(error.field), ..Self::new(StatusCode::BAD_REQUEST, "invalid_field", detail) }
    }
}

impl From<GatewayError> for Problem {
    fn from(error: GatewayError) -> Self {
        let detail = error.to_string();
        match error {
            GatewayError::Invalid(error) => error.into(),
            GatewayError::TooLong(..) => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_long", detail),
            GatewayError::Unavailable(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail),
            GatewayError::Unanswered { id, .. } => {
                let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail);
                Self { callback_id: Some(Box::new(id)), ..problem }
            }
            GatewayError::Full(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "backplane_full", detail),
            GatewayError::Unreadable(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "unreadable", detail),
            GatewayError::Conflict => Self::new(StatusCode::CONFLICT, "conflict", detail),
            GatewayError::TooManyCallbacks(_) => Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_callbacks", detail),
            GatewayError::TooManyCancellations(_) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_cancellations", detail)
            }
            GatewayError::PresenceOff => Self::new(StatusCode::NOT_FOUND, "presence_off", detail),
            GatewayError::NotFound => Self::new(StatusCode::NOT_FOUND, "not_found", detail),
        }
    }
}

impl From<countersign_backplane::BackplaneError> for Problem {
    fn from(error: countersign_backplane::BackplaneError) -> Self {
        GatewayError::from(error).into()
    }
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", error.to_string())
    }
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", error.to_string())
    }
}

//! Reading requests so that every error names the part that is wrong: path names, query fields, bodies, idempotency keys.

use std::time::Duration;

use axum::{
    extract::{FromRequest, FromRequestParts, Path, Query, Request, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, request::Parts},
};
use bytes::Bytes;
use countersign_protocol::{FieldError, IdempotencyKey};
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// A body that has not come after this long does not come; a megabyte takes 800 kbit/s.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// A body of at most the route's limit.
pub(crate) struct Body(pub(crate) Bytes);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Ok(read) = tokio::time::timeout(BODY_WITHIN, Bytes::from_request(request, state)).await else {
            let detail = format!("the body did not come within {} s", BODY_WITHIN.as_secs());
            return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "too_slow", detail));
        };
        match read {
            Ok(bytes) => Ok(Self(bytes)),
            Err(rejection @ BytesRejection::FailedToBufferBody(_)) => {
                let status = rejection.status();
                Err(if status == StatusCode::PAYLOAD_TOO_LARGE {
                    Problem::new(
                        status,
                        "too_long",
                        "the body is longer than PUBLISH_MAX_BYTES allows (a batch: 8 times)",
                    )
                } else {
                    Problem::new(status, "invalid_body", rejection.body_text())
                })
            }
            Err(other) => Err(Problem::new(other.status(), "invalid_body", other.body_text())),
        }
    }
}

/// The one name in a path, percent-decoded.
pub(crate) struct Name(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<Vec<(String, String)>>::from_request_parts(parts, state).await {
            // The last one: a router that nests this one may have parameters of its own.
            Ok(Path(mut names)) => {
                names.pop().map(|(_, name)| Self(name)).ok_or_else(|| Problem::not_found("no name in the path"))
            }
            Err(rejection) => Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_path", rejection.body_text())),
        }
    }
}

/// The fields of a query.
pub(crate) struct Asked<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(query)) => Ok(Self(query)),
            Err(rejection) => Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_query", rejection.body_text())),
        }
    }
}

/// The `Idempotency-Key` header.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, FieldError> {
    let field = |error| FieldError { field: "Idempotency-Key".to_owned(), ..error };
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().map_err(|_| FieldError::new("Idempotency-Key", "printable ASCII", "other bytes"))?;
    IdempotencyKey::parse(text).map(Some).map_err(field)
}

/// The key of the header or of the body; both may be given when they are equal.
pub(crate) fn one_key(
    header: Option<IdempotencyKey>,
    body: Option<IdempotencyKey>,
) -> Result<Option<IdempotencyKey>, FieldError> {
    match (header, body) {
        (Some(header), Some(body)) if header != body => {
            Err(FieldError::new("idempotency_key", "the same key as in the Idempotency-Key header", "another one"))
        }
        (header, body) => Ok(body.or(header)),
    }
}

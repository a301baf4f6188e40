//! Reading requests so that every error names the part that is wrong: path names, query fields, bodies, idempotency keys.

use std::time::Duration;

use axum::{
    extract::{FromRequest, FromRequestParts, Path, Query, Request, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, request::Parts},
};
use bytes::Bytes;
use countersign_protocol::{FieldError, IdempotencyKey, fields::shorten};
use serde::de::DeserializeOwned;

use super::{problem::Problem, query};

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

/// Nothing: the call takes no body, and one that is sent is not ignored in silence.
pub(crate) struct NoBody;

impl<S: Send + Sync> FromRequest<S> for NoBody {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Body(bytes) = Body::from_request(request, state).await?;
        if bytes.is_empty() {
            return Ok(Self);
        }
        Err(FieldError::new("body", "nothing, as this call takes no body", format!("{} bytes", bytes.len())).into())
    }
}

/// Neither query nor body.
pub(crate) struct Bare;

impl<S: Send + Sync> FromRequest<S> for Bare {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        NoQuery::from_request_parts(&mut parts, state).await?;
        NoBody::from_request(Request::from_parts(parts, body), state).await?;
        Ok(Self)
    }
}

/// No field in the query.
pub(crate) struct NoQuery;

impl<S: Send + Sync> FromRequestParts<S> for NoQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match query::Query::of(&parts.uri)?.fields().next() {
            None => Ok(Self),
            Some((name, _)) => {
                let expected = "no query, as this call takes none";
                Err(FieldError::new(shorten(&name), expected, "this field").into())
            }
        }
    }
}

/// The fields of a query, each at most once and none of another name: the types that are read have `deny_unknown_fields`.
pub(crate) struct Asked<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        query::Query::of(&parts.uri)?;
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(query)) => Ok(Self(query)),
            Err(rejection) => Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_query", rejection.body_text())),
        }
    }
}

/// The `Idempotency-Key` header.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, FieldError> {
    let field = |error| FieldError { field: "Idempotency-Key".to_owned(), ..error };
    let mut values = headers.get_all("idempotency-key").into_iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(FieldError::new("Idempotency-Key", "one header of this name", "several"));
    }
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

//! One HTTP request and what its answer means. What a status means is decided here, once, for every call: done,
//! refused, or not known (then the caller repeats with the same key). Redirects are not followed, so that the API key
//! never travels to another host.

use std::time::Duration;

use countersign_protocol::{FieldError, IdempotencyKey};
use reqwest::{
    Method, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};

use crate::error::{Error, Problem, Result};

/// To open a connection to a node that is there takes a millisecond; to find out that none is there may not eat the
/// deadline of a question.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the gateway may think beside a wait that it was asked for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// As much of a foreign answer as an error shows, in characters.
const SHOWN: usize = 200;

/// Where the gateway is, and with which credentials to talk to it.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    base: Url,
    client: reqwest::Client,
    authorization: Option<Result<HeaderValue, FieldError>>,
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: Vec<String>,
    pub(crate) query: Vec<(&'static str, String)>,
    pub(crate) key: Option<IdempotencyKey>,
    pub(crate) body: Option<Vec<u8>>,
    pub(crate) wait: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Reply {
    /// A status from 200 to 299.
    Done { status: u16, retry_after: Option<Duration>, body: Vec<u8> },
    /// The request is wrong, and stays wrong.
    Refused { problem: Box<Problem>, body: Vec<u8> },
    /// It may have been done or not.
    Unknown { retry_after: Option<Duration>, why: String },
    /// No gateway answers so.
    Unexpected(String),
}

impl Call {
    /// A request without query, key and body.
    pub(crate) fn new(method: Method, path: &[&str]) -> Self {
        let path = path.iter().map(|&part| part.to_owned()).collect();
        Self { method, path, query: Vec::new(), key: None, body: None, wait: Duration::ZERO }
    }

    /// With something to say behind the question mark.
    pub(crate) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    /// With a JSON body.
    pub(crate) fn body(mut self, body: Vec<u8>) -> Self {
        self.body = Some(body);
        self
    }

    /// With a name by which a repeat is known.
    pub(crate) fn key(mut self, key: Option<IdempotencyKey>) -> Self {
        self.key = key;
        self
    }

    /// The gateway is asked to hold the answer back for this long.
    pub(crate) fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self.query("wait", wait.as_secs_f64().to_string())
    }
}

impl Http {
    pub(crate) fn new(base_url: &str) -> Result<Self> {
        let wrong = || Error::Url { url: base_url.to_owned(), expected: "http://host[:port] or https://host[:port]" };
        let base = Url::parse(base_url).map_err(|_| wrong())?;
        if base.host().is_none() || !matches!(base.scheme(), "http" | "https") {
            return Err(wrong());
        }
        crate::tls::choose_provider();
        let builder =
            reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).redirect(reqwest::redirect::Policy::none());
        // Without TLS no certificates are needed, and a container without any still gets its client.
        let builder = if base.scheme() == "http" { builder.tls_certs_only([]) } else { builder };
        let client = builder.build().map_err(|error| Error::Unexpected(chain(&error)))?;
        Ok(Self { base, client, authorization: None })
    }

    pub(crate) fn set_client(&mut self, client: reqwest::Client) {
        self.client = client;
    }

    pub(crate) fn set_api_key(&mut self, key: &str) {
        self.authorization = Some(
            HeaderValue::from_str(&format!("Bearer {key}"))
                .map(|mut value| {
                    value.set_sensitive(true);
                    value
                })
                .map_err(|_| FieldError::new("api_key", "visible ASCII characters", "others")),
        );
    }

    /// Sends a request once. Cancel safe in so far as a dropped request may have been done all the same.
    pub(crate) async fn send(&self, call: &Call) -> Result<Reply> {
        let mut url = self.base.clone();
        url.path_segments_mut().expect("http addresses have a path").pop_if_empty().extend(&call.path);
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        let mut request = self.client.request(call.method.clone(), url).timeout(call.wait + ANSWER_TIMEOUT);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone()?);
        }
        if let Some(key) = &call.key {
            let wrong = |_| FieldError::new("idempotency_key", "visible ASCII characters, as it is a header", "others");
            request = request.header("idempotency-key", HeaderValue::from_str(key.as_str()).map_err(wrong)?);
        }
        if let Some(body) = &call.body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.clone());
        }
        let unknown = |error: reqwest::Error| Reply::Unknown { retry_after: None, why: chain(&error) };
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Ok(unknown(error)),
        };
        let status = response.status().as_u16();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(seconds);
        match response.bytes().await {
            Ok(body) => Ok(sort(status, retry_after, body.to_vec())),
            Err(error) => Ok(unknown(error)),
        }
    }
}

/// What a status means.
fn sort(status: u16, retry_after: Option<Duration>, body: Vec<u8>) -> Reply {
    match status {
        200..=299 => Reply::Done { status, retry_after, body },
        // 500: the node failed while it worked on the request; 502 and 504: nginx lost the node.
        408 | 425 | 429 | 500 | 502 | 503 | 504 => {
            Reply::Unknown { retry_after, why: problem(status, &body).to_string() }
        }
        400..=499 => Reply::Refused { problem: Box::new(problem(status, &body)), body },
        _ => Reply::Unexpected(problem(status, &body).to_string()),
    }
}

fn problem(status: u16, body: &[u8]) -> Problem {
    let foreign = || Problem { detail: Some(shown(body)).filter(|text| !text.is_empty()), ..Problem::default() };
    Problem { status, ..serde_json::from_slice(body).unwrap_or_else(|_| foreign()) }
}

/// The beginning of a body, for an error.
pub(crate) fn shown(body: &[u8]) -> String {
    String::from_utf8_lossy(body).trim().chars().take(SHOWN).collect()
}

fn seconds(value: &HeaderValue) -> Option<Duration> {
    value.to_str().ok()?.trim().parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
}

/// An error with its causes: what reqwest says itself is only "error sending request".
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_2xx_is_done_and_only_a_4xx_is_refused() {
        let meaning = |status| match sort(status, None, Vec::new()) {
            Reply::Done { .. } => "done",
            Reply::Refused { .. } => "refused",
            Reply::Unknown { .. } => "unknown",
            Reply::Unexpected(_) => "unexpected",
        };
        for (status, expected) in [
            (200, "done"),
            (202, "done"),
            (301, "unexpected"),
            (400, "refused"),
            (404, "refused"),
            (409, "refused"),
            (413, "refused"),
            (429, "unknown"),
            (500, "unknown"),
            (502, "unknown"),
            (503, "unknown"),
            (504, "unknown"),
        ] {
            assert_eq!(meaning(status), expected, "{status}");
        }
    }

    #[test]
    fn a_problem_is_read_and_a_foreign_page_is_quoted() {
        let ours = problem(409, br#"{"status":409,"code":"conflict","detail":"other body","key":"k"}"#);
        assert_eq!((ours.to_string().as_str(), &ours.more["key"]), ("409 conflict: other body", &"k".into()));
        assert_eq!(problem(413, b"<html>too large</html>").to_string(), "413: <html>too large</html>");
    }

    #[test]
    fn an_address_without_host_or_with_another_scheme_is_refused() {
        for wrong in ["", "localhost:8765", "ws://localhost", "http://", "/v1"] {
            assert!(matches!(Http::new(wrong), Err(Error::Url { .. })), "{wrong}");
        }
    }

    #[test]
    fn an_api_key_is_not_shown() {
        let mut http = Http::new("http://localhost:1").unwrap();
        http.set_api_key("hunter2");
        assert!(!format!("{http:?}").contains("hunter2"));
    }
}

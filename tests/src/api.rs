//! A producer's HTTP client: thin, so that a scenario shows the requests which a backend would send.

use std::sync::Once;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName};
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};

/// What came back.
#[derive(Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The body as JSON; a body that is none (`/metrics`) as a JSON string.
    pub body: Value,
    headers: HeaderMap,
}

impl Reply {
    async fn read(response: Response) -> Result<Self, reqwest::Error> {
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let text = response.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok(Self { status, body, headers })
    }

    /// A header's value, empty when it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body of a reply that must have this status.
    #[track_caller]
    pub fn expect_status(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:#?}");
        self.body
    }

    /// The text of a body that is not JSON.
    #[track_caller]
    pub fn text(&self) -> &str {
        self.body.as_str().unwrap_or_else(|| panic!("text: {self:#?}"))
    }
}

/// A client of one base address: a node's, or nginx's.
#[derive(Clone, Debug)]
pub struct Api {
    base: String,
    key: Option<String>,
    client: Client,
}

impl Api {
    /// A client without credentials.
    pub fn at(base: impl Into<String>) -> Self {
        static CRYPTO: Once = Once::new();
        // The client is built without a default; plain HTTP needs one to be named all the same.
        CRYPTO.call_once(|| {
            drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        });
        let client = Client::builder()
            .no_proxy()
            // Each request shows what a fresh caller sees.
            .pool_max_idle_per_host(0)
            .timeout(Duration::from_secs(60))
            .build()
            .expect("a client without options that can fail");
        Self { base: base.into(), key: None, client }
    }

    /// The same with `Authorization: Bearer <key>`.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The base address.
    pub fn url(&self) -> &str {
        &self.base
    }

    /// `GET`.
    pub async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, &[], None).await
    }

    /// `DELETE`.
    pub async fn delete(&self, path: &str) -> Reply {
        self.send(Method::DELETE, path, &[], None).await
    }

    /// `POST` with a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(Method::POST, path, &[], Some(body)).await
    }

    /// `POST` with a body that is said to be JSON, as it is.
    pub async fn post_text(&self, path: &str, body: &str) -> Reply {
        let mut request = self.client.post(format!("{}{path}", self.base)).header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        let sent = request.body(body.to_owned()).send().await;
        let response = sent.unwrap_or_else(|error| panic!("POST {}{path}: {error:?}", self.base));
        Reply::read(response).await.unwrap_or_else(|error| panic!("POST {}{path}: {error:?}", self.base))
    }

    /// `PUT` with a JSON body.
    pub async fn put(&self, path: &str, body: &Value) -> Reply {
        self.send(Method::PUT, path, &[], Some(body)).await
    }

    /// `POST` with an `Idempotency-Key`.
    pub async fn post_once(&self, path: &str, key: &str, body: &Value) -> Reply {
        self.send(Method::POST, path, &[("idempotency-key", key)], Some(body)).await
    }

    /// Any request. Panics when there is no answer at all.
    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Reply {
        match self.try_send(method.clone(), path, headers, body).await {
            Ok(reply) => reply,
            Err(error) => panic!("{method} {}{path}: {error:?}", self.base),
        }
    }

    /// Any request; an error when the connection was refused or cut.
    pub async fn try_send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Reply, reqwest::Error> {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        for (name, value) in headers {
            let name: HeaderName = name.parse().expect("a test's header name");
            request = request.header(name, *value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        Reply::read(request.send().await?).await
    }

    /// `notify_user` for step 1 of a task; `more` is merged into the body, `query` follows the path.
    pub async fn notify(&self, user: &str, task: &str, query: &str, more: Value) -> Reply {
        let body = notification(user, task, more);
        self.post(&format!("/v1/notifications{query}"), &body).await
    }

    /// Opens a callback without waiting for it, and returns its id.
    pub async fn ask(&self, user: &str, task: &str, more: Value) -> String {
        let pending = self.notify(user, task, "?wait=0", more).await.expect_status(202);
        assert_eq!(pending["status"], "pending", "{pending}");
        callback_id(&pending)
    }

    /// Waits up to `seconds` for the end of a callback.
    pub async fn wait(&self, callback_id: &str, seconds: u32) -> Reply {
        self.get(&format!("/v1/callbacks/{callback_id}?wait={seconds}")).await
    }
}

/// The body of `POST /v1/notifications`, with the fields of `more` added or replaced.
fn notification(user: &str, task: &str, more: Value) -> Value {
    let mut body = json!({
        "user_id": user,
        "task_id": task,
        "step": 1,
        "step_result": {
            "step": "data_validation",
            "result": {"validated_rows": 1000, "errors": 5},
            "completed": true,
            "message": "Data validation completed, found 5 errors",
            "status": "completed",
            "error_code": null,
            "error_message": null,
        },
    });
    if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
        body.extend(more);
    }
    body
}

/// The `callback_id` of a message or an answer.
#[track_caller]
pub fn callback_id(message: &Value) -> String {
    message["callback_id"].as_str().unwrap_or_else(|| panic!("a callback id in {message}")).to_owned()
}

//! The backend's side, over HTTP: publish, ask, cancel. Every request that creates something carries an idempotency
//! key, so it can be repeated when an answer is lost: a message is published once, a person is asked once.

use std::time::{Duration, Instant};

use countersign_protocol::{CallbackId, Decision, IdempotencyKey, TaskId, UserId, notification::StepResult};
use reqwest::Method;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    ask::{self, Ask, CallbackState},
    error::{Error, Problem, Result},
    http::{Call, Http, Reply, shown},
    patience::Patience,
    task::{CancelledTasks, Task},
};

/// How long a call that does not wait for a person is repeated.
const PATIENCE: Duration = Duration::from_secs(15);
/// How much longer than its deadline a question is waited for: a restart of the gateway fits in.
const MARGIN: Duration = Duration::from_secs(30);

/// A backend's client of the gateway. Cheap to clone; clones share their connections.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use countersign_client::{Proceeds, Producer, StepResult};
///
/// let producer = Producer::new("http://localhost:8765")?.api_key("a-key");
/// producer.broadcast(&serde_json::json!({"type": "hello"})).await?;
///
/// let result = StepResult { message: "Deploy?".into(), status: "completed".into(), ..StepResult::default() };
/// if producer.notify_user(&result, "alice", "deploy-7", 1).await?.proceeds()? {
///     println!("alice said yes");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Producer {
    http: Http,
    pub(crate) patience: Duration,
    margin: Duration,
    pub(crate) keyed: bool,
}

impl Producer {
    /// A producer that talks to the gateway (or the nginx before it) at this address.
    ///
    /// # Errors
    /// [`Error::Url`] for an address that is none.
    ///
    /// ```
    /// let producer = countersign_client::Producer::new("https://gateway.example")?;
    /// # Ok::<(), countersign_client::Error>(())
    /// ```
    pub fn new(base_url: &str) -> Result<Self> {
        Ok(Self { http: Http::new(base_url)?, patience: PATIENCE, margin: MARGIN, keyed: true })
    }

    /// With `Authorization: Bearer <key>`.
    ///
    /// ```
    /// let producer = countersign_client::Producer::new("https://gateway.example")?.api_key("a-key");
    /// # Ok::<(), countersign_client::Error>(())
    /// ```
    #[must_use]
    pub fn api_key(mut self, key: &str) -> Self {
        self.http.set_api_key(key);
        self
    }

    /// With an HTTP client of one's own, for a private certificate authority or a proxy. It should not follow redirects.
    ///
    /// ```
    /// # fn example(client: reqwest::Client) -> countersign_client::Result<()> {
    /// let producer = countersign_client::Producer::new("https://gateway.example")?.http_client(client);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn http_client(mut self, client: reqwest::Client) -> Self {
        self.http.set_client(client);
        self
    }

    /// How long calls that do not wait for a person are repeated (15 s).
    ///
    /// ```
    /// # fn example(producer: countersign_client::Producer) {
    /// let producer = producer.patience(std::time::Duration::from_secs(60));
    /// # }
    /// ```
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// How much longer than its deadline a question is waited for while no gateway answers (30 s).
    ///
    /// ```
    /// # fn example(producer: countersign_client::Producer) {
    /// let producer = producer.wait_margin(std::time::Duration::from_secs(120));
    /// # }
    /// ```
    #[must_use]
    pub fn wait_margin(mut self, margin: Duration) -> Self {
        self.margin = margin;
        self
    }

    /// Messages are sent without a key and only once: the cheapest way, for news that the next news replaces. Questions
    /// keep their keys.
    ///
    /// ```
    /// # fn example(producer: countersign_client::Producer) {
    /// let producer = producer.at_most_once();
    /// # }
    /// ```
    #[must_use]
    pub fn at_most_once(mut self) -> Self {
        self.keyed = false;
        self
    }

    /// Asks a person whether to go on after a step, and waits for the decision.
    ///
    /// # Errors
    /// As [`Ask::wait`].
    ///
    /// ```no_run
    /// # async fn example(producer: countersign_client::Producer) -> Result<(), Box<dyn std::error::Error>> {
    /// use countersign_client::{Proceeds, StepResult};
    ///
    /// let result = StepResult { message: "found 5 errors".into(), status: "completed".into(), ..StepResult::default() };
    /// let decision = producer.notify_user(&result, "user_123", "task_456", 1).await?;
    /// if decision.proceeds()? {
    ///     println!("feedback: {:?}", decision.feedback);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn notify_user(
        &self,
        step_result: &StepResult,
        user_id: &str,
        task_id: &str,
        step: impl Into<Value>,
    ) -> Result<Decision> {
        self.ask(step_result, user_id, task_id, step).wait().await
    }

    /// The same with more to say: a deadline, what silence means, options, a key.
    ///
    /// ```no_run
    /// # async fn example(producer: countersign_client::Producer) -> countersign_client::Result<()> {
    /// # let result = countersign_client::StepResult::default();
    /// let ask = producer.ask(&result, "user_123", "task_456", 1).idempotency_key("task_456/1");
    /// let decision = ask.wait().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn ask<'a>(
        &'a self,
        step_result: &'a StepResult,
        user_id: &'a str,
        task_id: &'a str,
        step: impl Into<Value>,
    ) -> Ask<'a> {
        Ask::new(self, step_result, user_id, task_id, step.into())
    }

    /// Waits for the end of a callback that was opened before, here or elsewhere, any number of times.
    ///
    /// # Errors
    /// As [`Ask::wait`]; [`Error::Refused`] with status 404 for an unknown id, or when its retention is over.
    ///
    /// ```no_run
    /// # async fn example(producer: countersign_client::Producer, id: countersign_client::CallbackId) -> countersign_client::Result<()> {
    /// let decision = producer.wait(id).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn wait(&self, callback_id: CallbackId) -> Result<Decision> {
        ask::wait_for(self, callback_id).await
    }

    /// Reads a callback without waiting.
    ///
    /// # Errors
    /// As [`Self::wait`].
    ///
    /// ```no_run
    /// # async fn example(producer: countersign_client::Producer, id: countersign_client::CallbackId) -> countersign_client::Result<()> {
    /// use countersign_client::CallbackState;
    ///
    /// if let CallbackState::Open { deadline } = producer.callback(id).await? {
    ///     println!("open until {deadline}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn callback(&self, callback_id: CallbackId) -> Result<CallbackState> {
        let (status, body) =
            self.repeat(Call::new(Method::GET, &["v1", "callbacks", &callback_id.to_string()])).await?;
        CallbackState::read(status, &body)
    }

    /// Takes a question back; its callback ends `cancelled` by `"producer"`, unless it had ended before. Returns how it
    /// ended.
    ///
    /// # Errors
    /// As [`Self::broadcast`]; status 404 for an unknown id.
    ///
    /// ```no_run
    /// # async fn example(producer: countersign_client::Producer, id: countersign_client::CallbackId) -> countersign_client::Result<()> {
    /// let decision = producer.withdraw(id).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn withdraw(&self, callback_id: CallbackId) -> Result<Decision> {
        let call = Call::new(Method::DELETE, &["v1", "callbacks", &callback_id.to_string()]);
        match self.attempts(self.patience, call).await? {
            Final::Done(_, body) => decode(&body),
            // Somebody was faster: the gateway tells the decision instead of a problem.
            Final::Refused(problem, body) => serde_json::from_slice(&body).map_err(|_| Error::Refused(problem)),
        }
    }

    /// Cancels a task of one user, or (`None`) every user's task of that name. Open callbacks of it end `cancelled`.
    ///
    /// # Errors
    /// As [`Self::broadcast`].
    ///
    /// ```no_run
    /// # async fn example(producer: countersign_client::Producer) -> countersign_client::Result<()> {
    /// let cancelled = producer.cancel_task("import-42", Some("alice")).await?;
    /// println!("{} questions closed", cancelled.callbacks_closed);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn cancel_task(&self, task_id: &str, user_id: Option<&str>) -> Result<CancelledTasks> {
        #[derive(Serialize)]
        struct Body {
            #[serde(skip_serializing_if = "Option::is_none")]
            user_id: Option<UserId>,
        }
        let task = TaskId::parse(task_id)?;
        let body = Body { user_id: user_id.map(UserId::parse).transpose()? };
        let body = serde_json::to_vec(&body).expect("names always encode");
        let call = Call::new(Method::POST, &["v1", "tasks", task.as_str(), "cancel"]);
        self.done(call.body(body).key(Some(random_key()))).await
    }

    /// What is known of a task: whether it was cancelled, by whom, and its open callbacks.
    ///
    /// # Errors
    /// As [`Self::broadcast`].
    ///
    /// ```no_run
    /// # async fn example(producer: countersign_client::Producer) -> countersign_client::Result<()> {
    /// println!("{} open questions", producer.task("import-42", "alice").await?.open_callbacks.len());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn task(&self, task_id: &str, user_id: &str) -> Result<Task> {
        let (task, user) = (TaskId::parse(task_id)?, UserId::parse(user_id)?);
        self.done(Call::new(Method::GET, &["v1", "tasks", task.as_str()]).query("user_id", user.as_str())).await
    }

    /// Lifts a cancellation, so that the task may ask again: one user's, or (`None`) every user's of that name. Returns
    /// whether there was one.
    ///
    /// # Errors
    /// As [`Self::broadcast`].
    ///
    /// ```no_run
    /// # async fn example(producer: countersign_client::Producer) -> countersign_client::Result<()> {
    /// producer.lift_cancel("import-42", Some("alice")).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn lift_cancel(&self, task_id: &str, user_id: Option<&str>) -> Result<bool> {
        #[derive(Deserialize)]
        struct Lifted {
            lifted: bool,
        }
        let task = TaskId::parse(task_id)?;
        let mut call = Call::new(Method::DELETE, &["v1", "tasks", task.as_str(), "cancel"]);
        if let Some(user) = user_id {
            call = call.query("user_id", UserId::parse(user)?.as_str());
        }
        Ok(self.done::<Lifted>(call).await?.lifted)
    }

    /// The node that answers, and the cluster.
    ///
    /// # Errors
    /// As [`Self::broadcast`].
    ///
    /// ```no_run
    /// # async fn example(producer: countersign_client::Producer) -> countersign_client::Result<()> {
    /// println!("{} connections", producer.status().await?["active_connections"]);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn status(&self) -> Result<Value> {
        self.done(Call::new(Method::GET, &["v1", "status"])).await
    }

    pub(crate) fn http(&self) -> &Http {
        &self.http
    }

    pub(crate) fn margin(&self) -> Duration {
        self.margin
    }

    /// A call that is harmless to repeat.
    pub(crate) async fn done<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        decode(&self.repeat(call).await?.1)
    }

    async fn repeat(&self, call: Call) -> Result<(u16, Vec<u8>)> {
        self.repeat_for(self.patience, call).await
    }

    pub(crate) async fn repeat_for(&self, patience: Duration, call: Call) -> Result<(u16, Vec<u8>)> {
        match self.attempts(patience, call).await? {
            Final::Done(status, body) => Ok((status, body)),
            Final::Refused(problem, _) => Err(Error::Refused(problem)),
        }
    }

    async fn attempts(&self, patience: Duration, call: Call) -> Result<Final> {
        let started = Instant::now();
        let mut patience = Patience::until(patience, fastrand::Rng::new());
        loop {
            let (retry_after, last) = match self.http.send(&call).await? {
                Reply::Done { status, body, .. } => return Ok(Final::Done(status, body)),
                Reply::Refused { problem, body } => return Ok(Final::Refused(problem, body)),
                Reply::Unexpected(what) => return Err(Error::Unexpected(what)),
                Reply::Unknown { retry_after, why } => (retry_after, why),
            };
            let waited = started.elapsed();
            match patience.pause(waited, retry_after) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => {
                    return Err(Error::Unavailable { callback_id: None, idempotency_key: call.key, waited, last });
                }
            }
        }
    }
}

/// An answer that repeating would not change.
enum Final {
    Done(u16, Vec<u8>),
    Refused(Box<Problem>, Vec<u8>),
}

pub(crate) fn random_key() -> IdempotencyKey {
    IdempotencyKey::parse(&uuid::Uuid::new_v4().to_string()).expect("a UUID is a legal key")
}

pub(crate) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    // A 204 has no body; `null` is what is left for a caller that takes any JSON.
    let body = if body.is_empty() { b"null" } else { body };
    serde_json::from_slice(body).map_err(|error| Error::Unexpected(format!("{error}: {}", shown(body))))
}

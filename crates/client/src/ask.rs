//! A question to a person, and the wait for its decision.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use countersign_protocol::{
    CallbackId, Decision, FieldError, IdempotencyKey, OnTimeout, TaskId, UserId, notification::StepResult,
};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    asking::{Asking, Next, Outcome, Request},
    error::{Error, Result},
    http::{Call, Reply, shown},
    producer::Producer,
};

/// How long the gateway holds one wait: under the idle limits of common proxies (60 s).
const HELD_WAIT: Duration = Duration::from_secs(20);
/// The gateway's own default (`WEBSOCKET_CALLBACK_TIMEOUT`), until the gateway has told the deadline.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);

/// One of the answers that are offered.
///
/// ```
/// use countersign_client::Choice;
///
/// let options = [Choice::new("retry", "Try again"), Choice::new("abort", "Give up").declines()];
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Choice {
    id: String,
    label: String,
    proceed: bool,
}

impl Choice {
    /// An option that means "proceed": its id is what `decision.choice` will be, its label what people read.
    ///
    /// ```
    /// let retry = countersign_client::Choice::new("retry", "Try again");
    /// ```
    pub fn new(id: impl Into<String>, label: impl Into<String>) -> Self {
        Self { id: id.into(), label: label.into(), proceed: true }
    }

    /// The same option, meaning "do not proceed".
    ///
    /// ```
    /// let abort = countersign_client::Choice::new("abort", "Give up").declines();
    /// ```
    #[must_use]
    pub fn declines(mut self) -> Self {
        self.proceed = false;
        self
    }
}

/// A question that is being put together; [`Producer::ask`] begins one.
///
/// ```no_run
/// # async fn example(producer: countersign_client::Producer) -> countersign_client::Result<()> {
/// use std::time::Duration;
/// use countersign_client::{Choice, OnTimeout, StepResult};
///
/// let result = StepResult { message: "5 rows are broken".into(), status: "completed".into(), ..StepResult::default() };
/// let decision = producer
///     .ask(&result, "alice", "import-42", 1)
///     .timeout(Duration::from_secs(600))
///     .on_timeout(OnTimeout::Fail)
///     .options([Choice::new("skip", "Skip the rows"), Choice::new("abort", "Stop").declines()])
///     .idempotency_key("import-42/1")
///     .wait()
///     .await?;
/// println!("{:?} by {:?}", decision.choice, decision.by);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a question is put by `wait` or `open`"]
pub struct Ask<'a> {
    producer: &'a Producer,
    user_id: &'a str,
    task_id: &'a str,
    body: Body<'a>,
    timeout: Option<Duration>,
    key: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
struct Body<'a> {
    user_id: &'a str,
    task_id: &'a str,
    step: Value,
    step_result: &'a StepResult,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_timeout: Option<OnTimeout>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    options: Vec<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<Value>,
}

/// The body of a 202.
#[derive(Debug, Deserialize)]
struct Pending {
    callback_id: CallbackId,
    deadline: f64,
}

impl<'a> Ask<'a> {
    pub(crate) fn new(
        producer: &'a Producer,
        step_result: &'a StepResult,
        user_id: &'a str,
        task_id: &'a str,
        step: Value,
    ) -> Self {
        let body = Body {
            user_id,
            task_id,
            step,
            step_result,
            timeout: None,
            on_timeout: None,
            options: Vec::new(),
            schema: None,
        };
        Self { producer, user_id, task_id, body, timeout: None, key: None }
    }

    /// How long the person has. Without it, the node's `WEBSOCKET_CALLBACK_TIMEOUT`.
    ///
    /// ```no_run
    /// # fn example(ask: countersign_client::Ask<'_>) {
    /// let ask = ask.timeout(std::time::Duration::from_secs(60));
    /// # }
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self.body.timeout = Some(timeout.as_secs_f64());
        self
    }

    /// What silence means. Without it, the node's `WEBSOCKET_CALLBACK_ON_TIMEOUT`.
    ///
    /// ```no_run
    /// # fn example(ask: countersign_client::Ask<'_>) {
    /// let ask = ask.on_timeout(countersign_client::OnTimeout::Decline);
    /// # }
    /// ```
    pub fn on_timeout(mut self, on_timeout: OnTimeout) -> Self {
        self.body.on_timeout = Some(on_timeout);
        self
    }

    /// Offers these answers instead of a bare yes and no.
    ///
    /// ```no_run
    /// # use countersign_client::Choice;
    /// # fn example(ask: countersign_client::Ask<'_>) {
    /// let ask = ask.options([Choice::new("a", "Variant A"), Choice::new("b", "Variant B")]);
    /// # }
    /// ```
    pub fn options(mut self, options: impl IntoIterator<Item = Choice>) -> Self {
        self.body.options = options.into_iter().collect();
        self
    }

    /// Asks for data of this shape (a JSON Schema) beside the yes or no; it comes as `decision.data`.
    ///
    /// ```no_run
    /// # fn example(ask: countersign_client::Ask<'_>) {
    /// let ask = ask.schema(serde_json::json!({"type": "object", "required": ["rate"]}));
    /// # }
    /// ```
    pub fn schema(mut self, schema: Value) -> Self {
        self.body.schema = Some(schema);
        self
    }

    /// The caller's own name of this question. A worker that may die and start again takes one that it can compute
    /// again: it then gets the first decision instead of asking twice. Without it, a random one.
    ///
    /// ```no_run
    /// # fn example(ask: countersign_client::Ask<'_>) {
    /// let ask = ask.idempotency_key("import-42/step-1");
    /// # }
    /// ```
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Puts the question and waits for its end, through redeployments, restarts and cut connections.
    ///
    /// Cancel safe: dropping the future ends the wait, never the question. The same key, or
    /// [`Producer::wait`] with the callback's id, goes on.
    ///
    /// # Errors
    /// [`Error::Refused`]: the question is wrong, or its key was used for another one.
    /// [`Error::Unavailable`]: no gateway answered until the deadline and the margin after it had passed.
    ///
    /// ```no_run
    /// # async fn example(ask: countersign_client::Ask<'_>) -> Result<(), Box<dyn std::error::Error>> {
    /// use countersign_client::Proceeds;
    ///
    /// if ask.wait().await?.proceeds()? {
    ///     println!("going on");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn wait(self) -> Result<Decision> {
        let (open, key) = self.call()?;
        let timeout = self.timeout.unwrap_or(DEFAULT_TIMEOUT);
        let asking = Asking::new(key, timeout, self.producer.margin(), fastrand::Rng::new());
        drive(self.producer, asking, &open.wait(HELD_WAIT)).await
    }

    /// Puts the question and returns its id without waiting for an answer.
    ///
    /// # Errors
    /// As [`Ask::wait`]; [`Error::Unavailable`] comes after the producer's patience.
    ///
    /// ```no_run
    /// # async fn example(producer: countersign_client::Producer, ask: countersign_client::Ask<'_>) -> countersign_client::Result<()> {
    /// let callback_id = ask.open().await?;
    /// // … other work …
    /// let decision = producer.wait(callback_id).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn open(self) -> Result<CallbackId> {
        #[derive(Deserialize)]
        struct Opened {
            callback_id: CallbackId,
        }
        let (call, _) = self.call()?;
        let opened: Opened = self.producer.done(call.wait(Duration::ZERO)).await?;
        Ok(opened.callback_id)
    }

    fn call(&self) -> Result<(Call, IdempotencyKey)> {
        UserId::parse(self.user_id)?;
        TaskId::parse(self.task_id)?;
        let key = match &self.key {
            Some(key) => IdempotencyKey::parse(key)?,
            None => crate::producer::random_key(),
        };
        let body = serde_json::to_vec(&self.body)
            .map_err(|error| FieldError::new("step_result", "a value that is JSON", error.to_string()))?;
        Ok((Call::new(Method::POST, &["v1", "notifications"]).key(Some(key.clone())).body(body), key))
    }
}

/// Waits for the end of a callback that was opened before.
pub(crate) async fn wait_for(producer: &Producer, callback: CallbackId) -> Result<Decision> {
    let asking = Asking::resumed(callback, producer.margin(), fastrand::Rng::new());
    drive(producer, asking, &Call::new(Method::GET, &[])).await
}

/// The async skin of [`Asking`]: sends what it says, tells it what came, sleeps in between.
async fn drive(producer: &Producer, mut asking: Asking, open: &Call) -> Result<Decision> {
    let started = Instant::now();
    let mut request = asking.request();
    loop {
        let reply = match request {
            Request::Open => producer.http().send(open).await?,
            Request::Wait(id) => producer.http().send(&wait_call(id)).await?,
        };
        match asking.heard(started.elapsed(), outcome(reply)) {
            Next::Done(end) => return end,
            Next::Send(pause, next) => {
                request = next;
                tokio::time::sleep(pause).await;
            }
        }
    }
}

fn wait_call(id: CallbackId) -> Call {
    Call::new(Method::GET, &["v1", "callbacks", &id.to_string()]).wait(HELD_WAIT)
}

fn outcome(reply: Reply) -> Outcome {
    match reply {
        Reply::Done { status: 200, body, .. } => match serde_json::from_slice(&body) {
            Ok(decision) => Outcome::Decided(Box::new(decision)),
            Err(error) => Outcome::Unexpected(format!("200 without a decision ({error}): {}", shown(&body))),
        },
        Reply::Done { status: 202, retry_after, body } => match serde_json::from_slice(&body) {
            Ok(Pending { callback_id, deadline }) => {
                Outcome::Pending { callback_id, remaining: remaining(deadline), retry_after }
            }
            Err(error) => Outcome::Unexpected(format!("202 without a callback ({error}): {}", shown(&body))),
        },
        Reply::Done { status, body, .. } => Outcome::Unexpected(format!("{status}: {}", shown(&body))),
        Reply::Refused { problem, .. } => Outcome::Refused(problem),
        Reply::Unknown { retry_after, why } => Outcome::Unknown { retry_after, why },
        Reply::Unexpected(what) => Outcome::Unexpected(what),
    }
}

/// From now to a deadline on the gateway's clock; a wrong clock here shortens or lengthens only the patience with a
/// gateway that does not answer at all.
fn remaining(deadline: f64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::try_from_secs_f64(deadline).unwrap_or_default().saturating_sub(now)
}

/// A callback as it is now; [`Producer::callback`] reads it.
///
/// ```
/// use countersign_client::CallbackState;
///
/// fn shown(state: &CallbackState) -> String {
///     match state {
///         CallbackState::Open { deadline } => format!("open until {deadline}"),
///         CallbackState::Ended(decision) => format!("{:?}", decision.status),
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum CallbackState {
    /// Nobody has decided yet.
    Open {
        /// When it times out, in Unix seconds by the gateway's clock.
        deadline: f64,
    },
    /// It is over.
    Ended(Box<Decision>),
}

impl CallbackState {
    pub(crate) fn read(status: u16, body: &[u8]) -> Result<Self> {
        let unexpected = |error| Error::Unexpected(format!("{error}: {}", shown(body)));
        if status == 202 {
            let Pending { deadline, .. } = serde_json::from_slice(body).map_err(unexpected)?;
            Ok(Self::Open { deadline })
        } else {
            Ok(Self::Ended(serde_json::from_slice(body).map_err(unexpected)?))
        }
    }
}

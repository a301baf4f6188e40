//! A backend that asks and insists: it repeats on 202, 503 and a cut connection, with the same key or id, until it has the
//! decision, as the SDKs do. It writes down every request.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::api::Api;
use crate::fault::before_repeating;
use crate::history::{End, Notebook, Question, Wait, now};

/// A question to be put, once, however often it is sent.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Whom.
    pub user: String,
    /// Its idempotency key, and its task.
    pub key: String,
    /// Until the deadline, in seconds.
    pub timeout: f64,
    /// What the deadline decides: `None` is a failure.
    pub on_timeout: Option<bool>,
    /// From which phase of the scenario on the person answers; `None`: never.
    pub answered_in: Option<u64>,
    /// How many callers put it.
    pub callers: usize,
}

impl Ask {
    /// A question that is answered at once.
    pub fn new(user: impl Into<String>, key: impl Into<String>) -> Self {
        let (user, key) = (user.into(), key.into());
        Self { user, key, timeout: 60.0, on_timeout: Some(false), answered_in: Some(0), callers: 1 }
    }

    /// Answered from this phase on.
    #[must_use]
    pub fn answered_in(self, phase: u64) -> Self {
        Self { answered_in: Some(phase), ..self }
    }

    /// With this many seconds until the deadline.
    #[must_use]
    pub fn timeout(self, timeout: f64) -> Self {
        Self { timeout, ..self }
    }

    /// Never answered: the deadline decides.
    #[must_use]
    pub fn unanswered(self, timeout: f64) -> Self {
        Self { answered_in: None, timeout, ..self }
    }

    /// The body of `POST /v1/notifications`.
    pub fn body(&self) -> Value {
        let on_timeout = match self.on_timeout {
            Some(true) => "proceed",
            Some(false) => "decline",
            None => "fail",
        };
        json!({
            "user_id": self.user, "task_id": self.key, "step": 1, "idempotency_key": self.key,
            "timeout": self.timeout, "on_timeout": on_timeout,
            "step_result": {
                "step": "s", "message": "go on?", "status": "completed", "completed": true,
                "result": {"answered_in": self.answered_in},
            },
        })
    }

    /// As a line of the history.
    pub fn question(&self) -> Question {
        Question { key: self.key.clone(), callers: self.callers, on_timeout: self.on_timeout }
    }
}

/// One of the callers of a question.
#[derive(Clone, Debug)]
pub struct Caller {
    notebook: Notebook,
    doors: Vec<Api>,
    number: usize,
    gives_up: Duration,
}

impl Caller {
    /// A caller that begins at the first door, and goes on to the next one when it gets no reply. Those with an even number
    /// put the question and then wait by the callback's id; the others put it and wait in one request, again and again.
    pub fn new(notebook: &Notebook, doors: &[Api], number: usize) -> Self {
        Self { notebook: notebook.clone(), doors: doors.to_vec(), number, gives_up: GIVES_UP }
    }

    /// One that hangs up after hearing nothing for this long.
    #[must_use]
    pub fn giving_up_after(self, gives_up: Duration) -> Self {
        Self { gives_up, ..self }
    }

    /// Puts the question until it is decided, and returns the decision; gives up, without one, after 40 s.
    pub async fn ask(&self, ask: &Ask) -> Option<Value> {
        let body = ask.body();
        let by_id = self.number.is_multiple_of(2);
        let put_path = format!("/v1/notifications?wait={}", if by_id { 0 } else { HELD });
        let give_up = Instant::now() + PERSISTENCE;
        let mut door = 0;
        let mut known: Option<String> = None;
        while Instant::now() < give_up {
            let (started, put) = (now(), known.is_none());
            let api = &self.doors[door % self.doors.len()];
            let request = async {
                match &known {
                    Some(id) => api.try_send(Method::GET, &format!("/v1/callbacks/{id}?wait={HELD}"), &[], None).await,
                    None => api.try_send(Method::POST, &put_path, &[], Some(&body)).await,
                }
            };
            let reply = timeout(self.gives_up, request).await.ok().and_then(Result::ok);
            let (status, reply) = reply.map_or((0, Value::Null), |reply| (reply.status, reply.body));
            let end = End::of(status, &reply);
            let wait = Wait {
                key: ask.key.clone(),
                caller: self.number,
                door: api.url().to_owned(),
                put,
                started,
                ended: now(),
                end: end.clone(),
            };
            self.notebook.waited(wait);
            match end {
                End::Decided { .. } => return Some(reply),
                End::Pending { callback } => known = known.or(by_id.then_some(callback)),
                // An insisting caller cannot repair what is refused; the audit says so.
                End::Refused(_) => return None,
                End::Unknown | End::Cut => {
                    door += 1;
                    before_repeating().await;
                }
            }
        }
        None
    }
}

/// How long a caller insists.
pub(crate) const PERSISTENCE: Duration = Duration::from_secs(40);
/// How long one request is held at most, in seconds.
const HELD: u32 = 2;
/// A caller that hears nothing hangs up: later than any node that runs would have answered, which is what it is held for, and
/// three seconds of trying to write it down.
pub(crate) const GIVES_UP: Duration = Duration::from_millis(6_500);

//! A producer that publishes numbered messages to one address at a steady pace and insists: whatever is not a yes is sent
//! again with the same key, at the next door, until it is one. Only then the next number goes out.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::api::Api;
use crate::fault::pauses;
use crate::ledger::Ledger;

/// See the module.
#[derive(Debug)]
pub(crate) struct Press {
    ledger: Ledger,
    address: String,
    doors: Vec<Api>,
    padding: String,
    door: usize,
    /// Begins its idempotency keys: numbers begin again with every ledger, and Redis keeps a key's result for an hour.
    keys: String,
}

impl Press {
    /// For this address, written as clients write it (`broadcast`, `user:<id>` or a topic); begins at the first door.
    pub(crate) fn new(ledger: &Ledger, address: &str, doors: &[Api], bytes: usize) -> Self {
        let padding = "x".repeat(bytes);
        let keys = uuid::Uuid::new_v4().simple().to_string();
        Self { ledger: ledger.clone(), address: address.to_owned(), doors: doors.to_vec(), padding, door: 0, keys }
    }

    /// Publishes so many messages a second, at most, until it is told to stop. The last one is accepted then.
    pub(crate) async fn runs(mut self, per_second: u32, stop: watch::Receiver<bool>) -> Self {
        let between = Duration::from_secs(1) / per_second;
        let mut due = Instant::now();
        while !*stop.borrow() {
            self.prints().await;
            due += between;
            // What a fault held up is not made good: the pace stays a pace.
            due = due.max(Instant::now());
            pauses(due.saturating_duration_since(Instant::now())).await;
        }
        self
    }

    /// One message, until it is accepted.
    pub(crate) async fn prints(&mut self) {
        let number = self.ledger.sends(&self.address);
        let path = match self.address.split_once(':') {
            None if self.address == "broadcast" => "/v1/broadcast".to_owned(),
            Some(("user", user)) => format!("/v1/users/{user}/messages"),
            _ => format!("/v1/topics/{}/messages", self.address),
        };
        let key = format!("{}-{}-{number}", self.keys, self.address);
        let body = json!({"type": "number", "n": number, "padding": self.padding});
        let give_up = Instant::now() + PERSISTENCE;
        while Instant::now() < give_up {
            self.ledger.attempted(&self.address, number);
            let api = &self.doors[self.door % self.doors.len()];
            let headers = [("idempotency-key", key.as_str())];
            let sending = api.try_send(Method::POST, &path, &headers, Some(&body));
            match timeout(GIVES_UP, sending).await {
                Ok(Ok(reply)) if reply.status == 200 => {
                    self.ledger.accepted(&self.address, number);
                    return;
                }
                Ok(Ok(reply)) => assert_eq!(reply.status, 503, "{path} {number}: {reply:?}"),
                Ok(Err(_)) | Err(_) => {}
            }
            self.door += 1;
            pauses(AGAIN_AFTER).await;
        }
        // The audit says so.
    }
}

/// How long a producer insists on one message.
const PERSISTENCE: Duration = Duration::from_secs(40);
/// How long it waits for one reply: longer than a node that runs takes to say that it does not know.
const GIVES_UP: Duration = Duration::from_secs(5);
const AGAIN_AFTER: Duration = Duration::from_millis(100);

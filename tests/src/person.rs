//! A person with one device who answers what is asked, comes back whenever the connection ends, and repeats an answer of
//! which nothing was heard under the same name. It writes down everything that the device hears.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{interval, timeout};

use crate::device::Device;
use crate::fault::before_repeating;
use crate::history::{BidAt, Ending, Notebook};

/// See the module.
#[derive(Debug)]
pub struct Person {
    user: String,
    device: String,
    urls: Vec<String>,
    notebook: Notebook,
    phase: watch::Receiver<u64>,
}

/// What one connection has shown, and what was answered on it.
#[derive(Debug, Default)]
struct Life {
    /// Open callbacks, and the phase from which on they are answered.
    open: BTreeMap<String, Option<u64>>,
    /// Given answers; a verdict may come after the callback's end.
    given: BTreeMap<String, BidAt>,
}

impl Person {
    /// A person who connects to the first of `urls`, and to the next one whenever that fails.
    pub fn new(user: &str, device: &str, urls: &[String], notebook: &Notebook, phase: watch::Receiver<u64>) -> Self {
        let (user, device) = (user.to_owned(), device.to_owned());
        Self { user, device, urls: urls.to_vec(), notebook: notebook.clone(), phase }
    }

    /// Lives for ever.
    pub async fn live(mut self) -> Infallible {
        for turn in 0.. {
            let url = format!("{}?user_id={}", self.urls[turn % self.urls.len()], self.user);
            match timeout(Duration::from_secs(2), Device::dial(&url, &[])).await {
                Ok(Ok(device)) => self.use_device(device).await,
                _ => before_repeating().await,
            }
        }
        unreachable!("the loop has no end")
    }

    async fn use_device(&mut self, mut device: Device) {
        let connection = self.notebook.connected();
        let mut life = Life::default();
        let mut again = interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                message = device.next() => match message {
                    Some(message) => self.hear(connection, &mut life, &message),
                    None => break,
                },
                changed = self.phase.changed() => drop(changed),
                _ = again.tick() => {}
            }
            self.answer(&mut device, &mut life).await;
        }
        self.notebook.ended(connection);
    }

    fn hear(&self, connection: u64, life: &mut Life, message: &Value) {
        self.notebook.heard(connection, message);
        let id = message["callback_id"].as_str().unwrap_or_default();
        match message["type"].as_str() {
            Some("task_step_result") => {
                life.open.insert(id.to_owned(), message["result"]["answered_in"].as_u64());
            }
            Some("open_callbacks") => {
                let ids = message["callback_ids"].as_array().cloned().unwrap_or_default();
                life.open.retain(|id, _| ids.contains(&json!(id)));
            }
            Some("callback_resolved") => drop(life.open.remove(id)),
            Some("confirmation_accepted" | "confirmation_rejected") => {
                if let Some(bid) = life.given.get(id) {
                    self.notebook.verdict(*bid, message);
                }
                if message["reason"] == "unavailable" {
                    life.given.remove(id);
                }
            }
            _ => {}
        }
    }

    async fn answer(&self, device: &mut Device, life: &mut Life) {
        let phase = *self.phase.borrow();
        for (id, answered_in) in &life.open {
            let due = answered_in.is_some_and(|answered_in| answered_in <= phase);
            if !due || life.given.contains_key(id) {
                continue;
            }
            let ending = self.ending(id);
            let answer = json!({
                "action": "confirm", "callback_id": id, "proceed": ending.proceed, "feedback": ending.feedback,
                "answer_id": format!("{}-{id}", self.device),
            });
            life.given.insert(id.clone(), self.notebook.bids(id, ending));
            device.send(answer).await;
        }
    }

    /// What this person says to a callback: half of them yes, each with words of its own.
    fn ending(&self, id: &str) -> Ending {
        let proceed = id.bytes().map(u32::from).sum::<u32>() % 2 == 0;
        Ending::answered(&self.user, proceed, &format!("{} to {id}", self.device))
    }
}

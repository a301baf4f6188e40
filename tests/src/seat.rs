//! A device that a test moves by hand, and whose every message is written down: for races, where the moment counts.

use serde_json::{Value, json};

use crate::device::Device;
use crate::history::{Ending, Notebook, Outcome};

/// One device of a user on one connection.
#[derive(Debug)]
pub struct Seat {
    device: Device,
    connection: u64,
    user: String,
    name: String,
    notebook: Notebook,
}

impl Seat {
    /// Connects to a node (`ws://…/ws`).
    pub async fn take(url: &str, user: &str, name: &str, notebook: &Notebook) -> Self {
        let mut device = Device::connect(&format!("{url}?user_id={user}")).await;
        let connection = notebook.connected();
        let list = device.expect_type("open_callbacks").await;
        notebook.heard(connection, &list);
        let (user, name) = (user.to_owned(), name.to_owned());
        Self { device, connection, user, name, notebook: notebook.clone() }
    }

    /// Waits until it is shown this question; the callback's id and deadline.
    pub async fn question(&mut self, key: &str) -> (String, f64) {
        let shown = self.hears("question", |m| m["type"] == "task_step_result" && m["task_id"] == *key).await;
        let id = shown["callback_id"].as_str().expect("a question has an id").to_owned();
        (id, shown["deadline"].as_f64().expect("a question has a deadline"))
    }

    /// Answers, in words of its own, and waits for the verdict.
    pub async fn confirm(&mut self, id: &str, proceed: bool) -> Value {
        let feedback = format!("{} to {id}", self.name);
        let bid = self.notebook.bids(id, Ending::answered(&self.user, proceed, &feedback));
        let verdict = self.device.confirm_with(id, json!({"proceed": proceed, "feedback": feedback})).await;
        self.notebook.verdict(bid, &verdict);
        verdict
    }

    /// Cancels the task of this one callback, and waits for the reply.
    pub async fn cancel(&mut self, task: &str, id: &str) {
        let bid = self.notebook.bids(id, Ending::cancelled(&self.user));
        self.device.send(json!({"action": "cancel", "task_id": task, "id": id})).await;
        let reply = self.hears("reply to the cancellation", |m| m["reply_to"] == *id).await;
        assert_eq!(reply["type"], "task_cancelled", "{reply}");
        self.notebook.outcome(bid, if reply["callbacks_closed"] == 1 { Outcome::Won } else { Outcome::Late });
    }

    /// Waits until it hears that this callback ended.
    pub async fn told(&mut self, id: &str) {
        self.hears("end of the callback", |m| m["type"] == "callback_resolved" && m["callback_id"] == *id).await;
    }

    /// Takes what has come and was not waited for: a second copy, a second end.
    pub async fn take_the_rest(&mut self) {
        self.device.ping().await;
        for _ in 0..self.device.unread().len() {
            if let Some(message) = self.device.next().await {
                self.notebook.heard(self.connection, &message);
            }
        }
    }

    async fn hears(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let message = self.device.wait_for(what, fits).await;
        self.notebook.heard(self.connection, &message);
        message
    }
}

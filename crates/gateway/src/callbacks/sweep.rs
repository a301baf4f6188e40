//! What every node does for all callbacks: times out what is due when nobody touches it; and what a device is shown of
//! those that are open.

use std::{sync::Arc, time::Duration};

use countersign_protocol::{Address, UserId};

use crate::{
    hub::{Frame, OpenQuestions},
    node::Node,
};

/// Between two sweeps, halved to one and a half by chance so that nodes do not keep step.
const INTERVAL: Duration = Duration::from_secs(1);
/// Sweeps until the node stops.
pub(crate) async fn sweep(node: Arc<Node>) {
    loop {
        tokio::select! {
            biased;
            () = node.shutdown.stopped() => return,
            () = tokio::time::sleep(INTERVAL.mul_f64(0.5 + fastrand::f64())) => {}
        }
        // A failure is counted by the backplane and the link says it to people; the next sweep does what this one did not.
        if let Ok(swept) = node.backplane.sweep().await {
            node.metrics.swept(swept);
        }
    }
}

impl Node {
    /// A user's open callbacks, as frames.
    pub(crate) async fn open_questions(&self, user: &UserId) -> countersign_backplane::Result<OpenQuestions> {
        let open = self.backplane.deliver_open_callbacks(user).await?;
        let address = Address::User(user.clone());
        let questions = open.iter().map(|callback| Frame::of_message(&callback.message, address.clone(), None));
        Ok(OpenQuestions::new(questions.collect()))
    }
}

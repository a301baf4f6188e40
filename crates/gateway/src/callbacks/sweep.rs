//! What every node does for all callbacks: times out what is due when nobody touches it; and what a device is shown of
//! those that are open.

use std::{sync::Arc, time::Duration};

use countersign_protocol::{Address, UserId};
use tokio::time::{Instant, sleep_until};

use crate::{
    hub::{Frame, OpenQuestions},
    node::Node,
};

/// The longest time from the beginning of one sweep to the next. A callback that nothing waits for ends at most this long after
/// its deadline, and the time of the sweep itself: a deadline is promised within a second.
const INTERVAL: Duration = Duration::from_millis(800);
/// Sweeps until the node stops.
pub(crate) async fn sweep(node: Arc<Node>) {
    let mut began = Instant::now();
    loop {
        // Jitter keeps nodes from sweeping in step. It only shortens the interval, as a longer one would break the promise.
        let next = began + INTERVAL.mul_f64(0.5 + fastrand::f64() / 2.0);
        tokio::select! {
            biased;
            () = node.shutdown.stopped() => return,
            () = sleep_until(next) => {}
        }
        began = Instant::now();
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

#[cfg(test)]
mod tests {
    use countersign_backplane::{
        Backplane,
        callbacks::OpenCallback,
        memory::{Clock, Memory},
    };
    use countersign_protocol::{CallbackId, NodeId, OnTimeout, Partition, TaskId};

    use super::*;
    use crate::config::Config;

    /// As the backplane has it, in step with the virtual time of the test.
    #[derive(Debug)]
    struct VirtualClock(Instant);

    impl Clock for VirtualClock {
        fn now_ms(&self) -> u64 {
            1_790_000_000_000 + u64::try_from(self.0.elapsed().as_millis()).unwrap()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_nothing_waits_for_ends_within_a_second_of_its_deadline() {
        let id = NodeId::parse("n").unwrap();
        let node = Node::start_on(Config { node_id: id.clone(), ..Config::default() }, |settings, interest, relay| {
            let memory = Memory::with_clock(settings, Arc::new(VirtualClock(Instant::now())));
            let backplane: Arc<dyn Backplane> = memory.node(id, interest, relay);
            Ok(backplane)
        })
        .unwrap_or_else(|error| panic!("{error}"));
        let user = UserId::parse("alice").unwrap();
        let mut asked = Vec::new();
        for n in 0..300 {
            let id = CallbackId::new(Partition::of(&user), n);
            let open = OpenCallback {
                id,
                user: user.clone(),
                task: TaskId::parse("t").unwrap(),
                message_head: format!(r#"{{"type":"task_step_result","callback_id":"{id}""#),
                timeout: Duration::from_millis(fastrand::u64(1..20_000)),
                on_timeout: OnTimeout::Proceed,
                plain: true,
                key: None,
                reply_to: None,
            };
            asked.push((id, node.backplane.open(open).await.unwrap().callback.deadline));
        }
        tokio::time::sleep(Duration::from_secs(25)).await;
        // Had the sweep left one, this read would end it, and say so.
        for (id, deadline) in asked {
            let decision = node.backplane.read(id).await.unwrap().unwrap().decision.unwrap();
            let late = decision.at - deadline;
            assert!((0.0..=1.0).contains(&late), "it ended {late} s after its deadline");
        }
        node.shutdown.stop();
    }
}

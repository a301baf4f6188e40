//! Waiting for a decision: a lease on a record, not the record itself. Any process may wait for the same callback, on any
//! node, before or after the answer.
//!
//! Register, then read, then sleep. What is heard ends the wait at once; a jittered re-read about once a second is the
//! truth when nothing is heard. The wait's own monotonic timer ends it within a second after the deadline, even with a
//! command in flight.

use std::time::Duration;

use countersign_backplane::Callback;
use countersign_protocol::{CallbackId, Decision};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::{node::Node, waiters::Waiter};

/// How a wait ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Waited {
    /// With the decision.
    Decided(Decision),
    /// Still open: the time to wait is over, or the node drains. Ask again. Unix seconds of its deadline.
    Pending {
        /// When it times out.
        deadline: f64,
    },
    /// There is no such callback, or its retention is over.
    NotFound,
    /// The backplane did not say: ask again with the same id.
    Unknown,
}

/// Between two reads of the record, halved to one and a half by chance.
pub(crate) const REREAD: Duration = Duration::from_secs(1);
/// A wait may outlive its deadline by a second; this leaves the rest of it for the reply.
pub(crate) const PAST_DEADLINE: Duration = Duration::from_millis(900);
/// A wait that could not read its record even once does not know its deadline, which may be over already: it says so as
/// soon as it would have to then.
const FIRST_READ: Duration = PAST_DEADLINE;
/// A wait does not depend on its subscription.
pub(crate) const SUBSCRIBED: Duration = Duration::from_millis(500);

impl Node {
    /// Waits for the decision of a callback until `until`, or without a limit of its own until it ends. `known` is the
    /// callback as it was just opened, if it was.
    pub(crate) async fn wait(&self, id: CallbackId, until: Option<Instant>, known: Option<&Callback>) -> Waited {
        if let Some(decision) = known.and_then(|callback| callback.decision.clone()) {
            return Waited::Decided(decision);
        }
        let mut waiter = self.waiters.register(id);
        let mut state = State { deadline: None, ends: Instant::now() + FIRST_READ };
        if let Some(callback) = known {
            state.learn(callback);
        }
        let ended = loop {
            let limit = until.map_or(state.ends, |until| until.min(state.ends));
            match timeout_at(limit, self.look(id, &waiter)).await {
                Ok(Look::Ended(ended)) => break ended,
                Ok(Look::Open(callback)) => state.learn(&callback),
                Ok(Look::Failed) | Err(_) => {}
            }
            if Instant::now() >= limit {
                break state.over(until);
            }
            tokio::select! {
                decision = waiter.news() => break Waited::Decided(decision),
                () = self.shutdown.draining() => break state.over(until.or_else(|| Some(Instant::now()))),
                () = sleep_until(state.next_read().min(limit)) => {}
            }
        };
        if let (Waited::Decided(decision), Some(asked_at)) = (&ended, known.map(|callback| callback.asked_at)) {
            self.metrics.answered_after(decision.at - asked_at);
        }
        ended
    }

    async fn look(&self, id: CallbackId, waiter: &Waiter<CallbackId>) -> Look {
        waiter.subscribed(SUBSCRIBED).await;
        match self.backplane.read(id).await {
            Ok(None) => Look::Ended(Waited::NotFound),
            Ok(Some(Callback { decision: Some(decision), .. })) => Look::Ended(Waited::Decided(decision)),
            Ok(Some(callback)) => Look::Open(Box::new(callback)),
            Err(_) => Look::Failed,
        }
    }
}

enum Look {
    Ended(Waited),
    Open(Box<Callback>),
    Failed,
}

struct State {
    /// As the backplane's clock has it (Unix seconds), and as ours does.
    deadline: Option<(f64, Instant)>,
    /// When the wait ends whatever happens.
    ends: Instant,
}

impl State {
    fn learn(&mut self, callback: &Callback) {
        // The backplane's clock may be set back at any time; no callback is open for longer than it was asked to be.
        let whole = Duration::try_from_secs_f64(callback.deadline - callback.asked_at).unwrap_or_default();
        let deadline = Instant::now() + callback.remaining.min(whole);
        let deadline = self.deadline.map_or(deadline, |(_, known)| known.min(deadline));
        self.deadline = Some((callback.deadline, deadline));
        self.ends = deadline + PAST_DEADLINE;
    }

    fn next_read(&self) -> Instant {
        let soon = Instant::now() + REREAD.mul_f64(0.5 + fastrand::f64());
        // Just after the deadline there is a decision to be read, or to be made by reading.
        match self.deadline {
            Some((_, deadline)) if deadline > Instant::now() => soon.min(deadline + Duration::from_millis(5)),
            _ => soon,
        }
    }

    fn over(&self, until: Option<Instant>) -> Waited {
        match (self.deadline, until) {
            // Open when it was last read, and the deadline is still to come.
            (Some((deadline, at)), Some(_)) if Instant::now() < at => Waited::Pending { deadline },
            _ => Waited::Unknown,
        }
    }
}

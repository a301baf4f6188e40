//! What a connection has to do at some time: ping, notice silence, end with its token, leave when the node drains. One
//! moment at a time, so that a connection needs one timer.

use std::time::{Duration, SystemTime};

use countersign_protocol::close::{self, Close};
use tokio::time::Instant;

use super::pulse::{Beat, Pulse};
use crate::hub::Outbox;

/// See the module.
#[derive(Debug)]
pub(crate) struct Agenda {
    pulse: Pulse,
    expires: Option<Instant>,
    leave: Option<Instant>,
}

/// What is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// The timer was early.
    Nothing,
    /// Ask for a sign of life.
    Ping,
    /// Tell the client to come back elsewhere, after what waits.
    Drain,
    /// Close now.
    Close(Close),
}

impl Agenda {
    /// Pings every `interval` and waits `timeout` for the answer; `expires_at` is the token's end.
    pub(crate) fn new(interval: Duration, timeout: Duration, expires_at: Option<SystemTime>) -> Self {
        let left = expires_at.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
        let expires = left.and_then(|left| Instant::now().checked_add(left));
        Self { pulse: Pulse::new(interval, timeout), expires, leave: None }
    }

    /// Of a line that ends before anything is due.
    pub(crate) fn none() -> Self {
        Self::new(FOREVER, FOREVER, None)
    }

    /// The next moment at which something may be due.
    pub(super) fn next(&self) -> Instant {
        [self.expires, self.leave].into_iter().flatten().fold(self.pulse.next(), Instant::min)
    }

    /// Leaves at some moment within `spread`.
    pub(super) fn leave_within(&mut self, spread: Duration) {
        self.leave = Some(Instant::now() + spread.mul_f64(fastrand::f64()));
    }

    /// The client said something; how long after a ping, if one waited for it.
    pub(super) fn alive(&mut self) -> Option<Duration> {
        self.pulse.alive()
    }

    /// What is due now. `listening`: whether what the client says is looked at.
    pub(super) fn due(&mut self, listening: bool, outbox: &Outbox) -> Due {
        let now = Instant::now();
        if self.expires.is_some_and(|at| at <= now) {
            return Due::Close(close::TOKEN_EXPIRED);
        }
        if self.leave.is_some_and(|at| at <= now) {
            self.leave = None;
            return Due::Drain;
        }
        if self.pulse.next() > now {
            return Due::Nothing;
        }
        match self.pulse.beat(listening, outbox.written(), outbox.depth() > 0) {
            Beat::Ping => Due::Ping,
            Beat::Late => Due::Close(close::PING_TIMEOUT),
            Beat::Patient => Due::Nothing,
        }
    }
}

/// Longer than any line that is refused lives.
const FOREVER: Duration = Duration::from_secs(24 * 3600);

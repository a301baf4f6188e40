//! What a connection has to do at some time: ping, notice silence, end with its token, leave when the node drains. One
//! moment at a time, so that a connection needs one alarm.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use countersign_protocol::close::{self, Close};

use super::pulse::{Beat, Pulse};
use crate::{
    alarms::{Alarm, Alarms, Tick},
    hub::Outbox,
};

/// See the module.
#[derive(Debug)]
pub(crate) struct Agenda {
    alarm: Alarm,
    pulse: Pulse,
    expires: Option<Tick>,
    leave: Option<Tick>,
}

/// What is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// The alarm was for something that is put off.
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
    pub(crate) fn new(
        alarms: &Arc<Alarms>,
        interval: Duration,
        timeout: Duration,
        expires_at: Option<SystemTime>,
    ) -> Self {
        let alarm = alarms.alarm();
        let left = expires_at.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
        let expires = left.map(|left| alarm.after(left));
        Self { pulse: Pulse::new(alarm.after(Duration::ZERO), interval, timeout), alarm, expires, leave: None }
    }

    /// Of a line that ends before anything is due.
    pub(crate) fn none() -> Self {
        Self::new(&Alarms::new(), FOREVER, FOREVER, None)
    }

    /// Has the connection's task woken when something is due. To be called whenever that may have changed; nearly always it has not.
    pub(super) fn set_alarm(&mut self, outbox: &Arc<Outbox>) {
        let next = [self.expires, self.leave].into_iter().flatten().fold(self.pulse.next(), Tick::min);
        self.alarm.set(next, outbox);
    }

    /// Leaves at some moment within `spread`.
    pub(super) fn leave_within(&mut self, spread: Duration) {
        self.leave = Some(self.alarm.after(spread.mul_f64(fastrand::f64())));
    }

    /// The client said something; how long after a ping, if one waited for it.
    pub(super) fn alive(&mut self) -> Option<Duration> {
        self.pulse.alive(|| self.alarm.after(Duration::ZERO))
    }

    /// The alarm has rung: what is due now. `listening`: whether what the client says is looked at.
    pub(super) fn due(&mut self, listening: bool, outbox: &Outbox) -> Due {
        self.alarm.put_off();
        let now = self.alarm.now();
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
        match self.pulse.beat(self.alarm.after(Duration::ZERO), listening, outbox.written(), outbox.depth() > 0) {
            Beat::Ping => Due::Ping,
            Beat::Late => Due::Close(close::PING_TIMEOUT),
            Beat::Patient => Due::Nothing,
        }
    }
}

/// Longer than any line that is refused lives.
const FOREVER: Duration = Duration::from_secs(24 * 3600);

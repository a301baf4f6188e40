//! When to ping, and when silence means that nobody is there.

use std::time::Duration;

use tokio::time::Instant;

use crate::alarms::{Tick, ticks};

/// See the module.
#[derive(Debug)]
pub(super) struct Pulse {
    /// In ticks, as the next one.
    interval: u32,
    timeout: u32,
    next: Tick,
    pinged_at: Option<Instant>,
    /// Bytes that the client's socket had taken at the last beat.
    taken: u64,
}

/// What a moment of the pulse asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Beat {
    /// Send a ping.
    Ping,
    /// Nothing came back in time.
    Late,
    /// Nothing was read, or the client is still taking what was sent before the ping: silence proves nothing yet.
    Patient,
}

impl Pulse {
    pub(super) fn new(now: Tick, interval: Duration, timeout: Duration) -> Self {
        let (interval, timeout) = (ticks(interval), ticks(timeout));
        Self { interval, timeout, next: now.plus(interval), pinged_at: None, taken: 0 }
    }

    /// The next moment.
    pub(super) fn next(&self) -> Tick {
        self.next
    }

    /// The moment has come. `reading`: whether what the client says is listened to. `taken`: bytes that its socket has taken, ever;
    /// `waiting`: whether more is to be sent.
    pub(super) fn beat(&mut self, now: Tick, reading: bool, taken: u64, waiting: bool) -> Beat {
        self.next = now.plus(self.timeout);
        let taking = waiting && std::mem::replace(&mut self.taken, taken) != taken;
        match self.pinged_at {
            Some(_) if reading && !taking => Beat::Late,
            Some(_) => Beat::Patient,
            None => {
                self.pinged_at = Some(Instant::now());
                self.taken = taken;
                Beat::Ping
            }
        }
    }

    /// Something came, at a moment that is only asked for if a ping was waiting; how long after that.
    pub(super) fn alive(&mut self, now: impl FnOnce() -> Tick) -> Option<Duration> {
        let pinged_at = self.pinged_at.take()?;
        self.next = now().plus(self.interval);
        Some(pinged_at.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::alarms::Alarms;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn silence_after_a_ping_is_late_unless_nothing_was_read() {
        let now = Alarms::new().alarm().now();
        let mut pulse = Pulse::new(now, 30 * SECOND, 10 * SECOND);
        assert_eq!(pulse.next(), now.plus(ticks(30 * SECOND)));
        assert_eq!(pulse.beat(now, true, 0, false), Beat::Ping);
        assert_eq!(pulse.next(), now.plus(ticks(10 * SECOND)));
        assert_eq!(pulse.beat(now, false, 0, false), Beat::Patient);
        assert_eq!(pulse.beat(now, true, 0, false), Beat::Late);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_still_takes_what_was_sent_before_the_ping_is_there() {
        let now = Alarms::new().alarm().now();
        let mut pulse = Pulse::new(now, 30 * SECOND, 10 * SECOND);
        assert_eq!(pulse.beat(now, true, 1000, true), Beat::Ping);
        assert_eq!(pulse.beat(now, true, 1001, true), Beat::Patient);
        assert_eq!(pulse.beat(now, true, 1001, true), Beat::Late, "it takes nothing any more");
        let mut pulse = Pulse::new(now, 30 * SECOND, 10 * SECOND);
        assert_eq!(pulse.beat(now, true, 1000, true), Beat::Ping);
        assert_eq!(pulse.beat(now, true, 2000, false), Beat::Late, "it has taken the ping too, and says nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_sign_of_life_begins_the_next_interval() {
        let alarm = Alarms::new().alarm();
        let mut pulse = Pulse::new(alarm.now(), 30 * SECOND, 10 * SECOND);
        assert_eq!(pulse.alive(|| alarm.now()), None);
        pulse.beat(alarm.now(), true, 0, false);
        advance(SECOND).await;
        assert_eq!(pulse.alive(|| alarm.now()), Some(SECOND));
        assert_eq!(pulse.next(), alarm.after(30 * SECOND));
    }
}

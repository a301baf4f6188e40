//! When to ping, and when silence means that nobody is there.

use std::time::Duration;

use tokio::time::Instant;

/// See the module.
#[derive(Debug)]
pub(super) struct Pulse {
    interval: Duration,
    timeout: Duration,
    next: Instant,
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
    pub(super) fn new(interval: Duration, timeout: Duration) -> Self {
        Self { interval, timeout, next: Instant::now() + interval, pinged_at: None, taken: 0 }
    }

    /// The next moment.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// The moment has come. `reading`: whether what the client says is listened to. `taken`: bytes that its socket has taken, ever;
    /// `waiting`: whether more is to be sent.
    pub(super) fn beat(&mut self, reading: bool, taken: u64, waiting: bool) -> Beat {
        let now = Instant::now();
        self.next = now + self.timeout;
        let taking = waiting && std::mem::replace(&mut self.taken, taken) != taken;
        match self.pinged_at {
            Some(_) if reading && !taking => Beat::Late,
            Some(_) => Beat::Patient,
            None => {
                self.pinged_at = Some(now);
                self.taken = taken;
                Beat::Ping
            }
        }
    }

    /// Something came; how long after the ping, if one was waiting.
    pub(super) fn alive(&mut self) -> Option<Duration> {
        let pinged_at = self.pinged_at.take()?;
        let now = Instant::now();
        self.next = now + self.interval;
        Some(now - pinged_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn silence_after_a_ping_is_late_unless_nothing_was_read() {
        let mut pulse = Pulse::new(30 * SECOND, 10 * SECOND);
        assert_eq!(pulse.next() - Instant::now(), 30 * SECOND);
        assert_eq!(pulse.beat(true, 0, false), Beat::Ping);
        assert_eq!(pulse.next() - Instant::now(), 10 * SECOND);
        assert_eq!(pulse.beat(false, 0, false), Beat::Patient);
        assert_eq!(pulse.beat(true, 0, false), Beat::Late);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_still_takes_what_was_sent_before_the_ping_is_there() {
        let mut pulse = Pulse::new(30 * SECOND, 10 * SECOND);
        assert_eq!(pulse.beat(true, 1000, true), Beat::Ping);
        assert_eq!(pulse.beat(true, 1001, true), Beat::Patient);
        assert_eq!(pulse.beat(true, 1001, true), Beat::Late, "it takes nothing any more");
        let mut pulse = Pulse::new(30 * SECOND, 10 * SECOND);
        assert_eq!(pulse.beat(true, 1000, true), Beat::Ping);
        assert_eq!(pulse.beat(true, 2000, false), Beat::Late, "it has taken the ping too, and says nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_sign_of_life_begins_the_next_interval() {
        let mut pulse = Pulse::new(30 * SECOND, 10 * SECOND);
        assert_eq!(pulse.alive(), None);
        pulse.beat(true, 0, false);
        tokio::time::advance(SECOND).await;
        assert_eq!(pulse.alive(), Some(SECOND));
        assert_eq!(pulse.next() - Instant::now(), 30 * SECOND);
    }
}

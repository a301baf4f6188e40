//! The clock of a server, watched beside the node's own monotonic one. Every deadline is judged by it, so when somebody
//! sets it, open questions end earlier or later by as much, and the log should say why.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// One server's clock, as it was read last.
#[derive(Debug, Default)]
pub(super) struct ServerClock(Mutex<Option<Reading>>);

/// What a server said, at some moment between these two.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    pub(super) asked: Instant,
    pub(super) answered: Instant,
    /// Since the Unix epoch.
    pub(super) time: Duration,
}

impl ServerClock {
    /// Takes a reading; by how many seconds the clock was certainly set since the one before, if it was.
    pub(super) fn read(&self, now: Reading) -> Option<f64> {
        let before = self.0.lock().unwrap_or_else(PoisonError::into_inner).replace(now)?;
        let passed = now.time.as_secs_f64() - before.time.as_secs_f64();
        // As much time has passed there as between the two moments, which are known only so well.
        let most = now.answered.saturating_duration_since(before.asked).as_secs_f64();
        // Below zero when the two requests overlap: then the later answer may tell the earlier time.
        let least = seconds_between(before.answered, now.asked);
        let set = (passed - most).max(0.0) + (passed - least).min(0.0);
        (set.abs() >= NOTED.as_secs_f64()).then_some(set)
    }
}

/// Negative when `to` is before `from`.
fn seconds_between(from: Instant, to: Instant) -> f64 {
    let back = from.saturating_duration_since(to).as_secs_f64();
    to.saturating_duration_since(from).as_secs_f64() - back
}

/// Below this are the small steps of a clock that is kept right.
const NOTED: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_is_noticed_once_and_a_slow_answer_is_not_taken_for_it() {
        let (clock, began) = (ServerClock::default(), Instant::now());
        // Asked and answered after so many seconds, and what the server said.
        let read = |asked: f64, answered: f64, time: f64| {
            let at = |seconds| began + Duration::from_secs_f64(seconds);
            let time = Duration::from_secs_f64(1_790_000_000.0 + time);
            clock.read(Reading { asked: at(asked), answered: at(answered), time }).map(f64::round)
        };
        assert_eq!(read(0.0, 0.1, 0.0), None, "the first");
        assert_eq!(read(1.0, 1.1, 1.05), None);
        assert_eq!(read(2.0, 7.0, 2.01), None, "answered at once, on its way for five seconds");
        assert_eq!(read(8.0, 14.0, 13.9), None, "the other way round");
        // Two connections ask the same server, and the first answer may be the last to arrive.
        assert_eq!(read(14.3, 14.4, 14.35), None, "the one that overtakes");
        assert_eq!(read(8.5, 14.5, 8.6), None, "the one that is overtaken");
        assert_eq!(read(14.6, 14.7, 14.65), None, "the next after it");
        assert_eq!(read(15.0, 15.1, 15.9), None, "a small step");
        assert_eq!(read(16.0, 16.1, 76.9), Some(60.0));
        assert_eq!(read(17.0, 17.1, 77.9), None, "it goes on from there");
        assert_eq!(read(18.0, 18.1, 78.9 - 3600.0), Some(-3600.0));
        assert_eq!(read(3000.0, 3000.1, 3060.9 - 3600.0), None, "after an absence");
    }
}

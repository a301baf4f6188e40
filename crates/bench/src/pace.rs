//! When to send what. Open loop: message `k` is meant for `k / rate`, and that is the time it carries, so a server that
//! stalls cannot hide the wait of those behind (coordinated omission). Closed loop: as fast as the slowest connection
//! takes them, with a window of messages on the way.

use std::time::Duration;

use crate::machine::clock::nanos;

/// The most messages of one turn, so that a producer that has fallen behind still looks at the clock.
const LARGEST_BATCH: u64 = 256;
/// How long to sleep when the window is full.
const WINDOW_PAUSE: Duration = Duration::from_micros(50);

/// The plan.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// At a fixed rate, whatever the server does.
    Open { per_second: f64 },
    /// With so many messages on the way.
    Closed { window: u64 },
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing, for so long.
    Sleep(Duration),
    /// Send this many.
    Send(u64),
}

impl Pace {
    /// `now` in nanoseconds since the first message, `sent` and `on_the_way` in messages.
    pub(crate) fn turn(self, now: u64, sent: u64, on_the_way: u64) -> Turn {
        match self {
            Self::Open { .. } => {
                let due = self.due(now).saturating_sub(sent);
                if due == 0 {
                    Turn::Sleep(Duration::from_nanos(self.intended(sent, now).saturating_sub(now)))
                } else {
                    Turn::Send(due.min(LARGEST_BATCH))
                }
            }
            Self::Closed { window } => match window.saturating_sub(on_the_way) {
                0 => Turn::Sleep(WINDOW_PAUSE),
                room => Turn::Send(room.min(LARGEST_BATCH)),
            },
        }
    }

    /// When message `number` is meant to be sent.
    pub(crate) fn intended(self, number: u64, now: u64) -> u64 {
        match self {
            Self::Open { per_second } => nanos(Duration::from_secs_f64(number as f64 / per_second)),
            Self::Closed { .. } => now,
        }
    }

    /// How many messages are meant for the time until `now`.
    pub(crate) fn due(self, now: u64) -> u64 {
        match self {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a count of messages, positive and far below 2^53"
            )]
            Self::Open { per_second } => (Duration::from_nanos(now).as_secs_f64() * per_second) as u64 + 1,
            Self::Closed { .. } => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn an_open_loop_keeps_its_schedule_after_a_stall() {
        let pace = Pace::Open { per_second: 50.0 };
        assert_eq!(pace.turn(0, 0, 0), Turn::Send(1));
        assert_eq!(pace.turn(0, 1, 0), Turn::Sleep(Duration::from_millis(20)));
        assert_eq!(pace.turn(SECOND, 1, 1_000_000), Turn::Send(50), "whatever is on the way");
        assert_eq!(pace.intended(25, SECOND), SECOND / 2, "late messages carry the time that they were meant for");
        assert_eq!(pace.turn(100 * SECOND, 0, 0), Turn::Send(LARGEST_BATCH));
    }

    #[test]
    fn a_closed_loop_fills_its_window() {
        let pace = Pace::Closed { window: 10 };
        assert_eq!(pace.turn(SECOND, 0, 0), Turn::Send(10));
        assert_eq!(pace.turn(SECOND, 10, 10), Turn::Sleep(WINDOW_PAUSE));
        assert_eq!(pace.turn(SECOND, 10, 4), Turn::Send(6));
        assert_eq!(pace.intended(3, 42), 42);
    }
}

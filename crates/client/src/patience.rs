//! How long to go on, and how long to pause before the next attempt. A pure machine: time is told to it, as the
//! duration since the first attempt, and the pauses come from a generator that tests seed.
//!
//! Pauses have full jitter (a random part of a doubling limit), so that the callers of a node that fell do not all
//! come back in the same moment; a `Retry-After` is waited for in full, and the jitter comes on top.

use std::time::Duration;

/// The limit of the first pause.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The limit that doubling does not pass.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A `Retry-After` beyond this is cut down: the gateway means seconds, and a proxy's hour would cost an answer.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(30);

/// Attempts at one thing.
#[derive(Debug)]
pub(crate) struct Patience {
    give_up_at: Duration,
    failures: u32,
    random: fastrand::Rng,
}

impl Patience {
    /// Goes on until `give_up_at` after the first attempt.
    pub(crate) fn until(give_up_at: Duration, random: fastrand::Rng) -> Self {
        Self { give_up_at, failures: 0, random }
    }

    /// There is proof that waiting makes sense until then: a sign of life from the gateway.
    pub(crate) fn extend(&mut self, give_up_at: Duration) {
        self.give_up_at = give_up_at;
        self.failures = 0;
    }

    /// The pause before the next attempt, or `None`: patience has ended. The last attempt is made at the very end.
    pub(crate) fn pause(&mut self, now: Duration, retry_after: Option<Duration>) -> Option<Duration> {
        let left = self.give_up_at.checked_sub(now).filter(|left| !left.is_zero())?;
        let limit = backoff(self.failures, FIRST_PAUSE, LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        let asked = retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER);
        Some((asked + limit.mul_f64(self.random.f64())).min(left))
    }

    /// A pause of at most `retry_after`, after which a question that is open all right is waited for again.
    pub(crate) fn stagger(&mut self, retry_after: Option<Duration>) -> Duration {
        retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER).mul_f64(self.random.f64())
    }
}

/// The limit of the pause after so many failures in a row.
pub(crate) fn backoff(failures: u32, first: Duration, longest: Duration) -> Duration {
    first.saturating_mul(2u32.saturating_pow(failures)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn patience() -> Patience {
        Patience::until(MINUTE, fastrand::Rng::with_seed(7))
    }

    #[test]
    fn pauses_stay_under_a_doubling_limit_and_differ() {
        let mut patience = patience();
        let pauses: Vec<_> = (0..12).map(|_| patience.pause(Duration::ZERO, None).unwrap()).collect();
        for (failures, pause) in (0u32..).zip(&pauses) {
            assert!(*pause <= backoff(failures, FIRST_PAUSE, LONGEST_PAUSE), "{failures}: {pause:?}");
        }
        assert!(pauses.windows(2).any(|pair| pair[0] > pair[1]), "no jitter in {pauses:?}");
        assert_eq!(backoff(40, FIRST_PAUSE, LONGEST_PAUSE), LONGEST_PAUSE);
    }

    #[test]
    fn retry_after_is_waited_for_in_full() {
        let pause = patience().pause(Duration::ZERO, Some(Duration::from_secs(5))).unwrap();
        assert!(pause >= Duration::from_secs(5), "{pause:?}");
        let pause = patience().pause(Duration::ZERO, Some(Duration::from_secs(3600))).unwrap();
        assert!(pause <= LONGEST_RETRY_AFTER + FIRST_PAUSE, "{pause:?}");
    }

    #[test]
    fn the_last_attempt_is_made_at_the_very_end_and_none_after_it() {
        let mut patience = patience();
        let almost = MINUTE.checked_sub(Duration::from_millis(1)).unwrap();
        let retry_after = Some(Duration::from_secs(5));
        assert_eq!(patience.pause(almost, retry_after), Some(Duration::from_millis(1)));
        assert_eq!(patience.pause(MINUTE, retry_after), None);
        patience.extend(MINUTE * 2);
        assert!(patience.pause(MINUTE, None).is_some());
    }
}

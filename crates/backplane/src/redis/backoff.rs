//! How long to wait before trying again: longer each time, with jitter so that nodes do not come back in step, and without
//! an end: a node never gives up on its Redis.

use std::time::Duration;

/// The pauses between tries.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    /// From the shortest pause on.
    pub(super) fn new() -> Self {
        Self { next: SHORTEST }
    }

    /// The next pause: between a half and the whole of what doubles each time.
    pub(super) fn next(&mut self) -> Duration {
        let pause = self.next.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.next = (self.next * 2).min(LONGEST);
        pause
    }

    /// Waits for as long.
    pub(super) async fn pause(&mut self) {
        tokio::time::sleep(self.next()).await;
    }
}

const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_two_seconds_and_stay_there() {
        let mut backoff = Backoff::new();
        let pauses: Vec<_> = (0..20).map(|_| backoff.next()).collect();
        assert!(pauses[0] <= SHORTEST && pauses[0] >= SHORTEST / 2);
        assert!(pauses[10..].iter().all(|pause| (LONGEST / 2..=LONGEST).contains(pause)), "{pauses:?}");
    }
}

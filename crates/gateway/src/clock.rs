//! The time that this node tells people. It is the backplane's, which deadlines are judged by and other nodes tell too; in
//! between it passes as the node's monotonic clock has it. The node's own wall clock is looked at once, at the start: it
//! may be set at any time, and nothing that a client hears should jump with it.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

/// See the module.
#[derive(Debug)]
pub(crate) struct NodeClock {
    began: Instant,
    /// The time when the node began, in milliseconds since the Unix epoch.
    beginning_ms: AtomicU64,
}

impl NodeClock {
    pub(crate) fn new() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { began: Instant::now(), beginning_ms: AtomicU64::new(millis(wall)) }
    }

    /// It is so late now, as the backplane has it.
    pub(crate) fn set(&self, now: Duration) {
        self.beginning_ms.store(millis(now.saturating_sub(self.began.elapsed())), Relaxed);
    }

    /// Unix seconds, for what the gateway says to people.
    pub(crate) fn now(&self) -> f64 {
        let beginning = Duration::from_millis(self.beginning_ms.load(Relaxed));
        (beginning + self.began.elapsed()).as_secs_f64()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_passes_from_what_the_backplane_said_last() {
        let clock = NodeClock::new();
        for said in [1_790_000_000, 1_789_996_400] {
            clock.set(Duration::from_secs(said));
            tokio::time::advance(Duration::from_millis(1500)).await;
            assert!((clock.now() - (said as f64 + 1.5)).abs() < 0.002, "{}", clock.now());
        }
    }
}

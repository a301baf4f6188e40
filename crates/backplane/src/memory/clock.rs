//! Where the time comes from. Everything else of the memory is handed the time as a number, so that a test can let an
//! hour pass in no time; the one look at the real clock is here.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime},
};

/// A clock.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64;
}

/// Unix time as `TIME` is Redis's, but read from the machine's clock once. From then on it passes as the monotonic clock has
/// it, so that no deadline moves when somebody sets the machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    began: Instant,
    beginning_ms: u64,
}

impl SystemClock {
    /// Reads the machine's clock.
    pub fn new() -> Self {
        // A clock before 1970 reads 0.
        let beginning_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, millis);
        Self { began: Instant::now(), beginning_ms }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        self.beginning_ms.saturating_add(millis(self.began.elapsed()))
    }
}

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub struct ManualClock(AtomicU64);

impl Default for ManualClock {
    /// Some moment of the year 2026.
    fn default() -> Self {
        Self(AtomicU64::new(1_790_000_000_000))
    }
}

impl ManualClock {
    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(millis(by), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Whole milliseconds, at most as many as the number holds.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Unix seconds as they are written into messages.
pub(super) fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

//! Counts and latencies of one reader thread. The thread writes to its own meter without locks and lets others look at
//! it through [`Live`]: one counter after each read, one histogram each second.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use hdrhistogram::Histogram;

/// From a microsecond to a minute with three significant digits; what is longer counts as a minute.
const LOWEST_NANOS: u64 = 1_000;
const HIGHEST_NANOS: u64 = 60_000_000_000;

/// Latencies in nanoseconds.
pub(crate) type Latencies = Histogram<u64>;

pub(crate) fn latencies() -> Latencies {
    Histogram::new_with_bounds(LOWEST_NANOS, HIGHEST_NANOS, 3).expect("the bounds are in order")
}

/// What a reader thread knows.
#[derive(Debug)]
pub(crate) struct Meter {
    /// Messages that arrived, in all.
    pub(crate) delivered: u64,
    /// Of those that were meant for the measured time.
    pub(crate) measured: Latencies,
    /// Since the last look.
    pub(crate) interval: Latencies,
    window: (u64, u64),
}

/// What others may look at.
#[derive(Debug)]
pub(crate) struct Live {
    /// Connections whose handshake is done.
    pub(crate) connected: AtomicU64,
    /// Connections that hear what is meant for them.
    pub(crate) ready: AtomicU64,
    /// Connections that could not be opened, or ended.
    pub(crate) ended: AtomicU64,
    /// Messages that arrived.
    pub(crate) delivered: AtomicU64,
    window_from: AtomicU64,
    window_to: AtomicU64,
    interval: Mutex<Option<Latencies>>,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self { delivered: 0, measured: latencies(), interval: latencies(), window: (u64::MAX, u64::MAX) }
    }

    /// A message arrived at `now` that was meant to be sent at `intended`.
    pub(crate) fn arrived(&mut self, intended: u64, now: u64) {
        let latency = now.saturating_sub(intended);
        self.delivered += 1;
        self.interval.saturating_record(latency);
        if intended >= self.window.0 && intended < self.window.1 {
            self.measured.saturating_record(latency);
        }
    }

    /// Before a read is looked at.
    pub(crate) fn begin(&mut self, live: &Live) {
        self.window = (live.window_from.load(Relaxed), live.window_to.load(Relaxed));
    }

    /// After a read was looked at.
    pub(crate) fn publish(&self, live: &Live) {
        // One thread writes, so nothing can be lost between load and store.
        live.delivered.store(self.delivered, Relaxed);
    }

    /// Once a second.
    pub(crate) fn publish_interval(&mut self, live: &Live) {
        let interval = std::mem::replace(&mut self.interval, latencies());
        *live.interval.lock().unwrap_or_else(PoisonError::into_inner) = Some(interval);
    }
}

impl Live {
    pub(crate) fn new() -> Self {
        Self {
            connected: AtomicU64::new(0),
            ready: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            window_from: AtomicU64::new(u64::MAX),
            window_to: AtomicU64::new(u64::MAX),
            interval: Mutex::new(None),
        }
    }

    /// Messages meant for `from..to` are measured; those before warm the server up.
    pub(crate) fn measure(&self, from: u64, to: u64) {
        self.window_to.store(to, Relaxed);
        self.window_from.store(from, Relaxed);
    }

    /// The latencies of the last second, once.
    pub(crate) fn take_interval(&self) -> Option<Latencies> {
        self.interval.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_messages_meant_for_the_measured_time_are_measured() {
        let (live, mut meter) = (Live::new(), Meter::new());
        meter.begin(&live);
        meter.arrived(500, 600);
        live.measure(1_000, 2_000);
        meter.begin(&live);
        for intended in [999, 1_000, 1_999, 2_000] {
            meter.arrived(intended, 5_000_000);
        }
        meter.publish(&live);
        meter.publish_interval(&live);
        assert_eq!((meter.delivered, meter.measured.len(), live.delivered.load(Relaxed)), (5, 2, 5));
        assert_eq!(live.take_interval().map(|interval| interval.len()), Some(5));
        assert!(live.take_interval().is_none());
    }
}

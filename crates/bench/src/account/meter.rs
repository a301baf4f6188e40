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
    published: u64,
    /// Bytes that were read from sockets once they were ready: frames, without the headers of TCP and IP.
    pub(crate) bytes: u64,
    /// Latencies of those that were meant for the measured time.
    pub(crate) measured: Latencies,
    /// Since the last look.
    interval: Latencies,
    window: (u64, u64),
}

/// What others may look at.
#[derive(Debug)]
pub(crate) struct Live {
    /// Connections whose handshake is done.
    pub(crate) connected: AtomicU64,
    /// Handshakes that were done, in all.
    pub(crate) opened: AtomicU64,
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
        let window = (u64::MAX, u64::MAX);
        Self { delivered: 0, published: 0, bytes: 0, measured: latencies(), interval: latencies(), window }
    }

    /// A message arrived.
    pub(crate) fn arrived(&mut self) {
        self.delivered += 1;
    }

    /// A message that was meant to be sent at `intended` arrived at `now`.
    pub(crate) fn took(&mut self, intended: u64, now: u64) {
        let latency = now.saturating_sub(intended);
        self.interval.saturating_record(latency);
        if intended >= self.window.0 && intended < self.window.1 {
            self.measured.saturating_record(latency);
        }
    }

    /// Before reads are looked at.
    pub(crate) fn begin(&mut self, live: &Live) {
        self.window = (live.window_from.load(Relaxed), live.window_to.load(Relaxed));
    }

    /// After reads were looked at.
    pub(crate) fn publish(&mut self, live: &Live) {
        let before = std::mem::replace(&mut self.published, self.delivered);
        live.delivered.fetch_add(self.delivered - before, Relaxed);
    }

    /// Once a second.
    pub(crate) fn publish_interval(&mut self, live: &Live) {
        let mut shared = live.interval.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *shared {
            None => *shared = Some(std::mem::replace(&mut self.interval, latencies())),
            Some(others) => {
                others.add(&self.interval).expect("all have the same bounds");
                self.interval.reset();
            }
        }
    }
}

impl Live {
    pub(crate) fn new() -> Self {
        Self {
            connected: AtomicU64::new(0),
            opened: AtomicU64::new(0),
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

    /// When the measured time ends.
    pub(crate) fn measured_to(&self) -> u64 {
        self.window_to.load(Relaxed)
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
        meter.took(500, 600);
        live.measure(1_000, 2_000);
        meter.begin(&live);
        for intended in [999, 1_000, 1_999, 2_000] {
            meter.arrived();
            meter.took(intended, 5_000_000);
        }
        meter.publish(&live);
        meter.publish_interval(&live);
        assert_eq!((meter.delivered, meter.measured.len(), live.delivered.load(Relaxed)), (4, 2, 4));
        assert_eq!(live.take_interval().map(|interval| interval.len()), Some(5));
        assert!(live.take_interval().is_none());
    }
}

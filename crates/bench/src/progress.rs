//! What is said on standard error while a run goes on: one line a second.

use std::{
    fmt,
    sync::atomic::Ordering::Relaxed,
    thread,
    time::{Duration, Instant},
};

use crate::{
    account::{
        meter::Live,
        report::{Latency, grouped},
    },
    machine::clock::Clock,
};

/// How often to look whether it is time.
const GLANCE: Duration = Duration::from_millis(5);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    quiet: bool,
}

impl Progress {
    pub(crate) fn new(quiet: bool) -> Self {
        Self { quiet }
    }

    pub(crate) fn say(self, line: fmt::Arguments<'_>) {
        if !self.quiet {
            eprintln!("  … {line}");
        }
    }

    /// Says each second what arrives, until it is `until` on the clock or the work has ended.
    pub(crate) fn watch(self, live: &Live, clock: Clock, until: u64, ended: impl Fn() -> bool) {
        let mut seen = (live.delivered.load(Relaxed), Instant::now());
        loop {
            let now = clock.now();
            if now >= until || ended() {
                return;
            }
            thread::sleep(GLANCE.min(Duration::from_nanos(until - now)));
            let Some(interval) = live.take_interval() else { continue };
            let delivered = live.delivered.load(Relaxed);
            let rate = (delivered - seen.0) as f64 / seen.1.elapsed().as_secs_f64();
            seen = (delivered, Instant::now());
            let Latency { p50, p99, .. } = Latency::of(&interval);
            let (total, ended) = (grouped(delivered), live.ended.load(Relaxed));
            self.say(format_args!("{rate:>10.0}/s  p50 {p50:.2} ms  p99 {p99:.2} ms  {total} in all  {ended} ended"));
        }
    }
}

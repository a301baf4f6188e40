//! A line of the log that somebody outside can provoke: once a second at most, with how many were left out.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    /// The second of the last line, counted from 1.
    last: AtomicU64,
    left_out: AtomicU64,
}

impl Seldom {
    pub(crate) const fn new() -> Self {
        Self { last: AtomicU64::new(0), left_out: AtomicU64::new(0) }
    }

    /// Whether it is time for a line, and how many were left out since the last one.
    pub(crate) fn line(&self) -> Option<u64> {
        let second = BEGAN.elapsed().as_secs() + 1;
        if self.last.swap(second, Relaxed) == second {
            self.left_out.fetch_add(1, Relaxed);
            return None;
        }
        Some(self.left_out.swap(0, Relaxed))
    }
}

/// Seconds are counted from the first line that anybody wanted to write.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_of_one_moment_are_one_line_or_two() {
        let seldom = Seldom::new();
        let lines: Vec<u64> = (0..1000).filter_map(|_| seldom.line()).collect();
        assert!((1..=2).contains(&lines.len()), "{lines:?}");
    }
}

//! What one connection should have heard and what it heard: a pure account of the numbers that arrived. A number that was
//! skipped is missing until it comes late (then it was reordered); missing at the end, it was lost. A loss that the
//! server announced (a gap, or a close code) is counted apart from one that it kept silent about.

use std::ops::{AddAssign, Range};

use serde::Serialize;

/// The account of one connection.
#[derive(Debug, Default, Clone)]
pub(crate) struct Ledger {
    /// The next number in order.
    next: u64,
    /// What was skipped, in order, without overlaps.
    missing: Vec<Range<u64>>,
    /// The server said that something was missed; what is skipped next was announced.
    announced: bool,
    tally: Tally,
}

/// Sums over connections.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Tally {
    /// Arrived, without repeats.
    pub(crate) received: u64,
    /// Never arrived, and nobody said so.
    pub(crate) lost: u64,
    /// Never arrived, and the server said that something was missed.
    pub(crate) lost_announced: u64,
    /// Arrived again.
    pub(crate) duplicated: u64,
    /// Arrived after a later one.
    pub(crate) reordered: u64,
    /// Meant for another connection.
    pub(crate) misrouted: u64,
}

impl Ledger {
    /// A number arrived.
    pub(crate) fn heard(&mut self, number: u64) {
        if number == self.next {
            self.next += 1;
            self.tally.received += 1;
        } else if number > self.next {
            self.skipped(number);
            self.next = number + 1;
            self.tally.received += 1;
        } else if self.found(number) {
            self.tally.reordered += 1;
            self.tally.received += 1;
        } else {
            self.tally.duplicated += 1;
        }
        self.announced = false;
    }

    /// One more arrived, and nobody looked which: it is taken for the next. What is lost is still missing in the end.
    pub(crate) fn counted(&mut self) {
        self.heard(self.next);
    }

    /// A message arrived that was meant for somebody else.
    pub(crate) fn misrouted(&mut self) {
        self.tally.misrouted += 1;
    }

    /// The server said that something was missed.
    pub(crate) fn gap(&mut self) {
        let missing = std::mem::take(&mut self.missing);
        self.tally.lost_announced += missing.iter().map(|range| range.end - range.start).sum::<u64>();
        self.announced = true;
    }

    /// The account when `sent` numbers were sent in all; `closed`: the server ended the connection with a reason.
    pub(crate) fn close(mut self, sent: u64, closed: bool) -> Tally {
        self.announced |= closed;
        if sent > self.next {
            self.skipped(sent);
        }
        self.tally.lost = self.missing.iter().map(|range| range.end - range.start).sum();
        self.tally
    }

    fn skipped(&mut self, upto: u64) {
        let range = self.next..upto;
        if self.announced {
            self.tally.lost_announced += range.end - range.start;
        } else {
            self.missing.push(range);
        }
    }

    /// Takes a number out of what is missing, if it is there.
    fn found(&mut self, number: u64) -> bool {
        let Some(at) = self.missing.iter().position(|range| range.contains(&number)) else { return false };
        let range = self.missing.remove(at);
        let parts = [range.start..number, number + 1..range.end];
        self.missing.splice(at..at, parts.into_iter().filter(|part| !part.is_empty()));
        true
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.lost += other.lost;
        self.lost_announced += other.lost_announced;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.misrouted += other.misrouted;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(numbers: &[u64], sent: u64) -> Tally {
        let mut ledger = Ledger::default();
        for &number in numbers {
            ledger.heard(number);
        }
        ledger.close(sent, false)
    }

    #[test]
    fn everything_in_order_is_nothing_to_report() {
        assert_eq!(tally(&[0, 1, 2], 3), Tally { received: 3, ..Tally::default() });
    }

    #[test]
    fn lost_duplicated_and_reordered_are_told_apart() {
        assert_eq!(tally(&[0, 2, 3], 4), Tally { received: 3, lost: 1, ..Tally::default() });
        assert_eq!(tally(&[0, 1], 4), Tally { received: 2, lost: 2, ..Tally::default() });
        assert_eq!(tally(&[0, 1, 1, 0], 2), Tally { received: 2, duplicated: 2, ..Tally::default() });
        assert_eq!(tally(&[3, 1, 2, 0, 0], 4), Tally { received: 4, reordered: 3, duplicated: 1, ..Tally::default() });
    }

    #[test]
    fn what_was_only_counted_still_shows_a_loss() {
        let mut ledger = Ledger::default();
        (0..3).for_each(|_| ledger.counted());
        assert_eq!(ledger.close(4, false), Tally { received: 3, lost: 1, ..Tally::default() });
    }

    #[test]
    fn a_loss_that_was_announced_is_no_silent_one() {
        let mut ledger = Ledger::default();
        ledger.heard(0);
        ledger.heard(5);
        ledger.gap();
        ledger.heard(9);
        ledger.heard(11);
        let told = Tally { received: 4, lost_announced: 4 + 3, lost: 1, ..Tally::default() };
        assert_eq!(ledger.close(12, false), told);

        let mut closed = Ledger::default();
        closed.heard(0);
        assert_eq!(closed.close(10, true), Tally { received: 1, lost_announced: 9, ..Tally::default() });
    }
}

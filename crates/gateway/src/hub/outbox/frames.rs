//! Frames that wait, in order. Nearly always there is one or none, and then this takes no memory of its own: what a burst needs
//! goes with the burst.

use std::collections::VecDeque;

use crate::hub::Frame;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Frames {
    first: Option<Waiting>,
    /// Behind the first. Boxed: most connections never have any.
    #[allow(clippy::box_collection, reason = "three words less for every connection")]
    others: Option<Box<VecDeque<Waiting>>>,
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) frame: Frame,
    pub(super) owed: bool,
}

impl Frames {
    pub(super) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.others.as_ref().map_or(0, |others| others.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(super) fn front(&self) -> Option<&Waiting> {
        self.first.as_ref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.first.iter().chain(self.others.iter().flat_map(|others| others.iter()))
    }

    /// So many are about to come.
    pub(super) fn reserve(&mut self, frames: usize) {
        if frames > 1 {
            self.others.get_or_insert_default().reserve(frames);
        }
    }

    pub(super) fn push_back(&mut self, waiting: Waiting) {
        if self.first.is_none() {
            self.first = Some(waiting);
        } else {
            self.others.get_or_insert_default().push_back(waiting);
        }
    }

    pub(super) fn pop_front(&mut self) -> Option<Waiting> {
        let next = self.others.as_mut().and_then(|others| others.pop_front());
        if next.is_none() {
            self.others = None;
        }
        std::mem::replace(&mut self.first, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_in_order_and_leave_no_memory() {
        let mut frames = Frames::default();
        let waiting = |n: usize| Waiting { frame: Frame::plain("x".repeat(n)), owed: n.is_multiple_of(2) };
        for round in 1..5 {
            (0..round).for_each(|n| frames.push_back(waiting(n)));
            assert_eq!((frames.len(), frames.is_empty()), (round, false));
            let lengths: Vec<usize> = frames.iter().map(|waiting| waiting.frame.len() - 2).collect();
            assert_eq!(lengths, (0..round).collect::<Vec<_>>());
            for n in 0..round {
                assert_eq!(frames.front().map(|waiting| waiting.owed), Some(n.is_multiple_of(2)));
                assert_eq!(frames.pop_front().map(|waiting| waiting.frame.len()), Some(n + 2));
            }
            assert!(frames.is_empty() && frames.others.is_none() && frames.pop_front().is_none());
        }
    }
}

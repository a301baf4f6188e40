//! When things end: an index that finds what is due without looking at what is not. A thing has at most one end;
//! giving it another one replaces the first.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
};

/// Ends of things, in milliseconds.
#[derive(Debug, Clone)]
pub(super) struct Expiries<T> {
    ends: HashMap<T, u64>,
    order: BTreeSet<(u64, T)>,
}

impl<T> Default for Expiries<T> {
    fn default() -> Self {
        Self { ends: HashMap::new(), order: BTreeSet::new() }
    }
}

impl<T: Clone + Eq + Hash + Ord> Expiries<T> {
    /// From now on `thing` ends at `at`.
    pub(super) fn set(&mut self, thing: T, at: u64) {
        self.remove(&thing);
        self.order.insert((at, thing.clone()));
        self.ends.insert(thing, at);
    }

    /// It does not end before `at`.
    pub(super) fn put_off(&mut self, thing: T, at: u64) {
        if self.ends.get(&thing).is_none_or(|end| *end < at) {
            self.set(thing, at);
        }
    }

    /// It ends no more.
    pub(super) fn remove(&mut self, thing: &T) {
        if let Some(at) = self.ends.remove(thing) {
            self.order.remove(&(at, thing.clone()));
        }
    }

    /// Whether it has an end.
    pub(super) fn contains(&self, thing: &T) -> bool {
        self.ends.contains_key(thing)
    }

    /// Takes the earliest thing whose end has come.
    pub(super) fn pop_due(&mut self, now: u64) -> Option<T> {
        if self.order.first()?.0 > now {
            return None;
        }
        let (_, thing) = self.order.pop_first()?;
        self.ends.remove(&thing);
        Some(thing)
    }

    /// How many things there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_comes_earliest_first_and_the_rest_stays() {
        let mut expiries = Expiries::default();
        for (thing, at) in [("late", 30), ("early", 10), ("middle", 20), ("moved", 5), ("removed", 6)] {
            expiries.set(thing, at);
        }
        expiries.set("moved", 25);
        expiries.remove(&"removed");
        let due: Vec<_> = std::iter::from_fn(|| expiries.pop_due(25)).collect();
        assert_eq!((due, expiries.len()), (vec!["early", "middle", "moved"], 1));
    }
}

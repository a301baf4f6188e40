//! What this node holds in the backplane for as long as it lives: places of users in topics, connections of users. Taking and
//! giving back are synchronous and never fail; one task writes what has changed, in batches that grow by themselves while one is
//! under way, and renews everything before its lease ends. So a failure is repeated, and what the backplane has lost comes
//! back with the next renewal. Owned by the node, one for each kind.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    ops::Bound,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until, timeout},
};

/// A lease that is not renewed ends after two thirds of the time after which nothing of a dead node may be left; whoever
/// looks after the same thing does so every quarter of it, spread over a quarter of that: 2/3 + 1/4 + 1/16 of it in all.
pub(crate) fn lease(ttl: Duration) -> Duration {
    ttl * 2 / 3
}

/// See the module. Keys that stand together are written together.
#[derive(Debug)]
pub(crate) struct Leases<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

#[derive(Debug)]
struct State<K> {
    entries: BTreeMap<K, Entry>,
    /// Keys whose wish and record may differ.
    dirty: BTreeSet<K>,
    /// The same, after a failure.
    failed: BTreeSet<K>,
    waiting: BTreeMap<K, Vec<oneshot::Sender<()>>>,
}

#[derive(Debug, Default)]
struct Entry {
    wishes: u32,
    /// It may stand in the backplane.
    written: bool,
    /// It does, as far as is known.
    confirmed: bool,
}

/// What is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Batch<K> {
    pub(crate) hold: Vec<K>,
    pub(crate) let_go: Vec<K>,
}

/// Writes to the backplane.
pub(crate) trait Write<K> {
    /// Writes a batch; what could not be written. Repeats are harmless.
    fn write(&self, batch: &Batch<K>) -> impl Future<Output = Vec<K>> + Send;
}

impl<K> Batch<K> {
    fn is_empty(&self) -> bool {
        self.hold.is_empty() && self.let_go.is_empty()
    }
}

impl<K: Ord + Clone> Leases<K> {
    pub(crate) fn new() -> Arc<Self> {
        let (entries, dirty, failed, waiting) = Default::default();
        Arc::new(Self { state: Mutex::new(State { entries, dirty, failed, waiting }), changed: Notify::new() })
    }

    /// Wants to hold something, until as many have given it back.
    pub(crate) fn take(&self, key: K) {
        let mut state = self.lock();
        let State { entries, dirty, .. } = &mut *state;
        let entry = entries.entry(key.clone()).or_default();
        entry.wishes += 1;
        if entry.wishes == 1 && !entry.confirmed {
            dirty.insert(key);
            self.changed.notify_one();
        }
    }

    /// The same for what may have been written already.
    pub(crate) fn take_written(&self, key: K) {
        let mut state = self.lock();
        let entry = state.entries.entry(key).or_default();
        *entry = Entry { wishes: entry.wishes + 1, written: true, confirmed: true };
    }

    /// Takes one wish back.
    pub(crate) fn give_back(&self, key: &K) {
        let mut state = self.lock();
        let Some(entry) = state.entries.get_mut(key) else { return };
        entry.wishes -= 1;
        if entry.wishes == 0 {
            state.waiting.remove(key);
            state.dirty.insert(key.clone());
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Resolves when the backplane has what is held; without limit: the caller bounds it. Cancellation safe.
    pub(crate) fn confirmed(&self, key: &K) -> impl Future<Output = ()> + Send + use<K> {
        let mut state = self.lock();
        let done = state.entries.get(key).is_none_or(|entry| entry.confirmed);
        let confirmation = (!done).then(|| {
            let (sender, receiver) = oneshot::channel();
            let waiting = state.waiting.entry(key.clone()).or_default();
            waiting.retain(|waiter| !waiter.is_closed());
            waiting.push(sender);
            receiver
        });
        async move {
            if let Some(confirmation) = confirmation {
                // The sender goes unsent only with the last wish, whose owner waits no longer.
                confirmation.await.ok();
            }
        }
    }

    /// How much is held.
    pub(crate) fn count(&self) -> usize {
        self.lock().entries.len()
    }

    fn changes(&self, most: usize) -> Batch<K> {
        let mut state = self.lock();
        let State { entries, dirty, .. } = &mut *state;
        let mut batch = Batch { hold: Vec::new(), let_go: Vec::new() };
        while batch.hold.len() + batch.let_go.len() < most {
            let Some(key) = dirty.pop_first() else { break };
            let Some(entry) = entries.get_mut(&key) else { continue };
            match (entry.wishes > 0, entry.written) {
                (true, _) if entry.confirmed => {}
                (true, _) => {
                    entry.written = true;
                    batch.hold.push(key);
                }
                (false, true) => {
                    entry.confirmed = false;
                    batch.let_go.push(key);
                }
                (false, false) => drop(entries.remove(&key)),
            }
        }
        batch
    }

    /// What was written, but for `failed`, which is to be written again.
    fn written(&self, batch: &Batch<K>, failed: &[K]) {
        let failed: BTreeSet<&K> = failed.iter().collect();
        let mut state = self.lock();
        let State { entries, waiting, failed: again, .. } = &mut *state;
        for key in batch.hold.iter().filter(|key| !failed.contains(key)) {
            if let Some(entry) = entries.get_mut(key) {
                entry.confirmed = true;
            }
            for waiter in waiting.remove(key).unwrap_or_default() {
                // Whoever waited may have given up.
                waiter.send(()).ok();
            }
        }
        for key in batch.let_go.iter().filter(|key| !failed.contains(key)) {
            if let Some(entry) = entries.get_mut(key)
                && entry.wishes == 0
            {
                entries.remove(key);
            }
        }
        for key in failed {
            if let Some(entry) = entries.get_mut(key) {
                entry.confirmed = false;
            }
            again.insert(key.clone());
        }
    }

    /// What failed is tried again.
    fn retry(&self) {
        let mut state = self.lock();
        let State { dirty, failed, .. } = &mut *state;
        dirty.append(failed);
    }

    /// What follows `after` and is to be renewed.
    fn renewals(&self, after: Option<&K>, most: usize) -> Vec<K> {
        let state = self.lock();
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let held =
            state.entries.range((after, Bound::Unbounded)).filter(|(_, entry)| entry.wishes > 0 && entry.confirmed);
        held.take(most).map(|(key, _)| key.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        // Nothing in here panics between two states, so a poisoned lock still guards a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes and renews until `stopped`, and then gives up what was given back meanwhile.
pub(crate) async fn keep<K: Ord + Clone, W: Write<K>>(
    leases: &Leases<K>,
    ttl: Duration,
    stopped: impl Future<Output = ()>,
    writer: &W,
) {
    let mut stopped = pin!(stopped);
    let mut round = Round::new(ttl / 4);
    let mut retry_at: Option<Instant> = None;
    loop {
        let batch = leases.changes(MOST);
        if batch.is_empty() {
            let wake_at = retry_at.map_or(round.next, |retry_at| retry_at.min(round.next));
            tokio::select! {
                biased;
                () = &mut stopped => break,
                () = leases.changed.notified() => {}
                () = sleep_until(wake_at) => {}
            }
        } else if !write(leases, &batch, writer).await {
            retry_at.get_or_insert(Instant::now() + PAUSE);
        }
        if retry_at.is_some_and(|at| at <= Instant::now()) {
            retry_at = None;
            leases.retry();
        }
        if round.next <= Instant::now() {
            let hold = leases.renewals(round.reached.as_ref(), MOST);
            round.step(&hold, leases.count());
            let batch = Batch { hold, let_go: Vec::new() };
            if !batch.is_empty() && !write(leases, &batch, writer).await {
                retry_at.get_or_insert(Instant::now() + PAUSE);
            }
        }
    }
    let last = async {
        leases.retry();
        loop {
            let batch = leases.changes(MOST);
            if batch.is_empty() || !write(leases, &batch, writer).await {
                return;
            }
        }
    };
    // What is left ends by itself.
    timeout(LAST_WORD, last).await.ok();
}

/// Whether all was written.
async fn write<K: Ord + Clone, W: Write<K>>(leases: &Leases<K>, batch: &Batch<K>, writer: &W) -> bool {
    let failed = writer.write(batch).await;
    leases.written(batch, &failed);
    failed.is_empty()
}

/// Going through everything that is held, once a period, spread over its first quarter.
#[derive(Debug)]
struct Round<K> {
    period: Duration,
    began: Instant,
    next: Instant,
    reached: Option<K>,
}

impl<K: Clone> Round<K> {
    fn new(period: Duration) -> Self {
        let next = Instant::now() + period;
        Self { period, began: next, next, reached: None }
    }

    /// These are renewed now, of so many.
    fn step(&mut self, renewed: &[K], of: usize) {
        if renewed.len() == MOST {
            let batches = u32::try_from(of / MOST).unwrap_or(u32::MAX).saturating_add(1);
            self.next = Instant::now() + self.period / 4 / batches;
            self.reached = renewed.last().cloned();
        } else {
            // Whoever is late begins anew from now.
            self.began = (self.began + self.period).max(Instant::now());
            self.next = self.began;
            self.reached = None;
        }
    }
}

/// What goes in one round trip: some milliseconds of the backplane.
const MOST: usize = 500;
/// After a failure.
const PAUSE: Duration = Duration::from_millis(200);
/// How long the end of the node may take for it.
const LAST_WORD: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::mpsc;

    use super::*;

    const TTL: Duration = Duration::from_secs(8);

    fn batch(hold: &[u32], let_go: &[u32]) -> Batch<u32> {
        Batch { hold: hold.to_vec(), let_go: let_go.to_vec() }
    }

    fn settle(leases: &Leases<u32>) -> Batch<u32> {
        let batch = leases.changes(10);
        leases.written(&batch, &[]);
        batch
    }

    #[test]
    fn the_first_wish_writes_and_the_last_one_gone_lets_go() {
        let leases = Leases::new();
        leases.take(1);
        leases.take(1);
        assert_eq!(leases.confirmed(&1).now_or_never(), None);
        assert_eq!(settle(&leases), batch(&[1], &[]));
        assert_eq!(leases.confirmed(&1).now_or_never(), Some(()));
        leases.give_back(&1);
        assert_eq!(settle(&leases), batch(&[], &[]));
        leases.give_back(&1);
        assert_eq!(settle(&leases), batch(&[], &[1]));
        assert_eq!(leases.count(), 0);
    }

    #[test]
    fn who_comes_and_goes_before_anything_is_written_leaves_no_trace() {
        let leases = Leases::new();
        leases.take(1);
        leases.give_back(&1);
        assert_eq!((settle(&leases), leases.count()), (batch(&[], &[]), 0));
        leases.take(1);
        settle(&leases);
        leases.give_back(&1);
        leases.take(1);
        assert_eq!(settle(&leases), batch(&[], &[]), "it never went");
    }

    #[test]
    fn a_wish_that_changes_while_it_is_written_is_written_again() {
        let leases = Leases::new();
        leases.take(1);
        let first = leases.changes(10);
        leases.give_back(&1);
        leases.written(&first, &[]);
        let second = leases.changes(10);
        assert_eq!(second, batch(&[], &[1]));
        leases.take(1);
        leases.written(&second, &[]);
        assert_eq!(settle(&leases), batch(&[1], &[]));
        assert_eq!(leases.confirmed(&1).now_or_never(), Some(()));
    }

    #[test]
    fn what_failed_is_tried_again_and_nothing_else() {
        let leases = Leases::new();
        leases.take(1);
        leases.take(2);
        let confirmed = leases.confirmed(&1);
        let both = leases.changes(10);
        leases.written(&both, &[1]);
        assert_eq!(settle(&leases), batch(&[], &[]));
        leases.retry();
        assert_eq!(settle(&leases), batch(&[1], &[]));
        assert_eq!(confirmed.now_or_never(), Some(()));
        leases.give_back(&1);
        let gone = leases.changes(10);
        leases.written(&gone, &[1]);
        assert_eq!(leases.count(), 2, "it may still stand there");
        leases.retry();
        assert_eq!(settle(&leases), batch(&[], &[1]));
    }

    #[test]
    fn what_was_written_by_others_is_let_go_all_the_same() {
        let leases = Leases::new();
        leases.take_written(1);
        assert_eq!((settle(&leases), leases.renewals(None, 10)), (batch(&[], &[]), vec![1]));
        leases.give_back(&1);
        assert_eq!(settle(&leases), batch(&[], &[1]));
    }

    struct Told(mpsc::Sender<(Instant, Batch<u32>)>);

    impl Write<u32> for Told {
        async fn write(&self, batch: &Batch<u32>) -> Vec<u32> {
            self.0.try_send((Instant::now(), batch.clone())).unwrap();
            Vec::new()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn everything_is_renewed_in_time_and_let_go_at_the_end() {
        let leases = Leases::new();
        (0..1200).for_each(|n| leases.take(n));
        let (sender, mut written) = mpsc::channel(100);
        let (stop, stopped) = oneshot::channel::<()>();
        let kept = Arc::clone(&leases);
        let keeping = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            keep(&kept, TTL, stopped, &Told(sender)).await;
        });
        let mut last: BTreeMap<u32, Instant> = BTreeMap::new();
        let end = Instant::now() + 5 * TTL;
        while Instant::now() < end {
            let (at, batch) = written.recv().await.unwrap();
            assert!(batch.hold.len() <= MOST && batch.let_go.is_empty());
            for key in batch.hold {
                if let Some(before) = last.insert(key, at) {
                    assert!(at - before <= TTL / 4 + TTL / 16, "{key} after {:?}", at - before);
                    assert!(at - before < lease(TTL));
                }
            }
        }
        assert_eq!(last.len(), 1200);
        (2..1200).for_each(|n| leases.give_back(&n));
        stop.send(()).unwrap();
        keeping.await.unwrap();
        let mut gone = 0;
        while let Ok((_, batch)) = written.try_recv() {
            gone += batch.let_go.len();
        }
        assert_eq!(gone, 1198);
    }

    /// Does not take the second write, which is the first renewal.
    struct Refuses(mpsc::Sender<Instant>, std::sync::atomic::AtomicU32);

    impl Write<u32> for Refuses {
        async fn write(&self, batch: &Batch<u32>) -> Vec<u32> {
            self.0.try_send(Instant::now()).unwrap();
            let turn = self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if turn == 1 { batch.hold.clone() } else { Vec::new() }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_that_failed_is_tried_again_before_the_lease_ends() {
        let leases = Leases::new();
        leases.take(1);
        let (sender, mut written) = mpsc::channel(100);
        let kept = Arc::clone(&leases);
        let keeping = tokio::spawn(async move {
            let writer = Refuses(sender, std::sync::atomic::AtomicU32::new(0));
            keep(&kept, TTL, std::future::pending(), &writer).await;
        });
        let first = written.recv().await.unwrap();
        let refused = written.recv().await.unwrap();
        let again = timeout(TTL, written.recv()).await.expect("what is held is renewed for ever").unwrap();
        assert!(again - refused <= 2 * PAUSE, "after {:?}", again - refused);
        assert!(again - first < lease(TTL), "the lease that it renews has not ended");
        keeping.abort();
    }
}

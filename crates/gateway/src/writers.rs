//! Who writes what a fan-out has put into outboxes. A few are written at once, by whoever heard the messages: no task is
//! woken, nothing waits. Many are written in slices, by as many tasks as the node has shards, so that every core writes and
//! other work gets its turn between two slices. The next messages are taken when these are written: under more load than
//! the node can carry turns grow, not memory.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::task::yield_now;

use crate::hub::Outbox;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Writers {
    shards: usize,
}

/// Outboxes that are written without giving way: some 0.3 ms.
const SLICE: usize = 64;

impl Writers {
    /// Writes of one turn are spread over so many tasks.
    pub(crate) fn new(shards: usize) -> Self {
        Self { shards: shards.max(1) }
    }

    /// Writes what waits in these outboxes, as far as the kernel takes it.
    pub(crate) async fn write(self, outboxes: Vec<Arc<Outbox>>) {
        let shards = self.shards.min(outboxes.len() / SLICE).max(1);
        if shards == 1 {
            return in_slices(outboxes).await;
        }
        let each = outboxes.len().div_ceil(shards);
        let mut outboxes = outboxes.into_iter();
        let shares: Vec<Vec<_>> = (0..shards).map(|_| outboxes.by_ref().take(each).collect()).collect();
        let mut shares = shares.into_iter();
        let own = shares.next().unwrap_or_default();
        let others: Vec<_> = shares.map(|share| tokio::spawn(in_slices(share))).collect();
        in_slices(own).await;
        // A panic in one of them is logged by the runtime's hook; its connections notice by their own.
        join_all(others).await;
    }
}

async fn in_slices(outboxes: Vec<Arc<Outbox>>) {
    let mut unwritten = Unwritten(outboxes.into_iter());
    loop {
        for outbox in unwritten.0.by_ref().take(SLICE) {
            outbox.write();
        }
        if unwritten.0.len() == 0 {
            return;
        }
        yield_now().await;
    }
}

/// Outboxes that somebody has promised to write. If that one is cancelled their owners do it.
struct Unwritten(std::vec::IntoIter<Arc<Outbox>>);

impl Drop for Unwritten {
    fn drop(&mut self) {
        for outbox in self.0.by_ref() {
            outbox.wake();
        }
    }
}

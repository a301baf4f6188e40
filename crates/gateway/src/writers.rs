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

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::atomic::{AtomicUsize, Ordering},
        task::{Context, Poll, Wake, Waker},
    };

    use futures_util::FutureExt;

    use super::*;
    use crate::hub::{Frame, OutboxLimits, Sink, WhenFull};

    /// A socket that takes everything, and how often it was written to.
    struct Open(Arc<AtomicUsize>);

    impl Sink for Open {
        fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(bytes.len())
        }

        fn poll_writable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// The task of a connection.
    struct Owner(AtomicUsize);

    impl Wake for Owner {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn what_a_cancelled_fan_out_has_not_written_is_written_by_the_connections() {
        let writes: Arc<AtomicUsize> = Arc::default();
        let limits = OutboxLimits { bytes: 1000, frames: 10, when_full: WhenFull::Close };
        let outboxes: Vec<_> =
            (0..SLICE + 3).map(|_| Arc::new(Outbox::new(limits, None, Box::new(Open(Arc::clone(&writes)))))).collect();
        let owners: Vec<_> = outboxes.iter().map(|_| Arc::new(Owner(AtomicUsize::new(0)))).collect();
        let serve = |outbox: &Arc<Outbox>, owner: &Arc<Owner>| {
            let waker = Waker::from(Arc::clone(owner));
            assert!(outbox.poll_attention(&mut Context::from_waker(&waker)).is_pending());
        };
        outboxes.iter().zip(&owners).for_each(|(outbox, owner)| serve(outbox, owner));
        for outbox in &outboxes {
            assert!(outbox.put(&[Frame::plain("{}")]), "nobody else is about to write it");
        }
        assert!(Writers::new(1).write(outboxes.clone()).now_or_never().is_none(), "it gives way after a slice");
        assert_eq!(writes.load(Ordering::Relaxed), SLICE);
        let woken = |from: usize| owners.iter().skip(from).map(|owner| owner.0.load(Ordering::Relaxed)).sum::<usize>();
        assert_eq!((woken(0), woken(SLICE)), (3, 3), "those that were not written");
        outboxes.iter().zip(&owners).for_each(|(outbox, owner)| serve(outbox, owner));
        assert_eq!(writes.load(Ordering::Relaxed), outboxes.len());
    }
}

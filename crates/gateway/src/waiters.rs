//! Who waits for what on this node: for the decision of a callback, or for somebody to acknowledge a message. A waiter is
//! registered before it reads the record, so no news can fall between the two; it is told by the relay when the publication
//! is heard.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use countersign_backplane::{Channel, Interest, Wanted};
use countersign_protocol::{CallbackId, Decision, MessageId};
use tokio::sync::watch;

/// Names a record of which there will be news.
pub(crate) trait Awaited: Copy + Eq + Hash {
    /// What is heard.
    type News: Clone;

    /// Where it is heard.
    fn channel(self) -> Channel;
}

impl Awaited for CallbackId {
    type News = Decision;

    fn channel(self) -> Channel {
        Channel::Answer(self)
    }
}

/// That somebody acknowledged; who it was is in the receipt.
impl Awaited for MessageId {
    type News = ();

    fn channel(self) -> Channel {
        Channel::Ack(self)
    }
}

/// All waiters of a node for one kind of record.
#[derive(Debug)]
pub(crate) struct Waiters<I: Awaited> {
    interest: Arc<Interest>,
    waited_for: Mutex<HashMap<I, Waited<I::News>>>,
}

#[derive(Debug)]
struct Waited<N> {
    heard: watch::Sender<Option<N>>,
    waiters: usize,
}

/// One wait. Dropping it leaves nothing behind.
#[derive(Debug)]
pub(crate) struct Waiter<I: Awaited> {
    waiters: Arc<Waiters<I>>,
    id: I,
    wanted: Wanted,
    heard: watch::Receiver<Option<I::News>>,
}

impl<I: Awaited> Waiters<I> {
    pub(crate) fn new(interest: Arc<Interest>) -> Arc<Self> {
        Arc::new(Self { interest, waited_for: Mutex::default() })
    }

    /// Begins to listen.
    pub(crate) fn register(self: &Arc<Self>, id: I) -> Waiter<I> {
        let wanted = self.interest.want(&id.channel());
        let mut waited_for = self.lock();
        let waited = waited_for.entry(id).or_insert_with(|| Waited { heard: watch::Sender::new(None), waiters: 0 });
        waited.waiters += 1;
        let heard = waited.heard.subscribe();
        drop(waited_for);
        Waiter { waiters: Arc::clone(self), id, wanted, heard }
    }

    /// Says what was heard.
    pub(crate) fn tell(&self, id: I, news: I::News) {
        if let Some(waited) = self.lock().get(&id) {
            waited.heard.send_replace(Some(news));
        }
    }

    /// How many waits are held.
    pub(crate) fn count(&self) -> usize {
        self.lock().values().map(|waited| waited.waiters).sum()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<I, Waited<I::News>>> {
        // Nothing in here panics between two states, so a poisoned lock still guards a whole one.
        self.waited_for.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<I: Awaited> Waiter<I> {
    /// Waits until the backplane has confirmed the subscription, at most `limit`: a wait does not depend on it, it only
    /// hears later without it. Cancellation safe.
    pub(crate) async fn subscribed(&self, limit: Duration) {
        tokio::time::timeout(limit, self.wanted.confirmed()).await.ok();
    }

    /// The news, when it is heard; what was heard before is news again. Cancellation safe.
    pub(crate) async fn news(&mut self) -> I::News {
        let heard = self.heard.wait_for(Option::is_some).await.ok().and_then(|news| news.clone());
        match heard {
            Some(news) => news,
            // The sender lives as long as a waiter is registered, and this one is.
            None => std::future::pending().await,
        }
    }
}

impl<I: Awaited> Drop for Waiter<I> {
    fn drop(&mut self) {
        let mut waited_for = self.waiters.lock();
        if let Some(waited) = waited_for.get_mut(&self.id) {
            waited.waiters -= 1;
            if waited.waiters == 0 {
                waited_for.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_protocol::{Partition, Resolution, Status};
    use futures_util::FutureExt;

    fn decision(id: CallbackId) -> Decision {
        Decision {
            callback_id: id,
            status: Status::Confirmed,
            proceed: Some(true),
            feedback: None,
            choice: None,
            data: None,
            resolution: Resolution::User,
            by: Some("alice".into()),
            by_kind: Some(countersign_protocol::ByKind::User),
            at: 1.0,
        }
    }

    fn id(n: u128) -> CallbackId {
        CallbackId::new(Partition::from_number(1).unwrap(), n)
    }

    #[test]
    fn every_waiter_of_a_callback_hears_its_decision_and_nobody_else() {
        let waiters = Waiters::new(Interest::new());
        let (mut one, mut two, mut other) = (waiters.register(id(1)), waiters.register(id(1)), waiters.register(id(2)));
        waiters.tell(id(1), decision(id(1)));
        assert_eq!(one.news().now_or_never(), Some(decision(id(1))));
        assert_eq!(two.news().now_or_never(), Some(decision(id(1))));
        assert_eq!(other.news().now_or_never(), None);
    }

    #[test]
    fn a_wait_that_ends_leaves_nothing_behind() {
        let interest = Interest::new();
        let waiters = Waiters::new(Arc::clone(&interest));
        let (one, two) = (waiters.register(id(1)), waiters.register(id(1)));
        assert_eq!((waiters.count(), interest.wanted()), (2, 1));
        drop(one);
        assert_eq!((waiters.count(), interest.wanted()), (1, 1));
        drop(two);
        assert_eq!((waiters.count(), interest.wanted(), waiters.lock().len()), (0, 0, 0));
    }
}

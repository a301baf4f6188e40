//! How many HTTP connections a node has at once. A WebSocket counts here until it is upgraded; from then on it counts
//! against `WEBSOCKET_MAX_CONNECTIONS`.
//!
//! A connection takes a seat with its first request, and there are `LIMIT_HTTP_CONNECTIONS` seats. Without a free seat only
//! health and metrics are answered, everything else is 503. A connection that has not asked for anything has no seat: when
//! as many are open as may be, the oldest of these is closed for one that comes. So sockets that say nothing keep nobody
//! out, and take no more file descriptors than the limit and its reserve.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tokio::sync::Notify;

/// See the module. One a node.
#[derive(Debug)]
pub(crate) struct HttpConnections {
    limit: usize,
    state: Mutex<State>,
    /// Woken when a connection has ended.
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    open: usize,
    seated: usize,
    /// Of the connection that came last.
    number: u64,
    /// Connections that have not asked for anything, the oldest first.
    silent: BTreeMap<u64, Arc<Notify>>,
}

/// One connection, as long as it is open. A request carries a share of it.
#[derive(Debug)]
pub(crate) struct HttpConnection {
    all: Arc<HttpConnections>,
    number: u64,
    closed: Arc<Notify>,
    seated: AtomicBool,
}

/// Connections beyond the limit: enough for health probes, scrapes, and requests that are told 503.
pub(crate) const RESERVE: usize = 16;

impl HttpConnections {
    /// At most so many connections have a seat; 0 is no limit.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        let limit = if limit == 0 { usize::MAX - RESERVE } else { limit };
        Arc::new(Self { limit, state: Mutex::default(), ended: Notify::new() })
    }

    /// Counts a connection that has come. Waits as long as there is no room for it, which is until the oldest silent one is
    /// closed. Cancellation safe.
    pub(crate) async fn enter(self: &Arc<Self>) -> Arc<HttpConnection> {
        loop {
            let ended = self.ended.notified();
            if let Some(entered) = self.try_enter() {
                return entered;
            }
            ended.await;
        }
    }

    fn try_enter(self: &Arc<Self>) -> Option<Arc<HttpConnection>> {
        let mut state = self.lock();
        if state.open >= self.limit.saturating_add(RESERVE) {
            if let Some((_, oldest)) = state.silent.pop_first() {
                oldest.notify_one();
            }
            return None;
        }
        Some(self.count(&mut state))
    }

    /// Counts a connection whatever the limit: one that was accepted when the node closed its listener.
    pub(crate) fn enter_anyway(self: &Arc<Self>) -> Arc<HttpConnection> {
        self.count(&mut self.lock())
    }

    fn count(self: &Arc<Self>, state: &mut State) -> Arc<HttpConnection> {
        state.open += 1;
        state.number += 1;
        let (number, closed) = (state.number, Arc::new(Notify::new()));
        state.silent.insert(number, Arc::clone(&closed));
        Arc::new(HttpConnection { all: Arc::clone(self), number, closed, seated: AtomicBool::new(false) })
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> usize {
        self.lock().open
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics between two states, so a poisoned lock still guards a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HttpConnection {
    /// A request has come. Whether the connection has a seat.
    pub(crate) fn asks(&self) -> bool {
        if self.seated.load(Relaxed) {
            return true;
        }
        let mut state = self.all.lock();
        // Without an entry it was closed for another one, which has its place.
        let silent = state.silent.remove(&self.number).is_some();
        let seated = silent && state.seated < self.all.limit;
        if seated {
            state.seated += 1;
            self.seated.store(true, Relaxed);
        }
        seated
    }

    /// Waits until the connection is to be closed for another one. Cancellation safe.
    pub(crate) async fn closed(&self) {
        self.closed.notified().await;
    }
}

impl Drop for HttpConnection {
    fn drop(&mut self) {
        let mut state = self.all.lock();
        state.open -= 1;
        state.seated -= usize::from(*self.seated.get_mut());
        state.silent.remove(&self.number);
        drop(state);
        self.all.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_seat_is_taken_with_the_first_request_and_given_back_at_the_end() {
        let all = HttpConnections::new(2);
        let [one, two, three] = [(); 3].map(|()| all.enter().now_or_never().expect("there is room"));
        assert!(one.asks() && one.asks() && two.asks());
        assert!(!three.asks(), "two have a seat");
        assert!(!three.asks(), "a connection that was refused stays refused");
        drop(one);
        let four = all.enter().now_or_never().expect("there is room");
        assert!(four.asks());
        assert_eq!(all.open(), 3);
        drop((two, three, four));
        let State { open, seated, silent, .. } = &*all.lock();
        assert_eq!((*open, *seated, silent.len()), (0, 0, 0));
    }

    #[test]
    fn one_that_comes_takes_the_place_of_the_oldest_silent_one() {
        let all = HttpConnections::new(2);
        let mut open: Vec<_> = (0..2 + RESERVE).map(|_| all.enter().now_or_never().expect("there is room")).collect();
        assert!(open[0].asks());
        let mut coming = Box::pin(all.enter());
        assert!(coming.as_mut().now_or_never().is_none(), "as many are open as may be");
        let closed: Vec<_> = open.iter().map(|one| one.closed().now_or_never().is_some()).collect();
        assert_eq!(closed.iter().position(|closed| *closed), Some(1), "the first one has asked for something");
        assert_eq!(closed.iter().filter(|closed| **closed).count(), 1);
        assert!(!open[1].asks(), "it is being closed");
        drop(open.remove(1));
        let come = coming.now_or_never().expect("there is room now");
        assert!(come.asks());
        assert_eq!(all.open(), 2 + RESERVE);
    }

    #[test]
    fn nobody_is_closed_for_another_one_when_all_have_asked_for_something() {
        let all = HttpConnections::new(1);
        let open: Vec<_> = (0..=RESERVE).map(|_| all.enter().now_or_never().expect("there is room")).collect();
        assert_eq!(open.iter().filter(|one| one.asks()).count(), 1);
        assert!(all.enter().now_or_never().is_none());
        assert!(open.iter().all(|one| one.closed().now_or_never().is_none()));
        let last = all.enter_anyway();
        assert!(!last.asks());
    }

    #[test]
    fn zero_is_no_limit() {
        let all = HttpConnections::new(0);
        let open: Vec<_> = (0..10_000).map(|_| all.enter().now_or_never().expect("there is room")).collect();
        assert!(open.iter().all(|one| one.asks()));
    }
}

//! Reading the inbox: the durable door of producers in Redis. Every node has one reader, and one reader at a time holds the
//! lease; it takes entries in order, has the node do what they say, and acknowledges what is done. What cannot be done now is
//! not acknowledged and comes again, so nothing is lost; everything that an entry does has a name, so nothing that comes
//! again is done twice. What is wrong goes to the dead letters with the reason, and the next one follows.

mod order;

use std::{sync::Arc, time::Duration};

use countersign_backplane::{
    BackplaneError, Inbox,
    callbacks::Canceller,
    inbox::{InboxEntry, Taken},
};
use tokio::time::{Instant, sleep, timeout};

use self::order::Order;
use crate::{error::GatewayError, metrics::Outcome, node::Node};

/// Reads while this node holds the lease, until it drains. Ends at once when there is no inbox.
pub(crate) async fn read(node: Arc<Node>) {
    if let Some(inbox) = node.backplane.inbox() {
        Reader { node, inbox, state: State::Waits }.run().await;
    }
}

struct Reader {
    node: Arc<Node>,
    inbox: Arc<dyn Inbox>,
    state: State,
}

/// What the log has said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waits,
    Reads,
    Fails,
}

impl Reader {
    async fn run(mut self) {
        let node = Arc::clone(&self.node);
        while !node.shutdown.is_draining() {
            match self.turn().await {
                Ok(true) => self.enter(State::Reads, None),
                Ok(false) => {
                    self.enter(State::Waits, None);
                    self.pause(LOOK_FOR_LEASE).await;
                }
                Err(error) => {
                    self.enter(State::Fails, Some(&error));
                    self.pause(AFTER_FAILURE).await;
                }
            }
        }
        // Without it the lease runs out, and the next holder waits for that.
        timeout(RELEASE_WITHIN, self.inbox.release()).await.ok();
    }

    /// Takes the lease, then some entries, and does what they say. Whether this node has the lease.
    async fn turn(&mut self) -> Result<bool, GatewayError> {
        let most = self.node.config.publish_max_bytes;
        let taken = tokio::select! {
            biased;
            () = self.node.shutdown.draining() => return Ok(true),
            taken = self.take(most.saturating_add(NAMES)) => taken?,
        };
        let Some(taken) = taken else { return Ok(false) };
        self.node.metrics.inbox_waiting(taken.waiting);
        let renew_at = Instant::now() + RENEW_AFTER;
        self.work(taken.entries, renew_at).await?;
        Ok(true)
    }

    async fn take(&self, longest: usize) -> Result<Option<Taken>, BackplaneError> {
        if self.inbox.hold().await? { Ok(Some(self.inbox.next(MOST_ENTRIES, longest).await?)) } else { Ok(None) }
    }

    /// In order. A drain ends it between two steps, and so does the loss of the lease; what is left comes again.
    async fn work(&self, entries: Vec<InboxEntry>, mut renew_at: Instant) -> Result<(), GatewayError> {
        let most = self.node.config.publish_max_bytes;
        let mut orders = entries.into_iter().map(|entry| (Order::read(&entry, most), entry.id)).peekable();
        while let Some((order, id)) = orders.next() {
            if self.node.shutdown.is_draining() {
                return Ok(());
            }
            if Instant::now() >= renew_at {
                if !self.inbox.hold().await? {
                    return Ok(());
                }
                renew_at = Instant::now() + RENEW_AFTER;
            }
            let result = match order {
                Err(error) => Err(error.into()),
                Ok(Order::Publish(item)) => {
                    // All that are published one after the other are one round trip.
                    let (mut items, mut ids) = (vec![Ok(item)], vec![id]);
                    while let Some((Ok(Order::Publish(_)), _)) = orders.peek()
                        && let Some((Ok(Order::Publish(item)), id)) = orders.next()
                    {
                        items.push(Ok(item));
                        ids.push(id);
                    }
                    let results = self.node.publish_all(items).await;
                    self.settle(ids.into_iter().zip(results.into_iter().map(|result| result.map(drop)))).await?;
                    continue;
                }
                Ok(Order::Notify(notification)) => self.node.ask(&notification).await.map(drop),
                Ok(Order::Cancel { user, task }) => {
                    self.node.cancel(user.as_ref(), &task, &Canceller::Producer).await.map(drop)
                }
                Ok(Order::Heartbeat { task, heartbeat }) => {
                    self.node.start_heartbeat(&task, &heartbeat).await.map(drop)
                }
            };
            self.settle([(id, result)]).await?;
        }
        Ok(())
    }

    /// Acknowledges what was done and buries what is wrong; an error is what has to be tried again.
    async fn settle(
        &self,
        results: impl IntoIterator<Item = (String, Result<(), GatewayError>)>,
    ) -> Result<(), GatewayError> {
        let (mut done, mut wrong, mut again) = (Vec::new(), Vec::new(), None);
        for (id, result) in results {
            match result {
                Ok(()) => done.push(id),
                Err(error @ (GatewayError::Unavailable(_) | GatewayError::Full(_))) => again = again.or(Some(error)),
                Err(error) => wrong.push((id, error)),
            }
        }
        if !done.is_empty() {
            self.inbox.done(&done).await?;
            self.node.metrics.inbox_entries(Outcome::Done, done.len());
        }
        for (id, error) in wrong {
            tracing::debug!(%id, %error, "an entry of the inbox is wrong");
            self.inbox.bury(&id, &error.to_string()).await?;
            self.node.metrics.inbox_entries(Outcome::Dead, 1);
        }
        again.map_or(Ok(()), Err)
    }

    fn enter(&mut self, state: State, error: Option<&GatewayError>) {
        if state != State::Reads {
            self.node.metrics.inbox_waiting(0);
        }
        if state == self.state {
            return;
        }
        match (state, error) {
            (State::Reads, _) => tracing::info!("this node reads the inbox"),
            (State::Waits, _) => tracing::info!("another node reads the inbox"),
            (State::Fails, error) => {
                tracing::warn!(error = error.map(tracing::field::display), "the inbox stands still: trying again");
            }
        }
        self.state = state;
    }

    /// Halved to one and a half by chance, so that nodes do not keep step; a drain ends it.
    async fn pause(&self, pause: Duration) {
        tokio::select! {
            () = self.node.shutdown.draining() => {}
            () = sleep(pause.mul_f64(0.5 + fastrand::f64())) => {}
        }
    }
}

/// Of one look: together with the bytes of one look (1 MiB) the work of well under a second.
const MOST_ENTRIES: usize = 256;
/// What the names in an entry may have beyond its body.
const NAMES: usize = 4096;
/// Between two looks of a node that does not hold the lease: how long the inbox stands still after a drain.
const LOOK_FOR_LEASE: Duration = Duration::from_secs(1);
/// After a failure of the backplane, which has waited itself before it said so.
const AFTER_FAILURE: Duration = Duration::from_millis(500);
/// A step takes some three seconds when Redis is slow, and the lease lasts five.
const RENEW_AFTER: Duration = Duration::from_secs(1);
/// A drain does not wait longer for the lease to be given back.
const RELEASE_WITHIN: Duration = Duration::from_secs(1);

//! The one reader of a node: it reconciles what the node wants with what it is subscribed to, and delivers what comes,
//! in order. When its line breaks it says so, waits until it may come back, subscribes anew, and says that too.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Memory,
    store::{EarId, Inbox},
};
use crate::{Audience, Channel, Heard, Interest, Link, Listener, Observation, wire};

/// The most messages that are delivered at once.
const BATCH: usize = 256;
/// The most channels that are subscribed at once.
const CHANGES: usize = 1000;

pub(super) struct Reader {
    pub(super) memory: Arc<Memory>,
    pub(super) ear: EarId,
    pub(super) interest: Arc<Interest>,
    pub(super) listener: Arc<dyn Listener>,
    pub(super) link: watch::Sender<Link>,
    pub(super) restored: Arc<Notify>,
    pub(super) stopped: CancellationToken,
}

impl Reader {
    /// Reads until it is stopped.
    pub(super) async fn run(self) {
        self.stopped.run_until_cancelled(self.read()).await;
        self.memory.lock().remove_ear(self.ear);
        self.lost();
        self.link.send_replace(Link::Down("this node was stopped".to_owned()));
    }

    async fn read(&self) {
        let mut inbox = self.connect().await;
        loop {
            self.listener.observed(Observation::SubscriberConnected);
            self.link.send_replace(Link::Up);
            self.deliver_all(&mut inbox).await;
            self.link.send_replace(Link::Down("the subscription was interrupted".to_owned()));
            for audience in Audience::ALL {
                self.listener.interrupted(audience);
            }
            self.lost();
            inbox = self.connect().await;
            for audience in Audience::ALL {
                self.listener.resumed(audience);
            }
        }
    }

    fn lost(&self) {
        for audience in Audience::ALL {
            self.interest.lost(audience);
        }
    }

    /// A line on which everything wanted is subscribed, unless it broke again; then its inbox ends.
    async fn connect(&self) -> Inbox {
        loop {
            let inbox = self.memory.lock().connect(self.ear);
            if let Some(inbox) = inbox {
                self.reconcile();
                return inbox;
            }
            self.restored.notified().await;
        }
    }

    /// Delivers until the line breaks.
    async fn deliver_all(&self, inbox: &mut Inbox) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                // In an order that does not depend on chance, so that a test can go the same way twice; wishes first, of which
                // there is an end.
                biased;
                // A broken line is the inbox's to say, after what is left in it.
                () = self.interest.changed(Audience::Person) => self.reconcile(),
                () = self.interest.changed(Audience::Crowd) => self.reconcile(),
                whole = inbox.next(&mut batch, BATCH) => {
                    if !whole {
                        return;
                    }
                    self.deliver(&mut batch).await;
                }
            }
        }
    }

    async fn deliver(&self, batch: &mut Vec<(Channel, Bytes)>) {
        let mut heard = Vec::with_capacity(batch.len());
        for (channel, bytes) in batch.drain(..) {
            // What has none was unsubscribed a moment ago.
            let Some(number) = self.interest.number_of(&channel) else { continue };
            match wire::decode(bytes) {
                Ok((position, payload)) => heard.push(Heard { channel, number, payload, position }),
                Err(error) => self.listener.refused(&channel, &error),
            }
        }
        if !heard.is_empty() {
            self.listener.heard(heard).await;
        }
    }

    /// Makes subscribed what is wanted.
    fn reconcile(&self) {
        for audience in Audience::ALL {
            loop {
                let changes = self.interest.changes(audience, CHANGES);
                if changes.is_empty() {
                    break;
                }
                if !self.memory.lock().change(self.ear, &changes.subscribe, &changes.unsubscribe) {
                    // Without a line, what is under way stays so until the interruption makes it absent.
                    return;
                }
                self.interest.subscribed(&changes.subscribe);
                self.interest.unsubscribed(&changes.unsubscribe);
            }
        }
    }
}

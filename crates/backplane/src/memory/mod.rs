//! Everything in one process: the embedded backplane of a single node, and in tests the store that several nodes share.
//! It is honest: messages travel in their byte form, through one bounded queue a node, to one reader that delivers them
//! in order; a node can be cut off and restored. When a queue is full its node is interrupted like one whose connection
//! broke: it is told, subscribes anew and goes on; nothing is ever left out in silence. A restart forgets everything.
//!
//! - [`clock`]: where the time comes from.
//! - `store`: all state behind one mutex, and the fan-out to the nodes' queues.
//! - `lifecycle`, `cancel`, `record`, `tombstones`: callbacks, as a pure state machine.
//! - `past`: numbering, histories and the results of keyed messages, as another.
//! - `heartbeats`, `receipts`, `presence`, `connections`: four more.
//! - `node`: the traits of the crate, for one node; its reader is in `reader`.
//! - `expiry`: an index of what ends when.

mod cancel;
pub mod clock;
mod connections;
mod expiry;
mod heartbeats;
mod lifecycle;
mod node;
mod past;
mod presence;
mod reader;
mod receipts;
mod record;
mod store;
mod tombstones;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use countersign_protocol::NodeId;

use self::store::Store;
pub use self::{
    clock::{Clock, ManualClock, SystemClock},
    node::MemoryNode,
};
use crate::{Channel, Interest, Listener, Settings};

/// The store that the nodes of one process share.
#[derive(Debug)]
pub struct Memory {
    clock: Arc<dyn Clock>,
    store: Mutex<Store>,
}

/// What the addresses of a [`Memory`] remembered at some time.
#[derive(Debug)]
pub struct Remembered(past::Pasts);

impl Memory {
    /// An empty store by the machine's clock. `settings.prefix` means nothing here: no two stores share anything.
    pub fn new(settings: Settings) -> Arc<Self> {
        Self::with_clock(settings, Arc::new(SystemClock::new()))
    }

    /// An empty store by a clock of one's own.
    pub fn with_clock(settings: Settings, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { clock, store: Mutex::new(Store::new(settings)) })
    }

    /// One more node. Its reader is a task, so call this within a tokio runtime; it ends with
    /// [`crate::Cluster::stop`], or when the node is dropped.
    pub fn node(
        self: &Arc<Self>,
        node: NodeId,
        interest: Arc<Interest>,
        listener: Arc<dyn Listener>,
    ) -> Arc<MemoryNode> {
        MemoryNode::start(Arc::clone(self), node, interest, listener)
    }

    /// Cuts a node off: it hears nothing and its commands are `Unavailable`, until it is restored.
    pub fn cut(&self, node: &NodeId) {
        self.lock().cut(node);
    }

    /// Breaks a node's subscription until it is restored, and nothing else: its commands go on, as with Redis, where they have
    /// connections of their own.
    pub fn deafen(&self, node: &NodeId) {
        self.lock().deafen(node);
    }

    /// Lets a node that was cut off or deafened come back.
    pub fn restore(&self, node: &NodeId) {
        self.lock().restore(node);
    }

    /// What the addresses remember now, for [`Self::recall`].
    pub fn remember(&self) -> Remembered {
        Remembered(self.lock().pasts.clone())
    }

    /// Goes on with what the addresses remembered then, as a Redis does that came back from an older copy of its data; every
    /// position that was given since may have been forgotten.
    pub fn recall(&self, copy: Remembered) {
        let mut store = self.lock();
        let now = std::mem::replace(&mut store.pasts, copy.0);
        store.pasts.begin_run(&now);
    }

    /// Publishes bytes as they are, good or bad, as Redis's own `PUBLISH` would; how many nodes hear them.
    pub fn publish_raw(&self, channel: &Channel, bytes: &Bytes) -> u64 {
        self.lock().deliver(channel, bytes)
    }

    fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        // A step that panicked has hurt one callback or one address; the others' guarantees hold.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;

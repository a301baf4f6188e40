//! All state of a memory, behind its one mutex, and the fan-out. A step changes state and puts what it publishes into
//! the queues of the nodes before the next step begins, so the order of positions is the order of delivery everywhere.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use countersign_protocol::NodeId;
use tokio::sync::{Notify, mpsc};

use super::{
    clock::millis, connections::Register, expiry::Expiries, heartbeats::Beats, lifecycle::Lifecycle, past::Pasts,
    presence::Roll, receipts::ReceiptBook,
};
use crate::{BackplaneError, Channel, Result, Settings};

/// The most messages that wait for one node's reader.
pub(super) const QUEUE_MESSAGES: usize = 65_536;
/// The most bytes that wait for one node's reader; a single message always fits.
pub(super) const QUEUE_BYTES: usize = 64 << 20;

/// All state.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) lifecycle: Lifecycle,
    pub(super) pasts: Pasts,
    pub(super) beats: Beats,
    pub(super) receipts: ReceiptBook,
    pub(super) roll: Roll,
    pub(super) register: Register,
    announcements: HashMap<NodeId, String>,
    announcements_end: Expiries<NodeId>,
    ears: BTreeMap<EarId, Ear>,
    next_ear: u64,
}

/// Which node's ear; a node that starts anew gets a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EarId(u64);

/// Where a node hears.
#[derive(Debug)]
struct Ear {
    node: NodeId,
    cut: bool,
    /// Only its ear: its commands go on.
    deaf: bool,
    /// None while the node is interrupted.
    line: Option<Line>,
    restored: Arc<Notify>,
}

/// One unbroken subscription of a node, as one connection to Redis is.
#[derive(Debug)]
struct Line {
    channels: HashSet<Channel>,
    queue: mpsc::Sender<(Channel, Bytes)>,
    queued_bytes: Arc<AtomicUsize>,
}

/// The reader's end of a [`Line`]: when it is empty and its sender is gone, the node is interrupted.
#[derive(Debug)]
pub(super) struct Inbox {
    queue: mpsc::Receiver<(Channel, Bytes)>,
    queued_bytes: Arc<AtomicUsize>,
}

impl Inbox {
    /// What is next, at most `most`, in order; false when the line is broken. Cancellation safe.
    pub(super) async fn next(&mut self, batch: &mut Vec<(Channel, Bytes)>, most: usize) -> bool {
        let before = batch.len();
        let received = self.queue.recv_many(batch, most).await;
        let bytes = batch.iter().skip(before).map(|(_, bytes)| bytes.len()).sum();
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        received > 0
    }
}

impl Store {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            pasts: Pasts::new(millis(settings.message_key_retention)),
            lifecycle: Lifecycle::new(settings),
            beats: Beats::default(),
            receipts: ReceiptBook::default(),
            roll: Roll::default(),
            register: Register::default(),
            announcements: HashMap::new(),
            announcements_end: Expiries::default(),
            ears: BTreeMap::new(),
            next_ear: 0,
        }
    }

    /// Forgets what has expired; every step begins with it.
    pub(super) fn purge(&mut self, now: u64) {
        self.lifecycle.purge(now);
        self.pasts.purge(now);
        self.beats.purge(now);
        self.receipts.purge(now);
        self.register.purge(now);
        self.purge_places(now);
        while let Some(node) = self.announcements_end.pop_due(now) {
            self.announcements.remove(&node);
        }
    }

    /// One more ear, which hears nothing yet.
    pub(super) fn add_ear(&mut self, node: NodeId, restored: Arc<Notify>) -> EarId {
        self.next_ear += 1;
        let id = EarId(self.next_ear);
        self.ears.insert(id, Ear { node, cut: false, deaf: false, line: None, restored });
        id
    }

    /// The ear is gone for good.
    pub(super) fn remove_ear(&mut self, id: EarId) {
        self.ears.remove(&id);
    }

    /// A new line for an ear, subscribed to nothing; none while it is cut off.
    pub(super) fn connect(&mut self, id: EarId) -> Option<Inbox> {
        let ear = self.ears.get_mut(&id).filter(|ear| !ear.cut && !ear.deaf)?;
        let (sender, queue) = mpsc::channel(QUEUE_MESSAGES);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        ear.line = Some(Line { channels: HashSet::new(), queue: sender, queued_bytes: Arc::clone(&queued_bytes) });
        Some(Inbox { queue, queued_bytes })
    }

    /// Subscribes and unsubscribes on an ear's line; false when it has none.
    pub(super) fn change(&mut self, id: EarId, subscribe: &[Channel], unsubscribe: &[Channel]) -> bool {
        let Some(line) = self.ears.get_mut(&id).and_then(|ear| ear.line.as_mut()) else { return false };
        for channel in unsubscribe {
            line.channels.remove(channel);
        }
        line.channels.extend(subscribe.iter().cloned());
        true
    }

    /// # Errors
    /// `Unavailable` while the ear's node is cut off, and after it was stopped.
    pub(super) fn check(&self, id: EarId) -> Result<()> {
        match self.ears.get(&id) {
            Some(ear) if !ear.cut => Ok(()),
            Some(_) => Err(BackplaneError::Unavailable("this node is cut off".to_owned())),
            None => Err(BackplaneError::Unavailable("this node was stopped".to_owned())),
        }
    }

    pub(super) fn cut(&mut self, node: &NodeId) {
        for ear in self.ears.values_mut().filter(|ear| ear.node == *node) {
            ear.cut = true;
            ear.line = None;
        }
    }

    pub(super) fn deafen(&mut self, node: &NodeId) {
        for ear in self.ears.values_mut().filter(|ear| ear.node == *node) {
            ear.deaf = true;
            ear.line = None;
        }
    }

    pub(super) fn restore(&mut self, node: &NodeId) {
        for ear in self.ears.values_mut().filter(|ear| ear.node == *node) {
            (ear.cut, ear.deaf) = (false, false);
            ear.restored.notify_one();
        }
    }

    /// Whose ear it is.
    pub(super) fn node_of(&self, id: EarId) -> NodeId {
        self.ears.get(&id).map(|ear| ear.node.clone()).expect("an ear is there as long as its node")
    }

    /// Whether any node listens to a channel.
    pub(super) fn is_heard(&self, channel: &Channel) -> bool {
        self.ears.values().any(|ear| ear.line.as_ref().is_some_and(|line| line.channels.contains(channel)))
    }

    /// Puts bytes into the queue of every node that is subscribed; how many there are. A node whose queue is full
    /// loses its line instead.
    pub(super) fn deliver(&mut self, channel: &Channel, bytes: &Bytes) -> u64 {
        let mut nodes = 0;
        for ear in self.ears.values_mut() {
            let Some(line) = ear.line.as_ref().filter(|line| line.channels.contains(channel)) else { continue };
            if line.put(channel, bytes) {
                nodes += 1;
            } else {
                tracing::warn!(
                    node = %ear.node, limit_messages = QUEUE_MESSAGES, limit_bytes = QUEUE_BYTES,
                    "a node's queue is full: its subscription is interrupted"
                );
                ear.line = None;
            }
        }
        nodes
    }

    /// Publishes what the steps before left in the outbox.
    pub(super) fn flush(&mut self) {
        for (channel, bytes) in self.lifecycle.take_outbox() {
            self.deliver(&channel, &bytes);
        }
    }

    pub(super) fn announce(&mut self, now: u64, node: &NodeId, status: String, ttl_ms: u64) {
        self.announcements.insert(node.clone(), status);
        self.announcements_end.set(node.clone(), now.saturating_add(ttl_ms));
    }

    pub(super) fn withdraw_announcement(&mut self, node: &NodeId) {
        self.announcements.remove(node);
        self.announcements_end.remove(node);
    }

    /// Announced nodes, by id.
    pub(super) fn nodes(&self) -> Vec<(NodeId, String)> {
        let mut nodes: Vec<_> = self.announcements.iter().map(|(id, status)| (id.clone(), status.clone())).collect();
        nodes.sort();
        nodes
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.lifecycle.is_empty()
            && self.pasts.is_empty()
            && self.beats.is_empty()
            && self.receipts.is_empty()
            && self.roll.is_empty()
            && self.register.is_empty()
            && self.announcements.is_empty()
            && self.announcements_end.len() == 0
    }
}

impl Line {
    fn put(&self, channel: &Channel, bytes: &Bytes) -> bool {
        let before = self.queued_bytes.fetch_add(bytes.len(), Ordering::Relaxed);
        (before == 0 || before + bytes.len() <= QUEUE_BYTES)
            && self.queue.try_send((channel.clone(), bytes.clone())).is_ok()
    }
}

//! The tests' way to the memory, by a clock that is moved by hand.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use countersign_backplane::{
    Backplane, Channel, Interest, Listener, Settings,
    memory::{ManualClock, Memory, Remembered},
};
use countersign_protocol::NodeId;

use crate::fixture::Fixture;

pub(crate) struct OnMemory {
    memory: Arc<Memory>,
    clock: Arc<ManualClock>,
    nodes: Mutex<Vec<NodeId>>,
    remembered: Mutex<Option<Remembered>>,
}

#[async_trait]
impl Fixture for OnMemory {
    const EXPIRES_AT_ONCE: bool = true;
    const BY_HAND: bool = true;

    async fn start(settings: Settings) -> Self {
        let clock = Arc::new(ManualClock::default());
        Self {
            memory: Memory::with_clock(settings, clock.clone()),
            clock,
            nodes: Mutex::default(),
            remembered: Mutex::default(),
        }
    }

    async fn start_alone(settings: Settings) -> Self {
        Self::start(settings).await
    }

    async fn connect(&self, node: NodeId, interest: Arc<Interest>, listener: Arc<dyn Listener>) -> Arc<dyn Backplane> {
        self.nodes.lock().unwrap().push(node.clone());
        self.memory.node(node, interest, listener)
    }

    async fn publish_raw(&self, channel: &Channel, bytes: &[u8]) {
        self.memory.publish_raw(channel, &Bytes::copy_from_slice(bytes));
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    async fn break_links(&self) {
        for node in self.nodes.lock().unwrap().iter() {
            self.memory.cut(node);
        }
    }

    async fn mend_links(&self) {
        for node in self.nodes.lock().unwrap().iter() {
            self.memory.restore(node);
        }
    }

    async fn remember(&self) {
        *self.remembered.lock().unwrap() = Some(self.memory.remember());
    }

    async fn recall(&self) {
        self.break_links().await;
        self.memory.recall(self.remembered.lock().unwrap().take().expect("the test remembered it"));
        self.mend_links().await;
    }
}

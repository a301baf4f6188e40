//! One node's side of a [`Memory`]: the traits of this crate. Every command looks first whether its node is cut off, then
//! lets the store forget what has expired, takes its step, and hands on what the step published, all under the store's
//! mutex.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use countersign_protocol::{Address, CallbackId, NodeId, Position, TaskId, UserId, producer::Published};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    Memory,
    clock::millis,
    past::Numbered,
    reader::Reader,
    store::{EarId, Store},
};
use crate::{
    Callback, Callbacks, Channel, Cluster, History, Interest, Link, Listener, Messages, Publication, Result,
    callbacks::{
        CancelledTask, Canceller, Confirm, Confirmed, Cursor, OpenCallback, Opened, Swept, TaskState, Withdrawn,
    },
    inbox::{Doors, Inbox},
    wire,
};

/// After so many messages of one call the readers get a turn.
const MESSAGES_A_TURN: usize = 256;

/// One node's side of a [`Memory`].
#[derive(Debug)]
pub struct MemoryNode {
    memory: Arc<Memory>,
    ear: EarId,
    link: watch::Receiver<Link>,
    stopped: CancellationToken,
    reader: Mutex<Option<JoinHandle<()>>>,
}

impl MemoryNode {
    pub(super) fn start(
        memory: Arc<Memory>,
        node: NodeId,
        interest: Arc<Interest>,
        listener: Arc<dyn Listener>,
    ) -> Arc<Self> {
        let restored = Arc::new(Notify::new());
        let ear = memory.lock().add_ear(node, Arc::clone(&restored));
        let (link_sender, link) = watch::channel(Link::Down("the node is starting".to_owned()));
        let stopped = CancellationToken::new();
        let reader = Reader {
            memory: Arc::clone(&memory),
            ear,
            interest,
            listener,
            link: link_sender,
            restored,
            stopped: stopped.clone(),
        };
        let reader = Mutex::new(Some(tokio::spawn(reader.run())));
        Arc::new(Self { memory, ear, link, stopped, reader })
    }

    /// Where this node hears.
    pub(super) fn ear(&self) -> EarId {
        self.ear
    }

    /// One step, by the store's clock.
    pub(super) fn step<T>(&self, step: impl FnOnce(&mut Store, u64) -> T) -> Result<T> {
        let mut store = self.memory.lock();
        store.check(self.ear)?;
        let now = self.memory.now_ms();
        store.purge(now);
        let result = step(&mut store, now);
        store.flush();
        Ok(result)
    }
}

impl Drop for MemoryNode {
    fn drop(&mut self) {
        self.stopped.cancel();
    }
}

#[async_trait]
impl Messages for MemoryNode {
    async fn publish(&self, publication: Publication) -> Result<Published> {
        self.step(|store, now| {
            let (position, new) = match store.pasts.publish(now, fastrand::u64(..), &publication)? {
                Numbered::New(position) => (position, true),
                Numbered::Repeat(position) => (position, false),
            };
            let nodes = new.then(|| {
                let message = &publication.message;
                let bytes = position.as_ref().map_or_else(|| message.bytes().clone(), |at| wire::encode(at, message));
                store.deliver(&Channel::from(&publication.address), &bytes)
            });
            Ok(Published { position, nodes })
        })?
    }

    async fn publish_all(&self, publications: Vec<Publication>) -> Vec<Result<Published>> {
        let mut results = Vec::with_capacity(publications.len());
        for publication in publications {
            results.push(self.publish(publication).await);
            if results.len().is_multiple_of(MESSAGES_A_TURN) {
                tokio::task::yield_now().await;
            }
        }
        results
    }

    async fn positions(&self, addresses: &[Address]) -> Result<Vec<Position>> {
        self.step(|store, _| addresses.iter().map(|address| store.pasts.position(fastrand::u64(..), address)).collect())
    }

    async fn history(&self, address: &Address, since: &Position, most: usize) -> Result<History> {
        self.step(|store, _| store.pasts.history(fastrand::u64(..), address, since, most))
    }
}

#[async_trait]
impl Callbacks for MemoryNode {
    async fn open(&self, open: OpenCallback) -> Result<Opened> {
        self.step(|store, now| {
            let via = store.node_of(self.ear);
            let opened = store.lifecycle.open(now, &via, open)?;
            let asks = opened.new && opened.callback.decision.is_none();
            let user = Channel::User(opened.callback.user.clone());
            if asks && (store.is_heard(&user) || store.is_heard(&Channel::Guests)) {
                store.lifecycle.delivered(now, opened.callback.id);
                if let Some(callback) = store.lifecycle.read(now, opened.callback.id) {
                    return Ok(Opened { callback, new: true });
                }
            }
            Ok(opened)
        })?
    }

    async fn confirm(&self, confirm: Confirm) -> Result<Confirmed> {
        self.step(|store, now| {
            let via = store.node_of(self.ear);
            store.lifecycle.confirm(now, &via, confirm)
        })
    }

    async fn read(&self, id: CallbackId) -> Result<Option<Callback>> {
        self.step(|store, now| store.lifecycle.read(now, id))
    }

    async fn withdraw(&self, id: CallbackId) -> Result<Withdrawn> {
        self.step(|store, now| store.lifecycle.withdraw(now, id))
    }

    async fn cancel_task(&self, user: &UserId, task: &TaskId, by: &Canceller) -> Result<CancelledTask> {
        self.step(|store, now| store.lifecycle.cancel_task(now, user, task, by))?
    }

    async fn cancel_tasks_named(&self, task: &TaskId, by: &Canceller) -> Result<Vec<CancelledTask>> {
        self.step(|store, now| store.lifecycle.cancel_tasks_named(now, task, by))
    }

    async fn lift(&self, user: Option<&UserId>, task: &TaskId) -> Result<bool> {
        self.step(|store, _| store.lifecycle.tombstones.lift(user, task))
    }

    async fn task(&self, user: &UserId, task: &TaskId) -> Result<TaskState> {
        self.step(|store, now| store.lifecycle.task(now, user, task))
    }

    async fn open_callbacks(&self, user: &UserId) -> Result<Vec<Callback>> {
        self.step(|store, now| store.lifecycle.open_callbacks(now, user))
    }

    async fn deliver_open_callbacks(&self, user: &UserId) -> Result<Vec<Callback>> {
        self.step(|store, now| {
            for callback in store.lifecycle.open_callbacks(now, user) {
                store.lifecycle.delivered(now, callback.id);
            }
            store.lifecycle.open_callbacks(now, user)
        })
    }

    async fn all_open_callbacks(
        &self,
        cursor: Option<&Cursor>,
        most: usize,
    ) -> Result<(Vec<Callback>, Option<Cursor>)> {
        self.step(|store, now| store.lifecycle.all_open_callbacks(now, cursor, most))
    }

    async fn sweep(&self) -> Result<Swept> {
        self.step(|store, now| Swept { beats: store.beat(now), ..store.lifecycle.sweep(now) })
    }
}

/// An embedded backplane is reached through its gateway only.
impl Doors for MemoryNode {
    fn inbox(&self) -> Option<Arc<dyn Inbox>> {
        None
    }
}

#[async_trait]
impl Cluster for MemoryNode {
    fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    async fn announce(&self, node: &NodeId, status: String, ttl: Duration) -> Result<()> {
        self.step(|store, now| store.announce(now, node, status, millis(ttl)))
    }

    async fn withdraw_announcement(&self, node: &NodeId) -> Result<()> {
        self.step(|store, _| store.withdraw_announcement(node))
    }

    async fn nodes(&self) -> Result<Vec<(NodeId, String)>> {
        self.step(|store, _| store.nodes())
    }

    async fn stop(&self) {
        self.stopped.cancel();
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reader) = reader
            && let Err(error) = reader.await
        {
            tracing::error!(%error, "the reader of a node did not end well");
        }
    }
}

//! The backplane as a node reaches it: over a link with a length, on which commands and replies take their time or are lost.
//! And the ear with which the node hears: late, in pieces, and sometimes not what was said.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use countersign_backplane::{
    Audience, BackplaneError, Callback, Callbacks, Channel, Cluster, Connections, Doors, Heard, Heartbeats, History,
    Inbox, Link, Listener, Messages, Observation, Presence, Publication, Receipts, Result,
    callbacks::{
        Answerer, CancelledTask, Canceller, Confirm, Confirmed, Cursor, OpenCallback, Opened, Swept, TaskState,
        Withdrawn,
    },
    connections::{Admission, ConnectionLimit, HeldConnections, UserConnections},
    heartbeats::Heartbeat,
    memory::MemoryNode,
    presence::{Members, Places, Told},
    receipts::{OpenReceipt, Receipt},
};
use countersign_protocol::{
    Address, CallbackId, ConnectionId, FieldError, MessageId, NodeId, Position, TaskId, TopicName, UserId,
    producer::Published,
};
use tokio::{sync::watch, time::sleep};

use super::{chronicle::Chronicle, plan::Plan};

/// What all links of a run have in common.
pub(super) struct Weather {
    pub(super) chronicle: Arc<Chronicle>,
    pub(super) plan: Plan,
    calm: AtomicBool,
}

/// A node's way to the backplane.
pub(super) struct Far {
    pub(super) memory: Arc<MemoryNode>,
    pub(super) weather: Arc<Weather>,
}

/// A node's ear.
pub(super) struct Ear {
    pub(super) node: NodeId,
    pub(super) relay: Arc<dyn Listener>,
    pub(super) weather: Arc<Weather>,
}

impl Weather {
    pub(super) fn new(chronicle: Arc<Chronicle>, plan: Plan) -> Arc<Self> {
        Arc::new(Self { chronicle, plan, calm: AtomicBool::new(false) })
    }

    /// From now on nothing is lost.
    pub(super) fn calm_down(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    fn happens(&self, of_thousand: u32) -> bool {
        !self.calm.load(Ordering::Relaxed) && self.chronicle.happens(of_thousand)
    }

    /// Some time goes by, or none.
    async fn pass(&self, most: u64) {
        let ms = if most == 0 { 0 } else { self.chronicle.chance(|chance| chance.u64(..=most)) };
        if ms > 0 {
            sleep(Duration::from_millis(ms)).await;
        }
    }

    /// One step at the far end of a link.
    async fn far<T>(&self, step: impl Future<Output = Result<T>> + Send) -> Result<T> {
        self.pass(self.plan.latency).await;
        if self.happens(self.plan.lost_commands) {
            return Err(BackplaneError::Unavailable("the command was lost".to_owned()));
        }
        let result = step.await;
        self.pass(self.plan.latency).await;
        if self.happens(self.plan.lost_replies) {
            return Err(BackplaneError::Unavailable("the reply was lost".to_owned()));
        }
        result
    }
}

/// The number of a message of ours.
pub(super) fn number_of(text: &str) -> Option<u64> {
    let digits = text.strip_prefix(r#"{"n":"#)?;
    digits.split(|digit: char| !digit.is_ascii_digit()).next()?.parse().ok()
}

#[async_trait]
impl Messages for Far {
    async fn publish(&self, publication: Publication) -> Result<Published> {
        let (address, number) = (publication.address.clone(), number_of(publication.message.as_str()));
        let step = async {
            let published = self.memory.publish(publication).await?;
            if let Some(number) = number {
                self.weather.chronicle.accept(number, &address, published.position.as_ref());
            }
            Ok(published)
        };
        self.weather.far(step).await
    }

    async fn publish_all(&self, publications: Vec<Publication>) -> Vec<Result<Published>> {
        let mut results = Vec::new();
        for publication in publications {
            results.push(self.publish(publication).await);
        }
        results
    }

    async fn positions(&self, addresses: &[Address]) -> Result<Vec<Position>> {
        self.weather.far(self.memory.positions(addresses)).await
    }

    async fn history(&self, address: &Address, since: &Position, most: usize) -> Result<History> {
        self.weather.far(self.memory.history(address, since, most)).await
    }
}

#[async_trait]
impl Callbacks for Far {
    async fn open(&self, open: OpenCallback) -> Result<Opened> {
        self.weather.far(self.memory.open(open)).await
    }

    async fn confirm(&self, confirm: Confirm) -> Result<Confirmed> {
        self.weather.far(self.memory.confirm(confirm)).await
    }

    async fn read(&self, id: CallbackId) -> Result<Option<Callback>> {
        self.weather.far(self.memory.read(id)).await
    }

    async fn withdraw(&self, id: CallbackId) -> Result<Withdrawn> {
        self.weather.far(self.memory.withdraw(id)).await
    }

    async fn cancel_task(&self, user: &UserId, task: &TaskId, by: &Canceller) -> Result<CancelledTask> {
        self.weather.far(self.memory.cancel_task(user, task, by)).await
    }

    async fn cancel_tasks_named(&self, task: &TaskId, by: &Canceller) -> Result<Vec<CancelledTask>> {
        self.weather.far(self.memory.cancel_tasks_named(task, by)).await
    }

    async fn lift(&self, user: Option<&UserId>, task: &TaskId) -> Result<bool> {
        self.weather.far(self.memory.lift(user, task)).await
    }

    async fn task(&self, user: &UserId, task: &TaskId) -> Result<TaskState> {
        self.weather.far(self.memory.task(user, task)).await
    }

    async fn open_callbacks(&self, user: &UserId) -> Result<Vec<Callback>> {
        self.weather.far(self.memory.open_callbacks(user)).await
    }

    async fn deliver_open_callbacks(&self, user: &UserId) -> Result<Vec<Callback>> {
        self.weather.far(self.memory.deliver_open_callbacks(user)).await
    }

    async fn all_open_callbacks(
        &self,
        cursor: Option<&Cursor>,
        most: usize,
    ) -> Result<(Vec<Callback>, Option<Cursor>)> {
        self.weather.far(self.memory.all_open_callbacks(cursor, most)).await
    }

    async fn sweep(&self) -> Result<Swept> {
        self.memory.sweep().await
    }
}

#[async_trait]
impl Heartbeats for Far {
    async fn start_heartbeat(&self, heartbeat: Heartbeat) -> Result<f64> {
        self.memory.start_heartbeat(heartbeat).await
    }

    async fn stop_heartbeat(&self, user: &UserId, task: &TaskId) -> Result<bool> {
        self.memory.stop_heartbeat(user, task).await
    }
}

#[async_trait]
impl Receipts for Far {
    async fn open_receipt(&self, open: OpenReceipt) -> Result<(Receipt, bool)> {
        self.memory.open_receipt(open).await
    }

    async fn delivered(&self, id: MessageId) -> Result<()> {
        self.memory.delivered(id).await
    }

    async fn ack(&self, id: MessageId, by: &Answerer, connection: &ConnectionId) -> Result<bool> {
        self.memory.ack(id, by, connection).await
    }

    async fn receipt(&self, id: MessageId) -> Result<Option<Receipt>> {
        self.memory.receipt(id).await
    }
}

#[async_trait]
impl Presence for Far {
    async fn hold_places(&self, places: Vec<Places>, lease: Duration) -> Vec<Result<Told>> {
        self.memory.hold_places(places, lease).await
    }

    async fn members(&self, topic: &TopicName, most: usize) -> Result<Members> {
        self.weather.far(self.memory.members(topic, most)).await
    }
}

#[async_trait]
impl Connections for Far {
    async fn connect(
        &self,
        user: &UserId,
        connection: &ConnectionId,
        limit: ConnectionLimit,
        lease: Duration,
    ) -> Result<Admission> {
        self.weather.far(self.memory.connect(user, connection, limit, lease)).await
    }

    async fn hold_connections(
        &self,
        held: HeldConnections,
        limit: ConnectionLimit,
        lease: Duration,
    ) -> Result<Vec<ConnectionId>> {
        self.memory.hold_connections(held, limit, lease).await
    }

    async fn connections(&self, user: &UserId, most: usize) -> Result<UserConnections> {
        self.memory.connections(user, most).await
    }

    async fn disconnect(&self, user: &UserId, only: Option<&ConnectionId>, lease: Duration) -> Result<u64> {
        self.memory.disconnect(user, only, lease).await
    }
}

impl Doors for Far {
    fn inbox(&self) -> Option<Arc<dyn Inbox>> {
        self.memory.inbox()
    }
}

#[async_trait]
impl Cluster for Far {
    fn link(&self) -> watch::Receiver<Link> {
        self.memory.link()
    }

    async fn announce(&self, node: &NodeId, status: String, ttl: Duration) -> Result<()> {
        self.memory.announce(node, status, ttl).await
    }

    async fn withdraw_announcement(&self, node: &NodeId) -> Result<()> {
        self.memory.withdraw_announcement(node).await
    }

    async fn nodes(&self) -> Result<Vec<(NodeId, String)>> {
        self.memory.nodes().await
    }

    async fn stop(&self) {
        self.memory.stop().await;
    }
}

#[async_trait]
impl Listener for Ear {
    async fn heard(&self, batch: Vec<Heard>) {
        let Weather { chronicle, plan, .. } = &*self.weather;
        let mut rest = batch;
        while !rest.is_empty() {
            self.weather.pass(plan.lag).await;
            let most = rest.len();
            let taken = if plan.lag == 0 { most } else { chronicle.chance(|chance| chance.usize(1..=most)) };
            let mut batch: Vec<Heard> = rest.drain(..taken).collect();
            self.shake(&mut batch);
            let numbers: Vec<_> = batch.iter().filter_map(|heard| number_of(heard.payload.as_str())).collect();
            chronicle.event(format_args!("{} hears {numbers:?}", self.node));
            self.relay.heard(batch).await;
        }
    }

    fn refused(&self, channel: &Channel, error: &FieldError) {
        self.relay.refused(channel, error);
    }

    fn interrupted(&self, audience: Audience) {
        self.weather.chronicle.event(format_args!("{} is interrupted for a {}", self.node, audience.as_str()));
        self.relay.interrupted(audience);
    }

    fn resumed(&self, audience: Audience) {
        self.weather.chronicle.event(format_args!("{} hears again for a {}", self.node, audience.as_str()));
        self.relay.resumed(audience);
    }

    fn observed(&self, observation: Observation) {
        self.relay.observed(observation);
    }
}

impl Ear {
    /// Loses, repeats or swaps something with a position, which shows.
    fn shake(&self, batch: &mut Vec<Heard>) {
        if batch.is_empty() || !self.weather.happens(self.weather.plan.shaken) {
            return;
        }
        let at = self.weather.chronicle.chance(|chance| chance.usize(..batch.len()));
        if batch[at].position.is_none() {
            return;
        }
        match self.weather.chronicle.chance(|chance| chance.u8(..3)) {
            0 => drop(batch.remove(at)),
            1 => batch.insert(at, batch[at].clone()),
            _ if at > 0 && batch[at - 1].position.is_some() => batch.swap(at - 1, at),
            _ => {}
        }
    }
}

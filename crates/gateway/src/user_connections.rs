//! The connections of users, as far as this node holds them: registered for the whole cluster, renewed, and closed when
//! another node, or a producer, says so. Without a limit a connection is registered in the background and costs the connect
//! no round trip; with one the connect waits until it is admitted.

use std::{
    cmp::Ordering,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use countersign_backplane::{
    Channel, Interest, Wanted, connections,
    connections::{Admission, ConnectionLimit, HeldConnection, HeldConnections, UserConnections},
};
use countersign_protocol::{ConnectionId, NodeId, Partition, Payload, UserId, close};
use hashbrown::HashTable;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    config::{OneMore, UserConnections as Limit},
    error::GatewayError,
    hub::Outbox,
    leases::{self, Batch, Leases, Write},
    metrics::Ordered,
    node::Node,
    session::Wrong,
};

/// The most connections that are listed; all are counted.
const MOST_LISTED: usize = 1000;

/// See the module. One a node.
#[derive(Debug)]
pub(crate) struct Registry {
    leases: Arc<Leases<Arc<Seat>>>,
    /// By connection.
    seats: Mutex<HashTable<Arc<Seat>>>,
    began: Instant,
    /// Orders come on the node's own channel.
    _orders: Wanted,
}

/// A connection of a user. In order of partitions, so that those of one go together.
#[derive(Debug)]
pub(crate) struct Seat {
    partition: Partition,
    user: UserId,
    id: Uuid,
    /// Milliseconds after the registry began.
    since: u64,
    /// Not held: what is registered may outlive its connection for a moment.
    outbox: Weak<Outbox>,
}

/// A seat of which it is not known yet whether the connection may have it.
struct Sitting<'a> {
    registry: &'a Registry,
    seat: Option<Arc<Seat>>,
}

impl Registry {
    pub(crate) fn new(interest: &Arc<Interest>, node: NodeId) -> Arc<Self> {
        let orders = interest.want(&Channel::Node(node));
        Arc::new(Self { leases: Leases::new(), seats: Mutex::default(), began: Instant::now(), _orders: orders })
    }

    /// Something was said on the node's own channel; whether it closed a connection.
    pub(crate) fn heard(&self, payload: &Payload) -> bool {
        connections::to_be_closed(payload).is_some_and(|id| self.close(&id))
    }

    /// How many connections this node has registered.
    pub(crate) fn count(&self) -> usize {
        self.leases.count()
    }

    /// A connection is one of its user's no longer.
    pub(crate) fn leave(&self, seat: &Arc<Seat>) {
        self.rise(seat);
        self.leases.give_back(seat);
    }

    fn close(&self, id: &ConnectionId) -> bool {
        let Ok(id) = Uuid::parse_str(id.as_str()) else { return false };
        let outbox = self.lock().find(hash(id), |seat| seat.id == id).and_then(|seat| seat.outbox.upgrade());
        if let Some(outbox) = &outbox {
            outbox.close(close::REPLACED);
        }
        outbox.is_some()
    }

    fn sit(&self, user: &UserId, id: Uuid, outbox: &Arc<Outbox>) -> Arc<Seat> {
        let since = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (partition, user, outbox) = (Partition::of(user), user.clone(), Arc::downgrade(outbox));
        let seat = Arc::new(Seat { partition, user, id, since, outbox });
        self.lock().insert_unique(hash(id), Arc::clone(&seat), |seat| hash(seat.id));
        seat
    }

    fn rise(&self, seat: &Arc<Seat>) {
        if let Ok(entry) = self.lock().find_entry(hash(seat.id), |other| Arc::ptr_eq(other, seat)) {
            entry.remove();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashTable<Arc<Seat>>> {
        // Nothing in here panics between two states, so a poisoned lock still guards a whole one.
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Sitting<'_> {
    fn drop(&mut self) {
        if let Some(seat) = &self.seat {
            self.registry.rise(seat);
        }
    }
}

impl Seat {
    fn place(&self) -> (Partition, &UserId, Uuid) {
        (self.partition, &self.user, self.id)
    }

    fn connection(&self) -> ConnectionId {
        name(self.id)
    }
}

impl PartialEq for Seat {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for Seat {}

impl PartialOrd for Seat {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Seat {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}

/// The id as everybody else knows it.
pub(crate) fn name(id: Uuid) -> ConnectionId {
    ConnectionId::parse(id.hyphenated().encode_lower(&mut Uuid::encode_buffer())).expect("a UUID is a name")
}

/// The id is random already; both halves, because each has some bits that are always the same.
fn hash(id: Uuid) -> u64 {
    let (high, low) = id.as_u64_pair();
    high ^ low
}

/// Renews registrations until the node stops.
pub(crate) async fn keep(node: Arc<Node>) {
    let ttl = node.config.presence_ttl;
    if !ttl.is_zero() {
        leases::keep(&node.registry.leases, ttl, node.shutdown.stopped(), &*node).await;
    }
}

impl Write<Arc<Seat>> for Node {
    async fn write(&self, batch: &Batch<Arc<Seat>>) -> Vec<Arc<Seat>> {
        let now = self.registry.began.elapsed();
        let hold = batch.hold.iter().map(|seat| HeldConnection {
            user: seat.user.clone(),
            connection: seat.connection(),
            age: now.saturating_sub(Duration::from_millis(seat.since)),
        });
        let let_go = batch.let_go.iter().map(|seat| (seat.user.clone(), seat.connection()));
        let held = HeldConnections { hold: hold.collect(), let_go: let_go.collect() };
        match self.backplane.hold_connections(held, self.connection_limit(), self.lease()).await {
            Ok(to_close) => {
                for id in &to_close {
                    if self.registry.close(id) {
                        self.metrics.user_connections(Ordered::Closed, 1);
                    }
                }
                Vec::new()
            }
            Err(error) => {
                tracing::debug!(%error, "connections are not registered yet");
                batch.hold.iter().chain(&batch.let_go).cloned().collect()
            }
        }
    }
}

impl Node {
    /// Registers a connection of a user, which is told by its outbox when it has to go; none while nobody is counted.
    ///
    /// # Errors
    /// The user has as many as one may have, or it is not known.
    pub(crate) async fn register(
        &self,
        user: &UserId,
        id: Uuid,
        outbox: &Arc<Outbox>,
    ) -> Result<Option<Arc<Seat>>, Wrong> {
        if self.config.presence_ttl.is_zero() {
            return Ok(None);
        }
        let registry = &*self.registry;
        // It can be told to go from the moment in which it is admitted.
        let seat = registry.sit(user, id, outbox);
        let limit = self.connection_limit();
        if limit.most == 0 {
            registry.leases.take(Arc::clone(&seat));
            return Ok(Some(seat));
        }
        let mut sitting = Sitting { registry, seat: Some(Arc::clone(&seat)) };
        match self.backplane.connect(user, &seat.connection(), limit, self.lease()).await {
            Ok(Admission::Admitted { replaced }) => {
                self.metrics.user_connections(Ordered::Replaced, replaced);
                registry.leases.take_written(Arc::clone(&seat));
                sitting.seat = None;
                Ok(Some(seat))
            }
            Ok(Admission::Refused) => {
                self.metrics.user_connections(Ordered::Refused, 1);
                Err(Wrong::too_many_connections(limit.most))
            }
            Err(error) => {
                // It may be registered all the same: let go.
                registry.leases.take_written(Arc::clone(&seat));
                registry.leases.give_back(&seat);
                Err(error.into())
            }
        }
    }

    /// A user's connections, on every node.
    pub(crate) async fn connections_of(&self, user: &UserId) -> Result<UserConnections, GatewayError> {
        self.counted()?;
        Ok(self.backplane.connections(user, MOST_LISTED).await?)
    }

    /// Closes a user's connections, or one of them, on every node; how many there were.
    pub(crate) async fn disconnect(&self, user: &UserId, only: Option<&ConnectionId>) -> Result<u64, GatewayError> {
        self.counted()?;
        let closed = self.backplane.disconnect(user, only, self.lease()).await?;
        self.metrics.user_connections(Ordered::Disconnected, closed);
        Ok(closed)
    }

    fn counted(&self) -> Result<(), GatewayError> {
        if self.config.presence_ttl.is_zero() { Err(GatewayError::PresenceOff) } else { Ok(()) }
    }

    fn lease(&self) -> Duration {
        leases::lease(self.config.presence_ttl)
    }

    fn connection_limit(&self) -> ConnectionLimit {
        let Limit { limit, policy } = self.config.user_connections;
        let one_more = match policy {
            OneMore::ReplaceOldest => connections::OneMore::ReplaceOldest,
            OneMore::Refuse => connections::OneMore::Refuse,
        };
        ConnectionLimit { most: limit as u64, one_more }
    }
}

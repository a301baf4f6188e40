//! The connections of users, as far as this node holds them: registered for the whole cluster, renewed, and closed when
//! another node, or a producer, says so. Without a limit a connection is registered in the background and costs the connect
//! no round trip; with one the connect waits until it is admitted.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use countersign_backplane::{
    Channel, Interest, Wanted, connections,
    connections::{Admission, ConnectionLimit, HeldConnection, HeldConnections, UserConnections},
};
use countersign_protocol::{ConnectionId, NodeId, Partition, Payload, UserId, close};
use tokio::time::Instant;

use crate::{
    config::{OneMore, UserConnections as Limit},
    error::GatewayError,
    hub::Outbox,
    leases::{self, Batch, Lease, Leases, Write},
    metrics::Ordered,
    node::Node,
    session::Wrong,
};

/// The most connections that are listed; all are counted.
const MOST_LISTED: usize = 1000;

/// By partition, so that those of one go together.
type Key = (Partition, UserId, ConnectionId);

/// See the module. One a node.
#[derive(Debug)]
pub(crate) struct Registry {
    leases: Arc<Leases<Key>>,
    seats: Mutex<HashMap<ConnectionId, Seat>>,
    /// Orders come on the node's own channel.
    _orders: Wanted,
}

/// A connection of a user.
#[derive(Debug)]
struct Seat {
    since: Instant,
    outbox: Arc<Outbox>,
}

/// A registered connection. Dropping it takes it off the register.
#[derive(Debug)]
pub(crate) struct Registration {
    registry: Arc<Registry>,
    id: ConnectionId,
    lease: Option<Lease<Key>>,
}

impl Registry {
    pub(crate) fn new(interest: &Arc<Interest>, node: NodeId) -> Arc<Self> {
        let orders = interest.want(&Channel::Node(node));
        Arc::new(Self { leases: Leases::new(), seats: Mutex::default(), _orders: orders })
    }

    /// Something was said on the node's own channel; whether it closed a connection.
    pub(crate) fn heard(&self, payload: &Payload) -> bool {
        connections::to_be_closed(payload).is_some_and(|id| self.close(&id))
    }

    /// How many connections this node has registered.
    pub(crate) fn count(&self) -> usize {
        self.leases.count()
    }

    fn close(&self, id: &ConnectionId) -> bool {
        let seats = self.lock();
        let seat = seats.get(id);
        if let Some(seat) = seat {
            seat.outbox.close(close::REPLACED);
        }
        seat.is_some()
    }

    fn sit(self: &Arc<Self>, id: &ConnectionId, outbox: Arc<Outbox>) -> Registration {
        self.lock().insert(id.clone(), Seat { since: Instant::now(), outbox });
        Registration { registry: Arc::clone(self), id: id.clone(), lease: None }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ConnectionId, Seat>> {
        // Nothing in here panics between two states, so a poisoned lock still guards a whole one.
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.id);
    }
}

/// Renews registrations until the node stops.
pub(crate) async fn keep(node: Arc<Node>) {
    let ttl = node.config.presence_ttl;
    if !ttl.is_zero() {
        leases::keep(&node.registry.leases, ttl, node.shutdown.stopped(), &*node).await;
    }
}

impl Write<Key> for Node {
    async fn write(&self, batch: &Batch<Key>) -> Vec<Key> {
        let held = {
            let seats = self.registry.lock();
            let hold = batch.hold.iter().filter_map(|(_, user, id)| {
                let age = seats.get(id)?.since.elapsed();
                Some(HeldConnection { user: user.clone(), connection: id.clone(), age })
            });
            let let_go = batch.let_go.iter().map(|(_, user, id)| (user.clone(), id.clone()));
            HeldConnections { hold: hold.collect(), let_go: let_go.collect() }
        };
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
        id: &ConnectionId,
        outbox: Arc<Outbox>,
    ) -> Result<Option<Registration>, Wrong> {
        if self.config.presence_ttl.is_zero() {
            return Ok(None);
        }
        let key = (Partition::of(user), user.clone(), id.clone());
        // It can be told to go from the moment in which it is admitted.
        let mut registration = self.registry.sit(id, outbox);
        let limit = self.connection_limit();
        registration.lease = Some(if limit.most == 0 {
            self.registry.leases.take(key)
        } else {
            let admission = self.backplane.connect(user, id, limit, self.lease()).await;
            if matches!(admission, Ok(Admission::Refused)) {
                self.metrics.user_connections(Ordered::Refused, 1);
                return Err(Wrong::too_many_connections(limit.most));
            }
            // Should it not be known, it may be registered all the same; dropping this lets it go.
            let lease = self.registry.leases.take_written(key);
            if let Admission::Admitted { replaced } = admission? {
                self.metrics.user_connections(Ordered::Replaced, replaced);
            }
            lease
        });
        Ok(Some(registration))
    }

    /// A user's connections, on every node.
    pub(crate) async fn connections_of(&self, user: &UserId) -> Result<UserConnections, GatewayError> {
        self.counted()?;
        Ok(self.backplane.connections(user, MOST_LISTED).await?)
    }

    /// Closes a user's connections, on every node; how many there were.
    pub(crate) async fn disconnect(&self, user: &UserId) -> Result<u64, GatewayError> {
        self.counted()?;
        let closed = self.backplane.disconnect(user, self.lease()).await?;
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

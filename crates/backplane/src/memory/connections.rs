//! Connections by user as a pure state machine: the time is handed in. What has expired is forgotten by the purge with which
//! every step begins.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use async_trait::async_trait;
use countersign_protocol::{ConnectionId, NodeId, UserId};

use super::{
    MemoryNode,
    clock::{millis, seconds},
    expiry::Expiries,
    store::Store,
};
use crate::{
    Channel, Result,
    connections::{
        self, Admission, ConnectionLimit, Connections, HeldConnection, HeldConnections, OneMore, UserConnection,
        UserConnections,
    },
};

type Whose = (UserId, ConnectionId);

/// All connections of all nodes.
#[derive(Debug, Default)]
pub(super) struct Register {
    /// By the time of coming.
    users: HashMap<UserId, BTreeMap<(u64, ConnectionId), NodeId>>,
    since: HashMap<Whose, u64>,
    ends: Expiries<Whose>,
    /// Told to close, until they are gone.
    closing: Expiries<Whose>,
}

impl Register {
    fn hold(&mut self, whose: Whose, node: &NodeId, since: u64, ends: u64) {
        if !self.since.contains_key(&whose) {
            let (user, connection) = whose.clone();
            self.users.entry(user).or_default().insert((since, connection), node.clone());
            self.since.insert(whose.clone(), since);
        }
        self.ends.set(whose, ends);
    }

    fn let_go(&mut self, whose: &Whose) -> Option<NodeId> {
        self.ends.remove(whose);
        let since = self.since.remove(whose)?;
        let connections = self.users.get_mut(&whose.0)?;
        let node = connections.remove(&(since, whose.1.clone()));
        if connections.is_empty() {
            self.users.remove(&whose.0);
        }
        node
    }

    fn count(&self, user: &UserId) -> u64 {
        self.users.get(user).map_or(0, |connections| connections.len() as u64)
    }

    fn oldest(&self, user: &UserId, most: usize) -> Vec<Whose> {
        let connections = self.users.get(user).into_iter().flat_map(BTreeMap::keys).take(most);
        connections.map(|(_, connection)| (user.clone(), connection.clone())).collect()
    }

    /// Forgets what has expired.
    pub(super) fn purge(&mut self, now: u64) {
        while let Some(whose) = self.ends.pop_due(now) {
            self.let_go(&whose);
        }
        while self.closing.pop_due(now).is_some() {}
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty() && self.since.is_empty() && self.ends.len() + self.closing.len() == 0
    }
}

impl Store {
    fn admit(&mut self, now: u64, node: &NodeId, whose: Whose, limit: ConnectionLimit, lease_ms: u64) -> Admission {
        let count = self.register.count(&whose.0);
        let mut replaced = 0;
        if limit.most > 0 && count >= limit.most && !self.register.since.contains_key(&whose) {
            if limit.one_more == OneMore::Refuse {
                return Admission::Refused;
            }
            replaced = count - limit.most + 1;
            let oldest = self.register.oldest(&whose.0, usize::try_from(replaced).unwrap_or(usize::MAX));
            self.close(now, oldest, lease_ms);
        }
        self.register.hold(whose, node, now, now.saturating_add(lease_ms));
        Admission::Admitted { replaced }
    }

    fn hold_connections(
        &mut self,
        now: u64,
        node: &NodeId,
        held: HeldConnections,
        limit: ConnectionLimit,
        lease_ms: u64,
    ) -> Vec<ConnectionId> {
        let mut to_close = Vec::new();
        for HeldConnection { user, connection, age } in held.hold {
            let whose = (user, connection);
            let full = limit.most > 0 && self.register.count(&whose.0) >= limit.most;
            if self.register.closing.contains(&whose) || (full && !self.register.since.contains_key(&whose)) {
                to_close.push(whose.1);
            } else {
                self.register.hold(whose, node, now.saturating_sub(millis(age)), now.saturating_add(lease_ms));
            }
        }
        for whose in held.let_go {
            self.register.let_go(&whose);
            self.register.closing.remove(&whose);
        }
        to_close
    }

    /// Tells the nodes of these connections to close them.
    fn close(&mut self, now: u64, connections: Vec<Whose>, lease_ms: u64) {
        for whose in connections {
            let Some(node) = self.register.let_go(&whose) else { continue };
            self.register.closing.set(whose.clone(), now.saturating_add(lease_ms.saturating_mul(2)));
            self.deliver(&Channel::Node(node), &connections::order(whose.1).into());
        }
    }
}

#[async_trait]
impl Connections for MemoryNode {
    async fn connect(
        &self,
        user: &UserId,
        connection: &ConnectionId,
        limit: ConnectionLimit,
        lease: Duration,
    ) -> Result<Admission> {
        self.step(|store, now| {
            let node = store.node_of(self.ear());
            store.admit(now, &node, (user.clone(), connection.clone()), limit, millis(lease).max(1))
        })
    }

    async fn hold_connections(
        &self,
        held: HeldConnections,
        limit: ConnectionLimit,
        lease: Duration,
    ) -> Result<Vec<ConnectionId>> {
        self.step(|store, now| {
            let node = store.node_of(self.ear());
            store.hold_connections(now, &node, held, limit, millis(lease).max(1))
        })
    }

    async fn connections(&self, user: &UserId, most: usize) -> Result<UserConnections> {
        self.step(|store, _| {
            let connections = store.register.users.get(user).into_iter().flatten().take(most);
            let connection = |((since, id), node): (&(u64, ConnectionId), &NodeId)| UserConnection {
                connection_id: id.clone(),
                node_id: node.clone(),
                connected_at: seconds(*since),
            };
            UserConnections { connections: connections.map(connection).collect(), count: store.register.count(user) }
        })
    }

    async fn disconnect(&self, user: &UserId, only: Option<&ConnectionId>, lease: Duration) -> Result<u64> {
        self.step(|store, now| {
            let mut chosen = store.register.oldest(user, usize::MAX);
            chosen.retain(|(_, connection)| only.is_none_or(|only| only == connection));
            let count = chosen.len() as u64;
            store.close(now, chosen, millis(lease).max(1));
            count
        })
    }
}

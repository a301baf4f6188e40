//! Which connections a user has in the whole cluster, and how many it may have. A connection is registered under its user's
//! partition with a lease that its node renews, so a dead node's connections end by themselves. Who is to be closed is told
//! to the node that holds the connection, on [`crate::Channel::Node`]; should that order be lost, the next renewal says it
//! again: an order is a record too.

use std::time::Duration;

use async_trait::async_trait;
use countersign_protocol::{ConnectionId, NodeId, Payload, UserId};
use serde::{Deserialize, Serialize};

use crate::Result;

/// How many connections one user may have in the whole cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectionLimit {
    /// The most; 0 is no limit.
    pub most: u64,
    /// What one more does.
    pub one_more: OneMore,
}

/// What a connection does that is one more than its user may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OneMore {
    /// It takes the place of the user's oldest connection.
    #[default]
    ReplaceOldest,
    /// It is refused.
    Refuse,
}

/// Of one connection that comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is registered, in the place of so many older ones.
    Admitted {
        /// Connections whose nodes were told to close them.
        replaced: u64,
    },
    /// The user has as many as one may have; nothing was changed.
    Refused,
}

/// A connection of this node that is to be registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldConnection {
    /// Whose.
    pub user: UserId,
    /// Which.
    pub connection: ConnectionId,
    /// How long it has been there.
    pub age: Duration,
}

/// What one node's registered connections are to become.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeldConnections {
    /// Registered, or renewed.
    pub hold: Vec<HeldConnection>,
    /// Gone.
    pub let_go: Vec<(UserId, ConnectionId)>,
}

/// A user's connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UserConnection {
    /// Which.
    pub connection_id: ConnectionId,
    /// The node that holds it.
    pub node_id: NodeId,
    /// Since when, in Unix seconds by the backplane's clock.
    pub connected_at: f64,
}

/// A user's connections.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct UserConnections {
    /// Oldest first; not all, when there are more than were asked for.
    pub connections: Vec<UserConnection>,
    /// How many there are.
    pub count: u64,
}

/// Connections by user.
#[async_trait]
pub trait Connections: Send + Sync {
    /// Registers a connection that comes, if the limit admits it, in one atomic step. A repeat for the same connection is
    /// admitted again.
    ///
    /// # Errors
    /// `Unavailable`: repeat, or let it go.
    async fn connect(
        &self,
        user: &UserId,
        connection: &ConnectionId,
        limit: ConnectionLimit,
        lease: Duration,
    ) -> Result<Admission>;

    /// Registers, renews and lets go connections of this node; a repeat is harmless. What is not renewed ends after `lease`.
    /// Returns those that are to be closed: they were told to, or they came back to more than the limit.
    ///
    /// # Errors
    /// `Unavailable`: some may be done; repeat.
    async fn hold_connections(
        &self,
        held: HeldConnections,
        limit: ConnectionLimit,
        lease: Duration,
    ) -> Result<Vec<ConnectionId>>;

    /// A user's connections now, at most `most` of them one by one.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn connections(&self, user: &UserId, most: usize) -> Result<UserConnections>;

    /// Tells the nodes of all of a user's connections to close them, or of one of these only; how many there were. One that comes
    /// back is a new one. An order is kept until its connection is gone, at most `lease` twice.
    ///
    /// # Errors
    /// `Unavailable`: some may have been told; repeat.
    async fn disconnect(&self, user: &UserId, only: Option<&ConnectionId>, lease: Duration) -> Result<u64>;
}

/// What is said to a node that is to close one of its connections.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Order {
    Close { connection_id: ConnectionId },
}

/// The connection that an order on a node's own channel names; `None` for what is no order.
pub fn to_be_closed(payload: &Payload) -> Option<ConnectionId> {
    serde_json::from_slice(payload.bytes()).ok().map(|Order::Close { connection_id }| connection_id)
}

/// An order, as JSON.
pub(crate) fn order(connection_id: ConnectionId) -> String {
    serde_json::to_string(&Order::Close { connection_id }).expect("an order has text keys and encodes always")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_reads_back_what_it_wrote_and_nothing_else_is_one() {
        let id = ConnectionId::parse("c \"1\"").unwrap();
        assert_eq!(to_be_closed(&Payload::parse(order(id.clone()).into()).unwrap()), Some(id));
        for other in [r#"{"type":"open","connection_id":"c"}"#, r#"{"connection_id":"c"}"#, "{}"] {
            assert_eq!(to_be_closed(&Payload::parse(other.as_bytes().to_vec().into()).unwrap()), None, "{other}");
        }
    }
}

//! Which nodes there are, and whether the link to them holds.

use std::time::Duration;

use async_trait::async_trait;
use countersign_protocol::NodeId;
use tokio::sync::watch;

use crate::Result;

/// Whether the node can hear the others, itself included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// Not yet, or not any more; with the reason for people.
    Down(String),
    /// Subscribed, and the node has lately heard itself.
    Up,
}

impl Link {
    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Up)
    }
}

/// Nodes and the link between them.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// The state of the link, and its changes.
    fn link(&self) -> watch::Receiver<Link>;

    /// Says that this node is there, with its status as a JSON object, for as long as `ttl`.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn announce(&self, node: &NodeId, status: String, ttl: Duration) -> Result<()>;

    /// Takes the announcement back.
    ///
    /// # Errors
    /// `Unavailable`; the announcement then ends with its `ttl`.
    async fn withdraw_announcement(&self, node: &NodeId) -> Result<()>;

    /// The announced statuses of all nodes, by node id.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn nodes(&self) -> Result<Vec<(NodeId, String)>>;

    /// Ends every task of the backplane and waits for them.
    async fn stop(&self);
}

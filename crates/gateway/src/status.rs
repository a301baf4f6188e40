//! What a node knows of itself and of the others: announced to the backplane every few seconds, asked for by
//! `GET /v1/status`.

use std::{sync::Arc, time::Duration};

use countersign_protocol::NodeId;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{metrics::Summary, node::Node};

/// Between two announcements.
const INTERVAL: Duration = Duration::from_secs(2);
/// A node that has not announced itself for this long is not listed any more.
const TTL: Duration = Duration::from_secs(7);

/// One node, as it sees itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeStatus {
    /// Which node.
    pub node_id: NodeId,
    /// Whether it takes work: it hears itself through the backplane, and does not drain.
    pub running: bool,
    /// `ready`, or why it is not.
    pub status: String,
    /// Whether another live node has the same id.
    pub node_id_shared: bool,
    /// Connections that it holds.
    pub active_connections: usize,
    /// Waits for decisions that it holds.
    pub waits: usize,
    /// Since it started.
    pub metrics: Summary,
    /// Seconds since it started.
    pub uptime: f64,
    /// When this was so, in Unix seconds by the backplane's clock.
    pub timestamp: f64,
}

/// This node and the cluster.
#[derive(Debug, Serialize)]
pub struct ClusterStatus {
    /// Whether this node takes work.
    pub running: bool,
    /// `ready`, or why this node is not.
    pub status: String,
    /// Connections of the whole cluster.
    pub active_connections: u64,
    /// Open callbacks of the whole cluster, as of the last sweep.
    pub pending_callbacks: i64,
    /// Of this node, since it started.
    pub metrics: Summary,
    /// When this was so, in Unix seconds.
    pub timestamp: f64,
    /// Which node answered.
    pub node_id: NodeId,
    /// Whether another live node has the id of the one that answered.
    pub node_id_shared: bool,
    /// Every node that has announced itself lately, this one as it is now.
    pub nodes: Vec<Box<RawValue>>,
}

impl Node {
    /// This node as it is now.
    pub(crate) fn status(&self) -> NodeStatus {
        let ready = self.ready();
        NodeStatus {
            node_id: self.config.node_id.clone(),
            running: ready.is_ok(),
            status: ready.err().unwrap_or_else(|| "ready".to_owned()),
            node_id_shared: self.metrics.node_id_is_shared(),
            active_connections: self.hub.load().connections,
            waits: self.waiters.count() + self.acks.count(),
            metrics: self.metrics.summary(),
            uptime: self.started.elapsed().as_secs_f64(),
            timestamp: self.clock.now(),
        }
    }

    /// This node as it is now, and the others as they last said.
    pub(crate) async fn cluster_status(&self) -> ClusterStatus {
        let own = self.status();
        let mut nodes = vec![raw(&own)];
        let mut connections = own.active_connections as u64;
        // Without the backplane this node is all that it knows of, and its status says why.
        for (_, status) in
            self.backplane.nodes().await.unwrap_or_default().into_iter().filter(|(id, _)| *id != own.node_id)
        {
            connections += serde_json::from_str::<Connections>(&status).map_or(0, |status| status.active_connections);
            nodes.extend(RawValue::from_string(status).ok());
        }
        ClusterStatus {
            running: own.running,
            status: own.status,
            active_connections: connections,
            pending_callbacks: self.metrics.open_callbacks(),
            metrics: own.metrics,
            timestamp: own.timestamp,
            node_id: own.node_id,
            node_id_shared: own.node_id_shared,
            nodes,
        }
    }
}

#[derive(serde::Deserialize)]
struct Connections {
    active_connections: u64,
}

fn raw(status: &NodeStatus) -> Box<RawValue> {
    serde_json::value::to_raw_value(status).expect("a status has text keys and encodes always")
}

/// Announces the node until it stops, then takes the announcement back.
pub(crate) async fn announce(node: Arc<Node>) {
    loop {
        let status = raw(&node.status()).get().to_owned();
        // A failure is counted by the backplane; the next announcement follows soon.
        node.backplane.announce(&node.config.node_id, status, TTL).await.ok();
        tokio::select! {
            biased;
            () = node.shutdown.stopped() => break,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
    // Ends by itself otherwise.
    node.backplane.withdraw_announcement(&node.config.node_id).await.ok();
}

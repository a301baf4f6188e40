//! Nodes that share a Redis, without a balancer.

use futures_util::future::join_all;

use crate::api::Api;
use crate::device::Device;
use crate::node::{Node, NodeBuilder};
use crate::redis_server::RedisServer;

/// `node-0`, `node-1`, …, on ports of their own. Gone when dropped.
#[derive(Debug)]
pub struct Nodes {
    // Dropped in this order: what depends on something goes before it.
    nodes: Vec<Node>,
    redis: RedisServer,
}

impl Nodes {
    /// Starts Redis, then all nodes at once; returns when they are ready.
    pub async fn start(count: usize, builder: NodeBuilder) -> Self {
        let redis = RedisServer::start().await;
        let node = |n: usize| builder.clone().env("NODE_ID", format!("node-{n}")).redis(&redis).start();
        let nodes = join_all((0..count).map(node)).await;
        Self { nodes, redis }
    }

    /// Their Redis.
    pub fn redis(&self) -> &RedisServer {
        &self.redis
    }

    /// All of them.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A user's device at one of them.
    pub async fn device(&self, node: usize, user: &str) -> Device {
        Device::of_user(&self.nodes[node].ws_url(), user).await
    }

    /// A producer that talks to one of them.
    pub fn api(&self, node: usize) -> Api {
        self.nodes[node].api()
    }
}

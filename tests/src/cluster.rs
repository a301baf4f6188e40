//! A whole deployment: one Redis, some nodes, and nginx in front of them.

use std::time::Duration;

use crate::api::Api;
use crate::device::Device;
use crate::nginx::Nginx;
use crate::node::{Node, NodeBuilder};
use crate::proxy::TcpProxy;
use crate::redis_server::RedisServer;

/// Everything that the shipped deployment runs, on free loopback ports. Gone when dropped.
#[derive(Debug)]
pub struct Cluster {
    // Dropped in this order: what depends on something goes before it.
    nginx: Nginx,
    nodes: Vec<Node>,
    links: Vec<TcpProxy>,
    redis: RedisServer,
}

impl Cluster {
    /// `count` nodes (`node-1`, `node-2`, …) in open mode.
    pub async fn start(count: usize) -> Self {
        Self::builder(count).start().await
    }

    /// The same with settings.
    pub fn builder(count: usize) -> ClusterBuilder {
        ClusterBuilder { count, node: Node::builder(), linked: false }
    }

    /// The Redis of all nodes.
    pub fn redis(&self) -> &RedisServer {
        &self.redis
    }

    /// The same, to kill and restart it.
    pub fn redis_mut(&mut self) -> &mut RedisServer {
        &mut self.redis
    }

    /// The balancer.
    pub fn nginx(&self) -> &Nginx {
        &self.nginx
    }

    /// The same, to restart it.
    pub fn nginx_mut(&mut self) -> &mut Nginx {
        &mut self.nginx
    }

    /// A node, counted from 0.
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// What stands between a node and Redis, if the cluster was built with links.
    pub fn link(&self, index: usize) -> &TcpProxy {
        &self.links[index]
    }

    /// A new process in the place of a node that has ended.
    pub async fn restart_node(&mut self, index: usize) {
        self.nodes[index].restart().await;
    }

    /// A producer that talks to one node.
    pub fn api(&self, index: usize) -> Api {
        self.nodes[index].api()
    }

    /// A producer that talks to nginx.
    pub fn balanced_api(&self) -> Api {
        Api::at(self.nginx.url())
    }

    /// A user's device, connected straight to one node.
    pub async fn device(&self, index: usize, user: &str) -> Device {
        Device::of_user(&self.nodes[index].ws_url(), user).await
    }

    /// A user's device, connected through nginx.
    pub async fn balanced_device(&self, user: &str) -> Device {
        Device::of_user(&self.nginx.ws_url(), user).await
    }

    /// A user's device that came through nginx to another node than `index`. nginx counts connections,
    /// so with all nodes idle each dial lands on another one.
    pub async fn balanced_device_not_on(&self, index: usize, user: &str) -> Device {
        let avoided = format!("node-{}", index + 1);
        let mut rejected = Vec::new();
        for _ in 0..=2 * self.nodes.len() {
            let device = self.balanced_device(user).await;
            if device.node_id() != avoided {
                return device;
            }
            // Kept open until we are done, so that it counts.
            rejected.push(device);
        }
        panic!("nginx led {} connections to {avoided}", rejected.len())
    }

    /// How long one node may take to empty itself: its own limit, and some more for a busy machine.
    pub fn drain_deadline() -> Duration {
        Duration::from_secs(30)
    }
}

/// What a cluster is to be started with.
#[derive(Debug)]
pub struct ClusterBuilder {
    count: usize,
    node: NodeBuilder,
    linked: bool,
}

impl ClusterBuilder {
    /// A variable for every node.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.node = self.node.env(name, value);
        self
    }

    /// Puts a proxy between each node and Redis.
    #[must_use]
    pub fn with_links(mut self) -> Self {
        self.linked = true;
        self
    }

    /// Starts Redis, then the nodes, then nginx; returns when all are ready.
    pub async fn start(self) -> Cluster {
        let redis = RedisServer::start().await;
        let mut nodes = Vec::with_capacity(self.count);
        let mut links = Vec::new();
        for number in 1..=self.count {
            let mut node = self.node.clone().redis(&redis).env("NODE_ID", format!("node-{number}")).fixed_port();
            if self.linked {
                let link = TcpProxy::to(redis.address()).await;
                node = node.env("REDIS_URL", format!("redis://{}/0", link.address()));
                links.push(link);
            }
            nodes.push(node.start().await);
        }
        let addresses: Vec<String> = nodes.iter().map(|node| node.address().to_owned()).collect();
        let nginx = Nginx::start(&addresses).await;
        Cluster { nginx, nodes, links, redis }
    }
}

//! The tests' way to a real Redis Cluster of three masters, in real time. The tests share one and have a prefix each; who breaks
//! links has a cluster to itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use countersign_backplane::{
    Backplane, Callbacks, Channel, Heard, Interest, Listener, Settings,
    redis::{RedisOptions, connect},
};
use countersign_protocol::NodeId;
use serde_json::json;

use crate::fixture::eventually;
use crate::{
    fixture::{Entry, Fixture, Node, value},
    support::{RedisCluster, RedisServer, fresh_prefix},
};

pub(crate) struct OnCluster {
    cluster: Arc<RedisCluster>,
    settings: Settings,
}

impl OnCluster {
    fn on(cluster: Arc<RedisCluster>, mut settings: Settings) -> Self {
        settings.prefix = fresh_prefix();
        Self { cluster, settings }
    }

    fn publish_at(&self, server: &RedisServer, channel: &Channel, bytes: &[u8]) {
        let name = format!("{}:{}", self.settings.prefix, channel.name());
        let reply = server.command(&[b"PUBLISH", name.as_bytes(), bytes]);
        assert!(reply.starts_with(':'), "PUBLISH was answered {reply:?}");
    }
}

#[async_trait]
impl Fixture for OnCluster {
    const ONE_PLACE: bool = false;

    async fn start(settings: Settings) -> Self {
        Self::on(RedisCluster::shared(), settings)
    }

    async fn start_alone(settings: Settings) -> Self {
        Self::on(Arc::new(RedisCluster::start()), settings)
    }

    async fn connect(&self, node: NodeId, interest: Arc<Interest>, listener: Arc<dyn Listener>) -> Arc<dyn Backplane> {
        let options = RedisOptions::new(&self.cluster.url(), node);
        let node = connect(options, self.settings.clone(), &interest, &listener).expect("the options are right");
        // A bare PUBLISH takes another way while its master is still being connected; a sweep needs all of them.
        eventually("every master answers", || async { Callbacks::sweep(&*node).await.ok() }).await;
        node
    }

    async fn publish_raw(&self, channel: &Channel, bytes: &[u8]) {
        self.publish_at(&self.cluster.masters()[0], channel, bytes);
    }

    async fn advance(&self, by: Duration) {
        tokio::time::sleep(by).await;
    }

    async fn break_links(&self) {
        self.cluster.kill();
    }

    async fn mend_links(&self) {
        self.cluster.start_again();
    }

    async fn remember(&self) {
        self.cluster.masters().iter().for_each(RedisServer::save);
    }

    async fn recall(&self) {
        self.cluster.kill();
        self.cluster.start_again();
    }

    /// What comes from one master comes in order; so a marker from each of them.
    async fn heard_so_far(&self, node: &Node, channel: &Channel) -> Vec<Heard> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let markers: Vec<_> = self
            .cluster
            .masters()
            .iter()
            .map(|master| {
                let marker = json!({ "marker": NEXT.fetch_add(1, Ordering::Relaxed) });
                self.publish_at(master, channel, marker.to_string().as_bytes());
                marker
            })
            .collect();
        node.ear
            .until(&format!("the markers on {}", channel.name()), |log| {
                let is = |entry: &Entry, marker: &serde_json::Value| matches!(entry, Entry::Heard(heard) if value(heard) == *marker);
                markers.iter().all(|marker| log.iter().any(|entry| is(entry, marker))).then_some(())
            })
            .await;
        let mut heard = node.ear.heard_on(channel);
        heard.retain(|heard| value(heard).get("marker").is_none());
        heard
    }
}

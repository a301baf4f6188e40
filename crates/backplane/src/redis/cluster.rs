//! Announcements of nodes in Redis, and the end of the backplane's tasks.

use std::time::Duration;

use async_trait::async_trait;
use countersign_protocol::NodeId;
use redis::{cmd, from_redis_value};
use tokio::sync::watch;

use super::{RedisBackplane, lanes::Step, messages::unreadable, millis, retry::repeat, scripts::SCRIPTS};
use crate::{Channel, Cluster, Link, Result};

#[async_trait]
impl Cluster for RedisBackplane {
    fn link(&self) -> watch::Receiver<Link> {
        self.links.watch()
    }

    async fn announce(&self, node: &NodeId, status: String, ttl: Duration) -> Result<()> {
        let mut script = SCRIPTS.announce.prepare_invoke();
        script.key(self.keys.node(node)).key(self.keys.nodes()).arg(node.as_str()).arg(status).arg(millis(ttl).max(1));
        repeat(|| self.lanes.script(&script)).await?;
        let mut said = cmd("PUBLISH");
        said.arg(self.keys.channel(&Channel::Nodes)).arg(self.neighbours.announcement(ttl));
        self.lanes.anywhere(&said).await?;
        Ok(())
    }

    async fn withdraw_announcement(&self, node: &NodeId) -> Result<()> {
        let (mut status, mut index) = (cmd("DEL"), cmd("ZREM"));
        status.arg(self.keys.node(node));
        index.arg(self.keys.nodes()).arg(node.as_str());
        let steps = [Step::Command(status), Step::Command(index)];
        repeat(|| self.lanes.all(&steps)).await?;
        Ok(())
    }

    async fn nodes(&self) -> Result<Vec<(NodeId, String)>> {
        let mut index = cmd("ZRANGE");
        index.arg(self.keys.nodes()).arg(0).arg(-1);
        let names: Vec<String> =
            from_redis_value(repeat(|| self.lanes.command(&index)).await?.value).map_err(unreadable)?;
        let mut nodes =
            names.iter().map(|name| NodeId::parse(name)).collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
        if nodes.is_empty() {
            return Ok(Vec::new());
        }
        nodes.sort();
        let mut statuses = cmd("MGET");
        for node in &nodes {
            statuses.arg(self.keys.node(node));
        }
        let statuses: Vec<Option<String>> =
            from_redis_value(repeat(|| self.lanes.command(&statuses)).await?.value).map_err(unreadable)?;
        // One whose status has expired is gone; the next announcement clears the index.
        Ok(nodes.into_iter().zip(statuses).filter_map(|(node, status)| Some((node, status?))).collect())
    }

    async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

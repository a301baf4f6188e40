//! Heartbeats in Redis: a record each, and an index of the partition by the next beat, which the sweep reads.

use async_trait::async_trait;
use countersign_protocol::{Partition, TaskId, UserId};
use redis::from_redis_value;

use super::{
    RedisBackplane, keys::heartbeat_member, messages::unreadable, millis, record::seconds, retry::repeat,
    scripts::SCRIPTS,
};
use crate::{
    Result,
    heartbeats::{Heartbeat, Heartbeats},
};

#[async_trait]
impl Heartbeats for RedisBackplane {
    async fn start_heartbeat(&self, heartbeat: Heartbeat) -> Result<f64> {
        let Heartbeat { user, task, interval, ttl, message_head } = heartbeat;
        let partition = Partition::of(&user);
        let mut script = self.on_partition(&SCRIPTS.start_heartbeat, partition);
        script
            .key(self.keys.heartbeats(partition))
            .key(self.keys.heartbeat(&user, &task))
            .arg(heartbeat_member(&user, &task))
            .arg(user.as_str())
            .arg(millis(interval).max(1))
            .arg(millis(ttl).max(1))
            .arg(message_head);
        let answer = repeat(|| self.lanes.script(&script)).await?.value;
        Ok(seconds(from_redis_value(answer).map_err(unreadable)?))
    }

    async fn stop_heartbeat(&self, user: &UserId, task: &TaskId) -> Result<bool> {
        let partition = Partition::of(user);
        let mut script = self.on_partition(&SCRIPTS.stop_heartbeat, partition);
        script
            .key(self.keys.heartbeats(partition))
            .key(self.keys.heartbeat(user, task))
            .arg(heartbeat_member(user, task));
        let answer = repeat(|| self.lanes.script(&script)).await?.value;
        Ok(from_redis_value(answer).map_err(unreadable)?)
    }
}

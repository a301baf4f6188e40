//! "Still executing": started and stopped here, kept up by the cluster. A heartbeat is state of the backplane, sent by whichever
//! node's sweep comes first, so the node that was asked may die.

use countersign_backplane::heartbeats::Heartbeat as Kept;
use countersign_protocol::{TaskId, UserId, heartbeat::Heartbeat};

use crate::{error::GatewayError, node::Node};

impl Node {
    /// Starts a heartbeat, or replaces the one of the same task; when it ends, in Unix seconds.
    pub(crate) async fn start_heartbeat(&self, task: &TaskId, heartbeat: &Heartbeat) -> Result<f64, GatewayError> {
        let kept = Kept {
            user: heartbeat.user_id.clone(),
            task: task.clone(),
            interval: heartbeat.interval,
            ttl: heartbeat.ttl,
            message_head: heartbeat.message_head(task),
        };
        Ok(self.backplane.start_heartbeat(kept).await?)
    }

    /// Stops a heartbeat; whether there was one.
    pub(crate) async fn stop_heartbeat(&self, user: &UserId, task: &TaskId) -> Result<bool, GatewayError> {
        Ok(self.backplane.stop_heartbeat(user, task).await?)
    }
}

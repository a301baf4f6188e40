//! The gateway as a library: start it on an address of its own, or nest its router in another server. What it can do over
//! HTTP it can do in-process too.

use std::{net::SocketAddr, ops::Deref, sync::Arc, time::Duration};

use axum::Router;
use bytes::Bytes;
use countersign_protocol::{
    Address, Decision, FieldError, Notification, Payload, TaskId, TopicName, UserId, heartbeat::Heartbeat,
    notification::StepResult, producer::Published, receipt::Acknowledged,
};
use serde::Serialize;
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::{
    callbacks::Waited,
    config::Config,
    error::GatewayError,
    http,
    node::{Node, StartError},
    server,
    status::NodeStatus,
};

/// A gateway node without a listener of its own. Cloning shares it.
#[derive(Clone)]
pub struct Gateway {
    node: Arc<Node>,
}

/// A gateway node that listens.
pub struct Running {
    gateway: Gateway,
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("node", &self.node.config.node_id).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("gateway", &self.gateway)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Gateway {
    /// Starts a node that listens on the configured address (port 0 takes a free one). Redis may be away: the node is then
    /// not ready until it comes.
    ///
    /// # Errors
    /// A configuration that does not hold together, or an address that cannot be listened on.
    pub async fn start(config: Config) -> Result<Running, StartError> {
        let wanted = config.listen_address();
        let failed = |error| StartError::Listen { address: wanted, error };
        let listener = server::listen(wanted).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let gateway = Self::open(config).await?;
        let node = Arc::clone(&gateway.node);
        let accepting = node.shutdown.listening.spawn(server::serve(Arc::clone(&node), listener, gateway.router()));
        Ok(Running { gateway, address, accepting })
    }

    /// Starts a node without a listener; serve its [`Self::router`].
    ///
    /// # Errors
    /// A configuration that does not hold together.
    #[allow(clippy::unused_async, reason = "spawns tasks, so it must be called within a runtime; async says so")]
    pub async fn open(config: Config) -> Result<Self, StartError> {
        Ok(Self { node: Node::start(config)? })
    }

    /// Everything that the node serves, to be served as it is or nested in another router under a prefix.
    pub fn router(&self) -> Router {
        http::router(Arc::clone(&self.node))
    }

    /// Connections that the node holds.
    pub fn connection_count(&self) -> usize {
        self.node.hub.load().connections
    }

    /// The node as it is now.
    pub fn status(&self) -> NodeStatus {
        self.node.status()
    }

    /// Waits until the node hears itself through the backplane. Cancellation safe.
    pub async fn ready(&self) {
        let mut link = self.node.backplane.link();
        if link.wait_for(countersign_backplane::Link::is_up).await.is_err() {
            // The backplane has ended, and so has the node: it will never be ready.
            std::future::pending::<()>().await;
        }
    }

    /// Publishes to everybody. The message must become a JSON object.
    ///
    /// # Errors
    /// No object, too long, or the backplane does not answer.
    pub async fn broadcast<T: Serialize + Sync + ?Sized>(&self, message: &T) -> Result<Published, GatewayError> {
        self.publish(Address::Broadcast, message).await
    }

    /// Publishes to every connection of one user.
    ///
    /// # Errors
    /// As [`Self::broadcast`], and a user id that is none.
    pub async fn send_to_user<T: Serialize + Sync + ?Sized>(
        &self,
        user_id: &str,
        message: &T,
    ) -> Result<Published, GatewayError> {
        self.publish(Address::User(UserId::parse(user_id)?), message).await
    }

    /// Publishes to the subscribers of one topic.
    ///
    /// # Errors
    /// As [`Self::broadcast`], and a topic name that is none.
    pub async fn send_to_topic<T: Serialize + Sync + ?Sized>(
        &self,
        topic: &str,
        message: &T,
    ) -> Result<Published, GatewayError> {
        self.publish(Address::Topic(TopicName::parse(topic)?), message).await
    }

    /// Publishes to every connection of one user and waits until one of them acknowledges, at most `patience`. What has
    /// happened until then is no error, and can be read later under the message's id.
    ///
    /// # Errors
    /// As [`Self::send_to_user`], and a message that has a field `message_id` or `requires_ack`.
    pub async fn send_to_user_for_ack<T: Serialize + Sync + ?Sized>(
        &self,
        user_id: &str,
        message: &T,
        patience: Duration,
    ) -> Result<Acknowledged, GatewayError> {
        self.node.publish_for_ack(UserId::parse(user_id)?, payload(message)?, None, patience).await
    }

    /// Starts a heartbeat of a task, or replaces the one that it has; when it ends, in Unix seconds. The cluster keeps it up.
    ///
    /// # Errors
    /// A wrong id, or the backplane does not answer.
    pub async fn start_heartbeat(&self, task_id: &str, heartbeat: &Heartbeat) -> Result<f64, GatewayError> {
        self.node.start_heartbeat(&TaskId::parse(task_id)?, heartbeat).await
    }

    /// Stops the heartbeat of a task; whether there was one.
    ///
    /// # Errors
    /// A wrong id, or the backplane does not answer.
    pub async fn stop_heartbeat(&self, user_id: &str, task_id: &str) -> Result<bool, GatewayError> {
        self.node.stop_heartbeat(&UserId::parse(user_id)?, &TaskId::parse(task_id)?).await
    }

    async fn publish<T: Serialize + Sync + ?Sized>(
        &self,
        address: Address,
        message: &T,
    ) -> Result<Published, GatewayError> {
        self.node.publish(address, payload(message)?, None).await
    }

    /// Shows a step's result to a user and waits for the confirmation, at most until a second after the deadline
    /// (`WEBSOCKET_CALLBACK_TIMEOUT` from now). Dropping the future ends the wait, never the callback.
    ///
    /// # Errors
    /// A wrong id; too many open callbacks; or [`GatewayError::Unavailable`] when it is not known what was decided.
    pub async fn notify_user(
        &self,
        step_result: &StepResult,
        user_id: &str,
        task_id: &str,
        step: u64,
    ) -> Result<Decision, GatewayError> {
        self.ask(&Notification::new(step_result, user_id, task_id, step)?).await
    }

    /// As [`Self::notify_user`], for a notification with its own timeout, options or key.
    ///
    /// # Errors
    /// As [`Self::notify_user`].
    pub async fn ask(&self, notification: &Notification) -> Result<Decision, GatewayError> {
        let callback = self.node.ask(notification).await?.callback;
        match self.node.wait(callback.id, None, Some(&callback)).await {
            Waited::Decided(decision) => Ok(decision),
            Waited::NotFound => Err(GatewayError::NotFound),
            Waited::Pending { .. } | Waited::Unknown => {
                Err(GatewayError::Unavailable(format!("the answer to callback {} is not known yet", callback.id)))
            }
        }
    }

    /// Drains and ends the node, within `DRAIN_TIMEOUT`: not ready, then (after `DRAIN_DELAY`) held waits answered and
    /// connections told to come back, spread over two milliseconds for each, at most half of the time that is left.
    pub async fn stop(&self) {
        let end = Instant::now() + self.node.config.drain_timeout;
        let shutdown = &self.node.shutdown;
        tracing::info!(connections = self.connection_count(), "draining");
        shutdown.begin();
        tokio::time::sleep(self.node.config.drain_delay).await;
        shutdown.close().await;
        let left = end.saturating_duration_since(Instant::now());
        let connections = u32::try_from(self.connection_count()).unwrap_or(u32::MAX);
        let spread = COMES_BACK.saturating_mul(connections).min(left / 2);
        shutdown.drain(spread);
        self.node.hub.drain();
        let last_work = LAST_WORK.min(self.node.config.drain_timeout / 4);
        let serve_until = end.checked_sub(last_work).unwrap_or(end);
        if !shutdown.served(serve_until.saturating_duration_since(Instant::now())).await {
            tracing::warn!(
                limit = "DRAIN_TIMEOUT",
                connections = self.connection_count(),
                "drained not everything in time"
            );
            self.node.hub.close_all(countersign_protocol::close::DRAIN);
        }
        shutdown.stop();
        let own_tasks = async {
            shutdown.finished().await;
            self.node.backplane.stop().await;
        };
        // What they hold in Redis expires; one that waits for a backplane which does not answer is not waited for.
        if timeout(last_work, own_tasks).await.is_err() {
            tracing::warn!(
                limit = "DRAIN_TIMEOUT",
                "the backplane did not answer in time: not everything was given back"
            );
        }
        tracing::info!("stopped");
    }
}

/// A message as it is published.
fn payload<T: Serialize + ?Sized>(message: &T) -> Result<Payload, FieldError> {
    let bytes = serde_json::to_vec(message).map_err(|error| FieldError::new("message", "JSON", error.to_string()))?;
    Payload::parse_body(Bytes::from(bytes))
}

/// The part of `DRAIN_TIMEOUT` in which the node gives back what it holds in the backplane, such as the inbox: at most a
/// quarter of it.
const LAST_WORK: Duration = Duration::from_secs(1);

/// For each connection that has to come back elsewhere: 500 a second are no storm for the nodes that are left.
const COMES_BACK: Duration = Duration::from_millis(2);

impl Running {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Drains and ends the node; see [`Gateway::stop`].
    pub async fn stop(self) {
        self.gateway.stop().await;
        if let Err(error) = self.accepting.await {
            tracing::warn!(%error, "the listener ended badly");
        }
    }
}

impl Deref for Running {
    type Target = Gateway;

    fn deref(&self) -> &Gateway {
        &self.gateway
    }
}

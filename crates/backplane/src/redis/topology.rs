//! Where the Redis is that takes writes. Asked at every connect and reconnect, and nowhere else, so that a master that
//! moves is followed.

use std::time::Duration;

use deadpool_redis::{Manager, Pool, PoolError, Runtime};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, RedisResult,
    aio::{MultiplexedConnection, PubSub},
};
use tokio::time::timeout;

use super::options::place;

/// Where the Redis is.
#[derive(Debug)]
pub(super) enum Topology {
    /// One address for ever.
    Single(ConnectionInfo),
}

/// What a connection of commands waits for.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    pool: Pool,
}

impl Topology {
    pub(super) fn single(info: ConnectionInfo) -> Self {
        Self::Single(info)
    }

    /// For logs: without credentials.
    pub(super) fn place(&self) -> String {
        match self {
            Self::Single(info) => place(info),
        }
    }

    /// Whether connections are encrypted.
    pub(super) fn is_tls(&self) -> bool {
        match self {
            Self::Single(info) => matches!(info.addr(), ConnectionAddr::TcpTls { .. }),
        }
    }

    /// A new connection for subscriptions.
    pub(super) async fn subscriber(&self) -> RedisResult<PubSub> {
        let connect = async {
            let master = match self {
                Self::Single(info) => Client::open(info.clone())?,
            };
            master.get_async_pubsub().await
        };
        timeout(CONNECT_WITHIN, connect).await.unwrap_or_else(|_| Err(no_answer()))
    }

    /// From which commands' connections are taken.
    pub(super) fn connector(&self) -> RedisResult<Connector> {
        self.connector_answered_within(ANSWER_WITHIN)
    }

    /// From which the connections of commands that block for as long as `wait` are taken.
    pub(super) fn waiting_connector(&self, wait: Duration) -> RedisResult<Connector> {
        self.connector_answered_within(wait + ANSWER_WITHIN)
    }

    fn connector_answered_within(&self, limit: Duration) -> RedisResult<Connector> {
        let manager = match self {
            Self::Single(info) => Manager::new_with_config(info.clone(), command_config(limit))?,
        };
        let pool = Pool::builder(manager)
            .max_size(POOL_SIZE)
            .create_timeout(Some(CONNECT_WITHIN))
            .wait_timeout(Some(CONNECT_WITHIN))
            .recycle_timeout(Some(CONNECT_WITHIN))
            .runtime(Runtime::Tokio1)
            .build()
            .expect("the only error is timeouts without a runtime");
        Ok(Connector { pool })
    }
}

impl Connector {
    /// A new connection for commands. It leaves the pool for ever: it is shared, so the pool could not know when it is free.
    pub(super) async fn connection(&self) -> RedisResult<MultiplexedConnection> {
        match self.pool.get().await {
            Ok(connection) => Ok(deadpool_redis::Connection::take(connection)),
            Err(PoolError::Backend(error)) => Err(error),
            Err(_) => Err(no_answer()),
        }
    }
}

fn no_answer() -> redis::RedisError {
    std::io::Error::new(std::io::ErrorKind::TimedOut, "no connection in time").into()
}

fn command_config(answer_within: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_WITHIN))
        .set_response_timeout(Some(answer_within))
        // How many commands may wait to be written; beyond it callers wait, and their time runs.
        .set_pipeline_buffer_size(4096)
        .set_write_backpressure_boundary(256 * 1024)
}

/// A connection is made, encrypted and authenticated.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// A command is answered: well under every deadline, far above what a healthy Redis takes.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Connections being made at one time.
const POOL_SIZE: usize = 4;

//! Where the Redis is that takes writes. Asked at every connect and reconnect, and nowhere else, so that a master that
//! moves is followed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use deadpool_redis::{Manager, Pool, PoolError, Runtime};
use redis::{
    AsyncConnectionConfig, ConnectionAddr, ConnectionInfo, ErrorKind, RedisResult, aio::MultiplexedConnection,
};
use rustls::ClientConfig;
use tokio::sync::watch;

use super::{
    members::Members,
    options::place,
    pubsub::PubSub,
    sentinel::{Master, Sentinels},
    slots::{Address, slot_of},
};

/// Where the Redis is.
#[derive(Debug)]
pub(super) enum Topology {
    /// One address for ever.
    Single(Box<ConnectionInfo>),
    /// The master that sentinels watch over.
    Sentinel(Arc<Sentinels>),
    /// The masters of a cluster, each of which has some of the keys.
    Cluster(Arc<Members>),
}

/// What a connection of commands waits for.
#[derive(Debug, Clone)]
pub(super) enum Connector {
    One(Pool),
    /// Whoever is the master when the connection is made.
    Master {
        sentinels: Arc<Sentinels>,
        answer_within: Duration,
    },
    /// Whoever has the slot when the connection is made.
    Owner {
        members: Arc<Members>,
        slot: u16,
        answer_within: Duration,
    },
}

impl Topology {
    pub(super) fn single(info: ConnectionInfo) -> Self {
        Self::Single(Box::new(info))
    }

    /// For logs: without credentials.
    pub(super) fn place(&self) -> String {
        match self {
            Self::Single(info) => place(info),
            Self::Sentinel(sentinels) => sentinels.place(),
            Self::Cluster(members) => members.place(),
        }
    }

    /// Which database has the keys. A Redis Cluster has one.
    pub(super) fn database(&self) -> i64 {
        match self {
            Self::Single(info) => info.redis_settings().db(),
            Self::Sentinel(sentinels) => sentinels.database(),
            Self::Cluster(_) => 0,
        }
    }

    /// Whether connections are encrypted.
    pub(super) fn is_tls(&self) -> bool {
        match self {
            Self::Single(info) => matches!(info.addr(), ConnectionAddr::TcpTls { .. }),
            Self::Sentinel(sentinels) => sentinels.is_tls(),
            Self::Cluster(members) => members.is_tls(),
        }
    }

    /// A new connection for subscriptions.
    pub(super) async fn subscriber(&self, tls: Option<&Arc<ClientConfig>>) -> RedisResult<PubSub> {
        let subscriber_at = async |info: &ConnectionInfo| Ok(PubSub::connect(info, tls, CONNECT_WITHIN).await?);
        match self {
            Self::Single(info) => subscriber_at(info).await,
            Self::Sentinel(sentinels) => subscriber_at(&sentinels.info()?).await,
            // Publications come to every server, replicas included.
            Self::Cluster(members) => {
                let mut last = no_answer();
                for info in members.to_ask() {
                    match subscriber_at(&info).await {
                        Err(error) => last = error,
                        connection => return connection,
                    }
                }
                Err(last)
            }
        }
    }

    /// From which commands' connections are taken.
    pub(super) fn connector(&self) -> RedisResult<Connector> {
        self.connector_answered_within(ANSWER_WITHIN)
    }

    /// From which the connections of commands that block on `key` for as long as `wait` are taken.
    pub(super) fn waiting_connector(&self, wait: Duration, key: &str) -> RedisResult<Connector> {
        let answer_within = wait + ANSWER_WITHIN;
        match self {
            Self::Cluster(members) => {
                let slot = slot_of(key.as_bytes());
                Ok(Connector::Owner { members: Arc::clone(members), slot, answer_within })
            }
            Self::Single(_) | Self::Sentinel(_) => self.connector_answered_within(answer_within),
        }
    }

    /// The servers that take writes on one of the keys, by name, each with such a key.
    pub(super) fn writers<'a>(&self, keys: &'a [String]) -> BTreeMap<String, &'a str> {
        match self {
            Self::Single(_) => keys.first().map(|key| (self.place(), key.as_str())).into_iter().collect(),
            Self::Sentinel(sentinels) => {
                let name = sentinels.info().map_or_else(|_| self.place(), |info| place(&info));
                keys.first().map(|key| (name, key.as_str())).into_iter().collect()
            }
            Self::Cluster(members) => {
                let owners = Arc::clone(&members.owners().borrow());
                let owner = |key: &str| owners.of(slot_of(key.as_bytes())).map(ToString::to_string);
                keys.iter().filter_map(|key| Some((owner(key)?, key.as_str()))).collect()
            }
        }
    }

    /// What tells when subscriptions have to be made at another server.
    pub(super) fn whereabouts(&self) -> Whereabouts {
        Whereabouts(match self {
            Self::Sentinel(sentinels) => Some(sentinels.master()),
            Self::Single(_) | Self::Cluster(_) => None,
        })
    }

    fn connector_answered_within(&self, limit: Duration) -> RedisResult<Connector> {
        match self {
            Self::Single(info) => Ok(Connector::One(pool(info, limit)?)),
            Self::Sentinel(sentinels) => {
                Ok(Connector::Master { sentinels: Arc::clone(sentinels), answer_within: limit })
            }
            Self::Cluster(_) => Err((ErrorKind::InvalidClientConfig, "a connection to a cluster needs a key").into()),
        }
    }
}

impl Connector {
    /// A new connection for commands. It leaves the pool for ever: it is shared, so the pool could not know when it is free.
    pub(super) async fn connection(&self) -> RedisResult<MultiplexedConnection> {
        match self {
            Self::One(pool) => take(pool).await,
            Self::Master { sentinels, answer_within } => connection_to(&sentinels.info()?, *answer_within).await,
            Self::Owner { members, slot, answer_within } => {
                let owner = members.owners().borrow().of(*slot).map(|owner| members.info(owner));
                connection_to(&owner.ok_or_else(no_answer)?, *answer_within).await
            }
        }
    }

    /// What tells when connections would be made to another server than now.
    pub(super) fn whereabouts(&self) -> Whereabouts {
        Whereabouts(match self {
            Self::Master { sentinels, .. } => Some(sentinels.master()),
            Self::One(_) | Self::Owner { .. } => None,
        })
    }
}

/// Where connections go; see [`Connector::whereabouts`].
#[derive(Debug)]
pub(super) struct Whereabouts(Option<watch::Receiver<Result<Master, String>>>);

impl Whereabouts {
    /// Notes the server of now, before it is connected to.
    pub(super) fn note(&mut self) -> Option<Address> {
        let master = self.0.as_mut()?.borrow_and_update();
        master.as_ref().ok().map(|master| master.address.clone())
    }

    /// Waits until it is another one than `noted`. Cancellation safe.
    pub(super) async fn moved(&mut self, noted: Option<&Address>) {
        match &mut self.0 {
            // The sender lives as long as the topology, which its owner has.
            Some(master) => {
                let other = |master: &Result<Master, String>| {
                    master.as_ref().is_ok_and(|master| Some(&master.address) != noted)
                };
                if master.wait_for(other).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            None => std::future::pending().await,
        }
    }
}

/// A connection of one's own.
pub(super) async fn connection_to(
    info: &ConnectionInfo,
    answer_within: Duration,
) -> RedisResult<MultiplexedConnection> {
    take(&pool(info, answer_within)?).await
}

/// As `pattern`, at another address.
pub(super) fn at(pattern: &ConnectionInfo, address: &Address) -> ConnectionInfo {
    let (host, port) = (address.host.clone(), address.port);
    let addr = match pattern.addr() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => ConnectionAddr::Tcp(host, port),
    };
    pattern.clone().set_addr(addr)
}

fn pool(info: &ConnectionInfo, answer_within: Duration) -> RedisResult<Pool> {
    let manager = Manager::new_with_config(info.clone(), command_config(answer_within))?;
    let pool = Pool::builder(manager)
        .max_size(POOL_SIZE)
        .create_timeout(Some(CONNECT_WITHIN))
        .wait_timeout(Some(CONNECT_WITHIN))
        .recycle_timeout(Some(CONNECT_WITHIN))
        .runtime(Runtime::Tokio1)
        .build()
        .expect("the only error is timeouts without a runtime");
    Ok(pool)
}

async fn take(pool: &Pool) -> RedisResult<MultiplexedConnection> {
    match pool.get().await {
        Ok(connection) => Ok(deadpool_redis::Connection::take(connection)),
        Err(PoolError::Backend(error)) => Err(error),
        Err(_) => Err(no_answer()),
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

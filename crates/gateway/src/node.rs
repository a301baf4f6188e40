//! One gateway process: everything that its connections and requests share. Built whole; each part's work is in the file
//! of its noun.

use std::{sync::Arc, time::Instant};

use countersign_backplane::{
    Backplane, HistoryPolicy, Interest, Link, Listener, Settings,
    memory::Memory,
    redis::{self, OptionsError, RedisOptions},
};
use countersign_protocol::{Address, CallbackId, MessageId};
use secrecy::ExposeSecret;
use tokio::sync::{Notify, Semaphore};

use crate::{
    alarms::Alarms,
    auth::{Clients, Producers, host::OwnNames},
    callbacks, catch_up,
    clock::NodeClock,
    config::{Config, ConfigError},
    error::GatewayError,
    files,
    http_connections::HttpConnections,
    hub::Hub,
    inbox,
    leases::Leases,
    metrics::Metrics,
    presence::{self, HeldPlaces},
    relay::Relay,
    shutdown::Shutdown,
    status,
    user_connections::{self, Registry},
    waiters::Waiters,
    writers::Writers,
};

/// See the module.
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) clients: Clients,
    pub(crate) producers: Producers,
    pub(crate) names: OwnNames,
    pub(crate) backplane: Arc<dyn Backplane>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) waiters: Arc<Waiters<CallbackId>>,
    pub(crate) acks: Arc<Waiters<MessageId>>,
    pub(crate) presence: Arc<HeldPlaces>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Arc<NodeClock>,
    pub(crate) shutdown: Shutdown,
    pub(crate) alarms: Arc<Alarms>,
    /// Told when there are holes to be filled.
    pub(crate) holes: Arc<Notify>,
    /// A permit for each connection that may still come.
    pub(crate) places: Arc<Semaphore>,
    pub(crate) http_connections: Arc<HttpConnections>,
    /// A permit for each wait that a request may still hold.
    pub(crate) wait_permits: Arc<Semaphore>,
    pub(crate) started: Instant,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration does not hold together.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The Redis options are none.
    #[error(transparent)]
    Redis(#[from] OptionsError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address} (WEBSOCKET_HOST, WEBSOCKET_PORT): {error}")]
    Listen {
        /// Which.
        address: std::net::SocketAddr,
        /// Why not.
        error: std::io::Error,
    },
}

/// What a question has beyond the body that asked it: the gateway's own fields.
const QUESTION_BYTES: usize = 4096;

impl Node {
    /// Builds a node and starts its own tasks. Redis may be away: the node is then not ready until it comes.
    pub(crate) fn start(config: Config) -> Result<Arc<Self>, StartError> {
        config.validate()?;
        let node = config.node_id.clone();
        let options = (!config.redis_urls.is_empty()).then(|| RedisOptions {
            urls: config.redis_urls.iter().map(|url| url.expose_secret().to_owned()).collect(),
            wait_replicas: config.redis_wait_replicas,
            tls: redis::TlsFiles {
                ca: config.redis_tls_ca_file.clone(),
                certificate: config.redis_tls_cert_file.clone(),
                key: config.redis_tls_key_file.clone(),
            },
            node: node.clone(),
        });
        Self::start_on(config, |settings, interest, relay| match options {
            Some(options) => Ok(redis::connect(options, settings, &interest, &relay)?),
            None => Ok(Memory::new(settings).node(node, interest, relay)),
        })
    }

    /// The same on a backplane that `connect` makes.
    pub(crate) fn start_on(
        config: Config,
        connect: impl FnOnce(Settings, Arc<Interest>, Arc<dyn Listener>) -> Result<Arc<dyn Backplane>, StartError>,
    ) -> Result<Arc<Self>, StartError> {
        let interest = Interest::new();
        let hub = Hub::new(Arc::clone(&interest));
        let waiters = Waiters::new(Arc::clone(&interest));
        let acks = Waiters::new(Arc::clone(&interest));
        let registry = Registry::new(&interest, config.node_id.clone());
        let metrics = Arc::new(Metrics::new());
        let clock = Arc::new(NodeClock::new());
        let holes = Arc::new(Notify::new());
        let relay: Arc<dyn Listener> = Arc::new(Relay {
            hub: Arc::clone(&hub),
            waiters: Arc::clone(&waiters),
            acks: Arc::clone(&acks),
            registry: Arc::clone(&registry),
            metrics: Arc::clone(&metrics),
            clock: Arc::clone(&clock),
            writers: Writers::new(shards(&config)),
            longest: config.publish_max_bytes.saturating_add(QUESTION_BYTES),
            holes: Arc::clone(&holes),
        });
        let clients = Clients::new(&config);
        let settings = Settings {
            prefix: config.redis_prefix.clone(),
            guests: clients.is_open(),
            callback_retention: config.callback_retention,
            callback_user_limit: config.callback_user_limit,
            cancel_user_limit: config.callback_cancel_limit,
            ..Settings::default()
        };
        let http_connections = config.limit_http_connections.unwrap_or_else(|| files::http_connections(files::limit()));
        let backplane = connect(settings, interest, relay)?;
        let node = Arc::new(Self {
            producers: Producers::new(&config),
            names: OwnNames::new(&config),
            places: Arc::new(Semaphore::new(config.max_connections)),
            http_connections: HttpConnections::new(http_connections),
            wait_permits: Arc::new(Semaphore::new(if config.limit_waits == 0 {
                Semaphore::MAX_PERMITS
            } else {
                config.limit_waits
            })),
            clients,
            backplane,
            hub,
            waiters,
            acks,
            presence: Leases::new(),
            registry,
            metrics,
            clock,
            shutdown: Shutdown::default(),
            alarms: Alarms::new(),
            holes,
            started: Instant::now(),
            config,
        });
        let background = &node.shutdown.background;
        background.spawn(ring(Arc::clone(&node)));
        background.spawn(callbacks::sweep(Arc::clone(&node)));
        background.spawn(catch_up::catch_up(Arc::clone(&node)));
        background.spawn(status::announce(Arc::clone(&node)));
        background.spawn(inbox::read(Arc::clone(&node)));
        background.spawn(presence::keep(Arc::clone(&node)));
        background.spawn(user_connections::keep(Arc::clone(&node)));
        Ok(node)
    }

    /// Whether the node may be given work; with the reason when not.
    pub(crate) fn ready(&self) -> Result<(), String> {
        if self.shutdown.has_begun() {
            return Err("draining".to_owned());
        }
        match &*self.backplane.link().borrow() {
            Link::Up => Ok(()),
            Link::Down(reason) if self.config.redis_urls.is_empty() || reason.contains("Redis") => Err(reason.clone()),
            Link::Down(reason) => Err(format!("Redis: {reason}")),
        }
    }

    /// How much of an address's past is kept.
    pub(crate) fn history_of(&self, address: &Address) -> HistoryPolicy {
        HistoryPolicy { size: self.config.history.size_of(address), ttl: self.config.history_ttl }
    }
}

/// Rings connections' alarms until the node stops.
async fn ring(node: Arc<Node>) {
    node.alarms.ring(node.shutdown.stopped()).await;
}

/// Tasks that write one message to many connections.
fn shards(config: &Config) -> usize {
    match config.shards {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        shards => shards,
    }
}

/// 128 random bits, for an id that nobody can guess.
///
/// # Errors
/// When the system gives none.
pub(crate) fn random() -> Result<u128, GatewayError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| GatewayError::Unavailable(error.to_string()))?;
    Ok(u128::from_ne_bytes(bytes))
}

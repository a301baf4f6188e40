//! The configuration: read once at start, validated as a whole, then handed around as one plain struct. All variables
//! stand in [`TABLE`]; the environment is handed in, so reading it is a pure function but for the files of secrets.
//! A wrong value never starts a node, and a secret is never printed.
//!
//! A tour: [`table`](TABLE) has the variables, `given` reads them, `values` and `origins` are the types that are more
//! than a number, `check` says what has to hold between them, `describe` prints them, `error` is what can go wrong.

mod check;
mod describe;
mod error;
mod given;
mod origins;
mod table;
#[cfg(test)]
mod tests;
mod values;

use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use countersign_protocol::NodeId;
pub use countersign_protocol::OnTimeout;
pub use describe::Setting;
pub use error::{ConfigError, Problem, Warning};
use given::Given;
pub use origins::{AllowedOrigins, Origin, OriginPattern, host_name};
use secrecy::{ExposeSecret, SecretString};
pub use table::{Accepts, TABLE, Variable, help_table};
pub use values::{HistoryOverrides, HistorySizes, LogFormat, OneMore, SlowConsumer, UserConnections};

/// Everything that can be decided about a node. `Config::default()` is what an empty environment gives; the variable
/// of each field is named in its documentation, and [`TABLE`] explains it.
#[derive(Debug, Clone)]
pub struct Config {
    /// `WEBSOCKET_HOST`.
    pub host: IpAddr,
    /// `WEBSOCKET_PORT`; 0 takes a free one.
    pub port: u16,
    /// `WEBSOCKET_MAX_CONNECTIONS`: WebSocket and SSE together.
    pub max_connections: usize,
    /// `WEBSOCKET_PING_INTERVAL`.
    pub ping_interval: Duration,
    /// `WEBSOCKET_PING_TIMEOUT`.
    pub ping_timeout: Duration,
    /// `WEBSOCKET_CALLBACK_TIMEOUT`: when the producer names none.
    pub callback_timeout: Duration,
    /// `WEBSOCKET_CALLBACK_ON_TIMEOUT`: when the producer names none.
    pub callback_on_timeout: OnTimeout,
    /// `WEBSOCKET_MAX_MESSAGE_BYTES`: client to gateway.
    pub max_message_bytes: usize,
    /// `PUBLISH_MAX_BYTES`: every door of producers.
    pub publish_max_bytes: usize,
    /// `WEBSOCKET_OUTBOX_BYTES`; the largest single message always fits.
    pub outbox_bytes: usize,
    /// `WEBSOCKET_OUTBOX_FRAMES`.
    pub outbox_frames: usize,
    /// `WEBSOCKET_SLOW_CONSUMER`.
    pub slow_consumer: SlowConsumer,
    /// `WEBSOCKET_SHARDS`: tasks that write one message to many connections; 0 is one for each core.
    pub shards: usize,
    /// `WEBSOCKET_COMPRESSION`.
    pub compression: bool,
    /// `WEBSOCKET_ALLOWED_ORIGINS`.
    pub allowed_origins: AllowedOrigins,
    /// `WEBSOCKET_USER_CONNECTIONS`.
    pub user_connections: UserConnections,
    /// `WEBSOCKET_TOPICS`: most subscriptions of one connection.
    pub topics: usize,
    /// `REDIS_URL`; none is the embedded backplane, several are a cluster.
    pub redis_urls: Vec<SecretString>,
    /// `REDIS_PREFIX`.
    pub redis_prefix: String,
    /// `REDIS_WAIT_REPLICAS`.
    pub redis_wait_replicas: u32,
    /// `REDIS_TLS_CA_FILE`; without it the public authorities are trusted.
    pub redis_tls_ca_file: Option<PathBuf>,
    /// `REDIS_TLS_CERT_FILE`.
    pub redis_tls_cert_file: Option<PathBuf>,
    /// `REDIS_TLS_KEY_FILE`.
    pub redis_tls_key_file: Option<PathBuf>,
    /// `HISTORY_SIZE` and `HISTORY_OVERRIDES`.
    pub history: HistorySizes,
    /// `HISTORY_TTL`.
    pub history_ttl: Duration,
    /// `CALLBACK_RETENTION`.
    pub callback_retention: Duration,
    /// `CALLBACK_MAX_TIMEOUT`.
    pub callback_max_timeout: Duration,
    /// `CALLBACK_USER_LIMIT`: most open callbacks of one user.
    pub callback_user_limit: u64,
    /// `CALLBACK_CANCEL_LIMIT`: most tasks that a user may have cancelled without closing a callback.
    pub callback_cancel_limit: u64,
    /// `PRESENCE_TTL`; 0 counts nobody.
    pub presence_ttl: Duration,
    /// `AUTH_JWT_SECRET`: closes the clients door.
    pub jwt_secret: Option<SecretString>,
    /// `AUTH_JWT_AUDIENCE`: the `aud` that every token must have.
    pub jwt_audience: Option<String>,
    /// `AUTH_API_KEYS`: close the producers door.
    pub api_keys: Vec<SecretString>,
    /// `AUTH_INSECURE`: a door without credentials may be open on any address.
    pub insecure: bool,
    /// `METRICS_KEY`.
    pub metrics_key: Option<SecretString>,
    /// `LIMIT_HTTP_CONNECTIONS`: HTTP connections at once; 0 is no limit, `None` a quarter of the files that may be open.
    pub limit_http_connections: Option<usize>,
    /// `LIMIT_WAITS`: waits that requests hold at once; 0 is no limit.
    pub limit_waits: usize,
    /// `DRAIN_DELAY`: part of [`Self::drain_timeout`].
    pub drain_delay: Duration,
    /// `DRAIN_TIMEOUT`.
    pub drain_timeout: Duration,
    /// `LOG_FORMAT`; `None` is JSON, on a terminal pretty.
    pub log_format: Option<LogFormat>,
    /// `RUST_LOG`.
    pub log_filter: String,
    /// `NODE_ID`; by default eight random hex digits.
    pub node_id: NodeId,
}

impl Config {
    /// Reads and validates an environment, such as [`std::env::vars_os`]. The only IO is reading the `…_FILE`s of secrets.
    ///
    /// # Errors
    /// Everything that is wrong, at once; the process should print it and exit with [`ConfigError::EXIT_CODE`].
    pub fn from_env(
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(Self, Vec<Warning>), ConfigError> {
        let given::Reading { given, mut problems, mut warnings } = given::read(environment);
        let config = Self::from(given);
        // A wrong value has been replaced by its default; what does not go together with that is no news.
        let wrong: Vec<&str> = problems.iter().flat_map(|problem| &problem.variables).copied().collect();
        problems.extend(
            check::problems(&config)
                .into_iter()
                .filter(|problem| !problem.variables.iter().any(|variable| wrong.contains(variable))),
        );
        ConfigError::unless_empty(problems)?;
        warnings.extend(check::warnings(&config));
        Ok((config, warnings))
    }

    /// Checks what has to hold between the values. [`Self::from_env`] has done so; call it after filling the struct by hand.
    ///
    /// # Errors
    /// Everything that does not hold, at once.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::unless_empty(check::problems(self))
    }

    /// Which doors have no credentials, in words.
    pub fn open_doors(&self) -> &'static str {
        match (self.jwt_secret.is_none(), self.api_keys.is_empty()) {
            (true, true) => "clients and producers",
            (true, false) => "clients",
            (false, true) => "producers",
            (false, false) => "none",
        }
    }

    /// Where to listen.
    pub fn listen_address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port)
    }
}

/// What an empty environment gives: loopback, the embedded backplane, both doors open.
impl Default for Config {
    fn default() -> Self {
        Given::nothing().into()
    }
}

impl From<Given> for Config {
    fn from(given: Given) -> Self {
        Self {
            host: given.websocket_host.0,
            port: given.websocket_port,
            max_connections: given.websocket_max_connections,
            ping_interval: given.websocket_ping_interval.0,
            ping_timeout: given.websocket_ping_timeout.0,
            callback_timeout: given.websocket_callback_timeout.0,
            callback_on_timeout: given.websocket_callback_on_timeout,
            max_message_bytes: given.websocket_max_message_bytes,
            publish_max_bytes: given.publish_max_bytes,
            outbox_bytes: given.websocket_outbox_bytes,
            outbox_frames: given.websocket_outbox_frames,
            slow_consumer: given.websocket_slow_consumer,
            shards: given.websocket_shards,
            compression: given.websocket_compression.0,
            allowed_origins: given.websocket_allowed_origins,
            user_connections: given.websocket_user_connections,
            topics: given.websocket_topics,
            redis_urls: given.redis_url.as_ref().map(split_urls).unwrap_or_default(),
            redis_prefix: given.redis_prefix.0,
            redis_wait_replicas: given.redis_wait_replicas,
            redis_tls_ca_file: given.redis_tls_ca_file,
            redis_tls_cert_file: given.redis_tls_cert_file,
            redis_tls_key_file: given.redis_tls_key_file,
            history: HistorySizes { default: given.history_size, overrides: given.history_overrides },
            history_ttl: given.history_ttl.0,
            callback_retention: given.callback_retention.0,
            callback_max_timeout: given.callback_max_timeout.0,
            callback_user_limit: given.callback_user_limit,
            callback_cancel_limit: given.callback_cancel_limit,
            presence_ttl: given.presence_ttl.0,
            jwt_secret: given.auth_jwt_secret,
            jwt_audience: given.auth_jwt_audience,
            api_keys: given.auth_api_keys.as_ref().map(split_keys).unwrap_or_default(),
            insecure: given.auth_insecure.0,
            metrics_key: given.metrics_key,
            limit_http_connections: given.limit_http_connections,
            limit_waits: given.limit_waits,
            drain_delay: given.drain_delay.0,
            drain_timeout: given.drain_timeout.0,
            log_format: given.log_format,
            log_filter: given.rust_log.0,
            node_id: given.node_id.unwrap_or_else(random_node_id),
        }
    }
}

/// Splits before every text that has a scheme of its own: the hosts of one Sentinel URL are separated by commas too.
fn split_urls(urls: &SecretString) -> Vec<SecretString> {
    let mut split: Vec<String> = Vec::new();
    for part in urls.expose_secret().split(',').map(str::trim) {
        match split.last_mut() {
            Some(url) if !part.contains("://") => {
                url.push(',');
                url.push_str(part);
            }
            _ => split.push(part.to_owned()),
        }
    }
    split.into_iter().map(SecretString::from).collect()
}

/// Keys stand one a line or between commas; blanks around them do not count.
fn split_keys(keys: &SecretString) -> Vec<SecretString> {
    let keys = keys.expose_secret().split([',', '\n']).map(str::trim).filter(|key| !key.is_empty());
    keys.map(SecretString::from).collect()
}

fn random_node_id() -> NodeId {
    let random = uuid::Uuid::new_v4().as_fields().0;
    NodeId::parse(&format!("{random:08x}")).expect("eight hex digits are a name")
}

//! Prints a configuration as it would stand in the environment, secrets masked.

use std::{path::Path, time::Duration};

use super::{Config, TABLE, Variable};
use crate::logging::one_line;

/// One variable with the value that a configuration has for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The variable's name.
    pub name: &'static str,
    /// The value as it would be given, or `[set]` / `[not set]` for a secret. Empty when there is none.
    pub value: String,
    /// Whether it is what the table says for an absent variable.
    pub is_default: bool,
}

impl Config {
    /// The value of every variable, in the table's order; secrets masked.
    pub fn settings(&self) -> Vec<Setting> {
        TABLE.iter().map(|variable| self.setting(variable)).collect()
    }

    /// All values, one a line, for the start of a node: name, value, and whether it is the default.
    pub fn describe(&self) -> String {
        let lines = self.settings().into_iter().map(|Setting { name, value, is_default }| {
            let origin = if is_default { "default" } else { "given" };
            format!("{name}={} ({origin})", one_line(&value))
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Writes all values to the log, for somebody who looks for a cause there.
    pub fn log(&self) {
        for Setting { name, value, is_default } in self.settings() {
            tracing::debug!(name, value, default = is_default, "setting");
        }
    }

    fn setting(&self, variable: &Variable) -> Setting {
        let path = |path: Option<&Path>| path.map(|path| path.display().to_string()).unwrap_or_default();
        let set = |given: bool| if given { "[set]" } else { "[not set]" }.to_owned();
        let value = match variable.name {
            "WEBSOCKET_HOST" => self.host.to_string(),
            "WEBSOCKET_PORT" => self.port.to_string(),
            "WEBSOCKET_MAX_CONNECTIONS" => self.max_connections.to_string(),
            "WEBSOCKET_PING_INTERVAL" => seconds(self.ping_interval),
            "WEBSOCKET_PING_TIMEOUT" => seconds(self.ping_timeout),
            "WEBSOCKET_CALLBACK_TIMEOUT" => seconds(self.callback_timeout),
            "WEBSOCKET_CALLBACK_ON_TIMEOUT" => self.callback_on_timeout.as_str().to_owned(),
            "WEBSOCKET_MAX_MESSAGE_BYTES" => self.max_message_bytes.to_string(),
            "PUBLISH_MAX_BYTES" => self.publish_max_bytes.to_string(),
            "WEBSOCKET_OUTBOX_BYTES" => self.outbox_bytes.to_string(),
            "WEBSOCKET_OUTBOX_FRAMES" => self.outbox_frames.to_string(),
            "WEBSOCKET_SLOW_CONSUMER" => self.slow_consumer.to_string(),
            "WEBSOCKET_SHARDS" => self.shards.to_string(),
            "WEBSOCKET_COMPRESSION" => if self.compression { "on" } else { "off" }.to_owned(),
            "WEBSOCKET_ALLOWED_ORIGINS" => self.allowed_origins.to_string(),
            "WEBSOCKET_USER_CONNECTIONS" => self.user_connections.to_string(),
            "WEBSOCKET_TOPICS" => self.topics.to_string(),
            "REDIS_URL" => set(!self.redis_urls.is_empty()),
            "REDIS_PREFIX" => self.redis_prefix.clone(),
            "REDIS_WAIT_REPLICAS" => self.redis_wait_replicas.to_string(),
            "REDIS_TLS_CA_FILE" => path(self.redis_tls_ca_file.as_deref()),
            "REDIS_TLS_CERT_FILE" => path(self.redis_tls_cert_file.as_deref()),
            "REDIS_TLS_KEY_FILE" => path(self.redis_tls_key_file.as_deref()),
            "HISTORY_SIZE" => self.history.default.to_string(),
            "HISTORY_TTL" => seconds(self.history_ttl),
            "HISTORY_OVERRIDES" => self.history.overrides.to_string(),
            "CALLBACK_RETENTION" => seconds(self.callback_retention),
            "CALLBACK_MAX_TIMEOUT" => seconds(self.callback_max_timeout),
            "CALLBACK_USER_LIMIT" => self.callback_user_limit.to_string(),
            "CALLBACK_CANCEL_LIMIT" => self.callback_cancel_limit.to_string(),
            "PRESENCE_TTL" => seconds(self.presence_ttl),
            "AUTH_JWT_SECRET" => set(self.jwt_secret.is_some()),
            "AUTH_JWT_AUDIENCE" => self.jwt_audience.clone().unwrap_or_default(),
            "AUTH_API_KEYS" => set(!self.api_keys.is_empty()),
            "AUTH_INSECURE" => self.insecure.to_string(),
            "METRICS_KEY" => set(self.metrics_key.is_some()),
            "LIMIT_HTTP_CONNECTIONS" => self.limit_http_connections.map(|limit| limit.to_string()).unwrap_or_default(),
            "LIMIT_WAITS" => self.limit_waits.to_string(),
            "DRAIN_DELAY" => seconds(self.drain_delay),
            "DRAIN_TIMEOUT" => seconds(self.drain_timeout),
            "LOG_FORMAT" => self.log_format.map(|format| format.to_string()).unwrap_or_default(),
            "RUST_LOG" => self.log_filter.clone(),
            "NODE_ID" => self.node_id.to_string(),
            // What this version does not support cannot have been given.
            _ if variable.secret => set(false),
            _ => String::new(),
        };
        let default = if variable.secret { "[not set]" } else { variable.default };
        Setting { name: variable.name, is_default: value == default, value }
    }
}

fn seconds(time: Duration) -> String {
    time.as_secs_f64().to_string()
}

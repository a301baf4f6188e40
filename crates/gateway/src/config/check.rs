//! What has to hold between values: times that contain each other, credentials that are worth the name, and the rule
//! of the two doors. A door without credentials is open; that is allowed on loopback, or when the operator says so.

use std::collections::BTreeSet;

use secrecy::{ExposeSecret, SecretString};

use crate::presence::SHORTEST_TTL;

use super::{
    Config,
    error::{Problem, Warning},
    given::is_loopback,
};

/// HS256 is as strong as its key, and RFC 7518 §3.2 asks for 256 bits.
const SHORTEST_JWT_SECRET: usize = 32;
/// A key is guessed over the network only; 16 random characters are out of reach.
const SHORTEST_API_KEY: usize = 16;
const REDIS_SCHEMES: [&str; 4] = ["redis://", "rediss://", "redis+sentinel://", "rediss+sentinel://"];

/// What the two doors are called, and what closes each.
const DOORS: [(&str, &str); 2] = [("clients", "AUTH_JWT_SECRET"), ("producers", "AUTH_API_KEYS")];

pub(super) fn problems(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    times(config, &mut problems);
    credentials(config, &mut problems);
    redis(config, &mut problems);
    for (door, credentials) in open_doors(config) {
        if !is_loopback(config.host) && !config.insecure {
            let host = config.host;
            problems.push(Problem::new(
                &[credentials, "WEBSOCKET_HOST", "AUTH_INSECURE"],
                format!(
                    "the {door} door has no credentials, and WEBSOCKET_HOST={host} is not loopback; set {credentials}, or \
                     WEBSOCKET_HOST=127.0.0.1, or AUTH_INSECURE=true to open the door to everybody who reaches {host}"
                ),
            ));
        }
    }
    problems
}

pub(super) fn warnings(config: &Config) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if !is_loopback(config.host) && config.insecure {
        warnings.extend(open_doors(config).map(|(door, credentials)| Warning::Open {
            door,
            host: config.host,
            credentials,
        }));
    }
    if config.redis_wait_replicas > 0 && config.redis_urls.is_empty() {
        let why = "without REDIS_URL there are no replicas";
        warnings.push(Warning::NoEffect { variable: "REDIS_WAIT_REPLICAS", why });
    }
    if config.jwt_audience.is_some() && config.jwt_secret.is_none() {
        let why = "without AUTH_JWT_SECRET no token is read";
        warnings.push(Warning::NoEffect { variable: "AUTH_JWT_AUDIENCE", why });
    }
    warnings
}

fn open_doors(config: &Config) -> impl Iterator<Item = (&'static str, &'static str)> {
    let open = [config.jwt_secret.is_none(), config.api_keys.is_empty()];
    DOORS.into_iter().zip(open).filter_map(|(door, open)| open.then_some(door))
}

fn times(config: &Config, problems: &mut Vec<Problem>) {
    // The environment's bounds exclude zero; a library user's struct does not.
    for (variable, time) in [
        ("WEBSOCKET_PING_INTERVAL", config.ping_interval),
        ("WEBSOCKET_PING_TIMEOUT", config.ping_timeout),
        ("WEBSOCKET_CALLBACK_TIMEOUT", config.callback_timeout),
        ("DRAIN_TIMEOUT", config.drain_timeout),
    ] {
        if time.is_zero() {
            problems.push(Problem::new(&[variable], "0 is not accepted; accepted: more than 0 seconds"));
        }
    }
    if config.callback_timeout > config.callback_max_timeout {
        problems.push(Problem::new(
            &["WEBSOCKET_CALLBACK_TIMEOUT", "CALLBACK_MAX_TIMEOUT"],
            format!(
                "{} s is longer than CALLBACK_MAX_TIMEOUT ({} s); shorten the one or lengthen the other",
                config.callback_timeout.as_secs_f64(),
                config.callback_max_timeout.as_secs_f64()
            ),
        ));
    }
    if !config.presence_ttl.is_zero() && config.presence_ttl < SHORTEST_TTL {
        let given = config.presence_ttl.as_secs_f64();
        let accepted = SHORTEST_TTL.as_secs_f64();
        problems.push(Problem::new(
            &["PRESENCE_TTL"],
            format!("{given} s is too short for nodes to renew in time; accepted: 0 (off), or at least {accepted} s"),
        ));
    }
    if config.presence_ttl.is_zero() && config.user_connections.limit > 0 {
        problems.push(Problem::new(
            &["WEBSOCKET_USER_CONNECTIONS", "PRESENCE_TTL"],
            "with PRESENCE_TTL=0 nobody counts a user's connections; set PRESENCE_TTL, or WEBSOCKET_USER_CONNECTIONS=0",
        ));
    }
    if config.drain_delay >= config.drain_timeout {
        problems.push(Problem::new(
            &["DRAIN_DELAY", "DRAIN_TIMEOUT"],
            format!(
                "{} s leaves nothing of DRAIN_TIMEOUT ({} s), which includes it; shorten the one or lengthen the other",
                config.drain_delay.as_secs_f64(),
                config.drain_timeout.as_secs_f64()
            ),
        ));
    }
}

fn credentials(config: &Config, problems: &mut Vec<Problem>) {
    if let Some(secret) = &config.jwt_secret {
        let length = secret.expose_secret().len();
        if length < SHORTEST_JWT_SECRET {
            problems.push(Problem::new(
                &["AUTH_JWT_SECRET"],
                format!("has {length} bytes; accepted: at least {SHORTEST_JWT_SECRET}, such as the output of: openssl rand -hex 32"),
            ));
        }
    }
    let count = config.api_keys.len();
    for (at, key) in config.api_keys.iter().enumerate() {
        let (length, number) = (key.expose_secret().len(), at + 1);
        if length < SHORTEST_API_KEY {
            problems.push(Problem::new(
                &["AUTH_API_KEYS"],
                format!(
                    "key {number} of {count} has {length} bytes; accepted: at least {SHORTEST_API_KEY}, such as the output of: \
                     openssl rand -hex 32"
                ),
            ));
        }
        if !is_visible(key) {
            problems.push(Problem::new(
                &["AUTH_API_KEYS"],
                format!(
                    "key {number} of {count} has characters that no HTTP header can carry; accepted: visible ASCII"
                ),
            ));
        }
    }
    if config.metrics_key.as_ref().is_some_and(|key| !is_visible(key)) {
        problems.push(Problem::new(
            &["METRICS_KEY"],
            "has characters that no HTTP header can carry; accepted: visible ASCII",
        ));
    }
}

fn is_visible(key: &SecretString) -> bool {
    let key = key.expose_secret();
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic())
}

fn redis(config: &Config, problems: &mut Vec<Problem>) {
    let count = config.redis_urls.len();
    let mut schemes = BTreeSet::new();
    for (at, url) in config.redis_urls.iter().enumerate() {
        match REDIS_SCHEMES.iter().find(|scheme| url.expose_secret().starts_with(**scheme)) {
            Some(scheme) if scheme.contains("sentinel") && count > 1 && at == 0 => problems.push(Problem::new(
                &["REDIS_URL"],
                "a Sentinel URL is the only one; separate the sentinels in it by commas: redis+sentinel://s1:26379,s2:26379/<master>",
            )),
            Some(scheme) => {
                schemes.insert(scheme);
                if let Err(error) = countersign_backplane::redis::check_url(url.expose_secret()) {
                    problems.push(Problem::new(
                        &["REDIS_URL"],
                        format!("URL {} of {count}: expected {}, got {}", at + 1, error.expected, error.got),
                    ));
                }
            }
            None => problems.push(Problem::new(
                &["REDIS_URL"],
                format!(
                    "URL {} of {count} has another scheme (not shown); accepted: {}",
                    at + 1,
                    REDIS_SCHEMES.join(" or ")
                ),
            )),
        }
    }
    if schemes.len() > 1 {
        problems.push(Problem::new(&["REDIS_URL"], "several URLs are the nodes of one cluster and have one scheme"));
    }
}

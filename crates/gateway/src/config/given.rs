//! What the environment gave: texts by name, secrets from their files, then one flat struct read by `envy`.
//! Every variable is tried alone first, so that all wrong ones are known by name; the values of secrets never
//! leave this file but inside a [`SecretString`].

use std::{
    collections::BTreeMap, ffi::OsString, fs::File, io::Read, net::IpAddr, path::PathBuf, str::FromStr, time::Duration,
};

use countersign_protocol::{NodeId, OnTimeout};
use secrecy::SecretString;
use serde::Deserialize;

use super::{
    error::{Problem, Warning},
    origins::AllowedOrigins,
    table::{self, TABLE, Variable},
    values::{HistoryOverrides, Host, LogFormat, SlowConsumer, Switch, UserConnections, from_text},
};

/// One field a variable, called as the variable is but in lower case. Flat, because `envy` cannot read
/// numbers through `#[serde(flatten)]`; bounds are the table's, so plain numbers do.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Given {
    #[serde(deserialize_with = "from_text")]
    pub(super) websocket_host: Host,
    pub(super) websocket_port: u16,
    pub(super) websocket_max_connections: usize,
    #[serde(deserialize_with = "from_text")]
    pub(super) websocket_ping_interval: Seconds,
    #[serde(deserialize_with = "from_text")]
    pub(super) websocket_ping_timeout: Seconds,
    #[serde(deserialize_with = "from_text")]
    pub(super) websocket_callback_timeout: Seconds,
    pub(super) websocket_callback_on_timeout: OnTimeout,
    pub(super) websocket_max_message_bytes: usize,
    pub(super) publish_max_bytes: usize,
    pub(super) websocket_outbox_bytes: usize,
    pub(super) websocket_outbox_frames: usize,
    pub(super) websocket_slow_consumer: SlowConsumer,
    pub(super) websocket_shards: usize,
    #[serde(deserialize_with = "from_text")]
    pub(super) websocket_compression: Switch,
    #[serde(deserialize_with = "from_text")]
    pub(super) websocket_allowed_origins: AllowedOrigins,
    #[serde(deserialize_with = "from_text")]
    pub(super) websocket_user_connections: UserConnections,
    pub(super) websocket_topics: usize,
    pub(super) redis_url: Option<SecretString>,
    #[serde(deserialize_with = "from_text")]
    pub(super) redis_prefix: Prefix,
    pub(super) redis_wait_replicas: u32,
    pub(super) redis_tls_ca_file: Option<PathBuf>,
    pub(super) redis_tls_cert_file: Option<PathBuf>,
    pub(super) redis_tls_key_file: Option<PathBuf>,
    pub(super) history_size: usize,
    #[serde(deserialize_with = "from_text")]
    pub(super) history_ttl: Seconds,
    #[serde(default, deserialize_with = "from_text")]
    pub(super) history_overrides: HistoryOverrides,
    #[serde(deserialize_with = "from_text")]
    pub(super) callback_retention: Seconds,
    #[serde(deserialize_with = "from_text")]
    pub(super) callback_max_timeout: Seconds,
    pub(super) callback_user_limit: u64,
    pub(super) callback_cancel_limit: u64,
    #[serde(deserialize_with = "from_text")]
    pub(super) presence_ttl: Seconds,
    pub(super) auth_jwt_secret: Option<SecretString>,
    pub(super) auth_jwt_audience: Option<String>,
    pub(super) auth_api_keys: Option<SecretString>,
    #[serde(deserialize_with = "from_text")]
    pub(super) auth_insecure: Switch,
    pub(super) metrics_key: Option<SecretString>,
    pub(super) limit_http_connections: Option<usize>,
    pub(super) limit_waits: usize,
    #[serde(deserialize_with = "from_text")]
    pub(super) drain_delay: Seconds,
    #[serde(deserialize_with = "from_text")]
    pub(super) drain_timeout: Seconds,
    pub(super) log_format: Option<LogFormat>,
    #[serde(deserialize_with = "from_text")]
    pub(super) rust_log: Filter,
    pub(super) node_id: Option<NodeId>,
}

impl Given {
    /// What an empty environment gives.
    pub(super) fn nothing() -> Self {
        parse(&BTreeMap::new()).expect("every default of the table is accepted, which a test proves")
    }
}

/// What was read, and what was wrong or odd about it.
#[derive(Debug)]
pub(super) struct Reading {
    /// Every wrong value is replaced by its default here.
    pub(super) given: Given,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Warning>,
}

/// Reads the variables of the table out of an environment, and nothing else.
pub(super) fn read(environment: impl IntoIterator<Item = (OsString, OsString)>) -> Reading {
    let mut problems = Vec::new();
    let mut warnings = Vec::new();
    let mut texts = BTreeMap::new();
    let mut files = BTreeMap::new();

    // Sorted and without repeats, so that the same environment is always told in the same order.
    let environment: BTreeMap<OsString, OsString> = environment.into_iter().collect();
    for (name, value) in &environment {
        let name = name.to_string_lossy();
        let (variable, found) = match (table::find(&name), table::find_file(&name)) {
            (Some(variable), _) => (variable, &mut texts),
            (None, Some(variable)) => (variable, &mut files),
            (None, None) => {
                if table::looks_like_ours(&name) {
                    warnings.push(Warning::Unknown { nearest: table::nearest(&name), name: name.into_owned() });
                }
                continue;
            }
        };
        match value.to_str().map(str::trim) {
            None => problems
                .push(Problem::new(&[variable.name], format!("{name} is not UTF-8; accepted: {}", variable.accepts))),
            Some("") => {}
            Some(text) => drop(found.insert(variable.name, text.to_owned())),
        }
    }
    for (name, path) in files {
        if texts.contains_key(name) {
            problems
                .push(Problem::new(&[name], format!("given twice, as {name} and as {name}_FILE; keep one of them")));
            continue;
        }
        match read_secret(&path) {
            Ok(secret) => drop(texts.insert(name, secret)),
            Err(why) => problems.push(Problem::new(
                &[name],
                format!("{name}_FILE names {path:?}, {why}; name a readable file that holds nothing but the secret"),
            )),
        }
    }
    for variable in TABLE {
        let Some(text) = texts.get(variable.name) else { continue };
        if let Some(flaw) = flaw(variable, text) {
            problems.push(Problem::new(&[variable.name], flaw));
            texts.remove(variable.name);
        } else if !accepted(variable, text) {
            problems.push(Problem::not_accepted(variable, text));
            texts.remove(variable.name);
        }
    }
    let given = parse(&texts).expect("every variable was accepted alone, and none depends on another");
    Reading { given, problems, warnings }
}

fn accepted(variable: &Variable, text: &str) -> bool {
    variable.accepts.admits(text) && parse(&BTreeMap::from([(variable.name, text.to_owned())])).is_ok()
}

/// Reads the struct from the defaults with these texts in place of theirs. The error of `envy` is worth nothing: it
/// may hold a secret and may name no variable.
fn parse(texts: &BTreeMap<&'static str, String>) -> Result<Given, ()> {
    let all = TABLE.iter().filter_map(|Variable { name, default, .. }| {
        let text = texts.get(name).map_or(*default, String::as_str);
        (!text.is_empty()).then(|| ((*name).to_owned(), text.to_owned()))
    });
    envy::from_iter(all).map_err(drop)
}

/// What a secret has that comes from its shell, its file or its editor, and that nobody wants in it.
fn flaw(variable: &Variable, text: &str) -> Option<&'static str> {
    if !variable.secret {
        return None;
    }
    let is_quoted = |text: &str| {
        text.len() > 1 && ['"', '\''].into_iter().any(|quote| text.starts_with(quote) && text.ends_with(quote))
    };
    if text.starts_with('\u{feff}') {
        Some("begins with a byte order mark, which would be a part of it; save it as UTF-8 without one")
    } else if is_quoted(text) || text.split([',', '\n']).map(str::trim).any(is_quoted) {
        Some("is in quotes, which would be a part of it; give it without them")
    } else if text.trim() != text {
        Some("begins or ends with a blank, which would be a part of it; take the blank out of its file")
    } else {
        None
    }
}

/// The text of a secret's file without the line break at its end. The reason of a failure completes "names …, ".
fn read_secret(path: &str) -> Result<String, String> {
    // A secret is short; somebody who names /dev/zero gets an answer too.
    const LONGEST: u64 = 64 * 1024;
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        return Err(format!("which cannot be read ({error})"));
    }
    if bytes.len() as u64 > LONGEST {
        return Err(format!("which is longer than {LONGEST} bytes"));
    }
    let text = String::from_utf8(bytes).map_err(|_| "which is not UTF-8".to_owned())?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err("which is empty".to_owned()),
        secret => Ok(secret.to_owned()),
    }
}

/// A length of time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seconds(pub(super) Duration);

impl FromStr for Seconds {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        table::seconds(text).map(Self).ok_or("no number of seconds")
    }
}

/// The beginning of every key and channel. Without colons and braces, which have meanings in both.
#[derive(Debug, Clone)]
pub(super) struct Prefix(pub(super) String);

impl FromStr for Prefix {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let legal = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if legal && (1..=64).contains(&text.len()) { Ok(Self(text.to_owned())) } else { Err("no prefix") }
    }
}

/// Directives for the log that have been understood once.
#[derive(Debug, Clone)]
pub(super) struct Filter(pub(super) String);

impl FromStr for Filter {
    type Err = tracing_subscriber::filter::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        tracing_subscriber::EnvFilter::try_new(text).map(|_| Self(text.to_owned()))
    }
}

/// Whether only this machine reaches the address.
pub(super) fn is_loopback(host: IpAddr) -> bool {
    host.to_canonical().is_loopback()
}

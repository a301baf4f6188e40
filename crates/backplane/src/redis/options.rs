//! Which Redis, and how. Everything wrong with it is said before the first connection, without the password.

use std::{fmt, sync::Arc, time::Duration};

use countersign_protocol::NodeId;
use percent_encoding::percent_decode_str;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, io::tcp::TcpSettings};

use super::{
    members::Members,
    sentinel::Sentinels,
    tls::{self, TlsFiles},
    topology::Topology,
};

/// Which Redis, and how.
#[derive(Clone)]
pub struct RedisOptions {
    /// `redis://[user:password@]host[:port][/db]`, or `rediss://` for TLS. Several are servers of one Redis Cluster, of
    /// which any one has to answer; the others are found, and have the credentials of the first URL.
    ///
    /// `redis+sentinel://[user:password@]host[:port],host[:port],…/<master>[/db]` is the master that these sentinels call by
    /// that name (`rediss+sentinel://`: TLS to both kinds). User and password are Redis's; those of the sentinels follow as
    /// `?sentinel_username=…&sentinel_password=…`.
    pub urls: Vec<String>,
    /// How many replicas should have a decision before it is told to whoever asked; 0 asks none. Fewer than that is
    /// logged, not refused: the decision stands and is published.
    pub wait_replicas: u32,
    /// What `rediss://` trusts and shows.
    pub tls: TlsFiles,
    /// The name of this node; it listens to itself on the channel of that name.
    pub node: NodeId,
}

/// What is wrong with the options.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: expected {expected}, got {got}")]
pub struct OptionsError {
    /// `REDIS_URL` or `REDIS_PREFIX`.
    pub what: &'static str,
    /// What would have been accepted.
    pub expected: String,
    /// What was given, without credentials.
    pub got: String,
}

const URL_FORM: &str = "redis://[user:password@]host[:port][/db], or rediss:// for TLS";
const SENTINEL_FORM: &str =
    "redis+sentinel://[user:password@]host[:port],host[:port]/<master>[/db][?sentinel_username=…&sentinel_password=…]";

impl RedisOptions {
    /// Options from the text of `REDIS_URL`, in which commas separate several; without waiting for replicas.
    pub fn new(urls: &str, node: NodeId) -> Self {
        // Only before a scheme: the commas of a Sentinel URL separate hosts, and a password may have one.
        let mut split: Vec<String> = Vec::new();
        for part in urls.split(',').map(str::trim) {
            match split.last_mut() {
                Some(url) if !part.contains("://") => {
                    url.push(',');
                    url.push_str(part);
                }
                _ => split.push(part.to_owned()),
            }
        }
        split.retain(|url| !url.is_empty());
        Self { urls: split, wait_replicas: 0, tls: TlsFiles::default(), node }
    }

    /// Where to connect to.
    pub(super) fn topology(&self) -> Result<Topology, OptionsError> {
        let wrong =
            |expected: &str, got: String| OptionsError { what: "REDIS_URL", expected: expected.to_owned(), got };
        let certificates = self.tls.read()?;
        let connection = |url: &str| tls::with(connection(url)?, certificates.as_ref());
        match self.urls.as_slice() {
            [] => Err(wrong(URL_FORM, "nothing".to_owned())),
            [url] if is_sentinel(url) => Ok(Topology::Sentinel(Arc::new(sentinels(url, connection)?))),
            [url] => Ok(Topology::single(connection(url)?)),
            seeds => {
                let seeds = seeds.iter().map(|url| connection(url)).collect::<Result<Vec<_>, _>>()?;
                let tls = |info: &ConnectionInfo| matches!(info.addr(), ConnectionAddr::TcpTls { .. });
                if seeds.iter().any(tls) && !seeds.iter().all(tls) {
                    let got = format!("{} URLs of both", seeds.len());
                    return Err(wrong("URLs of one Redis Cluster to be all redis:// or all rediss://", got));
                }
                if seeds.iter().any(|info| info.redis_settings().db() != 0) {
                    let got =
                        format!("{} URLs, which is a Redis Cluster, and a database of another number", seeds.len());
                    return Err(wrong("database 0, the only one of a Redis Cluster", got));
                }
                Ok(Topology::Cluster(Arc::new(Members::new(seeds))))
            }
        }
    }
}

/// Hides the credentials.
impl fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions")
            .field("urls", &self.urls.iter().map(|url| masked(url)).collect::<Vec<_>>())
            .field("wait_replicas", &self.wait_replicas)
            .field("tls", &self.tls)
            .field("node", &self.node)
            .finish()
    }
}

/// Checks one URL, as far as that can be done without reading files.
///
/// # Errors
/// What is wrong with it, without credentials.
pub fn check_url(url: &str) -> Result<(), OptionsError> {
    if is_sentinel(url) { sentinels(url, connection).map(drop) } else { connection(url).map(drop) }
}

/// Characters that end what a URL's reader takes for user, password and host. In a password they have to be escaped; as they
/// stand, its first half would be taken for a host or a port, and told in logs as such.
fn misread(url: &str) -> Option<&'static str> {
    let (_, rest) = url.split_once("://")?;
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    if rest.contains('#') {
        Some("with a #, which ends a URL; in a password it is %23")
    } else if rest.contains('?') && !is_sentinel(url) {
        Some(
            "with a ?, and there are no fields to be given; in a password it is %3F, the database is a path such as /2, and TLS is rediss:// with REDIS_TLS_CA_FILE",
        )
    } else if path.split('?').next().is_some_and(|path| path.contains('@')) {
        Some("with an @ behind a /; in a password / is %2F and @ is %40")
    } else if url.contains(|c: char| c.is_control() || c.is_whitespace()) {
        Some("with a blank or a control character")
    } else {
        None
    }
}

/// What one URL says.
fn connection(url: &str) -> Result<ConnectionInfo, OptionsError> {
    let wrong = |got: String| OptionsError { what: "REDIS_URL", expected: URL_FORM.to_owned(), got };
    if is_sentinel(url) {
        return Err(wrong(format!("{}, which names all sentinels of a master, among other URLs", masked(url))));
    }
    if !["redis://", "rediss://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(wrong(masked(url)));
    }
    if let Some(why) = misread(url) {
        return Err(wrong(format!("{} ({why})", masked(url))));
    }
    // The library's words for what is wrong name a part of the URL and never quote one.
    let info = url.into_connection_info().map_err(|error| {
        let why = error.detail().map_or_else(|| error.to_string(), str::to_owned);
        wrong(format!("{} ({})", masked(url), without_secrets(&why, url)))
    })?;
    // Replies are read in the form of the second protocol, whatever the URL says; and no right is needed to say which
    // library this is.
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
    Ok(info.set_redis_settings(settings).set_tcp_settings(tcp_settings()))
}

/// What the URL of a master with sentinels says.
fn sentinels(
    url: &str,
    connection: impl Fn(&str) -> Result<ConnectionInfo, OptionsError>,
) -> Result<Sentinels, OptionsError> {
    let wrong = |got: &str| OptionsError {
        what: "REDIS_URL",
        expected: SENTINEL_FORM.to_owned(),
        got: format!("{}{got}", masked(url)),
    };
    if let Some(why) = misread(url) {
        return Err(wrong(&format!(" ({why})")));
    }
    let (scheme, rest) = url.split_once("+sentinel://").ok_or_else(|| wrong(""))?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').ok_or_else(|| wrong(" (without the master's name)"))?;
    let (of_redis, hosts) =
        authority.rsplit_once('@').map_or((String::new(), authority), |(secret, hosts)| (format!("{secret}@"), hosts));
    let (name, database) = path.split_once('/').unwrap_or((path, ""));
    if name.is_empty() {
        return Err(wrong(" (without the master's name)"));
    }
    let (mut user, mut password) = (None, None);
    for field in query.split('&').filter(|field| !field.is_empty()) {
        let (name, value) = field.split_once('=').ok_or_else(|| wrong(" (with a field without a value)"))?;
        let place = match name {
            "sentinel_username" => &mut user,
            "sentinel_password" => &mut password,
            _ => return Err(wrong(&format!(" (with an unknown field {name:?})"))),
        };
        let value = percent_decode_str(value).decode_utf8().map_err(|_| wrong(" (with a field that is not UTF-8)"))?;
        if place.replace(value).is_some() {
            return Err(wrong(&format!(" (with {name} twice)")));
        }
    }
    let mut sentinels = Vec::new();
    for host in hosts.split(',').map(str::trim).filter(|host| !host.is_empty()) {
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        let port = if has_port { String::new() } else { format!(":{SENTINEL_PORT}") };
        let info = connection(&format!("{scheme}://{host}{port}"))?;
        let mut settings = info.redis_settings().clone();
        if let Some(user) = user.as_deref().filter(|user| !user.is_empty()) {
            settings = settings.set_username(user);
        }
        if let Some(password) = password.as_deref().filter(|password| !password.is_empty()) {
            settings = settings.set_password(password);
        }
        sentinels.push(info.set_redis_settings(settings));
    }
    let Some(first) = sentinels.first() else { return Err(wrong(" (without a sentinel)")) };
    // The host is replaced by the one that the sentinels tell; this one is known to be of the right form.
    let pattern = connection(&format!("{scheme}://{of_redis}localhost/{database}"))?.set_addr(first.addr().clone());
    Ok(Sentinels::new(sentinels, name.to_owned(), pattern))
}

/// Checks the prefix, which is not escaped in keys and ends at the first colon.
pub(super) fn check_prefix(prefix: &str) -> Result<(), OptionsError> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=64).contains(&prefix.len()) && prefix.bytes().all(legal) {
        return Ok(());
    }
    Err(OptionsError {
        what: "REDIS_PREFIX",
        expected: "1 to 64 letters, digits, dots, underscores and hyphens".to_owned(),
        got: format!("{prefix:?}"),
    })
}

/// Where a connection goes, for logs.
pub(super) fn place(info: &ConnectionInfo) -> String {
    let scheme = if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) { "rediss" } else { "redis" };
    format!("{scheme}://{}/{}", info.addr(), info.redis_settings().db())
}

/// The URL with its credentials replaced, whatever else is wrong with it: everything up to the last `@` could be one.
fn masked(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let rest = match rest.rsplit_once('@') {
        Some((_, host)) => format!("***@{host}"),
        None if rest.contains('#') => "***".to_owned(),
        None => without_odd_ports(rest),
    };
    // A query may hold credentials too, and so may what follows it.
    let rest = match rest.find(['?', '#']) {
        Some(end) => format!("{}***", rest.get(..=end).unwrap_or_default()),
        None => rest,
    };
    if scheme.is_empty() { format!("{rest:?}") } else { format!("{:?}", format!("{scheme}://{rest}")) }
}

/// Hosts with their ports, where these are ports. Where somebody has forgotten the host, the password stands there.
fn without_odd_ports(rest: &str) -> String {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (hosts, path) = rest.split_at(end);
    let known = |host: &str| match host.rsplit_once(':') {
        Some((name, port)) if !host.ends_with(']') && !port.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{name}:***")
        }
        _ => host.to_owned(),
    };
    hosts.split(',').map(known).collect::<Vec<_>>().join(",") + path
}

/// A second look at a text from elsewhere: without anything that stands before an `@` in the URL.
fn without_secrets(why: &str, url: &str) -> String {
    let secret = url.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@')).map(|(secret, _)| secret);
    let parts = secret.into_iter().flat_map(|secret| secret.split(':')).filter(|part| part.len() > 2);
    parts.fold(why.to_owned(), |why, part| why.replace(part, "***"))
}

/// No waiting for full packets; a peer that is gone without a word is noticed within half a minute, also on an idle
/// connection, and long before the kernel's own 15 minutes.
fn tcp_settings() -> TcpSettings {
    let keepalive = redis::io::tcp::socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(10))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(Duration::from_secs(20));
    settings
}

fn is_sentinel(url: &str) -> bool {
    ["redis+sentinel://", "rediss+sentinel://"].iter().any(|scheme| url.starts_with(scheme))
}

const SENTINEL_PORT: u16 = 26379;

#[cfg(test)]
mod tests {
    use super::*;

    fn options(urls: &str) -> RedisOptions {
        RedisOptions::new(urls, NodeId::parse("n1").unwrap())
    }

    #[test]
    fn the_urls_are_where_to_connect_to() {
        for (url, place) in [
            ("redis://localhost", "redis://localhost:6379/0"),
            ("redis://:secret@10.0.0.1:7000/3", "redis://10.0.0.1:7000/3"),
            ("rediss://user:se%40cret@redis.example:6380", "rediss://redis.example:6380/0"),
            ("redis://a:secret@one:7000, redis://two:7001", "redis://one:7000/0,redis://two:7001/0"),
            ("redis+sentinel://one:7000,two/main", "redis+sentinel://one:7000,two:26379/main/0"),
            ("redis+sentinel://[::1],[::2]:7/main", "redis+sentinel://::1:26379,::2:7/main/0"),
            (
                "rediss+sentinel://u:secret@one/main/3?sentinel_username=s&sentinel_password=secret",
                "rediss+sentinel://one:26379/main/3",
            ),
            ("redis://u:12,34@one", "redis://one:6379/0"),
            ("redis://u:12%2334%3F%2F@one:7000/2", "redis://one:7000/2"),
            ("redis+sentinel://one/main?sentinel_password=12/34%23@:5", "redis+sentinel://one:26379/main/0"),
        ] {
            assert_eq!(options(url).topology().unwrap().place(), place);
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_the_password_is_not() {
        for (urls, part) in [
            ("", "nothing"),
            ("localhost:6379", "localhost:6379"),
            ("http://user:hunter2@host", "http://***@host"),
            ("redis://user:hunter2@host/x", "database"),
            ("redis://user:hunter2@0.0.0.0", "wildcard"),
            ("redis://user:hun@ter2@host:port", "host:port"),
            ("redis://a:hunter2@one,http://b:hunter2@two", "http://***@two"),
            ("redis://a:hunter2@one,rediss://b:hunter2@two", "2 URLs of both"),
            ("redis://a:hunter2@one,redis://b:hunter2@two/3", "database 0"),
            ("redis+sentinel://u:hunter2@one:26379,two:26379", "without the master's name"),
            ("redis+sentinel://u:hunter2@one:26379,two:26379/", "without the master's name"),
            ("redis+sentinel://u:hunter2@/main", "without a sentinel"),
            ("redis+sentinel://u:hunter2@one:x/main", "redis"),
            ("redis+sentinel://u:hunter2@one/main/x", "database"),
            ("redis+sentinel://one/main?sentinel_pasword=hunter2", "unknown field \"sentinel_pasword\""),
            ("redis://one,redis+sentinel://u:hunter2@two/main", "among other URLs"),
            ("redis://default:1234#hunter2@host", "redis://***@host\" (with a #"),
            ("redis://default:1234?hunter2@host", "redis://***@host\" (with a ?"),
            ("redis://default:1234/hunter2@host", "redis://***@host\" (with an @ behind a /"),
            ("redis://default:1234/hunter2@host/2", "with an @ behind a /"),
            ("redis://default:1234#hunter2", "redis://***"),
            ("redis://default:hunter2", "redis://default:***"),
            ("redis://u:hunter2@host?db=2", "redis://***@host?***"),
            ("rediss://host?ssl_cert_reqs=none", "REDIS_TLS_CA_FILE"),
            ("redis://host?password=hunter2", "?***"),
            ("rediss://u:hunter2@host#insecure", "with a #"),
            ("redis://u:hun\tter2@host", "a blank or a control character"),
            ("redis://one,redis://default:1234#hunter2@two", "***@two"),
            ("redis+sentinel://u:12#hunter2@one/main", "with a #"),
            ("redis+sentinel://u:12/hunter2@one/main", "with an @ behind a /"),
            ("redis+sentinel://u:12?hunter2@one/main", "without the master's name"),
            ("redis+sentinel://one/main?db=2", "unknown field \"db\""),
            ("redis+sentinel://one/main?hunter2", "without a value"),
            ("redis+sentinel://one/main?sentinel_password=a&sentinel_password=hunter2", "twice"),
        ] {
            let error = options(urls).topology().unwrap_err();
            assert_eq!(error.what, "REDIS_URL");
            let text = error.to_string();
            assert!(text.contains(part), "{text}");
            assert!(!text.contains("hunter2") && !text.contains("ter2@") && !text.contains("1234"), "{text}");
            assert!(!format!("{:?}", options(urls)).contains("hunter2"));
        }
    }

    #[test]
    fn a_prefix_that_would_change_the_meaning_of_names_is_refused() {
        for legal in ["cs", "my-app_1.x"] {
            assert_eq!(check_prefix(legal), Ok(()));
        }
        for wrong in ["", "a:b", "{a}", "a b", "ü", &"x".repeat(65)] {
            assert_eq!(check_prefix(wrong).unwrap_err().what, "REDIS_PREFIX");
        }
    }
}

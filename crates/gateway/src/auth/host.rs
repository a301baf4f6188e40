//! The name by which a request reached the gateway. A page can point a name of its own at this machine (DNS rebinding) and then
//! talks to an open door as if it were the gateway's own page: browsers send no `Origin` with its GETs, so only `Host` gives it
//! away. A door that is open because the node listens on loopback therefore answers to this machine's names only.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use axum::http::{
    HeaderMap, Version,
    header::{HOST, ORIGIN},
    uri::Authority,
};

use crate::config::{AllowedOrigins, Config, Origin, host_name};

/// What a request wants to enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// `/ws` and its siblings.
    Clients,
    /// `/v1`.
    Producers,
    /// The demo page, which speaks to both.
    Page,
    /// `/metrics`, which has no secrets but says what the node does.
    Metrics,
}

/// Which names the open doors of a node on loopback answer to. Doors with credentials answer to every name, and so does
/// everything on another address or with `AUTH_INSECURE`.
#[derive(Debug)]
pub struct OwnNames {
    clients: bool,
    producers: bool,
    metrics: bool,
    listed: AllowedOrigins,
    proxy_seen: AtomicBool,
}

/// What proxies add. A request that has one of them came from elsewhere.
const FORWARDING: [&str; 6] =
    ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via"];

impl OwnNames {
    /// What the configuration asks for.
    pub fn new(config: &Config) -> Self {
        let local = config.host.to_canonical().is_loopback() && !config.insecure;
        let (clients, producers) = (local && config.jwt_secret.is_none(), local && config.api_keys.is_empty());
        Self {
            clients,
            producers,
            metrics: (clients || producers) && config.metrics_key.is_none(),
            listed: config.allowed_origins.clone(),
            proxy_seen: AtomicBool::new(false),
        }
    }

    /// Whether a request that reached the gateway by this name may enter. A page that the configuration lists is trusted under
    /// every name: no other page can send its origin.
    pub fn admit(&self, door: Door, headers: &HeaderMap) -> bool {
        let guarded = match door {
            Door::Clients => self.clients,
            Door::Producers => self.producers,
            Door::Page => self.clients || self.producers,
            Door::Metrics => self.metrics,
        };
        !guarded || self.is_own(headers) || self.is_listed_page(headers)
    }

    /// The forwarding header of the first request that has one, where a proxy makes an open node public. Later ones are no news.
    pub fn first_forwarded(&self, headers: &HeaderMap) -> Option<&'static str> {
        if !(self.clients || self.producers) || self.proxy_seen.load(Relaxed) {
            return None;
        }
        let header = FORWARDING.into_iter().find(|name| headers.contains_key(*name))?;
        (!self.proxy_seen.swap(true, Relaxed)).then_some(header)
    }

    fn is_own(&self, headers: &HeaderMap) -> bool {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let Some(name) = host.and_then(host_name) else { return false };
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(&name);
        let rooted = name.strip_suffix('.').unwrap_or(&name);
        bare.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
            || rooted == "localhost"
            || rooted.ends_with(".localhost")
            || self.listed.lists_host(&name)
    }

    fn is_listed_page(&self, headers: &HeaderMap) -> bool {
        let mut origins = headers.get_all(ORIGIN).into_iter();
        let (Some(origin), None) = (origins.next(), origins.next()) else { return false };
        origin.to_str().ok().and_then(Origin::parse).is_some_and(|origin| self.listed.lists(&origin))
    }
}

/// Whether a request names exactly one host (RFC 9112, section 3.2). HTTP/1.0 need not name one, and HTTP/2 names it elsewhere.
pub fn is_one_host(version: Version, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).into_iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => {
            !host.as_bytes().contains(&b'@')
                && Authority::try_from(host.as_bytes()).is_ok_and(|host| !host.host().is_empty())
        }
        (None, _) => version != Version::HTTP_11,
        (Some(_), Some(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    const DOORS: [Door; 4] = [Door::Clients, Door::Producers, Door::Page, Door::Metrics];

    #[test]
    fn open_doors_on_loopback_answer_to_this_machines_names_only() {
        let listed = "same-host,https://app.example.com,http://*.dev.test:5173".parse().unwrap();
        let names = OwnNames::new(&Config { allowed_origins: listed, ..Config::default() });
        for (host, own) in [
            ("127.0.0.1:8765", true),
            ("127.8.9.1", true),
            ("localhost", true),
            ("LocalHost:8765", true),
            ("localhost.", true),
            ("app.localhost:8765", true),
            ("[::1]:8765", true),
            ("[::ffff:127.0.0.1]", true),
            ("app.example.com", true),
            ("APP.example.com:8765", true),
            ("a.dev.test:8765", true),
            ("a.b.dev.test", false),
            ("dev.test", false),
            ("example.com", false),
            ("evil.test:8765", false),
            ("evil.test", false),
            ("127.0.0.1.evil.test", false),
            ("localhost.evil.test", false),
            ("evillocalhost", false),
            ("10.0.0.1", false),
            ("0.0.0.0:8765", false),
            ("::1", false),
            ("127.0.0.1:x", false),
            ("", false),
        ] {
            for door in DOORS {
                assert_eq!(names.admit(door, &headers(&[("host", host)])), own, "{door:?} {host}");
            }
        }
        assert!(!names.admit(Door::Page, &HeaderMap::new()));
    }

    #[test]
    fn a_listed_page_may_reach_the_gateway_by_any_name() {
        let listed = "https://app.example.com".parse().unwrap();
        let names = OwnNames::new(&Config { allowed_origins: listed, ..Config::default() });
        for (origin, admitted) in
            [("https://app.example.com", true), ("http://app.example.com", false), ("null", false)]
        {
            let headers = headers(&[("host", "gateway.test"), ("origin", origin)]);
            assert_eq!(names.admit(Door::Clients, &headers), admitted, "{origin}");
        }
        let twice = [("host", "gateway.test"), ("origin", "https://app.example.com"), ("origin", "https://evil.test")];
        assert!(!names.admit(Door::Clients, &headers(&twice)));
    }

    #[test]
    fn a_door_with_credentials_answers_to_every_name_and_so_does_a_node_that_is_open_on_purpose() {
        let foreign = headers(&[("host", "evil.test")]);
        let admitted = |config: &Config| DOORS.map(|door| OwnNames::new(config).admit(door, &foreign));
        let (secret, key) = (Some("x".repeat(32).into()), vec!["x".repeat(32).into()]);
        let open = Config::default();
        assert_eq!(admitted(&open), [false; 4]);
        assert_eq!(admitted(&Config { host: "::ffff:127.0.0.1".parse().unwrap(), ..open.clone() }), [false; 4]);
        assert_eq!(admitted(&Config { jwt_secret: secret.clone(), ..open.clone() }), [true, false, false, false]);
        assert_eq!(admitted(&Config { api_keys: key.clone(), ..open.clone() }), [false, true, false, false]);
        let metrics_key = Some("metrics".into());
        assert_eq!(admitted(&Config { metrics_key, ..open.clone() }), [false, false, false, true]);
        assert_eq!(admitted(&Config { jwt_secret: secret, api_keys: key, ..open.clone() }), [true; 4]);
        assert_eq!(admitted(&Config { insecure: true, ..open.clone() }), [true; 4]);
        assert_eq!(admitted(&Config { host: "10.0.0.1".parse().unwrap(), ..open }), [true; 4]);
    }

    #[test]
    fn the_first_request_of_a_proxy_is_told_where_it_makes_an_open_node_public() {
        let forwarded = headers(&[("host", "localhost"), ("x-forwarded-for", "10.0.0.1")]);
        let open = OwnNames::new(&Config::default());
        assert_eq!(open.first_forwarded(&headers(&[("host", "localhost")])), None);
        assert_eq!(open.first_forwarded(&forwarded), Some("x-forwarded-for"));
        assert_eq!(open.first_forwarded(&forwarded), None, "it is told once");
        for config in [
            Config { insecure: true, ..Config::default() },
            Config {
                jwt_secret: Some("x".repeat(32).into()),
                api_keys: vec!["x".repeat(32).into()],
                ..Config::default()
            },
        ] {
            assert_eq!(OwnNames::new(&config).first_forwarded(&forwarded), None);
        }
    }

    #[test]
    fn a_request_names_one_host() {
        for (version, hosts, good) in [
            (Version::HTTP_11, &["a.test:80"][..], true),
            (Version::HTTP_11, &["[::1]:80"], true),
            (Version::HTTP_11, &["my_node"], true),
            (Version::HTTP_11, &[], false),
            (Version::HTTP_11, &[""], false),
            (Version::HTTP_11, &["a.test", "a.test"], false),
            (Version::HTTP_11, &["a b"], false),
            (Version::HTTP_11, &["a.test/x"], false),
            (Version::HTTP_11, &["u@a.test"], false),
            (Version::HTTP_10, &[], true),
            (Version::HTTP_10, &["a.test", "b.test"], false),
            (Version::HTTP_2, &[], true),
        ] {
            let pairs: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            assert_eq!(is_one_host(version, &headers(&pairs)), good, "{version:?} {hosts:?}");
        }
    }
}

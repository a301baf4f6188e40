//! Which pages may connect: a browser sends the page's `Origin` with every WebSocket, and nothing else keeps a foreign
//! page from using a visitor's network position. Programs that are no browsers send none and are let through.

use axum::http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{HOST, ORIGIN},
};

use crate::config::{AllowedOrigins, Config, Origin};

const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Whether the page that sent this request may connect. The same host is what `Host` says, or `X-Forwarded-Host` where
/// a proxy has rewritten it: no page can set either, so believing the second gives nothing away.
pub fn is_allowed(allowed: &AllowedOrigins, headers: &HeaderMap) -> bool {
    let mut origins = headers.get_all(ORIGIN).into_iter();
    let (Some(origin), None) = (origins.next(), origins.next()) else {
        return headers.get(ORIGIN).is_none();
    };
    let Some(origin) = origin.to_str().ok().and_then(Origin::parse) else { return false };
    allowed.lists(&origin) || (allowed.same_host && is_same_host(&origin, headers))
}

/// Whether the name by which a page reached an open loopback gateway is one of this machine's. A name of somebody else's that
/// points to loopback is DNS rebinding: the page's origin then equals the host, and only the name gives it away. Programs
/// that are no browsers are let through, and so is everybody when a door has credentials or `AUTH_INSECURE` is set.
pub fn is_honest_host(config: &Config, headers: &HeaderMap) -> bool {
    let open = config.jwt_secret.is_none() || config.api_keys.is_empty();
    let from_page = headers.contains_key(ORIGIN) || headers.contains_key("sec-fetch-site");
    if !open || !from_page || !config.host.is_loopback() || config.insecure {
        return true;
    }
    // A page that is named in the configuration is trusted under whatever name it reaches the gateway.
    let listed = headers.get(ORIGIN).and_then(|origin| Origin::parse(origin.to_str().ok()?));
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(name, _)| name),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.parse::<std::net::IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost")
        || listed.is_some_and(|origin| config.allowed_origins.lists(&origin))
}

fn is_same_host(origin: &Origin, headers: &HeaderMap) -> bool {
    let text = |value: &HeaderValue| value.to_str().map(str::to_owned).ok();
    let host = headers.get(HOST).and_then(text);
    // Each proxy appends; the first one is nearest to the page.
    let forwarded = headers.get(FORWARDED_HOST).and_then(text);
    let forwarded = forwarded.as_deref().and_then(|list| list.split(',').next()).map(str::trim);
    host.as_deref().is_some_and(|host| origin.is_host(host)) || forwarded.is_some_and(|host| origin.is_host(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(allowed: &str, pairs: &[(HeaderName, &[u8])]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        is_allowed(&allowed.parse().unwrap(), &headers)
    }

    #[test]
    fn a_foreign_name_for_an_open_loopback_gateway_is_refused_to_pages() {
        let reached_as = |host: &str, page: bool, config: &Config| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_str(host).unwrap());
            if page {
                headers.insert(ORIGIN, HeaderValue::from_str(&format!("http://{host}")).unwrap());
            }
            is_honest_host(config, &headers)
        };
        let open = Config::default();
        for (host, honest) in [
            ("127.0.0.1:8765", true),
            ("localhost:8765", true),
            ("app.localhost", true),
            ("[::1]:8765", true),
            ("evil.test:8765", false),
            ("evil.test", false),
            ("127.0.0.1.evil.test", false),
            ("", false),
        ] {
            assert_eq!(reached_as(host, true, &open), honest, "{host}");
            assert!(reached_as(host, false, &open), "a program may call it as it likes: {host}");
        }
        assert!(reached_as("dev.test", true, &Config { insecure: true, ..Config::default() }));
    }

    #[test]
    fn a_page_of_the_same_host_and_port_may_connect() {
        for (origin, host, forwarded, allowed) in [
            ("https://app.example.com", "app.example.com", "", true),
            ("https://app.example.com", "APP.example.com", "", true),
            ("https://app.example.com", "app.example.com:443", "", true),
            ("http://localhost:8765", "localhost:8765", "", true),
            ("http://[::1]:8765", "[::1]:8765", "", true),
            ("http://localhost:5173", "localhost:8765", "", false),
            ("http://localhost", "localhost:8765", "", false),
            ("http://127.0.0.1:8765", "localhost:8765", "", false),
            ("https://evil.test", "app.example.com", "", false),
            ("https://app.example.com.evil.test", "app.example.com", "", false),
            ("https://app.example.com", "", "", false),
            ("https://app.example.com", "node1:8765", "app.example.com", true),
            ("https://app.example.com", "node1:8765", "app.example.com, inner", true),
            ("https://inner", "node1:8765", "app.example.com, inner", false),
            ("null", "null", "null", false),
            ("", "app.example.com", "", false),
        ] {
            let mut pairs = vec![(ORIGIN, origin.as_bytes())];
            if !host.is_empty() {
                pairs.push((HOST, host.as_bytes()));
            }
            if !forwarded.is_empty() {
                pairs.push((FORWARDED_HOST, forwarded.as_bytes()));
            }
            assert_eq!(check("same-host", &pairs), allowed, "{origin} {host} {forwarded}");
        }
    }

    #[test]
    fn a_list_replaces_the_same_host_unless_it_names_it() {
        let page = |origin: &'static str| [(ORIGIN, origin.as_bytes()), (HOST, b"gateway.test".as_slice())];
        for (allowed, origin, may) in [
            ("https://app.example.com", "https://app.example.com", true),
            ("https://app.example.com", "https://gateway.test", false),
            ("same-host,https://app.example.com", "https://gateway.test", true),
            ("same-host,https://app.example.com", "https://app.example.com", true),
            ("same-host,https://app.example.com", "https://evil.test", false),
        ] {
            assert_eq!(check(allowed, &page(origin)), may, "{allowed} {origin}");
        }
    }

    #[test]
    fn programs_without_an_origin_are_let_through_and_unreadable_origins_are_not() {
        assert!(check("same-host", &[(HOST, b"app.example.com")]));
        assert!(check("https://app.example.com", &[]));
        assert!(!check("same-host", &[(ORIGIN, b"https://\xff"), (HOST, b"\xff")]));
        let twice = [(ORIGIN, b"https://a.test".as_slice()), (ORIGIN, b"https://a.test"), (HOST, b"a.test")];
        assert!(!check("same-host", &twice));
    }
}

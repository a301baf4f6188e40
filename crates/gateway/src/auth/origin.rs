//! Which pages may connect: a browser sends the page's `Origin` with every WebSocket, and nothing else keeps a foreign
//! page from using a visitor's network position. Programs that are no browsers send none and are let through.

use axum::http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{HOST, ORIGIN},
};

use crate::config::{AllowedOrigins, Origin};

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

//! Which pages may connect. An origin is scheme, host and port, compared exactly; a wildcard stands for exactly one
//! whole label of the host and never for a part of one.

use std::{fmt, str::FromStr};

/// Which pages may connect: those of the gateway's own host, or listed ones, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedOrigins {
    /// Pages that come from the host and port that they connect to.
    pub same_host: bool,
    /// Other pages.
    pub listed: Vec<OriginPattern>,
}

/// Pages of the same host.
impl Default for AllowedOrigins {
    fn default() -> Self {
        Self { same_host: true, listed: Vec::new() }
    }
}

impl AllowedOrigins {
    /// Whether pages of `origin` are on the list.
    pub fn lists(&self, origin: &Origin) -> bool {
        self.listed.iter().any(|pattern| pattern.matches(origin))
    }

    /// Whether pages of a host (in lower case, without its port) are on the list, by whatever scheme and port.
    pub fn lists_host(&self, host: &str) -> bool {
        self.listed.iter().any(|pattern| pattern.matches_host(host))
    }
}

impl FromStr for AllowedOrigins {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut allowed = Self { same_host: false, listed: Vec::new() };
        for entry in text.split(',').map(str::trim) {
            match entry {
                SAME_HOST => allowed.same_host = true,
                entry => allowed.listed.push(entry.parse()?),
            }
        }
        Ok(allowed)
    }
}

impl fmt::Display for AllowedOrigins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let same_host = self.same_host.then(|| SAME_HOST.to_owned());
        let entries: Vec<String> = same_host.into_iter().chain(self.listed.iter().map(ToString::to_string)).collect();
        f.write_str(&entries.join(","))
    }
}

const SAME_HOST: &str = "same-host";

/// A page's origin as browsers send it (RFC 6454 §6.2): scheme and host in lower case, the port made explicit
/// when the scheme has a usual one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Origin {
    /// Reads `scheme://host[:port]`; `null` and everything with a path, a user or spaces is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let legal = scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        if scheme.is_empty() || !legal {
            return None;
        }
        let (host, port) = split_port(rest)?;
        let port = port.or(usual_port(&scheme));
        Some(Self { scheme, host, port })
    }

    /// Whether a request with this `Host` header went to the place that the page came from.
    pub fn is_host(&self, header: &str) -> bool {
        split_port(header)
            .is_some_and(|(host, port)| host == self.host && port.or(usual_port(&self.scheme)) == self.port)
    }
}

fn usual_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// The name in a `Host` header, in lower case and without its port; an IPv6 address keeps its brackets.
pub fn host_name(header: &str) -> Option<String> {
    split_port(header).map(|(host, _)| host)
}

/// Host in lower case, and port; an IPv6 host keeps its brackets.
fn split_port(text: &str) -> Option<(String, Option<u16>)> {
    let end = if text.starts_with('[') { text.find(']')? + 1 } else { text.find(':').unwrap_or(text.len()) };
    let (host, port) = text.split_at_checked(end)?;
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte);
    if host.is_empty() || !host.bytes().all(legal) {
        return None;
    }
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
        None | Some(_) => return None,
    };
    Some((host.to_ascii_lowercase(), port))
}

/// One entry of the list: an origin, or one whose host begins with `*.`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginPattern {
    /// Without the `*.`.
    origin: Origin,
    any_label: bool,
}

impl OriginPattern {
    fn matches(&self, origin: &Origin) -> bool {
        (&self.origin.scheme, self.origin.port) == (&origin.scheme, origin.port) && self.matches_host(&origin.host)
    }

    fn matches_host(&self, host: &str) -> bool {
        match host.split_once('.') {
            Some((label, parent)) if self.any_label => !label.is_empty() && parent == self.origin.host,
            _ => !self.any_label && host == self.origin.host,
        }
    }
}

impl FromStr for OriginPattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, host) = text.split_once("://").ok_or("an origin without a scheme")?;
        let parent = host.strip_prefix("*.");
        let origin = Origin::parse(&format!("{scheme}://{}", parent.unwrap_or(host))).ok_or("not an origin")?;
        // `https://*.` and `https://*..example.com` would leave a parent that no page has, or one that all have.
        if origin.host.starts_with('.') || (parent.is_some() && origin.host.starts_with('[')) {
            return Err("a wildcard before something that is no name");
        }
        Ok(Self { origin, any_label: parent.is_some() })
    }
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Origin { scheme, host, port } = &self.origin;
        write!(f, "{scheme}://{}{host}", if self.any_label { "*." } else { "" })?;
        match port {
            Some(port) if usual_port(scheme) != Some(*port) => write!(f, ":{port}"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_compared_whole_and_exactly() {
        for (listed, origin, matches) in [
            ("https://app.example.com", "https://app.example.com", true),
            ("https://app.example.com", "HTTPS://APP.EXAMPLE.COM", true),
            ("https://app.example.com:443", "https://app.example.com", true),
            ("https://app.example.com", "https://app.example.com:443", true),
            ("https://app.example.com", "http://app.example.com", false),
            ("https://app.example.com", "http://app.example.com:443", false),
            ("https://app.example.com", "https://app.example.com:8443", false),
            ("https://app.example.com", "https://app.example.com.evil.test", false),
            ("https://app.example.com", "https://evilapp.example.com", false),
            ("https://app.example.com", "https://x.app.example.com", false),
            ("http://localhost:5173", "http://localhost:5173", true),
            ("http://localhost:5173", "http://localhost", false),
            ("http://[::1]:8080", "http://[::1]:8080", true),
            ("capacitor://localhost", "capacitor://localhost", true),
            // The wildcard is one whole label.
            ("https://*.example.com", "https://app.example.com", true),
            ("https://*.example.com", "https://APP.Example.com", true),
            ("https://*.example.com", "https://example.com", false),
            ("https://*.example.com", "https://.example.com", false),
            ("https://*.example.com", "https://a.b.example.com", false),
            ("https://*.example.com", "https://evilexample.com", false),
            ("https://*.example.com", "https://app.example.com.evil.test", false),
            ("https://*.example.com", "http://app.example.com", false),
            ("https://*.example.com", "https://app.example.com:8443", false),
            ("https://*.example.com:8443", "https://app.example.com:8443", true),
        ] {
            let allowed: AllowedOrigins = listed.parse().unwrap();
            let origin = Origin::parse(origin).unwrap();
            assert!(!allowed.same_host);
            assert_eq!(allowed.lists(&origin), matches, "{listed} {origin:?}");
        }
    }

    #[test]
    fn what_is_no_origin_is_not_read_as_one() {
        for text in [
            "null",
            "",
            "https://",
            "app.example.com",
            "://x",
            "https://x/",
            "https://x/path",
            "https://u@x",
            "https://x y",
            "https://x:",
            "https://x:port",
            "https://x:99999",
            "https://[::1",
            "https://x,https://y",
            "ht tp://x",
            "https://é",
        ] {
            assert_eq!(Origin::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_list_with_something_else_in_it_is_refused() {
        for text in [
            "",
            "*",
            "app.example.com",
            "*.example.com",
            "https://*",
            "https://*.",
            "https://*..com",
            "https://a*.com",
            "https://*.*.com",
            "https://x/",
            "same-host,",
            "null",
            "https://*.[::1]",
        ] {
            assert!(text.parse::<AllowedOrigins>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_list_is_printed_as_it_can_be_read() {
        for text in
            ["same-host", "same-host,https://app.example.com", "https://*.example.com:8443,http://localhost:5173"]
        {
            let allowed: AllowedOrigins = text.parse().unwrap();
            assert_eq!(allowed.to_string(), text);
        }
        assert_eq!(AllowedOrigins::default(), "same-host".parse().unwrap());
    }
}

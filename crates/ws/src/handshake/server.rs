//! The server's side: reads a client's request field by field (RFC 6455 §4.2.1) and writes the answer (§4.2.2).

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
        SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
    },
};

use super::{
    Key, Refusal, VERSION,
    extensions::{self, Extension},
    fields,
};

/// A request that asks for a WebSocket as the RFC wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'h> {
    /// Its `Sec-WebSocket-Key`.
    pub key: Key,
    /// The subprotocols that it offers, all different, in its order of preference; at most 32.
    pub protocols: Vec<&'h str>,
    /// The extensions that it offers, in its order of preference; at most 32 with their parameters.
    pub extensions: Vec<Extension<'h>>,
}

/// Whether a request wants a WebSocket at all, well formed or not: to tell it from a page on the same path.
pub fn is_asked(headers: &HeaderMap) -> bool {
    fields::list_contains(headers, &UPGRADE, "websocket")
}

impl<'h> Request<'h> {
    /// Checks a request. The `Origin` is for the caller to judge.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(method: &Method, version: Version, headers: &'h HeaderMap) -> Result<Self, Refusal> {
        let refuse = |status, field: &HeaderName, expected| Err(Refusal { status, field: field.clone(), expected });
        if method != Method::GET {
            return refuse(StatusCode::METHOD_NOT_ALLOWED, &HeaderName::from_static("method"), "GET");
        }
        if version != Version::HTTP_11 {
            let field = HeaderName::from_static("version");
            return refuse(StatusCode::HTTP_VERSION_NOT_SUPPORTED, &field, "HTTP/1.1");
        }
        if fields::once(headers, &HOST).is_none_or(HeaderValue::is_empty) {
            return refuse(StatusCode::BAD_REQUEST, &HOST, "the host, once");
        }
        if !is_asked(headers) {
            return refuse(StatusCode::UPGRADE_REQUIRED, &UPGRADE, "websocket");
        }
        if !fields::list_contains(headers, &CONNECTION, "upgrade") {
            return refuse(StatusCode::BAD_REQUEST, &CONNECTION, "upgrade");
        }
        if fields::once(headers, &SEC_WEBSOCKET_VERSION).is_none_or(|version| version != VERSION) {
            return refuse(StatusCode::UPGRADE_REQUIRED, &SEC_WEBSOCKET_VERSION, VERSION);
        }
        let key = fields::once(headers, &SEC_WEBSOCKET_KEY).and_then(|key| Key::parse(key.as_bytes()));
        let Some(key) = key else {
            return refuse(StatusCode::BAD_REQUEST, &SEC_WEBSOCKET_KEY, "16 bytes in base64, once");
        };
        // What would be read as a body here would be read as frames there.
        if headers.contains_key(TRANSFER_ENCODING) {
            return refuse(StatusCode::BAD_REQUEST, &TRANSFER_ENCODING, "no body");
        }
        if headers.get_all(CONTENT_LENGTH).iter().any(|length| length != "0") {
            return refuse(StatusCode::BAD_REQUEST, &CONTENT_LENGTH, "no body");
        }
        let Some(protocols) = fields::tokens(headers, &SEC_WEBSOCKET_PROTOCOL) else {
            return refuse(StatusCode::BAD_REQUEST, &SEC_WEBSOCKET_PROTOCOL, "at most 32 different names");
        };
        let Some(extensions) = extensions::parse(headers) else {
            return refuse(StatusCode::BAD_REQUEST, &SEC_WEBSOCKET_EXTENSIONS, "at most 32 extensions and parameters");
        };
        Ok(Self { key, protocols, extensions })
    }

    /// The answer that accepts: 101, with one of the offered subprotocols and what was agreed of the offered extensions.
    pub fn accept(&self, protocol: Option<HeaderValue>, extensions: Option<HeaderValue>) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.key.accept());
        for (name, value) in [(SEC_WEBSOCKET_PROTOCOL, protocol), (SEC_WEBSOCKET_EXTENSIONS, extensions)] {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 5] = [
        ("host", "example.com"),
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn headers<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    /// The status and the field of the refusal; `None` when it is accepted.
    fn refused(headers: &HeaderMap) -> Option<(u16, String)> {
        let refusal = Request::check(&Method::GET, Version::HTTP_11, headers).err()?;
        Some((refusal.status.as_u16(), refusal.field.to_string()))
    }

    #[test]
    fn the_request_of_the_rfc_is_accepted() {
        let mut headers = headers(GOOD);
        headers.insert("sec-websocket-protocol", HeaderValue::from_static("chat, superchat"));
        headers.append("sec-websocket-protocol", HeaderValue::from_static("bearer.a-b_c.d"));
        let request = Request::check(&Method::GET, Version::HTTP_11, &headers).unwrap();
        assert_eq!(request.protocols, ["chat", "superchat", "bearer.a-b_c.d"]);
        let answer = request.accept(Some(HeaderValue::from_static("chat")), None);
        assert_eq!(answer.status(), 101);
        assert_eq!(answer.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
        assert!(!answer.headers().contains_key("sec-websocket-extensions"));
    }

    #[test]
    fn a_field_that_is_missing_or_there_twice_is_named() {
        for (status, missing) in [
            (400, "host"),
            (426, "upgrade"),
            (400, "connection"),
            (426, "sec-websocket-version"),
            (400, "sec-websocket-key"),
        ] {
            let without = headers(GOOD.into_iter().filter(|(name, _)| *name != missing));
            assert_eq!(refused(&without), Some((status, missing.to_owned())));
        }
        for (status, twice) in [(400, "host"), (426, "sec-websocket-version"), (400, "sec-websocket-key")] {
            let with_two = headers(GOOD.into_iter().chain(GOOD.into_iter().filter(|(name, _)| *name == twice)));
            assert_eq!(refused(&with_two), Some((status, twice.to_owned())));
        }
    }

    #[test]
    fn each_field_is_read_as_the_rfc_says() {
        for (name, value, expected) in [
            ("host", "", Some(400)),
            ("upgrade", "WebSocket", None),
            ("upgrade", "h2c, websocket", None),
            ("upgrade", "websockets", Some(426)),
            ("connection", "keep-alive, UPGRADE", None),
            ("connection", "keep-alive", Some(400)),
            ("connection", "upgraded", Some(400)),
            ("sec-websocket-version", "8", Some(426)),
            ("sec-websocket-version", "13, 8", Some(426)),
            ("sec-websocket-key", "short", Some(400)),
            ("sec-websocket-protocol", "a, b", None),
            ("sec-websocket-protocol", "", None),
            ("sec-websocket-protocol", "a, a", Some(400)),
            ("sec-websocket-protocol", "a b", Some(400)),
            ("sec-websocket-protocol", "é", Some(400)),
            ("sec-websocket-extensions", "x; y=1", None),
            ("sec-websocket-extensions", "x; y=", Some(400)),
            ("content-length", "0", None),
            ("content-length", "5", Some(400)),
            ("transfer-encoding", "chunked", Some(400)),
        ] {
            let fields = GOOD.into_iter().filter(|(good, _)| *good != name).chain([(name, value)]);
            let expected = expected.map(|status| (status, name.to_owned()));
            assert_eq!(refused(&headers(fields)), expected, "{name}: {value}");
        }
    }

    #[test]
    fn only_get_over_http_1_1_opens_a_websocket() {
        let headers = headers(GOOD);
        let refusal = Request::check(&Method::POST, Version::HTTP_11, &headers).unwrap_err();
        assert_eq!((refusal.status.as_u16(), refusal.to_string().as_str()), (405, "method: expected GET"));
        for version in [Version::HTTP_09, Version::HTTP_10, Version::HTTP_2] {
            let refusal = Request::check(&Method::GET, version, &headers).unwrap_err();
            assert_eq!(refusal.status, 505);
        }
    }

    #[test]
    fn a_client_of_another_version_is_told_which_is_spoken() {
        let old =
            headers(GOOD.into_iter().map(|(name, value)| if value == "13" { (name, "8") } else { (name, value) }));
        let refusal = Request::check(&Method::GET, Version::HTTP_11, &old).unwrap_err();
        assert_eq!(refusal.header(), Some((SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"))));
    }

    #[test]
    fn long_lists_are_refused() {
        let names: Vec<String> = (0..33).map(|n| format!("p{n}")).collect();
        for (count, expected) in [(32, None), (33, Some((400, "sec-websocket-protocol".to_owned())))] {
            let list = names[..count].join(",");
            let fields = GOOD.into_iter().chain([("sec-websocket-protocol", list.as_str())]);
            assert_eq!(refused(&headers(fields)), expected, "{count} names");
        }
    }
}

//! The client's side: writes the request (RFC 6455 §4.1) and checks the server's answer.

use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version,
    header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL, UPGRADE},
};

use super::{
    Key, Refusal, VERSION,
    extensions::{self, Extension},
    fields,
};

/// A request for a WebSocket.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `Host`: the name, with the port unless it is the scheme's own.
    pub host: &'a str,
    /// Path and query, beginning with `/`.
    pub target: &'a str,
    /// Drawn at random for this request.
    pub key: Key,
    /// To offer.
    pub protocols: &'a [&'a str],
    /// `Sec-WebSocket-Extensions`, to offer.
    pub extensions: Option<&'a str>,
}

/// What the server has agreed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer<'h> {
    /// One of those that were offered.
    pub protocol: Option<&'h str>,
    /// Only such as were offered.
    pub extensions: Vec<Extension<'h>>,
}

/// The longest head of an answer that is read, in bytes.
pub const LONGEST_HEAD: usize = 16 * 1024;
/// The most fields of an answer that are read.
const FIELDS: usize = 64;

impl Request<'_> {
    /// The request's bytes. Nothing is escaped: host, target and offers are the caller's own.
    pub fn encode(&self) -> Vec<u8> {
        let Self { host, target, key, protocols, extensions } = self;
        let mut head = format!(
            "GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: {VERSION}\r\nSec-WebSocket-Key: {}\r\n",
            key.as_str()
        );
        if !protocols.is_empty() {
            head.extend(["Sec-WebSocket-Protocol: ", &protocols.join(", "), "\r\n"]);
        }
        if let Some(extensions) = extensions {
            head.extend(["Sec-WebSocket-Extensions: ", extensions, "\r\n"]);
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// Checks an answer.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check<'h>(&self, answer: &'h Response<()>) -> Result<Answer<'h>, Refusal> {
        let headers = answer.headers();
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return refuse(&HeaderName::from_static("status"), "101 Switching Protocols");
        }
        if !fields::list_contains(headers, &UPGRADE, "websocket") {
            return refuse(&UPGRADE, "websocket");
        }
        if !fields::list_contains(headers, &CONNECTION, "upgrade") {
            return refuse(&CONNECTION, "upgrade");
        }
        if fields::once(headers, &SEC_WEBSOCKET_ACCEPT) != Some(&self.key.accept()) {
            return refuse(&SEC_WEBSOCKET_ACCEPT, "the proof that belongs to the key");
        }
        let protocol = match fields::tokens(headers, &SEC_WEBSOCKET_PROTOCOL).as_deref() {
            Some([]) => None,
            Some([protocol]) if self.protocols.contains(protocol) => Some(*protocol),
            _ => return refuse(&SEC_WEBSOCKET_PROTOCOL, "one of those that were offered"),
        };
        let offered =
            |name: &str| self.extensions.is_some_and(|offers| offers.split([',', ';']).any(|o| o.trim() == name));
        match extensions::parse(headers) {
            Some(extensions) if extensions.iter().all(|extension| offered(extension.name)) => {
                Ok(Answer { protocol, extensions })
            }
            _ => refuse(&SEC_WEBSOCKET_EXTENSIONS, "only what was offered"),
        }
    }
}

/// The head of the server's answer at the beginning of `bytes`, and how many bytes it takes; `None` while it is not whole.
///
/// # Errors
/// No HTTP, or a head of more than 16 KiB or 64 fields.
pub fn read_answer(bytes: &[u8]) -> Result<Option<(Response<()>, usize)>, Refusal> {
    let status = HeaderName::from_static("status");
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut parsed = httparse::Response::new(&mut fields);
    let length = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < LONGEST_HEAD => return Ok(None),
        _ => return refuse(&status, "an HTTP/1.1 answer of at most 16 KiB and 64 fields"),
    };
    let mut answer = Response::new(());
    let code = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let (Some(code), Some(1)) = (code, parsed.version) else { return refuse(&status, "HTTP/1.1") };
    *answer.status_mut() = code;
    *answer.version_mut() = Version::HTTP_11;
    for field in parsed.headers.iter() {
        append(answer.headers_mut(), field)?;
    }
    Ok(Some((answer, length)))
}

fn append(headers: &mut HeaderMap, field: &httparse::Header<'_>) -> Result<(), Refusal> {
    let name = HeaderName::try_from(field.name);
    let value = HeaderValue::from_bytes(field.value);
    let (Ok(name), Ok(value)) = (name, value) else {
        return refuse(&HeaderName::from_static("status"), "fields with well formed names and values");
    };
    headers.append(name, value);
    Ok(())
}

fn refuse<T>(field: &HeaderName, expected: &'static str) -> Result<T, Refusal> {
    Err(Refusal { status: StatusCode::BAD_GATEWAY, field: field.clone(), expected })
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::handshake::server;

    const OFFER: Request<'_> = Request {
        host: "example.com",
        target: "/ws?topic=a",
        key: Key(*b"dGhlIHNhbXBsZSBub25jZQ=="),
        protocols: &["countersign.v1", "other"],
        extensions: Some("permessage-deflate; client_max_window_bits"),
    };

    fn answer(text: &str) -> Result<Option<(Response<()>, usize)>, Refusal> {
        read_answer(text.replace('\n', "\r\n").as_bytes())
    }

    #[test]
    fn a_request_is_what_the_servers_side_accepts() {
        let bytes = OFFER.encode();
        let mut fields = [httparse::EMPTY_HEADER; 16];
        let mut parsed = httparse::Request::new(&mut fields);
        assert!(parsed.parse(&bytes).unwrap().is_complete());
        assert_eq!(parsed.path, Some("/ws?topic=a"));
        let mut headers = HeaderMap::new();
        parsed.headers.iter().try_for_each(|field| append(&mut headers, field)).unwrap();
        let request = server::Request::check(&Method::GET, Version::HTTP_11, &headers).unwrap();
        assert_eq!(request.protocols, OFFER.protocols);
        assert_eq!(request.extensions[0].name, "permessage-deflate");
        let accepted = request.accept(Some(HeaderValue::from_static("other")), None);
        assert_eq!(OFFER.check(&accepted).unwrap(), Answer { protocol: Some("other"), extensions: vec![] });
    }

    #[test]
    fn an_answer_is_read_when_its_head_is_whole() {
        let text = "HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\n\n";
        assert!(answer(text.strip_suffix('\n').unwrap()).unwrap().is_none());
        let (read, length) = answer(&format!("{text}frames")).unwrap().unwrap();
        assert_eq!((read.status().as_u16(), length), (101, text.len() + 3));
        assert_eq!(read.headers()["upgrade"], "websocket");
        assert!(answer("SSH-2.0-OpenSSH\n\n").is_err());
        assert!(answer("HTTP/1.0 101 Switching Protocols\n\n").is_err());
        assert!(read_answer(&[b"HTTP/1.1 200 OK\r\n".as_slice(), &[b'x'; LONGEST_HEAD]].concat()).is_err());
    }

    #[test]
    fn an_answer_that_proves_nothing_is_refused() {
        const ACCEPT: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\n";
        for (lines, expected) in [
            (format!("200 OK\nUpgrade: websocket\nConnection: upgrade\n{ACCEPT}"), Some("status")),
            (format!("101 Yes\nConnection: upgrade\n{ACCEPT}"), Some("upgrade")),
            (format!("101 Yes\nUpgrade: websocket\n{ACCEPT}"), Some("connection")),
            ("101 Yes\nUpgrade: websocket\nConnection: upgrade\n".to_owned(), Some("sec-websocket-accept")),
            (
                "101 Yes\nUpgrade: websocket\nConnection: upgrade\nSec-WebSocket-Accept: AAAA\n".to_owned(),
                Some("sec-websocket-accept"),
            ),
            (
                format!("101 Yes\nUpgrade: websocket\nConnection: upgrade\n{ACCEPT}Sec-WebSocket-Protocol: x\n"),
                Some("sec-websocket-protocol"),
            ),
            (
                format!("101 Yes\nUpgrade: websocket\nConnection: upgrade\n{ACCEPT}Sec-WebSocket-Extensions: x\n"),
                Some("sec-websocket-extensions"),
            ),
            (
                format!(
                    "101 Yes\nUpgrade: WebSocket\nConnection: upgrade\n{ACCEPT}\
                     Sec-WebSocket-Extensions: permessage-deflate\nSec-WebSocket-Protocol: other\n"
                ),
                None,
            ),
        ] {
            let (read, _) = answer(&format!("HTTP/1.1 {lines}\n")).unwrap().unwrap();
            let refused = OFFER.check(&read).err().map(|refusal| refusal.field.to_string());
            assert_eq!(refused.as_deref(), expected, "{lines}");
        }
    }
}

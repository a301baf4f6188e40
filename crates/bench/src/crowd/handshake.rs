//! Where to connect, and the handshake of RFC 6455 §4 as text: one request, one answer.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use jsonwebtoken::EncodingKey;
use reqwest::Url;

/// The answer to the handshake is a few hundred bytes.
const LONGEST_HEAD: usize = 8 * 1024;
/// The example key of RFC 6455 §1.3 and the answer that proves that the server speaks WebSocket.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Where to connect.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    host: String,
    path: String,
    /// With what tokens are signed, when the server asks for them.
    secret: Option<EncodingKey>,
}

/// How long a token is good for: longer than any run.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.host, self.path)
    }
}

impl Endpoint {
    /// Reads `ws://host[:port][/path]` and looks the host up.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let url = Url::parse(text).with_context(|| format!("{text:?} is no address such as ws://127.0.0.1:8765/ws"))?;
        ensure!(url.scheme() == "ws", "{text:?}: only ws:// is measured, as TLS is nginx's work");
        let addresses = url.socket_addrs(|| Some(80)).with_context(|| format!("looking up {text:?}"))?;
        let address = *addresses.first().ok_or_else(|| anyhow!("{text:?}: no such host"))?;
        let path = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        Ok(Self { address, host: address.to_string(), path, secret: None })
    }

    /// With a token for each user, signed with this secret (HS256).
    pub(crate) fn with_tokens(self, secret: &str) -> Self {
        Self { secret: Some(EncodingKey::from_secret(secret.as_bytes())), ..self }
    }

    /// Whether the server upgrades one connection, which is closed at once. For waiting until it has started.
    pub(crate) fn is_there(&self) -> bool {
        let ask = || -> Result<Option<usize>> {
            let mut stream = std::net::TcpStream::connect(self.address)?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(self.request("nobody", "").as_bytes())?;
            let mut bytes = vec![0; LONGEST_HEAD];
            let count = stream.read(&mut bytes)?;
            answer(bytes.get(..count).unwrap_or_default())
        };
        matches!(ask(), Ok(Some(_)))
    }

    /// The request of a user; `more` is appended to the query.
    pub(super) fn request(&self, user: &str, more: &str) -> String {
        let separator = if self.path.contains('?') { '&' } else { '?' };
        let Self { host, path, secret, .. } = self;
        let token = secret.as_ref().map_or_else(String::new, |secret| {
            format!("Sec-WebSocket-Protocol: countersign.v1, bearer.{}\r\n", token(user, secret))
        });
        format!(
            "GET {path}{separator}user_id={user}{more} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{token}\r\n"
        )
    }
}

fn token(user: &str, secret: &EncodingKey) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let claims = serde_json::json!({"sub": user, "exp": (now + TOKEN_LIFE).as_secs()});
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, secret).expect("plain claims can be signed")
}

/// Where the answer ends; `None` when it is not complete.
pub(super) fn answer(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        ensure!(bytes.len() < LONGEST_HEAD, "the server's answer to the handshake does not end");
        return Ok(None);
    };
    let head = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default());
    let status = head.lines().next().unwrap_or_default();
    if !status.contains(" 101 ") {
        bail!("the server answered {status:?} to the handshake");
    }
    ensure!(head.contains(ACCEPT), "the server switched protocols, but not to WebSocket");
    Ok(Some(end + 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_keeps_its_path_and_query() {
        let endpoint = Endpoint::parse("ws://127.0.0.1:8765/ws?topic=a").unwrap();
        let request = endpoint.request("u1", "&topic=b");
        assert!(
            request.starts_with("GET /ws?topic=a&user_id=u1&topic=b HTTP/1.1\r\nHost: 127.0.0.1:8765\r\n"),
            "{request}"
        );
        assert!(Endpoint::parse("ws://127.0.0.1:8765").unwrap().request("u", "").starts_with("GET /?user_id=u HTTP"));
    }

    #[test]
    fn an_address_that_cannot_be_measured_is_refused_with_the_reason() {
        assert!(Endpoint::parse("wss://localhost/").unwrap_err().to_string().contains("TLS"));
        assert!(Endpoint::parse("localhost").unwrap_err().to_string().contains("no address"));
    }

    #[test]
    fn an_answer_is_read_when_it_is_complete_and_refused_when_it_is_no_websocket() {
        let good = format!("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n");
        assert_eq!(answer(good.as_bytes()).unwrap(), Some(good.len()));
        assert_eq!(answer(&good.as_bytes()[..good.len() - 1]).unwrap(), None);
        for wrong in ["HTTP/1.1 503 Busy\r\n\r\n", "HTTP/1.1 101 Switching\r\nSec-WebSocket-Accept: no\r\n\r\n"] {
            assert!(answer(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}

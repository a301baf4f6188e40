//! Where to connect, and as whom: the request of each connection, with a key of its own, and whether the answer belongs to
//! it.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use countersign_ws::{
    Compression, deflate,
    handshake::{
        Key,
        client::{LONGEST_HEAD, Request, read_answer},
    },
};
use jsonwebtoken::EncodingKey;
use reqwest::Url;

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
            let key = key();
            stream.write_all(&self.request(key, Compression::None, "nobody", ""))?;
            let mut bytes = vec![0; LONGEST_HEAD];
            let count = stream.read(&mut bytes)?;
            answer(key, Compression::None, bytes.get(..count).unwrap_or_default())
        };
        matches!(ask(), Ok(Some(_)))
    }

    /// The request of a user; `more` is appended to the query.
    pub(super) fn request(&self, key: Key, compression: Compression, user: &str, more: &str) -> Vec<u8> {
        let separator = if self.path.contains('?') { '&' } else { '?' };
        let target = format!("{}{separator}user_id={user}{more}", self.path);
        let token = self.secret.as_ref().map(|secret| format!("bearer.{}", token(user, secret)));
        let offers = [PROTOCOL, token.as_deref().unwrap_or_default()];
        let protocols = if token.is_some() { &offers[..] } else { &[] };
        Request { host: &self.host, target: &target, key, protocols, extensions: offer(compression) }.encode()
    }
}

/// What the gateway answers, so that it need not repeat a token.
const PROTOCOL: &str = "countersign.v1";

/// For one handshake. That it cannot be foretold is for proxies, of which there is none here; that it differs is for
/// servers that might answer by heart.
pub(super) fn key() -> Key {
    Key::new(fastrand::u128(..).to_ne_bytes())
}

fn token(user: &str, secret: &EncodingKey) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let claims = serde_json::json!({"sub": user, "exp": (now + TOKEN_LIFE).as_secs()});
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, secret).expect("plain claims can be signed")
}

/// What is offered when compression is wanted.
fn offer(compression: Compression) -> Option<&'static str> {
    (compression == Compression::Agreed).then_some(deflate::OFFER)
}

/// Where the answer to the handshake with this key ends; `None` when it is not complete.
pub(super) fn answer(key: Key, compression: Compression, bytes: &[u8]) -> Result<Option<usize>> {
    let Some((answer, end)) = read_answer(bytes)? else { return Ok(None) };
    if answer.status().as_u16() != 101 {
        bail!("the server answered {} to the handshake", answer.status());
    }
    let asked = Request { host: "", target: "", key, protocols: &[PROTOCOL], extensions: offer(compression) };
    let agreed = asked.check(&answer).context("the server switched protocols, but not to WebSocket")?;
    let compresses =
        deflate::check(&agreed.extensions).map_err(|expected| anyhow!("the server must answer {expected}"))?;
    ensure!(
        compresses.is_some() == (compression == Compression::Agreed),
        "the server does not compress: is it switched on?"
    );
    Ok(Some(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_keeps_its_path_and_query() {
        let endpoint = Endpoint::parse("ws://127.0.0.1:8765/ws?topic=a").unwrap();
        let request = |endpoint: &Endpoint, more| {
            String::from_utf8(endpoint.request(Key::new([0; 16]), Compression::None, "u1", more)).unwrap()
        };
        let asked = request(&endpoint, "&topic=b");
        assert!(
            asked.starts_with("GET /ws?topic=a&user_id=u1&topic=b HTTP/1.1\r\nHost: 127.0.0.1:8765\r\n"),
            "{asked}"
        );
        let bare = Endpoint::parse("ws://127.0.0.1:8765").unwrap();
        assert!(request(&bare, "").starts_with("GET /?user_id=u1 HTTP"));
        assert!(!request(&bare, "").contains("Protocol"));
        assert!(request(&bare.with_tokens("s"), "").contains("Sec-WebSocket-Protocol: countersign.v1, bearer.ey"));
    }

    #[test]
    fn an_address_that_cannot_be_measured_is_refused_with_the_reason() {
        assert!(Endpoint::parse("wss://localhost/").unwrap_err().to_string().contains("TLS"));
        assert!(Endpoint::parse("localhost").unwrap_err().to_string().contains("no address"));
    }

    #[test]
    fn an_answer_counts_when_it_belongs_to_the_key_of_this_handshake() {
        let (key, other) = (key(), key());
        assert_ne!(key, other);
        let good = |key: Key| {
            let proof = key.accept();
            let proof = proof.to_str().unwrap();
            format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {proof}\r\n\r\n"
            )
        };
        let text = good(key);
        assert_eq!(answer(key, Compression::None, text.as_bytes()).unwrap(), Some(text.len()));
        assert_eq!(answer(key, Compression::None, &text.as_bytes()[..text.len() - 1]).unwrap(), None);
        assert!(answer(key, Compression::None, good(other).as_bytes()).is_err(), "the answer to another handshake");
        assert!(
            answer(key, Compression::Agreed, text.as_bytes()).is_err(),
            "compression was offered, and not agreed to"
        );
        let busy = answer(key, Compression::None, b"HTTP/1.1 503 Busy\r\n\r\n").unwrap_err();
        assert!(busy.to_string().contains("503"), "{busy}");
    }
}

//! Opens a WebSocket by hand: a TCP connection, one request, one answer. No library, so that a thousand connections cost
//! this process next to nothing and the figures are the server's.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, anyhow, bail, ensure};
use reqwest::Url;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const TIMEOUT: Duration = Duration::from_secs(20);
/// The answer to the handshake is a few hundred bytes.
const LONGEST_HEAD: usize = 8 * 1024;
/// The example key of RFC 6455 §1.3 and the answer that proves that the server speaks WebSocket.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Where to connect.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    address: SocketAddr,
    host: String,
    path: String,
}

impl Endpoint {
    /// Reads `ws://host[:port][/path]` and looks the host up.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let url = Url::parse(text).with_context(|| format!("{text:?} is no address such as ws://127.0.0.1:8765/ws"))?;
        ensure!(url.scheme() == "ws", "{text:?}: only ws:// is measured, as TLS is nginx's work");
        let addresses = url.socket_addrs(|| Some(80)).with_context(|| format!("looking up {text:?}"))?;
        let address = *addresses.first().ok_or_else(|| anyhow!("{text:?}: no such host"))?;
        let path = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        Ok(Self { address, host: address.to_string(), path })
    }

    fn request(&self, user: &str) -> String {
        let separator = if self.path.contains('?') { '&' } else { '?' };
        let Self { host, path, .. } = self;
        format!(
            "GET {path}{separator}user_id={user} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
        )
    }
}

/// Connects as a user of open mode; returns the stream and what came behind the answer's head.
pub(crate) async fn connect(endpoint: &Endpoint, user: &str) -> Result<(TcpStream, Vec<u8>)> {
    timeout(TIMEOUT, handshake(endpoint, user)).await.map_err(|_| anyhow!("no handshake within {TIMEOUT:?}"))?
}

async fn handshake(endpoint: &Endpoint, user: &str) -> Result<(TcpStream, Vec<u8>)> {
    let mut stream = TcpStream::connect(endpoint.address).await.context("connecting")?;
    stream.set_nodelay(true).context("switching Nagle's algorithm off")?;
    stream.write_all(endpoint.request(user).as_bytes()).await.context("sending the handshake")?;
    let mut bytes = Vec::with_capacity(512);
    let head = loop {
        ensure!(stream.read_buf(&mut bytes).await? > 0, "the server hung up during the handshake");
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        ensure!(bytes.len() < LONGEST_HEAD, "the server's answer to the handshake does not end");
    };
    let rest = bytes.split_off(head);
    let answer = String::from_utf8_lossy(&bytes);
    let status = answer.lines().next().unwrap_or_default();
    if !status.contains(" 101 ") {
        bail!("the server answered {status:?} to the handshake");
    }
    ensure!(answer.contains(ACCEPT), "the server switched protocols, but not to WebSocket");
    Ok((stream, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_keeps_its_path_and_query() {
        let endpoint = Endpoint::parse("ws://127.0.0.1:8765/ws?topic=a").unwrap();
        assert!(endpoint.request("u1").starts_with("GET /ws?topic=a&user_id=u1 HTTP/1.1\r\nHost: 127.0.0.1:8765\r\n"));
        assert!(Endpoint::parse("ws://127.0.0.1:8765").unwrap().request("u").starts_with("GET /?user_id=u HTTP"));
    }

    #[test]
    fn an_address_that_cannot_be_measured_is_refused_with_the_reason() {
        assert!(Endpoint::parse("wss://localhost/").unwrap_err().to_string().contains("TLS"));
        assert!(Endpoint::parse("localhost").unwrap_err().to_string().contains("no address"));
    }
}

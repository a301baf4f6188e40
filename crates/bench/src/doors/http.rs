//! An HTTP/1.1 connection that writes requests one behind the other and reads the answers. By hand, because the producer's
//! side is measured too and shares its core with the readers.

use std::{
    io::{BufReader, prelude::*},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use reqwest::Url;

use super::Target;

/// A server that does not answer for so long is not there.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A batch is sent when it has grown to this size: far under the gateway's limit for a request.
const LARGEST_BODY: usize = 256 * 1024;

/// Which calls publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Posting {
    /// The gateway's `POST /v1/batch`, and its single calls.
    Gateway,
    /// A `POST` for each message to `/pub?id=<channel>`, as nchan takes them.
    Nchan,
}

#[derive(Debug)]
pub(crate) struct Http {
    posting: Posting,
    host: String,
    /// Lines of the head that are the same for all.
    lines: String,
    stream: TcpStream,
    replies: BufReader<TcpStream>,
    out: Vec<u8>,
    body: Vec<u8>,
    /// Messages in `body`.
    items: usize,
    /// Requests in `out`.
    requests: usize,
}

impl Http {
    pub(crate) fn open(base: &str, api_key: Option<&str>, posting: Posting) -> Result<Self> {
        let url = Url::parse(base).with_context(|| format!("{base:?} is no address such as http://127.0.0.1:8765"))?;
        ensure!(url.scheme() == "http", "{base:?}: only http:// is measured, as TLS is nginx's work");
        let addresses = url.socket_addrs(|| Some(80)).with_context(|| format!("looking up {base:?}"))?;
        let stream = TcpStream::connect(&*addresses).with_context(|| format!("connecting to {base}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let replies = BufReader::new(stream.try_clone()?);
        let host = url.authority().to_owned();
        let lines = api_key.map_or_else(String::new, |key| format!("Authorization: Bearer {key}\r\n"));
        let (out, body) = (Vec::new(), Vec::new());
        Ok(Self { posting, host, lines, stream, replies, out, body, items: 0, requests: 0 })
    }

    pub(super) fn add(&mut self, target: Target<'_>, message: &[u8]) -> Result<()> {
        match self.posting {
            Posting::Gateway => {
                batch_item(&mut self.body, target, message);
                self.items += 1;
                if self.body.len() > LARGEST_BODY {
                    self.flush()?;
                }
            }
            Posting::Nchan => {
                let path = match target {
                    Target::Broadcast => "/pub?id=all".to_owned(),
                    Target::User(index) => format!("/pub?id=bench-{index}"),
                    Target::Topic(name) => format!("/pub?id={name}"),
                };
                self.request(&path, message);
            }
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        if self.items > 0 {
            self.items = 0;
            let mut body = std::mem::take(&mut self.body);
            body.extend_from_slice(b"]}");
            self.request("/v1/batch", &body);
            body.clear();
            self.body = body;
        }
        self.stream.write_all(&self.out).context("sending the request")?;
        self.out.clear();
        for _ in 0..std::mem::take(&mut self.requests) {
            let (status, body) = self.answer().context("reading the answer")?;
            let body = String::from_utf8_lossy(&body);
            // In the results of a batch, what was not published has an error.
            let is_taken = (200..300).contains(&status) && !body.contains(r#""error""#);
            ensure!(is_taken, "the server answered {status} {}", body.chars().take(500).collect::<String>());
        }
        Ok(())
    }

    fn request(&mut self, path: &str, body: &[u8]) {
        let Self { host, lines, .. } = self;
        let head = format_args!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{lines}Content-Length: {}\r\n\r\n",
            body.len()
        );
        self.out.write_fmt(head).expect("writing to memory cannot fail");
        self.out.extend_from_slice(body);
        self.requests += 1;
    }

    /// Status and body. Only bodies of a stated length are read, as the servers here send them.
    fn answer(&mut self) -> Result<(u16, Vec<u8>)> {
        let (mut line, mut status, mut length) = (String::new(), None, 0);
        loop {
            line.clear();
            ensure!(self.replies.read_line(&mut line)? > 0, "the server hung up");
            if status.is_none() {
                status = Some(line.split(' ').nth(1).context("no status")?.parse()?);
            } else if line == "\r\n" {
                break;
            } else if let Some((name, value)) = line.split_once(':') {
                match name.to_ascii_lowercase().as_str() {
                    "content-length" => length = value.trim().parse()?,
                    "transfer-encoding" => bail!("a body of unknown length"),
                    _ => {}
                }
            }
        }
        let mut body = vec![0; length];
        self.replies.read_exact(&mut body)?;
        Ok((status.context("no status")?, body))
    }
}

/// `{"messages":[{"address", "message"}, …`; the messages are JSON already.
fn batch_item(body: &mut Vec<u8>, target: Target<'_>, message: &[u8]) {
    body.extend_from_slice(if body.is_empty() { br#"{"messages":["# } else { b"," });
    let mut text = |text: std::fmt::Arguments<'_>| body.write_fmt(text).expect("writing to memory cannot fail");
    match target {
        Target::Broadcast => text(format_args!(r#"{{"address":"broadcast","message":"#)),
        Target::User(index) => text(format_args!(r#"{{"address":"user:bench-{index}","message":"#)),
        Target::Topic(name) => {
            let address = serde_json::Value::String(format!("topic:{name}"));
            text(format_args!(r#"{{"address":{address},"message":"#));
        }
    }
    body.extend_from_slice(message);
    body.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_one_body_in_order() {
        let mut body = Vec::new();
        batch_item(&mut body, Target::User(3), br#"{"n":1}"#);
        batch_item(&mut body, Target::Broadcast, b"{}");
        body.extend_from_slice(b"]}");
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let expected = serde_json::json!({"messages": [
            {"address": "user:bench-3", "message": {"n": 1}}, {"address": "broadcast", "message": {}}]});
        assert_eq!(body, expected);
    }
}

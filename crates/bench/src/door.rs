//! The producer's doors: bare Redis `PUBLISH`, pipelined, or the gateway's HTTP calls. Both block until the door has
//! answered, because the producer has a thread of its own that does nothing else.

use std::{
    io::{BufReader, prelude::*},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use redis::{ConnectionAddr, IntoConnectionInfo};

/// A door that does not answer for so long is shut.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Broadcast,
    User(String),
    Topic(String),
}

/// A way into the gateway.
#[derive(Debug)]
pub(crate) enum Door {
    Redis(Redis),
    Http(Box<Http>),
}

impl Door {
    /// Publishes messages in order; returns when all were taken.
    pub(crate) fn publish(&mut self, batch: &[(Target, Vec<u8>)]) -> Result<()> {
        match self {
            Self::Redis(redis) => redis.publish(batch),
            Self::Http(http) => http.publish(batch),
        }
    }
}

/// A connection that says `PUBLISH` and counts the answers: a client library would parse each one.
#[derive(Debug)]
pub(crate) struct Redis {
    prefix: String,
    stream: TcpStream,
    replies: BufReader<TcpStream>,
    out: Vec<u8>,
}

impl Redis {
    pub(crate) fn open(url: &str, prefix: &str) -> Result<Self> {
        let info = url.into_connection_info().with_context(|| format!("{url:?} is no address of a Redis"))?;
        let ConnectionAddr::Tcp(host, port) = info.addr() else {
            bail!("{url:?}: only redis:// over TCP can be used as a door");
        };
        let stream = TcpStream::connect((host.as_str(), *port)).with_context(|| format!("connecting to {url}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let replies = BufReader::new(stream.try_clone()?);
        let mut door = Self { prefix: prefix.to_owned(), stream, replies, out: Vec::new() };
        let settings = info.redis_settings();
        if let Some(password) = settings.password() {
            let words = [b"AUTH".as_slice(), settings.username().unwrap_or("default").as_bytes(), password.as_bytes()];
            door.command(&words);
            door.finish(1).context("signing in to Redis")?;
        }
        Ok(door)
    }

    fn publish(&mut self, batch: &[(Target, Vec<u8>)]) -> Result<()> {
        for (target, message) in batch {
            let channel = match target {
                Target::Broadcast => format!("{}:broadcast", self.prefix),
                Target::User(id) => format!("{}:user:{id}", self.prefix),
                Target::Topic(name) => format!("{}:topic:{name}", self.prefix),
            };
            self.command(&[b"PUBLISH", channel.as_bytes(), message]);
        }
        self.finish(batch.len())
    }

    /// RESP: an array of bulk strings (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).
    fn command(&mut self, words: &[&[u8]]) {
        let write = |out: &mut Vec<u8>, text: std::fmt::Arguments<'_>| {
            out.write_fmt(text).expect("writing to memory cannot fail");
        };
        write(&mut self.out, format_args!("*{}\r\n", words.len()));
        for word in words {
            write(&mut self.out, format_args!("${}\r\n", word.len()));
            self.out.extend_from_slice(word);
            self.out.extend_from_slice(b"\r\n");
        }
    }

    /// Sends what was written and reads so many answers, which are single lines.
    fn finish(&mut self, answers: usize) -> Result<()> {
        self.stream.write_all(&self.out).context("sending to Redis")?;
        self.out.clear();
        let mut line = Vec::new();
        for _ in 0..answers {
            line.clear();
            ensure!(self.replies.read_until(b'\n', &mut line).context("hearing from Redis")? > 0, "Redis hung up");
            if !matches!(line.first(), Some(b':' | b'+')) {
                bail!("Redis said {}", String::from_utf8_lossy(&line).trim_end());
            }
        }
        Ok(())
    }
}

/// The gateway's publishing calls.
#[derive(Debug)]
pub(crate) struct Http {
    base: String,
    api_key: Option<String>,
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

impl Http {
    pub(crate) fn open(base: &str, api_key: Option<&str>) -> Result<Self> {
        // Chooses the crypto provider that the HTTP client asks for even without TLS.
        countersign_client::Producer::new(base)?;
        let client = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .tls_certs_only([])
            .build()
            .context("building an HTTP client")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let api_key = api_key.map(str::to_owned);
        Ok(Self { base: base.trim_end_matches('/').to_owned(), api_key, client, runtime })
    }

    /// One request for all, so that their order is kept.
    fn publish(&mut self, batch: &[(Target, Vec<u8>)]) -> Result<()> {
        let (path, body) = match batch {
            [] => return Ok(()),
            [(target, message)] => (path(target), message.clone()),
            many => ("/v1/batch".to_owned(), batch_body(many)),
        };
        self.runtime.block_on(self.post(&path, body))
    }

    async fn post(&self, path: &str, body: Vec<u8>) -> Result<()> {
        let url = format!("{}{path}", self.base);
        let mut request = self.client.post(&url).header("content-type", "application/json").body(body);
        if let Some(key) = &self.api_key {
            request = request.bearer_auth(key);
        }
        let response = request.send().await.with_context(|| format!("POST {url}"))?;
        let status = response.status();
        let body = response.text().await.with_context(|| format!("POST {url}"))?;
        // In the results of a batch, what was not published has an error.
        ensure!(status.is_success() && !body.contains(r#""error""#), "POST {url}: {status} {body}");
        Ok(())
    }
}

fn path(target: &Target) -> String {
    match target {
        Target::Broadcast => "/v1/broadcast".to_owned(),
        Target::User(id) => format!("/v1/users/{id}/messages"),
        Target::Topic(name) => format!("/v1/topics/{name}/messages"),
    }
}

/// `{"messages":[{"address", "message"}, …]}`; the messages are JSON already.
fn batch_body(batch: &[(Target, Vec<u8>)]) -> Vec<u8> {
    let mut body = br#"{"messages":["#.to_vec();
    for (at, (target, message)) in batch.iter().enumerate() {
        let address = match target {
            Target::Broadcast => "broadcast".to_owned(),
            Target::User(id) => format!("user:{id}"),
            Target::Topic(name) => format!("topic:{name}"),
        };
        let comma = if at == 0 { "" } else { "," };
        let address = serde_json::Value::String(address);
        write!(body, r#"{comma}{{"address":{address},"message":"#).expect("writing to memory cannot fail");
        body.extend_from_slice(message);
        body.push(b'}');
    }
    body.extend_from_slice(b"]}");
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_one_body_in_order() {
        let items = [(Target::User("a".into()), b"{\"n\":1}".to_vec()), (Target::Broadcast, b"{}".to_vec())];
        let body: serde_json::Value = serde_json::from_slice(&batch_body(&items)).unwrap();
        let expected = serde_json::json!({"messages": [
            {"address": "user:a", "message": {"n": 1}}, {"address": "broadcast", "message": {}}]});
        assert_eq!(body, expected);
    }
}

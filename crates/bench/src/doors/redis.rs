//! A connection to Redis that writes commands and counts the answers: a client library would parse each one.

use std::{
    io::{BufReader, prelude::*},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use redis::{ConnectionAddr, IntoConnectionInfo};

use super::Target;

/// A Redis that does not answer for so long is not there.
const TIMEOUT: Duration = Duration::from_secs(10);

/// In which command a message travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    /// `PUBLISH` to the gateway's channels.
    Publish,
    /// `XADD` to the gateway's inbox.
    Inbox,
    /// `PUBLISH` to the channels of Socket.IO's Redis adapter.
    SocketIo,
    /// What Sockudo\'s Redis adapter listens to.
    Sockudo,
}

#[derive(Debug)]
pub(crate) struct Redis {
    prefix: String,
    wire: Wire,
    stream: TcpStream,
    replies: BufReader<TcpStream>,
    out: Vec<u8>,
    /// The words of the command that is being written.
    channel: Vec<u8>,
    body: Vec<u8>,
    commands: usize,
}

impl Redis {
    pub(crate) fn open(url: &str, prefix: &str, wire: Wire) -> Result<Self> {
        let info = url.into_connection_info().with_context(|| format!("{url:?} is no address of a Redis"))?;
        let ConnectionAddr::Tcp(host, port) = info.addr() else {
            bail!("{url:?}: only redis:// over TCP can be used as a door");
        };
        let stream = TcpStream::connect((host.as_str(), *port)).with_context(|| format!("connecting to {url}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let replies = BufReader::new(stream.try_clone()?);
        let (out, channel, body) = (Vec::new(), Vec::new(), Vec::new());
        let mut door = Self { prefix: prefix.to_owned(), wire, stream, replies, out, channel, body, commands: 0 };
        let settings = info.redis_settings();
        if let Some(password) = settings.password() {
            let user = settings.username().unwrap_or("default");
            command(&mut door.out, &[b"AUTH", user.as_bytes(), password.as_bytes()]);
            door.commands = 1;
            door.flush().context("signing in to Redis")?;
        }
        Ok(door)
    }

    pub(super) fn add(&mut self, target: Target<'_>, message: &[u8]) {
        let Self { prefix, wire, out, channel, body, .. } = self;
        channel.clear();
        body.clear();
        match wire {
            Wire::Publish => {
                match target {
                    Target::Broadcast => text(channel, format_args!("{prefix}:broadcast")),
                    Target::User(index) => text(channel, format_args!("{prefix}:user:bench-{index}")),
                    Target::Topic(name) => text(channel, format_args!("{prefix}:topic:{name}")),
                }
                command(out, &[b"PUBLISH", channel, message]);
            }
            Wire::Inbox => {
                text(channel, format_args!("{prefix}:inbox"));
                let [add, key, id, op]: [&[u8]; 4] = [b"XADD", channel, b"*", b"op"];
                match target {
                    Target::Broadcast => command(out, &[add, key, id, op, b"broadcast", b"body", message]),
                    Target::User(index) => {
                        text(body, format_args!("bench-{index}"));
                        command(out, &[add, key, id, op, b"user", b"user_id", body, b"body", message]);
                    }
                    Target::Topic(name) => {
                        let name = name.as_bytes();
                        command(out, &[add, key, id, op, b"topic", b"topic", name, b"body", message]);
                    }
                }
            }
            Wire::SocketIo => {
                match target {
                    Target::Broadcast => text(channel, format_args!("socket.io#/#")),
                    Target::User(index) => text(channel, format_args!("socket.io#/#bench-{index}#")),
                    Target::Topic(name) => text(channel, format_args!("socket.io#/#{name}#")),
                }
                socket_io_packet(body, target, message);
                command(out, &[b"PUBLISH", channel, body]);
            }
            Wire::Sockudo => {
                sockudo_broadcast(body, target, message);
                command(out, &[b"PUBLISH", b"sockudo_adapter::#broadcast", body]);
            }
        }
        self.commands += 1;
    }

    /// Sends what was written and reads so many answers.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.stream.write_all(&self.out).context("sending to Redis")?;
        self.out.clear();
        let mut line = Vec::new();
        let mut awaited = std::mem::take(&mut self.commands);
        while awaited > 0 {
            line.clear();
            ensure!(self.replies.read_until(b'\n', &mut line).context("hearing from Redis")? > 0, "Redis hung up");
            match line.first() {
                // A bulk string: its text, here the id of an entry, is the next line.
                Some(b'$') => {}
                Some(b'-') => bail!("Redis said {}", String::from_utf8_lossy(&line).trim_end()),
                _ => awaited -= 1,
            }
        }
        Ok(())
    }
}

/// RESP: an array of bulk strings (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).
fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    text(out, format_args!("*{}\r\n", words.len()));
    for word in words {
        text(out, format_args!("${}\r\n", word.len()));
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// The packet of Socket.IO's Redis adapter, in MessagePack: `[sender, {type: 2, data: ["m", message], nsp: "/"}, {rooms}]`.
/// The message goes as an object of its three members, as an application would emit it.
fn socket_io_packet(body: &mut Vec<u8>, target: Target<'_>, message: &[u8]) {
    const FIXED_ARRAY: u8 = 0x90;
    const FIXED_MAP: u8 = 0x80;
    let Numbered { n, t, pad } = serde_json::from_slice(message).unwrap_or_default();
    body.extend_from_slice(&[FIXED_ARRAY | 3]);
    string(body, "bench");
    body.push(FIXED_MAP | 3);
    string(body, "type");
    body.push(2);
    string(body, "data");
    body.push(FIXED_ARRAY | 2);
    string(body, "m");
    body.push(FIXED_MAP | 3);
    string(body, "n");
    unsigned(body, n);
    string(body, "t");
    unsigned(body, t);
    string(body, "pad");
    string(body, pad);
    string(body, "nsp");
    string(body, "/");
    body.push(FIXED_MAP | 1);
    string(body, "rooms");
    match target {
        Target::Broadcast => body.push(FIXED_ARRAY),
        Target::User(index) => {
            body.push(FIXED_ARRAY | 1);
            string(body, &format!("bench-{index}"));
        }
        Target::Topic(name) => {
            body.push(FIXED_ARRAY | 1);
            string(body, name);
        }
    }
}

/// What a node of Sockudo tells the others: an object whose `message` is a string with the event, whose `data` is a string
/// with the message.
fn sockudo_broadcast(body: &mut Vec<u8>, target: Target<'_>, message: &[u8]) {
    let user;
    let channel = match target {
        Target::Broadcast => "all",
        Target::Topic(name) => name,
        Target::User(index) => {
            user = crate::crowd::user(index);
            &user
        }
    };
    text(
        body,
        format_args!(
            r#"{{"node_id":"bench","app_id":"bench","channel":"{channel}","except_socket_id":null,"message":"{{\"event\":\"m\",\"channel\":\"{channel}\",\"data\":\""#
        ),
    );
    // A quote of the message stands in a string in a string.
    for (at, part) in message.split(|byte| *byte == b'"').enumerate() {
        if at > 0 {
            body.extend_from_slice(br#"\\\""#);
        }
        body.extend_from_slice(part);
    }
    body.extend_from_slice(br#"\"}"}"#);
}

/// A numbered message, taken apart.
#[derive(Default, serde::Deserialize)]
struct Numbered<'a> {
    n: u64,
    t: u64,
    #[serde(default)]
    pad: &'a str,
}

/// MessagePack's uint 64 (<https://github.com/msgpack/msgpack/blob/master/spec.md>). A receiver in JavaScript reads a
/// number above 2^32 exactly up to 2^53, which is more than either member has.
fn unsigned(body: &mut Vec<u8>, number: u64) {
    body.push(0xCF);
    body.extend_from_slice(&number.to_be_bytes());
}

/// MessagePack's str 16, which is long enough for every message here.
fn string(body: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    body.push(0xDA);
    body.extend_from_slice(&length.to_be_bytes());
    body.extend_from_slice(text.as_bytes().get(..length.into()).unwrap_or_default());
}

fn text(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to memory cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::{content::Content, message::Template};

    #[test]
    fn a_command_is_an_array_of_bulk_strings() {
        let mut out = Vec::new();
        command(&mut out, &[b"PUBLISH", b"cs:broadcast", b"{}"]);
        assert_eq!(out, b"*3\r\n$7\r\nPUBLISH\r\n$12\r\ncs:broadcast\r\n$2\r\n{}\r\n");
    }

    #[test]
    fn what_sockudo_hears_is_an_event_in_a_string_with_the_message_in_a_string() {
        let (mut body, mut template) = (Vec::new(), Template::new(80, Content::Pad));
        let message = template.write(5, 9).to_vec();
        sockudo_broadcast(&mut body, Target::User(7), &message);
        let told: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(told["channel"], "bench-7");
        let event: serde_json::Value = serde_json::from_str(told["message"].as_str().unwrap()).unwrap();
        assert_eq!((event["event"].as_str(), event["channel"].as_str()), (Some("m"), Some("bench-7")));
        assert_eq!(event["data"].as_str().unwrap().as_bytes(), message);
    }

    #[test]
    fn a_packet_of_socket_io_names_its_room_and_carries_the_members() {
        let (mut body, mut template) = (Vec::new(), Template::new(80, Content::Pad));
        socket_io_packet(&mut body, Target::User(7), template.write(5, 9));
        let has = |words: &[u8]| body.windows(words.len()).any(|window| window == words);
        assert!(has(b"bench-7") && has(b"rooms") && has(&10_000_000_005u64.to_be_bytes()), "{body:?}");
    }
}

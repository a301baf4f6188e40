//! The floor: the least that a server can do that hears Redis and tells it to WebSockets. One thread, one epoll loop, a
//! frame built once, one `send` a connection for everything that one read of Redis brought. No limits, no health, no
//! positions: what a gateway costs beyond this is what its features cost.
//!
//! `bench-floor PORT REDIS_PORT` listens on loopback. `GET …?user_id=<id>` hears `cs:broadcast` and `cs:user:<id>`; what
//! a client says is echoed. Of the handshake it reads what the load generator says.

mod resp;

use std::{
    collections::HashMap,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr},
};

use anyhow::{Context, Result, bail};
use countersign_ws::{Opcode, frame::append_server, handshake::Key};
use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};

const LISTENER: Token = Token(usize::MAX - 1);
const REDIS: Token = Token(usize::MAX - 2);
const READ_BYTES: usize = 64 * 1024;

struct Connection {
    stream: TcpStream,
    is_open: bool,
    user: Vec<u8>,
    rest: Vec<u8>,
    out: Vec<u8>,
}

struct Floor {
    poll: Poll,
    listener: TcpListener,
    redis: TcpStream,
    redis_in: Vec<u8>,
    redis_out: Vec<u8>,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    users: HashMap<Vec<u8>, usize>,
    buffer: Vec<u8>,
    /// The frames for everybody of one read of Redis.
    run: Vec<u8>,
    /// Those who have something to be sent of their own.
    dirty: Vec<usize>,
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let mut port = |what: &str| -> Result<SocketAddr> {
        let port = args.next().with_context(|| format!("bench-floor PORT REDIS_PORT: no {what}"))?;
        Ok((Ipv4Addr::LOCALHOST, port.parse().with_context(|| format!("{port:?} is no {what}"))?).into())
    };
    let (own, redis) = (port("PORT")?, port("REDIS_PORT")?);
    let mut listener = TcpListener::bind(own).with_context(|| format!("listening on {own}"))?;
    let redis = std::net::TcpStream::connect(redis).with_context(|| format!("connecting to Redis on {redis}"))?;
    redis.set_nonblocking(true)?;
    let mut redis = TcpStream::from_std(redis);
    let poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    poll.registry().register(&mut redis, REDIS, Interest::READABLE | Interest::WRITABLE)?;
    let mut floor = Floor {
        poll,
        listener,
        redis,
        redis_in: Vec::new(),
        redis_out: Vec::new(),
        connections: Vec::new(),
        free: Vec::new(),
        users: HashMap::new(),
        buffer: vec![0; READ_BYTES],
        run: Vec::new(),
        dirty: Vec::new(),
    };
    resp::command(&mut floor.redis_out, &[b"SUBSCRIBE", b"cs:broadcast"]);
    floor.run()
}

impl Floor {
    fn run(&mut self) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            if let Err(error) = self.poll.poll(&mut events, None)
                && error.kind() != ErrorKind::Interrupted
            {
                return Err(error).context("waiting");
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    REDIS => self.hear_redis()?,
                    Token(at) => {
                        if self.turn(at).is_err() {
                            self.drop_connection(at);
                        }
                    }
                }
            }
            // The subscriptions of all handshakes of this turn.
            send(&mut self.redis, &mut self.redis_out).context("sending to Redis")?;
        }
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("accepting"),
            };
            stream.set_nodelay(true)?;
            let at = self.free.pop().unwrap_or(self.connections.len());
            self.poll.registry().register(&mut stream, Token(at), Interest::READABLE | Interest::WRITABLE)?;
            let connection = Connection { stream, is_open: false, user: Vec::new(), rest: Vec::new(), out: Vec::new() };
            match self.connections.get_mut(at) {
                Some(seat) => *seat = Some(connection),
                None => self.connections.push(Some(connection)),
            }
        }
    }

    /// Reads Redis until nothing is left; each read is delivered before the next.
    fn hear_redis(&mut self) -> Result<()> {
        loop {
            match self.redis.read(&mut self.buffer) {
                Ok(0) => bail!("Redis hung up"),
                Ok(count) => self.redis_in.extend_from_slice(self.buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("reading from Redis"),
            }
            let mut read = 0;
            while let Some((words, end)) = resp::message(self.redis_in.get(read..).unwrap_or_default()) {
                read += end;
                match words {
                    [b"message", b"cs:broadcast", text] => append_server(Opcode::Text, text, &mut self.run),
                    [b"message", channel, text] => {
                        let user = channel.strip_prefix(b"cs:user:").unwrap_or_default();
                        if let Some(&at) = self.users.get(user)
                            && let Some(Some(connection)) = self.connections.get_mut(at)
                        {
                            if connection.out.is_empty() {
                                self.dirty.push(at);
                            }
                            append_server(Opcode::Text, text, &mut connection.out);
                        }
                    }
                    _ => {}
                }
            }
            self.redis_in.drain(..read);
            self.deliver();
        }
    }

    fn deliver(&mut self) {
        let mut ended = Vec::new();
        if !self.run.is_empty() {
            for (at, connection) in self.connections.iter_mut().enumerate() {
                let Some(connection) = connection else { continue };
                if connection.is_open && connection.tell(&self.run).is_err() {
                    ended.push(at);
                }
            }
            self.run.clear();
        }
        for at in self.dirty.drain(..) {
            if let Some(Some(Connection { stream, out, .. })) = self.connections.get_mut(at)
                && send(stream, out).is_err()
            {
                ended.push(at);
            }
        }
        for at in ended {
            self.drop_connection(at);
        }
    }

    /// A client's socket can be read or written.
    fn turn(&mut self, at: usize) -> Result<()> {
        let Some(Some(connection)) = self.connections.get_mut(at) else { return Ok(()) };
        send(&mut connection.stream, &mut connection.out)?;
        loop {
            match connection.stream.read(&mut self.buffer) {
                Ok(0) => bail!("the client hung up"),
                Ok(count) => connection.rest.extend_from_slice(self.buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
            if connection.is_open {
                connection.echo()?;
            } else if connection.rest.ends_with(b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&connection.rest).into_owned();
                let user = head.split_once("user_id=").map_or("", |(_, rest)| rest);
                let user = user.split([' ', '&']).next().unwrap_or_default();
                (connection.is_open, connection.user) = (true, user.into());
                connection.rest = Vec::new();
                let key = head.split_once("Sec-WebSocket-Key: ").and_then(|(_, rest)| rest.split("\r\n").next());
                let key = key.and_then(|key| Key::parse(key.as_bytes())).context("a handshake without a key")?;
                connection.out.extend_from_slice(&answer(key));
                self.users.insert(user.into(), at);
                let channel = format!("cs:user:{user}");
                resp::command(&mut self.redis_out, &[b"SUBSCRIBE", channel.as_bytes()]);
            }
            send(&mut connection.stream, &mut connection.out)?;
        }
        if connection.rest.is_empty() {
            // An idle connection keeps no buffer.
            connection.rest = Vec::new();
        }
        Ok(())
    }

    fn drop_connection(&mut self, at: usize) {
        if let Some(connection) = self.connections.get_mut(at).and_then(Option::take) {
            self.users.remove(&connection.user);
            self.free.push(at);
        }
    }
}

impl Connection {
    /// Sends what is for everybody, behind what is left.
    fn tell(&mut self, run: &[u8]) -> Result<()> {
        let sent = if self.out.is_empty() {
            match self.stream.write(run) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error.into()),
            }
        } else {
            0
        };
        self.out.extend_from_slice(run.get(sent..).unwrap_or_default());
        Ok(())
    }

    /// Sends back every complete text of at most 125 bytes, which a ping is.
    fn echo(&mut self) -> Result<()> {
        let mut read = 0;
        while let Some(&[first, second, a, b, c, d]) = self.rest.get(read..).and_then(|rest| rest.first_chunk()) {
            let length = usize::from(second & 0x7F);
            if first & 0x0F != 1 || length > 125 {
                bail!("only short texts are echoed");
            }
            let Some(masked) = self.rest.get(read + 6..read + 6 + length) else { break };
            self.out.extend_from_slice(&[0x81, second & 0x7F]);
            self.out.extend(masked.iter().zip([a, b, c, d].into_iter().cycle()).map(|(byte, mask)| byte ^ mask));
            read += 6 + length;
        }
        self.rest.drain(..read);
        Ok(())
    }
}

/// To the handshake with this key (RFC 6455 §4.2.2).
fn answer(key: Key) -> Vec<u8> {
    let head =
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ";
    [head, key.accept().as_bytes(), b"\r\n\r\n"].concat()
}

/// Writes as far as the socket takes it.
fn send(stream: &mut TcpStream, out: &mut Vec<u8>) -> Result<()> {
    while !out.is_empty() {
        match stream.write(out) {
            Ok(count) if count == out.len() => *out = Vec::new(),
            Ok(count) => drop(out.drain(..count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

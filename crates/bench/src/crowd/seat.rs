//! One connection of a reader, from handshake to end. What the last read left over, the beginning of a frame, is put
//! before the next read in the thread's one buffer, so that frames are always found whole and in place.

use std::{
    io::{ErrorKind, Read, Write},
    net::SocketAddr,
};

use anyhow::{Context as _, Result, bail};
use countersign_ws::{
    Compression, Inflater, Opcode, Role, close,
    frame::{self, Split},
    handshake::Key,
};
use mio::{Interest, Registry, Token, net::TcpStream};
use socket2::{Domain, Socket, Type};

use super::{
    Listener, NO_MASK,
    handshake::{self, Endpoint},
};
use crate::account::meter::Meter;

/// Bytes; the kernel makes twice as many of it (socket(7)).
const LEAST_BUFFER: usize = 2048;
/// Bytes of a segment, as on Ethernet. On loopback they have 64 KiB, and for those a server's kernel would keep more than a
/// megabyte for one who does not read.
const SEGMENT: u32 = 1460;
/// Linux's EINPROGRESS: a connection is being made (connect(2)).
const IN_PROGRESS: i32 = 115;

/// Bytes of a compressed message when it is inflated: more than any gateway publishes.
const LONGEST_MESSAGE: usize = 16 * 1024 * 1024;

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    Closed,
    /// For its turn to be opened.
    Waiting,
    Opening,
    Open,
    Ready,
}

/// What the connections of a thread share.
pub(super) struct Room {
    pub(super) registry: Registry,
    pub(super) buffer: Vec<u8>,
    pub(super) meter: Meter,
    pub(super) inflater: Inflater,
    pub(super) now: u64,
}

pub(super) struct Seat<L> {
    pub(super) index: u64,
    pub(super) listener: L,
    pub(super) standing: Standing,
    /// How it ended, each time that the server was at fault.
    pub(super) ends: Vec<String>,
    /// When to open it again.
    pub(super) again: Option<u64>,
    stream: Option<TcpStream>,
    /// Of the handshake that is on the way.
    key: Option<Key>,
    compression: Compression,
    /// The beginning of a frame, or of the answer to the handshake.
    rest: Vec<u8>,
    /// What the socket did not take yet.
    out: Vec<u8>,
}

impl<L: Listener> Seat<L> {
    pub(super) fn new(index: u64, listener: L) -> Self {
        let standing = Standing::Waiting;
        let (rest, out) = (Vec::new(), Vec::new());
        let compression = if listener.compresses() { Compression::Agreed } else { Compression::None };
        let (ends, again, stream, key) = (Vec::new(), None, None, None);
        Self { index, listener, standing, ends, again, stream, key, compression, rest, out }
    }

    /// Begins to connect.
    pub(super) fn open(&mut self, endpoint: &Endpoint, token: Token, room: &Room) -> Result<()> {
        self.standing = Standing::Opening;
        let connecting =
            if self.listener.reads() { TcpStream::connect(endpoint.address) } else { narrow(endpoint.address) };
        let mut stream = connecting.context("connecting")?;
        room.registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        self.stream = Some(stream);
        self.rest = Vec::new();
        let key = handshake::key();
        self.key = Some(key);
        self.out = endpoint.request(key, self.compression, &super::user(self.index), &self.listener.query());
        Ok(())
    }

    /// The socket can be read or written.
    pub(super) fn turn(&mut self, room: &mut Room, has_hung_up: bool) -> Result<()> {
        if self.stream.is_none() {
            return Ok(());
        }
        self.send()?;
        // The handshake is read by everybody.
        if has_hung_up || self.standing < Standing::Ready || self.listener.reads() {
            self.read(room, has_hung_up)?;
        }
        self.send()
    }

    /// It is the time that the listener named.
    pub(super) fn wake(&mut self, room: &mut Room) -> Result<()> {
        if self.standing > Standing::Opening {
            self.listener.wake(room.now, &mut self.out);
        }
        self.send()
    }

    /// The connection is over; when to open it again.
    pub(super) fn close(&mut self, room: &mut Room, why: Option<String>) -> Option<u64> {
        self.standing = Standing::Closed;
        if let Some(mut stream) = self.stream.take() {
            // Closing the socket takes it out of the epoll instance as well.
            drop(room.registry.deregister(&mut stream));
        }
        self.again = self.listener.ended(room.now);
        // Who comes back was cut on purpose, or its server was.
        if self.again.is_none() {
            self.ends.extend(why);
        }
        self.again
    }

    /// Writes what is there to be written, as far as the socket takes it.
    fn send(&mut self) -> Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        while !self.out.is_empty() {
            match stream.write(&self.out) {
                // Still connecting, or full: its next event says when to go on.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context(self.doing("sending")),
                Ok(count) => drop(self.out.drain(..count)),
            }
        }
        Ok(())
    }

    /// Reads until nothing is left. A read that does not fill the buffer has emptied the socket (epoll(7)), unless it
    /// has been closed behind it.
    fn read(&mut self, room: &mut Room, has_hung_up: bool) -> Result<()> {
        loop {
            let kept = self.rest.len();
            if kept * 2 > room.buffer.len() {
                room.buffer.resize(room.buffer.len() * 2, 0);
            }
            let Some(stream) = &mut self.stream else { return Ok(()) };
            let (before, free) = room.buffer.split_at_mut(kept);
            let count = match stream.read(free) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context(self.doing("reading")),
                Ok(0) => bail!("{}: the server hung up", self.doing("reading")),
                Ok(count) => count,
            };
            before.copy_from_slice(&self.rest);
            let is_emptied = count < free.len();
            let bytes = room.buffer.get(..kept + count).unwrap_or_default();
            if self.standing == Standing::Ready {
                room.meter.bytes += count as u64;
            }
            self.hear(bytes, room.now, &mut room.meter, &mut room.inflater)?;
            if is_emptied && !has_hung_up {
                return Ok(());
            }
        }
    }

    fn hear(&mut self, bytes: &[u8], now: u64, meter: &mut Meter, inflater: &mut Inflater) -> Result<()> {
        let mut left = bytes;
        if self.standing == Standing::Opening {
            let key = self.key.context("an answer to a handshake that nobody has begun")?;
            let Some(end) = handshake::answer(key, self.compression, bytes)? else {
                self.rest = bytes.to_vec();
                return Ok(());
            };
            left = bytes.get(end..).unwrap_or_default();
            let is_ready = self.listener.opened(now, &mut self.out);
            self.standing = if is_ready { Standing::Ready } else { Standing::Open };
        }
        while let Some(Split { header, payload, rest }) = frame::split_first(Role::Client, self.compression, left)? {
            left = rest;
            match header.opcode {
                Opcode::Text | Opcode::Binary if header.last => {
                    let payload = if header.compressed {
                        if self.standing == Standing::Ready && self.listener.skim(meter) {
                            continue;
                        }
                        inflater.inflate(payload, LONGEST_MESSAGE)?
                    } else {
                        payload
                    };
                    if self.standing == Standing::Open && self.listener.is_ready(payload) {
                        self.standing = Standing::Ready;
                    }
                    self.listener.hear(payload, now, meter, &mut self.out);
                }
                Opcode::Text | Opcode::Binary | Opcode::Continuation => {
                    bail!("the server sent a message in fragments, which this load generator does not join")
                }
                Opcode::Ping => frame::append_client(Opcode::Pong, payload, NO_MASK, &mut self.out),
                Opcode::Pong => {}
                Opcode::Close => match close::parse(payload)? {
                    Some((code, reason)) => bail!("{code} {reason}"),
                    None => bail!("closed without a code"),
                },
            }
        }
        self.rest.clear();
        self.rest.extend_from_slice(left);
        Ok(())
    }

    fn doing(&self, what: &str) -> String {
        let during = if self.standing == Standing::Opening { " during the handshake" } else { "" };
        format!("{what}{during}")
    }
}

/// Begins to connect with little room in both kernels.
fn narrow(address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(LEAST_BUFFER)?;
    socket.set_tcp_mss(SEGMENT)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(IN_PROGRESS) => Err(error),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

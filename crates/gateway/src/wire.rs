//! The socket under a connection: bytes in and out, never blocking, by shared reference, so that a fan-out writes into it
//! while the connection's task waits for what the client says.

use std::{
    io,
    task::{Context, Poll},
};

use tokio::net::{TcpStream, UnixStream};

use crate::hub::Sink;

/// See the module.
#[derive(Debug)]
pub(crate) enum Wire {
    /// A connection from the network, as nearly all are.
    Tcp(TcpStream),
    /// One end of a pair, where the other belongs to a server that is not ours, such as one with TLS.
    Pair(UnixStream),
}

impl Wire {
    /// Reads what is there; `WouldBlock` when nothing is, 0 at the end.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(buffer),
            Self::Pair(stream) => stream.try_read(buffer),
        }
    }

    /// Whether there may be something to read; wakes the task otherwise, when there is.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Pair(stream) => stream.poll_read_ready(cx),
        }
    }
}

impl Sink for Wire {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Pair(stream) => stream.try_write(bytes),
        }
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(cx),
            Self::Pair(stream) => stream.poll_write_ready(cx),
        }
    }
}

//! The socket under a connection. It belongs to the connection's outbox: the connection's task reads from it, whoever fans
//! messages out writes to it, and neither ever blocks.

use std::{
    fmt,
    io::{self, Read},
    task::{Context, Poll, ready},
};

use socket2::SockRef;
use tokio::{
    io::Interest,
    net::{TcpStream, UnixStream},
};

/// See the module.
pub(crate) enum Wire {
    /// Of a connection from the network, as nearly all are.
    Tcp(TcpStream),
    /// One end of a pair, where the other belongs to a server that is not ours, such as one with TLS.
    Pair(UnixStream),
    /// In the simulation.
    #[cfg(test)]
    Simulated(crate::simulation::ServerEnd),
    /// That takes as much as a test says.
    #[cfg(test)]
    Made(Box<dyn crate::hub::Sink>),
}

/// The same for both kinds of streams, which share no trait.
macro_rules! poll_read {
    ($stream:expr, $cx:expr, $buffer:expr) => {
        loop {
            ready!($stream.poll_read_ready($cx))?;
            let mut read = None;
            let tried = $stream.try_io(Interest::READABLE, || match (&*SockRef::from($stream)).read($buffer)? {
                // There was no more: the next read would block, and need not be made to learn that.
                bytes if 0 < bytes && bytes < $buffer.len() => {
                    read = Some(bytes);
                    Err(io::ErrorKind::WouldBlock.into())
                }
                bytes => Ok(bytes),
            });
            match (read, tried) {
                (Some(bytes), _) => return Poll::Ready(Ok(bytes)),
                (None, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                (None, Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                (None, tried) => return Poll::Ready(tried),
            }
        }
    };
}

impl Wire {
    /// Reads what is there, in one call of the system; 0 at the end. Wakes the task when there is something, else.
    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => poll_read!(stream, cx, buffer),
            Self::Pair(stream) => poll_read!(stream, cx, buffer),
            #[cfg(test)]
            Self::Simulated(end) => end.poll_read(cx, buffer),
            #[cfg(test)]
            Self::Made(_) => Poll::Pending,
        }
    }

    /// Writes what fits; `WouldBlock` when nothing does.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Pair(stream) => stream.try_write(bytes),
            #[cfg(test)]
            Self::Simulated(end) => end.try_write(bytes),
            #[cfg(test)]
            Self::Made(sink) => sink.try_write(bytes),
        }
    }

    /// Whether it may be worth trying again after `WouldBlock`; wakes the task otherwise, when it is.
    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(cx),
            Self::Pair(stream) => stream.poll_write_ready(cx),
            #[cfg(test)]
            Self::Simulated(end) => end.poll_writable(cx),
            #[cfg(test)]
            Self::Made(sink) => sink.poll_writable(cx),
        }
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

#[cfg(test)]
impl<S: crate::hub::Sink + 'static> From<Box<S>> for Wire {
    fn from(sink: Box<S>) -> Self {
        Self::Made(sink)
    }
}

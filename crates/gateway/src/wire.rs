//! The socket under a connection, in two halves: the ear belongs to the connection's task, the mouth is shared with whoever
//! writes to it, and neither ever blocks.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    net::{TcpStream, UnixStream, tcp, unix},
};

use crate::hub::Sink;

/// What the client says.
#[derive(Debug)]
pub(crate) enum Ear {
    /// Of a connection from the network, as nearly all are.
    Tcp(tcp::OwnedReadHalf),
    /// Of one end of a pair, where the other belongs to a server that is not ours, such as one with TLS.
    Pair(unix::OwnedReadHalf),
    /// In the simulation.
    #[cfg(test)]
    Simulated(crate::simulation::ServerEar),
}

/// What the client is told.
#[derive(Debug)]
pub(crate) enum Mouth {
    /// As [`Ear::Tcp`].
    Tcp(tcp::OwnedWriteHalf),
    /// As [`Ear::Pair`].
    Pair(unix::OwnedWriteHalf),
    /// In the simulation.
    #[cfg(test)]
    Simulated(crate::simulation::ServerMouth),
}

/// Both halves of a connection from the network.
pub(crate) fn of_tcp(stream: TcpStream) -> (Ear, Mouth) {
    let (ear, mouth) = stream.into_split();
    (Ear::Tcp(ear), Mouth::Tcp(mouth))
}

/// Both halves of one end of a pair.
pub(crate) fn of_pair(stream: UnixStream) -> (Ear, Mouth) {
    let (ear, mouth) = stream.into_split();
    (Ear::Pair(ear), Mouth::Pair(mouth))
}

impl Ear {
    /// Reads what is there, in one call of the system; 0 at the end. Wakes the task when there is something, else.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        let read = match self {
            Self::Tcp(half) => Pin::new(half).poll_read(cx, &mut buffer),
            Self::Pair(half) => Pin::new(half).poll_read(cx, &mut buffer),
            #[cfg(test)]
            Self::Simulated(ear) => ear.poll_read(cx, &mut buffer),
        };
        ready!(read)?;
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl Sink for Mouth {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.try_write(bytes),
            Self::Pair(half) => half.try_write(bytes),
            #[cfg(test)]
            Self::Simulated(mouth) => mouth.try_write(bytes),
        }
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(half) => half.as_ref().poll_write_ready(cx),
            Self::Pair(half) => half.as_ref().poll_write_ready(cx),
            #[cfg(test)]
            Self::Simulated(mouth) => mouth.poll_writable(cx),
        }
    }
}

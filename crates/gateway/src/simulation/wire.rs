//! A socket without a network: what the kernel would hold of either direction, and who is woken when that changes. The client's
//! end takes as many bytes as the story says.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use super::chronicle::Chronicle;

/// The gateway's end. Dropping it closes the socket.
pub(crate) struct ServerEnd(Arc<Pipe>);

/// The client's end. Dropping it closes the socket.
pub(super) struct ClientEnd(Arc<Pipe>);

struct Pipe {
    chronicle: Arc<Chronicle>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Bytes that the kernel takes for the client before it blocks.
    room: usize,
    /// What was written, and in which turn.
    to_client: VecDeque<(u64, VecDeque<u8>)>,
    from_client: VecDeque<u8>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    server_gone: bool,
    client_gone: bool,
}

/// Both ends of a socket whose kernel holds so many bytes for the client.
pub(super) fn socket(chronicle: &Arc<Chronicle>, room: usize) -> (ServerEnd, ClientEnd) {
    let state = Mutex::new(State { room, ..State::default() });
    let pipe = Arc::new(Pipe { chronicle: Arc::clone(chronicle), state });
    (ServerEnd(Arc::clone(&pipe)), ClientEnd(pipe))
}

impl Pipe {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics in here")
    }
}

impl ServerEnd {
    pub(crate) fn poll_read(&self, cx: &Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock();
        if state.from_client.is_empty() && !state.client_gone {
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let bytes = buffer.len().min(state.from_client.len());
        for (into, byte) in buffer.iter_mut().zip(state.from_client.drain(..bytes)) {
            *into = byte;
        }
        Poll::Ready(Ok(bytes))
    }

    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let turn = self.0.chronicle.turn();
        let mut state = self.0.lock();
        if state.client_gone {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = bytes.len().min(state.room);
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.room -= taken;
        state.to_client.push_back((turn, bytes[..taken].iter().copied().collect()));
        Ok(taken)
    }

    pub(crate) fn poll_writable(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        if state.client_gone || state.room > 0 {
            return Poll::Ready(Ok(()));
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl ClientEnd {
    /// Takes at most so many bytes, with the turn in which they were written.
    pub(super) fn read(&self, most: usize) -> Option<(u64, Vec<u8>)> {
        let mut state = self.0.lock();
        let (turn, first) = state.to_client.front_mut()?;
        let turn = *turn;
        let bytes: Vec<u8> = first.drain(..most.min(first.len())).collect();
        if first.is_empty() {
            state.to_client.pop_front();
        }
        state.room += bytes.len();
        let writer = state.writer.take();
        drop(state);
        writer.into_iter().for_each(Waker::wake);
        Some((turn, bytes))
    }

    /// From now on the kernel holds as much as there is.
    pub(super) fn widen(&self) {
        let mut state = self.0.lock();
        state.room = usize::MAX / 2;
        let writer = state.writer.take();
        drop(state);
        writer.into_iter().for_each(Waker::wake);
    }

    pub(super) fn write(&self, bytes: &[u8]) {
        let mut state = self.0.lock();
        state.from_client.extend(bytes);
        let reader = state.reader.take();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
    }

    /// Whether the gateway closed the socket and everything before that was read.
    pub(super) fn is_over(&self) -> bool {
        let state = self.0.lock();
        state.server_gone && state.to_client.is_empty()
    }
}

impl Drop for ServerEnd {
    fn drop(&mut self) {
        self.0.lock().server_gone = true;
    }
}

impl Drop for ClientEnd {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.client_gone = true;
        let wakers = [state.reader.take(), state.writer.take()];
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

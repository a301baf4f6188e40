//! What one connection has still to be sent, and the way to its socket. The hub and the connection's own replies fill the
//! queue; whoever filled it writes it, straight into the socket and everything in one call, as long as the kernel takes it.
//! Only when the kernel takes no more do frames wait, and then the connection's own task goes on when there is room again.
//!
//! The queue is bounded in frames and bytes. A reader that is too slow for it is closed with 4001 and comes back to
//! recover, or it misses messages and is told which ([`WhenFull`]): nothing is lost silently, and a slow reader costs the
//! node at most its outbox.

mod dropped;
mod frames;
mod queue;
mod run;
#[cfg(test)]
pub(super) mod tests;

use std::{
    fmt, io,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use countersign_protocol::close::{self, Close};
use countersign_ws::deflate::Agreed;
use queue::Queue;

use super::frame::Frame;
use crate::{seldom::Seldom, wire::Wire};

static SLOW: Seldom = Seldom::new();

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutboxLimits {
    /// Together; a single frame of any size fits into an empty outbox.
    pub(crate) bytes: usize,
    /// Frames.
    pub(crate) frames: u32,
    /// What becomes of a message that does not fit.
    pub(crate) when_full: WhenFull,
}

impl OutboxLimits {
    fn frames(self) -> usize {
        usize::try_from(self.frames).unwrap_or(usize::MAX)
    }
}

/// What becomes of a message that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// The connection is closed with 4001.
    Close,
    /// The message is left out, and the client told how many of its address were. What is no message (a question, a reply, the
    /// end of a callback) closes the connection all the same.
    Drop,
}

/// Where the bytes go in tests.
#[cfg(test)]
pub(crate) trait Sink: Send + Sync {
    /// Writes what fits; `WouldBlock` when nothing does.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;
    /// Whether it may be worth trying again after `WouldBlock`; wakes the task otherwise, when it is.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// A socket that takes nothing.
#[cfg(test)]
pub(crate) struct Deaf;

#[cfg(test)]
impl Sink for Deaf {
    fn try_write(&self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn poll_writable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

/// See the module. Owned by the connection; the hub holds a share to fill it.
pub(crate) struct Outbox {
    limits: OutboxLimits,
    wire: Wire,
    queue: Mutex<Queue>,
}

/// What a connection has to see to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Attention {
    /// Close the connection; the outbox takes nothing any more.
    Close(Close),
    /// The node drains: leave some time soon.
    Leave,
    /// Its alarm has rung.
    Alarm,
    /// The socket is broken, and so many frames were never written.
    Gone {
        /// How many.
        unwritten: usize,
    },
}

impl Outbox {
    pub(crate) fn new(limits: OutboxLimits, compression: Option<Agreed>, wire: impl Into<Wire>) -> Self {
        Self { limits, wire: wire.into(), queue: Mutex::new(Queue::new(compression)) }
    }

    /// Adds frames, in order. Whether the caller has to [`Self::write`] them, as nobody else is about to. Never blocks.
    #[must_use]
    pub(crate) fn put(&self, frames: &[Frame]) -> bool {
        let mut queue = self.lock();
        let before = queue.mood();
        if queue.takes() {
            queue.reserve(frames.len());
        }
        for frame in frames {
            self.add(&mut queue, frame);
        }
        let claimed = queue.claim();
        wake(queue, |queue| queue.mood() != before);
        claimed
    }

    /// Adds a frame; the connection's own task writes it.
    pub(crate) fn push(&self, frame: &Frame) {
        let mut queue = self.lock();
        self.add(&mut queue, frame);
        wake(queue, |_| true);
    }

    /// Adds a frame that the connection is owed whatever its size, such as its user's open questions: state, of which there is a
    /// limit elsewhere, and not traffic.
    pub(crate) fn owe(&self, frame: &Frame) {
        let mut queue = self.lock();
        if queue.takes() {
            // A gap or a replay takes the client elsewhere: what it missed before is told before.
            queue.tell_dropped();
            queue.add_owed(frame.clone());
        }
        wake(queue, |_| true);
    }

    /// Whether what a client has missed may be given to it at once. More than an outbox holds, because whoever was closed for
    /// being slow has missed that much when it comes back.
    pub(crate) fn may_replay(&self, frames: &[Frame]) -> bool {
        // What was replayed before and was not taken yet counts too, or one client could ask for any amount.
        let waiting = self.lock().replayed();
        let bytes: usize = waiting + frames.iter().map(Frame::len).sum::<usize>();
        let single = frames.len() <= 1 && waiting == 0;
        single || (frames.len() <= REPLAY * self.limits.frames() && bytes <= REPLAY * self.limits.bytes)
    }

    /// Whether the client reads its answers: whoever does not is not read from either.
    pub(crate) fn has_room(&self) -> bool {
        self.lock().holds_at_most(self.limits.frames() / 2, self.limits.bytes / 2)
    }

    /// Writes what waits, as far as the kernel takes it.
    pub(crate) fn write(&self) {
        let mut queue = self.lock();
        let before = queue.mood();
        queue.write(&self.wire);
        wake(queue, |queue| queue.mood() != before);
    }

    /// Has the connection's own task write what waits.
    pub(crate) fn wake(&self) {
        wake(self.lock(), |_| true);
    }

    /// Tells the connection to close. The first reason stays; after [`close::DRAIN`] what waits is still sent.
    pub(crate) fn close(&self, reason: Close) {
        let mut queue = self.lock();
        queue.close(reason);
        wake(queue, |_| true);
    }

    /// Tells the connection that the node drains.
    pub(crate) fn leave(&self) {
        let mut queue = self.lock();
        queue.leave();
        wake(queue, |_| true);
    }

    /// Tells the connection that its alarm rings.
    pub(crate) fn ring(&self) {
        let mut queue = self.lock();
        queue.ring();
        wake(queue, |_| true);
    }

    /// For the connection's own task, last of all that it looks at: writes what waits, and says what there is to see to. Pending
    /// once there is nothing.
    pub(crate) fn poll_attention(&self, cx: &mut Context<'_>) -> Poll<Attention> {
        let mut queue = self.lock();
        loop {
            queue.write(&self.wire);
            if let Some(attention) = queue.attention() {
                return Poll::Ready(attention);
            }
            match self.unblocked(&mut queue, cx) {
                Poll::Ready(()) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Adds the last frame of all, whatever the outbox was told, and writes until it is gone. Nothing but an interrupted frame goes
    /// before it.
    pub(crate) async fn last(&self, frame: Frame) {
        self.lock().last(frame);
        std::future::poll_fn(|cx| {
            let mut queue = self.lock();
            loop {
                queue.write(&self.wire);
                if queue.is_empty() {
                    return Poll::Ready(());
                }
                match self.unblocked(&mut queue, cx) {
                    Poll::Ready(()) => {}
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
    }

    /// For the connection's own task: what the client says, see [`Wire::poll_read`].
    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.wire.poll_read(cx, buffer)
    }

    /// Frames that wait.
    pub(crate) fn depth(&self) -> usize {
        self.lock().len()
    }

    /// Frames and bytes that count against the limits.
    #[cfg(test)]
    pub(crate) fn counted(&self) -> (usize, usize) {
        self.lock().counted()
    }

    /// Bytes that the kernel has taken, ever: whoever reads slowly is there all the same.
    pub(crate) fn written(&self) -> u64 {
        self.lock().written_ever()
    }

    /// How many messages were left out, since this was asked last.
    pub(crate) fn take_dropped(&self) -> u64 {
        self.lock().take_dropped()
    }

    /// Ready when the queue was blocked and is so no longer; else the task is woken when there is something to do.
    fn unblocked(&self, queue: &mut Queue, cx: &mut Context<'_>) -> Poll<()> {
        if queue.is_blocked() {
            match self.wire.poll_writable(cx) {
                Poll::Ready(Ok(())) => {
                    queue.unblock();
                    return Poll::Ready(());
                }
                Poll::Ready(Err(_)) => {
                    queue.broke();
                    return Poll::Ready(());
                }
                Poll::Pending => {}
            }
        }
        queue.park(cx.waker());
        Poll::Pending
    }

    fn add(&self, queue: &mut Queue, frame: &Frame) {
        if !queue.takes() {
            return;
        }
        if queue.add(frame, self.limits) {
            return;
        }
        // Only what the kernel does not take has to wait.
        queue.write(&self.wire);
        if !queue.takes() || queue.add(frame, self.limits) || queue.leave_out(frame, self.limits) {
            return;
        }
        if let Some(left_out) = SLOW.line() {
            let limit = "WEBSOCKET_OUTBOX_BYTES or WEBSOCKET_OUTBOX_FRAMES";
            tracing::warn!(limit, frames = queue.len(), left_out, "closing a slow consumer");
        }
        queue.close(close::SLOW);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing in here panics between two states, so a poisoned lock still guards a whole one.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives the queue back, and wakes its owner if `wanted`; not under the lock, because the owner takes it first of all.
fn wake(mut queue: MutexGuard<'_, Queue>, wanted: impl FnOnce(&Queue) -> bool) {
    let owner = if wanted(&queue) { queue.owner() } else { None };
    drop(queue);
    if let Some(owner) = owner {
        owner.wake();
    }
}

/// A replay is at most so many outboxes.
const REPLAY: usize = 4;

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outbox({} frames)", self.depth())
    }
}

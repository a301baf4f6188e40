//! What one connection has still to be sent: a queue bounded in frames and bytes, filled by the hub and by the
//! connection's own replies, emptied by the connection. When it is full the connection is closed with 4001 and comes
//! back to recover: nothing is dropped silently, and a slow reader costs the node at most its outbox.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use countersign_protocol::close::{self, Close};
use tokio::sync::Notify;

use super::frame::Frame;

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutboxLimits {
    /// Together; a single frame of any size fits into an empty outbox.
    pub(crate) bytes: usize,
    /// Frames.
    pub(crate) frames: usize,
}

/// The queue. Its owner is the connection; the hub holds a share to fill it.
#[derive(Debug)]
pub(crate) struct Outbox {
    limits: OutboxLimits,
    queue: Mutex<Queue>,
    /// Something to send, or a reason to close.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Frame>,
    /// Of what is not owed.
    bytes: usize,
    /// Frames that do not count.
    owed_frames: usize,
    close: Option<Close>,
}

/// What a connection has to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Frames were moved into the buffer that was handed in.
    Send,
    /// Close the connection; the outbox takes nothing any more.
    Close(Close),
}

impl Outbox {
    pub(crate) fn new(limits: OutboxLimits) -> Self {
        Self { limits, queue: Mutex::default(), changed: Notify::new() }
    }

    /// Adds a frame. When it does not fit the connection is told to close with 4001. Never blocks.
    pub(crate) fn push(&self, frame: Frame) {
        let mut queue = self.lock();
        if queue.close.is_some() {
            return;
        }
        if queue.fits(&frame, self.limits) {
            queue.bytes += frame.len();
            queue.frames.push_back(frame);
        } else {
            tracing::warn!(
                limit = "WEBSOCKET_OUTBOX_BYTES or WEBSOCKET_OUTBOX_FRAMES",
                frames = queue.frames.len(),
                bytes = queue.bytes,
                "closing a slow consumer"
            );
            queue.close(close::SLOW);
        }
        drop(queue);
        self.changed.notify_one();
    }

    /// Adds a frame that the connection is owed whatever its size, such as its user's open questions: state, of which there is a
    /// limit elsewhere, and not traffic.
    pub(crate) fn owe(&self, frame: Frame) {
        let mut queue = self.lock();
        if queue.close.is_none() {
            queue.owed_frames += 1;
            queue.frames.push_back(frame);
        }
        drop(queue);
        self.changed.notify_one();
    }

    /// Whether frames of so many bytes together fit into an outbox that is empty.
    pub(crate) fn would_hold(&self, frames: &[Frame]) -> bool {
        let bytes: usize = frames.iter().map(Frame::len).sum();
        frames.len() <= 1 || (frames.len() <= self.limits.frames && bytes <= self.limits.bytes)
    }

    /// Tells the connection to close. The first reason stays; after [`close::DRAIN`] what waits is still sent.
    pub(crate) fn close(&self, reason: Close) {
        self.lock().close(reason);
        self.changed.notify_one();
    }

    /// Waits for the next thing to do. Frames come before a close for which they were kept. Cancellation safe.
    pub(crate) async fn turn(&self, buffer: &mut Vec<Frame>) -> Turn {
        loop {
            {
                let mut queue = self.lock();
                if !queue.frames.is_empty() {
                    (queue.bytes, queue.owed_frames) = (0, 0);
                    buffer.extend(queue.frames.drain(..));
                    // An idle connection keeps no memory for a burst that it once had.
                    if queue.frames.capacity() > 64 {
                        queue.frames = VecDeque::new();
                    }
                    return Turn::Send;
                }
                if let Some(reason) = queue.close {
                    return Turn::Close(reason);
                }
            }
            self.changed.notified().await;
        }
    }

    /// Waits until the connection has to close without sending what waits. Cancellation safe.
    pub(crate) async fn cut(&self) -> Close {
        loop {
            // A permit that is taken here is no loss for `turn`, which looks before it waits.
            if let Some(reason) = self.lock().close.filter(|reason| *reason != close::DRAIN) {
                return reason;
            }
            self.changed.notified().await;
        }
    }

    /// Frames that wait.
    pub(crate) fn depth(&self) -> usize {
        self.lock().frames.len()
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing in here panics between two states, so a poisoned lock still guards a whole one.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn fits(&self, frame: &Frame, limits: OutboxLimits) -> bool {
        let counted = self.frames.len() - self.owed_frames;
        counted == 0 || (counted < limits.frames && self.bytes + frame.len() <= limits.bytes)
    }

    fn close(&mut self, reason: Close) {
        if self.close.is_some() {
            return;
        }
        self.close = Some(reason);
        if reason != close::DRAIN {
            self.frames = VecDeque::new();
            (self.bytes, self.owed_frames) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn outbox(bytes: usize, frames: usize) -> Outbox {
        Outbox::new(OutboxLimits { bytes, frames })
    }

    fn frame(length: usize) -> Frame {
        Frame::plain("x".repeat(length))
    }

    fn turn(outbox: &Outbox) -> Option<(Turn, usize)> {
        let mut buffer = Vec::new();
        let turn = outbox.turn(&mut buffer).now_or_never()?;
        Some((turn, buffer.len()))
    }

    #[test]
    fn everything_that_waits_leaves_in_one_turn_and_in_order() {
        let outbox = outbox(100, 10);
        for length in 1..=3 {
            outbox.push(frame(length));
        }
        let mut buffer = Vec::new();
        assert_eq!(outbox.turn(&mut buffer).now_or_never(), Some(Turn::Send));
        assert_eq!(buffer.iter().map(Frame::len).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!((turn(&outbox), outbox.depth()), (None, 0));
    }

    #[test]
    fn a_full_outbox_closes_the_connection_and_frees_what_waited() {
        for (bytes, frames) in [(10, 100), (1000, 2)] {
            let outbox = outbox(bytes, frames);
            for _ in 0..3 {
                outbox.push(frame(5));
            }
            assert_eq!(turn(&outbox), Some((Turn::Close(close::SLOW), 0)));
            outbox.push(frame(1));
            assert_eq!(turn(&outbox), Some((Turn::Close(close::SLOW), 0)));
        }
    }

    #[test]
    fn the_largest_single_message_always_fits() {
        let outbox = outbox(10, 10);
        outbox.push(frame(5000));
        assert_eq!(turn(&outbox), Some((Turn::Send, 1)));
    }

    #[test]
    fn what_a_connection_is_owed_fits_and_takes_no_room_from_the_rest() {
        let outbox = outbox(10, 2);
        for _ in 0..5 {
            outbox.owe(frame(5000));
        }
        outbox.push(frame(5));
        outbox.push(frame(5));
        assert_eq!(turn(&outbox), Some((Turn::Send, 7)));
        outbox.owe(frame(5000));
        for _ in 0..3 {
            outbox.push(frame(5));
        }
        assert_eq!(turn(&outbox), Some((Turn::Close(close::SLOW), 0)));
    }

    #[test]
    fn a_drain_lets_what_waits_go_out_first() {
        let outbox = outbox(100, 10);
        outbox.push(frame(1));
        outbox.close(close::DRAIN);
        assert_eq!(turn(&outbox), Some((Turn::Send, 1)));
        assert_eq!(turn(&outbox), Some((Turn::Close(close::DRAIN), 0)));
    }
}

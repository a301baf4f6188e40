//! What one fan-out leaves to be done: the outboxes that have to be written, each once, whatever number of messages they
//! were given. The work is the writing, so it is done outside of the hub's lock.

use std::sync::Arc;

use countersign_backplane::Channel;

use super::{Frame, Outbox};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    outboxes: Vec<Arc<Outbox>>,
    /// Frames handed to outboxes.
    pub(crate) frames: usize,
    /// Their bytes.
    pub(crate) bytes: usize,
    /// An address has a hole that somebody has to fill.
    pub(crate) hole: bool,
    /// The channels of messages whose position is another message's; they were not forwarded, or should not have been.
    pub(crate) refused: Vec<Channel>,
}

impl Turn {
    pub(super) fn write(&mut self, outbox: &Arc<Outbox>) {
        self.outboxes.push(Arc::clone(outbox));
    }

    pub(super) fn delivers(&mut self, frames: &[Frame], members: usize) {
        self.frames += members * frames.len();
        self.bytes += members * frames.iter().map(Frame::len).sum::<usize>();
    }

    /// The outboxes that have to be written.
    pub(crate) fn outboxes(&mut self) -> Vec<Arc<Outbox>> {
        std::mem::take(&mut self.outboxes)
    }

    /// Has each connection write its own outbox.
    pub(crate) fn leave_to_owners(self) {
        for outbox in self.outboxes {
            outbox.wake();
        }
    }
}

//! How much of what a client says is looked at in one turn, which is one poll of the connection's task. A turn that does not
//! end would stop everybody else on the same thread; after its budget a connection goes to the back of the queue.

/// See the module.
#[derive(Debug)]
pub(super) struct Budget {
    messages: usize,
    bytes: usize,
}

impl Budget {
    pub(super) fn of_a_turn() -> Self {
        Self { messages: TURN_MESSAGES, bytes: TURN_BYTES }
    }

    /// Counts what was looked at. The last message of a turn is always taken as a whole.
    pub(super) fn spend(&mut self, messages: usize, bytes: usize) {
        self.messages = self.messages.saturating_sub(messages);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Bytes that are left.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_spent(&self) -> bool {
        self.messages == 0 || self.bytes == 0
    }
}

/// Messages of one turn, control frames included. A message costs about a microsecond, a turn some microseconds beside: more
/// of them would save little and make everybody else wait.
pub(super) const TURN_MESSAGES: usize = 32;
/// Bytes of one turn, and of one read.
pub(super) const TURN_BYTES: usize = 16 * 1024;

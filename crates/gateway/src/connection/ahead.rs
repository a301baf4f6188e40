//! What a client has sent and what has not had its turn yet. While an action is under way the reader goes on, so that pings
//! are answered at once; all other messages are kept here in order. The amount is bounded: when it is full, nothing more is
//! read, and the client's own socket fills up (backpressure).

use std::collections::VecDeque;

use super::{End, Said};

/// See the module. Most connections never have one.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Whole messages.
    kept: VecDeque<Kept>,
    /// Bytes of these.
    bytes: usize,
    /// Bytes behind them that were not decoded.
    unread: Box<[u8]>,
    /// How the client ended the line, which counts after all of the above.
    end: Option<End>,
}

/// A message that waits for its turn.
#[derive(Debug)]
pub(super) enum Kept {
    Text(Box<str>),
    Binary(Box<[u8]>),
}

/// What comes next.
#[derive(Debug)]
pub(super) enum Next {
    Message(Kept),
    Unread(Box<[u8]>),
    End(End),
}

impl Ahead {
    /// Bytes that are still to be decoded.
    pub(super) fn of_unread(unread: &[u8]) -> Self {
        Self { unread: unread.into(), ..Self::default() }
    }

    /// Keeps a message until its turn.
    pub(super) fn keep(&mut self, said: Said<'_>) {
        let kept = match said {
            Said::Text(text) => Kept::Text(text.into()),
            Said::Binary(bytes) => Kept::Binary(bytes.into()),
        };
        self.bytes += kept.len();
        self.kept.push_back(kept);
    }

    /// The client has ended the line.
    pub(super) fn end(&mut self, end: End) {
        self.end.get_or_insert(end);
    }

    /// Whether reading stops until the action under way has ended.
    pub(super) fn is_full(&self) -> bool {
        self.kept.len() >= MESSAGES || self.bytes >= BYTES || self.end.is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.unread.is_empty() && self.end.is_none()
    }

    /// The undecoded bytes.
    pub(super) fn take_unread(&mut self) -> Box<[u8]> {
        std::mem::take(&mut self.unread)
    }

    /// Gives undecoded bytes back.
    pub(super) fn put_unread(&mut self, unread: &[u8]) {
        self.unread = unread.into();
    }

    /// Takes what comes next.
    pub(super) fn next(&mut self) -> Option<Next> {
        if let Some(kept) = self.kept.pop_front() {
            self.bytes -= kept.len();
            return Some(Next::Message(kept));
        }
        // Nothing is decoded behind an end.
        if let Some(end) = self.end.take() {
            return Some(Next::End(end));
        }
        let unread = self.take_unread();
        (!unread.is_empty()).then_some(Next::Unread(unread))
    }
}

impl Kept {
    pub(super) fn said(&self) -> Said<'_> {
        match self {
            Self::Text(text) => Said::Text(text),
            Self::Binary(bytes) => Said::Binary(bytes),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }
}

/// Messages that are kept at most. A page that loads sends a handful at once.
pub(super) const MESSAGES: usize = 64;
/// Nothing more is read once the kept messages have so many bytes: beside these, a connection holds at most one read and one
/// message that is not whole.
pub(super) const BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_in_order_and_the_end_comes_last() {
        let mut ahead = Ahead::of_unread(b"rest");
        assert!(!ahead.is_empty() && !ahead.is_full());
        ahead.keep(Said::Text("one"));
        ahead.keep(Said::Binary(b"two"));
        assert!(matches!(ahead.next(), Some(Next::Message(Kept::Text(text))) if &*text == "one"));
        assert!(matches!(ahead.next(), Some(Next::Message(Kept::Binary(bytes))) if &*bytes == b"two"));
        assert!(matches!(ahead.next(), Some(Next::Unread(unread)) if &*unread == b"rest"));
        assert!(ahead.next().is_none() && ahead.is_empty());
        ahead.keep(Said::Text("last"));
        ahead.end(End::Closed(Some(1000)));
        ahead.end(End::Gone);
        assert!(ahead.is_full(), "nothing is read behind an end");
        assert!(matches!(ahead.next(), Some(Next::Message(_))));
        assert!(matches!(ahead.next(), Some(Next::End(End::Closed(Some(1000))))));
    }

    #[test]
    fn it_is_full_after_so_many_messages_or_bytes_and_no_longer_when_they_are_taken() {
        for (message, fits) in [("m".to_owned(), MESSAGES), ("m".repeat(BYTES / 4), 4), ("m".repeat(2 * BYTES), 1)] {
            let mut ahead = Ahead::default();
            for number in 0..fits {
                assert!(!ahead.is_full(), "after {number} of {} bytes", message.len());
                ahead.keep(Said::Text(&message));
            }
            assert!(ahead.is_full());
            while ahead.next().is_some() {}
            assert!(!ahead.is_full() && ahead.is_empty() && ahead.bytes == 0);
        }
    }
}

//! The state of an outbox: frames that wait, how far the first one is written, and what the connection has to be told. Plain
//! data under one lock; the only thing from outside is the sink that is handed in.

use std::{io, task::Waker};

use countersign_protocol::close::{self, Close};
use countersign_ws::deflate::Agreed;

use super::{
    Attention, Frame, OutboxLimits, WhenFull, Wire,
    dropped::Dropped,
    frames::{Frames, Waiting},
    run,
};
#[cfg(test)]
use crate::simulation::Flaw;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// In what form frames are written.
    compression: Option<Agreed>,
    frames: Frames,
    /// Bytes of the first frame that are the kernel's already.
    written: usize,
    /// Of what is not owed.
    bytes: usize,
    /// Frames that do not count.
    owed_frames: usize,
    /// Bytes of those of them that come from a history.
    replayed: usize,
    /// The kernel takes no more for now.
    blocked: bool,
    /// Somebody is about to write.
    claimed: bool,
    /// Bytes, ever.
    written_ever: u64,
    leave: Option<bool>,
    /// The connection's alarm has rung.
    alarm: bool,
    /// Why nothing is taken any more. Boxed: it comes once.
    end: Option<Box<End>>,
    /// The connection's task, while it waits.
    owner: Option<Waker>,
    /// Messages that were left out and that the client was not told of. Boxed: almost nobody has any.
    dropped: Option<Box<Dropped>>,
}

/// See [`Queue::mood`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mood {
    blocked: bool,
    gone: bool,
    closing: bool,
}

#[derive(Debug, Default)]
struct End {
    /// The socket is broken, and so many frames were never written.
    gone: Option<usize>,
    close: Option<Close>,
}

impl Queue {
    pub(super) fn new(compression: Option<Agreed>) -> Self {
        Self { compression, ..Self::default() }
    }

    /// Whether frames are still taken.
    pub(super) fn takes(&self) -> bool {
        self.end.is_none()
    }

    /// So many are about to be added.
    pub(super) fn reserve(&mut self, frames: usize) {
        self.frames.reserve(frames);
    }

    /// Adds a frame if it fits, behind the news of what was left out of its address.
    pub(super) fn add(&mut self, frame: &Frame, limits: OutboxLimits) -> bool {
        let counted = self.frames.len() - self.owed_frames;
        #[cfg(test)]
        let counted = if Flaw::NoLimits.is_made() { 0 } else { counted };
        if counted > 0 && (counted >= limits.frames() || self.bytes + frame.len() > limits.bytes) {
            return false;
        }
        self.tell_dropped_of(frame);
        self.bytes += frame.len();
        self.frames.push_back(Waiting { frame: frame.clone(), owed: false });
        true
    }

    /// Adds a frame that is not counted.
    pub(super) fn add_owed(&mut self, frame: Frame) {
        self.owed_frames += 1;
        if frame.position().is_some() {
            self.replayed += frame.len();
        }
        self.frames.push_back(Waiting { frame, owed: true });
    }

    /// Leaves a frame out, if that is allowed; the client is told as soon as there is room.
    pub(super) fn leave_out(&mut self, frame: &Frame, limits: OutboxLimits) -> bool {
        match (limits.when_full, frame.may_be_dropped()) {
            #[cfg(test)]
            (WhenFull::Drop, Some(_)) if Flaw::DropsSilently.is_made() => true,
            (WhenFull::Drop, Some(address)) => {
                self.dropped.get_or_insert_default().count(address, frame.position());
                true
            }
            _ => false,
        }
    }

    pub(super) fn take_dropped(&mut self) -> u64 {
        self.dropped.as_mut().map_or(0, |dropped| dropped.take_total())
    }

    /// Promises to write, unless somebody has promised it or the owner will when the kernel takes more.
    pub(super) fn claim(&mut self) -> bool {
        !self.frames.is_empty() && !self.blocked && !self.is_gone() && !std::mem::replace(&mut self.claimed, true)
    }

    /// Writes until nothing waits or the kernel takes no more.
    pub(super) fn write(&mut self, wire: &Wire) {
        self.claimed = false;
        while !self.blocked && !self.is_gone() {
            if self.frames.is_empty() && !self.tell_dropped() {
                break;
            }
            match run::with_run_of(&self.frames, self.compression, self.written, |run| wire.try_write(run)) {
                Ok(0) => self.broke(),
                Ok(bytes) => self.advance(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.blocked = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.broke(),
            }
        }
    }

    /// Adds the news of what was left out of a frame's address, before that frame.
    fn tell_dropped_of(&mut self, frame: &Frame) {
        if let (Some(dropped), Some(address)) = (&mut self.dropped, frame.may_be_dropped())
            && let Some(news) = dropped.news_of(address)
        {
            self.owed_frames += 1;
            self.frames.push_back(Waiting { frame: news, owed: true });
        }
    }

    /// Adds the news of what was left out; whether there is any.
    pub(super) fn tell_dropped(&mut self) -> bool {
        let news = self.dropped.as_mut().map(|dropped| dropped.news()).unwrap_or_default();
        let any = !news.is_empty();
        for frame in news {
            self.add_owed(frame);
        }
        any
    }

    fn advance(&mut self, mut bytes: usize) {
        self.written_ever += bytes as u64;
        while let Some(first) = self.frames.front() {
            let left = first.frame.wire(self.compression).len() - self.written;
            if bytes < left {
                self.written += bytes;
                return;
            }
            bytes -= left;
            self.written = 0;
            if first.owed {
                self.owed_frames -= 1;
                if first.frame.position().is_some() {
                    self.replayed -= first.frame.len();
                }
            } else {
                self.bytes -= first.frame.len();
            }
            self.frames.pop_front();
        }
    }

    /// The socket is broken: nothing is written any more.
    pub(super) fn broke(&mut self) {
        let unwritten = self.frames.len();
        self.end.get_or_insert_default().gone.get_or_insert(unwritten);
        self.forget();
        self.written = 0;
    }

    pub(super) fn leave(&mut self) {
        self.leave.get_or_insert(true);
    }

    pub(super) fn ring(&mut self) {
        self.alarm = true;
    }

    pub(super) fn close(&mut self, reason: Close) {
        if self.closing().is_some() {
            return;
        }
        self.end.get_or_insert_default().close = Some(reason);
        if reason != close::DRAIN {
            self.forget();
            self.dropped = None;
        }
    }

    /// The last frame of all, behind a frame of which a part is written: half a frame would make noise of what follows.
    pub(super) fn last(&mut self, frame: Frame) {
        self.end.get_or_insert_default().close.get_or_insert(close::DRAIN);
        self.forget();
        self.dropped = None;
        if !self.is_gone() {
            self.add_owed(frame);
        }
    }

    /// Forgets what waits, but for the rest of a frame of which a part is written.
    fn forget(&mut self) {
        let begun = (self.written > 0 && !self.is_gone()).then(|| self.frames.pop_front()).flatten();
        self.frames = Frames::default();
        (self.bytes, self.owed_frames, self.replayed) = (0, 0, 0);
        if let Some(Waiting { frame, .. }) = begun {
            self.add_owed(frame);
        }
    }

    /// What the connection has to see to, if there is something.
    pub(super) fn attention(&mut self) -> Option<Attention> {
        if let Some(unwritten) = self.end.as_ref().and_then(|end| end.gone) {
            return Some(Attention::Gone { unwritten });
        }
        if self.leave == Some(true) {
            self.leave = Some(false);
            return Some(Attention::Leave);
        }
        if std::mem::take(&mut self.alarm) {
            return Some(Attention::Alarm);
        }
        match self.closing() {
            Some(close::DRAIN) if !self.frames.is_empty() => None,
            reason => reason.map(Attention::Close),
        }
    }

    fn is_gone(&self) -> bool {
        self.end.as_ref().is_some_and(|end| end.gone.is_some())
    }

    fn closing(&self) -> Option<Close> {
        self.end.as_ref().and_then(|end| end.close)
    }

    /// What the owner has to know of: when it changes, the owner is woken.
    pub(super) fn mood(&self) -> Mood {
        Mood { blocked: self.blocked, gone: self.is_gone(), closing: self.closing().is_some() }
    }

    pub(super) fn owner(&mut self) -> Option<Waker> {
        self.owner.take()
    }

    pub(super) fn park(&mut self, owner: &Waker) {
        if self.owner.as_ref().is_none_or(|parked| !parked.will_wake(owner)) {
            self.owner = Some(owner.clone());
        }
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.blocked
    }

    pub(super) fn unblock(&mut self) {
        self.blocked = false;
    }

    pub(super) fn written_ever(&self) -> u64 {
        self.written_ever
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    #[cfg(test)]
    pub(super) fn counted(&self) -> (usize, usize) {
        (self.frames.len() - self.owed_frames, self.bytes)
    }

    pub(super) fn holds_at_most(&self, frames: usize, bytes: usize) -> bool {
        self.frames.len() <= frames && self.bytes + self.replayed <= bytes
    }

    /// Bytes of a history that wait.
    pub(super) fn replayed(&self) -> usize {
        self.replayed
    }
}

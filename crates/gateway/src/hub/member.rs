//! A connection's place in one room. It joins with everything held back; once live, it still remembers what it was told
//! from what was read, because the subscription may bring the same a moment later: reading and hearing are two ways, and
//! the second may be the slower one.

use std::{collections::HashSet, sync::Arc};

use countersign_protocol::{CallbackId, Position, close};

use super::{Frame, Outbox, Turn};
#[cfg(test)]
use crate::simulation::Flaw;

/// See the module.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) connection: usize,
    outbox: Arc<Outbox>,
    /// What it still has to do with what it joined with; nearly all members are live, and have heard beyond what they were told.
    beginning: Option<Box<Beginning>>,
}

#[derive(Debug, Default)]
struct Beginning {
    /// What was heard since it joined; `None` once the member is live.
    held: Option<Vec<Frame>>,
    /// What would be a repeat if it were heard now.
    told: Option<Told>,
}

/// What a member was told from what was read.
#[derive(Debug)]
struct Told {
    /// The newest message of the history.
    position: Option<Position>,
    /// A message of another numbering was heard since, or of a gap.
    passed: bool,
    /// Open questions.
    questions: HashSet<CallbackId>,
}

impl Member {
    /// A member that hears nothing yet.
    pub(super) fn joining(connection: usize, outbox: Arc<Outbox>) -> Self {
        let beginning = Beginning { held: Some(Vec::new()), told: None };
        Self { connection, outbox, beginning: Some(Box::new(beginning)) }
    }

    /// Forgets what was held back.
    pub(super) fn begin_again(&mut self) {
        if let Some(Beginning { held: Some(held), .. }) = self.beginning.as_deref_mut() {
            held.clear();
        }
    }

    /// Sends `first`, then what was held back and is no repeat; what comes from now on flows. When that does not join on to what
    /// was read, the connection is closed instead: it comes back, and reads again.
    pub(super) fn go_live(&mut self, first: &[Frame], position: Option<&Position>, questions: &HashSet<CallbackId>) {
        let held = self.beginning.take().and_then(|beginning| beginning.held).unwrap_or_default();
        self.beginning = Told::of(position, questions).map(|told| Box::new(Beginning { held: None, told: Some(told) }));
        let held: Vec<Frame> = held.into_iter().filter(|frame| !self.was_told(frame)).collect();
        if !joins_on(position, &held) {
            self.close(close::UNAVAILABLE);
            return;
        }
        for frame in first {
            self.outbox.owe(frame);
        }
        for frame in held {
            self.outbox.push(&frame);
        }
    }

    /// What it hears is held back again.
    pub(super) fn hold_back(&mut self) {
        self.beginning.get_or_insert_default().held.get_or_insert_default();
    }

    /// Frames were heard.
    pub(super) fn take(&mut self, frames: &[Frame], turn: &mut Turn) {
        let Some(beginning) = self.beginning.as_deref_mut() else { return self.put(frames, turn) };
        match &mut beginning.held {
            #[cfg(test)]
            Some(_) if Flaw::JoinsDeaf.is_made() => {}
            None => {
                for frame in frames {
                    if !self.was_told(frame) {
                        self.put(std::slice::from_ref(frame), turn);
                    }
                }
            }
            Some(held) if held.len() + frames.len() <= HELD_FRAMES => held.extend_from_slice(frames),
            // Joining takes milliseconds; whoever cannot be served meanwhile comes back and recovers.
            Some(_) => self.outbox.close(close::RESYNC),
        }
    }

    /// The node itself says something, outside of any history.
    pub(super) fn tell(&mut self, frame: &Frame) {
        match self.beginning.as_deref_mut() {
            Some(Beginning { held: Some(held), .. }) if held.len() < HELD_FRAMES => held.push(frame.clone()),
            // As in `take`: it comes back and recovers.
            Some(Beginning { held: Some(_), .. }) => self.outbox.close(close::RESYNC),
            // Of a gap before what it was told when it came.
            Some(Beginning { told: Some(told), .. }) if told.is_beyond(frame) => {}
            beginning => {
                if let Some(Beginning { told: Some(told), .. }) = beginning {
                    told.passed |= frame.position().is_some();
                }
                self.outbox.owe(frame);
            }
        }
    }

    /// Which questions are open. One that joins reads that itself, and hears what changes meanwhile.
    pub(super) fn list(&mut self, frames: &[Frame], open: &HashSet<CallbackId>) {
        match self.beginning.as_deref_mut() {
            Some(Beginning { held: Some(_), .. }) => return,
            // What it was told when it came may be newer than this list, which takes it away: it has to hear that again.
            Some(Beginning { told: Some(told), .. }) => told.questions.retain(|id| open.contains(id)),
            _ => {}
        }
        for frame in frames {
            self.outbox.owe(frame);
        }
    }

    /// Its connection is to close.
    pub(super) fn close(&self, reason: close::Close) {
        self.outbox.close(reason);
    }

    /// Whether it hears what is delivered.
    pub(super) fn is_live(&self) -> bool {
        self.beginning.as_ref().is_none_or(|beginning| beginning.held.is_none())
    }

    /// The newest message of which it was told and that it may not have heard.
    pub(super) fn told(&self) -> Option<&Position> {
        let told = self.beginning.as_ref()?.told.as_ref()?;
        told.position.as_ref().filter(|_| !told.passed)
    }

    fn put(&self, frames: &[Frame], turn: &mut Turn) {
        if self.outbox.put(frames) {
            turn.write(&self.outbox);
        }
    }

    fn was_told(&mut self, frame: &Frame) -> bool {
        #[cfg(test)]
        if Flaw::ForgetsTold.is_made() {
            return false;
        }
        let Some(Beginning { told: Some(told), held }) = self.beginning.as_deref_mut() else { return false };
        let repeated = told.repeats(frame);
        if told.position.is_none() && told.questions.is_empty() && held.is_none() {
            self.beginning = None;
        }
        repeated
    }
}

/// Whether no message is missing between what was read and what was heard.
fn joins_on(position: Option<&Position>, held: &[Frame]) -> bool {
    let Some(mut last) = position else { return true };
    for frame in held {
        let Some(heard) = frame.position() else { continue };
        let next = if heard.epoch == last.epoch { last.offset + 1 } else { 1 };
        // What is no message may say that some are missing.
        if frame.may_be_dropped().is_some() && heard.offset > next {
            return false;
        }
        last = heard;
    }
    true
}

/// The most frames that are held back for one joining member: they arrive within one round trip to the backplane.
pub(super) const HELD_FRAMES: usize = 10_000;

impl Told {
    fn of(position: Option<&Position>, questions: &HashSet<CallbackId>) -> Option<Self> {
        // Nothing is older than the beginning of all.
        let position = position.filter(|position| **position != Position::beginning()).cloned();
        (position.is_some() || !questions.is_empty()).then(|| Self {
            position,
            passed: false,
            questions: questions.clone(),
        })
    }

    /// Whether the member is where this takes it, or beyond.
    fn is_beyond(&self, frame: &Frame) -> bool {
        match (frame.position(), &self.position) {
            (Some(heard), Some(read)) => heard.epoch == read.epoch && heard.offset <= read.offset,
            _ => false,
        }
    }

    /// Whether this was told; it is forgotten when it cannot be heard again.
    fn repeats(&mut self, frame: &Frame) -> bool {
        if let Some(id) = frame.question() {
            // A question is published once.
            return self.questions.remove(&id);
        }
        match (frame.position(), &self.position) {
            (Some(heard), Some(read)) if heard.epoch == read.epoch => {
                let repeated = heard.offset <= read.offset;
                if heard.offset >= read.offset {
                    // Messages are heard in order: what comes after this one is newer.
                    self.position = None;
                }
                repeated
            }
            (Some(_), _) => {
                self.passed = true;
                false
            }
            _ => false,
        }
    }
}

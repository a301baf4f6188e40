//! The members of one address, and the place in its history up to which they have heard. A hole in the numbering, or an
//! interruption of the node's subscription, makes the room hold back what follows until the hole is filled from history or
//! told: members hear in order, without repeats, and never past a silent hole.

use countersign_backplane::{Channel, Wanted};
use countersign_protocol::Position;
use smallvec::SmallVec;

use super::{Frame, OpenQuestions, Turn, member::Member, open_questions::ListToRead};
#[cfg(test)]
use crate::simulation::Flaw;

/// See the module.
#[derive(Debug)]
pub(super) struct Room {
    /// Keeps the channel subscribed as long as there are members.
    wanted: Wanted,
    /// Most rooms are of one user with one device.
    pub(super) members: SmallVec<[Member; 1]>,
    /// The newest message that the members have heard; before they have heard any, the oldest of which one was told when it came.
    last: Option<Position>,
    /// Whether they have heard it. What one was told when it came, another may still have to hear.
    heard: bool,
    /// Members were told of different numberings, and nobody knows which is the older one.
    apart: bool,
    /// What was heard since the hole; `None` while there is none.
    held: Option<Box<Held>>,
    /// Of the message at `last`, if the members have heard it.
    fingerprint: u64,
    /// What the history has up to this offset is what the members were given, or what replaced that.
    decided: u64,
    /// Two messages with one position were heard.
    conflict: Option<Conflict>,
    /// The members may show other questions than those that are open; `None` while they do not, and in rooms that are no user's.
    list: Option<Box<ListToRead>>,
}

#[derive(Debug, Default)]
struct Held {
    frames: Vec<Frame>,
    /// A message without a place in the history did not fit: that it is missing would not show.
    lost: bool,
    /// Another interruption came since somebody began to look what is missing.
    overtaken: bool,
}

/// Two messages with one position: `last` is before it, and the history decides which one it has.
#[derive(Debug)]
struct Conflict {
    /// Of the message that the members have heard, if it is known.
    heard: Option<u64>,
}

/// Where a frame belongs.
enum Place {
    /// After what the members have heard.
    Next,
    /// The members have it.
    Repeated,
    /// The members have heard another one with its position.
    Conflicting(Conflict),
    /// Behind a hole; whether that hole is new.
    Behind(bool),
}

/// What is known of a hole.
#[derive(Debug)]
pub(crate) enum Missed {
    /// Every message of it, which may be none, and the newest of all.
    Messages(Vec<Frame>, Position),
    /// It cannot be filled: what members are to hear of it, and the newest message, if the address keeps history.
    Gap(Frame, Option<Position>),
    /// The numbering ended in it, and nobody knows where: what is left of it, what members are to hear of the gap, then the
    /// messages of the numbering that follows, and the newest of them.
    Torn(Vec<Frame>, Frame, Vec<Frame>, Position),
}

impl Room {
    pub(super) fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            members: SmallVec::new(),
            last: None,
            heard: false,
            apart: false,
            held: None,
            fingerprint: 0,
            decided: 0,
            conflict: None,
            list: None,
        }
    }

    /// Whose messages are heard here.
    pub(super) fn channel(&self) -> Channel {
        self.wanted.channel()
    }

    /// Frames were heard. Whether they show a hole that somebody has to fill.
    pub(super) fn hear(&mut self, frames: &[Frame], turn: &mut Turn) -> bool {
        if let Some(list) = &mut self.list {
            for frame in frames {
                list.hear(frame);
            }
        }
        let hole = self.go_on(frames, turn);
        if hole {
            // What has no number may be missing, too.
            self.needs_list();
        }
        hole
    }

    /// Delivers what can be delivered now and keeps the rest. Whether there is a new hole.
    fn go_on(&mut self, frames: &[Frame], turn: &mut Turn) -> bool {
        let mut hole = false;
        let mut flowing = 0;
        for (at, frame) in frames.iter().enumerate() {
            match self.place(frame) {
                Place::Next => continue,
                Place::Repeated => {}
                Place::Conflicting(conflict) => {
                    self.conflict = Some(conflict);
                    hole = true;
                    self.hold();
                    self.keep(frame);
                }
                Place::Behind(new) => {
                    // What flows comes before what is held back.
                    if new {
                        hole = true;
                        self.hold();
                    }
                    self.keep(frame);
                }
            }
            self.deliver(frames.get(flowing..at).unwrap_or_default(), turn);
            flowing = at + 1;
        }
        self.deliver(frames.get(flowing..).unwrap_or_default(), turn);
        hole
    }

    /// Where a frame belongs; the next one moves the room's position.
    fn place(&mut self, frame: &Frame) -> Place {
        if self.held.is_some() {
            return Place::Behind(false);
        }
        let Some(position) = frame.position() else { return Place::Next };
        #[cfg(test)]
        if Flaw::IgnoresHoles.is_made() {
            return Place::Next;
        }
        match &mut self.last {
            Some(last) if last.epoch == position.epoch => {
                if position.offset <= last.offset && self.heard {
                    // What was read from the history is heard a second time, if the reading was quicker.
                    if position.offset <= self.decided {
                        return Place::Repeated;
                    }
                    let heard = (position.offset == last.offset).then_some(self.fingerprint);
                    if heard == Some(frame.fingerprint()) {
                        return Place::Repeated;
                    }
                    last.offset = position.offset.saturating_sub(1);
                    return Place::Conflicting(Conflict { heard });
                }
                if position.offset > last.offset + 1 {
                    return Place::Behind(true);
                }
                last.offset = position.offset;
            }
            // A new numbering that is heard from its beginning has no hole.
            Some(_) if position.offset > 1 => return Place::Behind(true),
            last => {
                *last = Some(position.clone());
                self.decided = 0;
            }
        }
        (self.heard, self.apart, self.fingerprint) = (true, false, frame.fingerprint());
        Place::Next
    }

    /// A member was told the position. Until something is heard, the room is where the member is that was told the oldest: two
    /// may come at the same time and have read one after the other.
    pub(super) fn begin_at(&mut self, position: Option<&Position>) {
        match (&mut self.last, position) {
            (None, _) => self.last = position.cloned(),
            (Some(last), Some(position)) if !self.heard => {
                self.apart |= last.epoch != position.epoch;
                if last.epoch == position.epoch {
                    last.offset = last.offset.min(position.offset);
                }
            }
            _ => {}
        }
    }

    /// Whether anybody hears what is delivered.
    pub(super) fn is_live(&self) -> bool {
        self.members.iter().any(Member::is_live)
    }

    /// Up to where a member has heard or was told.
    pub(super) fn position_of(&self, place: usize) -> Option<Position> {
        match (self.members.get(place).and_then(Member::told), &self.last) {
            (Some(told), Some(last)) if told.epoch == last.epoch && told.offset < last.offset => Some(last.clone()),
            (Some(told), _) => Some(told.clone()),
            (None, last) => last.clone(),
        }
    }

    /// From now on messages may be missing; also beyond what somebody has read of a hole that there is already.
    pub(super) fn hold(&mut self) {
        match &mut self.held {
            Some(held) => {
                held.overtaken = true;
                // Whoever looks anew finds them in the history, or it is told that they are missing.
                // And questions on the list that is read, unless their end was missed.
                let listed = self.list.is_some();
                held.frames.retain(|frame| frame.position().is_none() && !(listed && frame.question().is_some()));
            }
            None => self.held = Some(Box::default()),
        }
    }

    /// From now on ends and questions may have been missed: the list of what is open has to be read after this.
    pub(super) fn needs_list(&mut self) {
        if matches!(self.channel(), Channel::User(_)) {
            self.list.get_or_insert_default().begin_again();
        }
    }

    /// Whether it has to be read.
    pub(super) fn lacks_list(&self) -> bool {
        self.list.is_some()
    }

    /// Somebody begins to read it.
    pub(super) fn begin_reading(&mut self) {
        if let Some(list) = &mut self.list {
            list.begin_reading();
        }
    }

    /// Tells every member which questions are open. Whether they have to be read again.
    pub(super) fn list(&mut self, read: OpenQuestions) -> bool {
        let Some(list) = &self.list else { return false };
        let Some(merged) = list.merge(read) else { return true };
        self.list = None;
        for member in &mut self.members {
            member.list(&merged.frames, &merged.ids);
        }
        false
    }

    /// Somebody begins to look what is missing.
    pub(super) fn looked_at(&mut self) {
        if let Some(held) = &mut self.held {
            held.overtaken = false;
        }
    }

    /// Whether what follows is held back.
    pub(super) fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// Up to where the members have heard, if that is one place.
    pub(super) fn last(&self) -> Option<&Position> {
        self.last.as_ref().filter(|_| !self.apart)
    }

    /// Fills the hole, or tells it, and goes on with what was held back. Whether that shows another hole.
    pub(super) fn release(&mut self, missed: Missed, turn: &mut Turn) -> bool {
        if self.held.as_ref().is_some_and(|held| held.overtaken) {
            return true;
        }
        let Some(held) = self.held.take() else { return false };
        #[cfg(test)]
        let held = if Flaw::ForgetsHeld.is_made() { Box::default() } else { held };
        let conflict = self.conflict.take();
        let mut held = held;
        match missed {
            Missed::Messages(frames, position) => {
                let again =
                    conflict.as_ref().is_some_and(|conflict| conflict.is_with_first(&frames, self.last.as_ref()));
                if conflict.is_some() && !again {
                    self.refuse(turn);
                    self.tell_gap();
                }
                self.refuse_others(&mut held.frames, &frames, conflict.is_some(), &position, turn);
                self.deliver(frames.get(usize::from(again)..).unwrap_or_default(), turn);
                if let Some(newest) = frames.last() {
                    self.fingerprint = newest.fingerprint();
                }
                self.last = Some(position);
            }
            Missed::Gap(told, position) => {
                if conflict.is_some() {
                    self.refuse(turn);
                }
                self.tell(&told);
                self.last = position;
            }
            Missed::Torn(left, told, next, position) => {
                if conflict.is_some() {
                    self.refuse(turn);
                }
                // Who came since was told of the new numbering, or is about to be, and the old one is not for it.
                let old =
                    |member: &Member| member.is_live() && member.told().is_none_or(|told| told.epoch != position.epoch);
                for member in self.members.iter_mut().filter(|member| old(member)) {
                    turn.delivers(&left, 1);
                    member.take(&left, turn);
                }
                self.tell(&told);
                self.deliver(&next, turn);
                self.last = Some(position);
            }
        }
        // Everybody was handed all up to there, or was told.
        (self.heard, self.apart) = (self.last.is_some(), false);
        self.decided = self.last.as_ref().map_or(0, |last| last.offset);
        let opened_by = held.frames.iter().find_map(Frame::position);
        for (at, frame) in held.frames.iter().enumerate() {
            if self.go_on(std::slice::from_ref(frame), turn) {
                // It was heard before the history was read, and the history does not know it: its position is made up.
                if frame.position().is_some() && frame.position() == opened_by {
                    self.refuse(turn);
                    self.held = None;
                    continue;
                }
                // The others wait behind the new hole.
                self.go_on(held.frames.get(at + 1..).unwrap_or_default(), turn);
                self.needs_list();
                return true;
            }
        }
        if held.lost {
            self.hold();
            self.needs_list();
        }
        held.lost
    }

    /// Says something to every member, outside of any history.
    fn tell(&mut self, frame: &Frame) {
        for member in &mut self.members {
            member.tell(frame);
        }
    }

    /// Of the messages that were held back, those that have the position of another one in the history, or that were heard before
    /// the reading of a history which does not have them, are not forwarded.
    fn refuse_others(
        &self,
        held: &mut Vec<Frame>,
        history: &[Frame],
        conflict: bool,
        newest: &Position,
        turn: &mut Turn,
    ) {
        let mut opens = conflict;
        held.retain(|frame| {
            let Some(position) = frame.position() else { return true };
            let is_other = match history.iter().find(|kept| kept.position() == Some(position)) {
                Some(kept) => kept.fingerprint() != frame.fingerprint(),
                None => opens && position.epoch == newest.epoch && position.offset > newest.offset,
            };
            opens = false;
            if is_other {
                self.refuse(turn);
            }
            !is_other
        });
    }

    /// A message had the position of another one.
    fn refuse(&self, turn: &mut Turn) {
        turn.refused.push(self.channel());
    }

    /// What the members have heard last was not the message that belongs there: they go back before it.
    fn tell_gap(&mut self) {
        if let Some(address) = self.channel().address() {
            self.tell(&Frame::gap(&address, self.last.clone()));
        }
    }

    fn keep(&mut self, frame: &Frame) {
        let held = self.held.get_or_insert_default();
        if held.frames.len() < HELD_FRAMES {
            held.frames.push(frame.clone());
        } else {
            // With a place in the history it shows as another hole when these are released.
            held.lost |= frame.position().is_none();
        }
    }

    fn deliver(&mut self, frames: &[Frame], turn: &mut Turn) {
        if frames.is_empty() {
            return;
        }
        turn.delivers(frames, self.members.len());
        for member in &mut self.members {
            member.take(frames, turn);
        }
    }
}

impl Conflict {
    /// Whether the members have heard the first of these messages, which follows this position.
    fn is_with_first(&self, history: &[Frame], last: Option<&Position>) -> bool {
        let Some(first) = history.first() else { return false };
        let follows = first.position().zip(last).is_some_and(|(first, last)| first.offset == last.offset + 1);
        follows && self.heard == Some(first.fingerprint())
    }
}

/// The most frames that one room holds back: they arrive while one read of the history is under way.
pub(super) const HELD_FRAMES: usize = 10_000;

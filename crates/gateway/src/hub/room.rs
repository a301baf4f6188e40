//! The members of one address, and the place in its history up to which they have heard. A hole in the numbering, or an
//! interruption of the node's subscription, makes the room hold back what follows until the hole is filled from history or
//! told: members hear in order, without repeats, and never past a silent hole.

use countersign_backplane::Wanted;
use countersign_protocol::Position;

use super::{Frame, member::Member};

/// See the module.
#[derive(Debug)]
pub(super) struct Room {
    /// Keeps the channel subscribed as long as there are members.
    _wanted: Wanted,
    pub(super) members: Vec<Member>,
    /// The newest message that the members have heard, or were told of when they came.
    last: Option<Position>,
    /// What was heard since the hole; `None` while there is none.
    held: Option<Held>,
}

#[derive(Debug, Default)]
struct Held {
    frames: Vec<Frame>,
    /// A message without a place in the history did not fit: that it is missing would not show.
    lost: bool,
}

/// What came of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It went to every member.
    Delivered,
    /// It waits until the hole before it is filled.
    Held,
    /// The hole before it is new: somebody has to fill it.
    Hole,
    /// The members have it.
    Repeated,
}

/// What is known of a hole.
#[derive(Debug)]
pub(crate) enum Missed {
    /// Every message of it, which may be none, and the newest of all.
    Messages(Vec<Frame>, Position),
    /// It cannot be filled: what members are to hear of it, and the newest message, if the address keeps history.
    Gap(Frame, Option<Position>),
}

impl Room {
    pub(super) fn new(wanted: Wanted) -> Self {
        Self { _wanted: wanted, members: Vec::new(), last: None, held: None }
    }

    /// A frame was heard.
    pub(super) fn hear(&mut self, frame: &Frame) -> Outcome {
        if let Some(held) = &mut self.held {
            if held.frames.len() < HELD_FRAMES {
                held.frames.push(frame.clone());
            } else {
                // With a place in the history it shows as another hole when these are released.
                held.lost |= frame.position.is_none();
            }
            return Outcome::Held;
        }
        if let Some(position) = &frame.position {
            match &self.last {
                Some(last) if last.epoch == position.epoch => {
                    if position.offset <= last.offset {
                        return Outcome::Repeated;
                    }
                    if position.offset > last.offset + 1 {
                        return self.hole_before(frame);
                    }
                }
                // A new numbering that is heard from its beginning has no hole.
                Some(_) if position.offset > 1 => return self.hole_before(frame),
                _ => {}
            }
            self.last = Some(position.clone());
        }
        self.deliver(frame);
        Outcome::Delivered
    }

    /// A member was told the position; it is the room's when the room has none.
    pub(super) fn begin_at(&mut self, position: Option<&Position>) {
        if self.last.is_none() {
            self.last = position.cloned();
        }
    }

    /// From now on messages may be missing.
    pub(super) fn hold(&mut self) {
        self.held.get_or_insert_default();
    }

    /// Whether what follows is held back.
    pub(super) fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// Up to where the members have heard.
    pub(super) fn last(&self) -> Option<&Position> {
        self.last.as_ref()
    }

    /// Fills the hole, or tells it, and goes on with what was held back. Whether that shows another hole.
    pub(super) fn release(&mut self, missed: Missed) -> Outcome {
        let Some(held) = self.held.take() else { return Outcome::Delivered };
        match missed {
            Missed::Messages(frames, position) => {
                for frame in &frames {
                    self.deliver(frame);
                }
                self.last = Some(position);
            }
            Missed::Gap(told, position) => {
                self.tell(&told);
                self.last = position;
            }
        }
        let opened_by = held.frames.iter().find_map(|frame| frame.position.clone());
        let mut frames = held.frames.iter();
        while let Some(frame) = frames.next() {
            if self.hear(frame) == Outcome::Hole {
                // It was heard before the history was read, and the history does not know it: its position is made up.
                if frame.position.is_some() && frame.position == opened_by {
                    tracing::warn!("a message with a position that the history does not have was not forwarded");
                    self.held = None;
                    continue;
                }
                // They wait behind the new hole.
                for frame in frames {
                    self.hear(frame);
                }
                return Outcome::Hole;
            }
        }
        if held.lost {
            self.hold();
            return Outcome::Hole;
        }
        Outcome::Delivered
    }

    /// Says something to every member, outside of any history.
    pub(super) fn tell(&mut self, frame: &Frame) {
        for member in &mut self.members {
            member.tell(frame.clone());
        }
    }

    fn hole_before(&mut self, frame: &Frame) -> Outcome {
        self.hold();
        self.hear(frame);
        Outcome::Hole
    }

    fn deliver(&mut self, frame: &Frame) {
        for member in &mut self.members {
            member.take(frame.clone());
        }
    }
}

/// The most frames that one room holds back: they arrive while one read of the history is under way.
const HELD_FRAMES: usize = 10_000;

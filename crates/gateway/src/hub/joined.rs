//! The rooms of one connection, and where it stands among their members. Nearly all are in a handful, and then a short list is
//! smaller and quicker than a table.

use std::collections::HashMap;

use countersign_backplane::ChannelNumber;
use smallvec::SmallVec;

/// See the module.
#[derive(Debug)]
pub(super) enum Joined {
    /// Everybody's messages, the user's own, and one topic need no memory beside.
    Few(SmallVec<[(ChannelNumber, u32); 3]>),
    /// Boxed: nearly nobody is in as many.
    #[allow(clippy::box_collection, reason = "three words less for every connection")]
    Many(Box<HashMap<ChannelNumber, u32>>),
}

/// From here on a table is quicker.
const MANY: usize = 32;

impl Joined {
    /// In no room.
    pub(super) fn new() -> Self {
        Self::Few(SmallVec::new())
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Few(rooms) => rooms.len(),
            Self::Many(rooms) => rooms.len(),
        }
    }

    /// Where it stands in a room, if it is there.
    pub(super) fn place_in(&self, room: ChannelNumber) -> Option<usize> {
        let place = match self {
            Self::Few(rooms) => rooms.iter().find(|(one, _)| *one == room).map(|(_, place)| *place),
            Self::Many(rooms) => rooms.get(&room).copied(),
        };
        place.map(|place| place as usize)
    }

    /// It stands there now; it may be new in the room.
    pub(super) fn stand_in(&mut self, room: ChannelNumber, place: usize) {
        let place = u32::try_from(place).expect("memory ends before four billion members");
        match self {
            Self::Few(rooms) => {
                if let Some((_, stands)) = rooms.iter_mut().find(|(one, _)| *one == room) {
                    *stands = place;
                } else if rooms.len() < MANY {
                    rooms.push((room, place));
                } else {
                    *self = Self::Many(Box::new(rooms.drain(..).chain([(room, place)]).collect()));
                }
            }
            Self::Many(rooms) => drop(rooms.insert(room, place)),
        }
    }

    /// Where it stood.
    pub(super) fn leave(&mut self, room: ChannelNumber) -> Option<usize> {
        let place = match self {
            Self::Few(rooms) => {
                let at = rooms.iter().position(|(one, _)| *one == room)?;
                rooms.swap_remove(at).1
            }
            Self::Many(rooms) => rooms.remove(&room)?,
        };
        Some(place as usize)
    }

    /// Some room of those that are left, and where it stood there.
    pub(super) fn leave_any(&mut self) -> Option<(ChannelNumber, usize)> {
        let (room, place) = match self {
            Self::Few(rooms) => rooms.pop()?,
            Self::Many(rooms) => {
                let any = *rooms.keys().next()?;
                rooms.remove_entry(&any)?
            }
        };
        Some((room, place as usize))
    }
}

#[cfg(test)]
mod tests {
    use countersign_backplane::{Channel, Interest};
    use countersign_protocol::TopicName;

    use super::*;

    #[test]
    fn few_and_many_are_kept_alike() {
        let interest = Interest::new();
        let topic = |n: usize| Channel::Topic(TopicName::parse(&format!("t{n}")).unwrap());
        let wanted: Vec<_> = (0..3 * MANY).map(|n| interest.want(&topic(n))).collect();
        let rooms: Vec<_> = wanted.iter().map(countersign_backplane::Wanted::number).collect();
        let mut joined = Joined::new();
        for (n, room) in rooms.iter().enumerate() {
            assert_eq!(joined.place_in(*room), None);
            joined.stand_in(*room, n);
            joined.stand_in(*room, n + 1);
            assert_eq!((joined.place_in(*room), joined.place_in(rooms[0])), (Some(n + 1), Some(1)));
            assert_eq!(joined.len(), n + 1);
        }
        assert_eq!((joined.leave(rooms[5]), joined.leave(rooms[5])), (Some(6), None));
        assert_eq!(std::iter::from_fn(|| joined.leave_any()).count(), 3 * MANY - 1);
        let mut few = Joined::new();
        few.stand_in(rooms[1], 7);
        assert_eq!((few.leave(rooms[2]), few.leave_any(), few.leave_any()), (None, Some((rooms[1], 7)), None));
        assert_eq!(few.len(), 0);
    }
}

//! The rooms of a node, each at the number of its channel, so that what is heard finds its room without a table by name.

use countersign_backplane::ChannelNumber;

use super::room::Room;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    /// Boxed: most numbers of a node that was once busy are nobody's.
    rooms: Vec<Option<Box<Room>>>,
    count: usize,
}

impl Rooms {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn get_mut(&mut self, channel: ChannelNumber) -> Option<&mut Room> {
        self.rooms.get_mut(channel.index())?.as_deref_mut()
    }

    pub(super) fn get_or_insert_with(&mut self, channel: ChannelNumber, room: impl FnOnce() -> Room) -> &mut Room {
        if self.rooms.len() <= channel.index() {
            self.rooms.resize_with(channel.index() + 1, || None);
        }
        let Self { rooms, count } = self;
        let place = rooms.get_mut(channel.index()).expect("there is room for it");
        place.get_or_insert_with(|| {
            *count += 1;
            Box::new(room())
        })
    }

    /// Gives a room up.
    pub(super) fn remove(&mut self, channel: ChannelNumber) {
        if let Some(place) = self.rooms.get_mut(channel.index())
            && place.take().is_some()
        {
            self.count -= 1;
        }
        while let Some(None) = self.rooms.last() {
            self.rooms.pop();
        }
        if self.rooms.len() < self.rooms.capacity() / 4 {
            self.rooms.shrink_to(2 * self.rooms.len());
        }
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Room> {
        self.rooms.iter_mut().filter_map(Option::as_deref_mut)
    }
}

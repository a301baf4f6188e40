//! Messages that a slow reader misses because it prefers that to being closed: how many of each address, and where it can
//! go on from.

use countersign_protocol::{Address, Event, Position};

use crate::hub::Frame;

/// What was left out since the client was told last.
#[derive(Debug, Default)]
pub(super) struct Dropped {
    of: Vec<(Address, Missing)>,
    /// Since it was asked last, for metrics.
    total: u64,
}

#[derive(Debug)]
struct Missing {
    count: u64,
    /// Of the last message before the first that is missing.
    position: Option<Position>,
}

impl Dropped {
    pub(super) fn count(&mut self, address: &Address, position: Option<&Position>) {
        self.total += 1;
        if let Some((_, missing)) = self.of.iter_mut().find(|(of, _)| of == address) {
            missing.count += 1;
            return;
        }
        let before = position.map(|at| Position::new(at.epoch.clone(), at.offset.saturating_sub(1)));
        self.of.push((address.clone(), Missing { count: 1, position: before }));
    }

    /// What the client has to be told of an address before it hears more of it.
    pub(super) fn news_of(&mut self, address: &Address) -> Option<Frame> {
        let at = self.of.iter().position(|(of, _)| of == address)?;
        let (address, missing) = self.of.swap_remove(at);
        Some(missing.told(&address))
    }

    /// Everything that the client has to be told.
    pub(super) fn news(&mut self) -> Vec<Frame> {
        self.of.drain(..).map(|(address, missing)| missing.told(&address)).collect()
    }

    pub(super) fn take_total(&mut self) -> u64 {
        std::mem::take(&mut self.total)
    }
}

impl Missing {
    fn told(self, address: &Address) -> Frame {
        let topic = address.client_form().to_string();
        Frame::plain(Event::MessagesDropped { topic, count: self.count, position: self.position }.to_json())
    }
}

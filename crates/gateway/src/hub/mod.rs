//! The hub: which connection hears what, and the fan-out. Synchronous: no `.await`, no clock, no Redis. It is told that
//! something was heard and hands shared frames to outboxes; the first member of a room wants its channel and the last
//! one's leaving lets it go, in the same call.
//!
//! A connection enters a room in two steps, and the types leave no other way: [`Hub::join`] makes it a member whose
//! frames are held back; once the subscription is confirmed and what came before has been read, [`Joining::complete`]
//! puts the first words into the outbox, then the held frames that are newer than the position read, then lets the
//! rest flow. So nothing is missed, repeated or out of order between "subscribed" and "live".

mod frame;
mod joined;
mod member;
mod open_questions;
mod outbox;
mod room;
mod rooms;
#[cfg(test)]
mod tests;
mod turn;

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use countersign_backplane::{Audience, ByAudience, Channel, ChannelNumber, Interest, Wanted};
use countersign_protocol::{CallbackId, Position, UserId, close};
use slab::Slab;

pub(crate) use frame::{Facts, Frame};
use joined::Joined;
use member::Member;
pub(crate) use open_questions::OpenQuestions;
pub(crate) use outbox::{Attention, Outbox, OutboxLimits, WhenFull};
#[cfg(test)]
pub(crate) use outbox::{Deaf, Sink};
pub(crate) use room::Missed;
use room::Room;
use rooms::Rooms;
pub(crate) use turn::Turn;

/// Rooms and their members. One a node.
#[derive(Debug)]
pub(crate) struct Hub {
    interest: Arc<Interest>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connections: Slab<Connected>,
    rooms: Rooms,
    /// How often the subscription of an audience broke or came back.
    interruptions: ByAudience<u64>,
    /// Whether it is broken now: what is filled before it is back would have to be filled again.
    broken: ByAudience<bool>,
}

#[derive(Debug)]
struct Connected {
    outbox: Arc<Outbox>,
    joined: Joined,
}

/// A connection's place in the hub. Dropping it leaves every room.
#[derive(Debug)]
pub(crate) struct Membership {
    hub: Arc<Hub>,
    connection: usize,
    outbox: Arc<Outbox>,
}

/// A member whose frames are held back. Dropping it leaves the room.
#[derive(Debug)]
pub(crate) struct Joining {
    hub: Arc<Hub>,
    connection: usize,
    wanted: Wanted,
    /// How many interruptions there had been when what came before was read.
    interruptions: AtomicU64,
    completed: bool,
}

/// Why a connection does not join.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum NotJoined {
    /// It is a member, or about to be one.
    Already,
    /// It is in as many rooms as a connection may be.
    TooMany,
}

impl Hub {
    pub(crate) fn new(interest: Arc<Interest>) -> Arc<Self> {
        Arc::new(Self { interest, state: Mutex::default() })
    }

    /// A place for a connection with this outbox; in no room yet.
    pub(crate) fn enter(self: &Arc<Self>, outbox: Arc<Outbox>) -> Membership {
        let connection =
            self.lock().connections.insert(Connected { outbox: Arc::clone(&outbox), joined: Joined::new() });
        Membership { hub: Arc::clone(self), connection, outbox }
    }

    /// Hands each frame to every member of its room, in order: `frames[i]` was heard on `channels[i]`. What they said is in
    /// the outboxes when this returns, and the turn says which of these have to be written.
    pub(crate) fn deliver(&self, channels: &[ChannelNumber], frames: &[Frame]) -> Turn {
        let mut state = self.lock();
        let mut turn = Turn::default();
        let mut from = 0;
        // What follows each other on one channel is one walk through its members.
        for channels in channels.chunk_by(|one, next| one == next) {
            let frames = frames.get(from..from + channels.len()).unwrap_or_default();
            from += channels.len();
            let Some(room) = channels.first().and_then(|channel| state.rooms.get_mut(*channel)) else { continue };
            let hole = room.hear(frames, &mut turn);
            turn.hole |= hole;
        }
        turn
    }

    /// The subscription of an audience is broken: every address of it, and who joins and leaves it, holds back what follows
    /// until [`Self::release`].
    pub(crate) fn interrupt(&self, audience: Audience) {
        self.hold(audience, true);
    }

    /// It was broken until now. Whoever fills holes may have begun before, so all of it is held back once more.
    pub(crate) fn resume(&self, audience: Audience) {
        self.hold(audience, false);
    }

    fn hold(&self, audience: Audience, broken: bool) {
        let mut state = self.lock();
        *state.broken.of_mut(audience) = broken;
        *state.interruptions.of_mut(audience) += 1;
        #[cfg(test)]
        if crate::simulation::Flaw::IgnoresInterruptions.is_made() {
            return;
        }
        for room in state.rooms.iter_mut() {
            let channel = room.channel();
            // Who is still joining reads after this, or does not join. What is held back for those that have left is not for them.
            let fillable = channel.address().is_some() || matches!(channel, Channel::Presence(_));
            if channel.audience() != audience || !fillable {
                continue;
            }
            if room.is_live() || room.holds() {
                room.needs_list();
                room.hold();
            } else if room.lacks_list() {
                room.needs_list();
            }
        }
    }

    /// The addresses that hold back what follows and whose subscription is not broken, and up to where their members have heard;
    /// in an order that does not depend on chance.
    pub(crate) fn holding(&self) -> Vec<(Channel, Option<Position>)> {
        let mut state = self.lock();
        let State { rooms, broken, .. } = &mut *state;
        let holding = rooms.iter_mut().filter(|room| room.holds() && !broken.of(room.channel().audience()));
        let look = |room: &mut Room| {
            room.looked_at();
            (room.channel(), room.last().cloned())
        };
        let mut holding: Vec<_> = holding.map(look).collect();
        drop(state);
        holding.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        holding
    }

    /// Fills the hole of an address, or tells it, and lets the rest flow.
    pub(crate) fn release(&self, channel: &Channel, missed: Missed) -> Released {
        let mut turn = Turn::default();
        let mut state = self.lock();
        let room = self.interest.number_of(channel).and_then(|number| state.rooms.get_mut(number));
        let another = room.is_some_and(|room| room.release(missed, &mut turn));
        drop(state);
        let refused = std::mem::take(&mut turn.refused);
        turn.leave_to_owners();
        Released { another, refused }
    }

    /// Users whose connections may show other questions than those that are open, and whose subscription is not broken: their
    /// lists are read after this. In an order that does not depend on chance.
    pub(crate) fn without_list(&self) -> Vec<UserId> {
        let mut state = self.lock();
        let State { rooms, broken, .. } = &mut *state;
        let mut users: Vec<UserId> = rooms
            .iter_mut()
            .filter(|room| room.lacks_list() && !broken.of(room.channel().audience()))
            .filter_map(|room| {
                room.begin_reading();
                match room.channel() {
                    Channel::User(user) => Some(user),
                    _ => None,
                }
            })
            .collect();
        drop(state);
        users.sort_unstable();
        users
    }

    /// Tells a user's connections which questions are open. Whether they have to be read again.
    pub(crate) fn list(&self, user: &UserId, read: OpenQuestions) -> bool {
        let mut state = self.lock();
        let number = self.interest.number_of(&Channel::User(user.clone()));
        number.and_then(|number| state.rooms.get_mut(number)).is_some_and(|room| room.list(read))
    }

    /// The node may not hear this channel any more. Members that hear it would be deaf without knowing it, so they come back, and
    /// are answered as those that join are.
    pub(crate) fn forbid(&self, channel: &Channel) {
        let mut state = self.lock();
        let room = self.interest.number_of(channel).and_then(|number| state.rooms.get_mut(number));
        for member in room.into_iter().flat_map(|room| &room.members).filter(|member| member.is_live()) {
            member.close(close::UNAVAILABLE);
        }
    }

    /// Tells every connection that the node drains.
    pub(crate) fn drain(&self) {
        for (_, connected) in &self.lock().connections {
            connected.outbox.leave();
        }
    }

    /// Tells every connection to close.
    pub(crate) fn close_all(&self, reason: close::Close) {
        for (_, connected) in &self.lock().connections {
            connected.outbox.close(reason);
        }
    }

    /// Messages that were left out for readers that are too slow, since this was asked last.
    pub(crate) fn take_dropped(&self) -> u64 {
        self.lock().connections.iter().map(|(_, connected)| connected.outbox.take_dropped()).sum()
    }

    /// Frames and bytes that count in each outbox.
    #[cfg(test)]
    pub(crate) fn counted(&self) -> Vec<(usize, usize)> {
        self.lock().connections.iter().map(|(_, connected)| connected.outbox.counted()).collect()
    }

    /// Connections that are in the hub, and frames that wait in their outboxes.
    pub(crate) fn load(&self) -> Load {
        let state = self.lock();
        Load {
            connections: state.connections.len(),
            rooms: state.rooms.len(),
            waiting: state.connections.iter().map(|(_, connected)| connected.outbox.depth()).sum(),
        }
    }

    fn leave(&self, connection: usize, channel: ChannelNumber) -> bool {
        let mut state = self.lock();
        let place = state.connections.get_mut(connection).and_then(|connected| connected.joined.leave(channel));
        if let Some(place) = place {
            state.leave_room(channel, place);
        }
        place.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics between two states, so a poisoned lock still guards a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came of [`Hub::release`].
#[derive(Debug)]
pub(crate) struct Released {
    /// There is another hole.
    pub(crate) another: bool,
    /// See [`Turn::refused`].
    pub(crate) refused: Vec<Channel>,
}

/// How much the hub holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    pub(crate) rooms: usize,
    pub(crate) waiting: usize,
}

impl State {
    /// A connection in a room.
    fn member(&mut self, channel: ChannelNumber, connection: usize) -> Option<(&mut Room, usize)> {
        let place = self.connections.get(connection)?.joined.place_in(channel)?;
        Some((self.rooms.get_mut(channel)?, place))
    }

    /// The member at this place is one no longer.
    fn leave_room(&mut self, channel: ChannelNumber, place: usize) {
        let Some(room) = self.rooms.get_mut(channel) else { return };
        room.members.swap_remove(place);
        if let Some(moved) = room.members.get(place) {
            let moved = self.connections.get_mut(moved.connection).expect("a member's connection is in the hub");
            moved.joined.stand_in(channel, place);
        }
        #[cfg(test)]
        if crate::simulation::Flaw::KeepsRooms.is_made() {
            return;
        }
        if room.members.is_empty() {
            self.rooms.remove(channel);
        }
    }
}

impl Membership {
    /// The connection's outbox.
    pub(crate) fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// Makes the connection a member of a room, with everything held back from now on. A connection may be in at most
    /// `most` rooms.
    pub(crate) fn join(&self, channel: &Channel, most: usize) -> Result<Joining, NotJoined> {
        let mut state = self.hub.lock();
        let State { connections, rooms, interruptions, .. } = &mut *state;
        let interruptions = AtomicU64::new(*interruptions.of(channel.audience()));
        let connected = connections.get_mut(self.connection).expect("a membership's connection is in the hub");
        let number = self.hub.interest.number_of(channel);
        if number.is_some_and(|number| connected.joined.place_in(number).is_some()) {
            return Err(NotJoined::Already);
        }
        if connected.joined.len() >= most {
            return Err(NotJoined::TooMany);
        }
        let wanted = self.hub.interest.want(channel);
        let room = rooms.get_or_insert_with(wanted.number(), || Room::new(self.hub.interest.want(channel)));
        connected.joined.stand_in(wanted.number(), room.members.len());
        room.members.push(Member::joining(self.connection, Arc::clone(&self.outbox)));
        Ok(Joining { hub: Arc::clone(&self.hub), connection: self.connection, wanted, interruptions, completed: false })
    }

    /// Says something to a live member of a room: where it is there.
    pub(crate) fn tell_position(&self, channel: &Channel, say: impl FnOnce(Option<Position>) -> Frame) {
        // Under the lock, so that nothing is delivered in between.
        let mut state = self.hub.lock();
        let position = self.in_room(&mut state, channel).and_then(|(room, place)| room.position_of(place));
        self.outbox.owe(&say(position));
    }

    /// Holds back what a member of a room hears from now on, as when it joined; `None` when it is no member.
    pub(crate) fn hold_back(&self, channel: &Channel) -> Option<Joining> {
        let mut state = self.hub.lock();
        let (room, place) = self.in_room(&mut state, channel)?;
        room.members.get_mut(place)?.hold_back();
        let wanted = self.hub.interest.want(channel);
        let interruptions = AtomicU64::new(*state.interruptions.of(channel.audience()));
        Some(Joining {
            hub: Arc::clone(&self.hub),
            connection: self.connection,
            wanted,
            interruptions,
            completed: false,
        })
    }

    /// Whether the connection could be in these rooms too, with at most `most` in all.
    pub(crate) fn has_room_for<'a>(&self, channels: impl Iterator<Item = &'a Channel>, most: usize) -> bool {
        let state = self.hub.lock();
        let Some(connected) = state.connections.get(self.connection) else { return false };
        let is_in = |number| connected.joined.place_in(number).is_some();
        let new = channels.filter(|channel| !self.hub.interest.number_of(channel).is_some_and(is_in)).count();
        connected.joined.len() + new <= most
    }

    /// Whether the connection is in a room.
    pub(crate) fn is_in(&self, channel: &Channel) -> bool {
        self.in_room(&mut self.hub.lock(), channel).is_some()
    }

    /// Leaves a room; whether the connection was in it.
    pub(crate) fn leave(&self, channel: &Channel) -> bool {
        self.hub.interest.number_of(channel).is_some_and(|number| self.hub.leave(self.connection, number))
    }

    /// The room of a channel and the connection's place there, if it is in it.
    fn in_room<'s>(&self, state: &'s mut State, channel: &Channel) -> Option<(&'s mut Room, usize)> {
        state.member(self.hub.interest.number_of(channel)?, self.connection)
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut state = self.hub.lock();
        let mut connected = state.connections.remove(self.connection);
        while let Some((channel, place)) = connected.joined.leave_any() {
            state.leave_room(channel, place);
        }
    }
}

impl Joining {
    /// Waits until the backplane has confirmed the subscription, or refused it. Without limit: the caller bounds it.
    pub(crate) async fn confirmed(&self) {
        self.wanted.confirmed().await;
    }

    /// Whether the backplane does not let this node hear the channel.
    pub(crate) fn is_forbidden(&self) -> bool {
        self.wanted.is_forbidden()
    }

    /// The subscription is confirmed, and what came before is read after this: what was heard until now was left from a
    /// subscription before, and is part of it.
    pub(crate) fn reads(&self) {
        let mut state = self.hub.lock();
        self.interruptions.store(*state.interruptions.of(self.wanted.channel().audience()), Ordering::Relaxed);
        if let Some((room, place)) = state.member(self.wanted.number(), self.connection)
            && let Some(member) = room.members.get_mut(place)
        {
            member.begin_again();
        }
    }

    /// Sends `first`, then what was held back but is newer than `position` and no question of `known`, and makes the
    /// member live; what is heard later of these is not repeated either. All in one step: no other frame of this room can
    /// come between. When the subscription was interrupted since the reading, messages may be missing that neither was read nor
    /// will be heard: the connection is closed then, and comes back.
    pub(crate) fn complete(mut self, first: &[Frame], position: Option<&Position>, known: &HashSet<CallbackId>) {
        self.completed = true;
        let mut state = self.hub.lock();
        let interruptions = *state.interruptions.of(self.wanted.channel().audience());
        let overtaken = interruptions != self.interruptions.load(Ordering::Relaxed);
        let Some((room, place)) = state.member(self.wanted.number(), self.connection) else { return };
        let Some(member) = room.members.get_mut(place) else { return };
        if overtaken {
            member.close(close::UNAVAILABLE);
            return;
        }
        member.go_live(first, position, known);
        room.begin_at(position);
    }
}

impl Drop for Joining {
    fn drop(&mut self) {
        if !self.completed {
            self.hub.leave(self.connection, self.wanted.number());
        }
    }
}

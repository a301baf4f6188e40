//! Which channels a node wants to hear, as state. Wanting and unwanting are synchronous and never fail; a subscriber
//! reconciles what is wanted with what is subscribed, in batches, and a reconnect is the same reconciliation from
//! nothing. Owned by one node; shared by its hub, its waiters and its subscriber.
//!
//! It is the node's only table of channels by name: a channel is looked up once for each publication, and its number leads
//! to everything else that belongs to it.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hashbrown::HashTable;
use slab::Slab;
use tokio::sync::{Notify, oneshot};

use crate::{
    audience::{Audience, ByAudience},
    channel::{Channel, Named},
};

/// The channels that a node wants.
#[derive(Debug, Default)]
pub struct Interest {
    state: Mutex<State>,
    changed: ByAudience<Notify>,
}

#[derive(Debug, Default)]
struct State {
    channels: Slab<Entry>,
    /// Their numbers, by name.
    numbers: HashTable<ChannelNumber>,
    hasher: RandomState,
    /// Channels whose want and subscription may differ; in an order of their own, so that what follows does not depend on chance.
    dirty: ByAudience<BTreeSet<ChannelNumber>>,
    /// Who waits for a channel to be subscribed. Apart, because there are many channels and few who wait.
    confirmations: HashMap<ChannelNumber, Vec<oneshot::Sender<()>>>,
}

#[derive(Debug)]
struct Entry {
    channel: Channel,
    wants: u32,
    subscription: Subscription,
}

/// What a channel is called on this node, from the first wish until nobody wants it and it is subscribed no longer. Numbers
/// are dense and used again, so what belongs to channels can stand in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelNumber(u32);

impl ChannelNumber {
    /// A place in a list.
    pub fn index(self) -> usize {
        self.0 as usize
    }

    fn at(index: usize) -> Self {
        Self(u32::try_from(index).expect("memory ends before four billion channels"))
    }
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Subscription {
    Absent,
    /// A request is on its way; which one decides what the channel is afterwards.
    Changing,
    Present,
    /// The backplane does not let this node hear it. It is asked again on another connection, or when it is wanted anew.
    Forbidden,
}

/// What a subscriber has to do next. Disjoint, at most as many as it asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Wanted and not subscribed.
    pub subscribe: Vec<Channel>,
    /// Subscribed and not wanted.
    pub unsubscribe: Vec<Channel>,
}

impl Changes {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.subscribe.is_empty() && self.unsubscribe.is_empty()
    }
}

/// One wish to hear a channel; dropping it takes the wish back.
#[derive(Debug)]
pub struct Wanted {
    interest: Arc<Interest>,
    number: ChannelNumber,
}

/// Looks channels up, for as long as it lives; nothing changes meanwhile.
pub(crate) struct Directory<'a>(MutexGuard<'a, State>);

impl Directory<'_> {
    /// The channel of this name, if it is wanted or subscribed.
    pub(crate) fn find(&self, name: Named<'_>) -> Option<(ChannelNumber, Channel)> {
        let number = self.0.number_of(name)?;
        self.0.channels.get(number.index()).map(|entry| (number, entry.channel.clone()))
    }
}

impl State {
    fn number_of(&self, name: Named<'_>) -> Option<ChannelNumber> {
        let is = |number: &ChannelNumber| {
            self.channels.get(number.index()).is_some_and(|entry| entry.channel.named() == name)
        };
        self.numbers.find(self.hasher.hash_one(name), is).copied()
    }

    fn entry(&mut self, channel: &Channel) -> Option<(ChannelNumber, &mut Entry)> {
        let number = self.number_of(channel.named())?;
        self.channels.get_mut(number.index()).map(|entry| (number, entry))
    }

    /// The number of a channel, which may be a new one.
    fn enter(&mut self, channel: &Channel) -> ChannelNumber {
        if let Some(number) = self.number_of(channel.named()) {
            return number;
        }
        let entry = Entry { channel: channel.clone(), wants: 0, subscription: Subscription::Absent };
        let number = ChannelNumber::at(self.channels.insert(entry));
        let Self { channels, numbers, hasher, .. } = self;
        let hash = |number: &ChannelNumber| {
            let entry = channels.get(number.index());
            hasher.hash_one(entry.expect("a number in the table is a channel's").channel.named())
        };
        numbers.insert_unique(hash(&number), number, hash);
        number
    }

    /// Forgets a channel that is neither wanted nor subscribed.
    fn forget(&mut self, number: ChannelNumber) {
        let entry = self.channels.remove(number.index());
        let hash = self.hasher.hash_one(entry.channel.named());
        if let Ok(found) = self.numbers.find_entry(hash, |one| *one == number) {
            found.remove();
        }
    }
}

impl Interest {
    /// Wants nothing.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Wants a channel for as long as the result lives.
    pub fn want(self: &Arc<Self>, channel: &Channel) -> Wanted {
        let mut state = self.lock();
        let number = state.enter(channel);
        let State { channels, dirty, .. } = &mut *state;
        let entry = channels.get_mut(number.index()).expect("it was entered just now");
        entry.wants += 1;
        if entry.wants == 1 && entry.subscription == Subscription::Forbidden {
            entry.subscription = Subscription::Absent;
        }
        if entry.wants == 1 && entry.subscription != Subscription::Present {
            dirty.of_mut(channel.audience()).insert(number);
            self.changed.of(channel.audience()).notify_one();
        }
        drop(state);
        Wanted { interest: Arc::clone(self), number }
    }

    /// How many channels are wanted.
    pub fn wanted(&self) -> usize {
        self.lock().channels.iter().filter(|(_, entry)| entry.wants > 0).count()
    }

    /// The number of a channel that is wanted or subscribed.
    pub fn number_of(&self, channel: &Channel) -> Option<ChannelNumber> {
        self.lock().number_of(channel.named())
    }

    /// To look up many channels.
    pub(crate) fn directory(&self) -> Directory<'_> {
        Directory(self.lock())
    }

    /// Waits until [`Self::changes`] may have something. Cancellation safe.
    pub async fn changed(&self, audience: Audience) {
        self.changed.of(audience).notified().await;
    }

    /// For the subscriber of an audience: what to do next, at most `most` channels of each kind. Everything returned counts as under way until
    /// [`Self::subscribed`] or [`Self::unsubscribed`] names it, or [`Self::lost`] is called.
    pub fn changes(&self, audience: Audience, most: usize) -> Changes {
        let mut state = self.lock();
        let mut dirty = std::mem::take(state.dirty.of_mut(audience));
        let mut changes = Changes::default();
        dirty.retain(|number| {
            let Some(entry) = state.channels.get_mut(number.index()) else { return false };
            let list = match (entry.wants > 0, entry.subscription) {
                (_, Subscription::Changing) => return true,
                (true, Subscription::Absent) => &mut changes.subscribe,
                (false, Subscription::Present) => &mut changes.unsubscribe,
                (true, Subscription::Present | Subscription::Forbidden) => return false,
                (false, Subscription::Absent | Subscription::Forbidden) => {
                    state.forget(*number);
                    return false;
                }
            };
            if list.len() >= most {
                return true;
            }
            entry.subscription = Subscription::Changing;
            list.push(entry.channel.clone());
            false
        });
        *state.dirty.of_mut(audience) = dirty;
        changes
    }

    /// For a subscriber: these are subscribed now, confirmed by the backplane.
    pub fn subscribed(&self, channels: &[Channel]) {
        let mut state = self.lock();
        for channel in channels {
            let Some((number, entry)) = state.entry(channel) else { continue };
            entry.subscription = Subscription::Present;
            let unwanted = entry.wants == 0;
            for confirmation in state.confirmations.remove(&number).unwrap_or_default() {
                // Whoever asked may have given up.
                confirmation.send(()).ok();
            }
            if unwanted {
                state.dirty.of_mut(channel.audience()).insert(number);
            }
        }
        if state.confirmations.is_empty() && state.confirmations.capacity() > KEPT {
            state.confirmations = HashMap::new();
        }
        self.notify_if_dirty(&state);
    }

    /// For a subscriber: the backplane does not let this node hear this channel.
    pub fn forbidden(&self, channel: &Channel) {
        let mut state = self.lock();
        let Some((number, entry)) = state.entry(channel) else { return };
        entry.subscription = Subscription::Forbidden;
        if entry.wants == 0 {
            state.forget(number);
            return;
        }
        for confirmation in state.confirmations.remove(&number).unwrap_or_default() {
            // The asker may have given up.
            confirmation.send(()).ok();
        }
    }

    /// For a subscriber: these are subscribed no longer.
    pub fn unsubscribed(&self, channels: &[Channel]) {
        let mut state = self.lock();
        for channel in channels {
            let Some((number, entry)) = state.entry(channel) else { continue };
            entry.subscription = Subscription::Absent;
            if entry.wants > 0 {
                state.dirty.of_mut(channel.audience()).insert(number);
            } else {
                state.forget(number);
            }
        }
        self.notify_if_dirty(&state);
    }

    /// For the subscriber of an audience: the connection is gone, nothing of it is subscribed.
    pub fn lost(&self, audience: Audience) {
        let mut state = self.lock();
        let State { channels, dirty, .. } = &mut *state;
        for (index, entry) in channels.iter_mut().filter(|(_, entry)| entry.channel.audience() == audience) {
            entry.subscription = Subscription::Absent;
            // What is not wanted is forgotten with the next changes.
            dirty.of_mut(audience).insert(ChannelNumber::at(index));
        }
        self.notify_if_dirty(&state);
    }

    fn unwant(&self, number: ChannelNumber) {
        let mut state = self.lock();
        let Some(entry) = state.channels.get_mut(number.index()) else { return };
        entry.wants -= 1;
        if entry.wants == 0 {
            let audience = entry.channel.audience();
            state.confirmations.remove(&number);
            state.dirty.of_mut(audience).insert(number);
            self.changed.of(audience).notify_one();
        }
    }

    fn notify_if_dirty(&self, state: &State) {
        for audience in Audience::ALL {
            if !state.dirty.of(audience).is_empty() {
                self.changed.of(audience).notify_one();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics between two states, so a poisoned lock still guards a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wanted {
    /// Waits until the backplane has confirmed the subscription, or refused it: see [`Self::is_forbidden`]. Without limit: the
    /// caller bounds it. Cancellation safe.
    pub async fn confirmed(&self) {
        let confirmation = {
            let mut state = self.interest.lock();
            let answered =
                |entry: &Entry| matches!(entry.subscription, Subscription::Present | Subscription::Forbidden);
            if state.channels.get(self.number.index()).is_some_and(answered) {
                return;
            }
            let waiting = state.confirmations.entry(self.number).or_default();
            waiting.retain(|confirmation| !confirmation.is_closed());
            let (sender, receiver) = oneshot::channel();
            waiting.push(sender);
            receiver
        };
        // The sender stays until the channel is subscribed or nobody wants it: it is never dropped unsent while we wait.
        confirmation.await.ok();
    }

    /// Whether the backplane does not let this node hear the channel.
    pub fn is_forbidden(&self) -> bool {
        let state = self.interest.lock();
        let forbidden = |entry: &Entry| entry.subscription == Subscription::Forbidden;
        state.channels.get(self.number.index()).is_some_and(forbidden)
    }

    /// Which channel: looked up, because there are many wishes and few who ask.
    pub fn channel(&self) -> Channel {
        let state = self.interest.lock();
        state.channels.get(self.number.index()).expect("a wanted channel is entered").channel.clone()
    }

    /// Its number: nobody else's for as long as it is wanted.
    pub fn number(&self) -> ChannelNumber {
        self.number
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.interest.unwant(self.number);
    }
}

/// Room for this many who wait is kept for the next ones.
const KEPT: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_protocol::TopicName;
    use futures_util::FutureExt;

    fn topic(name: &str) -> Channel {
        Channel::Topic(TopicName::parse(name).unwrap())
    }

    fn subscribe(channels: Vec<Channel>) -> Changes {
        Changes { subscribe: channels, unsubscribe: vec![] }
    }

    fn unsubscribe(channels: Vec<Channel>) -> Changes {
        Changes { subscribe: vec![], unsubscribe: channels }
    }

    #[test]
    fn the_first_wish_subscribes_and_the_last_one_gone_unsubscribes() {
        let interest = Interest::new();
        let (one, two) = (interest.want(&topic("a")), interest.want(&topic("a")));
        assert_eq!(interest.changes(Audience::Crowd, 10), subscribe(vec![topic("a")]));
        interest.subscribed(&[topic("a")]);
        drop(one);
        assert_eq!(interest.changes(Audience::Crowd, 10), Changes::default());
        drop(two);
        assert_eq!(interest.changes(Audience::Crowd, 10), unsubscribe(vec![topic("a")]));
        interest.unsubscribed(&[topic("a")]);
        assert_eq!((interest.changes(Audience::Crowd, 10), interest.wanted()), (Changes::default(), 0));
    }

    #[test]
    fn a_wish_is_confirmed_when_the_backplane_says_so_and_not_before() {
        let interest = Interest::new();
        let wanted = interest.want(&topic("a"));
        let mut confirmed = Box::pin(wanted.confirmed());
        assert_eq!(confirmed.as_mut().now_or_never(), None);
        interest.changes(Audience::Crowd, 10);
        assert_eq!(confirmed.as_mut().now_or_never(), None);
        interest.subscribed(&[topic("a")]);
        assert_eq!(confirmed.now_or_never(), Some(()));
        assert_eq!(wanted.confirmed().now_or_never(), Some(()));
    }

    #[test]
    fn a_wish_taken_back_while_it_is_under_way_is_undone_afterwards() {
        let interest = Interest::new();
        let wanted = interest.want(&topic("a"));
        interest.changes(Audience::Crowd, 10);
        drop(wanted);
        assert_eq!(interest.changes(Audience::Crowd, 10), Changes::default());
        interest.subscribed(&[topic("a")]);
        assert_eq!(interest.changes(Audience::Crowd, 10), unsubscribe(vec![topic("a")]));
        let wanted = interest.want(&topic("a"));
        interest.unsubscribed(&[topic("a")]);
        assert_eq!(interest.changes(Audience::Crowd, 10), subscribe(vec![topic("a")]));
        drop(wanted);
    }

    #[test]
    fn a_channel_that_is_forbidden_is_answered_and_asked_again_when_it_is_wanted_anew() {
        let interest = Interest::new();
        let (one, two) = (interest.want(&topic("a")), interest.want(&topic("b")));
        let mut confirmed = Box::pin(one.confirmed());
        assert_eq!(confirmed.as_mut().now_or_never(), None);
        interest.changes(Audience::Crowd, 10);
        interest.forbidden(&topic("a"));
        interest.subscribed(&[topic("b")]);
        assert_eq!(confirmed.now_or_never(), Some(()));
        assert_eq!((one.is_forbidden(), two.is_forbidden()), (true, false));
        assert_eq!(interest.changes(Audience::Crowd, 10), Changes::default(), "it is not asked again by itself");
        drop(one);
        let again = interest.want(&topic("a"));
        assert!(!again.is_forbidden());
        assert_eq!(interest.changes(Audience::Crowd, 10), subscribe(vec![topic("a")]));
        interest.forbidden(&topic("a"));
        interest.lost(Audience::Crowd);
        assert_eq!(interest.changes(Audience::Crowd, 10).subscribe.len(), 2, "another connection may have the right");
        interest.forbidden(&topic("a"));
        drop(again);
        assert_eq!(interest.changes(Audience::Crowd, 10), Changes::default());
        assert_eq!(interest.number_of(&topic("a")), None);
    }

    #[test]
    fn a_lost_connection_is_the_same_reconciliation_from_nothing() {
        let interest = Interest::new();
        let (_kept, under_way, gone) =
            (interest.want(&topic("a")), interest.want(&topic("b")), interest.want(&topic("c")));
        interest.changes(Audience::Crowd, 10);
        interest.subscribed(&[topic("a"), topic("c")]);
        drop(gone);
        interest.lost(Audience::Crowd);
        let mut again = interest.changes(Audience::Crowd, 10).subscribe;
        again.sort_by_key(Channel::name);
        assert_eq!(again, [topic("a"), topic("b")]);
        assert_eq!(under_way.confirmed().now_or_never(), None);
    }

    #[test]
    fn changes_come_in_batches_and_none_is_forgotten() {
        let interest = Interest::new();
        let wanted: Vec<_> = (0..25).map(|n| interest.want(&topic(&format!("t{n}")))).collect();
        let sizes: Vec<_> = std::iter::from_fn(|| {
            let changes = interest.changes(Audience::Crowd, 10);
            interest.subscribed(&changes.subscribe);
            (!changes.is_empty()).then_some(changes.subscribe.len())
        })
        .collect();
        assert_eq!(sizes, [10, 10, 5]);
        drop(wanted);
        assert_eq!(interest.changes(Audience::Crowd, 100).unsubscribe.len(), 25);
    }

    #[test]
    fn a_number_is_one_channels_until_it_is_neither_wanted_nor_subscribed() {
        let interest = Interest::new();
        let find = |name: &[u8]| interest.directory().find(Named::read(name).unwrap());
        let (one, two) = (interest.want(&topic("a")), interest.want(&topic("b")));
        assert_eq!(find(b"topic:a"), Some((one.number(), topic("a"))));
        assert_eq!((find(b"topic:c"), find(b"presence:a")), (None, None));
        interest.changes(Audience::Crowd, 10);
        interest.subscribed(&[topic("a"), topic("b")]);
        let number = one.number();
        drop(one);
        let three = interest.want(&topic("c"));
        assert_ne!(three.number(), number, "it is subscribed as long as nobody says otherwise");
        assert_eq!(interest.number_of(&topic("a")), Some(number));
        interest.changes(Audience::Crowd, 10);
        interest.unsubscribed(&[topic("a")]);
        assert_eq!(interest.number_of(&topic("a")), None);
        let four = interest.want(&topic("d"));
        assert_eq!(four.number(), number, "numbers are dense");
        assert_eq!(interest.want(&topic("b")).number(), two.number());
    }

    #[test]
    fn whatever_is_wanted_and_let_go_leaves_nothing_behind() {
        let interest = Interest::new();
        for round in 0..3 {
            let wanted: Vec<_> = (0..1000).map(|n| interest.want(&topic(&format!("{round}:{n}")))).collect();
            let changes = interest.changes(Audience::Crowd, usize::MAX);
            interest.subscribed(&changes.subscribe);
            assert!(wanted.iter().all(|wanted| wanted.number().index() < 1000));
            drop(wanted);
            if round == 1 {
                interest.lost(Audience::Crowd);
                assert_eq!(interest.changes(Audience::Crowd, usize::MAX), Changes::default());
            } else {
                interest.unsubscribed(&interest.changes(Audience::Crowd, usize::MAX).unsubscribe);
            }
            let state = interest.lock();
            assert_eq!((state.channels.len(), state.numbers.len()), (0, 0));
        }
    }

    #[test]
    fn what_is_for_persons_and_for_crowds_is_reconciled_apart() {
        let interest = Interest::new();
        let user = Channel::User(countersign_protocol::UserId::parse("alice").unwrap());
        let (_crowd, _person) = (interest.want(&topic("a")), interest.want(&user));
        assert_eq!(interest.changes(Audience::Crowd, 10), subscribe(vec![topic("a")]));
        assert_eq!(interest.changes(Audience::Person, 10), subscribe(vec![user.clone()]));
        interest.subscribed(&[topic("a"), user.clone()]);
        interest.lost(Audience::Person);
        assert_eq!(interest.changes(Audience::Crowd, 10), Changes::default());
        assert_eq!(interest.changes(Audience::Person, 10), subscribe(vec![user]));
    }
}

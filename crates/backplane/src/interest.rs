//! Which channels a node wants to hear, as state. Wanting and unwanting are synchronous and never fail; a subscriber
//! reconciles what is wanted with what is subscribed, in batches, and a reconnect is the same reconciliation from
//! nothing. Owned by one node; shared by its hub, its waiters and its subscriber.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, oneshot};

use crate::channel::Channel;

/// The channels that a node wants.
#[derive(Debug, Default)]
pub struct Interest {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    channels: HashMap<Channel, Entry>,
    /// Channels whose want and subscription may differ; in an order of their own, so that what follows does not depend on chance.
    dirty: BTreeSet<Channel>,
    /// Who waits for a channel to be subscribed. Apart, because there are many channels and few who wait.
    confirmations: HashMap<Channel, Vec<oneshot::Sender<()>>>,
}

#[derive(Debug, Default)]
struct Entry {
    wants: u32,
    subscription: Subscription,
}

#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
enum Subscription {
    #[default]
    Absent,
    /// A request is on its way; which one decides what the channel is afterwards.
    Changing,
    Present,
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
    channel: Channel,
}

impl Interest {
    /// Wants nothing.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Wants a channel for as long as the result lives.
    pub fn want(self: &Arc<Self>, channel: Channel) -> Wanted {
        let mut state = self.lock();
        let entry = state.channels.entry(channel.clone()).or_default();
        entry.wants += 1;
        if entry.wants == 1 && entry.subscription != Subscription::Present {
            state.dirty.insert(channel.clone());
            self.changed.notify_one();
        }
        drop(state);
        Wanted { interest: Arc::clone(self), channel }
    }

    /// How many channels are wanted.
    pub fn wanted(&self) -> usize {
        self.lock().channels.values().filter(|entry| entry.wants > 0).count()
    }

    /// Waits until [`Self::changes`] may have something. Cancellation safe.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// For a subscriber: what to do next, at most `most` channels of each kind. Everything returned counts as under way until
    /// [`Self::subscribed`] or [`Self::unsubscribed`] names it, or [`Self::lost`] is called.
    pub fn changes(&self, most: usize) -> Changes {
        let mut state = self.lock();
        let State { channels, dirty, .. } = &mut *state;
        let mut changes = Changes::default();
        dirty.retain(|channel| {
            let Some(entry) = channels.get_mut(channel) else { return false };
            let list = match (entry.wants > 0, entry.subscription) {
                (_, Subscription::Changing) => return true,
                (true, Subscription::Absent) => &mut changes.subscribe,
                (false, Subscription::Present) => &mut changes.unsubscribe,
                (true, Subscription::Present) => return false,
                (false, Subscription::Absent) => {
                    channels.remove(channel);
                    return false;
                }
            };
            if list.len() >= most {
                return true;
            }
            entry.subscription = Subscription::Changing;
            list.push(channel.clone());
            false
        });
        changes
    }

    /// For a subscriber: these are subscribed now, confirmed by the backplane.
    pub fn subscribed(&self, channels: &[Channel]) {
        let mut state = self.lock();
        for channel in channels {
            let State { channels, dirty, confirmations } = &mut *state;
            let Some(entry) = channels.get_mut(channel) else { continue };
            entry.subscription = Subscription::Present;
            for confirmation in confirmations.remove(channel).unwrap_or_default() {
                // Whoever asked may have given up.
                confirmation.send(()).ok();
            }
            if entry.wants == 0 {
                dirty.insert(channel.clone());
            }
        }
        if state.confirmations.is_empty() && state.confirmations.capacity() > KEPT {
            state.confirmations = HashMap::new();
        }
        self.notify_if_dirty(&state);
    }

    /// For a subscriber: these are subscribed no longer.
    pub fn unsubscribed(&self, channels: &[Channel]) {
        let mut state = self.lock();
        for channel in channels {
            let Some(entry) = state.channels.get_mut(channel) else { continue };
            entry.subscription = Subscription::Absent;
            if entry.wants > 0 {
                state.dirty.insert(channel.clone());
            } else {
                state.channels.remove(channel);
            }
        }
        self.notify_if_dirty(&state);
    }

    /// For a subscriber: the connection is gone, nothing is subscribed.
    pub fn lost(&self) {
        let mut state = self.lock();
        let State { channels, dirty, .. } = &mut *state;
        channels.retain(|channel, entry| {
            entry.subscription = Subscription::Absent;
            if entry.wants > 0 {
                dirty.insert(channel.clone());
            }
            entry.wants > 0
        });
        self.notify_if_dirty(&state);
    }

    fn unwant(&self, channel: &Channel) {
        let mut state = self.lock();
        let Some(entry) = state.channels.get_mut(channel) else { return };
        entry.wants -= 1;
        if entry.wants == 0 {
            state.confirmations.remove(channel);
            state.dirty.insert(channel.clone());
            self.changed.notify_one();
        }
    }

    fn notify_if_dirty(&self, state: &State) {
        if !state.dirty.is_empty() {
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics between two states, so a poisoned lock still guards a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wanted {
    /// Waits until the backplane has confirmed the subscription. Without limit: the caller bounds it. Cancellation safe.
    pub async fn confirmed(&self) {
        let confirmation = {
            let mut state = self.interest.lock();
            let entry = state.channels.entry(self.channel.clone()).or_default();
            if entry.subscription == Subscription::Present {
                return;
            }
            let waiting = state.confirmations.entry(self.channel.clone()).or_default();
            waiting.retain(|confirmation| !confirmation.is_closed());
            let (sender, receiver) = oneshot::channel();
            waiting.push(sender);
            receiver
        };
        // The sender stays until the channel is subscribed or nobody wants it: it is never dropped unsent while we wait.
        confirmation.await.ok();
    }

    /// Which channel.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.interest.unwant(&self.channel);
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
        let (one, two) = (interest.want(topic("a")), interest.want(topic("a")));
        assert_eq!(interest.changes(10), subscribe(vec![topic("a")]));
        interest.subscribed(&[topic("a")]);
        drop(one);
        assert_eq!(interest.changes(10), Changes::default());
        drop(two);
        assert_eq!(interest.changes(10), unsubscribe(vec![topic("a")]));
        interest.unsubscribed(&[topic("a")]);
        assert_eq!((interest.changes(10), interest.wanted()), (Changes::default(), 0));
    }

    #[test]
    fn a_wish_is_confirmed_when_the_backplane_says_so_and_not_before() {
        let interest = Interest::new();
        let wanted = interest.want(topic("a"));
        let mut confirmed = Box::pin(wanted.confirmed());
        assert_eq!(confirmed.as_mut().now_or_never(), None);
        interest.changes(10);
        assert_eq!(confirmed.as_mut().now_or_never(), None);
        interest.subscribed(&[topic("a")]);
        assert_eq!(confirmed.now_or_never(), Some(()));
        assert_eq!(wanted.confirmed().now_or_never(), Some(()));
    }

    #[test]
    fn a_wish_taken_back_while_it_is_under_way_is_undone_afterwards() {
        let interest = Interest::new();
        let wanted = interest.want(topic("a"));
        interest.changes(10);
        drop(wanted);
        assert_eq!(interest.changes(10), Changes::default());
        interest.subscribed(&[topic("a")]);
        assert_eq!(interest.changes(10), unsubscribe(vec![topic("a")]));
        let wanted = interest.want(topic("a"));
        interest.unsubscribed(&[topic("a")]);
        assert_eq!(interest.changes(10), subscribe(vec![topic("a")]));
        drop(wanted);
    }

    #[test]
    fn a_lost_connection_is_the_same_reconciliation_from_nothing() {
        let interest = Interest::new();
        let (_kept, under_way, gone) =
            (interest.want(topic("a")), interest.want(topic("b")), interest.want(topic("c")));
        interest.changes(10);
        interest.subscribed(&[topic("a"), topic("c")]);
        drop(gone);
        interest.lost();
        let mut again = interest.changes(10).subscribe;
        again.sort_by_key(Channel::name);
        assert_eq!(again, [topic("a"), topic("b")]);
        assert_eq!(under_way.confirmed().now_or_never(), None);
    }

    #[test]
    fn changes_come_in_batches_and_none_is_forgotten() {
        let interest = Interest::new();
        let wanted: Vec<_> = (0..25).map(|n| interest.want(topic(&format!("t{n}")))).collect();
        let sizes: Vec<_> = std::iter::from_fn(|| {
            let changes = interest.changes(10);
            interest.subscribed(&changes.subscribe);
            (!changes.is_empty()).then_some(changes.subscribe.len())
        })
        .collect();
        assert_eq!(sizes, [10, 10, 5]);
        drop(wanted);
        assert_eq!(interest.changes(100).unsubscribe.len(), 25);
    }
}

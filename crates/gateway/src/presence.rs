//! Who is in a topic, as far as this node's connections are concerned. Every user with a subscription is a member for as long
//! as that lives, once however many connections it has; guests are none. The node also looks after the topics whose changes
//! its connections want to hear, so that somebody tells of members whose node has died.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use countersign_backplane::{
    Channel,
    presence::{Members, Places},
};
use countersign_protocol::{Address, Event, TopicName, UserId};

use crate::{
    error::GatewayError,
    hub::{Frame, Missed},
    leases::{self, Batch, Leases, Write},
    node::Node,
    session::{Session, Wrong},
    subscriptions::CONFIRMED_WITHIN,
};

/// The most members that are named; all are counted.
pub(crate) const MOST_NAMED: usize = 1000;

/// A user's place in a topic, or (without a user) that the topic is looked after.
type Place = (TopicName, Option<UserId>);

/// The places that this node holds.
pub(crate) type HeldPlaces = Leases<Place>;

/// Holds places until the node stops.
pub(crate) async fn keep(node: Arc<Node>) {
    let ttl = node.config.presence_ttl;
    if !ttl.is_zero() {
        leases::keep(&node.presence, ttl, node.shutdown.stopped(), &*node).await;
    }
}

impl Write<Place> for Node {
    async fn write(&self, batch: &Batch<Place>) -> Vec<Place> {
        let mut topics: BTreeMap<&TopicName, (Vec<UserId>, Vec<UserId>)> = BTreeMap::new();
        for (topic, user) in &batch.hold {
            topics.entry(topic).or_default().0.extend(user.clone());
        }
        for (topic, user) in &batch.let_go {
            topics.entry(topic).or_default().1.extend(user.clone());
        }
        let places = topics.iter().map(|(topic, (hold, let_go))| Places {
            topic: (*topic).clone(),
            hold: hold.clone(),
            let_go: let_go.clone(),
        });
        let results = self.backplane.hold_places(places.collect(), leases::lease(self.config.presence_ttl)).await;
        let mut failed = Vec::new();
        for ((topic, (hold, let_go)), result) in topics.into_iter().zip(results) {
            match result {
                Ok(told) => self.metrics.presence_told(told),
                Err(error) => {
                    tracing::debug!(topic = ?topic.as_str(), %error, "places are not written yet");
                    failed.extend(hold.into_iter().chain(let_go).map(|user| (topic.clone(), Some(user))));
                }
            }
        }
        failed
    }
}

impl Node {
    /// Who is in a topic.
    pub(crate) async fn members(&self, topic: &TopicName) -> Result<Members, GatewayError> {
        if self.config.presence_ttl.is_zero() {
            return Err(GatewayError::PresenceOff);
        }
        Ok(self.backplane.members(topic, MOST_NAMED).await?)
    }

    /// What those who hear a topic's changes have to know after some were missed: all of it.
    pub(crate) async fn missed_presence(&self, topic: &TopicName) -> Result<Missed, GatewayError> {
        let event = presence_event(topic.clone(), self.members(topic).await?);
        Ok(Missed::Gap(Frame::plain(event.to_json()), None))
    }
}

pub(crate) fn presence_event(topic: TopicName, members: Members) -> Event {
    Event::Presence { topic, members: members.users, count: members.count }
}

/// Whose connection it is, and the topics that it is subscribed to. Small, because nearly all have one or two.
#[derive(Debug)]
pub(crate) struct Attendance(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Changes once at most: a guest becomes a user.
    user: Option<UserId>,
    /// Sorted.
    topics: Vec<Attending>,
}

#[derive(Debug)]
struct Attending {
    topic: TopicName,
    /// It holds its user's place; a guest has none.
    place: bool,
    /// It hears who joins and leaves.
    watch: bool,
}

impl Attendance {
    pub(crate) fn new(user: Option<UserId>) -> Self {
        Self(Mutex::new(State { user, topics: Vec::new() }))
    }

    /// Whose connection it is; `None` is a guest.
    pub(crate) fn user(&self) -> Option<UserId> {
        self.lock().user.clone()
    }

    /// The connection is subscribed to a topic.
    pub(crate) fn enter(&self, node: &Node, topic: &TopicName) {
        let mut state = self.lock();
        let State { user, topics } = &mut *state;
        attending(topics, topic).take_place(node, user.as_ref());
    }

    /// It hears who joins and leaves, too.
    pub(crate) fn watch(&self, node: &Node, topic: &TopicName) {
        let mut state = self.lock();
        let attending = attending(&mut state.topics, topic);
        if !std::mem::replace(&mut attending.watch, true) {
            node.presence.take((topic.clone(), None));
        }
    }

    /// It is subscribed no longer.
    pub(crate) fn leave(&self, node: &Node, topic: &TopicName) {
        let mut state = self.lock();
        if let Ok(at) = state.topics.binary_search_by(|attending| attending.topic.cmp(topic)) {
            let attending = state.topics.remove(at);
            attending.give_back(node, state.user.as_ref());
        }
    }

    /// It ends: nothing is held any more.
    pub(crate) fn end(&mut self, node: &Node) {
        let State { user, topics } = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        for attending in topics.drain(..) {
            attending.give_back(node, user.as_ref());
        }
    }

    /// A guest becomes a user, and a member of the topics it is in.
    pub(crate) fn become_user(&self, node: &Node, user: &UserId) {
        let mut state = self.lock();
        state.user = Some(user.clone());
        for attending in &mut state.topics {
            attending.take_place(node, Some(user));
        }
    }

    fn attends(&self, topic: &TopicName) -> bool {
        self.lock().attending(topic).is_some()
    }

    /// Waits until the connection's own place is one that others see.
    async fn confirmed(&self, node: &Node, topic: &TopicName) {
        let confirmed = {
            let state = self.lock();
            let place = state.attending(topic).filter(|attending| attending.place);
            place.map(|_| node.presence.confirmed(&(topic.clone(), state.user.clone())))
        };
        if let Some(confirmed) = confirmed {
            confirmed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics between two states, so a poisoned lock still guards a whole one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn attending(&self, topic: &TopicName) -> Option<&Attending> {
        let at = self.topics.binary_search_by(|attending| attending.topic.cmp(topic)).ok()?;
        self.topics.get(at)
    }
}

/// The place of a topic in the list, made if there is none.
fn attending<'a>(topics: &'a mut Vec<Attending>, topic: &TopicName) -> &'a mut Attending {
    let at = topics.binary_search_by(|attending| attending.topic.cmp(topic)).unwrap_or_else(|at| {
        if topics.len() < FEW {
            topics.reserve_exact(1);
        }
        topics.insert(at, Attending { topic: topic.clone(), place: false, watch: false });
        at
    });
    topics.get_mut(at).expect("it was found there, or put there")
}

impl Attending {
    fn take_place(&mut self, node: &Node, user: Option<&UserId>) {
        if let (false, Some(user), false) = (self.place, user, node.config.presence_ttl.is_zero()) {
            self.place = true;
            node.presence.take((self.topic.clone(), Some(user.clone())));
        }
    }

    fn give_back(self, node: &Node, user: Option<&UserId>) {
        if self.watch {
            node.presence.give_back(&(self.topic.clone(), None));
        }
        if self.place {
            node.presence.give_back(&(self.topic, user.cloned()));
        }
    }
}

/// So many topics take no more room than they need.
const FEW: usize = 8;

impl Session {
    /// The topic of a subscription with `presence`.
    pub(crate) fn watchable<'a>(&self, address: &'a Address) -> Result<&'a TopicName, Wrong> {
        match address {
            _ if self.node.config.presence_ttl.is_zero() => Err(GatewayError::PresenceOff.into()),
            Address::Topic(topic) => Ok(topic),
            Address::Broadcast | Address::User(_) => Err(Wrong::topics_only(address)),
        }
    }

    /// `presence`: who is in a topic. One that hears the changes hears those that are newer than the answer after it, and
    /// none of the older ones again.
    pub(crate) async fn presence(
        &self,
        topic: TopicName,
        reply: &(dyn Fn(Event) -> Frame + Sync),
    ) -> Result<(), Wrong> {
        if !self.attendance.attends(&topic) && !self.node.clients.is_open() {
            return Err(Wrong::not_subscribed(&topic));
        }
        if tokio::time::timeout(CONFIRMED_WITHIN, self.attendance.confirmed(&self.node, &topic)).await.is_err() {
            return Err(Wrong::unavailable("the connection's own place was not confirmed in time"));
        }
        let holding_back = self.membership.hold_back(&Channel::Presence(topic.clone()));
        let members = self.node.members(&topic).await;
        let answer = members.map(|members| reply(presence_event(topic, members)));
        let (answer, failed) = match answer {
            Ok(frame) => (vec![frame], None),
            Err(error) => (Vec::new(), Some(error)),
        };
        match holding_back {
            Some(joining) => joining.complete(&answer, None, &std::collections::HashSet::new()),
            None => answer.into_iter().for_each(|frame| self.push(frame)),
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }
}

/// The shortest `PRESENCE_TTL` that is none: renewals every quarter of it have to arrive.
pub(crate) const SHORTEST_TTL: Duration = Duration::from_secs(1);

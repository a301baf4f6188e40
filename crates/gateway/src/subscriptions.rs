//! How a connection comes to hear an address: subscribe, then read, then live. The same way at connect, at `subscribe` and
//! after a reconnect with positions.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use countersign_backplane::{BackplaneError, Channel};
use countersign_protocol::{Address, Event, Position, Subscription, TopicName, UserId, close, event::ToldPosition};
use futures_util::future::join_all;

use crate::{
    hub::{Frame, Joining, NotJoined, OpenQuestions},
    node::Node,
    session::{Session, Wrong},
};

/// `broadcast`, and the user's or the guests': they do not count against `WEBSOCKET_TOPICS`.
const FIRST_ROOMS: usize = 2;
/// How long the backplane may take to confirm a subscription.
pub(crate) const CONFIRMED_WITHIN: Duration = Duration::from_secs(2);

/// An address with its `since`, and what was joined for it: itself unless it is heard already, and its presence.
type Asked = (Address, Option<Position>, Option<Joining>, Option<Joining>);

/// Where an address is, and what a connection missed of it.
#[derive(Debug, Default)]
pub(crate) struct Past {
    /// The newest message; `None` where no history is kept.
    position: Option<Position>,
    /// Messages after `since`.
    missed: Vec<Frame>,
    /// Whether they are all; `None` when there was no `since`.
    recovered: Option<bool>,
}

impl Node {
    /// What a connection that was at `since` has missed. Read after the subscription was confirmed, so that nothing
    /// falls between.
    async fn past(&self, address: &Address, since: Option<&Position>) -> Result<Past, BackplaneError> {
        if self.history_of(address).size == 0 {
            return Ok(Past { recovered: since.map(|_| false), ..Past::default() });
        }
        let Some(since) = since else {
            let positions = self.backplane.positions(std::slice::from_ref(address)).await?;
            return Ok(Past { position: positions.into_iter().next(), ..Past::default() });
        };
        let history = self.backplane.history(address, since, self.config.outbox_frames).await?;
        let epoch = &history.position.epoch;
        let missed = if history.complete { history.messages } else { Vec::new() };
        let frame = |(offset, message)| {
            Frame::of_message(&message, address.clone(), Some(Position::new(epoch.clone(), offset)))
        };
        let missed = missed.into_iter().map(frame).collect();
        Ok(Past { missed, recovered: Some(history.complete), position: Some(history.position) })
    }
}

impl Past {
    fn told(&self) -> Option<ToldPosition> {
        Some(ToldPosition { position: self.position.clone()?, recovered: self.recovered })
    }
}

impl Session {
    /// Joins what every connection hears from the start, says `connected`, then what is open, then what was missed.
    pub(crate) async fn begin(&self, since: &[(Address, Position)], topics: Vec<Subscription>) -> Result<(), Wrong> {
        let user = self.user();
        if let Some(user) = &user {
            self.register(user).await?;
        }
        let mut addresses = vec![Address::Broadcast];
        addresses.extend(user.clone().map(Address::User));
        let mut joinings = Vec::new();
        for address in &addresses {
            joinings.push(self.join(&Channel::from(address))?);
        }
        let guests = if user.is_none() { Some(self.join(&Channel::Guests)?) } else { None };
        confirmed(joinings.iter().chain(&guests)).await?;

        let since_of = |address: &Address| since.iter().find(|(of, _)| of == address).map(|(_, position)| position);
        let pasts = join_all(addresses.iter().map(|address| self.node.past(address, since_of(address))));
        let open = async {
            match &user {
                Some(user) => self.node.open_questions(user).await.map(Some),
                None => Ok(None),
            }
        };
        let (pasts, open) = futures_util::join!(pasts, open);
        let open = open?;
        let known = open.as_ref().map(OpenQuestions::ids).unwrap_or_default();
        let pasts = pasts.into_iter().collect::<Result<Vec<Past>, BackplaneError>>()?;
        if !pasts.iter().all(|past| self.membership.outbox().may_replay(&past.missed)) {
            self.membership.outbox().close(close::RESYNC);
            return Ok(());
        }

        let positions: BTreeMap<String, ToldPosition> = addresses
            .iter()
            .zip(&pasts)
            .filter_map(|(address, past)| Some((address.client_form().to_string(), past.told()?)))
            .collect();
        self.push(Frame::plain(
            Event::Connected {
                connection_id: self.id(),
                user_id: user,
                node_id: self.node.config.node_id.clone(),
                ping_interval: self.node.config.ping_interval.as_secs_f64(),
                positions,
            }
            .to_json(),
        ));
        for frame in open.into_iter().flat_map(OpenQuestions::into_frames) {
            self.membership.outbox().owe(&frame);
        }
        for (joining, past) in joinings.into_iter().zip(pasts) {
            joining.complete(&past.missed, past.position.as_ref(), &known);
        }
        if let Some(guests) = guests {
            guests.complete(&[], None, &known);
        }
        match self.subscribe(topics, None, false, &|event| Frame::plain(event.to_json())).await {
            // The connection is good without that topic.
            Err(wrong) if wrong.code == Wrong::FORBIDDEN => {
                self.wrong(None, wrong);
                Ok(())
            }
            subscribed => subscribed,
        }
    }

    /// `subscribe`: each address is confirmed by its own reply, before anything that follows it. With `presence` who joins and
    /// leaves is heard before the connection's own place is taken, so nobody comes unheard.
    pub(crate) async fn subscribe(
        &self,
        subscriptions: Vec<Subscription>,
        user_id: Option<UserId>,
        presence: bool,
        reply: &(dyn Fn(Event) -> Frame + Sync),
    ) -> Result<(), Wrong> {
        if presence {
            subscriptions.iter().try_for_each(|wanted| self.watchable(&wanted.address).map(drop))?;
        }
        let wanted = each_once(user_id, subscriptions);
        // All or nothing of what may be refused, before anything is changed.
        for Subscription { address, .. } in &wanted {
            self.may_hear(address)?;
        }
        let channels: Vec<Channel> = wanted.iter().flat_map(|wanted| channels_of(&wanted.address, presence)).collect();
        if !self.membership.has_room_for(channels.iter(), self.node.config.topics + FIRST_ROOMS) {
            return Err(Wrong::too_many(self.node.config.topics));
        }
        let rejoins =
            wanted.iter().any(|wanted| wanted.since.is_some() && self.membership.is_in(&(&wanted.address).into()));
        let joined = self.join_all(wanted, presence, reply).await;
        if rejoins && joined.as_ref().is_err_and(|wrong| wrong.code != Wrong::FORBIDDEN) {
            // It may hear less now than before it asked, and would not know: it comes back and says what it wants.
            self.membership.outbox().close(close::UNAVAILABLE);
        }
        joined
    }

    async fn join_all(
        &self,
        wanted: Vec<Subscription>,
        presence: bool,
        reply: &(dyn Fn(Event) -> Frame + Sync),
    ) -> Result<(), Wrong> {
        let named: Vec<Address> = wanted.iter().map(|wanted| wanted.address.clone()).collect();
        let joinings = self.join_each(wanted, presence).map_err(|wrong| wrong.not_subscribed_to(named.into_iter()))?;
        let all: Vec<&Joining> =
            joinings.iter().flat_map(|(_, _, joining, watching)| joining.iter().chain(watching)).collect();
        let confirmed = confirmed(all.into_iter()).await;
        let mut joinings = joinings.into_iter();
        if let Err(wrong) = confirmed {
            return Err(wrong.not_subscribed_to(joinings.map(|(address, ..)| address)));
        }
        let mut forbidden = Vec::new();
        while let Some((address, since, joining, watching)) = joinings.next() {
            // The others are heard all the same.
            if joining.iter().chain(&watching).any(Joining::is_forbidden) {
                forbidden.push(address);
                continue;
            }
            if let Err(wrong) = self.hear(&address, since, joining, reply).await {
                let later = joinings.map(|(address, ..)| address);
                return Err(wrong.not_subscribed_to(forbidden.into_iter().chain([address]).chain(later)));
            }
            self.attend(&address, watching);
        }
        match forbidden.first() {
            Some(first) => Err(Wrong::no_right(first).not_subscribed_to(forbidden.into_iter())),
            None => Ok(()),
        }
    }

    /// Everything is asked for at once, so that a hundred topics cost one round trip.
    fn join_each(&self, wanted: Vec<Subscription>, presence: bool) -> Result<Vec<Asked>, Wrong> {
        let mut joinings = Vec::new();
        for Subscription { address, since } in wanted {
            let channel = Channel::from(&address);
            if since.is_some() {
                self.membership.leave(&channel);
            }
            let joining = match self.membership.join(&channel, self.node.config.topics + FIRST_ROOMS) {
                Ok(joining) => Some(joining),
                Err(NotJoined::Already) => None,
                Err(NotJoined::TooMany) => return Err(Wrong::too_many(self.node.config.topics)),
            };
            let watching = match &address {
                Address::Topic(topic) if presence => self.join_presence(topic)?,
                _ => None,
            };
            joinings.push((address, since, joining, watching));
        }
        Ok(joinings)
    }

    /// Takes a place in a topic, and hears of the others' if it asked to.
    fn attend(&self, address: &Address, watching: Option<Joining>) {
        let Address::Topic(topic) = address else { return };
        if let Some(watching) = watching {
            watching.complete(&[], None, &HashSet::new());
            self.attendance.watch(&self.node, topic);
        }
        self.attendance.enter(&self.node, topic);
    }

    /// Confirms one subscription, replays what was missed and goes on with what is heard.
    async fn hear(
        &self,
        address: &Address,
        since: Option<Position>,
        joining: Option<Joining>,
        reply: &(dyn Fn(Event) -> Frame + Sync),
    ) -> Result<(), Wrong> {
        let user = match address {
            Address::User(user) => Some(user),
            Address::Broadcast | Address::Topic(_) => None,
        };
        let confirmed = |position, recovered| {
            let topic = address.client_form().to_string();
            reply(Event::SubscriptionConfirmed { topic, user_id: user.cloned(), position, recovered })
        };
        let Some(joining) = joining else {
            // It is where it is: the address may be further than what it has heard.
            self.membership.tell_position(&Channel::from(address), |position| confirmed(position, None));
            return Ok(());
        };
        let past = self.node.past(address, since.as_ref()).await?;
        if !self.membership.outbox().may_replay(&past.missed) {
            self.membership.outbox().close(close::RESYNC);
            return Ok(());
        }
        let mut first = vec![confirmed(past.position.clone(), past.recovered)];
        first.extend(past.missed);
        let mut known = HashSet::new();
        if let Some(user) = user {
            self.register(user).await?;
            let open = self.node.open_questions(user).await?;
            known = open.ids();
            first.extend(open.into_frames());
            self.become_user(user);
        }
        joining.complete(&first, past.position.as_ref(), &known);
        Ok(())
    }

    /// `unsubscribe`; what is not subscribed is confirmed all the same.
    pub(crate) fn unsubscribe(
        &self,
        addresses: &[Address],
        reply: &(dyn Fn(Event) -> Frame + Sync),
    ) -> Result<(), Wrong> {
        for address in addresses {
            match address {
                Address::Topic(topic) => {
                    self.attendance.leave(&self.node, topic);
                    self.membership.leave(&Channel::Presence(topic.clone()));
                    self.membership.leave(&address.into())
                }
                Address::Broadcast | Address::User(_) => return Err(Wrong::stays(address)),
            };
            self.push(reply(Event::Unsubscribed { topic: address.client_form().to_string() }));
        }
        Ok(())
    }

    /// To hear who joins and leaves a topic; `None` when that is heard already.
    fn join_presence(&self, topic: &TopicName) -> Result<Option<Joining>, Wrong> {
        match self.membership.join(&Channel::Presence(topic.clone()), self.node.config.topics + FIRST_ROOMS) {
            Ok(joining) => Ok(Some(joining)),
            Err(NotJoined::Already) => Ok(None),
            Err(NotJoined::TooMany) => Err(Wrong::too_many(self.node.config.topics)),
        }
    }

    fn join(&self, channel: &Channel) -> Result<Joining, Wrong> {
        // The first rooms of a connection do not count against its limit.
        self.membership.join(channel, usize::MAX).map_err(|_| Wrong::too_many(self.node.config.topics))
    }

    fn may_hear(&self, address: &Address) -> Result<(), Wrong> {
        match (address, self.user()) {
            (Address::User(user), Some(own)) if *user != own => Err(Wrong::forbidden("user_id", &own)),
            _ => Ok(()),
        }
    }
}

/// The user's address first, if it is named; each address once, with the `since` that one of its namings had.
fn each_once(user: Option<UserId>, subscriptions: Vec<Subscription>) -> Vec<Subscription> {
    let user = user.map(|user| Subscription { address: Address::User(user), since: None });
    let mut each: Vec<Subscription> = Vec::new();
    let mut places: HashMap<Address, usize> = HashMap::new();
    for wanted in user.into_iter().chain(subscriptions) {
        if let Some(first) = places.get(&wanted.address).and_then(|at| each.get_mut(*at)) {
            first.since = first.since.take().or(wanted.since);
        } else {
            places.insert(wanted.address.clone(), each.len());
            each.push(wanted);
        }
    }
    each
}

/// What a subscription joins.
fn channels_of(address: &Address, presence: bool) -> impl Iterator<Item = Channel> {
    let watched = match address {
        Address::Topic(topic) if presence => Some(Channel::Presence(topic.clone())),
        _ => None,
    };
    [Channel::from(address)].into_iter().chain(watched)
}

async fn confirmed<'a>(joinings: impl Iterator<Item = &'a Joining> + Clone) -> Result<(), Wrong> {
    #[cfg(test)]
    if crate::simulation::Flaw::ReadsBeforeSubscribed.is_made() {
        return Ok(());
    }
    tokio::time::timeout(CONFIRMED_WITHIN, join_all(joinings.clone().map(Joining::confirmed)))
        .await
        .map_err(|_| Wrong::unavailable("the subscription was not confirmed in time"))?;
    joinings.for_each(Joining::reads);
    Ok(())
}

//! The node's ear on Redis for one audience: a connection with subscriptions, made again whenever it breaks, without end. It reconciles
//! what is wanted with what is subscribed, in batches, beside reading: the reader never waits for Redis, because Redis cuts
//! slow subscribers. The library's own reconnecting connections are not used: they lose subscriptions.

use std::{collections::VecDeque, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use redis::RedisError;
use rustls::ClientConfig;
use tokio::{
    task::yield_now,
    time::{Instant, sleep_until},
};

use super::{
    backoff::Backoff,
    failure::CommandError,
    keys::Keys,
    link::LinkState,
    neighbours::Neighbours,
    probe::{Echo, Probe},
    pubsub::{Answer, Brought, PubSub, PubSubError},
    topology::Topology,
};
use crate::{Audience, Channel, ChannelNumber, Heard, Interest, Listener, Observation, interest::Changes, wire};

/// The supervisor.
pub(super) struct Subscriber {
    pub(super) audience: Audience,
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) topology: Arc<Topology>,
    pub(super) keys: Keys,
    /// Where the node hears itself.
    pub(super) own: Channel,
    pub(super) interest: Arc<Interest>,
    pub(super) listener: Arc<dyn Listener>,
    pub(super) link: Arc<LinkState>,
    pub(super) probe: Arc<Probe>,
    pub(super) neighbours: Arc<Neighbours>,
}

/// One connection.
struct Session<'a> {
    owner: &'a Subscriber,
    number: u64,
    connection: PubSub,
    /// What was asked for and is not confirmed yet.
    under_way: Option<UnderWay>,
    ready: bool,
}

/// Subscriptions that are being made and given back.
struct UnderWay {
    /// What is not answered yet, in the order in which it was asked for, which is that of the answers.
    requests: VecDeque<Request>,
    since: Instant,
}

/// One command.
struct Request {
    verb: Verb,
    channels: Vec<Channel>,
    /// Channels that are not confirmed yet.
    unconfirmed: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Subscribe,
    Unsubscribe,
}

impl Subscriber {
    /// Listens, for ever.
    pub(super) async fn run(self) {
        let _own = self.interest.want(&self.own);
        let _nodes = (self.audience == Channel::Nodes.audience()).then(|| self.interest.want(&Channel::Nodes));
        let mut backoff = Backoff::new();
        let mut interrupted = false;
        let mut whereabouts = self.topology.whereabouts();
        for number in 1.. {
            let began = Instant::now();
            let noted = whereabouts.note();
            let reason = match self.topology.subscriber(self.tls.as_ref()).await {
                Err(error) => CommandError::from(error).to_string(),
                Ok(connection) => {
                    self.listener.observed(Observation::SubscriberConnected);
                    let session = Session::new(&self, number, connection);
                    let reason = tokio::select! {
                        reason = session.run(&mut interrupted) => reason,
                        // There nobody publishes any more, though one may hear oneself.
                        () = whereabouts.moved(noted.as_ref()) => "the master is another one now".to_owned(),
                    };
                    self.interest.lost(self.audience);
                    // Told once, until the next session has told that it has resumed.
                    if !std::mem::replace(&mut interrupted, true) {
                        self.listener.interrupted(self.audience);
                    }
                    reason
                }
            };
            self.link.broke(&reason);
            if began.elapsed() > STEADY {
                backoff = Backoff::new();
            }
            tokio::select! {
                () = backoff.pause() => {}
                () = whereabouts.moved(noted.as_ref()) => {}
            }
        }
    }
}

impl<'a> Session<'a> {
    fn new(owner: &'a Subscriber, number: u64, connection: PubSub) -> Self {
        Self { owner, number, connection, under_way: None, ready: false }
    }

    /// Reads and reconciles until the connection breaks; returns why it did.
    async fn run(mut self, interrupted: &mut bool) -> String {
        let owner = self.owner;
        let mut silent = owner.link.silent();
        loop {
            if self.under_way.is_none() {
                let changes = owner.interest.changes(owner.audience, BATCH);
                if !changes.is_empty() {
                    self.reconcile(changes);
                } else if !std::mem::replace(&mut self.ready, true) {
                    owner.link.became_ready(self.number);
                    if std::mem::take(interrupted) {
                        owner.listener.resumed(owner.audience);
                    }
                }
            }
            let late_at = self.under_way.as_ref().map(|under_way| under_way.since + RECONCILED_WITHIN);
            tokio::select! {
                brought = self.connection.next() => match brought {
                    Ok(brought) => if let Err(reason) = self.take(brought).await { return reason },
                    Err(error) => return told(error),
                },
                // Interest is asked again when this is done; until then it may change as it likes.
                () = owner.interest.changed(owner.audience), if late_at.is_none() => {}
                () = async { silent.wait_for(|session| *session == self.number).await.ok(); } => {
                    return "a probe was not heard".to_owned();
                }
                () = at(late_at) => return format!("subscriptions were not confirmed within {RECONCILED_WITHIN:?}"),
            }
        }
    }

    /// Asks for what is wanted and gives back what is not, in one go.
    fn reconcile(&mut self, changes: Changes) {
        self.request(Verb::Subscribe, changes.subscribe);
        self.request(Verb::Unsubscribe, changes.unsubscribe);
    }

    fn request(&mut self, verb: Verb, channels: Vec<Channel>) {
        if channels.is_empty() {
            return;
        }
        let names: Vec<String> = channels.iter().map(|channel| self.owner.keys.channel(channel)).collect();
        let names = names.iter().map(String::as_str);
        match verb {
            Verb::Subscribe => self.connection.subscribe(names),
            Verb::Unsubscribe => self.connection.unsubscribe(names),
        }
        let since = Instant::now();
        let under_way = self.under_way.get_or_insert_with(|| UnderWay { requests: VecDeque::new(), since });
        under_way.since = since;
        under_way.requests.push_back(Request { verb, unconfirmed: channels.len(), channels });
    }

    /// Commands were answered.
    ///
    /// # Errors
    /// Why the connection is of no use any more.
    fn answered(&mut self, answer: Answer) -> Result<(), String> {
        match answer {
            Answer::Confirmed(channels) => {
                self.confirmed(channels);
                Ok(())
            }
            Answer::Refused(why) => self.refused(why),
        }
    }

    fn confirmed(&mut self, mut channels: usize) {
        let Some(under_way) = &mut self.under_way else { return };
        while let Some(request) = under_way.requests.front_mut() {
            let confirmed = channels.min(request.unconfirmed);
            channels -= confirmed;
            request.unconfirmed -= confirmed;
            if request.unconfirmed > 0 {
                return;
            }
            match request.verb {
                Verb::Subscribe => self.owner.interest.subscribed(&request.channels),
                Verb::Unsubscribe => self.owner.interest.unsubscribed(&request.channels),
            }
            under_way.requests.pop_front();
        }
        self.under_way = None;
    }

    /// The server refused the oldest command. It judges a SUBSCRIBE as a whole, so one channel that this user may not hear
    /// keeps all others of the command away: they are asked for again in two halves, until that channel is alone.
    ///
    /// # Errors
    /// Why the connection is of no use any more.
    fn refused(&mut self, why: String) -> Result<(), String> {
        let request = self.under_way.as_mut().and_then(|under_way| under_way.requests.pop_front());
        let request = request.filter(|request| request.verb == Verb::Subscribe && is_about_a_channel(&why));
        let Some(Request { channels: mut first, .. }) = request else { return Err(told(PubSubError::Refused(why))) };
        match first.as_slice() {
            [channel] if channel.may_be_forbidden() => {
                self.owner.interest.forbidden(channel);
                self.owner.listener.forbidden(channel);
            }
            [channel] => {
                let name = self.owner.keys.channel(channel);
                return Err(format!("{} (channel {name:?})", told(PubSubError::Refused(why))));
            }
            _ => {
                let second = first.split_off(first.len() / 2);
                self.request(Verb::Subscribe, first);
                self.request(Verb::Subscribe, second);
            }
        }
        if self.under_way.as_ref().is_some_and(|under_way| under_way.requests.is_empty()) {
            self.under_way = None;
        }
        Ok(())
    }

    /// Hands over everything that one read brought.
    ///
    /// # Errors
    /// Why the connection is of no use any more.
    async fn take(&mut self, brought: Brought) -> Result<(), String> {
        let Brought { bytes, messages, answers } = brought;
        let many = messages.len() >= MANY;
        let published = self.looked_up(&bytes, messages);
        let batch: Vec<Heard> = published.into_iter().filter_map(|published| self.heard(published)).collect();
        if !batch.is_empty() {
            self.owner.listener.heard(batch).await;
        }
        for answer in answers {
            self.answered(answer)?;
        }
        if many {
            // There may be no end of messages; other work gets its turn.
            yield_now().await;
        }
        Ok(())
    }

    /// The publications whose channels are wanted. All at once, so that the table is locked once.
    fn looked_up(&self, bytes: &Bytes, messages: Vec<(Range<usize>, Range<usize>)>) -> Vec<Published> {
        let directory = self.owner.interest.directory();
        let look = |(channel, payload): (Range<usize>, Range<usize>)| {
            // What is not there was unsubscribed a moment ago.
            let (number, channel) = directory.find(self.owner.keys.named(bytes.get(channel)?)?)?;
            Some(Published { channel, number, bytes: bytes.slice(payload) })
        };
        messages.into_iter().filter_map(look).collect()
    }

    fn heard(&self, published: Published) -> Option<Heard> {
        let Published { channel, number, bytes } = published;
        if channel == self.owner.own
            && let Some(echo) = self.owner.probe.hears(&bytes)
        {
            if echo == Echo::Own {
                self.owner.link.heard(self.number);
            }
            return None;
        }
        if channel == Channel::Nodes {
            self.owner.neighbours.heard(&bytes);
            return None;
        }
        match wire::decode(bytes) {
            Ok((position, payload)) => Some(Heard { channel, number, payload, position }),
            Err(error) => {
                self.owner.listener.refused(&channel, &error);
                None
            }
        }
    }
}

/// What was published to a channel that is wanted.
struct Published {
    channel: Channel,
    number: ChannelNumber,
    bytes: Bytes,
}

fn told(error: PubSubError) -> String {
    CommandError::from(RedisError::from(error)).to_string()
}

/// Whether a command was refused because of one of its channels, and not because of its verb. The words differ between versions.
fn is_about_a_channel(why: &str) -> bool {
    why.starts_with("NOPERM") && why.contains("channel")
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Channels of one SUBSCRIBE: the cost per channel is lowest at about a thousand.
const BATCH: usize = 1000;
/// Messages of one read after which other work gets its turn.
const MANY: usize = 32;
/// A thousand channels take some 5 ms; after this long the connection is taken for dead.
const RECONCILED_WITHIN: Duration = Duration::from_secs(5);
/// A session that lasted this long was a good one: the next is made without delay.
const STEADY: Duration = Duration::from_secs(5);

//! The node's ear on Redis: one connection with subscriptions, made again whenever it breaks, without end. It reconciles
//! what is wanted with what is subscribed, in batches, beside reading: the reader never waits for Redis, because Redis cuts
//! slow subscribers. The library's own reconnecting connections are not used: they lose subscriptions.

use std::{collections::HashMap, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use countersign_protocol::NodeId;
use futures_util::{FutureExt, StreamExt};
use redis::{
    Msg, RedisResult,
    aio::{PubSubSink, PubSubStream},
};
use tokio::{
    task::{unconstrained, yield_now},
    time::{Instant, timeout},
};

use super::{backoff::Backoff, failure::CommandError, keys::Keys, link::LinkState, probe::Probe, topology::Topology};
use crate::{Channel, Heard, Interest, Listener, Observation, interest::Changes, wire};

/// The supervisor.
pub(super) struct Subscriber {
    pub(super) topology: Arc<Topology>,
    pub(super) keys: Keys,
    pub(super) node: NodeId,
    pub(super) interest: Arc<Interest>,
    pub(super) listener: Arc<dyn Listener>,
    pub(super) link: Arc<LinkState>,
    pub(super) probe: Arc<Probe>,
}

/// One connection.
struct Session<'a> {
    owner: &'a Subscriber,
    number: u64,
    sink: PubSubSink,
    stream: PubSubStream,
    /// The channels by their names in Redis, so that nothing is parsed for each message.
    channels: HashMap<String, Channel>,
    own: Channel,
    ready: bool,
}

type Reconciled = Pin<Box<dyn Future<Output = Result<Changes, String>> + Send>>;

impl Subscriber {
    /// Listens, for ever.
    pub(super) async fn run(self) {
        let own = self.interest.want(Channel::Node(self.node.clone()));
        let mut backoff = Backoff::new();
        let mut interrupted = false;
        let mut whereabouts = self.topology.whereabouts();
        for number in 1.. {
            let began = Instant::now();
            let noted = whereabouts.note();
            let reason = match self.topology.subscriber().await {
                Err(error) => CommandError::from(error).to_string(),
                Ok(connection) => {
                    self.listener.observed(Observation::SubscriberConnected);
                    let (sink, stream) = connection.split();
                    let channels = HashMap::new();
                    let own = own.channel().clone();
                    let session = Session { owner: &self, number, sink, stream, channels, own, ready: false };
                    let reason = tokio::select! {
                        reason = session.run(&mut interrupted) => reason,
                        // There nobody publishes any more, though one may hear oneself.
                        () = whereabouts.moved(noted.as_ref()) => "the master is another one now".to_owned(),
                    };
                    self.interest.lost();
                    // Told once, until the next session has told that it has resumed.
                    if !std::mem::replace(&mut interrupted, true) {
                        self.listener.interrupted();
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

impl Session<'_> {
    /// Reads and reconciles until the connection breaks; returns why it did.
    async fn run(mut self, interrupted: &mut bool) -> String {
        let owner = self.owner;
        let mut silent = owner.link.silent();
        let mut under_way: Option<Reconciled> = None;
        loop {
            if under_way.is_none() {
                let changes = owner.interest.changes(BATCH);
                if !changes.is_empty() {
                    under_way = Some(self.reconcile(changes));
                } else if !std::mem::replace(&mut self.ready, true) {
                    owner.link.became_ready(self.number);
                    if std::mem::take(interrupted) {
                        owner.listener.resumed();
                    }
                }
            }
            tokio::select! {
                message = self.stream.next() => match message {
                    Some(first) => if self.hear(first).await { return CLOSED.to_owned() },
                    None => return CLOSED.to_owned(),
                },
                // Interest is asked again when this is done; until then it may change as it likes.
                () = owner.interest.changed(), if under_way.is_none() => {}
                done = async { match &mut under_way { Some(work) => work.await, None => std::future::pending().await } } => {
                    under_way = None;
                    match done {
                        Ok(changes) => self.reconciled(&changes),
                        Err(reason) => return reason,
                    }
                }
                () = async { silent.wait_for(|session| *session == self.number).await.ok(); } => {
                    return "a probe was not heard".to_owned();
                }
            }
        }
    }

    fn reconcile(&mut self, changes: Changes) -> Reconciled {
        let names = |channels: &[Channel]| channels.iter().map(|channel| self.owner.keys.channel(channel)).collect();
        let subscribe: Vec<String> = names(&changes.subscribe);
        let unsubscribe: Vec<String> = names(&changes.unsubscribe);
        // Messages may come before the confirmation is read.
        self.channels.extend(subscribe.iter().cloned().zip(changes.subscribe.iter().cloned()));
        let mut sink = self.sink.clone();
        Box::pin(async move {
            let work = async {
                if !subscribe.is_empty() {
                    sink.subscribe(&subscribe).await?;
                }
                if !unsubscribe.is_empty() {
                    sink.unsubscribe(&unsubscribe).await?;
                }
                RedisResult::Ok(())
            };
            match timeout(RECONCILED_WITHIN, work).await {
                Ok(Ok(())) => Ok(changes),
                Ok(Err(error)) => Err(CommandError::from(error).to_string()),
                Err(_) => Err(format!("subscriptions were not confirmed within {RECONCILED_WITHIN:?}")),
            }
        })
    }

    fn reconciled(&mut self, changes: &Changes) {
        for channel in &changes.unsubscribe {
            self.channels.remove(&self.owner.keys.channel(channel));
        }
        self.owner.interest.subscribed(&changes.subscribe);
        self.owner.interest.unsubscribed(&changes.unsubscribe);
    }

    /// Hands over everything that has come by now. Whether the connection is at its end.
    async fn hear(&mut self, first: Msg) -> bool {
        let mut batch = Vec::new();
        let mut next = Some(first);
        let mut taken = 0;
        let mut closed = false;
        while let Some(message) = next.take() {
            self.take(&message, &mut batch);
            taken += 1;
            if taken < BATCH {
                // Unconstrained: what is there is taken; the turn is given back below, once a batch.
                match unconstrained(self.stream.next()).now_or_never() {
                    Some(Some(message)) => next = Some(message),
                    Some(None) => closed = true,
                    None => {}
                }
            }
        }
        if !batch.is_empty() {
            self.owner.listener.heard(batch).await;
        }
        if taken == BATCH {
            yield_now().await;
        }
        closed
    }

    fn take(&self, message: &Msg, batch: &mut Vec<Heard>) {
        // What is not in the map was unsubscribed a moment ago.
        let Some(channel) = self.channels.get(message.get_channel_name()) else { return };
        let payload = message.get_payload_bytes();
        if *channel == self.own && self.owner.probe.hears(payload) {
            self.owner.link.heard(self.number);
            return;
        }
        match wire::decode(Bytes::copy_from_slice(payload)) {
            Ok((position, payload)) => batch.push(Heard { channel: channel.clone(), payload, position }),
            Err(error) => self.owner.listener.refused(channel, &error),
        }
    }
}

const CLOSED: &str = "Redis closed the subscriber's connection";
/// Channels of one SUBSCRIBE, and messages of one turn: the cost per channel is lowest at about a thousand.
const BATCH: usize = 1000;
/// A thousand channels take some 5 ms; after this long the connection is taken for dead.
const RECONCILED_WITHIN: Duration = Duration::from_secs(5);
/// A session that lasted this long was a good one: the next is made without delay.
const STEADY: Duration = Duration::from_secs(5);

//! A node with an ear that remembers, and waiting for conditions.

use std::{
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use countersign_backplane::{
    Audience, Channel, Cluster, Heard, Interest, Link, Listener, Observation, Settings, Wanted,
    callbacks::OpenCallback,
    listener::Failure,
    redis::{RedisBackplane, RedisOptions, connect},
};
use countersign_protocol::{
    CallbackId, FieldError, NodeId, OnTimeout, Partition, TaskId, TopicName, UserId, ids::IdempotencyKey,
};
use tokio::{sync::watch, time::timeout};

pub(crate) use crate::support::{PATIENCE, eventually};

/// A node.
pub(crate) struct Node {
    pub(crate) interest: Arc<Interest>,
    pub(crate) ear: Arc<Ear>,
    backplane: Arc<RedisBackplane>,
}

impl Deref for Node {
    type Target = RedisBackplane;
    fn deref(&self) -> &RedisBackplane {
        &self.backplane
    }
}

impl Node {
    /// A node that may still be connecting.
    pub(crate) fn start(url: &str, settings: Settings) -> Self {
        Self::with(RedisOptions::new(url, NodeId::parse("n1").unwrap()), settings)
    }

    pub(crate) fn with(options: RedisOptions, settings: Settings) -> Self {
        let (interest, ear) = (Interest::new(), Arc::new(Ear::default()));
        let listener = Arc::clone(&ear) as Arc<dyn Listener>;
        let backplane = connect(options, settings, &interest, &listener).unwrap();
        Self { interest, ear, backplane }
    }

    /// A node whose link is up.
    pub(crate) async fn up(url: &str, settings: Settings) -> Self {
        let node = Self::start(url, settings);
        node.until_link(true).await;
        node
    }

    pub(crate) async fn until_link(&self, up: bool) {
        let mut link = self.link();
        let waited = timeout(PATIENCE, link.wait_for(|link| link.is_up() == up)).await.map(|waited| waited.is_ok());
        assert_eq!(waited, Ok(true), "the link does not become {}; it is {:?}", if up { "up" } else { "down" }, {
            let now: Link = self.link().borrow().clone();
            now
        });
    }

    /// Wants a channel, and waits until it is subscribed.
    pub(crate) async fn hear(&self, channel: Channel) -> Wanted {
        let wanted = self.interest.want(&channel);
        timeout(PATIENCE, wanted.confirmed()).await.expect("a wish is confirmed");
        wanted
    }
}

/// A listener that remembers everything.
#[derive(Default)]
pub(crate) struct Ear {
    memory: Mutex<Memory>,
    /// What is said to a crowd is not taken as long as this is so.
    pub(crate) busy_with_a_crowd: watch::Sender<bool>,
}

#[derive(Default, Clone)]
pub(crate) struct Memory {
    pub(crate) heard: Vec<Heard>,
    pub(crate) refused: usize,
    /// Of a crowd.
    pub(crate) interrupted: usize,
    /// Of a crowd.
    pub(crate) resumed: usize,
    pub(crate) interruptions: Vec<Audience>,
    pub(crate) connected: usize,
    pub(crate) observations: Vec<Observation>,
}

impl Ear {
    pub(crate) fn memory(&self) -> Memory {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until what was heard is so.
    pub(crate) async fn until(&self, what: &str, is: impl Fn(&Memory) -> bool) -> Memory {
        eventually(what, || async { Some(self.memory()).filter(&is) }).await
    }

    fn note(&self, note: impl FnOnce(&mut Memory)) {
        note(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Memory {
    /// What was heard on a channel, as texts.
    pub(crate) fn on(&self, channel: &Channel) -> Vec<String> {
        let on = self.heard.iter().filter(|heard| heard.channel == *channel);
        on.map(|heard| heard.payload.as_str().to_owned()).collect()
    }

    /// The commands that failed.
    pub(crate) fn failures(&self) -> impl Iterator<Item = Failure> {
        let failed = |seen: &Observation| if let Observation::CommandFailed(kind) = seen { Some(*kind) } else { None };
        self.observations.iter().filter_map(failed)
    }
}

#[async_trait::async_trait]
impl Listener for Ear {
    async fn heard(&self, batch: Vec<Heard>) {
        if batch.iter().any(|heard| heard.channel.audience() == Audience::Crowd) {
            self.busy_with_a_crowd.subscribe().wait_for(|busy| !busy).await.ok();
        }
        self.note(|memory| memory.heard.extend(batch));
    }

    fn refused(&self, _: &Channel, _: &FieldError) {
        self.note(|memory| memory.refused += 1);
    }

    fn interrupted(&self, audience: Audience) {
        self.note(|memory| {
            memory.interrupted += usize::from(audience == Audience::Crowd);
            memory.interruptions.push(audience);
        });
    }

    fn resumed(&self, audience: Audience) {
        self.note(|memory| memory.resumed += usize::from(audience == Audience::Crowd));
    }

    fn observed(&self, observation: Observation) {
        self.note(|memory| {
            memory.connected += usize::from(observation == Observation::SubscriberConnected);
            memory.observations.push(observation);
        });
    }
}

pub(crate) fn user(id: &str) -> UserId {
    UserId::parse(id).unwrap()
}

pub(crate) fn task(id: &str) -> TaskId {
    TaskId::parse(id).unwrap()
}

pub(crate) fn topic(name: &str) -> Channel {
    Channel::Topic(TopicName::parse(name).unwrap())
}

/// A question with an id of its own.
pub(crate) fn question(user_id: &str, task_id: &str) -> OpenCallback {
    let user = user(user_id);
    let id = CallbackId::new(Partition::of(&user), fastrand::u128(..));
    OpenCallback {
        id,
        task: task(task_id),
        message_head: format!(r#"{{"type":"task_step_result","callback_id":"{id}""#),
        timeout: Duration::from_secs(300),
        on_timeout: OnTimeout::Proceed,
        plain: true,
        key: None,
        reply_to: None,
        user,
    }
}

/// The same with an idempotency key.
pub(crate) fn keyed(question: OpenCallback, key: &str, digest: &str) -> OpenCallback {
    OpenCallback { key: Some((IdempotencyKey::parse(key).unwrap(), digest.to_owned())), ..question }
}

//! What the tests ask of an implementation, nodes with an ear that remembers, and the waiting: always for a condition, never
//! longer than [`PATIENCE`].

use std::{
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use countersign_backplane::{Audience, Backplane, Channel, Heard, Interest, Listener, Observation, Settings, Wanted};
use countersign_protocol::{FieldError, NodeId};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

pub(crate) use crate::support::{PATIENCE, eventually};
/// A time that a test is willing to let pass in real time.
pub(crate) const SHORT: Duration = Duration::from_millis(300);

/// One implementation: a store and the way to it.
#[async_trait]
pub(crate) trait Fixture: Sized + Send + Sync + 'static {
    /// Whether one place counts and orders everything: it says how many nodes heard a publication, and what comes on one
    /// channel comes in the order of publishing, whatever it is about.
    const ONE_PLACE: bool = true;

    /// Whether what expires is given up in its own time, and not only when somebody looks.
    const EXPIRES_AT_ONCE: bool = false;

    /// Whether its time passes only when it is told to.
    const BY_HAND: bool = false;

    /// An empty store.
    async fn start(settings: Settings) -> Self;

    /// An empty store that no other test uses, so that its links may be broken.
    async fn start_alone(settings: Settings) -> Self;

    /// A node's side of the store.
    async fn connect(&self, node: NodeId, interest: Arc<Interest>, listener: Arc<dyn Listener>) -> Arc<dyn Backplane>;

    /// Publishes bytes past all checks.
    async fn publish_raw(&self, channel: &Channel, bytes: &[u8]);

    /// Lets this much of the store's time pass.
    async fn advance(&self, by: Duration);

    /// Breaks the link of every node.
    async fn break_links(&self);

    /// Lets the nodes come back.
    async fn mend_links(&self);

    /// Keeps a copy of the store for [`Self::recall`]. For a store of [`Self::start_alone`].
    async fn remember(&self);

    /// The store dies, and comes back as it was when it was remembered.
    async fn recall(&self);

    /// A node that is up.
    async fn node(&self, name: &str) -> Node {
        let id = NodeId::parse(name).unwrap();
        let (interest, ear) = (Interest::new(), Arc::new(Recorder::default()));
        let backplane = self.connect(id.clone(), Arc::clone(&interest), Arc::clone(&ear) as Arc<dyn Listener>).await;
        let mut link = backplane.link();
        let up = timeout(PATIENCE, link.wait_for(countersign_backplane::Link::is_up)).await;
        up.expect("the link of a new node comes up").expect("the backplane lives");
        Node { id, interest, ear, backplane }
    }

    /// Everything that the node has heard on the channel, once everything published before has arrived.
    async fn heard_so_far(&self, node: &Node, channel: &Channel) -> Vec<Heard> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let marker = json!({ "marker": NEXT.fetch_add(1, Ordering::Relaxed) });
        self.publish_raw(channel, marker.to_string().as_bytes()).await;
        node.ear
            .until(&format!("the marker on {}", channel.name()), |log| {
                log.iter().any(|entry| matches!(entry, Entry::Heard(heard) if value(heard) == marker)).then_some(())
            })
            .await;
        let mut heard = node.ear.heard_on(channel);
        heard.retain(|heard| value(heard).get("marker").is_none());
        heard
    }

    /// As [`Self::heard_so_far`], as JSON.
    async fn values_so_far(&self, node: &Node, channel: &Channel) -> Vec<Value> {
        self.heard_so_far(node, channel).await.iter().map(value).collect()
    }
}

/// A node of a test.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) interest: Arc<Interest>,
    pub(crate) ear: Arc<Recorder>,
    pub(crate) backplane: Arc<dyn Backplane>,
}

impl Deref for Node {
    type Target = dyn Backplane;
    fn deref(&self) -> &Self::Target {
        &*self.backplane
    }
}

impl Node {
    /// Wants a channel, and waits until it is subscribed.
    pub(crate) async fn hear(&self, channel: &Channel) -> Wanted {
        let wanted = self.interest.want(channel);
        timeout(PATIENCE, wanted.confirmed()).await.expect("a wish is confirmed");
        wanted
    }
}

/// A listener that remembers everything.
#[derive(Default)]
pub(crate) struct Recorder {
    log: Mutex<Vec<Entry>>,
    changed: watch::Sender<()>,
}

/// What a listener was told.
#[derive(Debug, Clone)]
pub(crate) enum Entry {
    Heard(Heard),
    Refused(Channel),
    Interrupted,
    Resumed,
}

impl Recorder {
    pub(crate) fn heard_on(&self, channel: &Channel) -> Vec<Heard> {
        let of_channel = |entry: &Entry| match entry {
            Entry::Heard(heard) if heard.channel == *channel => Some(heard.clone()),
            _ => None,
        };
        self.log().iter().filter_map(of_channel).collect()
    }

    /// Waits until `look` finds something in the log.
    pub(crate) async fn until<T>(&self, what: &str, mut look: impl FnMut(&[Entry]) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(&self.log()) {
                return found;
            }
            let in_time = timeout_at(deadline, changed.changed()).await.is_ok();
            assert!(in_time, "waited in vain for {what}; the log is {:?}", self.log());
        }
    }

    /// Waits until `count` messages have come on the channel.
    pub(crate) async fn until_heard(&self, channel: &Channel, count: usize) -> Vec<Heard> {
        self.until(&format!("{count} messages on {}", channel.name()), |log| {
            let of_channel = |entry: &&Entry| matches!(entry, Entry::Heard(heard) if heard.channel == *channel);
            (log.iter().filter(of_channel).count() >= count).then_some(())
        })
        .await;
        self.heard_on(channel)
    }

    fn log(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.log.lock().unwrap()
    }

    fn push(&self, entries: impl IntoIterator<Item = Entry>) {
        self.log().extend(entries);
        self.changed.send_replace(());
    }
}

#[async_trait::async_trait]
impl Listener for Recorder {
    async fn heard(&self, batch: Vec<Heard>) {
        self.push(batch.into_iter().map(Entry::Heard));
    }

    fn refused(&self, channel: &Channel, _error: &FieldError) {
        self.push([Entry::Refused(channel.clone())]);
    }

    fn interrupted(&self, audience: Audience) {
        if audience == Audience::Crowd {
            self.push([Entry::Interrupted]);
        }
    }

    fn resumed(&self, audience: Audience) {
        if audience == Audience::Crowd {
            self.push([Entry::Resumed]);
        }
    }

    fn observed(&self, _observation: Observation) {}
}

/// How many nodes heard a publication, as far as it is said.
pub(crate) fn counted<F: Fixture>(nodes: u64) -> Option<u64> {
    F::ONE_PLACE.then_some(nodes)
}

/// A message as JSON.
pub(crate) fn value(heard: &Heard) -> Value {
    serde_json::from_slice(heard.payload.bytes()).expect("a payload is JSON")
}

//! Everything in Redis. A node has two lanes of commands, one subscriber and a probe that runs through both; each is kept by
//! a task that reconnects without end, so a node can start before its Redis and outlive it. What has to be atomic is Lua, one
//! file a verb; all names are in `keys.rs`.
//!
//! A tour, one sentence a file:
//! - `options`, `tls`: which Redis and how, said wrong before the first connection;
//! - `topology`: where the master is, asked at every connect;
//! - `sentinel`: a master that moves, and is followed;
//! - `keys`: every key and channel name;
//! - `scripts` and `lua/`: the verbs;
//! - `slots`, `members`, `masters`: a Redis Cluster: which server has what, whom to ask, and each step to its server;
//! - `run`: which life of which server a connection belongs to, and so a numbering;
//! - `clock`: the clock by which deadlines are judged, and whether somebody has set it;
//! - `lanes`, `server`, `failure`, `retry`, `backoff`: commands, what their errors mean, and trying again;
//! - `needs`: what a Redis must be able to do, asked for on every connection of commands;
//! - `resp`, `pubsub`: a connection that is there for subscriptions, read in place;
//! - `subscriber`, `probe`, `link`: hearing, and proving that one hears;
//! - `neighbours`: what nodes say of themselves, and what must not be: another database, the same id;
//! - `messages`, `callbacks`, `record`, `tasks`, `sweep`, `heartbeats`, `receipts`, `presence`,
//!   `connections`, `cluster`: the traits;
//! - `replies`: pushing decisions to reply lists;
//! - `inbox`: the durable door of producers;
//! - `checks`: what is wrong with this Redis, said once;
//! - `replicas`: waiting until replicas have a decision.

mod backoff;
mod callbacks;
mod checks;
mod clock;
mod cluster;
mod connections;
mod failure;
mod heartbeats;
mod inbox;
mod keys;
mod lanes;
mod link;
mod masters;
mod members;
mod messages;
mod needs;
mod neighbours;
mod options;
mod presence;
mod probe;
mod pubsub;
mod receipts;
mod record;
mod replicas;
mod replies;
mod resp;
mod retry;
mod run;
mod scripts;
mod sentinel;
mod server;
mod slots;
mod subscriber;
mod sweep;
mod tasks;
mod tls;
mod topology;

use std::{fmt, sync::Arc, time::Duration};

use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

pub use options::{OptionsError, RedisOptions, check_url};
pub use tls::TlsFiles;

use self::{
    inbox::RedisInbox,
    keys::Keys,
    lanes::Lanes,
    link::{LinkState, Links},
    messages::RedisMessages,
    needs::{Needs, Setup},
    neighbours::Neighbours,
    probe::{OwnChannel, Probe},
    replicas::Replicas,
    subscriber::Subscriber,
    topology::Topology,
};
use crate::{Audience, Channel, Interest, Listener, Settings};
use countersign_protocol::NodeId;

/// The backplane of nodes that share a Redis.
pub struct RedisBackplane {
    keys: Keys,
    settings: Settings,
    node: NodeId,
    lanes: Arc<Lanes>,
    links: Arc<Links>,
    neighbours: Arc<Neighbours>,
    replicas: Option<Replicas>,
    messages: RedisMessages,
    inbox: Arc<RedisInbox>,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stop_when_dropped: DropGuard,
}

/// Connects to Redis, in the background: returns at once, with the link down until the node hears itself. To be called
/// within a Tokio runtime.
///
/// # Errors
/// Options or a prefix that cannot work.
pub fn connect(
    options: RedisOptions,
    settings: Settings,
    interest: &Arc<Interest>,
    listener: &Arc<dyn Listener>,
) -> Result<Arc<RedisBackplane>, OptionsError> {
    options::check_prefix(&settings.prefix)?;
    let topology = Arc::new(options.topology()?);
    if topology.is_tls() {
        // Whoever installed another provider before wants that one.
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    }
    let tls = topology.is_tls().then(|| options.tls.client_config()).transpose()?;
    let unusable = |error: redis::RedisError| OptionsError {
        what: "REDIS_URL",
        expected: "an address that can be connected to".to_owned(),
        got: format!("{} ({})", topology.place(), error.category()),
    };
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let keys = match &*topology {
        Topology::Cluster(_) => Keys::of_cluster(&settings.prefix),
        Topology::Single(_) | Topology::Sentinel(_) => Keys::new(&settings.prefix),
    };
    let links = Links::new();
    let neighbours = Neighbours::new(
        options.node.clone(),
        &settings.prefix,
        topology.database(),
        Arc::clone(&links),
        Arc::clone(listener),
    );
    spawn(&tasks, &stop, Arc::clone(&neighbours).keep());
    if let Topology::Sentinel(sentinels) = &*topology {
        spawn(&tasks, &stop, Arc::clone(sentinels).watch());
    }
    let setup = Setup {
        guests: settings.guests,
        waits_for_replicas: options.wait_replicas > 0,
        cluster: matches!(&*topology, Topology::Cluster(_)),
    };
    let needs = Arc::new(Needs::new(&keys, &options.node, setup));
    let lanes = Lanes::start(&topology, needs, Arc::clone(listener), &tasks, &stop).map_err(unusable)?;
    let replicas = match options.wait_replicas {
        0 => None,
        wanted => Some(Replicas::start(wanted, keys.durability_marks(), Arc::clone(&topology), &tasks, &stop)),
    };
    let waiting = topology.waiting_connector(inbox::WAIT, &keys.inbox()).map_err(unusable)?;
    let messages =
        RedisMessages { keys: keys.clone(), lanes: Arc::clone(&lanes), retention: settings.message_key_retention };
    let inbox = RedisInbox::new(messages.clone(), options.node.clone(), waiting, settings.callback_retention);
    for audience in Audience::ALL {
        let own = match audience {
            Audience::Person => Channel::Node(options.node.clone()),
            Audience::Crowd => Channel::Probe(options.node.clone()),
        };
        let link = Arc::new(LinkState::new(Arc::clone(&links), audience, topology.place()));
        let probe = Arc::new(Probe::new());
        let own_channel = OwnChannel { name: keys.channel(&own), lanes: Arc::clone(&lanes) };
        let prober = Arc::clone(&probe).run(own_channel, Arc::clone(&link), Arc::clone(listener));
        let subscriber = Subscriber {
            audience,
            tls: tls.clone(),
            topology: Arc::clone(&topology),
            keys: keys.clone(),
            own,
            interest: Arc::clone(interest),
            listener: Arc::clone(listener),
            link,
            probe,
            neighbours: Arc::clone(&neighbours),
        };
        spawn(&tasks, &stop, subscriber.run());
        spawn(&tasks, &stop, prober);
    }
    spawn(&tasks, &stop, checks::run(Arc::clone(&lanes)));
    Ok(Arc::new(RedisBackplane {
        keys,
        settings,
        node: options.node,
        lanes,
        links,
        neighbours,
        replicas,
        messages,
        inbox,
        tasks,
        _stop_when_dropped: stop.clone().drop_guard(),
        stop,
    }))
}

/// Runs a task that ends when the backplane stops.
fn spawn(tasks: &TaskTracker, stop: &CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
    let stop = stop.clone();
    tasks.spawn(async move { stop.run_until_cancelled(task).await });
}

impl RedisBackplane {
    /// Waits until replicas have what was decided so far, if that was asked for.
    async fn replicated(&self) {
        if let Some(replicas) = &self.replicas {
            replicas.wait().await;
        }
    }
}

impl fmt::Debug for RedisBackplane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBackplane")
            .field("settings", &self.settings)
            .field("link", &*self.links.watch().borrow())
            .finish_non_exhaustive()
    }
}

/// Whole milliseconds, as Redis counts.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

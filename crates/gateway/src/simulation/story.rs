//! One run, step by step: who publishes, who comes and goes, what breaks; and in the end, when everything works again, whether
//! everybody's account adds up and nothing is left behind.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use countersign_backplane::{
    Channel, Interest, Settings,
    memory::{Clock, Memory, Remembered},
};
use countersign_protocol::{Address, NodeId, Payload, UserId};
use tokio::{
    task::{JoinHandle, yield_now},
    time::{Instant, sleep},
};

use super::{
    account::Wrong,
    chronicle::Chronicle,
    client::Client,
    far::{Ear, Far, Weather},
    flaws::Flaw,
    plan::{self, Plan},
    wire::socket,
};
use crate::{auth::Identity, connection::Connection, node::Node, transport::Socket, wire};

/// A run that went wrong.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) wrong: Wrong,
    pub(super) events: String,
}

/// What was counted in a run.
#[derive(Debug, PartialEq, Eq, Clone)]
pub(super) struct Told {
    pub(super) digest: u64,
    pub(super) turns: u64,
    pub(super) messages: u64,
    /// What clients heard, by kind.
    pub(super) counts: BTreeMap<String, u64>,
}

/// How to tell a story.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Telling {
    pub(super) flaw: Option<Flaw>,
    /// Without anything that goes wrong.
    pub(super) quiet: bool,
    pub(super) aloud: bool,
}

pub(super) struct Story {
    pub(super) chronicle: Arc<Chronicle>,
    pub(super) weather: Arc<Weather>,
    pub(super) memory: Arc<Memory>,
    copy: Option<Remembered>,
    pub(super) hosts: Vec<Host>,
    pub(super) clients: Vec<Client>,
    addresses: Vec<Address>,
    number: u64,
    /// Nodes that have ended.
    pub(super) ended: Vec<(Arc<Node>, Arc<Interest>)>,
    pub(super) tasks: Vec<JoinHandle<()>>,
}

/// Where a node runs.
pub(super) struct Host {
    pub(super) name: String,
    pub(super) up: Option<(Arc<Node>, Arc<Interest>)>,
}

/// The time of the runtime.
#[derive(Debug)]
struct VirtualClock(Instant);

impl Clock for VirtualClock {
    fn now_ms(&self) -> u64 {
        1_790_000_000_000 + u64::try_from(self.0.elapsed().as_millis()).expect("a run is short")
    }
}

/// Tells the story of a seed, on this thread.
pub(super) fn tell(seed: u64, telling: Telling) -> Result<Told, Failed> {
    // Of epochs and sweeps.
    fastrand::seed(seed);
    Flaw::make(telling.flaw);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let told = runtime.expect("a runtime").block_on(async {
        let chronicle = Chronicle::new(seed, telling.aloud);
        let plan = chronicle.chance(Plan::new);
        let plan = if telling.quiet { plan.quiet() } else { plan };
        chronicle.event(format_args!("{plan:?}"));
        let mut story = Story::begin(Arc::clone(&chronicle), plan);
        let told = story.go().await;
        let (digest, turns) = chronicle.digest();
        match told {
            Ok(()) => Ok(Told { digest, turns, messages: story.number, counts: chronicle.counts() }),
            Err(wrong) => Err(Failed { wrong, events: chronicle.last_events() }),
        }
    });
    Flaw::make(None);
    told
}

impl Story {
    fn begin(chronicle: Arc<Chronicle>, plan: Plan) -> Self {
        let message_key_retention = Duration::from_secs(if plan.forgets { 1 } else { 3600 });
        let settings = Settings { message_key_retention, ..Settings::default() };
        let memory = Memory::with_clock(settings, Arc::new(VirtualClock(Instant::now())));
        let users: Vec<UserId> = (0..plan.users)
            .map(|n| if n % 3 == 2 { format!("bare-u{n}") } else { format!("u{n}") })
            .map(|name| UserId::parse(&name).expect("a name"))
            .collect();
        let mut addresses = vec![Address::Broadcast];
        addresses.extend(users.iter().cloned().map(Address::User));
        addresses.extend(
            (0..plan.topics)
                .map(|n| if n % 2 == 1 { format!("bare-{n}") } else { format!("t{n}") })
                .map(|name| Address::parse_client(&name).expect("a topic")),
        );
        let mut clients = Vec::new();
        for n in 0..plan.clients {
            let user = (n % 5 < 4).then(|| chronicle.chance(|chance| users[chance.usize(..users.len())].clone()));
            let slow = chronicle.happens(plan.slow);
            clients.push(Client::new(format!("c{n}"), user, slow, plan.forgets || plan.recalls));
        }
        let hosts = (0..plan.nodes).map(|n| Host { name: format!("n{n}"), up: None }).collect();
        let weather = Weather::new(Arc::clone(&chronicle), plan);
        let (ended, tasks) = (Vec::new(), Vec::new());
        Self { chronicle, weather, memory, copy: None, hosts, clients, addresses, number: 0, ended, tasks }
    }

    fn plan(&self) -> &Plan {
        &self.weather.plan
    }

    fn below(&self, most: usize) -> usize {
        self.chronicle.chance(|chance| chance.usize(..most))
    }

    async fn go(&mut self) -> Result<(), Wrong> {
        for host in 0..self.hosts.len() {
            self.start(host);
        }
        for _ in 0..self.plan().steps {
            self.pause().await;
            self.step().await?;
            self.look()?;
        }
        self.recover().await;
        self.settle().await?;
        if self.plan().shaken == 0 {
            self.add_up()?;
        }
        // What was lost on the way without an interruption shows with the next message.
        for address in self.addresses.clone() {
            self.publish(&address, false);
        }
        self.settle().await?;
        self.add_up()?;
        self.leave().await
    }

    async fn pause(&self) {
        match self.plan().pause {
            0 => {
                for _ in 0..self.below(4) {
                    yield_now().await;
                }
            }
            most => sleep(Duration::from_millis(self.chronicle.chance(|chance| chance.u64(..=most)))).await,
        }
    }

    async fn step(&mut self) -> Result<(), Wrong> {
        if self.chronicle.happens(self.plan().faults) {
            self.fault().await?;
        }
        match self.below(100) {
            0..45 => {
                let address = self.addresses[self.below(self.addresses.len())].clone();
                let often = if self.below(5) == 0 { self.below(20) } else { 1 };
                for _ in 0..often {
                    let at_most_once = self.below(8) == 0;
                    self.publish(&address, at_most_once);
                }
            }
            45..75 => self.act(),
            _ => {
                let (at, most) = (self.below(self.clients.len()), 1 << self.below(12));
                self.read(at, most)?;
            }
        }
        for at in 0..self.clients.len() {
            if !self.clients[at].slow {
                self.read(at, usize::MAX)?;
            }
        }
        Ok(())
    }

    pub(super) fn read(&mut self, at: usize, most: usize) -> Result<(), Wrong> {
        self.clients[at].reads(most, &self.chronicle)?;
        let misheard = std::mem::take(&mut self.clients[at].misheard);
        let other = (at + 1) % self.clients.len();
        misheard.iter().try_for_each(|(turn, text)| self.clients[other].hears(*turn, text, &self.chronicle))
    }

    /// A client does something.
    fn act(&mut self) {
        let at = self.below(self.clients.len());
        if self.clients[at].host().is_none() {
            return self.come(at, 100);
        }
        let topics: Vec<String> = self
            .addresses
            .iter()
            .filter(|address| matches!(address, Address::Topic(_)))
            .map(|address| address.client_form().to_string())
            .collect();
        let topic = topics[self.below(topics.len())].clone();
        let (what, again) = (self.below(20), self.below(2) == 0);
        let client = &mut self.clients[at];
        match what {
            0..9 => client.subscribes(&[topic], again, &self.chronicle),
            9..11 => client.subscribes(&topics, again, &self.chronicle),
            11..15 => client.unsubscribes(&topic, &self.chronicle),
            15..17 => client.goes(&self.chronicle, "a tunnel"),
            17 => client.closes(),
            _ => {
                let unheard = client.unheard();
                if !unheard.is_empty() {
                    client.subscribes(&unheard, true, &self.chronicle);
                }
            }
        }
    }

    /// A client comes to a host that is ready.
    pub(super) fn come(&mut self, at: usize, forgets: u32) {
        let ready: Vec<usize> = (0..self.hosts.len())
            .filter(|host| self.hosts[*host].up.as_ref().is_some_and(|(node, _)| node.ready().is_ok()))
            .collect();
        if ready.is_empty() {
            return;
        }
        let host = ready[self.below(ready.len())];
        let node = Arc::clone(&self.hosts[host].up.as_ref().expect("it is ready").0);
        let (ours, end) = socket(&self.chronicle, self.plan().kernel);
        let client = &mut self.clients[at];
        let (since, topics) = client.comes(host, end, forgets, &self.chronicle);
        let identity = Identity { user: client.user.clone(), expires_at: None };
        let place = Arc::clone(&node.places).try_acquire_owned().expect("there are places");
        let socket = Socket { wire: wire::Wire::Simulated(ours), early: Vec::new(), compression: None };
        let serving = node.shutdown.serving.token();
        self.tasks.push(tokio::spawn(async move {
            let connection = Connection::new(node, socket, place, serving, &identity);
            if let Some(connection) = Box::pin(connection.begin(since, topics)).await {
                connection.run().await;
            }
        }));
    }

    /// Somebody publishes the next message.
    fn publish(&mut self, address: &Address, at_most_once: bool) {
        self.number += 1;
        let (number, longest) = (self.number, self.plan().longest);
        let padding = "x".repeat(self.below(longest));
        let text = format!(r#"{{"n":{number},"padding":"{padding}"}}"#);
        let keeps = plan::keeps_history(&address.client_form().to_string());
        if at_most_once && (self.plan().bare || !keeps) {
            self.chronicle.accept(number, address, None);
            self.memory.publish_raw(&Channel::from(address), &Bytes::from(text));
            return;
        }
        let host = self.below(self.hosts.len());
        let Some((node, _)) = &self.hosts[host].up else { return };
        let (node, address) = (Arc::clone(node), address.clone());
        let message = Payload::parse(Bytes::from(text)).expect("an object");
        self.tasks.push(tokio::spawn(async move {
            // Whoever publishes may not hear that it worked.
            node.publish(address, message, None).await.ok();
        }));
    }

    async fn fault(&mut self) -> Result<(), Wrong> {
        let host = self.below(self.hosts.len());
        let name = self.hosts[host].name.clone();
        let id = NodeId::parse(&name).expect("a name");
        let what = self.below(20);
        let what_for_people = match what {
            0..2 => "is cut off",
            2..4 => "is deaf",
            4..8 => "is restored",
            8..10 => "blinks",
            10 => "is killed",
            11 => "drains",
            12..=14 => "starts",
            16..18 => "sees the backplane copied",
            15 => "is quiet",
            18.. => "sees the backplane come back from an older copy",
        };
        self.chronicle.event(format_args!("{name} {what_for_people}"));
        match what {
            0..2 => self.memory.cut(&id),
            2..4 => self.memory.deafen(&id),
            4..8 => self.memory.restore(&id),
            8..10 => {
                self.memory.cut(&id);
                self.memory.restore(&id);
            }
            10 => self.kill(host).await,
            11 => {
                if let Some((node, _)) = &self.hosts[host].up {
                    node.shutdown.begin();
                    node.shutdown.drain(Duration::from_millis(100));
                    node.hub.drain();
                }
            }
            12..=14 => {
                if self.hosts[host].up.as_ref().is_none_or(|(node, _)| node.shutdown.has_begun()) {
                    self.kill(host).await;
                    self.start(host);
                }
            }
            16..18 => self.copy = Some(self.memory.remember()),
            18.. => self.recall().await,
            _ => {
                for _ in 0..5 {
                    sleep(Duration::from_millis(700)).await;
                    for at in 0..self.clients.len() {
                        self.read(at, 1000)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Every line breaks, and what was accepted since the copy may be lost.
    async fn recall(&mut self) {
        let Some(copy) = self.copy.take().filter(|_| self.plan().recalls) else { return };
        let ids: Vec<NodeId> = self.hosts.iter().map(|host| NodeId::parse(&host.name).expect("a name")).collect();
        for id in &ids {
            self.memory.cut(id);
        }
        self.memory.recall(copy);
        // Whoever is as long away is not heard any more when it comes back.
        sleep(Duration::from_secs(3)).await;
        for id in &ids {
            if self.below(4) > 0 {
                self.memory.restore(id);
            }
        }
    }

    pub(super) fn start(&mut self, host: usize) {
        let host = &mut self.hosts[host];
        let config = self.weather.plan.config(&host.name);
        let (id, weather, memory) = (config.node_id.clone(), Arc::clone(&self.weather), Arc::clone(&self.memory));
        let mut kept = None;
        let node = Node::start_on(config, |_, interest, relay| {
            kept = Some(Arc::clone(&interest));
            let ear = Ear { node: id.clone(), relay, weather: Arc::clone(&weather) };
            let memory = memory.node(id, interest, Arc::new(ear));
            Ok(Arc::new(Far { memory, weather }))
        });
        host.up = node.ok().zip(kept);
    }

    pub(super) async fn kill(&mut self, host: usize) {
        let Some((node, interest)) = self.hosts[host].up.take() else { return };
        for client in self.clients.iter_mut().filter(|client| client.host() == Some(host)) {
            client.goes(&self.chronicle, "the node is killed");
        }
        node.shutdown.stop();
        node.backplane.stop().await;
        self.ended.push((node, interest));
    }

    /// At any time: no outbox holds more than it may.
    pub(super) fn look(&self) -> Result<(), Wrong> {
        let Plan { outbox_bytes, outbox_frames, .. } = *self.plan();
        for (node, _) in self.hosts.iter().filter_map(|host| host.up.as_ref()) {
            for (frames, bytes) in node.hub.counted() {
                if frames > 1 && (frames > outbox_frames || bytes > outbox_bytes) {
                    return Err(format!("an outbox holds {frames} frames, {bytes} bytes"));
                }
            }
        }
        Ok(())
    }
}

//! Messages that flow while something fails: producers who insist, readers who come back, and an account of it all.
//!
//! A scenario joins its readers, lets messages flow, provokes its fault in [`Traffic::around`], lets messages flow again
//! and holds the account against the promises.

use std::time::Duration;

use reqwest::Method;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::api::Api;
use crate::audit::print_figures;
use crate::cluster::Cluster;
use crate::deadline::{PATIENCE, eventually};
use crate::delivery::{Report, audit, story};
use crate::fault::pauses;
use crate::ledger::{Account, Ledger, Line, number_of};
use crate::node::Node;
use crate::press::Press;
use crate::reader::Reader;
use crate::sdk_reader::reads_with_the_sdk;

/// See the module.
#[derive(Debug, Default)]
pub struct Traffic {
    ledger: Ledger,
    readers: JoinSet<()>,
    joins: usize,
    presses: JoinSet<Press>,
    /// What is published to all the time.
    addresses: Vec<String>,
    stop: watch::Sender<bool>,
    watches: JoinSet<()>,
}

/// Messages a second to each address of [`Traffic::usual`].
const USUAL_PACE: u32 = 20;

impl Traffic {
    /// Nobody yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Two readers of two users on each node, one straight and one with the SDK through nginx; twenty messages a second to
    /// everybody, to one of the users and to a topic. Straight readers go on to the next node when theirs is gone.
    pub async fn usual(cluster: &Cluster) -> Self {
        let mut traffic = Self::new();
        traffic.watch(cluster.nodes());
        let count = cluster.nodes().len();
        let urls =
            |first: usize| (0..count).map(|turn| cluster.node((first + turn) % count).ws_url()).collect::<Vec<_>>();
        let doors = |first: usize| (0..count).map(|turn| cluster.api((first + turn) % count)).collect::<Vec<_>>();
        for index in 0..count {
            for user in ["alice", "bob"] {
                let reader = traffic.reader(&format!("{user}-{index}"), Some(user), &["room:1"], &urls(index));
                traffic.add(reader);
            }
            traffic.add_sdk(&format!("sdk-{index}"), "alice", &["room:1"], &cluster.nginx().ws_url());
        }
        traffic.joined().await;
        traffic.publish("broadcast", &[cluster.balanced_api()], USUAL_PACE, 0);
        traffic.publish("user:alice", &doors(0), USUAL_PACE, 0);
        traffic.publish("room:1", &doors(1), USUAL_PACE, 0);
        traffic.flowing(3).await;
        traffic
    }

    /// Another producer's part of the same account.
    pub fn writing_into(ledger: &Ledger) -> Self {
        Self { ledger: ledger.clone(), ..Self::default() }
    }

    /// What was written so far.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// A reader that writes into this account; [`add`](Self::add) sends it off.
    pub fn reader(&self, name: &str, user: Option<&str>, topics: &[&str], urls: &[String]) -> Reader {
        Reader::new(&self.ledger, name, user, topics, urls)
    }

    /// Sends a reader off.
    pub fn add(&mut self, reader: Reader) {
        self.joins += reader.addresses();
        self.readers.spawn(async move { match reader.live().await {} });
    }

    /// Sends a reader off that uses the SDK.
    pub fn add_sdk(&mut self, name: &str, user: &str, topics: &[&str], url: &str) {
        self.joins += 2 + topics.len();
        let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
        let (name, user, url) = (name.to_owned(), user.to_owned(), url.to_owned());
        self.readers.spawn(reads_with_the_sdk(self.ledger.clone(), name, user, topics, url));
    }

    /// Writes down when these nodes are ready and when not.
    pub fn watch(&mut self, nodes: &[Node]) {
        for node in nodes {
            let (ledger, api) = (self.ledger.clone(), node.api());
            self.watches.spawn(async move {
                let mut ready = true;
                loop {
                    let asked = timeout(LOOK, api.try_send(Method::GET, "/health/ready", &[], None)).await;
                    let now = asked.is_ok_and(|reply| reply.is_ok_and(|reply| reply.status == 200));
                    if now != ready {
                        ledger.ready(api.url(), now);
                        ready = now;
                    }
                    pauses(BETWEEN_LOOKS).await;
                }
            });
        }
    }

    /// Waits until a node was seen that is not ready.
    pub async fn noticed(&self) {
        let seen = |account: &Account| account.readiness.iter().any(|(_, ready, _)| !ready);
        eventually(PATIENCE, "a node that says that it is not ready", || async {
            self.ledger.with(seen).then_some(())
        })
        .await;
    }

    /// Waits until every reader reads everything that it wants.
    pub async fn joined(&mut self) {
        let joined =
            |account: &Account| account.read.values().flatten().filter(|line| matches!(line, Line::Joined(_))).count();
        let what = format!("{} subscriptions", self.joins);
        eventually(PATIENCE * 2, &what, || async { (self.ledger.with(joined) == self.joins).then_some(()) }).await;
        self.nobody_failed();
    }

    /// From now on, so many messages a second with so many more bytes to this address, through these doors in turn.
    pub fn publish(&mut self, address: &str, doors: &[Api], per_second: u32, bytes: usize) {
        let press = Press::new(&self.ledger, address, doors, bytes);
        self.addresses.push(address.to_owned());
        self.presses.spawn(press.runs(per_second, self.stop.subscribe()));
    }

    /// So many messages as fast as they are accepted, now.
    pub async fn burst(&self, address: &str, doors: &[Api], messages: usize, bytes: usize) {
        let mut press = Press::new(&self.ledger, address, doors, bytes);
        for _ in 0..messages {
            press.prints().await;
        }
    }

    /// Waits until so many more messages of each address that is published to were accepted; the numbers of the last ones.
    pub async fn accepted(&self, more: usize) -> Vec<(String, u64)> {
        let wanted: Vec<_> = self.ledger.with(|account| {
            let count = |address: &String| account.published.get(address).map_or(0, Vec::len);
            self.addresses.iter().map(|address| (address.clone(), count(address) + more)).collect()
        });
        let accepted = |account: &Account| {
            wanted.iter().all(|(address, number)| {
                let last = account.published.get(address).and_then(|messages| messages.get(number - 1));
                last.is_some_and(|message| message.accepted.is_some())
            })
        };
        let what = format!("{more} more messages of each address: {wanted:?}");
        eventually(FLOWS_WITHIN, &what, || async { self.ledger.with(accepted).then_some(()) }).await;
        wanted.into_iter().map(|(address, number)| (address, number_of(number))).collect()
    }

    /// The same, and everybody has read them or was told.
    pub async fn flowing(&mut self, more: usize) {
        let wanted = self.accepted(more).await;
        let what = format!("everybody who has read {wanted:?} or was told");
        let read = |account: &Account| everybody_has(account, &wanted);
        eventually(FLOWS_WITHIN, &what, || async { self.ledger.with(read).then_some(()) }).await;
        self.nobody_failed();
    }

    /// A fault in the middle of it. `fault` begins, lasts and is over when it returns.
    pub async fn around(mut self, cluster: &mut Cluster, fault: impl AsyncFnOnce(&mut Cluster)) -> Report {
        self.fault(async |_| fault(cluster).await).await;
        self.over().await
    }

    /// The same, and messages flow again when it returns.
    pub async fn fault<T>(&mut self, fault: impl AsyncFnOnce(&Self) -> T) -> T {
        self.ledger.fault_begins();
        let done = fault(self).await;
        self.ledger.fault_ends();
        self.flowing(5).await;
        done
    }

    /// Producers finish; when everybody has read everything, one message more goes to each address, so that a late copy of an
    /// earlier one would have come.
    pub async fn over(mut self) -> Report {
        self.stop.send_replace(true);
        let mut presses = Vec::new();
        while let Some(press) = self.presses.join_next().await {
            presses.push(press.expect("a producer ends when it is told to"));
        }
        self.caught_up().await;
        for press in &mut presses {
            press.prints().await;
        }
        self.caught_up().await;
        self.nobody_failed();
        let account = self.ledger.account();
        let report = audit(&account);
        for story in report.breaches.iter().filter_map(|breach| story(&account, breach)).take(12) {
            print_figures("what happened around it", story);
        }
        report
    }

    /// Gives everybody the time to read everything. What is missing then, the audit flags.
    async fn caught_up(&self) {
        let wanted: Vec<_> = self.ledger.with(|account| {
            let counts = account.published.iter().map(|(address, all)| (address.clone(), number_of(all.len())));
            counts.collect()
        });
        let read = |account: &Account| everybody_has(account, &wanted);
        let all = eventually(PATIENCE, "everybody up to date", || async { self.ledger.with(read).then_some(()) });
        drop(timeout(PATIENCE.saturating_sub(Duration::from_secs(1)), all).await);
    }

    /// A reader that panicked has seen something that no client should.
    fn nobody_failed(&mut self) {
        while let Some(ended) = self.readers.try_join_next() {
            ended.expect("a reader lives for ever");
        }
    }
}

/// Whether all who want it have read these messages of each address, or were told that something is missing instead.
fn everybody_has(account: &Account, wanted: &[(String, u64)]) -> bool {
    account.read.values().all(|lines| {
        wanted.iter().all(|(address, wanted)| {
            let newest = lines.iter().rev().find_map(|line| match line {
                Line::Read { address: of, number, .. } if of == address => Some(number >= wanted),
                Line::Told { address: of, .. } if of == address => Some(true),
                Line::Joined(of) if of == address => Some(false),
                _ => None,
            });
            // Whoever never joined is owed nothing.
            newest.unwrap_or(true)
        })
    })
}

/// How long messages may take to flow again after a fault.
const FLOWS_WITHIN: Duration = Duration::from_secs(30);
/// How long one look at a node may take.
const LOOK: Duration = Duration::from_millis(500);
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

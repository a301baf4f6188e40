//! What nodes say of themselves where all nodes of a prefix listen, and what this node learns from it. Channels belong to a
//! whole Redis and keys to one of its databases: nodes with the same prefix in two databases hear each other's messages and
//! share nothing else, so neither is ready. And two live nodes with one id take each other's orders and leases.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use countersign_protocol::NodeId;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::link::Links;
use crate::{Listener, Observation};

/// See the module.
pub(super) struct Neighbours {
    node: NodeId,
    /// Which process this is; a new one may have the same node id.
    process: String,
    prefix: String,
    database: i64,
    links: Arc<Links>,
    listener: Arc<dyn Listener>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How long the announcement of another database holds.
    barred_until: Option<Instant>,
    /// Other processes with this node's id: since when, and how long their announcement holds.
    twins: BTreeMap<String, (Instant, Instant)>,
    shared: bool,
    logged_at: Option<Instant>,
}

/// What a node says of itself. Another version may leave fields out, which then mean nothing, and have more.
#[derive(Debug, Serialize, Deserialize)]
struct Announcement {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    node_id: String,
    #[serde(default)]
    process: String,
    database: Option<i64>,
    /// How long this holds.
    #[serde(default)]
    ttl_ms: u64,
}

impl Neighbours {
    pub(super) fn new(
        node: NodeId,
        prefix: &str,
        database: i64,
        links: Arc<Links>,
        listener: Arc<dyn Listener>,
    ) -> Arc<Self> {
        let process = Uuid::new_v4().simple().to_string();
        let (prefix, state) = (prefix.to_owned(), Mutex::default());
        Arc::new(Self { node, process, prefix, database, links, listener, state })
    }

    /// What this node says of itself, for as long as `ttl`.
    pub(super) fn announcement(&self, ttl: Duration) -> String {
        let announcement = Announcement {
            kind: KIND.to_owned(),
            node_id: self.node.as_str().to_owned(),
            process: self.process.clone(),
            database: Some(self.database),
            ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
        };
        serde_json::to_string(&announcement).expect("texts and numbers always encode")
    }

    /// What a node has said; what cannot be read is of another version and means nothing.
    pub(super) fn heard(&self, payload: &[u8]) {
        let Ok(heard) = serde_json::from_slice::<Announcement>(payload) else { return };
        if heard.kind != KIND || heard.process == self.process {
            return;
        }
        let now = Instant::now();
        let until = now + Duration::from_millis(heard.ttl_ms).min(LONGEST);
        match heard.database {
            Some(database) if database != self.database => self.bar(&heard.node_id, database, until),
            _ if heard.node_id == self.node.as_str() && !heard.process.is_empty() => {
                self.twin(heard.process, now, until);
            }
            _ => {}
        }
    }

    /// Looks once a second what holds no longer.
    pub(super) async fn keep(self: Arc<Self>) {
        loop {
            sleep(EVERY).await;
            let now = Instant::now();
            let mut state = self.lock();
            if state.barred_until.take_if(|until| *until <= now).is_some() {
                tracing::info!(prefix = self.prefix, "no other database uses the prefix any more");
                self.links.bar(None);
            }
            state.twins.retain(|_, (_, until)| *until > now);
            if state.twins.is_empty() && std::mem::take(&mut state.shared) {
                drop(state);
                self.listener.observed(Observation::NodeIdShared(false));
            }
        }
    }

    /// Another database uses the prefix.
    fn bar(&self, node: &str, database: i64, until: Instant) {
        let (prefix, own) = (&self.prefix, self.database);
        let reason = format!(
            "another node uses the prefix {prefix:?} in database {database} of this Redis, and this node uses database {own}: \
             both hear what either publishes; set another REDIS_PREFIX for one of them"
        );
        let mut state = self.lock();
        if state.barred_until.replace(until).is_none() {
            tracing::warn!(prefix, database = own, other_node = ?node, other_database = database, "not ready: {reason}");
        }
        // Under the lock, so that nobody sees an older state last.
        self.links.bar(Some(reason));
    }

    /// Another process has this node's id. What a process says that is just ending, or that another one takes over from, is
    /// heard once.
    fn twin(&self, process: String, now: Instant, until: Instant) {
        let mut state = self.lock();
        if !state.twins.contains_key(&process) && state.twins.len() >= MOST_TWINS {
            return;
        }
        let (since, holds) = state.twins.entry(process).or_insert((now, until));
        *holds = until;
        if now.saturating_duration_since(*since) < ALIVE {
            return;
        }
        state.shared = true;
        if state.logged_at.is_none_or(|at| now.saturating_duration_since(at) >= LOGGED_EVERY) {
            state.logged_at = Some(now);
            tracing::warn!(
                node_id = ?self.node.as_str(),
                "another live node has this NODE_ID: each takes the other's orders and leases; give every node a NODE_ID of its own"
            );
        }
        drop(state);
        self.listener.observed(Observation::NodeIdShared(true));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics between two states, so a poisoned lock still guards a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const KIND: &str = "node";
/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// Whatever a node says, it has to say it again within this time.
const LONGEST: Duration = Duration::from_secs(60);
/// Two nodes that are heard over this long are both alive: no node takes over from another so slowly. Announcements come
/// every two seconds.
const ALIVE: Duration = Duration::from_secs(1);
/// Between two lines of the log.
const LOGGED_EVERY: Duration = Duration::from_secs(60);
/// More processes with one id are not told apart.
const MOST_TWINS: usize = 16;

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use countersign_protocol::FieldError;
    use tokio::{
        sync::watch,
        time::{advance, timeout},
    };

    use super::*;
    use crate::{Audience, Channel, Heard, Link, redis::link::LinkState};

    const TTL: Duration = Duration::from_secs(7);

    #[derive(Default)]
    struct Ear(Mutex<Vec<bool>>);

    #[async_trait]
    impl Listener for Ear {
        async fn heard(&self, _: Vec<Heard>) {}
        fn refused(&self, _: &Channel, _: &FieldError) {}
        fn interrupted(&self, _: Audience) {}
        fn resumed(&self, _: Audience) {}
        fn observed(&self, observation: Observation) {
            if let Observation::NodeIdShared(shared) = observation {
                self.0.lock().unwrap().push(shared);
            }
        }
    }

    impl Ear {
        fn last(&self) -> Option<bool> {
            self.0.lock().unwrap().last().copied()
        }
    }

    struct Node {
        neighbours: Arc<Neighbours>,
        ear: Arc<Ear>,
        link: watch::Receiver<Link>,
    }

    /// A node that hears itself.
    fn node(id: &str, database: i64) -> Node {
        let (links, ear) = (Links::new(), Arc::new(Ear::default()));
        for audience in Audience::ALL {
            let link = LinkState::new(Arc::clone(&links), audience, String::new());
            link.became_ready(1);
            link.heard(1);
        }
        let (link, listener) = (links.watch(), Arc::clone(&ear) as Arc<dyn Listener>);
        let neighbours = Neighbours::new(NodeId::parse(id).unwrap(), "cs", database, links, listener);
        tokio::spawn(Arc::clone(&neighbours).keep());
        Node { neighbours, ear, link }
    }

    #[tokio::test(start_paused = true)]
    async fn a_prefix_that_another_database_uses_makes_a_node_not_ready_until_it_is_silent() {
        let (mut one, two) = (node("a", 1), node("b", 2));
        one.neighbours.heard(one.neighbours.announcement(TTL).as_bytes());
        assert!(one.link.borrow().is_up(), "its own");
        for _ in 0..3 {
            one.neighbours.heard(two.neighbours.announcement(TTL).as_bytes());
            let Link::Down(why) = one.link.borrow().clone() else { panic!("it is up") };
            for part in ["database 1", "database 2", "\"cs\"", "REDIS_PREFIX"] {
                assert!(why.contains(part), "{part}: {why}");
            }
            advance(Duration::from_secs(6)).await;
            tokio::task::yield_now().await;
        }
        timeout(TTL, one.link.wait_for(Link::is_up)).await.expect("nobody is there any more").unwrap();
        assert_eq!(one.ear.last(), None, "it has an id of its own");
    }

    #[tokio::test(start_paused = true)]
    async fn two_processes_with_one_node_id_are_told_by_both_as_long_as_both_are_alive() {
        let (one, two) = (node("a", 0), node("a", 0));
        let each_hears = || {
            one.neighbours.heard(two.neighbours.announcement(TTL).as_bytes());
            two.neighbours.heard(one.neighbours.announcement(TTL).as_bytes());
        };
        each_hears();
        assert_eq!((one.ear.last(), two.ear.last()), (None, None), "one may just be ending");
        for _ in 0..3 {
            advance(Duration::from_secs(2)).await;
            each_hears();
            assert_eq!((one.ear.last(), two.ear.last()), (Some(true), Some(true)));
        }
        assert!(one.link.borrow().is_up() && two.link.borrow().is_up());
        sleep(TTL + 2 * EVERY).await;
        assert_eq!((one.ear.last(), two.ear.last()), (Some(false), Some(false)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_another_version_says_means_only_what_it_says() {
        let one = node("a", 1);
        for said in [
            "",
            "[]",
            r#"{"type":"node"}"#,
            r#"{"type":"node","node_id":"a"}"#,
            r#"{"type":"node","node_id":"b","process":"p","ttl_ms":7000}"#,
            r#"{"type":"later","node_id":"a","process":"p","database":2,"ttl_ms":7000}"#,
            r#"{"type":"node","node_id":"b","process":"p","database":1,"ttl_ms":7000,"more":[1]}"#,
        ] {
            for _ in 0..2 {
                one.neighbours.heard(said.as_bytes());
                advance(Duration::from_secs(2)).await;
            }
            assert!(one.link.borrow().is_up(), "{said}");
            assert_eq!(one.ear.last(), None, "{said}");
        }
    }
}

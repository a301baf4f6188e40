//! An audit of every member of every address: connections subscribe, unsubscribe, come and go while
//! Redis is cut off and returns. In the end each one hears a probe on every address that it is
//! subscribed to, and on no other.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use std::collections::BTreeSet;
use std::time::Duration;

use harness::audit::print_figures;
use harness::{Device, Node, PATIENCE, RedisServer, TcpProxy, fault_lasts};
use serde_json::{Value, json};
use tokio::sync::watch;

const MEMBERS: usize = 16;
const TOPICS: usize = 12;
const USERS: usize = 4;

/// A client, and the topics whose subscription was confirmed to it.
struct Member {
    name: usize,
    urls: Vec<String>,
    chance: fastrand::Rng,
    device: Option<Device>,
    confirmed: BTreeSet<String>,
    /// Topics of a `subscribe` that was refused: the client may hear them or not until it repeats.
    unsure: BTreeSet<String>,
    actions: u64,
    refusals: u64,
    connects: u64,
}

impl Member {
    fn new(name: usize, urls: &[String]) -> Self {
        Self {
            name,
            urls: urls.to_vec(),
            chance: fastrand::Rng::with_seed(name as u64),
            device: None,
            confirmed: BTreeSet::new(),
            unsure: BTreeSet::new(),
            actions: 0,
            refusals: 0,
            connects: 0,
        }
    }

    fn user(&self) -> String {
        format!("user-{}", self.name % USERS)
    }

    /// Opens a connection and waits until it has begun. While no node takes one, nothing happens.
    async fn connect(&mut self) {
        self.leave();
        let url = &self.urls[self.chance.usize(..self.urls.len())];
        let Ok(mut device) = Device::dial(&format!("{url}?user_id={}", self.user()), &[]).await else { return };
        while let Some(message) = device.next().await {
            if message["type"] == "open_callbacks" {
                self.connects += 1;
                self.device = Some(device);
                return;
            }
        }
    }

    fn leave(&mut self) {
        self.device = None;
        self.confirmed.clear();
        self.unsure.clear();
    }

    /// Sends an action, reads its replies and returns whether all of them are good.
    async fn act(&mut self, mut action: Value, replies: usize) -> bool {
        let Some(device) = &mut self.device else { return false };
        self.actions += 1;
        action["id"] = json!(self.actions);
        device.send(action).await;
        for _ in 0..replies {
            let reply = loop {
                match device.next().await {
                    Some(message) if message["reply_to"] == json!(self.actions) => break message,
                    Some(_) => {}
                    None => {
                        self.leave();
                        return false;
                    }
                }
            };
            if reply["type"] == "error" {
                assert_eq!(reply["code"], "unavailable", "{reply}");
                self.refusals += 1;
                return false;
            }
        }
        true
    }

    async fn subscribe(&mut self, topics: BTreeSet<String>) {
        if self.act(json!({"action": "subscribe", "topics": topics}), topics.len()).await {
            self.unsure.retain(|topic| !topics.contains(topic));
            self.confirmed.extend(topics);
        } else if self.device.is_some() {
            self.unsure.extend(topics.difference(&self.confirmed).cloned());
        }
    }

    async fn step(&mut self) {
        if self.device.is_none() {
            return self.connect().await;
        }
        let topic = format!("room:{}", self.chance.usize(..TOPICS));
        match self.chance.u8(..10) {
            0..4 => self.subscribe(BTreeSet::from([topic])).await,
            4 => {
                let some = (0..TOPICS).filter(|_| self.chance.bool()).map(|number| format!("room:{number}"));
                let some: BTreeSet<String> = some.chain([topic]).collect();
                self.subscribe(some).await;
            }
            5..9 => {
                if self.act(json!({"action": "unsubscribe", "topic": topic}), 1).await {
                    self.confirmed.remove(&topic);
                    self.unsure.remove(&topic);
                }
            }
            _ => self.connect().await,
        }
    }

    /// Comes and goes until the fault is over and every wish is confirmed.
    async fn churn(mut self, mut over: watch::Receiver<bool>) -> Self {
        loop {
            self.step().await;
            if *over.borrow_and_update() && self.device.is_some() {
                if self.unsure.is_empty() {
                    return self;
                }
                // Every SDK repeats a refused `subscribe`, too.
                let again = self.unsure.clone();
                self.subscribe(again).await;
            }
            fault_lasts(Duration::from_millis(self.chance.u64(1..15))).await;
        }
    }

    /// The addresses on which a probe must arrive.
    fn expected(&self) -> BTreeSet<String> {
        let own = ["broadcast".to_owned(), format!("user:{}", self.user())];
        self.confirmed.iter().cloned().chain(own).collect()
    }

    /// The addresses on which a probe arrives.
    async fn audit(&mut self) -> BTreeSet<String> {
        let user = format!("user:{}", self.user());
        let device = self.device.as_mut().expect("a member that has settled is connected");
        let mut heard = BTreeSet::new();
        let mut fenced = false;
        let hearing = async {
            // The fence follows all probes of topics; a user's messages come on another way.
            while !(fenced && heard.contains(&user)) {
                let message = device.next().await.expect("the connection stays");
                fenced |= message["type"] == "fence";
                if message["type"] == "probe" {
                    heard.insert(message["_meta"]["topic"].as_str().expect("a topic").to_owned());
                }
            }
        };
        let heard_both = tokio::time::timeout(PATIENCE, hearing).await.is_ok();
        let (name, expected) = (self.name, self.expected());
        assert!(heard_both, "member {name} (fence heard: {fenced}) heard {heard:?} of {expected:?}");
        heard
    }
}

/// Members of two nodes come and go during a fault; one node reaches Redis through the proxy. After
/// the fault all of them are audited.
async fn audited(scenario: &str, fault: impl AsyncFnOnce(&mut RedisServer, &TcpProxy)) {
    let mut redis = RedisServer::start().await;
    let proxy = TcpProxy::to(redis.address()).await;
    let near = Node::builder().env("REDIS_URL", format!("redis://{}/0", proxy.address())).start().await;
    let other = Node::builder().redis(&redis).start().await;
    let (over, watching) = watch::channel(false);
    let churning: Vec<_> = (0..MEMBERS)
        .map(|name| {
            // Three quarters are on the node whose way to Redis is bad.
            let urls = if name % 4 == 3 { [other.ws_url()] } else { [near.ws_url()] };
            tokio::spawn(Member::new(name, &urls).churn(watching.clone()))
        })
        .collect();
    fault_lasts(Duration::from_millis(500)).await;
    fault(&mut redis, &proxy).await;
    proxy.resume();
    near.wait_for_readiness(200).await;
    other.wait_for_readiness(200).await;
    over.send_replace(true);
    let mut members = Vec::new();
    for member in churning {
        let member = tokio::time::timeout(PATIENCE, member).await.expect("a member settles");
        members.push(member.expect("a member does not panic"));
    }
    let probe = json!({"type": "probe"});
    for topic in 0..TOPICS {
        other.api().post(&format!("/v1/topics/room:{topic}/messages"), &probe).await.expect_status(200);
    }
    for user in 0..USERS {
        other.api().post(&format!("/v1/users/user-{user}/messages"), &probe).await.expect_status(200);
    }
    other.api().post("/v1/broadcast", &probe).await.expect_status(200);
    other.api().post("/v1/broadcast", &json!({"type": "fence"})).await.expect_status(200);
    let (mut places, mut actions, mut refusals, mut connects) = (0, 0, 0, 0);
    for member in &mut members {
        assert_eq!(member.audit().await, member.expected(), "member {}", member.name);
        places += member.expected().len();
        actions += member.actions;
        refusals += member.refusals;
        connects += member.connects;
    }
    assert!(places > 2 * MEMBERS && connects > MEMBERS as u64, "no churn: {places} places, {connects} connects");
    let figures = format!(
        "members {MEMBERS}, connects {connects}, actions {actions}, refused {refusals}, audited {places}, wrong 0"
    );
    print_figures(scenario, figures);
}

#[tokio::test]
async fn confirmed_members_hear_every_address_after_redis_was_cut_off_repeatedly() {
    audited("members come and go, Redis cut off 4 times", async |_, proxy| {
        for _ in 0..4 {
            proxy.cut();
            fault_lasts(Duration::from_millis(400)).await;
            proxy.resume();
            fault_lasts(Duration::from_millis(700)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn confirmed_members_hear_every_address_after_redis_stalled_and_restarted() {
    audited("members come and go, Redis stalled and restarted", async |redis, proxy| {
        proxy.stall();
        fault_lasts(Duration::from_millis(2500)).await;
        proxy.resume();
        fault_lasts(Duration::from_millis(500)).await;
        redis.kill();
        fault_lasts(Duration::from_millis(500)).await;
        redis.restart().await;
        fault_lasts(Duration::from_millis(500)).await;
        let _: u64 = redis.query(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    })
    .await;
}

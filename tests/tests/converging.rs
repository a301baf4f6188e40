//! Every device comes to show what is open, whatever it missed: while its node was cut off, while it was away itself, while
//! Redis was restarted.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use std::collections::BTreeSet;
use std::time::Duration;

use harness::audit::print_figures;
use harness::{Api, Cluster, Device, Node, RedisServer, TcpProxy, callback_id, fault_lasts};
use serde_json::{Value, json};

/// A device, and what it shows: the rules are those of every client.
struct Screen {
    device: Device,
    open: BTreeSet<String>,
    /// Ids in the order in which they came, with repeats.
    shown: Vec<String>,
    lists: usize,
}

impl Screen {
    async fn connect(url: &str, user: &str) -> Self {
        let device = Device::connect(&format!("{url}?user_id={user}")).await;
        let mut screen = Self { device, open: BTreeSet::new(), shown: Vec::new(), lists: 0 };
        while screen.lists == 0 {
            screen.look().await;
        }
        screen
    }

    /// One message more.
    async fn look(&mut self) -> Value {
        let message = self.device.next().await.expect("the connection stays");
        match message["type"].as_str() {
            Some("task_step_result") => {
                self.open.insert(callback_id(&message));
                self.shown.push(callback_id(&message));
            }
            Some("callback_resolved") => {
                self.open.remove(&callback_id(&message));
            }
            Some("open_callbacks") => {
                let ids: BTreeSet<String> = serde_json::from_value(message["callback_ids"].clone()).expect("ids");
                self.open.retain(|id| ids.contains(id));
                self.lists += 1;
            }
            _ => {}
        }
        message
    }

    /// Everything that the node had for this device is shown now.
    async fn up_to_date(&mut self) {
        self.device.send(json!({"action": "ping"})).await;
        while self.look().await["type"] != "pong" {}
    }

    async fn until_it_shows(&mut self, what: &str, open: &BTreeSet<String>) {
        let wanted = async {
            while self.open != *open {
                self.look().await;
            }
        };
        let waited = tokio::time::timeout(harness::PATIENCE, wanted).await;
        assert!(waited.is_ok(), "{what}: shows {:?} instead of {open:?}", self.open);
    }
}

/// Ends the first three of four callbacks, each in another way, through a node that works.
async fn end_three(api: &Api, ws_url: &str, user: &str, ids: &[String]) {
    let mut phone = Device::of_user(ws_url, user).await;
    assert_eq!(phone.confirm(&ids[0], true).await["type"], "confirmation_accepted");
    api.delete(&format!("/v1/callbacks/{}", ids[1])).await.expect_status(200);
    let body = json!({"user_id": user});
    let cancelled = api.post(&format!("/v1/tasks/{user}-2/cancel"), &body).await.expect_status(200);
    assert_eq!(cancelled["callbacks_closed"], 1, "{cancelled}");
    phone.close().await;
}

const USERS: usize = 12;

/// Devices on a node that hears and says nothing while three of four questions of each end elsewhere.
async fn cut_off(scenario: &str, isolate: impl Fn(&TcpProxy)) {
    let redis = RedisServer::start().await;
    let proxy = TcpProxy::to(redis.address()).await;
    let lonely = Node::builder().env("REDIS_URL", format!("redis://{}/0", proxy.address())).start().await;
    let other = Node::builder().redis(&redis).start().await;
    let api = other.api();
    let mut screens = Vec::new();
    for user in 0..USERS {
        let user = format!("user-{user}");
        let mut ids = Vec::new();
        for number in 0..4 {
            ids.push(api.ask(&user, &format!("{user}-{number}"), json!({})).await);
        }
        let screen = Screen::connect(&lonely.ws_url(), &user).await;
        assert_eq!(screen.shown, ids, "in the order of asking");
        screens.push((user, ids, screen));
    }

    isolate(&proxy);
    for (user, ids, _) in &screens {
        end_three(&api, &other.ws_url(), user, ids).await;
    }
    for (_, ids, screen) in &mut screens {
        screen.up_to_date().await;
        assert_eq!(screen.open.len(), ids.len(), "nothing gets through: the fault is in force");
    }
    lonely.wait_for_readiness(503).await;
    proxy.resume();
    let mut stale = 0;
    for (user, ids, screen) in &mut screens {
        screen.until_it_shows(user, &BTreeSet::from([ids[3].clone()])).await;
        stale += ids.len() - 1;
    }
    let figures = format!("devices {USERS}, callbacks {}, ended elsewhere {stale}, still shown 0", 4 * USERS);
    print_figures(scenario, figures);
}

#[tokio::test]
async fn what_ended_elsewhere_while_the_node_was_cut_off_disappears_afterwards() {
    cut_off("node cut off from Redis", TcpProxy::cut).await;
}

#[tokio::test]
async fn what_ended_elsewhere_while_the_nodes_network_stood_still_disappears_afterwards() {
    cut_off("node's network to Redis stalled", TcpProxy::stall).await;
}

#[tokio::test]
async fn a_question_asked_while_its_user_was_away_comes_first_on_any_device_and_any_node() {
    let cluster = Cluster::start(3).await;
    let mut first = 0;
    for round in 0..24 {
        let user = format!("user-{round}");
        let id = cluster.api(round % 3).ask(&user, "t1", json!({})).await;
        let api = cluster.api((round + 1) % 3);
        let path = format!("/v1/users/{user}/messages");
        // Messages rain down while the device connects.
        let raining = async {
            loop {
                api.post(&path, &json!({"type": "drop"})).await.expect_status(200);
            }
        };
        let connecting = async {
            let url = format!("{}?user_id={user}", cluster.node((round + 2) % 3).ws_url());
            let mut device = Device::connect(&url).await;
            let mut kinds = Vec::new();
            loop {
                let message = device.next().await.expect("the connection stays");
                let kind = message["type"].as_str().unwrap_or_default().to_owned();
                if kind == "task_step_result" {
                    assert_eq!(callback_id(&message), id);
                }
                if kind == "drop" {
                    break kinds;
                }
                kinds.push(kind);
            }
        };
        let kinds = tokio::select! {
            kinds = connecting => kinds,
            () = raining => unreachable!("it never stops"),
        };
        assert_eq!(kinds, ["task_step_result", "open_callbacks"], "before any live message");
        first += 1;
    }
    println!("asked while away 24, shown first {first}, shown twice 0");
}

#[tokio::test]
async fn after_redis_was_restarted_every_device_is_told_again_what_is_open() {
    let mut cluster = Cluster::start(2).await;
    let _: () = cluster.redis().query(&["CONFIG", "SET", "appendfsync", "always"]).await;
    let mut screens = Vec::new();
    for user in 0..USERS {
        let user = format!("user-{user}");
        let kept = cluster.api(0).ask(&user, "kept", json!({})).await;
        // Its deadline comes while there is no Redis: when it is back, somebody has to notice.
        let due = cluster.api(0).ask(&user, "due", json!({"timeout": 2, "on_timeout": "decline"})).await;
        let laptop = Screen::connect(&cluster.node(0).ws_url(), &user).await;
        let phone = Screen::connect(&cluster.node(1).ws_url(), &user).await;
        screens.push((BTreeSet::from([kept]), due, [laptop, phone]));
    }
    cluster.redis_mut().kill();
    for node in cluster.nodes() {
        node.wait_for_readiness(503).await;
    }
    cluster.redis_mut().restart().await;
    let mut told = 0;
    for (kept, due, devices) in &mut screens {
        for screen in devices {
            while screen.lists < 2 {
                screen.look().await;
            }
            screen.until_it_shows(due, kept).await;
            told += 1;
        }
    }
    println!("devices {}, told again what is open {told}, still showing what is over 0", 2 * USERS);
}

/// Between the ends of two users' questions, and how many users there are: their ends are spread over the time in which
/// a node reads what it missed, with two replies that are late one after the other.
const BETWEEN: Duration = Duration::from_millis(60);
const LATE_BY: Duration = Duration::from_millis(300);

/// One after the other, each user's first question ends and another one is asked, through a node that works.
async fn end_and_ask(api: &Api, questions: &[(String, String)]) -> Vec<String> {
    let mut asked = Vec::new();
    for (user, ended) in questions {
        api.delete(&format!("/v1/callbacks/{ended}")).await.expect_status(200);
        asked.push(api.ask(user, "second", json!({})).await);
        fault_lasts(BETWEEN).await;
    }
    asked
}

/// A node whose commands are answered late, another one that works, and one question of each user.
async fn late_node() -> (RedisServer, TcpProxy, [Node; 2], Vec<(String, String)>) {
    let redis = RedisServer::start().await;
    let proxy = TcpProxy::to(redis.address()).await;
    let late = Node::builder().env("REDIS_URL", format!("redis://{}/0", proxy.address())).start().await;
    let other = Node::builder().redis(&redis).start().await;
    let mut questions = Vec::new();
    for user in 0..USERS {
        let user = format!("user-{user}");
        let id = other.api().ask(&user, "first", json!({})).await;
        questions.push((user, id));
    }
    (redis, proxy, [late, other], questions)
}

#[tokio::test]
async fn what_ends_while_the_node_reads_what_it_missed_does_not_come_back() {
    let (redis, proxy, [late, other], questions) = late_node().await;
    let mut screens = Vec::new();
    for (user, _) in &questions {
        screens.push(Screen::connect(&late.ws_url(), user).await);
    }
    proxy.delay_replies(LATE_BY);
    let _: u64 = redis.query(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    for (user, _) in &questions {
        redis.wait_for_listeners(&format!("cs:user:{user}"), 1).await;
    }
    let asked = end_and_ask(&other.api(), &questions).await;
    for (((user, _), screen), asked) in questions.iter().zip(&mut screens).zip(asked) {
        while screen.lists < 2 {
            screen.look().await;
        }
        screen.until_it_shows(user, &BTreeSet::from([asked.clone()])).await;
        screen.up_to_date().await;
        assert_eq!(screen.open, BTreeSet::from([asked]), "{user}");
    }
    let figures = format!("devices {USERS}, ended and asked while it was read {USERS}, wrong 0");
    print_figures("replies to the node's commands 0.3 s late", figures);
}

#[tokio::test]
async fn what_ends_while_a_device_connects_does_not_stay() {
    let (_redis, proxy, [late, other], questions) = late_node().await;
    proxy.delay_replies(LATE_BY);
    let connecting: Vec<_> = questions
        .iter()
        .map(|(user, _)| {
            let (url, user) = (late.ws_url(), user.clone());
            tokio::spawn(async move { Screen::connect(&url, &user).await })
        })
        .collect();
    let asked = end_and_ask(&other.api(), &questions).await;
    for (((user, _), connecting), asked) in questions.iter().zip(connecting).zip(asked) {
        let mut screen = connecting.await.expect("it connects");
        screen.until_it_shows(user, &BTreeSet::from([asked.clone()])).await;
        screen.up_to_date().await;
        assert_eq!(screen.open, BTreeSet::from([asked]), "{user}");
    }
}

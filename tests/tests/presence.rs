//! Who is in a topic, across nodes: joined and left are told once for a user and never for a tab, and whatever dies, the list
//! and what was told are right again within one PRESENCE_TTL.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use harness::{Api, Cluster, Device, Node, NodeBuilder, Nodes, RedisServer, TcpProxy, eventually, fault_lasts, token};
use serde_json::{Value, json};

/// Short, so that a test can wait for it.
const TTL: Duration = Duration::from_secs(3);
/// What a busy machine may add.
const MARGIN: Duration = Duration::from_millis(1500);

/// A user's device in a room.
async fn member_at(nodes: &Nodes, node: usize, user: &str, room: &str) -> Device {
    let mut device = nodes.device(node, user).await;
    device.subscribe(room).await;
    device
}

/// A guest, who is no member, but hears who joins and leaves.
async fn watcher_at(nodes: &Nodes, node: usize, room: &str) -> Device {
    let mut device = Device::connect(&nodes.nodes()[node].ws_url()).await;
    watch(&mut device, room).await;
    device
}

fn builder(ttl: Duration) -> NodeBuilder {
    Node::builder().env("PRESENCE_TTL", ttl.as_secs_f64().to_string())
}

async fn watch(device: &mut Device, room: &str) {
    device.send(json!({"action": "subscribe", "topic": room, "presence": true})).await;
    device.expect_type("subscription_confirmed").await;
}

/// The next `joined` or `left`, as `joined alice`.
async fn change(device: &mut Device) -> String {
    let event = device.wait_for("joined or left", |m| m["type"] == "joined" || m["type"] == "left").await;
    assert!(event["timestamp"].as_f64().is_some_and(|at| at > 1.7e9) && event["topic"].is_string(), "{event}");
    format!("{} {}", event["type"].as_str().unwrap_or_default(), event["user_id"].as_str().unwrap_or_default())
}

fn names(answer: &Value) -> Vec<String> {
    let members = answer["members"].as_array().expect("a list of members");
    assert_eq!(answer["count"], members.len(), "{answer}");
    members.iter().map(|name| name.as_str().expect("a name").to_owned()).collect()
}

async fn presence(device: &mut Device, room: &str) -> Vec<String> {
    device.send(json!({"action": "presence", "topic": room, "id": "p"})).await;
    let answer = device.wait_for("the answer", |message| message["reply_to"] == "p").await;
    assert_eq!((&answer["type"], &answer["topic"]), (&json!("presence"), &json!(room)), "{answer}");
    names(&answer)
}

async fn read(api: &Api, room: &str) -> Vec<String> {
    names(&api.get(&format!("/v1/topics/{room}/presence")).await.expect_status(200))
}

async fn wait_until_read(api: &Api, room: &str, members: &[&str]) {
    eventually(TTL + MARGIN, &format!("{members:?} in {room}"), || async {
        (read(api, room).await == members).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_user_joins_and_leaves_once_and_not_per_tab() {
    let nodes = Nodes::start(3, builder(TTL)).await;
    let mut watcher = watcher_at(&nodes, 2, "room:1").await;
    let mut tabs = Vec::new();
    for node in [0, 0, 1, 2] {
        let mut tab = member_at(&nodes, node, "alice", "room:1").await;
        assert_eq!(presence(&mut tab, "room:1").await, ["alice"], "one's own place is seen");
        tabs.push(tab);
    }
    let bob = member_at(&nodes, 1, "bob", "room:1").await;
    assert_eq!((change(&mut watcher).await, change(&mut watcher).await), ("joined alice".into(), "joined bob".into()));
    let mut last = tabs.pop().expect("four tabs");
    for tab in tabs {
        tab.close().await;
    }
    bob.close().await;
    assert_eq!(change(&mut watcher).await, "left bob", "alice has a tab left");
    assert_eq!(presence(&mut watcher, "room:1").await, ["alice"]);
    assert_eq!(read(&nodes.api(0), "room:1").await, ["alice"]);
    last.send(json!({"action": "unsubscribe", "topic": "room:1"})).await;
    last.expect_type("unsubscribed").await;
    assert_eq!(change(&mut watcher).await, "left alice");
    last.subscribe("room:1").await;
    assert_eq!(change(&mut watcher).await, "joined alice");
    last.close().await;
    assert_eq!(change(&mut watcher).await, "left alice");
    assert_eq!(presence(&mut watcher, "room:1").await, [""; 0], "a guest is no member");
}

#[tokio::test]
async fn who_asks_to_hear_hears_the_own_coming_too_and_others_hear_nothing() {
    let nodes = Nodes::start(2, builder(TTL)).await;
    let mut quiet = member_at(&nodes, 0, "quiet", "room:1").await;
    let mut alice = nodes.device(0, "alice").await;
    watch(&mut alice, "room:1").await;
    assert_eq!(change(&mut alice).await, "joined alice");
    let bob = member_at(&nodes, 1, "bob", "room:1").await;
    assert_eq!(change(&mut alice).await, "joined bob");
    bob.close().await;
    assert_eq!(change(&mut alice).await, "left bob");
    quiet.ping().await;
    quiet.assert_none("joined or left", |m| m["type"] == "joined" || m["type"] == "left");
    // Whoever leaves the topic hears nothing more of it.
    alice.send(json!({"action": "unsubscribe", "topic": "room:1"})).await;
    alice.expect_type("unsubscribed").await;
    let _carol = member_at(&nodes, 1, "carol", "room:1").await;
    wait_until_read(&nodes.api(0), "room:1", &["carol", "quiet"]).await;
    alice.ping().await;
    alice.assert_none("joined carol", |m| m["user_id"] == "carol");
}

#[tokio::test]
async fn a_guest_who_becomes_a_user_is_a_member_of_its_topics() {
    let nodes = Nodes::start(2, builder(TTL)).await;
    let mut watcher = watcher_at(&nodes, 1, "room:1").await;
    let mut guest = watcher_at(&nodes, 0, "room:1").await;
    assert_eq!(presence(&mut guest, "room:1").await, [""; 0]);
    guest.send(json!({"action": "subscribe", "user_id": "alice"})).await;
    guest.wait_for("the binding", |message| message["user_id"] == "alice").await;
    assert_eq!(change(&mut watcher).await, "joined alice");
    assert_eq!(presence(&mut guest, "room:1").await, ["alice"]);
    guest.close().await;
    assert_eq!(change(&mut watcher).await, "left alice");
}

/// What a client makes of the answer and the events, in the order in which they came.
async fn believes(device: &mut Device, until: &str) -> BTreeSet<String> {
    let mut members = BTreeSet::new();
    loop {
        let message = device.next_json(Duration::from_secs(15)).await;
        let user = message["user_id"].as_str().unwrap_or_default().to_owned();
        match message["type"].as_str() {
            Some("presence") => members = names(&message).into_iter().collect(),
            Some("joined") if user == until => return members,
            Some("joined") => drop(members.insert(user)),
            Some("left") => drop(members.remove(&user)),
            _ => {}
        }
    }
}

#[tokio::test]
async fn an_answer_and_what_follows_are_right_in_the_middle_of_a_crowd() {
    const TURNS: usize = 40;
    let nodes = Nodes::start(2, builder(TTL)).await;
    let mut watchers = join_all((0..TURNS).map(|n| watcher_at(&nodes, n % 2, "room:1"))).await;
    let crowd = (0..12).map(|n| {
        let nodes = &nodes;
        async move {
            let mut device = nodes.device(n % 2, &format!("user-{n:02}")).await;
            for turn in 0..TURNS + n % 2 {
                let action = if turn % 2 == 0 { "subscribe" } else { "unsubscribe" };
                device.send(json!({"action": action, "topic": "room:1"})).await;
                device.ping().await;
            }
            device
        }
    });
    // Each asks once, at a moment of its own, and has nothing else to go by.
    let asking = async {
        for watcher in &mut watchers {
            watcher.send(json!({"action": "presence", "topic": "room:1"})).await;
            watcher.ping().await;
        }
    };
    let (devices, ()) = futures_util::join!(join_all(crowd), asking);
    let expected: Vec<String> = (0..12).filter(|n| n % 2 == 1).map(|n| format!("user-{n:02}")).collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    // Places are written in the background.
    wait_until_read(&nodes.api(1), "room:1", &expected).await;
    let _last = member_at(&nodes, 1, "zoe", "room:1").await;
    for watcher in &mut watchers {
        let believed = believes(watcher, "zoe").await;
        assert_eq!(believed.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    }
    drop(devices);
}

/// Kills the node of alice and bob, who is on the other node too; returns whether her leaving was told in time.
async fn kill_the_node_of_a_member(ttl: Duration) -> bool {
    let nodes = Nodes::start(2, builder(ttl)).await;
    let mut watcher = watcher_at(&nodes, 1, "room:1").await;
    let _alice = member_at(&nodes, 0, "alice", "room:1").await;
    let _bob = (member_at(&nodes, 0, "bob", "room:1").await, member_at(&nodes, 1, "bob", "room:1").await);
    for _ in 0..2 {
        change(&mut watcher).await;
    }
    let killed_at = Instant::now();
    nodes.nodes()[0].kill();
    assert_eq!(read(&nodes.api(1), "room:1").await, ["alice", "bob"], "her lease has not ended");
    let told = tokio::time::timeout(TTL + MARGIN, change(&mut watcher)).await;
    if let Ok(told) = &told {
        assert_eq!(told, "left alice");
        assert!(killed_at.elapsed() < TTL + MARGIN, "{:?}", killed_at.elapsed());
        assert_eq!(read(&nodes.api(1), "room:1").await, ["bob"]);
        assert_eq!(presence(&mut watcher, "room:1").await, ["bob"]);
    }
    told.is_ok()
}

#[tokio::test]
async fn who_was_on_a_killed_node_has_left_within_one_ttl() {
    assert!(kill_the_node_of_a_member(TTL).await, "nothing was told within {TTL:?}");
}

#[tokio::test]
async fn a_killed_node_shows_only_because_leases_end() {
    // The proof that the test before can fail.
    assert!(!kill_the_node_of_a_member(20 * TTL).await, "with long leases nothing is told that soon");
}

#[tokio::test]
async fn a_killed_node_is_read_right_within_one_ttl_even_if_nobody_listens() {
    let nodes = Nodes::start(2, builder(TTL)).await;
    let _alice = member_at(&nodes, 0, "alice", "room:1").await;
    wait_until_read(&nodes.api(1), "room:1", &["alice"]).await;
    let killed_at = Instant::now();
    nodes.nodes()[0].kill();
    wait_until_read(&nodes.api(1), "room:1", &[]).await;
    assert!(killed_at.elapsed() < TTL + MARGIN, "{:?}", killed_at.elapsed());
}

#[tokio::test]
async fn a_node_that_stands_still_is_missed_and_comes_back() {
    let nodes = Nodes::start(2, builder(TTL)).await;
    let mut watcher = watcher_at(&nodes, 1, "room:1").await;
    let _alice = member_at(&nodes, 0, "alice", "room:1").await;
    assert_eq!(change(&mut watcher).await, "joined alice");
    nodes.nodes()[0].pause();
    let stopped_at = Instant::now();
    assert_eq!(change(&mut watcher).await, "left alice");
    assert!(stopped_at.elapsed() < TTL + MARGIN, "{:?}", stopped_at.elapsed());
    nodes.nodes()[0].resume();
    assert_eq!(change(&mut watcher).await, "joined alice");
    wait_until_read(&nodes.api(1), "room:1", &["alice"]).await;
}

#[tokio::test]
async fn while_leases_are_renewed_nobody_leaves() {
    let nodes = Nodes::start(2, builder(TTL)).await;
    let mut watcher = watcher_at(&nodes, 1, "room:1").await;
    let _alice = member_at(&nodes, 0, "alice", "room:1").await;
    assert_eq!(change(&mut watcher).await, "joined alice");
    fault_lasts(2 * TTL).await;
    watcher.ping().await;
    watcher.assert_none("joined or left", |m| m["type"] == "joined" || m["type"] == "left");
    assert_eq!(read(&nodes.api(1), "room:1").await, ["alice"]);
}

#[tokio::test]
async fn what_redis_has_forgotten_is_there_again_after_the_next_renewal() {
    let nodes = Nodes::start(2, builder(TTL)).await;
    let _members = (member_at(&nodes, 0, "alice", "room:1").await, member_at(&nodes, 1, "bob", "room:1").await);
    wait_until_read(&nodes.api(0), "room:1", &["alice", "bob"]).await;
    let _: () = nodes.redis().query(&["FLUSHALL"]).await;
    wait_until_read(&nodes.api(1), "room:1", &["alice", "bob"]).await;
}

#[tokio::test]
async fn a_client_that_is_silently_gone_leaves_when_its_ping_is_not_answered() {
    let redis = RedisServer::start().await;
    let quick =
        builder(Duration::from_secs(30)).env("WEBSOCKET_PING_INTERVAL", "0.3").env("WEBSOCKET_PING_TIMEOUT", "0.3");
    let node = quick.redis(&redis).start().await;
    let proxy = TcpProxy::to(node.address()).await;
    let mut alice = Device::of_user(&format!("ws://{}/ws", proxy.address()), "alice").await;
    alice.subscribe("room:1").await;
    wait_until_read(&node.api(), "room:1", &["alice"]).await;
    let online = node.api().get("/v1/users/alice").await.expect_status(200);
    assert_eq!((&online["online"], &online["count"]), (&json!(true), &json!(1)), "{online}");
    proxy.stall();
    wait_until_read(&node.api(), "room:1", &[]).await;
    eventually(TTL, "nobody online", || async {
        let user = node.api().get("/v1/users/alice").await.expect_status(200);
        (user["online"] == false && user["connections"] == json!([])).then_some(())
    })
    .await;
}

#[tokio::test]
async fn whoever_may_have_missed_a_change_is_told_the_whole_list() {
    let redis = RedisServer::start().await;
    let proxy = TcpProxy::to(redis.address()).await;
    let cut_off = builder(TTL).env("REDIS_URL", redis.url().replace(&redis.address(), &proxy.address())).start().await;
    let other = builder(TTL).redis(&redis).start().await;
    let mut watcher = Device::connect(&cut_off.ws_url()).await;
    watch(&mut watcher, "room:1").await;
    let mut alice = Device::of_user(&other.ws_url(), "alice").await;
    alice.subscribe("room:1").await;
    assert_eq!(change(&mut watcher).await, "joined alice");
    proxy.cut();
    cut_off.wait_for_readiness(503).await;
    alice.close().await;
    let mut bob = Device::of_user(&other.ws_url(), "bob").await;
    bob.subscribe("room:1").await;
    wait_until_read(&other.api(), "room:1", &["bob"]).await;
    proxy.resume();
    let list = watcher.expect_type("presence").await;
    assert_eq!((names(&list), &list["topic"]), (vec!["bob".to_owned()], &json!("room:1")));
    watcher.assert_none("a change that the list makes stale", |m| m["type"] == "joined" && m["user_id"] == "bob");
}

#[tokio::test]
async fn every_key_has_an_end_and_every_gauge_returns_to_nothing() {
    let nodes = Nodes::start(2, builder(TTL)).await;
    let mut devices = vec![watcher_at(&nodes, 0, "room:1").await, watcher_at(&nodes, 1, "room:2").await];
    for n in 0..10 {
        let mut device = nodes.device(n % 2, &format!("user-{}", n / 2)).await;
        for room in ["room:1", "room:2", "room:{x}:*"] {
            watch(&mut device, room).await;
        }
        devices.push(device);
    }
    for node in nodes.nodes() {
        node.wait_for_metric("countersign_presence_places", "", 18.0).await;
        node.wait_for_metric("countersign_user_connections", "", 5.0).await;
    }
    wait_until_read(&nodes.api(0), "room:2", &["user-0", "user-1", "user-2", "user-3", "user-4"]).await;
    let keys: Vec<String> = nodes.redis().query(&["KEYS", "*"]).await;
    let ours = |key: &&String| [":places", ":members", ":conns:", ":leases:"].iter().any(|part| key.contains(part));
    let ours: Vec<&String> = keys.iter().filter(ours).collect();
    assert!(ours.len() >= 3 * 2 + 5 * 2, "{keys:?}");
    for key in &ours {
        let ttl: i64 = nodes.redis().query(&["PTTL", key]).await;
        assert!(ttl > 0 && ttl <= 2 * 3000, "{key} lives {ttl} ms");
    }
    for device in devices {
        device.close().await;
    }
    for node in nodes.nodes() {
        for gauge in ["countersign_presence_places", "countersign_user_connections", "countersign_connections"] {
            node.wait_for_metric(gauge, "", 0.0).await;
        }
    }
    let told = async |event: &str| {
        let mut told = 0.0;
        for node in nodes.nodes() {
            told += node.metric("countersign_presence_told_total", event).await;
        }
        told
    };
    assert_eq!((told("joined").await, told("left").await), (15.0, 15.0));
    eventually(TTL, "no places", || async {
        let left: Vec<String> = nodes.redis().query(&["KEYS", "*:places"]).await;
        left.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_node_that_stops_gives_its_places_up_at_once() {
    let nodes = Nodes::start(2, builder(Duration::from_secs(600))).await;
    let mut watcher = watcher_at(&nodes, 1, "room:1").await;
    let _alice = member_at(&nodes, 0, "alice", "room:1").await;
    assert_eq!(change(&mut watcher).await, "joined alice");
    nodes.nodes()[0].terminate();
    assert_eq!(change(&mut watcher).await, "left alice");
}

#[tokio::test]
async fn presence_that_is_off_says_so() {
    let node = Node::builder().env("PRESENCE_TTL", "0").start().await;
    let mut alice = Device::of_user(&node.ws_url(), "alice").await;
    alice.subscribe("room:1").await;
    for action in [
        json!({"action": "presence", "topic": "room:1"}),
        json!({"action": "subscribe", "topic": "room:1", "presence": true}),
    ] {
        alice.send(action).await;
        let error = alice.expect_type("error").await;
        assert_eq!(error["code"], "presence_off", "{error}");
        assert!(error["message"].as_str().is_some_and(|text| text.contains("PRESENCE_TTL=0")), "{error}");
    }
    for path in ["/v1/topics/room:1/presence", "/v1/users/alice"] {
        assert_eq!(node.api().get(path).await.expect_status(404)["code"], "presence_off");
    }
    assert_eq!(node.api().delete("/v1/users/alice/connections").await.expect_status(404)["code"], "presence_off");
}

#[tokio::test]
async fn presence_is_asked_of_topics_and_with_a_token_only_of_ones_own() {
    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    let node = Node::builder().env("AUTH_JWT_SECRET", SECRET).start().await;
    let alice = token(SECRET, "alice", Duration::from_secs(600));
    let mut alice = Device::connect(&format!("{}?token={alice}", node.ws_url())).await;
    alice.send(json!({"action": "presence", "topic": "room:1"})).await;
    let error = alice.expect_type("error").await;
    assert_eq!(
        (&error["code"], &error["message"]),
        (&json!("forbidden"), &json!("topic: subscribe to \"room:1\" first"))
    );
    alice.subscribe("room:1").await;
    assert_eq!(presence(&mut alice, "room:1").await, ["alice"]);
    for topic in ["broadcast", "user:alice"] {
        alice.send(json!({"action": "subscribe", "topic": topic, "presence": true})).await;
        let error = alice.expect_type("error").await;
        assert!(error["message"].as_str().is_some_and(|text| text.starts_with("presence: expected topics")), "{error}");
    }
}

#[tokio::test]
async fn a_topics_history_is_read_page_by_page() {
    let cluster = Cluster::builder(2).env("HISTORY_SIZE", "5").env("HISTORY_OVERRIDES", "bare:=0").start().await;
    let api = cluster.api(0);
    for n in 1..=7 {
        api.post("/v1/topics/doc:1/messages", &json!({"n": n})).await.expect_status(200);
    }
    let history = async |query: &str| {
        let page = cluster.api(1).get(&format!("/v1/topics/doc:1/history{query}")).await.expect_status(200);
        let numbers: Vec<u64> = page["messages"]
            .as_array()
            .expect("messages")
            .iter()
            .map(|entry| {
                assert_eq!(entry["position"]["offset"], entry["message"]["n"], "{page}");
                entry["message"]["n"].as_u64().expect("a number")
            })
            .collect();
        (numbers, page["recovered"] == true, page["more"] == true, page)
    };
    let (numbers, recovered, more, page) = history("").await;
    assert_eq!((numbers, recovered, more), (vec![3, 4, 5, 6, 7], false, false), "two are forgotten");
    let epoch = page["position"]["epoch"].as_str().expect("an epoch").to_owned();
    let (numbers, recovered, more, _) = history(&format!("?since={epoch}:2&limit=2")).await;
    assert_eq!((numbers, recovered, more), (vec![3, 4], true, true));
    let (numbers, recovered, more, _) = history(&format!("?since={epoch}:4")).await;
    assert_eq!((numbers, recovered, more), (vec![5, 6, 7], true, false));
    let (numbers, recovered, ..) = history("?since=0123456789abcdef:4").await;
    assert_eq!((numbers, recovered), (vec![3, 4, 5, 6, 7], false), "another epoch");
    for (query, field) in [("?since=x", "since"), ("?limit=0", "limit"), ("?limit=1001", "limit")] {
        let problem = api.get(&format!("/v1/topics/doc:1/history{query}")).await.expect_status(400);
        assert_eq!(problem["field"], field, "{problem}");
    }
    api.get("/v1/topics/doc:1/history?sinse=x").await.expect_status(400);
    let none = api.get("/v1/topics/bare:1/history").await.expect_status(200);
    assert_eq!((&none["position"], &none["messages"]), (&json!(null), &json!([])), "{none}");
}

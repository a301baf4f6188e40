//! A user's connections in the whole cluster: where they are, how many there may be, and how they are ended.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use harness::{Api, Closed, Device, Node, NodeBuilder, Nodes, eventually};
use serde_json::{Value, json};
use tokio::time::timeout;

/// Short, so that a test can wait for it.
const TTL: Duration = Duration::from_secs(3);
/// What a busy machine may add.
const MARGIN: Duration = Duration::from_millis(1500);

/// Connects, whatever comes of it.
async fn dial(nodes: &Nodes, node: usize, user: &str) -> Device {
    let url = format!("{}?user_id={user}", nodes.nodes()[node].ws_url());
    Device::dial(&url, &[]).await.expect("an upgrade")
}

fn builder(limit: &str) -> NodeBuilder {
    Node::builder().env("PRESENCE_TTL", TTL.as_secs().to_string()).env("WEBSOCKET_USER_CONNECTIONS", limit)
}

async fn user(api: &Api, user: &str) -> Value {
    let found = api.get(&format!("/v1/users/{user}")).await.expect_status(200);
    assert_eq!(found["connections"].as_array().map(Vec::len).map(|len| json!(len)), Some(found["count"].clone()));
    assert_eq!(found["online"], found["count"] != 0, "{found}");
    found
}

async fn wait_for_count(api: &Api, name: &str, count: usize) -> Value {
    eventually(TTL + MARGIN, &format!("{count} connections of {name}"), || async {
        let found = user(api, name).await;
        (found["count"] == count).then_some(found)
    })
    .await
}

fn id(device: &Device) -> String {
    device.welcome()["connection_id"].as_str().expect("an id").to_owned()
}

/// How twenty connects at once, spread over the nodes, ended: the closed ones by code and reason, and those that stay.
async fn twenty_at_once(nodes: &Nodes) -> (BTreeMap<(u16, String), usize>, Vec<Device>) {
    let devices = join_all((0..20).map(|n| dial(nodes, n % nodes.nodes().len(), "alice"))).await;
    // Whoever is answered is there to stay, once everybody else is gone.
    let (mut closed, mut staying) = (BTreeMap::new(), devices);
    let end = Instant::now() + Duration::from_secs(10);
    while staying.len() > 3 && Instant::now() < end {
        let mut left = Vec::new();
        for mut device in staying {
            match timeout(Duration::from_millis(50), device.closed()).await {
                Ok(Closed { code, reason }) => *closed.entry((code, reason)).or_default() += 1,
                Err(_) => left.push(device),
            }
        }
        staying = left;
    }
    (closed, staying)
}

#[tokio::test]
async fn a_user_is_found_on_every_node_it_is_on() {
    let nodes = Nodes::start(3, builder("0")).await;
    assert_eq!(
        user(&nodes.api(0), "alice").await,
        json!({"user_id": "alice", "online": false, "connections": [], "count": 0})
    );
    let (first, second) = (nodes.device(1, "alice").await, nodes.device(2, "alice").await);
    let _bob = nodes.device(0, "bob").await;
    let found = wait_for_count(&nodes.api(0), "alice", 2).await;
    let expected = [(&first, "node-1"), (&second, "node-2")];
    for (connection, (device, node)) in found["connections"].as_array().expect("connections").iter().zip(expected) {
        assert_eq!(
            (&connection["connection_id"], &connection["node_id"]),
            (&json!(id(device)), &json!(node)),
            "{found}"
        );
        assert!(connection["connected_at"].as_f64().is_some_and(|at| at > 1.7e9), "{found}");
    }
    first.close().await;
    wait_for_count(&nodes.api(1), "alice", 1).await;
    second.close().await;
    wait_for_count(&nodes.api(1), "alice", 0).await;
    for node in &nodes.nodes()[1..] {
        node.wait_for_metric("countersign_user_connections", "", 0.0).await;
    }
}

#[tokio::test]
async fn a_user_is_disconnected_wherever_it_is() {
    let nodes = Nodes::start(3, builder("0")).await;
    let mut devices = Vec::new();
    for node in [0, 1, 1, 2] {
        devices.push(nodes.device(node, "alice").await);
    }
    let mut bob = nodes.device(1, "bob").await;
    wait_for_count(&nodes.api(0), "alice", 4).await;
    let done = nodes.api(2).delete("/v1/users/alice/connections").await.expect_status(200);
    assert_eq!(done, json!({"user_id": "alice", "disconnected": 4}));
    for device in &mut devices {
        assert_eq!(device.closed().await.code, 4503);
    }
    assert_eq!(user(&nodes.api(0), "alice").await["online"], false);
    bob.ping().await;
    let again = nodes.api(2).delete("/v1/users/alice/connections").await.expect_status(200);
    assert_eq!(again["disconnected"], 0);
    let _back = nodes.device(0, "alice").await;
    wait_for_count(&nodes.api(0), "alice", 1).await;
    nodes.nodes()[1].wait_for_metric("countersign_user_connections_ordered_total", "closed", 2.0).await;
}

#[tokio::test]
async fn one_more_replaces_the_oldest_on_whatever_node_it_is() {
    let nodes = Nodes::start(2, builder("2")).await;
    let mut oldest = nodes.device(0, "alice").await;
    let mut second = nodes.device(1, "alice").await;
    let mut third = nodes.device(1, "alice").await;
    let closed = oldest.closed().await;
    assert_eq!((closed.code, closed.reason.as_str()), (4503, "Replaced or disconnected"));
    second.ping().await;
    third.ping().await;
    let found = wait_for_count(&nodes.api(0), "alice", 2).await;
    assert_eq!(found["connections"][0]["connection_id"], id(&second), "{found}");
    let mut other = nodes.device(0, "bob").await;
    other.ping().await;
    second.ping().await;
}

#[tokio::test]
async fn of_twenty_at_once_no_more_than_the_limit_stay_where_one_more_replaces() {
    let nodes = Nodes::start(3, builder("3:replace")).await;
    let (closed, mut staying) = twenty_at_once(&nodes).await;
    assert_eq!((&closed, staying.len()), (&BTreeMap::from([((4503, "Replaced or disconnected".to_owned()), 17)]), 3));
    for device in &mut staying {
        device.ping().await;
    }
    wait_for_count(&nodes.api(0), "alice", 3).await;
}

#[tokio::test]
async fn of_twenty_at_once_no_more_than_the_limit_come_in_where_one_more_is_refused() {
    let nodes = Nodes::start(3, builder("3:refuse")).await;
    let (closed, mut staying) = twenty_at_once(&nodes).await;
    assert_eq!(
        (&closed, staying.len()),
        (&BTreeMap::from([((1013, "User connection limit reached".to_owned()), 17)]), 3)
    );
    for device in &mut staying {
        device.ping().await;
    }
    wait_for_count(&nodes.api(0), "alice", 3).await;
    let mut refused = 0.0;
    for node in nodes.nodes() {
        refused += node.metric("countersign_connections_total", "refused_user_limit").await;
    }
    assert_eq!(refused.to_string(), "17");
    staying.pop().expect("three stay").close().await;
    wait_for_count(&nodes.api(0), "alice", 2).await;
    nodes.device(1, "alice").await.ping().await;
}

#[tokio::test]
async fn without_a_limit_all_of_twenty_stay() {
    // The proof that the two before can fail.
    let nodes = Nodes::start(3, builder("0")).await;
    let devices = join_all((0..20).map(|n| nodes.device(n % 3, "alice"))).await;
    wait_for_count(&nodes.api(0), "alice", 20).await;
    drop(devices);
}

#[tokio::test]
async fn a_killed_nodes_connections_are_counted_no_longer_than_one_ttl() {
    let nodes = Nodes::start(2, builder("2:refuse")).await;
    let _lost = (nodes.device(0, "alice").await, nodes.device(0, "alice").await);
    let killed_at = Instant::now();
    nodes.nodes()[0].kill();
    assert_eq!(user(&nodes.api(1), "alice").await["count"], 2, "their leases have not ended");
    // Refused at first, but told to come back, and let in when the leases have ended.
    let mut refused = 0;
    let device = loop {
        let mut device = dial(&nodes, 1, "alice").await;
        let first = device.next().await;
        match first {
            Some(first) => {
                assert_eq!(first["type"], "connected", "{first}");
                break device;
            }
            None => assert_eq!(device.closed().await.code, 1013),
        }
        refused += 1;
        assert!(killed_at.elapsed() < TTL + MARGIN, "refused {refused} times, until {:?}", killed_at.elapsed());
    };
    assert!(refused > 0, "the limit held while the leases lasted");
    wait_for_count(&nodes.api(1), "alice", 1).await;
    drop(device);
}

#[tokio::test]
async fn a_node_that_stood_still_gives_up_what_was_replaced_meanwhile() {
    let nodes = Nodes::start(2, builder("1")).await;
    let mut old = nodes.device(0, "alice").await;
    nodes.nodes()[0].pause();
    let mut new = nodes.device(1, "alice").await;
    nodes.nodes()[0].resume();
    assert_eq!(old.closed().await.code, 4503);
    new.ping().await;
    let found = wait_for_count(&nodes.api(1), "alice", 1).await;
    assert_eq!(found["connections"][0]["node_id"], "node-1", "{found}");
}

#[tokio::test]
async fn an_order_that_its_node_never_heard_is_found_at_the_renewal() {
    let nodes = Nodes::start(2, builder("0")).await;
    let mut alice = nodes.device(0, "alice").await;
    let found = wait_for_count(&nodes.api(1), "alice", 1).await;
    // The record of an order, without its publication.
    let keys: Vec<String> = nodes.redis().query(&["KEYS", "*:conns:alice"]).await;
    let key = keys[0].replace(":conns:", ":closing:");
    let connection = found["connections"][0]["connection_id"].as_str().expect("an id");
    let _: u64 = nodes.redis().query(&["SADD", &key, &format!("node-0:{connection}")]).await;
    let _: u64 = nodes.redis().query(&["EXPIRE", &key, "10"]).await;
    assert_eq!(alice.closed().await.code, 4503);
    wait_for_count(&nodes.api(1), "alice", 0).await;
}

#[tokio::test]
async fn what_redis_has_forgotten_is_there_again_after_the_next_renewal() {
    let nodes = Nodes::start(2, builder("2:refuse")).await;
    let _devices = (nodes.device(0, "alice").await, nodes.device(1, "alice").await);
    let before = wait_for_count(&nodes.api(0), "alice", 2).await;
    let _: () = nodes.redis().query(&["FLUSHALL"]).await;
    let after = wait_for_count(&nodes.api(0), "alice", 2).await;
    for (before, after) in [0, 1].map(|at| (&before["connections"][at], &after["connections"][at])) {
        assert_eq!((&before["connection_id"], &before["node_id"]), (&after["connection_id"], &after["node_id"]));
        let moved =
            before["connected_at"].as_f64().unwrap_or_default() - after["connected_at"].as_f64().unwrap_or_default();
        assert!(moved.abs() < 1.0, "{before} became {after}");
    }
    let mut third = dial(&nodes, 0, "alice").await;
    assert_eq!(third.closed().await.code, 1013, "and the limit holds");
}

#[tokio::test]
async fn a_guest_counts_from_the_moment_in_which_it_becomes_a_user() {
    let nodes = Nodes::start(1, builder("1:refuse")).await;
    let _alice = nodes.device(0, "alice").await;
    let mut guest = Device::connect(&nodes.nodes()[0].ws_url()).await;
    guest.send(json!({"action": "subscribe", "user_id": "alice"})).await;
    let error = guest.expect_type("error").await;
    assert_eq!(error["code"], "too_many_connections", "{error}");
    assert!(error["message"].as_str().is_some_and(|text| text.contains("WEBSOCKET_USER_CONNECTIONS")), "{error}");
    guest.send(json!({"action": "subscribe", "user_id": "bob"})).await;
    guest.wait_for("the binding", |message| message["user_id"] == "bob").await;
    assert_eq!(user(&nodes.api(0), "bob").await["count"], 1);
}

#[tokio::test]
async fn a_limit_without_anybody_who_counts_is_refused_at_the_start() {
    for (ttl, limit, named) in [("0", "5", "WEBSOCKET_USER_CONNECTIONS"), ("0.5", "0", "PRESENCE_TTL")] {
        let exit = Node::builder().env("PRESENCE_TTL", ttl).env("WEBSOCKET_USER_CONNECTIONS", limit).refused().await;
        assert_eq!(exit.code, Some(64), "{}", exit.log);
        assert!(exit.log.contains(named), "{}", exit.log);
    }
}

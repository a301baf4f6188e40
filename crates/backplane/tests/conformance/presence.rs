//! Who is in a topic: a user joins with its first place and leaves with the last, wherever they are held, and everybody who
//! listens is told exactly that.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use countersign_backplane::{
    Channel, Settings,
    presence::{Members, Places, Told},
};
use countersign_protocol::TopicName;
use serde_json::{Value, json};
use tokio::sync::Barrier;

use crate::{
    fixture::{Fixture, Node, SHORT},
    words::{FAR, odd_names, user},
};

fn topic(name: &str) -> TopicName {
    TopicName::parse(name).unwrap()
}

fn channel(name: &str) -> Channel {
    Channel::Presence(topic(name))
}

fn places(name: &str, hold: &[&str], let_go: &[&str]) -> Places {
    let users = |names: &[&str]| names.iter().map(|name| user(name)).collect();
    Places { topic: topic(name), hold: users(hold), let_go: users(let_go) }
}

async fn change(node: &Node, places: Places, lease: Duration) -> (u64, u64) {
    let mut told = node.hold_places(vec![places], lease).await;
    let Told { joined, left } = told.pop().unwrap().unwrap();
    (joined, left)
}

async fn hold(node: &Node, name: &str, users: &[&str]) -> (u64, u64) {
    change(node, places(name, users, &[]), FAR).await
}

async fn let_go(node: &Node, name: &str, users: &[&str]) -> (u64, u64) {
    change(node, places(name, &[], users), FAR).await
}

async fn members(node: &Node, name: &str) -> Vec<String> {
    let Members { users, count } = node.members(&topic(name), 1000).await.unwrap();
    assert_eq!(users.len() as u64, count);
    users.iter().map(ToString::to_string).collect()
}

/// Words and users of the events so far.
async fn told<F: Fixture>(fixture: &F, node: &Node, name: &str) -> Vec<(String, String)> {
    let events = fixture.values_so_far(node, &channel(name)).await;
    let text = |event: &Value, field: &str| event[field].as_str().expect("a text").to_owned();
    let event = |event: &Value| {
        assert_eq!(event["topic"], json!(name), "{event}");
        assert!(event["timestamp"].as_f64().unwrap() > 1.7e9, "{event}");
        (text(event, "type"), text(event, "user_id"))
    };
    events.iter().map(event).collect()
}

fn words(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(word, user)| ((*word).to_owned(), (*user).to_owned())).collect()
}

pub(crate) async fn a_user_joins_once_and_leaves_once_however_many_nodes_hold_a_place<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (one, two) = (fixture.node("one").await, fixture.node("two").await);
    let _wanted = two.hear(&channel("room")).await;
    assert_eq!(hold(&one, "room", &["alice", "bob"]).await, (2, 0));
    assert_eq!(hold(&two, "room", &["alice"]).await, (0, 0), "she is there");
    assert_eq!(members(&two, "room").await, ["alice", "bob"]);
    assert_eq!(let_go(&one, "room", &["alice"]).await, (0, 0), "she still is");
    assert_eq!(let_go(&two, "room", &["alice"]).await, (0, 1));
    assert_eq!(members(&one, "room").await, ["bob"]);
    assert_eq!(change(&one, places("room", &["alice"], &["bob"]), FAR).await, (1, 1));
    let expected = [("joined", "alice"), ("joined", "bob"), ("left", "alice"), ("joined", "alice"), ("left", "bob")];
    assert_eq!(told(&fixture, &two, "room").await, words(&expected));
}

pub(crate) async fn what_a_dead_node_held_ends_with_its_lease_and_is_told<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (dying, other) = (fixture.node("dying").await, fixture.node("other").await);
    let _wanted = other.hear(&channel("room")).await;
    change(&dying, places("room", &["alice", "bob"], &[]), SHORT).await;
    hold(&other, "room", &["bob", "carol"]).await;
    fixture.advance(SHORT + Duration::from_millis(50)).await;
    // A node that holds nobody there may look after the topic, too.
    change(&other, places("room", &[], &[]), FAR).await;
    let expected = [("joined", "alice"), ("joined", "bob"), ("joined", "carol"), ("left", "alice")];
    assert_eq!(told(&fixture, &other, "room").await, words(&expected));
    assert_eq!(members(&other, "room").await, ["bob", "carol"]);
}

pub(crate) async fn a_read_tells_what_has_expired_before_it_answers<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let _wanted = node.hear(&channel("room")).await;
    change(&node, places("room", &["alice"], &[]), SHORT).await;
    assert_eq!(members(&node, "room").await, ["alice"]);
    fixture.advance(SHORT + Duration::from_millis(50)).await;
    assert_eq!(members(&node, "room").await, [""; 0]);
    assert_eq!(told(&fixture, &node, "room").await, words(&[("joined", "alice"), ("left", "alice")]));
    // So whoever has read that she is away hears it when she comes back.
    assert_eq!(hold(&node, "room", &["alice"]).await, (1, 0));
}

pub(crate) async fn a_late_renewal_that_nobody_was_told_of_changes_nothing<F: Fixture>() {
    // In the memory everything expires in its own time, so there is nothing to be late for.
    if F::EXPIRES_AT_ONCE {
        return;
    }
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let _wanted = node.hear(&channel("room")).await;
    change(&node, places("room", &["alice", "bob"], &[]), SHORT).await;
    fixture.advance(SHORT + Duration::from_millis(50)).await;
    assert_eq!(hold(&node, "room", &["alice"]).await, (0, 1));
    let expected = [("joined", "alice"), ("joined", "bob"), ("left", "bob")];
    assert_eq!(told(&fixture, &node, "room").await, words(&expected));
}

pub(crate) async fn after_a_dead_node_its_user_may_be_held_elsewhere_without_a_word<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (dying, other) = (fixture.node("dying").await, fixture.node("other").await);
    let _wanted = other.hear(&channel("room")).await;
    change(&dying, places("room", &["alice"], &[]), SHORT).await;
    assert_eq!(hold(&other, "room", &["alice"]).await, (0, 0));
    fixture.advance(SHORT + Duration::from_millis(50)).await;
    assert_eq!(hold(&other, "room", &["alice"]).await, (0, 0));
    assert_eq!(told(&fixture, &other, "room").await, words(&[("joined", "alice")]));
    assert_eq!(let_go(&other, "room", &["alice"]).await, (0, 1), "the dead node's place does not keep her");
}

pub(crate) async fn a_repeat_of_any_change_changes_nothing<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let _wanted = node.hear(&channel("room")).await;
    for _ in 0..3 {
        hold(&node, "room", &["alice"]).await;
    }
    for _ in 0..3 {
        let_go(&node, "room", &["alice", "nobody"]).await;
    }
    assert_eq!(told(&fixture, &node, "room").await, words(&[("joined", "alice"), ("left", "alice")]));
    assert_eq!(members(&node, "room").await, [""; 0]);
}

pub(crate) async fn of_many_members_some_are_named_and_all_are_counted<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let names: Vec<String> = (0..1500).map(|n| format!("user-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(hold(&node, "room", &names).await, (1500, 0));
    let some = node.members(&topic("room"), 100).await.unwrap();
    assert_eq!((some.users.len(), some.count), (100, 1500));
    assert!(some.users.is_sorted());
    assert_eq!(some.users.iter().collect::<BTreeSet<_>>().len(), 100, "each once");
    assert_eq!(node.members(&topic("room"), 100).await.unwrap(), some, "the same ones while nothing changes");
    let all = node.members(&topic("room"), 2000).await.unwrap();
    assert_eq!((all.users.len(), all.count, all.users.is_sorted()), (1500, 1500, true));
    assert_eq!(node.members(&topic("nowhere"), 100).await.unwrap(), Members::default());
}

pub(crate) async fn a_great_many_expired_places_are_all_given_up<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (dying, other) = (fixture.node("dying").await, fixture.node("other").await);
    let names: Vec<String> = (0..1200).map(|n| format!("user-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let _wanted = other.hear(&channel("read")).await;
    for name in ["read", "looked after"] {
        change(&dying, places(name, &names, &[]), SHORT).await;
    }
    hold(&other, "looked after", &["here"]).await;
    fixture.advance(SHORT + Duration::from_millis(50)).await;
    assert_eq!(members(&other, "read").await, [""; 0]);
    let left = told(&fixture, &other, "read").await.iter().filter(|(word, _)| word == "left").count();
    assert_eq!(left, 1200);
    if !F::EXPIRES_AT_ONCE {
        assert_eq!(change(&other, places("looked after", &["here"], &[]), FAR).await, (0, 1200));
    }
    assert_eq!(members(&other, "looked after").await, ["here"]);
}

pub(crate) async fn places_of_any_names_are_told_apart<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let topics: Vec<String> = odd_names().into_iter().filter(|name| TopicName::parse(name).is_ok()).collect();
    assert!(topics.len() > 40);
    let node = fixture.node("a:b{c}%").await;
    let all: Vec<String> = odd_names();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let _wanted = node.hear(&channel(&topics[1])).await;
    let everywhere = topics.iter().map(|name| places(name, &all, &[])).collect();
    for told in node.hold_places(everywhere, FAR).await {
        assert_eq!(told.unwrap(), Told { joined: all.len() as u64, left: 0 });
    }
    let_go(&node, &topics[1], &all[1..]).await;
    assert_eq!(members(&node, &topics[1]).await, [all[0]]);
    let mut sorted = all.clone();
    sorted.sort_unstable();
    assert_eq!(members(&node, &topics[2]).await, sorted);
    let mut heard: Vec<_> = told(&fixture, &node, &topics[1]).await.into_iter().map(|(_, user)| user).collect();
    let mut expected: Vec<_> = all.iter().chain(&all[1..]).copied().collect();
    heard.sort_unstable();
    expected.sort_unstable();
    assert_eq!(heard, expected);
}

pub(crate) async fn changes_from_many_nodes_at_once_are_told_in_an_order_that_makes_sense<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let mut nodes = Vec::new();
    for name in ["one", "two", "three"] {
        nodes.push(Arc::new(fixture.node(name).await));
    }
    let listener = Arc::clone(&nodes[0]);
    let _wanted = listener.hear(&channel("room")).await;
    let barrier = Arc::new(Barrier::new(nodes.len()));
    let running: Vec<_> = nodes
        .iter()
        .enumerate()
        .map(|(at, node)| {
            let (node, barrier) = (Arc::clone(node), Arc::clone(&barrier));
            tokio::spawn(async move {
                barrier.wait().await;
                for turn in 0..30 {
                    if (turn + at) % 2 == 0 {
                        hold(&node, "room", &["alice"]).await;
                    } else {
                        let_go(&node, "room", &["alice"]).await;
                    }
                }
                // The last one here stays.
                if at == 2 { hold(&node, "room", &["alice"]).await } else { let_go(&node, "room", &["alice"]).await }
            })
        })
        .collect();
    for running in running {
        running.await.unwrap();
    }
    assert_eq!(members(&listener, "room").await, ["alice"]);
    let events = told(&fixture, &listener, "room").await;
    for (at, (word, _)) in events.iter().enumerate() {
        assert_eq!(word, if at % 2 == 0 { "joined" } else { "left" }, "at {at} of {events:?}");
    }
    assert_eq!(events.len() % 2, 1, "she is there at the end");
}

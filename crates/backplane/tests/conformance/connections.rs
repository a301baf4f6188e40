//! A user's connections in the whole cluster: listed, limited, and closed on whatever node they are.

use std::{sync::Arc, time::Duration};

use countersign_backplane::{
    Channel, Settings,
    connections::{Admission, ConnectionLimit, HeldConnection, HeldConnections, OneMore, UserConnection, to_be_closed},
};
use countersign_protocol::ConnectionId;
use tokio::sync::Barrier;

use crate::{
    fixture::{Fixture, Node, SHORT},
    words::{FAR, odd_names, user},
};

const NO_LIMIT: ConnectionLimit = ConnectionLimit { most: 0, one_more: OneMore::ReplaceOldest };

fn replacing(most: u64) -> ConnectionLimit {
    ConnectionLimit { most, one_more: OneMore::ReplaceOldest }
}

fn refusing(most: u64) -> ConnectionLimit {
    ConnectionLimit { most, one_more: OneMore::Refuse }
}

fn id(name: &str) -> ConnectionId {
    ConnectionId::parse(name).unwrap()
}

fn held(user_name: &str, connections: &[&str]) -> HeldConnections {
    let held = |name: &&str| HeldConnection { user: user(user_name), connection: id(name), age: Duration::ZERO };
    HeldConnections { hold: connections.iter().map(held).collect(), let_go: Vec::new() }
}

fn gone(user_name: &str, connections: &[&str]) -> HeldConnections {
    let let_go = connections.iter().map(|name| (user(user_name), id(name))).collect();
    HeldConnections { hold: Vec::new(), let_go }
}

/// Renews under a limit; which are to be closed.
async fn renew(node: &Node, held: HeldConnections, limit: ConnectionLimit) -> Vec<String> {
    let to_close = node.hold_connections(held, limit, FAR).await.unwrap();
    to_close.iter().map(ToString::to_string).collect()
}

async fn connect(node: &Node, user_name: &str, connection: &str, limit: ConnectionLimit) -> Admission {
    node.connect(&user(user_name), &id(connection), limit, FAR).await.unwrap()
}

async fn listed(node: &Node, user_name: &str) -> Vec<UserConnection> {
    let connections = node.connections(&user(user_name), 10_000).await.unwrap();
    assert_eq!(connections.connections.len() as u64, connections.count);
    connections.connections
}

async fn ids(node: &Node, user_name: &str) -> Vec<String> {
    listed(node, user_name).await.iter().map(|connection| connection.connection_id.to_string()).collect()
}

/// The orders that a node was given, sorted, once there are so many: those about users of different partitions may come in
/// another order than they were given.
async fn orders<F: Fixture>(fixture: &F, node: &Node, count: usize) -> Vec<String> {
    let channel = Channel::Node(node.id.clone());
    node.ear.until_heard(&channel, count).await;
    let heard = fixture.heard_so_far(node, &channel).await;
    let mut told: Vec<_> =
        heard.iter().filter_map(|heard| to_be_closed(&heard.payload)).map(|id| id.to_string()).collect();
    told.sort_unstable();
    told
}

pub(crate) async fn a_users_connections_are_listed_oldest_first<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (one, two) = (fixture.node("one").await, fixture.node("t:w{o}%").await);
    assert_eq!(connect(&one, "alice", "first", NO_LIMIT).await, Admission::Admitted { replaced: 0 });
    fixture.advance(Duration::from_millis(5)).await;
    renew(&two, held("alice", &["second"]), NO_LIMIT).await;
    let aged = HeldConnection { age: Duration::from_secs(60), ..held("alice", &["oldest"]).hold[0].clone() };
    renew(&two, HeldConnections { hold: vec![aged], ..HeldConnections::default() }, NO_LIMIT).await;
    renew(&two, held("bob", &["other"]), NO_LIMIT).await;
    let connections = listed(&one, "alice").await;
    let told: Vec<_> = connections.iter().map(|c| (c.connection_id.as_str(), c.node_id.as_str())).collect();
    assert_eq!(told, [("oldest", "t:w{o}%"), ("first", "one"), ("second", "t:w{o}%")]);
    assert!((connections[1].connected_at - connections[0].connected_at - 60.0).abs() < 5.0, "{connections:?}");
    // A renewal leaves the time of coming as it is.
    fixture.advance(Duration::from_millis(5)).await;
    renew(&one, held("alice", &["first"]), NO_LIMIT).await;
    assert_eq!(listed(&two, "alice").await, connections);
    let some = one.connections(&user("alice"), 2).await.unwrap();
    assert_eq!((some.connections.as_slice(), some.count), (&connections[..2], 3));
    renew(&two, gone("alice", &["oldest", "second", "never there"]), NO_LIMIT).await;
    assert_eq!(ids(&one, "alice").await, ["first"]);
    renew(&one, gone("alice", &["first"]), NO_LIMIT).await;
    assert_eq!(ids(&one, "alice").await, [""; 0]);
}

pub(crate) async fn one_more_takes_the_place_of_the_oldest_whose_node_is_told<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (one, two) = (fixture.node("o:n%e").await, fixture.node("two").await);
    let _orders = one.hear(&Channel::Node(one.id.clone())).await;
    for name in ["a", "b"] {
        connect(&one, "alice", name, replacing(2)).await;
        fixture.advance(Duration::from_millis(5)).await;
    }
    assert_eq!(connect(&two, "alice", "c", replacing(2)).await, Admission::Admitted { replaced: 1 });
    assert_eq!(ids(&two, "alice").await, ["b", "c"]);
    assert_eq!(orders(&fixture, &one, 1).await, ["a"]);
    // A repeat is the same connection, and a smaller limit closes as many as it has to.
    assert_eq!(connect(&two, "alice", "c", replacing(2)).await, Admission::Admitted { replaced: 0 });
    fixture.advance(Duration::from_millis(5)).await;
    assert_eq!(connect(&two, "alice", "d", replacing(1)).await, Admission::Admitted { replaced: 2 });
    assert_eq!(ids(&two, "alice").await, ["d"]);
    assert_eq!(connect(&one, "bob", "e", replacing(1)).await, Admission::Admitted { replaced: 0 });
}

pub(crate) async fn one_more_is_refused<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (one, two) = (fixture.node("one").await, fixture.node("two").await);
    for name in ["a", "b"] {
        assert_eq!(connect(&one, "alice", name, refusing(2)).await, Admission::Admitted { replaced: 0 });
    }
    assert_eq!(connect(&two, "alice", "c", refusing(2)).await, Admission::Refused);
    assert_eq!(connect(&one, "alice", "b", refusing(2)).await, Admission::Admitted { replaced: 0 }, "a repeat");
    assert_eq!(connect(&two, "bob", "c", refusing(2)).await, Admission::Admitted { replaced: 0 });
    renew(&one, gone("alice", &["a"]), refusing(2)).await;
    assert_eq!(connect(&two, "alice", "c", refusing(2)).await, Admission::Admitted { replaced: 0 });
    assert_eq!(listed(&one, "alice").await.len(), 2);
}

pub(crate) async fn of_many_that_come_at_once_no_more_than_the_limit_stay<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let nodes = [Arc::new(fixture.node("one").await), Arc::new(fixture.node("two").await)];
    for (name, limit, admitted) in [("refused", refusing(3), 3), ("replaced", replacing(3), 20)] {
        let barrier = Arc::new(Barrier::new(20));
        let coming: Vec<_> = (0..20)
            .map(|n| {
                let (node, barrier) = (Arc::clone(&nodes[n % 2]), Arc::clone(&barrier));
                tokio::spawn(async move {
                    barrier.wait().await;
                    connect(&node, name, &format!("c{n}"), limit).await
                })
            })
            .collect();
        let (mut came, mut went) = (0, 0);
        for coming in coming {
            if let Admission::Admitted { replaced } = coming.await.unwrap() {
                came += 1;
                went += replaced;
            }
        }
        assert_eq!((came, came - went), (admitted, 3), "{name}");
        assert_eq!(listed(&nodes[0], name).await.len(), 3, "{name}");
    }
}

pub(crate) async fn what_a_dead_node_held_makes_room_when_its_lease_ends<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (dying, other) = (fixture.node("dying").await, fixture.node("other").await);
    dying.connect(&user("alice"), &id("a"), refusing(2), SHORT).await.unwrap();
    connect(&other, "alice", "b", refusing(2)).await;
    assert_eq!(connect(&other, "alice", "c", refusing(2)).await, Admission::Refused);
    fixture.advance(SHORT + Duration::from_millis(50)).await;
    assert_eq!(ids(&other, "alice").await, ["b"]);
    assert_eq!(connect(&other, "alice", "c", refusing(2)).await, Admission::Admitted { replaced: 0 });
    // The node was not dead after all.
    assert_eq!(renew(&dying, held("alice", &["a"]), refusing(2)).await, ["a"]);
    assert_eq!(listed(&other, "alice").await.len(), 2);
}

pub(crate) async fn an_order_that_nobody_heard_is_told_again_at_the_renewal<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (deaf, other) = (fixture.node("deaf").await, fixture.node("other").await);
    connect(&deaf, "alice", "a", replacing(1)).await;
    connect(&other, "alice", "b", replacing(1)).await;
    renew(&other, gone("alice", &["b"]), replacing(1)).await;
    // Though there is room again.
    assert_eq!(renew(&deaf, held("alice", &["a"]), replacing(1)).await, ["a"]);
    assert_eq!(ids(&other, "alice").await, [""; 0]);
    renew(&deaf, gone("alice", &["a"]), replacing(1)).await;
    // Once it is gone the order is, too: nothing stands in the way of the name.
    assert_eq!(renew(&deaf, held("alice", &["a"]), replacing(1)).await, [""; 0]);
}

pub(crate) async fn what_was_forgotten_comes_back_with_the_renewal_as_far_as_the_limit_admits<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    // Nothing was ever registered, as after a loss of everything.
    assert_eq!(renew(&node, held("alice", &["a", "b", "c"]), refusing(2)).await, ["c"]);
    assert_eq!(ids(&node, "alice").await, ["a", "b"]);
    assert_eq!(renew(&node, held("bob", &["a", "b", "c"]), NO_LIMIT).await, [""; 0]);
    assert_eq!(listed(&node, "bob").await.len(), 3);
}

pub(crate) async fn a_user_is_disconnected_on_every_node_and_may_come_back<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (one, two) = (fixture.node("one").await, fixture.node("two").await);
    let _orders = (one.hear(&Channel::Node(one.id.clone())).await, two.hear(&Channel::Node(two.id.clone())).await);
    renew(&one, held("alice", &["a", "b"]), NO_LIMIT).await;
    renew(&two, held("alice", &["c"]), NO_LIMIT).await;
    renew(&two, held("bob", &["d"]), NO_LIMIT).await;
    assert_eq!(one.disconnect(&user("alice"), None, FAR).await.unwrap(), 3);
    assert_eq!(ids(&two, "alice").await, [""; 0]);
    assert_eq!(ids(&two, "bob").await, ["d"]);
    assert_eq!(orders(&fixture, &one, 2).await, ["a", "b"]);
    assert_eq!(orders(&fixture, &two, 1).await, ["c"]);
    assert_eq!(renew(&one, held("alice", &["b"]), NO_LIMIT).await, ["b"], "the order stands");
    assert_eq!(connect(&one, "alice", "again", NO_LIMIT).await, Admission::Admitted { replaced: 0 });
    assert_eq!(ids(&two, "alice").await, ["again"]);
    assert_eq!(one.disconnect(&user("nobody"), None, FAR).await.unwrap(), 0);
}

pub(crate) async fn one_connection_of_a_user_is_closed_and_no_other<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (one, two) = (fixture.node("one").await, fixture.node("t:w{o}%").await);
    let _orders = (one.hear(&Channel::Node(one.id.clone())).await, two.hear(&Channel::Node(two.id.clone())).await);
    renew(&one, held("alice", &["a", "b:1"]), NO_LIMIT).await;
    renew(&two, held("alice", &["c"]), NO_LIMIT).await;
    renew(&two, held("bob", &["d"]), NO_LIMIT).await;
    for (whose, which, closed) in [("alice", "b:1", 1), ("alice", "b:1", 0), ("alice", "1", 0), ("alice", "d", 0)] {
        let answer = one.disconnect(&user(whose), Some(&id(which)), FAR).await.unwrap();
        assert_eq!(answer, closed, "{whose} {which}");
    }
    assert_eq!(one.disconnect(&user("alice"), Some(&id("c")), FAR).await.unwrap(), 1);
    assert_eq!((ids(&two, "alice").await, ids(&two, "bob").await), (vec!["a".to_owned()], vec!["d".to_owned()]));
    assert_eq!(orders(&fixture, &one, 1).await, ["b:1"]);
    assert_eq!(orders(&fixture, &two, 1).await, ["c"]);
    assert_eq!(renew(&one, held("alice", &["a", "b:1"]), NO_LIMIT).await, ["b:1"], "the order stands");
}

pub(crate) async fn a_great_many_connections_are_all_closed<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let names: Vec<String> = (0..1200).map(|n| format!("c{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    renew(&node, held("alice", &names), NO_LIMIT).await;
    assert_eq!(listed(&node, "alice").await.len(), 1200);
    assert_eq!(node.disconnect(&user("alice"), None, FAR).await.unwrap(), 1200);
    node.hold_connections(held("alice", &names[..0]), NO_LIMIT, FAR).await.unwrap();
    node.hold_connections(held("bob", &names), NO_LIMIT, SHORT).await.unwrap();
    fixture.advance(SHORT + Duration::from_millis(50)).await;
    assert_eq!(listed(&node, "bob").await.len() + listed(&node, "alice").await.len(), 0);
}

pub(crate) async fn connections_of_any_names_are_told_apart<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("a:b{c}%\"").await;
    let _orders = node.hear(&Channel::Node(node.id.clone())).await;
    for name in odd_names() {
        renew(&node, held(&name, &[&name]), NO_LIMIT).await;
    }
    for name in odd_names() {
        let connections = listed(&node, &name).await;
        assert_eq!(connections.len(), 1, "{name}");
        assert_eq!((connections[0].connection_id.as_str(), &connections[0].node_id), (name.as_str(), &node.id));
    }
    for name in odd_names() {
        assert_eq!(node.disconnect(&user(&name), None, FAR).await.unwrap(), 1, "{name}");
    }
    let mut names = odd_names();
    names.sort_unstable();
    assert_eq!(orders(&fixture, &node, names.len()).await, names);
}

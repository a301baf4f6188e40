//! A Redis that lost acknowledged writes, or may have: what the conformance suite asks of every store (`losing.rs` there), here
//! for the cases that only Redis has, and the proof that the suite can fail: a user who may not ask for `INFO` cannot know
//! runs, so the rule of before is in force, and the same loss is a silent hole.

use std::time::Duration;

use bytes::Bytes;
use countersign_backplane::{HistoryPolicy, Messages, Publication, Settings};
use countersign_protocol::{Address, Payload, Position};

use crate::{
    node::{Node, eventually},
    server::Server,
};

async fn publish(node: &Node, n: u64) -> Position {
    let message = Payload::parse(Bytes::from(format!("{{\"n\":{n}}}"))).unwrap();
    let history = HistoryPolicy { size: 10, ttl: Duration::from_secs(60) };
    let publication = Publication { address: Address::Broadcast, message, history, key: None };
    eventually("a publication", || async { node.publish(publication.clone()).await.ok()?.position }).await
}

/// Five messages are given positions, two of them are lost with a kill, and four more follow. What a client that heard the first
/// five is told, and the epochs before and after.
async fn told_after_a_loss(server: &Server, url: &str) -> (bool, String, String) {
    let node = Node::up(url, Settings::default()).await;
    for n in 1..=3 {
        publish(&node, n).await;
    }
    server.process.save();
    publish(&node, 4).await;
    let since = publish(&node, 5).await;
    server.process.start_again();
    let mut newest = Position::beginning();
    for n in 6..=9 {
        newest = publish(&node, n).await;
    }
    let told = node.history(&Address::Broadcast, &since, 100).await.unwrap();
    (told.complete, since.epoch, newest.epoch)
}

const WITHOUT_INFO: [&str; 8] = ["--user", "curious", "on", "nopass", "~*", "&*", "+@all", "-info"];

#[tokio::test]
async fn a_redis_that_lost_its_newest_messages_is_found_out() {
    let server = Server::with(&WITHOUT_INFO);
    let (complete, before, after) = told_after_a_loss(&server, &server.url()).await;
    assert!(!complete && before != after);
    let blind = server.url().replace("redis://", "redis://curious:x@");
    let (complete, before, after) = told_after_a_loss(&server, &blind).await;
    assert!(complete, "the proof that this can fail: who cannot know runs says that nothing is missing");
    assert_eq!(before, after);
}

#[tokio::test]
async fn connections_of_different_age_agree_on_the_numbering() {
    let (server, other) = (Server::start(), Server::start());
    let mut client = server.client().await;
    let node = Node::up(&server.url(), Settings::default()).await;
    let first = publish(&node, 1).await;
    // The first replica gives the master another replication id under its connections, which may not notice at once.
    let _: () = other.client().await.ask(&format!("REPLICAOF 127.0.0.1 {}", server.process.port())).await;
    eventually("a replica that follows", || {
        let mut client = client.clone();
        async move { client.ask::<String>("INFO replication").await.contains("connected_slaves:1").then_some(()) }
    })
    .await;
    let young = Node::up(&server.url(), Settings::default()).await;
    let mut epochs = Vec::new();
    for n in 0..40 {
        epochs.push(publish(if n % 2 == 0 { &node } else { &young }, n).await.epoch);
    }
    epochs.dedup();
    let after_the_first = epochs.iter().filter(|epoch| **epoch != first.epoch).count();
    assert_eq!(after_the_first, 1, "one new numbering, and no quarrel: {epochs:?}");
    let _: u64 = client.ask("DBSIZE").await;
}

#[tokio::test]
async fn a_promoted_replica_begins_its_own_numbering() {
    let (server, other) = (Server::start(), Server::start());
    let mut replica = other.client().await;
    let _: () = replica.ask(&format!("REPLICAOF 127.0.0.1 {}", server.process.port())).await;
    eventually("a replica that follows", || {
        let mut replica = replica.clone();
        async move { replica.ask::<String>("INFO replication").await.contains("master_link_status:up").then_some(()) }
    })
    .await;
    let old = Node::up(&server.url(), Settings::default()).await;
    let since = publish(&old, 1).await;
    eventually("the copy", || {
        let mut replica = replica.clone();
        async move { (replica.ask::<u64>("EXISTS cs:{broadcast}:meta").await == 1).then_some(()) }
    })
    .await;
    server.process.kill();
    let _: () = replica.ask("REPLICAOF NO ONE").await;
    let new = Node::up(&other.url(), Settings::default()).await;
    let told = new.history(&Address::Broadcast, &since, 10).await.unwrap();
    assert!(!told.complete, "a replica may have been behind: {told:?}");
    assert_ne!(publish(&new, 2).await.epoch, since.epoch);
}

#[tokio::test]
async fn a_full_redis_that_came_back_is_read_as_it_is() {
    let server = Server::start();
    let node = Node::up(&server.url(), Settings::default()).await;
    publish(&node, 1).await;
    let newest = publish(&node, 2).await;
    server.process.save();
    server.process.start_again();
    let mut client = server.client().await;
    let _: () = client.ask("CONFIG SET maxmemory 1").await;
    let since = Position::new(newest.epoch.clone(), 1);
    let read = || async { node.history(&Address::Broadcast, &since, 10).await.ok() };
    let told = eventually("a read", read).await;
    assert_eq!((told.messages.len(), told.complete), (1, false), "{told:?}");
    let positions = node.positions(&[Address::Broadcast]).await.unwrap();
    assert_eq!(positions, [newest]);
    let _: () = client.ask("CONFIG SET maxmemory 0").await;
    assert!(!node.history(&Address::Broadcast, &since, 10).await.unwrap().complete);
}

//! Masters, replicas, and users with few rights.

use std::time::Duration;

use bytes::Bytes;
use countersign_backplane::{
    BackplaneError, Callbacks, Channel, Cluster, HistoryPolicy, Messages, Publication, Settings,
    callbacks::{Answerer, Canceller, Confirm, Confirmed},
    redis::RedisOptions,
};
use countersign_protocol::{Address, Answer, NodeId, Payload, Position, ids::IdempotencyKey};
use tokio::time::Instant;

use crate::{
    node::{Node, eventually, keyed, question, task, user},
    server::{Client, Server},
};

/// Makes `replica` one of `master`, and waits until it follows.
async fn follow(master: &Server, replica: &mut Client) {
    let _: () = replica.ask(&format!("REPLICAOF 127.0.0.1 {}", master.process.port())).await;
    eventually("a replica that follows", || {
        let mut replica = replica.clone();
        async move { replica.ask::<String>("INFO replication").await.contains("master_link_status:up").then_some(()) }
    })
    .await;
}

/// Commands that failed so far.
fn failures(node: &Node) -> usize {
    node.ear.memory().failures().count()
}

#[tokio::test]
async fn a_decision_that_is_told_is_on_a_replica() {
    let (master, replica) = (Server::start(), Server::start());
    let mut follower = replica.client().await;
    follow(&master, &mut follower).await;
    let options = RedisOptions { wait_replicas: 1, ..RedisOptions::new(&master.url(), NodeId::parse("n1").unwrap()) };
    let node = Node::with(options, Settings::default());
    node.until_link(true).await;
    for n in 0..50 {
        let asked = question("alice", "t");
        node.open(asked.clone()).await.unwrap();
        let key = format!("cs:{{p{}}}:cb:{}", asked.id.partition(), asked.id);
        assert!(follower.ask::<bool>(&format!("EXISTS {key}")).await, "question {n} was told before it was copied");
    }
    // A replica that does not answer is waited for,
    replica.pause();
    let began = Instant::now();
    node.open(question("alice", "t")).await.unwrap();
    assert!(began.elapsed() > Duration::from_millis(400), "the call did not wait for the replica");
    replica.go_on();
    // and without one it is said, and goes on: the decision stands.
    replica.process.kill();
    let asked = question("alice", "t");
    let began = Instant::now();
    assert!(node.open(asked).await.unwrap().new);
    assert!(began.elapsed() < Duration::from_secs(3), "the wait has an end");
}

#[tokio::test]
async fn a_master_that_becomes_a_replica_refuses_and_a_call_outlasts_a_short_time_of_it() {
    let (server, other) = (Server::start(), Server::start());
    let node = Node::up(&server.url(), Settings::default()).await;
    let mut client = server.client().await;
    follow(&other, &mut client).await;
    let refused = node.open(question("alice", "t")).await;
    assert!(
        matches!(&refused, Err(BackplaneError::Unavailable(why)) if why.contains("read only replica")),
        "{refused:?}"
    );
    let asked = question("alice", "t");
    let failed = failures(&node);
    let promote = async {
        eventually("a try that was refused", || async { (failures(&node) > failed).then_some(()) }).await;
        client.ask::<()>("REPLICAOF NO ONE").await;
    };
    let (opened, ()) = tokio::join!(node.open(asked), promote);
    assert!(opened.unwrap().new);
}

#[tokio::test]
async fn a_call_outlasts_a_short_absence_of_redis() {
    let server = Server::start();
    let node = Node::up(&server.url(), Settings::default()).await;
    server.process.kill();
    let failed = failures(&node);
    let back = async {
        eventually("a try that failed", || async { (failures(&node) > failed).then_some(()) }).await;
        server.process.start_again();
    };
    let (opened, ()) = tokio::join!(node.open(question("alice", "t")), back);
    assert!(opened.unwrap().new);
}

#[tokio::test]
async fn a_user_with_no_more_rights_than_the_backplane_needs_is_enough() {
    let server = Server::start();
    let mut client = server.client().await;
    let rights = crate::support::shipped_rights();
    let _: () = client.ask(&format!("ACL SETUSER gateway on >secret {rights}")).await;
    let url = server.url().replace("redis://", "redis://gateway:secret@");
    let options = RedisOptions { wait_replicas: 1, ..RedisOptions::new(&url, NodeId::parse("n1").unwrap()) };
    let node = Node::with(options, Settings { guests: true, callback_user_limit: 2, ..Settings::default() });
    node.until_link(true).await;
    drop(node.hear(Channel::Broadcast).await);
    let (alice, t) = (user("alice"), task("t"));
    let asked = keyed(question("alice", "t"), "k", "d");
    node.open(asked.clone()).await.unwrap();
    let mut short = question("alice", "t");
    short.timeout = Duration::ZERO;
    node.open(short).await.unwrap();
    node.open(question("alice", "other")).await.unwrap();
    let answer = Answer { proceed: Some(true), ..Answer::default() };
    let confirm = Confirm {
        id: asked.id,
        by: Answerer::User(alice.clone()),
        answer,
        proceed: true,
        judged: false,
        must_be_judged: false,
        connection: None,
    };
    assert!(matches!(node.confirm(confirm).await.unwrap(), Confirmed::Accepted(_)));
    node.read(asked.id).await.unwrap();
    node.withdraw(asked.id).await.unwrap();
    node.cancel_task(&alice, &t, &Canceller::Producer).await.unwrap();
    node.cancel_tasks_named(&t, &Canceller::Producer).await.unwrap();
    node.task(&alice, &t).await.unwrap();
    assert!(node.lift(None, &t).await.unwrap() && node.lift(Some(&alice), &t).await.unwrap());
    let mut short = question("alice", "t");
    short.timeout = Duration::from_millis(1);
    node.open(short.clone()).await.unwrap();
    eventually("the end of what is due", || async {
        node.sweep().await.unwrap();
        node.read(short.id).await.unwrap().unwrap().decision
    })
    .await;
    node.open_callbacks(&alice).await.unwrap();
    node.all_open_callbacks(None, 10).await.unwrap();
    let kept = Publication {
        address: Address::Broadcast,
        message: Payload::parse(Bytes::from_static(b"{}")).unwrap(),
        history: HistoryPolicy { size: 3, ttl: Duration::from_secs(60) },
        key: Some(IdempotencyKey::parse("k").unwrap()),
    };
    let bare = Publication { history: HistoryPolicy::NONE, key: None, ..kept.clone() };
    for result in node.publish_all(vec![kept.clone(), kept, bare]).await {
        result.unwrap();
    }
    node.positions(&[Address::Broadcast]).await.unwrap();
    node.history(&Address::Broadcast, &Position::beginning(), 10).await.unwrap();
    let id = NodeId::parse("n1").unwrap();
    node.announce(&id, "{}".to_owned(), Duration::from_secs(30)).await.unwrap();
    assert_eq!(node.nodes().await.unwrap().len(), 1);
    node.withdraw_announcement(&id).await.unwrap();
    // Nothing was refused on the way that a retry or a fallback has hidden.
    let log: Vec<redis::Value> = client.ask("ACL LOG").await;
    assert_eq!(log, []);
}

#[tokio::test]
async fn wrong_credentials_are_a_reason_and_tls_without_tls_is_no_panic() {
    let server = Server::start();
    let _: () = server.client().await.ask("ACL SETUSER gateway on >secret ~* &* +@all").await;
    for (scheme, reason) in [("redis://gateway:wrong@", "WRONGPASS"), ("rediss://gateway:secret@", "")] {
        let node = Node::start(&server.url().replace("redis://", scheme), Settings::default());
        let mut link = node.link();
        let told = link.wait_for(|link| {
            matches!(link, countersign_backplane::Link::Down(why) if !why.contains("yet") && why.contains(reason))
        });
        let told =
            tokio::time::timeout(crate::node::PATIENCE, told).await.expect("the reason is told").unwrap().clone();
        let text = format!("{told:?}");
        assert!(!text.contains("secret") && !text.contains("wrong"), "{text}");
    }
}

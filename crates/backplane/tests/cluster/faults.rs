//! Servers that die and slots that move.

use std::time::Duration;

use bytes::Bytes;
use countersign_backplane::{
    BackplaneError, Callbacks, Cluster, HistoryPolicy, Messages, Publication, Settings, callbacks::OpenCallback,
};
use countersign_protocol::{Address, Payload, TopicName};
use tokio::time::Instant;

use crate::{
    node::{Node, eventually, question, topic},
    support::{RedisCluster, RedisServer},
};

fn message(name: &str, n: usize, size: usize) -> Publication {
    Publication {
        address: Address::Topic(TopicName::parse(name).unwrap()),
        message: Payload::parse(Bytes::from(format!(r#"{{"n":{n}}}"#))).unwrap(),
        history: HistoryPolicy { size, ttl: Duration::from_secs(300) },
        key: None,
    }
}

/// Which of the servers has subscribers to a channel.
fn subscribed(cluster: &RedisCluster, channel: &str) -> Option<usize> {
    let listens = |server: &RedisServer| server.words(&format!("PUBSUB NUMSUB {channel}")).contains(":1\r\n");
    cluster.servers().iter().position(listens)
}

/// A user whose partition is at that master.
fn user_of(cluster: &RedisCluster, master: &RedisServer, asked: usize) -> OpenCallback {
    (0..1000)
        .map(|n| question(&format!("user{n}"), "t"))
        .find(|asked_of| {
            let key = format!("cs:{{p{}}}:deadlines", asked_of.id.partition());
            cluster.owner(asked, &key).port() == master.port()
        })
        .unwrap()
}

fn again(like: &OpenCallback) -> OpenCallback {
    question(like.user.as_str(), "t")
}

#[tokio::test]
async fn a_subscriber_whose_server_is_killed_moves_to_another_and_resumes() {
    let cluster = RedisCluster::start();
    let node = Node::up(&cluster.url(), Settings::default()).await;
    let _wanted = node.hear(topic("a")).await;
    let before = subscribed(&cluster, "cs:topic:a").expect("somebody has the subscription");
    cluster.servers()[before].kill();
    node.ear.until("the interruption", |memory| memory.interrupted == 1).await;
    node.ear.until("the resumption", |memory| memory.resumed == 1).await;
    node.until_link(true).await;
    let after = subscribed(&cluster, "cs:topic:a").expect("somebody has the subscription again");
    assert_ne!(before, after);
    // Whichever master has the slot of the address: a publication takes another way when that is closed.
    for n in 0..10 {
        let published =
            eventually("a publication", || async { node.publish(message(&format!("t{n}"), n, 0)).await.ok() });
        assert_eq!(published.await.nodes, None);
    }
    eventually("a publication", || async { node.publish(message("a", 1, 0)).await.ok() }).await;
    node.ear.until("the message", |memory| memory.on(&topic("a")) == [r#"{"n":1}"#]).await;
    assert_eq!(node.ear.memory().interrupted, 1);
}

#[tokio::test]
async fn a_subscriber_whose_server_stands_still_is_found_by_its_probe() {
    let cluster = RedisCluster::start();
    let node = Node::up(&cluster.url(), Settings::default()).await;
    let _wanted = node.hear(topic("a")).await;
    let before = subscribed(&cluster, "cs:topic:a").expect("somebody has the subscription");
    let pid = cluster.servers()[before].pid().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
    node.ear.until("the interruption", |memory| memory.interrupted == 1).await;
    node.ear.until("the resumption", |memory| memory.resumed == 1).await;
    node.until_link(true).await;
    // Not asked again: what stands still does not answer.
    let others = cluster.servers().iter().enumerate().filter(|(n, _)| *n != before);
    let listening = others.filter(|(_, server)| server.words("PUBSUB NUMSUB cs:topic:a").contains(":1\r\n"));
    assert_eq!(listening.count(), 1);
}

#[tokio::test]
async fn a_master_that_is_gone_takes_only_its_own_users_with_it() {
    let cluster = RedisCluster::start();
    let node = Node::up(&cluster.url(), Settings::default()).await;
    let [lost, first, second] = [0, 1, 2].map(|n| user_of(&cluster, &cluster.masters()[n], 0));
    for asked in [&lost, &first, &second] {
        node.open(asked.clone()).await.unwrap();
    }
    let short = OpenCallback { timeout: Duration::from_millis(50), ..again(&first) };
    node.open(short.clone()).await.unwrap();
    cluster.masters()[0].kill();
    let began = Instant::now();
    let refused = node.open(again(&lost)).await;
    assert!(matches!(refused, Err(BackplaneError::Unavailable(_))), "{refused:?}");
    assert!(began.elapsed() < Duration::from_secs(4), "a call's patience has an end: {:?}", began.elapsed());
    // Everybody else is served while somebody still waits for the one that is gone.
    let others = async {
        for asked in [&first, &second] {
            assert!(node.open(again(asked)).await.unwrap().new);
            assert!(node.read(asked.id).await.unwrap().is_some());
        }
    };
    let waiting = node.open(again(&lost));
    tokio::select! {
        () = others => {}
        refused = waiting => panic!("the others were not served before a call to the lost master ended: {refused:?}"),
    }
    // The sweep says that it did not see everything, after it did what it could.
    let swept = node.sweep().await;
    assert!(matches!(swept, Err(BackplaneError::Unavailable(_))), "{swept:?}");
    let due = format!("cs:{{p{}}}:deadlines", short.id.partition());
    let index = cluster.masters()[1].words(&format!("ZRANGE {due} 0 -1"));
    assert!(!index.contains(&short.id.to_string()), "the sweep has timed it out: {index}");
    // Of many messages those of the others come through, each once, with its own result.
    let names: Vec<_> = (0..30).map(|n| format!("t{n}")).collect();
    let results = node.publish_all(names.iter().enumerate().map(|(n, name)| message(name, n, 10)).collect()).await;
    let failed = results.iter().filter(|result| matches!(result, Err(BackplaneError::Unavailable(_)))).count();
    let done = results.iter().filter(|result| result.as_ref().is_ok_and(|done| done.position.is_some())).count();
    assert!(failed > 3 && done > 10 && failed + done == 30, "{failed} failed, {done} were published");
    node.until_link(true).await;
}

#[tokio::test]
async fn a_replica_takes_over_and_the_calls_go_on() {
    let cluster = RedisCluster::with_replicas();
    let node = Node::up(&cluster.url(), Settings::default()).await;
    let asked = user_of(&cluster, &cluster.masters()[0], 0);
    let other = user_of(&cluster, &cluster.masters()[1], 0);
    node.open(asked.clone()).await.unwrap();
    node.open(other.clone()).await.unwrap();
    let replica = &cluster.servers()[3];
    eventually("the copy", || async { replica.words("KEYS *").contains(&asked.id.to_string()).then_some(()) }).await;
    // What the replica does not know has to be loaded there again.
    replica.words("SCRIPT FLUSH");
    cluster.masters()[0].kill();
    let next = again(&asked);
    let opened = eventually("the failover", || async { node.open(next.clone()).await.ok() }).await;
    assert!(opened.callback.id == next.id);
    assert!(node.read(asked.id).await.unwrap().is_some(), "the replica has what the master had");
    assert_eq!(node.open_callbacks(&asked.user).await.unwrap().len(), 2);
    assert_eq!(eventually("a whole sweep", || async { node.sweep().await.ok() }).await.open, 3);
    node.until_link(true).await;
}

#[tokio::test]
async fn a_slot_that_moves_is_followed_all_the_way() {
    let cluster = RedisCluster::start();
    let node = Node::up(&cluster.url(), Settings::default()).await;
    let [from, to] = [0, 1].map(|n| &cluster.masters()[n]);
    let asked = user_of(&cluster, from, 0);
    node.open(asked.clone()).await.unwrap();
    let key = format!("cs:{{p{}}}:deadlines", asked.id.partition());
    let slot = from.slot(&key);

    from.begin_to_give(slot, to);
    assert!(node.read(asked.id).await.unwrap().is_some(), "it is still here");
    from.give_keys(slot, to);
    // Every key of it is there now, but the slot is not: ASK.
    assert!(from.words(&format!("EXISTS {key}")).starts_with("-ASK"));
    assert!(node.read(asked.id).await.unwrap().is_some(), "it is asked for at the other");
    to.words("SCRIPT FLUSH");
    assert!(node.read(asked.id).await.unwrap().is_some(), "which may not know the script");
    assert_eq!(node.sweep().await.unwrap().open, 1);
    cluster.end_move(slot, to);
    // From here on MOVED, and then the map.
    assert!(node.open(again(&asked)).await.unwrap().new);
    assert_eq!(node.sweep().await.unwrap().open, 2);
    assert_eq!(node.open_callbacks(&asked.user).await.unwrap().len(), 2);
    let cancelled = node.cancel_task(&asked.user, &asked.task, &countersign_backplane::callbacks::Canceller::Producer);
    assert_eq!(cancelled.await.unwrap().callbacks_closed, 2);
}

#[tokio::test]
async fn when_one_of_many_messages_is_redirected_none_comes_twice() {
    let cluster = RedisCluster::start();
    let node = Node::up(&cluster.url(), Settings::default()).await;
    let names: Vec<_> = (0..30).map(|n| format!("t{n}")).collect();
    let mut wanted = Vec::new();
    for name in &names {
        wanted.push(node.hear(topic(name)).await);
    }
    let key = "cs:{topic%3At7}:meta";
    let slot = cluster.masters()[0].slot(key);
    let (mut offsets, mut epochs) = (std::collections::HashMap::new(), std::collections::HashSet::new());
    for round in 1..=4usize {
        let results = node.publish_all(names.iter().map(|name| message(name, round, 10)).collect()).await;
        let positions: Vec<_> = results.into_iter().map(|result| result.unwrap().position.unwrap()).collect();
        for (name, position) in names.iter().zip(positions) {
            // Another master is another run, which cannot know what the one before had lost.
            let first = name == "t7" && epochs.insert(position.epoch.clone());
            assert_eq!(position.offset, if first { 1 } else { offsets.get(name).unwrap_or(&0) + 1 }, "{name} {round}");
            offsets.insert(name.clone(), position.offset);
        }
        // What comes from two masters at one time is in no order; positions say which it was.
        node.ear.until("every message", |memory| memory.heard.len() >= names.len() * round).await;
        // From one master to the next, while the node believes in the one before.
        let from = cluster.owner(0, key);
        let to = cluster.masters().iter().find(|server| server.port() != from.port()).unwrap();
        match round {
            // Asked for where it goes, when it is not there any more.
            1 => {
                from.begin_to_give(slot, to);
                from.give_keys(slot, to);
            }
            2 => cluster.end_move(slot, cluster.masters().iter().find(|server| server.slots_imported() > 0).unwrap()),
            _ => {
                from.begin_to_give(slot, to);
                from.give_keys(slot, to);
                cluster.end_move(slot, to);
            }
        }
    }
    let memory = node.ear.memory();
    assert_eq!(memory.heard.len(), names.len() * 4);
    for name in &names {
        assert_eq!(memory.on(&topic(name)), (1..=4).map(|n| format!(r#"{{"n":{n}}}"#)).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn scripts_that_one_master_has_forgotten_are_loaded_there_again() {
    let cluster = RedisCluster::start();
    let node = Node::up(&cluster.url(), Settings::default()).await;
    let users = [0, 1, 2].map(|n| user_of(&cluster, &cluster.masters()[n], 0));
    for server in cluster.masters() {
        server.words("SCRIPT FLUSH");
        for user in &users {
            assert!(node.open(again(user)).await.unwrap().new);
        }
        server.words("SCRIPT FLUSH");
        let results = node.publish_all((0..30).map(|n| message(&format!("t{n}"), n, 5)).collect()).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }
}

#[tokio::test]
async fn a_node_may_be_there_before_its_cluster() {
    let cluster = RedisCluster::start();
    cluster.kill();
    let node = Node::start(&cluster.url(), Settings::default());
    let refused = node.publish(message("a", 1, 0)).await;
    assert!(matches!(refused, Err(BackplaneError::Unavailable(_))), "{refused:?}");
    assert!(!node.link().borrow().is_up());
    cluster.start_again();
    node.until_link(true).await;
    let asked = question("alice", "t");
    assert!(node.open(asked).await.unwrap().new);
}

//! What lies where, and how many round trips it takes.

use std::time::Duration;

use bytes::Bytes;
use countersign_backplane::{
    Callbacks, Channel, Doors, HistoryPolicy, Messages, Observation, Publication, Settings,
    callbacks::{Canceller, OpenCallback},
    inbox::{Letter, Progress},
    redis::RedisOptions,
};
use countersign_protocol::{Address, NodeId, Payload, TopicName, ids::ReplyName};

use crate::{
    node::{Node, PATIENCE, eventually, question, task, topic},
    support::RedisCluster,
};

fn keys(cluster: &RedisCluster) -> Vec<usize> {
    let size = |reply: String| reply.trim_start_matches(':').split("\r\n").next().unwrap().parse().unwrap();
    cluster.masters().iter().map(|master| size(master.words("DBSIZE"))).collect()
}

fn round_trips(node: &Node) -> usize {
    let observations = node.ear.memory().observations;
    observations.iter().filter(|observation| matches!(observation, Observation::RoundTrip(_))).count()
}

fn kept(name: &str, n: usize) -> Publication {
    Publication {
        address: Address::Topic(TopicName::parse(name).unwrap()),
        message: Payload::parse(Bytes::from(format!(r#"{{"n":{n}}}"#))).unwrap(),
        history: HistoryPolicy { size: 100, ttl: Duration::from_secs(300) },
        key: None,
    }
}

#[tokio::test]
async fn scripts_run_on_all_three_masters_and_one_seed_is_enough_to_find_them() {
    let cluster = RedisCluster::start();
    // The second seed does not answer.
    let seeds = format!("redis://127.0.0.1:{},redis://127.0.0.1:1", cluster.masters()[1].port());
    let node = Node::up(&seeds, Settings::default()).await;
    let users: Vec<_> = (0..60).map(|n| format!("user{n}")).collect();
    for user in &users {
        node.open(question(user, "t")).await.unwrap();
    }
    for size in keys(&cluster) {
        assert!(size > 20, "every master has a share of the records: {:?}", keys(&cluster));
    }
    let before = round_trips(&node);
    assert_eq!(node.sweep().await.unwrap().open, 60);
    // The probe runs beside it.
    let taken = round_trips(&node) - before;
    assert!(
        (3..=5).contains(&taken),
        "a sweep of 64 partitions took {taken} round trips, one for each master is enough"
    );
    let cancelled = node.cancel_tasks_named(&task("t"), &Canceller::Producer).await.unwrap();
    assert_eq!(cancelled.len(), 60);
}

#[tokio::test]
async fn many_messages_go_to_all_masters_at_once_and_stay_in_order() {
    let cluster = RedisCluster::start();
    let node = Node::up(&cluster.url(), Settings::default()).await;
    let channels: Vec<_> = (0..20).map(|n| format!("t{n}")).collect();
    let mut wanted = Vec::new();
    for name in &channels {
        wanted.push(node.hear(topic(name)).await);
    }
    let before = round_trips(&node);
    let all = (0..800).map(|n| kept(&channels[n % 20], n)).collect();
    let results = node.publish_all(all).await;
    let taken = round_trips(&node) - before;
    assert!((3..=5).contains(&taken), "{taken} round trips");
    for (n, result) in results.into_iter().enumerate() {
        let published = result.unwrap();
        assert_eq!((published.position.unwrap().offset, published.nodes), (n as u64 / 20 + 1, None));
    }
    let memory = node.ear.until("every message", |memory| memory.heard.len() == 800).await;
    for (t, name) in channels.iter().enumerate() {
        let expected: Vec<_> = (0..40).map(|n| format!(r#"{{"n":{}}}"#, n * 20 + t)).collect();
        assert_eq!(memory.on(&topic(name)), expected);
    }
}

#[tokio::test]
async fn a_wait_on_the_inbox_is_where_the_inbox_is() {
    let cluster = RedisCluster::start();
    let node = Node::up(&cluster.url(), Settings::default()).await;
    let inbox = node.inbox().unwrap();
    assert!(inbox.hold().await.unwrap());
    let add = async {
        let owner = cluster.owner(0, "cs:inbox");
        eventually("a wait at the owner of the inbox", || async {
            owner.words("INFO clients").contains("blocked_clients:1\r\n").then_some(())
        })
        .await;
        let reply = owner.words("XADD cs:inbox * op broadcast body 1");
        assert!(reply.starts_with('$'), "{reply}");
    };
    let next = async {
        // The first look makes the stream; the second waits.
        eventually("an entry", || async {
            Some(inbox.next(10, 1000).await.unwrap()).filter(|taken| !taken.entries.is_empty())
        })
        .await
    };
    let ((), taken) = tokio::join!(add, next);
    inbox.bury(&taken.entries[0].id, "no reason").await.unwrap();
    assert!(cluster.owner(0, "cs:inbox").words("XLEN cs:{cs:inbox}:dead").starts_with(":1"));
    inbox.release().await.unwrap();
}

#[tokio::test]
async fn what_entries_say_is_published_once_on_all_masters() {
    let cluster = RedisCluster::start();
    let node = Node::up(&cluster.url(), Settings::default()).await;
    let names: Vec<_> = (0..8).map(|n| format!("t{n}")).collect();
    let mut wanted = Vec::new();
    for name in &names {
        wanted.push(node.hear(topic(name)).await);
    }
    let inbox = node.inbox().unwrap();
    assert!(inbox.hold().await.unwrap());
    let owner = cluster.owner(0, "cs:inbox");
    for n in 0..40 {
        owner.words(&format!("XADD cs:inbox * op topic body {n}"));
    }
    let taken = inbox.next(100, 1000).await.unwrap();
    let letters: Vec<Letter> = (0..40)
        .zip(&taken.entries)
        .map(|(n, entry)| {
            let publication = kept(&names[n % 8], n);
            let history = HistoryPolicy { size: publication.history.size * (n % 2), ..publication.history };
            Letter { id: entry.id.clone(), publication: Publication { history, ..publication } }
        })
        .collect();
    assert_eq!(inbox.publish(&taken.stream, &letters).await.unwrap(), Progress::Done(40));
    assert!(owner.words("XLEN cs:inbox").starts_with(":0"));
    // As if somebody else had them in hand, too. Under no name, a message that was published before comes again.
    assert_eq!(inbox.publish(&taken.stream, &letters[3..]).await.unwrap(), Progress::Done(37));
    for (n, name) in names.iter().enumerate() {
        node.publish(kept(name, n)).await.unwrap();
    }
    let memory = node.ear.until("every message", |memory| memory.heard.len() >= 48).await;
    for (t, name) in names.iter().enumerate() {
        let expected: Vec<_> = (0..5).map(|n| n * 8 + t).chain([t]).map(|n| format!(r#"{{"n":{n}}}"#)).collect();
        assert_eq!(memory.on(&topic(name)), expected);
    }
    inbox.release().await.unwrap();
}

#[tokio::test]
async fn a_decision_comes_to_a_reply_list_on_another_master() {
    let cluster = RedisCluster::start();
    let node = Node::up(&cluster.url(), Settings::default()).await;
    for n in 0..12 {
        let list = format!("l{n}");
        let asked = OpenCallback { reply_to: Some(ReplyName::parse(&list).unwrap()), ..question("alice", "t") };
        node.open(asked.clone()).await.unwrap();
        node.withdraw(asked.id).await.unwrap();
        let key = format!("cs:reply:{list}");
        let reply = cluster.owner(0, &key).words(&format!("LRANGE {key} 0 -1"));
        assert!(reply.starts_with("*1\r\n") && reply.contains(&asked.id.to_string()), "{reply}");
    }
    let outboxes = cluster.masters().iter().map(|master| master.words("KEYS *:replies")).collect::<String>();
    assert!(!outboxes.contains("replies"), "what was pushed is not owed any more: {outboxes}");
}

#[tokio::test]
async fn a_decision_that_is_told_is_on_a_replica_of_its_master() {
    let cluster = RedisCluster::with_replicas();
    let node = NodeId::parse("n1").unwrap();
    let options = RedisOptions { wait_replicas: 1, ..RedisOptions::new(&cluster.url(), node) };
    let node = Node::with(options, Settings::default());
    node.until_link(true).await;
    for n in 0..30 {
        let asked = question(&format!("user{n}"), "t");
        node.open(asked.clone()).await.unwrap();
        let key = format!("cs:{{p{}}}:cb:{}", asked.id.partition(), asked.id);
        // Replicas tell their keys whoever is asked for them.
        let copies = cluster.servers().iter().filter(|server| server.words(&format!("KEYS {key}")).contains(&key));
        assert_eq!(copies.count(), 2, "question {n} was told before it was copied");
    }
    let wanted = node.interest.want(&Channel::Broadcast);
    tokio::time::timeout(PATIENCE, wanted.confirmed()).await.unwrap();
}

#[tokio::test]
async fn of_the_clusters_own_commands_two_rights_are_enough_and_all_keys_are_under_the_prefix() {
    let cluster = RedisCluster::start();
    for server in cluster.servers() {
        let rights =
            "on >secret resetkeys ~cs:* resetchannels &cs:* +@all -cluster -@dangerous +info +cluster|slots +asking";
        assert!(server.words(&format!("ACL SETUSER gateway {rights}")).starts_with("+OK"));
        // What was found has the credentials of the first URL.
        assert!(server.words("ACL SETUSER default resetpass >other").starts_with("+OK"));
    }
    let node = Node::up(&cluster.url().replace("redis://", "redis://gateway:secret@"), Settings::default()).await;
    let _wanted = node.hear(Channel::Broadcast).await;
    for n in 0..20 {
        node.open(question(&format!("user{n}"), "t")).await.unwrap();
    }
    assert_eq!(node.sweep().await.unwrap().open, 20);
    let results = node.publish_all((0..20).map(|n| kept(&format!("t{n}"), n)).collect()).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let inbox = node.inbox().unwrap();
    assert!(inbox.hold().await.unwrap());
    inbox.next(10, 1000).await.unwrap();
    inbox.bury("1-1", "no reason").await.unwrap();
    inbox.release().await.unwrap();
}

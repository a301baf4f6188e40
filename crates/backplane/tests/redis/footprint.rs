//! What the backplane leaves in Redis and asks of it.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use countersign_backplane::{
    Callbacks, Cluster, Connections, Heartbeats, HistoryPolicy, Messages, Presence, Publication, Receipts, Settings,
    callbacks::{Answerer, Canceller, Confirm, Confirmed},
    connections::{ConnectionLimit, HeldConnection, HeldConnections, OneMore},
    heartbeats::Heartbeat,
    presence::Places,
    receipts::OpenReceipt,
};
use countersign_protocol::{
    Address, Answer, ConnectionId, MessageId, NodeId, Partition, Payload, Position, Status, TopicName,
    ids::IdempotencyKey,
};

use crate::{
    node::{Node, eventually, keyed, question, task, user},
    server::{Client, Server},
};

/// Names that could break out of a key, a channel, a script or JSON.
const ODD: [&str; 15] = [
    " !\"#$%&'()*+,-./0129:;<=>?@AMZ[\\]^_`amz{|}~äß€𝄞",
    "a:b",
    "{",
    "}",
    "{p00}",
    "}{",
    "%41",
    "%",
    "*",
    "a b",
    "ünï",
    "\"quoted\"",
    "\\back",
    "'; redis.call('FLUSHALL')",
    "]]",
];

fn heartbeat(user_id: &str, task_id: &str, interval: Duration) -> Heartbeat {
    let message_head = r#"{"type":"heartbeat""#.to_owned();
    let ttl = Duration::from_secs(3600);
    Heartbeat { user: user(user_id), task: task(task_id), interval, ttl, message_head }
}

fn receipt(user_id: &str, key: &str) -> OpenReceipt {
    let user = user(user_id);
    OpenReceipt {
        id: MessageId::new(Partition::of(&user), fastrand::u128(..)),
        user,
        key: Some((IdempotencyKey::parse(key).unwrap(), "digest".to_owned())),
        retention: Duration::from_secs(3600),
    }
}

/// Of places and connections.
const LEASE: Duration = Duration::from_secs(20);

async fn calls(client: &mut Client) -> BTreeMap<String, u64> {
    let stats: String = client.ask("INFO commandstats").await;
    let mut calls = BTreeMap::new();
    for line in stats.lines() {
        if let Some((name, rest)) = line.strip_prefix("cmdstat_").and_then(|line| line.split_once(":calls=")) {
            calls.insert(name.to_owned(), rest.split(',').next().unwrap().parse().unwrap());
        }
    }
    calls
}

fn confirm(asked: &countersign_backplane::callbacks::OpenCallback) -> Confirm {
    let answer = Answer {
        proceed: Some(false),
        feedback: Some("no \"way\"\n".to_owned()),
        data: Some(serde_json::json!({"k": [1.5, null, "ü"]})),
        ..Answer::default()
    };
    Confirm {
        id: asked.id,
        by: Answerer::User(asked.user.clone()),
        answer,
        proceed: false,
        judged: false,
        must_be_judged: false,
        connection: None,
    }
}

#[tokio::test]
async fn every_key_ends_on_its_own() {
    let server = Server::start();
    let node = Node::up(&server.url(), Settings { guests: true, ..Settings::default() }).await;
    for name in ODD {
        let (open, ended) = (question(name, name), keyed(question(name, "ended"), name, "d"));
        node.open(open).await.unwrap();
        node.open(ended.clone()).await.unwrap();
        node.confirm(confirm(&ended)).await.unwrap();
        node.cancel_task(&user(name), &task("cancelled"), &Canceller::Producer).await.unwrap();
        let key = Some(IdempotencyKey::parse(name).unwrap());
        let history = HistoryPolicy { size: 3, ttl: Duration::from_secs(60) };
        let message = Payload::parse(Bytes::from_static(b"{}")).unwrap();
        node.publish(Publication { address: Address::User(user(name)), message, history, key }).await.unwrap();
        node.announce(&NodeId::parse(name).unwrap(), "{}".to_owned(), Duration::from_secs(30)).await.unwrap();
        node.start_heartbeat(heartbeat(name, name, Duration::from_millis(1))).await.unwrap();
        let receipt = receipt(name, name);
        node.open_receipt(receipt.clone()).await.unwrap();
        node.delivered(receipt.id).await.unwrap();
        let connection = ConnectionId::parse(name).unwrap();
        assert!(node.ack(receipt.id, &Answerer::User(user(name)), &connection).await.unwrap());
        let places = Places { topic: TopicName::parse(name).unwrap(), hold: vec![user(name)], let_go: vec![] };
        node.hold_places(vec![places], LEASE).await.pop().unwrap().unwrap();
        let limit = ConnectionLimit { most: 1, one_more: OneMore::ReplaceOldest };
        node.connect(&user(name), &connection, limit, LEASE).await.unwrap();
        node.connect(&user(name), &ConnectionId::parse("one more").unwrap(), limit, LEASE).await.unwrap();
        let other = HeldConnection { user: user("renewed"), connection, age: Duration::ZERO };
        let held = HeldConnections { hold: vec![other], let_go: vec![] };
        node.hold_connections(held, ConnectionLimit::default(), LEASE).await.unwrap();
    }
    node.disconnect(&user("renewed"), None, LEASE).await.unwrap();
    node.cancel_tasks_named(&task("everybody"), &Canceller::Producer).await.unwrap();
    node.sweep().await.unwrap();
    let mut client = server.client().await;
    let keys = client.keys().await;
    assert!(keys.len() > ODD.len() * 16, "{} keys", keys.len());
    for key in keys {
        let ttl: i64 = client.run(redis::cmd("PTTL").arg(&key)).await;
        assert!(ttl > 0, "{key} has no end");
        assert!(ttl <= 2 * 3_600_000 + 300_000, "{key} lives {ttl} ms");
    }
}

#[tokio::test]
async fn odd_names_come_back_as_they_went() {
    let server = Server::start();
    let node = Node::up(&server.url(), Settings::default()).await;
    for name in ODD {
        let asked = keyed(question(name, name), name, "digest|with|bars");
        let opened = node.open(asked.clone()).await.unwrap().callback;
        assert_eq!((opened.user.as_str(), opened.task.as_str()), (name, name));
        // The script computes the keys of a callback that it ends: pending index, deadlines and result.
        let again = keyed(question(name, name), name, "digest|with|bars");
        assert_eq!(node.open(again).await.unwrap().callback.id, asked.id);
        assert_eq!(node.open_callbacks(&user(name)).await.unwrap().len(), 1);
        let Confirmed::Accepted(decision) = node.confirm(confirm(&asked)).await.unwrap() else { panic!("{name}") };
        assert_eq!((decision.by.as_deref(), decision.status), (Some(name), Status::Declined));
        assert_eq!(decision.feedback.as_deref(), Some("no \"way\"\n"));
        assert_eq!(node.open_callbacks(&user(name)).await.unwrap(), []);
        let cancelled = node.cancel_task(&user(name), &task(name), &Canceller::User(user(name))).await.unwrap();
        assert_eq!((cancelled.user.as_str(), cancelled.callbacks_closed), (name, 0));
        assert_eq!(node.task(&user(name), &task(name)).await.unwrap().cancelled.unwrap().by, name);
        let ended = node.open(question(name, name)).await.unwrap().callback.decision.unwrap();
        assert_eq!((ended.status, ended.by.as_deref()), (Status::Cancelled, Some(name)));
    }
    let mut client = server.client().await;
    // A result is kept as long as its ended record: the script found the key that Rust had named.
    let results: Vec<_> = client.keys().await.into_iter().filter(|key| key.contains(":idem:")).collect();
    assert_eq!(results.len(), ODD.len());
    for key in results {
        let ttl: i64 = client.run(redis::cmd("PTTL").arg(&key)).await;
        assert!((1..=3_600_000).contains(&ttl), "{key} lives {ttl} ms");
    }
    let left: Vec<_> =
        client.keys().await.into_iter().filter(|key| key.contains(":open:") || key.ends_with(":deadlines")).collect();
    assert_eq!(left, [""; 0], "Lua and Rust name the same indexes");
}

#[tokio::test]
async fn an_open_callback_takes_less_than_a_kilobyte_beyond_its_payload() {
    let server = Server::start();
    let node = Node::up(&server.url(), Settings { callback_user_limit: 10_000, ..Settings::default() }).await;
    let mut client = server.client().await;
    // As many as fill the tables of Redis, which double, by three quarters: the middle of what one costs.
    let (count, result) = (6000, "x".repeat(400));
    let mut payload = 0;
    let before = used_memory(&mut client).await;
    for n in 0..count {
        // Names of the usual kind: short ones of people, UUIDs of tasks and keys; a SHA-256 as the digest.
        let mut asked = question(&format!("user_{:03}", n % 400), &format!("{n:036}"));
        asked.message_head = format!(r#"{},"result":"{result}""#, asked.message_head);
        let asked = keyed(asked, &format!("{n:036}"), &"d".repeat(64));
        payload += node.open(asked).await.unwrap().callback.message.bytes().len();
    }
    let after = used_memory(&mut client).await;
    let each = (after - before) / count;
    let beyond = each - payload / count;
    println!("an open callback takes {each} bytes of Redis, {beyond} beyond its payload of {}", payload / count);
    assert!(beyond < 1024, "{beyond} bytes beyond the payload");
}

async fn used_memory(client: &mut Client) -> usize {
    let info: String = client.ask("INFO memory").await;
    info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().parse().unwrap()
}

#[tokio::test]
async fn each_verb_is_one_round_trip() {
    let server = Server::start();
    let node = Node::up(&server.url(), Settings::default()).await;
    let mut client = server.client().await;
    let asked = question("alice", "t");
    let history = HistoryPolicy { size: 3, ttl: Duration::from_secs(60) };
    let kept = Publication {
        address: Address::Broadcast,
        message: Payload::parse(Bytes::from_static(b"{}")).unwrap(),
        history,
        key: None,
    };
    // Scripts are known from the start: no verb is refused and sent again. Both lanes load all of them.
    eventually("two lanes that know the scripts", || {
        let mut client = client.clone();
        async move {
            let memory: String = client.ask("INFO memory").await;
            let known =
                memory.lines().find_map(|line| line.strip_prefix("number_of_cached_scripts:"))?.parse::<u64>().ok()?;
            (calls(&mut client).await.get("script|load") == Some(&(2 * known))).then_some(())
        }
    })
    .await;
    let receipt = receipt("alice", "k");
    let verbs = [
        "open",
        "read",
        "confirm",
        "publish",
        "history",
        "open_callbacks",
        "cancel_task",
        "start_heartbeat",
        "stop_heartbeat",
        "open_receipt",
        "delivered",
        "ack",
        "task",
    ];
    for verb in verbs {
        let before = calls(&mut client).await;
        match verb {
            "open" => assert!(node.open(asked.clone()).await.unwrap().new),
            "read" => assert!(node.read(asked.id).await.unwrap().is_some()),
            "confirm" => assert!(matches!(node.confirm(confirm(&asked)).await.unwrap(), Confirmed::Accepted(_))),
            "publish" => assert!(node.publish(kept.clone()).await.unwrap().position.is_some()),
            "history" => {
                assert!(node.history(&Address::Broadcast, &Position::beginning(), 5).await.unwrap().complete);
            }
            "open_callbacks" => assert_eq!(node.open_callbacks(&asked.user).await.unwrap(), []),
            "cancel_task" => {
                node.cancel_task(&asked.user, &asked.task, &Canceller::Producer).await.unwrap();
            }
            "start_heartbeat" => {
                let heartbeat = heartbeat("alice", "t", Duration::from_secs(30));
                assert!(node.start_heartbeat(heartbeat).await.unwrap() > 0.0);
            }
            "stop_heartbeat" => assert!(node.stop_heartbeat(&asked.user, &asked.task).await.unwrap()),
            "open_receipt" => assert!(node.open_receipt(receipt.clone()).await.unwrap().1),
            "delivered" => node.delivered(receipt.id).await.unwrap(),
            "ack" => {
                let by = Answerer::User(asked.user.clone());
                assert!(node.ack(receipt.id, &by, &ConnectionId::parse("c").unwrap()).await.unwrap());
            }
            _ => assert!(node.task(&asked.user, &asked.task).await.unwrap().cancelled.is_some()),
        }
        let after = calls(&mut client).await;
        let more = |name: &str| after.get(name).unwrap_or(&0) - before.get(name).unwrap_or(&0);
        assert_eq!((more("evalsha"), more("eval"), more("script|load")), (1, 0, 0), "{verb}");
    }
}

#[tokio::test]
async fn a_sweep_of_nothing_due_costs_the_same_however_much_is_open() {
    let server = Server::start();
    let node = Node::up(&server.url(), Settings::default()).await;
    let mut client = server.client().await;
    let mut costs = Vec::new();
    for count in [0, 300] {
        for n in 0..count {
            node.open(question(&format!("user{n}"), "t")).await.unwrap();
            let heartbeat = heartbeat(&format!("user{n}"), "t", Duration::from_secs(30));
            node.start_heartbeat(heartbeat).await.unwrap();
        }
        let before = calls(&mut client).await;
        assert_eq!(node.sweep().await.unwrap().open, count);
        let after = calls(&mut client).await;
        let more = |name: &str| after.get(name).unwrap_or(&0) - before.get(name).unwrap_or(&0);
        costs.push((more("zrange"), more("zcard"), more("evalsha")));
    }
    assert_eq!(costs, [(3 * 64, 64, 0); 2], "one read of each index of a partition, in one pipeline, and no script");
}

//! A master that Sentinel watches over moves, and the nodes follow it: delivery recovers, callbacks that were open end once, and what
//! the failover may have lost is told. Decisions that must survive it want `REDIS_WAIT_REPLICAS=1`, as here: an asynchronous
//! failover loses what the replica did not have.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use std::time::{Duration, Instant};

use harness::audit::print_figures;
use harness::ledger::Line;
use harness::{Device, Node, PATIENCE, Sentinels, TcpProxy, Traffic, eventually};
use serde_json::{Value, json};

const TOPIC: &str = "room:7";
/// What is published to around a failover.
const ADDRESSES: [&str; 3] = ["broadcast", "user:alice", TOPIC];
/// What a failover may take from the promotion on; a healthy machine takes a second or two.
const GENEROUS: Duration = Duration::from_secs(20);

async fn node(sentinels: &Sentinels, name: &str) -> Node {
    let builder = Node::builder().env("REDIS_URL", sentinels.url()).env("REDIS_WAIT_REPLICAS", "1");
    builder.env("NODE_ID", name).start().await
}

/// Publishes until it is delivered; how long that took.
async fn delivered_again(node: &Node, device: &mut Device, n: u64) -> Duration {
    let begun = Instant::now();
    let path = format!("/v1/topics/{TOPIC}/messages");
    let key = format!("message-{n}");
    eventually(PATIENCE, "a message that is published", || async {
        let reply = node.api().post_once(&path, &key, &json!({"type": "number", "n": n})).await;
        assert!([200, 503].contains(&reply.status), "{reply:?}");
        (reply.status == 200).then_some(())
    })
    .await;
    device.wait_for("the message after the failover", |m| m["n"] == json!(n)).await;
    begun.elapsed()
}

/// The whole story around a fault that makes another server the master.
async fn follows(scenario: &str, fail: impl AsyncFnOnce(&mut Sentinels)) {
    let mut sentinels = Sentinels::start(2).await;
    let (one, two) = (node(&sentinels, "one").await, node(&sentinels, "two").await);
    let mut alice = Device::of_user(&one.ws_url(), "alice").await;
    let mut bob = Device::of_user(&two.ws_url(), "bob").await;
    alice.subscribe(TOPIC).await;
    bob.subscribe(TOPIC).await;
    delivered_again(&two, &mut alice, 1).await;
    let since = bob.wait_for("the first message", |m| m["n"] == 1).await["_meta"]["position"].clone();
    let asked = two.api().ask("alice", "t1", json!({"timeout": 120})).await;
    alice.wait_for("the question", |m| m["callback_id"] == asked.as_str()).await;

    fail(&mut sentinels).await;
    if sentinels.server(0).is_killed() {
        one.wait_for_readiness(503).await;
    }
    let master = sentinels.wait_for_another_master(0).await;
    let promoted = Instant::now();
    for name in ["one", "two"] {
        sentinels.server(master).wait_for_listeners(&format!("cs:node:{name}"), 1).await;
    }
    delivered_again(&two, &mut alice, 2).await;
    let took = promoted.elapsed();
    for node in [&one, &two] {
        node.wait_for_readiness(200).await;
    }
    assert!(took < GENEROUS, "delivery recovered {took:?} after the promotion");

    // What may have been lost is told, to who stayed and to who comes back.
    let gap = |m: &Value| m["type"] == "gap" && m["topic"] == TOPIC;
    bob.wait_for("the second message", |m| m["n"] == 2).await;
    bob.wait_for("the gap", gap).await;
    let mut returns = Device::of_user(&one.ws_url(), "carol").await;
    returns.send(json!({"action": "subscribe", "topics": [{"topic": TOPIC, "since": since}]})).await;
    let confirmed = returns.expect_type("subscription_confirmed").await;
    assert_eq!(confirmed["recovered"], json!(false), "{confirmed}");

    // The callback that was open across the failover ends once.
    let accepted = alice.confirm(&asked, true).await;
    assert_eq!(accepted["type"], "confirmation_accepted", "{accepted}");
    let mut tablet = Device::of_user(&two.ws_url(), "alice").await;
    let late = tablet.confirm(&asked, false).await;
    assert_eq!(late["reason"], "already_resolved", "{late}");
    let read = one.api().wait(&asked, 5).await.expect_status(200);
    assert_eq!((&read["status"], &read["by"]), (&json!("confirmed"), &json!("alice")), "{read}");

    // The old master comes back as a replica, and nobody goes to it.
    if sentinels.server_mut(0).is_killed() {
        sentinels.server_mut(0).restart().await;
    }
    sentinels.wait_for_replica(0).await;
    assert_ne!(sentinels.master().await, Some(0), "a slow machine may have seen another change, but none back");
    delivered_again(&one, &mut alice, 3).await;
    assert_eq!(one.readiness().await, 200);
    print_figures(
        scenario,
        format!("delivery recovered {took:.1?} after the promotion; 1 callback open across it, ended once; 1 gap told"),
    );
}

#[tokio::test]
async fn nodes_follow_a_master_that_was_killed() {
    follows("kill -9 of the master", async |sentinels| sentinels.server_mut(0).kill()).await;
}

#[tokio::test]
async fn nodes_follow_a_master_that_was_replaced_in_good_order() {
    follows("SENTINEL FAILOVER", async |sentinels| sentinels.fail_over().await).await;
}

/// Messages to everybody, a user and a topic, through two nodes in turn, around a fault that makes another server the master.
async fn no_message_is_lost_without_a_word(scenario: &str, fail: impl AsyncFnOnce(&mut Sentinels)) {
    let mut sentinels = Sentinels::start(2).await;
    let builder = |name: &str| {
        let builder = Node::builder().env("REDIS_URL", sentinels.url()).env("NODE_ID", name);
        builder.env("HISTORY_SIZE", "2000").start()
    };
    let nodes = [builder("one").await, builder("two").await];
    let urls = nodes.each_ref().map(Node::ws_url);
    let doors = nodes.each_ref().map(Node::api);
    let mut traffic = Traffic::new();
    traffic.watch(&nodes);
    for (name, user) in [("alice", "alice"), ("bob", "bob")] {
        for first in 0..urls.len() {
            let mut urls = urls.to_vec();
            urls.rotate_left(first);
            let reader = traffic.reader(&format!("{name}-{first}"), Some(user), &[TOPIC], &urls);
            traffic.add(reader);
        }
    }
    traffic.add_sdk("sdk", "alice", &[TOPIC], &urls[0]);
    traffic.joined().await;
    for address in ADDRESSES {
        traffic.publish(address, &doors, 20, 0);
    }
    traffic.flowing(3).await;
    traffic
        .fault(async |_| {
            fail(&mut sentinels).await;
            sentinels.wait_for_another_master(0).await;
            for node in &nodes {
                node.wait_for_readiness(200).await;
            }
        })
        .await;
    let ledger = traffic.ledger().clone();
    traffic.over().await.expect_kept(scenario);
    // Another master cannot know what the one before had acknowledged, so a numbering ends with its run, even when nothing is
    // lost: everybody is told of every address that had messages, whether in a gap or when coming back.
    let account = ledger.account();
    assert_eq!(account.read.len(), 5, "five readers");
    for (reader, lines) in &account.read {
        let joined =
            lines.iter().filter_map(|line| if let Line::Joined(address) = line { Some(address) } else { None });
        for address in joined.filter(|address| ADDRESSES.contains(&address.as_str())) {
            let told = |line: &Line| matches!(line, Line::Told { address: of, .. } if of == address);
            assert!(lines.iter().any(told), "{reader} was not told of {address}");
        }
    }
}

#[tokio::test]
async fn a_killed_master_loses_no_message_without_a_word() {
    no_message_is_lost_without_a_word("Sentinel: kill -9 of the master", async |sentinels| {
        sentinels.server_mut(0).kill();
    })
    .await;
}

#[tokio::test]
async fn a_replaced_master_loses_no_message_without_a_word() {
    no_message_is_lost_without_a_word("Sentinel: SENTINEL FAILOVER", async |sentinels| sentinels.fail_over().await)
        .await;
}

#[tokio::test]
async fn a_node_is_not_ready_while_there_is_no_master() {
    let mut sentinels = Sentinels::start(1).await;
    let one = node(&sentinels, "one").await;
    sentinels.server_mut(0).kill();
    sentinels.server_mut(1).kill();
    one.wait_for_readiness(503).await;
    sentinels.server_mut(0).restart().await;
    one.wait_for_readiness(200).await;
    // A node that starts meanwhile finds it by the sentinels alone.
    node(&sentinels, "two").await;
}

#[tokio::test]
async fn a_demoted_master_that_still_accepts_connections_is_left() {
    let sentinels = Sentinels::start(1).await;
    let one = node(&sentinels, "one").await;
    // Without sentinels to follow, the same server stays what its URL says, and only its own word tells that it takes no writes.
    let proxy = TcpProxy::to(sentinels.server(0).address()).await;
    let fixed = Node::builder()
        .env("REDIS_URL", format!("redis://{}/0", proxy.address()))
        .env("NODE_ID", "fixed")
        .start()
        .await;
    sentinels.fail_over().await;
    let master = sentinels.wait_for_another_master(0).await;
    sentinels.wait_for_replica(0).await;
    // It accepts connections again, and whoever publishes there hears himself: that proves nothing.
    sentinels.server(0).wait_for_listeners("cs:node:fixed", 1).await;
    assert_eq!(sentinels.server(0).query::<u64>(&["PUBLISH", "cs:node:fixed", "{}"]).await, 1);
    fixed.wait_for_readiness(503).await;
    let told = || async { fixed.has_logged("read only replica").then_some(()) };
    eventually(PATIENCE, "the reason in the log", told).await;
    assert_eq!(fixed.readiness().await, 503);
    one.wait_for_readiness(200).await;
    sentinels.server(0).wait_for_listeners("cs:node:one", 0).await;
    sentinels.server(master).wait_for_listeners("cs:node:one", 1).await;
}

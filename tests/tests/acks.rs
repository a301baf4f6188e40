//! A message that wants to be acknowledged tells its producer how far it has come, from any node to any node.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]
#![allow(clippy::panic, reason = "in a test that is how to say that it failed")]

use std::pin::pin;

use harness::{Cluster, Device, Node, PATIENCE, eventually};
use serde_json::{Value, json};

const MESSAGES: &str = "/v1/users/alice/messages?ack=true";

fn id_of(message: &Value) -> String {
    message["message_id"].as_str().unwrap_or_else(|| panic!("no message_id in {message}")).to_owned()
}

async fn ack(device: &mut Device, id: &str) {
    device.send(json!({"action": "ack", "message_id": id})).await;
}

#[tokio::test]
async fn an_ack_on_one_node_ends_the_wait_on_another_and_a_third_knows_the_receipt() {
    let cluster = Cluster::start(3).await;
    let mut alice = cluster.device(1, "alice").await;
    let api = cluster.api(0);
    let posting = async { api.post(&format!("{MESSAGES}&timeout=30"), &json!({"type": "deploy"})).await };
    let acking = async {
        let message = alice.expect_type("deploy").await;
        assert_eq!(
            (&message["requires_ack"], &message["target_user_id"]),
            (&json!(true), &json!("alice")),
            "{message}"
        );
        ack(&mut alice, &id_of(&message)).await;
        alice.ping().await;
        message
    };
    let (reply, message) = tokio::join!(posting, acking);
    let reply = reply.expect_status(200);
    assert_eq!((&reply["message_id"], &reply["status"]), (&message["message_id"], &json!("acked")), "{reply}");
    assert_eq!((&reply["nodes"], &reply["position"]), (&json!(1), &message["_meta"]["position"]), "{reply}");
    let connection = &alice.welcome()["connection_id"];
    assert_eq!((&reply["acks"][0]["by"], &reply["acks"][0]["connection_id"]), (&json!("alice"), connection), "{reply}");
    alice.assert_none("reply to an ack", |message| message["type"] != "open_callbacks");

    let receipt = cluster.api(2).get(&format!("/v1/messages/{}", id_of(&message))).await.expect_status(200);
    for field in ["message_id", "status", "delivered_at", "acks"] {
        assert_eq!(receipt[field], reply[field], "{field} of {receipt}");
    }
    assert_eq!(receipt["user_id"], "alice", "{receipt}");
    let (queued, delivered) = (receipt["queued_at"].as_f64(), receipt["delivered_at"].as_f64());
    assert!(queued.is_some() && queued <= delivered && delivered <= receipt["acks"][0]["at"].as_f64(), "{receipt}");
}

#[tokio::test]
async fn what_nobody_heard_is_queued_and_what_nobody_acknowledged_is_delivered() {
    let cluster = Cluster::start(2).await;
    let api = cluster.api(0);
    let queued = api.post(&format!("{MESSAGES}&timeout=0.5"), &json!({"type": "news"})).await.expect_status(200);
    let expected = json!({
        "message_id": queued["message_id"], "status": "queued", "delivered_at": null, "acks": [],
        "position": queued["position"], "nodes": 0,
    });
    assert_eq!(queued, expected);
    let path = format!("/v1/messages/{}", id_of(&queued));
    assert_eq!(cluster.api(1).get(&path).await.expect_status(200)["status"], "queued");

    let mut alice = cluster.device(1, "alice").await;
    let delivered = api.post(&format!("{MESSAGES}&timeout=0.3"), &json!({"type": "more"})).await.expect_status(200);
    assert_eq!((&delivered["status"], &delivered["nodes"]), (&json!("delivered"), &json!(1)), "{delivered}");
    assert!(delivered["delivered_at"].is_f64(), "{delivered}");
    assert_eq!(delivered["position"]["offset"], 2, "repeats for nobody have no position of their own: {delivered}");
    alice.expect_type("more").await;

    // Whoever comes back and asks for what was missed may acknowledge that too.
    alice.send(json!({"action": "subscribe", "topic": "user:alice", "since": {"epoch": "", "offset": 0}})).await;
    let missed = alice.expect_type("news").await;
    assert_eq!(missed["message_id"], queued["message_id"], "{missed}");
    ack(&mut alice, &id_of(&missed)).await;
    alice.ping().await;
    let receipt = cluster.api(0).get(&path).await.expect_status(200);
    assert_eq!(
        (&receipt["status"], &receipt["delivered_at"]),
        (&json!("acked"), &receipt["acks"][0]["at"]),
        "{receipt}"
    );
}

#[tokio::test]
async fn a_person_who_comes_between_two_tries_gets_the_message() {
    let cluster = Cluster::start(2).await;
    let api = cluster.api(0);
    // The tries end after 0.3 s; on a machine that is too busy for that another person tries.
    for round in 0..10 {
        let user = format!("user-{round}");
        let mut device = Device::connect(&cluster.node(1).ws_url()).await;
        let (path, message) = (format!("/v1/users/{user}/messages?ack=true&timeout=2"), json!({"type": "hers"}));
        let mut posting = pin!(api.post(&path, &message));
        let history = format!("cs:{{user%3A{user}}}:history");
        let published = eventually(PATIENCE, "the first try", || async {
            (cluster.redis().query::<u64>(&["EXISTS", &history]).await == 1).then_some(())
        });
        tokio::select! {
            reply = &mut posting => panic!("nobody was there: {reply:?}"),
            () = published => {}
        }
        device.send(json!({"action": "subscribe", "user_id": user})).await;
        let reply = loop {
            tokio::select! {
                reply = &mut posting => break reply,
                message = device.next() => {
                    let message = message.expect("an open connection");
                    if message["type"] == "hers" {
                        assert!(message["_meta"]["position"].is_null(), "a repeat has no new position: {message}");
                        ack(&mut device, &id_of(&message)).await;
                    }
                }
            }
        };
        let reply = reply.expect_status(200);
        if reply["status"] == "acked" {
            assert_eq!((&reply["nodes"], &reply["position"]["offset"]), (&json!(1), &json!(1)), "{reply}");
            return;
        }
        assert_eq!(reply["status"], "queued", "{reply}");
    }
    panic!("nobody ever came between two tries");
}

#[tokio::test]
async fn a_key_finds_the_same_message_and_waits_on() {
    let cluster = Cluster::start(2).await;
    let mut alice = cluster.device(1, "alice").await;
    let body = json!({"type": "deploy", "n": 1});
    let short = format!("{MESSAGES}&timeout=0.2");
    let first = cluster.api(0).post_once(&short, "k1", &body).await.expect_status(200);
    assert_eq!(first["status"], "delivered", "{first}");
    let id = id_of(&first);

    let again = cluster.api(1);
    let long = format!("{MESSAGES}&timeout=30");
    let acking = async {
        cluster.redis().wait_for_listeners(&format!("cs:ack:{id}"), 1).await;
        ack(&mut alice, &id).await;
    };
    let (second, ()) = tokio::join!(again.post_once(&long, "k1", &body), acking);
    let second = second.expect_status(200);
    assert_eq!((&second["message_id"], &second["status"]), (&first["message_id"], &json!("acked")), "{second}");
    assert_eq!(second["position"], first["position"]);
    let third = cluster.api(0).post_once(&long, "k1", &body).await.expect_status(200);
    assert_eq!((&third["message_id"], &third["acks"]), (&second["message_id"], &second["acks"]), "{third}");

    let other = cluster.api(1).post_once(&short, "k1", &json!({"type": "deploy", "n": 2})).await;
    assert_eq!(other.status, 409, "the same key with another body: {other:?}");
    alice.ping().await;
    let messages = alice.unread().into_iter().filter(|message| message["type"] == "deploy").count();
    assert_eq!(messages, 1, "it was published once");
    cluster.redis().wait_for_listeners(&format!("cs:ack:{id}"), 0).await;
}

#[tokio::test]
async fn a_message_that_was_opened_and_never_published_is_published_by_the_repeat() {
    let cluster = Cluster::start(2).await;
    let (path, body) = (format!("{MESSAGES}&timeout=0.1"), json!({"type": "deploy"}));
    let first = cluster.api(0).post_once(&path, "k1", &body).await.expect_status(200);
    assert_eq!(first["status"], "queued", "{first}");
    // As if the node had died between its two steps: there is a receipt, and nothing was published.
    assert_eq!(cluster.redis().query::<u64>(&["DEL", "cs:{user%3Aalice}:idem:k1"]).await, 1);

    let mut alice = cluster.device(1, "alice").await;
    let (api, path) = (cluster.api(1), format!("{MESSAGES}&timeout=30"));
    let acking = async {
        let id = id_of(&alice.expect_type("deploy").await);
        ack(&mut alice, &id).await;
    };
    let (second, ()) = tokio::join!(api.post_once(&path, "k1", &body), acking);
    let second = second.expect_status(200);
    assert_eq!((&second["message_id"], &second["status"]), (&first["message_id"], &json!("acked")), "{second}");
}

#[tokio::test]
async fn only_the_addressed_user_acknowledges() {
    let cluster = Cluster::start(2).await;
    let mut alice = cluster.device(0, "alice").await;
    let mut mallory = cluster.device(1, "mallory").await;
    let sent = cluster.api(0).post(&format!("{MESSAGES}&timeout=0.1"), &json!({"type": "m"})).await.expect_status(200);
    let id = id_of(&sent);
    let (partition, rest) = id.split_once('-').expect("a message id has a partition");
    let unknown = format!("{partition}-{}", rest.chars().rev().collect::<String>());
    let mut told = Vec::new();
    for foreign in [&id, &unknown] {
        ack(&mut mallory, foreign).await;
        let error = mallory.expect_type("error").await;
        told.push((error["code"].clone(), error["message"].clone()));
    }
    assert_eq!(told[0], told[1], "nothing tells another's message from one that does not exist");
    assert_eq!(told[0].0, "not_found");
    mallory.send(json!({"action": "ack", "id": 5, "message_id": "nonsense"})).await;
    let error = mallory.expect_type("error").await;
    assert_eq!((&error["code"], &error["reply_to"]), (&json!("invalid_field"), &json!(5)), "{error}");

    let path = format!("/v1/messages/{id}");
    assert_eq!(cluster.api(1).get(&path).await.expect_status(200)["status"], "delivered");
    ack(&mut alice, &id).await;
    ack(&mut alice, &id).await;
    alice.ping().await;
    let receipt = cluster.api(1).get(&path).await.expect_status(200);
    assert_eq!(receipt["acks"].as_array().map(Vec::len), Some(1), "a connection acknowledges once: {receipt}");
    assert_eq!(cluster.api(1).get(&format!("/v1/messages/{unknown}")).await.status, 404);
}

#[tokio::test]
async fn a_node_that_drains_answers_with_the_state_so_far() {
    let cluster = Cluster::builder(2).env("DRAIN_TIMEOUT", "5").start().await;
    let mut alice = cluster.device(1, "alice").await;
    let leaving = cluster.api(0);
    let stopping = async {
        let message = alice.expect_type("deploy").await;
        cluster.node(0).terminate();
        message
    };
    let path = format!("{MESSAGES}&timeout=60");
    let body = json!({"type": "deploy"});
    let (reply, message) = tokio::join!(leaving.post_once(&path, "k1", &body), stopping);
    assert_eq!(reply.expect_status(200)["status"], "delivered");
    let (staying, id) = (cluster.api(1), id_of(&message));
    let (reply, ()) = tokio::join!(staying.post_once(&path, "k1", &body), ack(&mut alice, &id));
    assert_eq!(reply.expect_status(200)["status"], "acked", "the repeat takes the wait up on another node");
}

#[tokio::test]
async fn a_request_that_cannot_be_acknowledged_names_what_is_wrong() {
    let node = Node::builder().start().await;
    let api = node.api();
    let any = json!({"type": "m"});
    for (path, body, field) in [
        ("/v1/users/alice/messages?timeout=5", &any, "timeout"),
        ("/v1/users/alice/messages?ack=true&timeout=0", &any, "timeout"),
        ("/v1/users/alice/messages?ack=true&timeout=301", &any, "timeout"),
        ("/v1/users/alice/messages?ack=true", &json!({"message_id": "mine"}), "message_id"),
        ("/v1/users/alice/messages?ack=true", &json!({"requires_ack": true}), "requires_ack"),
        ("/v1/broadcast?ack=true", &any, "ack"),
        ("/v1/topics/t/messages?ack=true", &any, "ack"),
        ("/v1/messages/nonsense", &Value::Null, "message_id"),
    ] {
        let reply = if body.is_null() { api.get(path).await } else { api.post(path, body).await };
        let refused = reply.expect_status(400);
        assert_eq!(refused["field"], field, "{path}: {refused}");
    }
    // Without ack=true these are fields like any other.
    api.post("/v1/users/alice/messages", &json!({"message_id": "mine"})).await.expect_status(200);

    let mut alice = Device::of_user(&node.ws_url(), "alice").await;
    let posting = async { api.post(MESSAGES, &any).await };
    let acking = async {
        let id = id_of(&alice.expect_type("m").await);
        ack(&mut alice, &id).await;
    };
    let (reply, ()) = tokio::join!(posting, acking);
    assert_eq!(reply.expect_status(200)["status"], "acked", "a single node without Redis can do it too");
    assert!(node.metric("countersign_acks_total", "").await > 0.0);
}

#[tokio::test]
async fn a_key_with_and_without_a_receipt_is_a_conflict() {
    let cluster = Cluster::start(1).await;
    let api = cluster.api(0);
    let (plain, with_receipt) = ("/v1/users/alice/messages", "/v1/users/alice/messages?ack=true&timeout=0.2");
    let message = json!({"type": "note"});
    for (key, first, second) in [("k1", plain, with_receipt), ("k2", with_receipt, plain)] {
        api.post_once(first, key, &message).await.expect_status(200);
        for _ in 0..2 {
            assert_eq!(api.post_once(second, key, &message).await.expect_status(409)["code"], "conflict");
        }
        api.post_once(first, key, &message).await.expect_status(200);
    }
}

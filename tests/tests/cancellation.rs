//! A cancelled task asks nobody any more, and everybody concerned hears of it.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use harness::{Cluster, PATIENCE};
use serde_json::json;

#[tokio::test]
async fn a_person_who_cancels_a_task_ends_its_questions() {
    let cluster = Cluster::start(3).await;
    let api = cluster.api(0);
    let mut laptop = cluster.device(0, "alice").await;
    let mut phone = cluster.device(1, "alice").await;
    let mut worker = cluster.device(2, "worker").await;
    worker.subscribe("task:t1").await;
    let first = api.ask("alice", "t1", json!({})).await;
    let second = api.ask("alice", "t1", json!({"step": 2})).await;
    let other_task = api.ask("alice", "t2", json!({})).await;
    let other_user = api.ask("bob", "t1", json!({})).await;

    laptop.send(json!({"action": "cancel", "id": 9, "task_id": "t1"})).await;
    for device in [&mut laptop, &mut phone, &mut worker] {
        let cancelled = device.expect_type("task_cancelled").await;
        assert_eq!((&cancelled["user_id"], &cancelled["task_id"]), (&json!("alice"), &json!("t1")), "{cancelled}");
        assert_eq!(cancelled["callbacks_closed"], 2, "{cancelled}");
    }
    for id in [&first, &second] {
        let answer = cluster.api(2).wait(id, 5).await.expect_status(200);
        assert_eq!((&answer["status"], &answer["by"]), (&json!("cancelled"), &json!("alice")), "{answer}");
        phone.wait_for("end of the callback", |m| m["type"] == "callback_resolved" && m["callback_id"] == **id).await;
    }
    for id in [&other_task, &other_user] {
        assert_eq!(api.get(&format!("/v1/callbacks/{id}")).await.body["status"], "pending");
    }
}

#[tokio::test]
async fn a_held_wait_ends_when_the_task_is_cancelled_and_later_questions_end_at_once() {
    let cluster = Cluster::start(2).await;
    let api = cluster.api(0);
    let mut alice = cluster.device(0, "alice").await;
    let asking = api.notify("alice", "t1", "", json!({}));
    let cancelling = async {
        alice.expect_type("task_step_result").await;
        cluster.api(1).post("/v1/tasks/t1/cancel", &json!({"user_id": "alice"})).await.expect_status(200)
    };
    let (answer, _) = tokio::join!(asking, cancelling);
    let answer = answer.expect_status(200);
    assert_eq!((&answer["status"], &answer["by"]), (&json!("cancelled"), &json!("producer")), "{answer}");

    let at_once = cluster.api(1).notify("alice", "t1", "", json!({"step": 2})).await.expect_status(200);
    assert_eq!(at_once["status"], "cancelled", "the tombstone outlives the questions: {at_once}");
    let state = api.get("/v1/tasks/t1?user_id=alice").await.expect_status(200);
    assert_eq!(state["cancelled"], true, "{state}");

    let lifted = api.delete("/v1/tasks/t1/cancel?user_id=alice").await;
    assert!((200..300).contains(&lifted.status), "{lifted:?}");
    api.ask("alice", "t1", json!({"step": 3})).await;
}

#[tokio::test]
async fn producers_hear_of_a_cancellation_in_redis() {
    let cluster = Cluster::start(1).await;
    let client = redis::Client::open(cluster.redis().url()).expect("our own URL");
    let mut subscriber = client.get_async_pubsub().await.expect("a connection");
    subscriber.subscribe("cs:cancelled").await.expect("subscribed");
    let mut alice = cluster.device(0, "alice").await;
    alice.send(json!({"action": "cancel", "task_id": "t1"})).await;
    alice.expect_type("task_cancelled").await;
    let mut messages = subscriber.on_message();
    let message = tokio::time::timeout(PATIENCE, futures_util::StreamExt::next(&mut messages));
    let message = message.await.expect("a message on cs:cancelled").expect("an open connection");
    let text: String = message.get_payload().expect("text");
    assert!(text.contains("\"t1\"") && text.contains("\"alice\""), "{text}");
}

#[tokio::test]
async fn only_ones_own_task_can_be_cancelled() {
    let cluster = Cluster::start(1).await;
    let id = cluster.api(0).ask("alice", "t1", json!({})).await;
    let mut mallory = cluster.device(0, "mallory").await;
    mallory.send(json!({"action": "cancel", "task_id": "t1", "user_id": "alice"})).await;
    let refused = mallory.expect_type("error").await;
    assert_eq!(refused["code"], "forbidden", "{refused}");
    assert_eq!(cluster.api(0).get(&format!("/v1/callbacks/{id}")).await.body["status"], "pending");
}

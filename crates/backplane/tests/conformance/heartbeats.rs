//! A heartbeat is state: whichever node sweeps first sends it, once for each interval, until it ends or is stopped.

use std::{sync::Arc, time::Duration};

use countersign_backplane::{Settings, callbacks::Canceller, heartbeats::Heartbeat};
use countersign_protocol::{TaskId, UserId, payload::JsonText};
use serde_json::{Value, json};
use tokio::sync::Barrier;

use crate::{
    fixture::{Fixture, Node},
    words::{FAR, odd_names, task, user, user_channel},
};

/// Long enough for a sweep to happen well within it.
const INTERVAL: Duration = Duration::from_millis(400);
const HALF: Duration = Duration::from_millis(200);

fn heartbeat(user_name: &str, task_name: &str) -> Heartbeat {
    Heartbeat {
        user: user(user_name),
        task: task(task_name),
        interval: INTERVAL,
        ttl: FAR,
        message_head: head(&user(user_name), &task(task_name), "Task is still executing"),
    }
}

fn head(user: &UserId, task: &TaskId, message: &str) -> String {
    let (user, task) = (JsonText(user.as_str()), JsonText(task.as_str()));
    format!(r#"{{"type":"heartbeat","user_id":{user},"task_id":{task},"message":{}"#, JsonText(message))
}

async fn beats(node: &Node) -> u64 {
    node.sweep().await.unwrap().beats
}

pub(crate) async fn each_beat_is_sent_by_exactly_one_of_the_nodes_that_sweep<F: Fixture>() {
    let fixture = F::start(Settings { guests: true, ..Settings::default() }).await;
    let nodes = [Arc::new(fixture.node("one").await), Arc::new(fixture.node("two").await)];
    let _messages = nodes[1].hear(&user_channel("alice")).await;
    let _guests = nodes[1].hear(&countersign_backplane::Channel::Guests).await;
    let ends_at = nodes[0].start_heartbeat(heartbeat("alice", "t")).await.unwrap();
    assert_eq!(beats(&nodes[0]).await, 0, "the first comes after one interval");
    // In the middle of an interval, so that none begins between the sweeps of a round.
    fixture.advance(HALF).await;
    for round in 1..=3 {
        fixture.advance(INTERVAL).await;
        let barrier = Arc::new(Barrier::new(4));
        let sweeps: Vec<_> = (0..4)
            .map(|n| {
                let (node, barrier) = (Arc::clone(&nodes[n % 2]), Arc::clone(&barrier));
                tokio::spawn(async move {
                    barrier.wait().await;
                    beats(&node).await
                })
            })
            .collect();
        let mut sent = 0;
        for sweep in sweeps {
            sent += sweep.await.unwrap();
        }
        assert_eq!(sent, 1, "round {round}");
    }
    let heard = fixture.values_so_far(&nodes[1], &user_channel("alice")).await;
    assert_eq!(heard.len(), 3, "{heard:?}");
    for beat in &heard {
        let at = beat["timestamp"].as_f64().unwrap();
        let expected = json!({"type": "heartbeat", "user_id": "alice", "task_id": "t", "message": "Task is still executing", "timestamp": at});
        assert_eq!(*beat, expected);
        assert!(at < ends_at && at > ends_at - FAR.as_secs_f64(), "{beat} ends at {ends_at}");
    }
    let guests = fixture.values_so_far(&nodes[1], &countersign_backplane::Channel::Guests).await;
    assert_eq!(guests, [Value::Null; 0], "a heartbeat is its user's affair");
}

pub(crate) async fn a_late_sweep_sends_one_message_and_no_burst<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    node.start_heartbeat(heartbeat("alice", "t")).await.unwrap();
    fixture.advance(3 * INTERVAL + HALF).await;
    assert_eq!((beats(&node).await, beats(&node).await), (1, 0));
    // It keeps its time all the same.
    fixture.advance(INTERVAL).await;
    assert_eq!((beats(&node).await, beats(&node).await), (1, 0));
}

pub(crate) async fn a_heartbeat_ends_with_its_ttl<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let _messages = node.hear(&user_channel("alice")).await;
    // Its second beat would be due at its end.
    node.start_heartbeat(Heartbeat { ttl: 2 * INTERVAL, ..heartbeat("alice", "t") }).await.unwrap();
    fixture.advance(INTERVAL + HALF).await;
    assert_eq!(beats(&node).await, 1);
    fixture.advance(INTERVAL).await;
    assert_eq!(beats(&node).await, 0);
    assert!(!node.stop_heartbeat(&user("alice"), &task("t")).await.unwrap(), "it has ended");
    assert_eq!(fixture.values_so_far(&node, &user_channel("alice")).await.len(), 1);
    // One that was never looked at until it was over says nothing either.
    node.start_heartbeat(Heartbeat { ttl: INTERVAL + HALF, ..heartbeat("alice", "t") }).await.unwrap();
    fixture.advance(2 * INTERVAL).await;
    assert_eq!(beats(&node).await, 0);
}

pub(crate) async fn a_heartbeat_that_is_started_again_is_replaced<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (one, two) = (fixture.node("one").await, fixture.node("two").await);
    let _messages = one.hear(&user_channel("alice")).await;
    let first = heartbeat("alice", "t");
    let ends_at = one.start_heartbeat(first.clone()).await.unwrap();
    two.start_heartbeat(Heartbeat { interval: FAR, ..first.clone() }).await.unwrap();
    fixture.advance(INTERVAL + HALF).await;
    assert_eq!(beats(&one).await, 0, "another interval begins anew");
    let message_head = head(&first.user, &first.task, "epoch 2");
    let again = one.start_heartbeat(Heartbeat { message_head, ttl: 2 * FAR, ..first }).await.unwrap();
    assert!(again > ends_at + FAR.as_secs_f64(), "the new ttl counts from now: {again} {ends_at}");
    fixture.advance(INTERVAL + HALF).await;
    assert_eq!(beats(&two).await, 1, "there is one heartbeat for each task");
    let heard = fixture.values_so_far(&one, &user_channel("alice")).await;
    assert_eq!(heard[0]["message"], "epoch 2");
}

pub(crate) async fn a_heartbeat_that_is_renewed_keeps_its_time<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    node.start_heartbeat(heartbeat("alice", "t")).await.unwrap();
    // A worker that says more often than it beats that it is still there.
    fixture.advance(HALF).await;
    node.start_heartbeat(heartbeat("alice", "t")).await.unwrap();
    fixture.advance(HALF + HALF / 2).await;
    node.start_heartbeat(heartbeat("alice", "t")).await.unwrap();
    assert_eq!(beats(&node).await, 1);
}

pub(crate) async fn a_stopped_heartbeat_is_silent_and_leaves_the_others_alone<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (one, two) = (fixture.node("one").await, fixture.node("two").await);
    let _messages = one.hear(&user_channel("alice")).await;
    for name in ["t", "u"] {
        one.start_heartbeat(heartbeat("alice", name)).await.unwrap();
    }
    assert!(!two.stop_heartbeat(&user("bob"), &task("t")).await.unwrap(), "bob has none");
    assert!(two.stop_heartbeat(&user("alice"), &task("t")).await.unwrap());
    assert!(!two.stop_heartbeat(&user("alice"), &task("t")).await.unwrap(), "it was stopped before");
    fixture.advance(INTERVAL + HALF).await;
    assert_eq!(beats(&one).await, 1);
    assert_eq!(fixture.values_so_far(&one, &user_channel("alice")).await[0]["task_id"], "u");
}

pub(crate) async fn the_heartbeat_of_a_cancelled_task_is_silent_until_the_lift<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    for (user_name, task_name) in [("alice", "t"), ("alice", "u"), ("bob", "t")] {
        node.start_heartbeat(heartbeat(user_name, task_name)).await.unwrap();
    }
    node.cancel_task(&user("alice"), &task("t"), &Canceller::Producer).await.unwrap();
    fixture.advance(INTERVAL + HALF).await;
    assert_eq!(beats(&node).await, 2, "alice's other task and bob's of the same name go on");
    node.cancel_tasks_named(&task("t"), &Canceller::Producer).await.unwrap();
    fixture.advance(INTERVAL).await;
    assert_eq!(beats(&node).await, 1, "only alice's other task goes on");
    node.lift(Some(&user("alice")), &task("t")).await.unwrap();
    node.lift(None, &task("t")).await.unwrap();
    fixture.advance(INTERVAL).await;
    assert_eq!(beats(&node).await, 3, "a lift brings them back");
}

pub(crate) async fn heartbeats_of_any_names_are_told_apart<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let names = odd_names();
    let mut wanted = Vec::new();
    for (at, name) in names.iter().enumerate() {
        wanted.push(node.hear(&user_channel(name)).await);
        // Each user has a task of its own name and one of the next name.
        for task_name in [name, &names[(at + 1) % names.len()]] {
            node.start_heartbeat(Heartbeat { interval: HALF, ..heartbeat(name, task_name) }).await.unwrap();
        }
    }
    for name in names.iter().step_by(2) {
        assert!(node.stop_heartbeat(&user(name), &task(name)).await.unwrap(), "{name:?}");
    }
    fixture.advance(INTERVAL).await;
    assert_eq!(beats(&node).await, 2 * names.len() as u64 - names.len().div_ceil(2) as u64);
    for (at, name) in names.iter().enumerate() {
        let heard = fixture.values_so_far(&node, &user_channel(name)).await;
        let mut tasks: Vec<_> = heard.iter().map(|beat| beat["task_id"].as_str().unwrap()).collect();
        tasks.sort_unstable();
        let mut expected = vec![names[(at + 1) % names.len()].as_str()];
        if at % 2 == 1 {
            expected.push(name);
        }
        expected.sort_unstable();
        assert_eq!(tasks, expected, "{name:?}");
        assert!(heard.iter().all(|beat| beat["user_id"] == *name), "{name:?}");
    }
}

pub(crate) async fn a_great_many_heartbeats_due_at_once_are_all_sent<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    // One partition, more than one script would want to send at once; the interval has to outlast the starting.
    let interval = Duration::from_secs(2);
    for n in 0..250 {
        node.start_heartbeat(Heartbeat { interval, ..heartbeat("alice", &n.to_string()) }).await.unwrap();
    }
    fixture.advance(interval).await;
    assert_eq!(beats(&node).await, 250);
    assert_eq!(node.sweep().await.unwrap().timed_out, 0);
}

//! Redis, nodes and the network fail; questions and answers do not.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use std::time::{Duration, Instant};

use harness::{Cluster, Device, Node, PATIENCE, RedisServer, TcpProxy, callback_id, eventually};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn a_node_that_starts_without_redis_says_so_and_recovers_when_it_comes() {
    let mut redis = RedisServer::reserved();
    let node = Node::builder().redis(&redis).start_listening().await;
    assert_eq!(node.readiness().await, 503);
    assert_eq!(node.api().get("/health/live").await.status, 200, "it lives, it is just of no use yet");
    eventually(PATIENCE, "a log line that says which Redis is missing", || async {
        let says = |line: &String| {
            let bad = line.contains("\"WARN\"") || line.contains("\"ERROR\"");
            bad && line.to_lowercase().contains("redis")
        };
        node.process().log().iter().any(says).then_some(())
    })
    .await;
    let refused = Device::dial(&node.ws_url(), &[]).await.expect_err("nobody is let in yet");
    assert_eq!(refused.status, 503, "{refused:?}");
    let refused = node.api().post("/v1/broadcast", &json!({})).await;
    assert_eq!(refused.status, 503);
    assert!(!refused.header("retry-after").is_empty(), "{refused:?}");

    redis.restart().await;
    node.wait_for_readiness(200).await;
    let mut alice = Device::of_user(&node.ws_url(), "alice").await;
    node.api().post("/v1/broadcast", &json!({"type": "news"})).await.expect_status(200);
    alice.expect_type("news").await;
}

#[tokio::test]
async fn sockets_stay_while_redis_is_away_and_everything_resumes_by_itself() {
    let mut cluster = Cluster::start(2).await;
    let mut alice = cluster.device(0, "alice").await;
    let mut bob = cluster.device(1, "bob").await;
    bob.subscribe("room:7").await;
    let id = cluster.api(0).ask("alice", "t1", json!({})).await;
    alice.expect_type("task_step_result").await;

    cluster.redis_mut().kill();
    for node in cluster.nodes() {
        node.wait_for_readiness(503).await;
        assert_eq!(node.api().get("/health/live").await.status, 200);
    }
    alice.ping().await;
    let verdict = alice.confirm_with(&id, json!({"proceed": true, "answer_id": "a-1"})).await;
    assert_eq!(verdict["reason"], "unavailable", "nothing was decided: {verdict}");

    cluster.redis_mut().restart().await;
    for node in cluster.nodes() {
        node.wait_for_readiness(200).await;
    }
    let api = cluster.api(0);
    api.post("/v1/topics/room:7/messages", &json!({"type": "said"})).await.expect_status(200);
    bob.expect_type("said").await;
    cluster.api(1).post("/v1/users/alice/messages", &json!({"type": "hers"})).await.expect_status(200);
    alice.expect_type("hers").await;
    let verdict = alice.confirm_with(&id, json!({"proceed": true, "answer_id": "a-1"})).await;
    assert_eq!(verdict["type"], "confirmation_accepted", "the question has survived: {verdict}");
    assert_eq!(cluster.api(1).wait(&id, 5).await.expect_status(200)["status"], "confirmed");
}

#[tokio::test]
async fn a_cut_subscription_is_taken_up_again_as_often_as_it_is_cut() {
    let cluster = Cluster::start(2).await;
    let mut alice = cluster.device(0, "alice").await;
    alice.subscribe("room:7").await;
    for n in 0..3 {
        let killed: u64 = cluster.redis().query(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        assert!(killed >= 2, "both nodes were subscribed");
        for channel in ["cs:user:alice", "cs:topic:room:7"] {
            cluster.redis().wait_for_listeners(channel, 1).await;
        }
        cluster.node(1).wait_for_readiness(200).await;
        let api = cluster.api(1);
        api.post("/v1/topics/room:7/messages", &json!({"type": "said", "n": n})).await.expect_status(200);
        assert_eq!(alice.expect_type("said").await["n"], n);
        api.post("/v1/users/alice/messages", &json!({"type": "hers", "n": n})).await.expect_status(200);
        assert_eq!(alice.expect_type("hers").await["n"], n);
    }
}

#[tokio::test]
async fn after_a_lost_subscription_a_device_is_told_what_is_still_open() {
    let cluster = Cluster::start(2).await;
    let mut alice = cluster.device(0, "alice").await;
    let id = cluster.api(1).ask("alice", "t1", json!({})).await;
    alice.expect_type("task_step_result").await;
    let _: u64 = cluster.redis().query(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    let list = alice.expect_type("open_callbacks").await;
    assert_eq!(list["callback_ids"], json!([id]));
}

#[tokio::test]
async fn a_node_whose_redis_stands_still_is_not_ready_until_it_moves_again() {
    let redis = RedisServer::start().await;
    let proxy = TcpProxy::to(redis.address()).await;
    let node = Node::builder().env("REDIS_URL", format!("redis://{}/0", proxy.address())).start().await;
    let mut alice = Device::of_user(&node.ws_url(), "alice").await;
    proxy.stall();
    node.wait_for_readiness(503).await;
    alice.ping().await;
    proxy.resume();
    node.wait_for_readiness(200).await;
    redis.query::<u64>(&["PUBLISH", "cs:user:alice", r#"{"type":"hers"}"#]).await;
    alice.expect_type("hers").await;
}

#[tokio::test]
async fn a_wait_ends_in_time_even_when_redis_stands_still() {
    let redis = RedisServer::start().await;
    let proxy = TcpProxy::to(redis.address()).await;
    let node = Node::builder().env("REDIS_URL", format!("redis://{}/0", proxy.address())).start().await;
    let mut alice = Device::of_user(&node.ws_url(), "alice").await;
    let api = node.api();
    let started = Instant::now();
    let asking = api.notify("alice", "t1", "", json!({"timeout": 2, "on_timeout": "decline"}));
    let stalling = async {
        let question = alice.expect_type("task_step_result").await;
        proxy.stall();
        callback_id(&question)
    };
    let (reply, id) = tokio::join!(asking, stalling);
    // The deadline, one second, and what opening the callback took on a busy machine.
    assert!(started.elapsed() < Duration::from_millis(3_800), "{:?}", started.elapsed());
    assert_eq!(reply.status, 503, "not known, not a decision: {reply:?}");
    assert!(reply.body["proceed"].is_null(), "{reply:?}");

    proxy.resume();
    node.wait_for_readiness(200).await;
    let answer = api.wait(&id, 5).await.expect_status(200);
    assert_eq!((&answer["status"], &answer["proceed"]), (&json!("timed_out"), &json!(false)), "{answer}");
}

/// A caller hears within a second after the deadline of what it asked; the rest is for a busy machine.
const PAST_DEADLINE: Duration = Duration::from_millis(1_700);

#[tokio::test]
async fn a_question_to_a_redis_that_swallows_everything_is_answered_within_its_deadline_and_a_second() {
    let redis = RedisServer::start().await;
    let proxy = TcpProxy::to(redis.address()).await;
    let node = Node::builder().env("REDIS_URL", format!("redis://{}/", proxy.address())).start().await;
    let api = node.api();
    let message = json!({"type": "news"});
    proxy.stall();
    let begun = Instant::now();
    let (asked, opened, acked) = tokio::join!(
        api.notify("alice", "t1", "", json!({"timeout": 0.5, "idempotency_key": "k1"})),
        api.notify("alice", "t2", "?wait=0", json!({"timeout": 0.6})),
        async {
            let acked = api.post("/v1/users/alice/messages?ack=true&timeout=0.5", &message).await;
            (acked.status, begun.elapsed())
        },
    );
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(600) + PAST_DEADLINE, "{took:?}");
    assert!((acked.0, acked.1 < Duration::from_millis(500) + PAST_DEADLINE) == (503, true), "{acked:?}");
    let ids: Vec<String> = [asked, opened].into_iter().map(|reply| callback_id(&reply.expect_status(503))).collect();
    proxy.resume();
    node.wait_for_readiness(200).await;
    // Whether it was put is not known: it has ended by now, or there is no such question.
    for id in &ids {
        let state = api.wait(id, 5).await;
        assert!(state.status == 404 || state.body["status"] == "timed_out", "{state:?}");
    }
    // The key finds the same question, or puts it now.
    let again =
        api.notify("alice", "t1", "", json!({"timeout": 0.5, "idempotency_key": "k1"})).await.expect_status(200);
    assert_eq!(again["status"], "timed_out", "{again}");
}

#[tokio::test]
async fn a_node_that_dies_takes_no_question_and_no_answer_with_it() {
    let cluster = Cluster::start(3).await;
    let mut alice = cluster.device(0, "alice").await;
    let body = json!({
        "user_id": "alice", "task_id": "t1", "step": 1, "idempotency_key": "k-1",
        "step_result": {"step": "s", "message": "go on?", "status": "completed", "completed": true},
    });
    let dying = cluster.api(0);
    let asking = dying.try_send(Method::POST, "/v1/notifications", &[], Some(&body));
    let killing = async {
        let question = alice.expect_type("task_step_result").await;
        cluster.node(0).kill();
        callback_id(&question)
    };
    let (cut, id) = tokio::join!(asking, killing);
    assert!(cut.is_err(), "the caller sees the cut: {cut:?}");
    assert_eq!(alice.closed().await.code, 1006, "the device sees the cut");

    let mut alice = Device::connect(&format!("{}?user_id=alice", cluster.nginx().ws_url())).await;
    let list = alice.expect_type("open_callbacks").await;
    assert_eq!(list["callback_ids"], json!([id]));
    let balanced = cluster.balanced_api();
    let repeating = balanced.post("/v1/notifications", &body);
    let (answer, _) = tokio::join!(repeating, alice.confirm(&id, true));
    let answer = answer.expect_status(200);
    assert_eq!((callback_id(&answer), &answer["status"]), (id, &json!("confirmed")), "{answer}");
}

#[tokio::test]
async fn a_deadline_fires_although_the_asking_node_stands_still() {
    let cluster = Cluster::start(2).await;
    let mut alice = cluster.device(1, "alice").await;
    let id = cluster.api(0).ask("alice", "t1", json!({"timeout": 1, "on_timeout": "proceed"})).await;
    cluster.node(0).pause();
    let over = alice.expect_type("callback_resolved").await;
    assert_eq!((&over["callback_id"], &over["status"]), (&json!(id), &json!("timed_out")), "{over}");
    cluster.node(0).resume();
    let answer = cluster.api(0).wait(&id, 5).await.expect_status(200);
    assert_eq!((&answer["proceed"], &answer["resolution"]), (&json!(true), &json!("timeout")), "{answer}");
}

#[tokio::test]
async fn a_client_that_is_cut_off_leaves_nothing_behind() {
    let cluster = Cluster::start(1).await;
    let proxy = TcpProxy::to(cluster.node(0).address()).await;
    let mut alice = Device::of_user(&format!("ws://{}/ws", proxy.address()), "alice").await;
    alice.subscribe("room:7").await;
    proxy.cut();
    cluster.redis().wait_for_listeners("cs:user:alice", 0).await;
    cluster.redis().wait_for_listeners("cs:topic:room:7", 0).await;
}

#[tokio::test]
async fn a_client_that_stands_still_is_given_up() {
    let cluster =
        Cluster::builder(1).env("WEBSOCKET_PING_INTERVAL", "0.2").env("WEBSOCKET_PING_TIMEOUT", "0.2").start().await;
    let proxy = TcpProxy::to(cluster.node(0).address()).await;
    let mut alice = Device::of_user(&format!("ws://{}/ws", proxy.address()), "alice").await;
    proxy.stall();
    cluster.redis().wait_for_listeners("cs:user:alice", 0).await;
    proxy.resume();
    let closed = alice.closed().await;
    assert!([4002, 1006].contains(&closed.code), "{closed:?}");
}

#[tokio::test]
async fn a_slow_client_is_closed_and_holds_nobody_up() {
    let cluster = Cluster::builder(1).env("WEBSOCKET_OUTBOX_BYTES", "262144").start().await;
    let proxy = TcpProxy::to(cluster.node(0).address()).await;
    let mut slow = Device::of_user(&format!("ws://{}/ws", proxy.address()), "slow").await;
    let mut quick = cluster.device(0, "quick").await;
    proxy.stall();
    let text = "x".repeat(100_000);
    // Until the kernel's buffers are full, and then the outbox: some ten megabytes.
    let mut sent = 0_u64;
    while cluster.redis().listeners("cs:user:slow").await > 0 {
        sent += 1;
        assert!(sent < 1_000, "a hundred megabytes were kept for a client that does not read");
        let body = json!({"type": "bulk", "n": sent, "text": text});
        cluster.api(0).post("/v1/broadcast", &body).await.expect_status(200);
        assert_eq!(quick.expect_type("bulk").await["n"], sent, "the quick one hears everything, in order");
    }
    proxy.resume();
    let closed = slow.closed().await;
    assert!([4001, 1006].contains(&closed.code), "{closed:?}");
    assert!(slow.unread().len() < usize::try_from(sent).unwrap_or(usize::MAX), "it missed some");
}

#[tokio::test]
async fn a_producer_that_hangs_up_ends_its_wait_and_not_the_question() {
    let cluster = Cluster::start(1).await;
    let mut alice = cluster.device(0, "alice").await;
    let api = cluster.api(0);
    let id = {
        let asking = api.notify("alice", "t1", "", json!({}));
        tokio::pin!(asking);
        tokio::select! {
            reply = &mut asking => panic!("nobody has answered: {reply:?}"),
            question = alice.expect_type("task_step_result") => callback_id(&question),
        }
    };
    let channel = format!("cs:answer:{id}");
    cluster.redis().wait_for_listeners(&channel, 0).await;
    assert_eq!(alice.confirm(&id, true).await["type"], "confirmation_accepted");
    let answer: Value = cluster.api(0).wait(&id, 5).await.expect_status(200);
    assert_eq!(answer["status"], "confirmed");
}

#[tokio::test]
async fn a_held_wait_ends_with_the_answer_although_redis_was_away() {
    let mut cluster = Cluster::start(2).await;
    let mut alice = cluster.device(1, "alice").await;
    let waiting = cluster.api(0);
    let id = waiting.ask("alice", "t1", json!({})).await;
    let waiting = async { waiting.wait(&id, 40).await };
    let restarting = async {
        let channel = format!("cs:answer:{id}");
        cluster.redis().wait_for_listeners(&channel, 1).await;
        cluster.redis_mut().restart().await;
        cluster.node(1).wait_for_readiness(200).await;
        assert_eq!(alice.confirm(&id, true).await["type"], "confirmation_accepted");
    };
    let (answer, ()) = tokio::join!(waiting, restarting);
    assert_eq!(answer.expect_status(200)["status"], "confirmed");
}

#[tokio::test]
async fn an_answer_that_nobody_heard_is_found_by_reading() {
    let cluster = Cluster::start(2).await;
    let mut alice = cluster.device(1, "alice").await;
    let api = cluster.api(0);
    for round in 0..3 {
        let id = api.ask("alice", &format!("t{round}"), json!({})).await;
        let channel = format!("cs:answer:{id}");
        let answering = async {
            cluster.redis().wait_for_listeners(&channel, 1).await;
            // The decision is published into the gap before the nodes listen again.
            let _: u64 = cluster.redis().query(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
            alice.confirm(&id, true).await
        };
        let (answer, verdict) = tokio::join!(api.wait(&id, 20), answering);
        assert_eq!(verdict["type"], "confirmation_accepted", "{verdict}");
        assert_eq!(answer.expect_status(200)["status"], "confirmed");
        cluster.redis().wait_for_listeners("cs:user:alice", 1).await;
        cluster.node(0).wait_for_readiness(200).await;
    }
}

#[tokio::test]
async fn a_question_whose_fate_was_unknown_is_asked_once() {
    let redis = RedisServer::start().await;
    let proxy = TcpProxy::to(redis.address()).await;
    let node = Node::builder().env("REDIS_URL", format!("redis://{}/0", proxy.address())).start().await;
    let other = Node::builder().redis(&redis).start().await;
    let mut alice = Device::of_user(&other.ws_url(), "alice").await;
    let keyed = json!({"idempotency_key": "k-1"});

    proxy.stall();
    let unknown = node.api().notify("alice", "t1", "?wait=0", keyed.clone()).await;
    assert_eq!(unknown.status, 503, "{unknown:?}");
    proxy.resume();
    node.wait_for_readiness(200).await;
    // What was on its way arrives now, or does not; the repeat finds out.
    let first = node.api().ask("alice", "t1", keyed.clone()).await;
    let second = other.api().ask("alice", "t1", keyed).await;
    assert_eq!(first, second);
    assert_eq!(alice.expect_type("task_step_result").await["callback_id"], *first);
    other.api().post("/v1/broadcast", &json!({"type": "fence"})).await.expect_status(200);
    alice.expect_type("fence").await;
    alice.assert_none("second question", |message| message["type"] == "task_step_result");
}

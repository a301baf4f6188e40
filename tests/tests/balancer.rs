//! What the shipped nginx configuration does in front of real nodes.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use std::time::{Duration, Instant};

use harness::{Cluster, Device, PATIENCE, callback_id, eventually};
use serde_json::json;

#[tokio::test]
async fn nginx_leaves_a_node_that_is_gone_and_takes_it_back() {
    let mut cluster = Cluster::builder(2).env("DRAIN_TIMEOUT", "5").start().await;
    let api = cluster.balanced_api();
    cluster.node(0).terminate();
    assert_eq!(cluster.node(0).wait_exit(Cluster::drain_deadline()).await, Some(0));
    for n in 0..10 {
        api.post("/v1/broadcast", &json!({"type": "count", "n": n})).await.expect_status(200);
    }
    cluster.restart_node(0).await;
    let what = "a connection that nginx leads to the node which came back";
    eventually(PATIENCE, what, || async {
        let device = cluster.balanced_device("alice").await;
        (device.node_id() == "node-1").then_some(())
    })
    .await;
}

#[tokio::test]
async fn nginx_goes_on_to_a_node_that_is_ready() {
    let cluster = Cluster::builder(2).env("DRAIN_DELAY", "20").env("DRAIN_TIMEOUT", "25").start().await;
    cluster.node(0).terminate();
    cluster.node(0).wait_for_readiness(503).await;
    for _ in 0..10 {
        // The leaving node still listens, and answers 503 to whoever wants something.
        let device = cluster.balanced_device("alice").await;
        assert_eq!(device.node_id(), "node-2");
        cluster.balanced_api().get("/v1/callbacks?user_id=alice").await.expect_status(200);
    }
}

#[tokio::test]
async fn a_question_that_was_asked_is_not_asked_again_on_a_second_node() {
    let cluster = Cluster::start(3).await;
    let mut guest = Device::connect(&cluster.node(0).ws_url()).await;
    let api = cluster.balanced_api();
    let asking = api.notify("alice", "t1", "", json!({}));
    let killing = async {
        let question = guest.expect_type("task_step_result").await;
        let waiting = eventually(PATIENCE, "a node that waits for the answer", || async {
            for node in cluster.nodes() {
                if node.metric("countersign_waits", "").await > 0.5 {
                    return Some(node);
                }
            }
            None
        });
        waiting.await.kill();
        callback_id(&question)
    };
    let (reply, id) = tokio::join!(asking, killing);
    let problem = reply.expect_status(503);
    assert_eq!(problem["code"], "unavailable", "not known, ask again: {problem}");

    let mut alice = Device::connect(&format!("{}?user_id=alice", cluster.nginx().ws_url())).await;
    assert_eq!(alice.expect_type("open_callbacks").await["callback_ids"], json!([id]));
}

#[tokio::test]
async fn connections_survive_a_reload_of_nginx() {
    let cluster = Cluster::start(2).await;
    let mut alice = cluster.balanced_device("alice").await;
    cluster.nginx().reload();
    for n in 0..5 {
        let api = cluster.balanced_api();
        api.post("/v1/users/alice/messages", &json!({"type": "count", "n": n})).await.expect_status(200);
        assert_eq!(alice.expect_type("count").await["n"], n);
    }
    alice.ping().await;
}

#[tokio::test]
async fn the_node_sees_the_host_that_the_page_was_loaded_from() {
    let cluster = Cluster::start(1).await;
    let (url, own) = (cluster.nginx().ws_url(), cluster.nginx().url());
    Device::dial(&url, &[("Origin", &own)]).await.expect("the page's own host, with its port");
    let refused = Device::dial(&url, &[("Origin", "https://evil.example")]).await.expect_err("a foreign page");
    assert_eq!(refused.status, 403);
    let refused = Device::dial(&url, &[("Origin", &cluster.node(0).url())]).await.expect_err("the node's own address");
    assert_eq!(refused.status, 403);
}

#[tokio::test]
async fn the_largest_message_passes_and_operations_do_not() {
    let cluster = Cluster::start(1).await;
    let mut alice = cluster.balanced_device("alice").await;
    let api = cluster.balanced_api();
    let text = "x".repeat(1_000_000);
    api.post("/v1/users/alice/messages", &json!({"type": "long", "text": text})).await.expect_status(200);
    assert_eq!(alice.expect_type("long").await["text"], text);
    for path in ["/health/ready", "/health/live", "/metrics"] {
        assert_eq!(api.get(path).await.status, 404, "{path}");
        assert_eq!(cluster.api(0).get(path).await.status, 200, "{path} of the node itself");
    }
}

#[tokio::test]
async fn a_wait_through_nginx_is_over_within_a_second_although_no_node_knows() {
    let cluster = Cluster::start(3).await;
    let id = cluster.api(0).ask("alice", "t1", json!({"timeout": 0.1, "on_timeout": "decline"})).await;
    assert_eq!(cluster.api(0).wait(&id, 5).await.expect_status(200)["status"], "timed_out");
    cluster.redis().pause();
    let began = Instant::now();
    let reply = cluster.balanced_api().wait(&id, 5).await;
    let took = began.elapsed();
    cluster.redis().resume();
    assert_eq!(reply.status, 503, "{reply:?}");
    // The deadline is over: one second from the request, and what a busy machine adds. A second node would add its own.
    assert!(took < Duration::from_millis(1_600), "{took:?}");
}

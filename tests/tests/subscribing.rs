//! A subscription that cannot be made now: the client is told which topic it does not hear, and the SDK asks again.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use countersign_client::{Client, Event};
use harness::{Cluster, PATIENCE, eventually};
use serde_json::json;
use tokio::time::timeout;

#[tokio::test]
async fn a_subscription_that_cannot_be_made_names_its_topics_and_is_made_again_by_the_sdk() {
    let cluster = Cluster::start(1).await;
    let mut device = cluster.device(0, "bob").await;
    let client = Client::new(&cluster.node(0).ws_url()).unwrap().user_id("alice").unwrap();
    let mut alice = client.connect().await.unwrap();
    let remote = alice.remote();
    cluster.redis().pause();
    let subscribing = tokio::spawn(async move { remote.subscribe("room:7").await });
    for (topics, named) in
        [(json!(["room:7"]), ("topic", json!("room:7"))), (json!(["a", "b"]), ("topics", json!(["a", "b"])))]
    {
        device.send(json!({"action": "subscribe", "id": 7, "topics": topics})).await;
        let error = device.expect_type("error").await;
        assert_eq!((&error["code"], &error["reply_to"]), (&json!("unavailable"), &json!(7)), "{error}");
        assert_eq!(error[named.0], named.1, "{error}");
        assert!(error["message"].as_str().is_some_and(|message| message.contains("subscribe again")), "{error}");
    }
    // As long as Redis stands still the SDK asks again, too.
    eventually(PATIENCE, "two refusals of each", || async {
        let refused = cluster.node(0).metric("countersign_action_errors_total", "code=\"unavailable\"").await;
        (refused >= 4.0).then_some(())
    })
    .await;
    assert!(!subscribing.is_finished(), "it goes on");
    cluster.redis().resume();
    let hearing = async {
        while let Some(event) = alice.next().await {
            if let Event::Message(message) = event {
                return message;
            }
        }
        panic!("the connection goes on")
    };
    let publishing = async {
        subscribing.await.unwrap().unwrap();
        cluster.node(0).wait_for_readiness(200).await;
        cluster.api(0).post("/v1/topics/room:7/messages", &json!({"n": 1})).await.expect_status(200);
    };
    let (message, ()) = timeout(PATIENCE, async { tokio::join!(hearing, publishing) }).await.expect("a message");
    assert_eq!(message.body["n"], 1);
}

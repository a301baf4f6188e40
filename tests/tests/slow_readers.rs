//! A reader that is too slow, and prefers missing messages to being closed (`WEBSOCKET_SLOW_CONSUMER=drop`): it is told which
//! ones before it hears more, and history gives them back.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use countersign_ws::{Header, Opcode};
use harness::{Device, Node, PATIENCE, RawClient, RedisServer, eventually};
use serde_json::{Value, json};

async fn node(redis: &RedisServer) -> Node {
    let builder = Node::builder().redis(redis).env("WEBSOCKET_SLOW_CONSUMER", "drop");
    builder.env("HISTORY_SIZE", "5000").start().await
}

/// Publishes numbers until the node has left some out, though `quick` hears each; the number after the last.
async fn publish_until_some_are_left_out(node: &Node, quick: &mut Device) -> u64 {
    let mut n = 1;
    while node.metric("countersign_messages_dropped_total", "").await == 0.0 {
        for _ in 0..50 {
            let message = json!({"type": "number", "n": n, "padding": "x".repeat(20_000)});
            node.api().post("/v1/topics/room:1/messages", &message).await.expect_status(200);
            assert_eq!(quick.expect_type("number").await["n"], n, "one slow reader is nothing to the others");
            n += 1;
        }
        assert!(n < 4000, "nothing was left out of {n} messages to a client that does not read");
    }
    n
}

/// Two who hear the same room, one of whom does not read yet.
async fn slow_and_quick(node: &Node) -> (RawClient, Device) {
    let mut slow = RawClient::with_window(node, "/ws?user_id=slow&topic=room:1", 4096).await;
    slow.next_of("subscription_confirmed").await;
    let mut quick = Device::of_user(&node.ws_url(), "quick").await;
    quick.subscribe("room:1").await;
    (slow, quick)
}

async fn next(client: &mut RawClient) -> Value {
    loop {
        match client.heard.pop_front() {
            Some(message)
                if ["number", "messages_dropped", "subscription_confirmed"]
                    .contains(&message["type"].as_str().unwrap_or_default()) =>
            {
                return message;
            }
            Some(_) => {}
            None => client.read().await,
        }
    }
}

#[tokio::test]
async fn a_slow_reader_hears_what_it_misses_before_it_hears_more_and_history_gives_it_back() {
    let redis = RedisServer::start().await;
    let node = node(&redis).await;
    let (mut slow, mut quick) = slow_and_quick(&node).await;
    let published = publish_until_some_are_left_out(&node, &mut quick).await;

    // Now it reads: what had waited, in order, then what it has missed, told once.
    let mut heard = 0;
    let told = loop {
        let message = next(&mut slow).await;
        if message["type"] == "messages_dropped" {
            break message;
        }
        heard += 1;
        assert_eq!(message["n"], heard, "no silent hole");
    };
    assert_eq!((&told["topic"], told["count"].as_u64()), (&json!("room:1"), Some(published - 1 - heard)), "{told}");
    assert_eq!(told["position"]["offset"], heard);

    // The same once more, if it takes what was missed while it reads.
    let subscribe = json!({"action": "subscribe", "topics": [{"topic": "room:1", "since": told["position"]}]});
    slow.send(Header::whole(Opcode::Text, 0), subscribe.to_string().as_bytes()).await;
    let answer = next(&mut slow).await;
    assert_eq!(answer["type"], "subscription_confirmed");
    assert_eq!(answer["recovered"], true, "{answer}");
    for n in heard + 1..published {
        assert_eq!(next(&mut slow).await["n"], n);
    }
    assert_eq!(slow.closed, None);
}

#[tokio::test]
async fn a_question_is_never_left_out_so_it_closes_the_connection_that_has_no_room_for_it() {
    let redis = RedisServer::start().await;
    let node = node(&redis).await;
    let (mut slow, mut quick) = slow_and_quick(&node).await;
    publish_until_some_are_left_out(&node, &mut quick).await;
    node.api()
        .ask(
            "slow",
            "task_1",
            json!({"step_result": {"message": "x".repeat(900_000), "status": "completed", "completed": true}}),
        )
        .await;
    eventually(PATIENCE, "the slow consumer closed", || async {
        (node.metric("countersign_slow_consumers_total", "").await >= 1.0).then_some(())
    })
    .await;
    while slow.closed.is_none() {
        slow.read().await;
    }
    assert_eq!(slow.closed, Some(4001));
}

//! What people write: it reaches the task whatever characters are in it, or they are told that it does not, so that a no is
//! never lost and taken for silence.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use countersign_client::{Callback, Client, Connection, Event, Status, Verdict};
use countersign_ws::{Header, Opcode, frame};
use harness::{Cluster, Device, Node, PATIENCE, RawClient};
use serde_json::{Value, json};
use tokio::time::timeout;

/// A question whose deadline means yes.
async fn ask(node: &Node, task: &str) -> String {
    node.api().ask("alice", task, json!({"on_timeout": "proceed"})).await
}

fn answer(callback_id: &str, feedback: &str) -> String {
    format!(r#"{{"action":"confirm","id":7,"callback_id":"{callback_id}","proceed":false,"feedback":"{feedback}"}}"#)
}

/// Waits for an event that `wanted` makes something of; what comes before is passed over.
async fn next<T>(connection: &mut Connection, wanted: impl Fn(Event) -> Option<T>) -> T {
    let found = async {
        loop {
            let event = connection.next().await.expect("the connection goes on");
            if let Some(found) = wanted(event) {
                return found;
            }
        }
    };
    timeout(PATIENCE, found).await.expect("the event should have come")
}

async fn sdk(node: &Node, user: &str) -> Connection {
    let client = Client::new(&node.ws_url()).and_then(|client| client.user_id(user)).expect("a test's own names");
    client.connect().await.expect("the node is there")
}

fn callback(event: Event) -> Option<Box<Callback>> {
    if let Event::Callback(callback) = event { Some(callback) } else { None }
}

#[tokio::test]
async fn a_no_with_half_an_emoji_is_a_no() {
    let node = Node::builder().start().await;
    let mut alice = Device::of_user(&node.ws_url(), "alice").await;
    for (feedback, told) in [(r"x\ud83d", "x\u{fffd}"), (r"\ude00", "\u{fffd}"), (r"\ud83d\ude00", "\u{1f600}")] {
        let id = ask(&node, "t").await;
        alice.send_raw(answer(&id, feedback)).await;
        let accepted = alice.expect_type("confirmation_accepted").await;
        assert_eq!((&accepted["callback_id"], &accepted["reply_to"]), (&json!(id), &json!(7)), "{accepted}");
        let decision = node.api().wait(&id, 5).await.expect_status(200);
        assert_eq!((&decision["proceed"], &decision["feedback"]), (&json!(false), &json!(told)), "{decision}");
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_taken_is_rejected_by_name_and_can_be_given_again() {
    let node = Node::builder().start().await;
    let mut alice = Device::of_user(&node.ws_url(), "alice").await;
    let id = ask(&node, "t").await;
    let deep = format!("{}{}", "[".repeat(130), "]".repeat(130));
    let nested = format!("{}{}", "[".repeat(101), "]".repeat(101));
    for (wrong, why) in [
        (r#""data":{"n":1e400}"#.to_owned(), "number out of range"),
        (format!(r#""data":{deep}"#), "recursion limit"),
        (format!(r#""data":{nested}"#), "data: expected at most 100 nested objects and arrays"),
        (r#""data":{"n":01}"#.to_owned(), "Invalid JSON format"),
        (r#""feedback":5"#.to_owned(), "feedback: expected a string"),
        (r#""answer_id":"""#.to_owned(), "answer_id"),
    ] {
        alice.send_raw(format!(r#"{{"action":"confirm","id":7,"callback_id":"{id}","proceed":false,{wrong}}}"#)).await;
        let rejected = alice.expect_type("confirmation_rejected").await;
        assert_eq!(
            (&rejected["callback_id"], &rejected["reason"], &rejected["reply_to"]),
            (&json!(id), &json!("invalid"), &json!(7)),
            "{wrong}: {rejected}"
        );
        assert!(rejected["message"].as_str().is_some_and(|message| message.contains(why)), "{wrong}: {rejected}");
    }
    alice.send_raw(r#"{"action":"ping","id":"p","n":1e400}"#).await;
    assert_eq!(alice.expect_type("error").await["reply_to"], "p");
    assert_eq!(alice.confirm(&id, false).await["type"], "confirmation_accepted", "the question is still open");
    assert_eq!(node.api().wait(&id, 5).await.expect_status(200)["status"], "declined");
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_rejected_before_the_connection_is_closed() {
    let node = Node::builder().start().await;
    let id = ask(&node, "t").await;
    for feedback in [66_000, 5_000_000] {
        let mut alice = Device::of_user(&node.ws_url(), "alice").await;
        alice.send_raw(answer(&id, &"x".repeat(feedback))).await;
        let rejected = alice.expect_type("confirmation_rejected").await;
        assert_eq!(
            (&rejected["callback_id"], &rejected["reason"], &rejected["reply_to"]),
            (&json!(id), &json!("invalid"), &json!(7)),
            "{rejected}"
        );
        let error = alice.expect_type("error").await;
        assert_eq!(
            (&error["code"], &error["limit"], &error["reply_to"]),
            (&json!("too_long"), &json!(65_536), &json!(7)),
            "{error}"
        );
        assert_eq!(alice.closed().await.code, 1009);
    }
    let mut alice = Device::of_user(&node.ws_url(), "alice").await;
    assert_eq!(alice.confirm(&id, false).await["type"], "confirmation_accepted", "the question is still open");
    node.wait_for_metric("countersign_action_errors_total", "code=\"too_long\"", 2.0).await;
}

#[tokio::test]
async fn a_head_that_comes_late_and_in_pieces_is_waited_for() {
    let node = Node::builder().start().await;
    let id = ask(&node, "t").await;
    let mut alice = RawClient::connect(&node, "alice", None).await;
    let mut bytes = Vec::new();
    let header = Header { mask: Some([1, 2, 3, 4]), ..Header::whole(Opcode::Text, 0) };
    frame::append(header, answer(&id, &"x".repeat(70_000)).as_bytes(), &mut bytes);
    let mut rest = &bytes[..];
    for piece in [14, 1, 30, 100, 500] {
        let (first, others) = rest.split_at(piece);
        alice.write(first).await;
        // Time for the node to read it.
        node.api().get("/health/live").await.expect_status(200);
        rest = others;
    }
    alice.write(rest).await;
    let rejected = alice.next_of("confirmation_rejected").await;
    assert_eq!((&rejected["callback_id"], &rejected["reply_to"]), (&json!(id), &json!(7)), "{rejected}");
    assert_eq!(alice.next_of("error").await["reply_to"], 7);
}

#[tokio::test]
async fn the_sdk_comes_back_without_the_answer_that_was_too_long() {
    let node = Node::builder().start().await;
    let id = ask(&node, "t").await;
    let mut alice = sdk(&node, "alice").await;
    let question = next(&mut alice, callback).await;
    assert_eq!(question.callback_id.to_string(), id);
    let long = "x".repeat(66_000);
    match timeout(PATIENCE, alice.confirm(question.callback_id, false, Some(&long))).await.expect("a verdict") {
        Ok(Verdict::Invalid(why)) => assert!(why.contains("65536 bytes"), "{why}"),
        other => panic!("{other:?}"),
    }
    let connected = |event| matches!(event, Event::Connected(_)).then_some(());
    next(&mut alice, |event| matches!(event, Event::Disconnected { code: Some(1009), .. }).then_some(())).await;
    next(&mut alice, connected).await;
    let verdict = timeout(PATIENCE, alice.confirm(question.callback_id, false, Some("too long"))).await;
    assert_eq!(verdict.expect("a verdict").unwrap(), Verdict::Accepted);
    let decision = node.api().wait(&id, 5).await.expect_status(200);
    assert_eq!((&decision["status"], &decision["feedback"]), (&json!("declined"), &json!("too long")), "{decision}");
}

/// `{"half":"x\ud83d"}` and a key that is half an emoji.
const HALF: &str = r#"{"half":"x\ud83d","\udc00":1}"#;

#[tokio::test]
async fn half_an_emoji_is_published_through_every_door_and_read_by_the_sdk() {
    let cluster = Cluster::start(1).await;
    let (node, api, redis) = (cluster.node(0), cluster.api(0), cluster.redis());
    let mut alice = sdk(node, "alice").await;
    alice.subscribe("room:7").await.unwrap();
    let told = |event| if let Event::Message(message) = event { Some(message) } else { None };
    let mut publisher = cluster.device(0, "bob").await;
    for door in 0..8 {
        match door {
            0 => drop(api.post_text("/v1/broadcast", HALF).await.expect_status(200)),
            1 => drop(api.post_text("/v1/users/alice/messages", HALF).await.expect_status(200)),
            2 => drop(api.post_text("/v1/topics/room:7/messages", HALF).await.expect_status(200)),
            3 => {
                let batch = format!(r#"{{"messages":[{{"address":"topic:room:7","message":{HALF}}}]}}"#);
                let results = api.post_text("/v1/batch", &batch).await.expect_status(200);
                assert!(results["results"][0]["error"].is_null(), "{results}");
            }
            4 => drop(redis.query::<String>(&["XADD", "cs:inbox", "*", "op", "broadcast", "body", HALF]).await),
            5 => drop(redis.query::<u64>(&["PUBLISH", "cs:broadcast", HALF]).await),
            6 => drop(redis.query::<u64>(&["PUBLISH", "cs:user:alice", HALF]).await),
            _ => publisher.send_raw(format!(r#"{{"action":"publish","topic":"room:7","message":{HALF}}}"#)).await,
        }
        let message = next(&mut alice, told).await;
        assert_eq!(Value::Object(message.body), json!({"half": "x\u{fffd}", "\u{fffd}": 1}), "door {door}");
    }
    // A key that cannot be read does not hide one that is reserved.
    for body in [r#"{"\ud83d":1,"_meta":{"topic":"x"}}"#, r#"{"_meta":{},"\udc00":1}"#] {
        let refused = api.post_text("/v1/broadcast", body).await.expect_status(400);
        assert_eq!(refused["field"], "_meta", "{refused}");
    }
}

#[tokio::test]
async fn half_an_emoji_is_asked_through_every_door_and_read_by_the_sdk() {
    let cluster = Cluster::start(1).await;
    let mut alice = sdk(cluster.node(0), "alice").await;
    let question = |task: &str| {
        format!(
            r#"{{"user_id":"alice","task_id":"{task}","step_result":{{"message":"go on \ud83d?","status":"s","result":{HALF}}}}}"#
        )
    };
    cluster.api(0).post_text("/v1/notifications?wait=0", &question("http")).await.expect_status(202);
    let inbox = question("inbox");
    cluster.redis().query::<String>(&["XADD", "cs:inbox", "*", "op", "notify", "body", &inbox]).await;
    for task in ["http", "inbox"] {
        let shown = next(&mut alice, callback).await;
        assert_eq!((shown.task_id.as_str(), shown.message.as_str()), (task, "go on \u{fffd}?"));
        assert_eq!(shown.result, json!({"half": "x\u{fffd}", "\u{fffd}": 1}));
    }
}

#[tokio::test]
async fn a_message_with_a_number_that_the_sdk_cannot_read_is_a_gap() {
    let node = Node::builder().start().await;
    let mut alice = sdk(&node, "alice").await;
    next(&mut alice, |event| matches!(event, Event::OpenCallbacks(_)).then_some(())).await;
    node.api().post_text("/v1/broadcast", r#"{"n":1e400}"#).await.expect_status(200);
    node.api().post_text("/v1/broadcast", r#"{"n":1}"#).await.expect_status(200);
    let heard = |event| match event {
        Event::Gap { address, position } => Some((address.to_string(), position.map(|position| position.offset))),
        Event::Message(message) => Some((message.body["n"].to_string(), message.position.map(|at| at.offset))),
        _ => None,
    };
    assert_eq!(next(&mut alice, heard).await, ("broadcast".to_owned(), Some(1)));
    assert_eq!(next(&mut alice, heard).await, ("1".to_owned(), Some(2)));
}

#[tokio::test]
async fn the_deepest_data_that_is_taken_is_read_by_the_waiting_task_and_by_the_loser() {
    let node = Node::builder().start().await;
    let mut bob = sdk(&node, "alice").await;
    let id = ask(&node, "t").await;
    let question = next(&mut bob, callback).await;
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    let mut alice = Device::of_user(&node.ws_url(), "alice").await;
    alice.send_raw(format!(r#"{{"action":"confirm","callback_id":"{id}","proceed":false,"data":{deep}}}"#)).await;
    alice.expect_type("confirmation_accepted").await;
    let producer = countersign_client::Producer::new(&node.url()).unwrap();
    let decision = producer.wait(question.callback_id).await.unwrap();
    assert_eq!((decision.status, decision.data.map(|data| data.to_string())), (Status::Declined, Some(deep.clone())));
    match timeout(PATIENCE, bob.confirm(question.callback_id, true, None)).await.expect("a verdict") {
        Ok(Verdict::AlreadyResolved(Some(won))) => assert_eq!(won.data.map(|data| data.to_string()), Some(deep)),
        other => panic!("{other:?}"),
    }
}

//! Reply lists: at least once, whoever ends the callback and whoever dies then.

use std::time::Duration;

use countersign_backplane::{
    Callbacks, Doors, Settings,
    callbacks::{Answerer, Canceller, Confirm, OpenCallback},
};
use countersign_protocol::{Answer, Decision, Partition, Resolution, Status, ids::ReplyName};

use crate::{
    node::{Node, eventually, keyed, question, task, user},
    server::{Client, Server},
};

fn replied(question: OpenCallback, list: &str) -> OpenCallback {
    OpenCallback { reply_to: Some(ReplyName::parse(list).unwrap()), ..question }
}

fn yes(asked: &OpenCallback) -> Confirm {
    let answer = Answer { proceed: Some(true), answer_id: Some("a1".to_owned()), ..Answer::default() };
    Confirm {
        id: asked.id,
        by: Answerer::User(asked.user.clone()),
        answer,
        proceed: true,
        judged: false,
        must_be_judged: false,
        connection: None,
    }
}

/// What is in a list, as decisions.
async fn decisions(client: &mut Client, list: &str) -> Vec<Decision> {
    let mut command = redis::cmd("LRANGE");
    command.arg(format!("cs:reply:{list}")).arg(0).arg(-1);
    let texts: Vec<String> = client.run(&command).await;
    texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
}

/// Waits until Redis's clock, which deadlines are judged by, is past this one (Unix seconds).
async fn is_past(client: &Client, deadline: f64) {
    eventually("the deadline", || {
        let mut client = client.clone();
        async move {
            let (seconds, micros): (f64, f64) = client.ask("TIME").await;
            (seconds + micros / 1e6 > deadline).then_some(())
        }
    })
    .await;
}

async fn outbox(client: &mut Client, asked: &OpenCallback) -> Vec<String> {
    client.ask(&format!("ZRANGE cs:{{p{}}}:replies 0 -1", asked.id.partition())).await
}

#[tokio::test]
async fn everything_that_ends_a_callback_replies_at_once() {
    let server = Server::start();
    let node = Node::up(&server.url(), Settings::default()).await;
    let mut client = server.client().await;
    let soon = |question| OpenCallback { timeout: Duration::from_millis(1), ..question };
    for (how, status) in [
        ("confirm", Status::Confirmed),
        ("withdraw", Status::Cancelled),
        ("cancel one", Status::Cancelled),
        ("cancel all", Status::Cancelled),
        ("cancelled before", Status::Cancelled),
        ("read", Status::TimedOut),
        ("list", Status::TimedOut),
        ("task", Status::TimedOut),
        ("sweep", Status::TimedOut),
    ] {
        let list = format!("of {{{how}}}:*");
        let asked = replied(question("alice", how), &list);
        match how {
            "confirm" => {
                node.open(asked.clone()).await.unwrap();
                node.confirm(yes(&asked)).await.unwrap();
                node.confirm(yes(&asked)).await.unwrap();
            }
            "withdraw" => {
                node.open(asked.clone()).await.unwrap();
                node.withdraw(asked.id).await.unwrap();
            }
            "cancel one" => {
                node.open(asked.clone()).await.unwrap();
                node.cancel_task(&asked.user, &asked.task, &Canceller::Producer).await.unwrap();
            }
            "cancel all" => {
                node.open(asked.clone()).await.unwrap();
                node.cancel_tasks_named(&asked.task, &Canceller::Producer).await.unwrap();
            }
            "cancelled before" => {
                node.cancel_task(&asked.user, &asked.task, &Canceller::Producer).await.unwrap();
                assert!(node.open(asked.clone()).await.unwrap().new);
            }
            _ => {
                let deadline = node.open(soon(asked.clone())).await.unwrap().callback.deadline;
                is_past(&client, deadline).await;
                match how {
                    "read" => drop(node.read(asked.id).await.unwrap()),
                    "list" => drop(node.open_callbacks(&asked.user).await.unwrap()),
                    "task" => drop(node.task(&user("alice"), &task("another")).await.unwrap()),
                    _ => drop(node.sweep().await.unwrap()),
                }
            }
        }
        let told = decisions(&mut client, &list).await;
        assert_eq!(told.len(), 1, "{how}: {told:?}");
        assert_eq!((told[0].callback_id, told[0].status), (asked.id, status), "{how}");
        assert_eq!(node.read(asked.id).await.unwrap().unwrap().decision.as_ref(), Some(&told[0]), "{how}");
        assert_eq!(outbox(&mut client, &asked).await, [""; 0], "{how}");
        let mut ttl = redis::cmd("PTTL");
        let ttl: i64 = client.run(ttl.arg(format!("cs:reply:{list}"))).await;
        assert!((1..=3_600_000).contains(&ttl), "{how}: {ttl}");
    }
}

#[tokio::test]
async fn many_questions_may_share_a_list_and_one_without_a_list_has_none() {
    let server = Server::start();
    let node = Node::up(&server.url(), Settings::default()).await;
    let mut client = server.client().await;
    for n in 0..300 {
        node.open(replied(question(&format!("user{n}"), "t"), "worker")).await.unwrap();
    }
    node.open(question("alice", "t")).await.unwrap();
    node.cancel_tasks_named(&task("t"), &Canceller::Producer).await.unwrap();
    assert_eq!(decisions(&mut client, "worker").await.len(), 300);
    let keys = client.keys().await;
    assert!(keys.iter().any(|key| key == "cs:reply:worker"));
    assert!(!keys.iter().any(|key| key.ends_with(":replies")), "every outbox is empty");
}

/// Runs a verb of callbacks as a node does that dies before it has read what the verb made.
async fn decide_and_die(client: &mut Client, asked: &OpenCallback) {
    let prelude = include_str!("../../src/redis/lua/prelude.lua");
    let confirm = include_str!("../../src/redis/lua/confirm.lua");
    let mut command = redis::cmd("EVAL");
    command
        .arg(format!("{prelude}\nlocal function verb()\n{confirm}\nend\nreturn with_replies(verb())"))
        .arg(1)
        .arg(format!("cs:{{p{}}}:cb:{}", asked.id.partition(), asked.id))
        .arg(format!("cs:{{p{}}}", asked.id.partition()))
        .arg("cs")
        .arg(0)
        .arg(3_600_000)
        .arg(asked.id.to_string())
        .arg(asked.user.as_str())
        .arg(format!("{:?}", asked.user.as_str()))
        .arg(1)
        .arg(["confirmed", "true", "null", "null", "null", "m:1", "", "n1"].as_slice());
    let (word, ..): (String, redis::Value, redis::Value) = client.run(&command).await;
    assert_eq!(word, "replies");
}

#[tokio::test]
async fn a_reply_whose_decider_died_is_pushed_by_a_sweep_and_only_once() {
    let server = Server::start();
    let (one, other) =
        (Node::up(&server.url(), Settings::default()).await, Node::up(&server.url(), Settings::default()).await);
    let mut client = server.client().await;
    let asked = replied(question("alice", "t"), "42");
    one.open(asked.clone()).await.unwrap();
    decide_and_die(&mut client, &asked).await;
    one.sweep().await.unwrap();
    assert_eq!(decisions(&mut client, "42").await, [], "it is left to the decider for a moment");
    let ttl: i64 = client.ask(&format!("PTTL cs:{{p{}}}:replies", Partition::of(&asked.user))).await;
    assert!((1..=3_600_000).contains(&ttl), "an outbox ends with the last record: {ttl}");
    let told = eventually("a reply", || {
        let mut client = client.clone();
        let (one, other) = (&one, &other);
        async move {
            let (first, second) = tokio::join!(one.sweep(), other.sweep());
            first.and(second).unwrap();
            Some(decisions(&mut client, "42").await).filter(|told| !told.is_empty())
        }
    })
    .await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].callback_id, told[0].resolution), (asked.id, Resolution::User));
    assert_eq!(outbox(&mut client, &asked).await, [""; 0]);
}

#[tokio::test]
async fn a_list_that_cannot_be_pushed_to_holds_up_nobody() {
    let server = Server::start();
    let node = Node::up(&server.url(), Settings::default()).await;
    let mut client = server.client().await;
    let _: () = client.ask("SET cs:reply:text x").await;
    let (wrong, right) = (replied(question("alice", "t"), "text"), replied(question("alice", "t"), "list"));
    for asked in [&wrong, &right] {
        node.open(asked.clone()).await.unwrap();
    }
    node.cancel_task(&wrong.user, &wrong.task, &Canceller::Producer).await.unwrap();
    assert_eq!(decisions(&mut client, "list").await.len(), 1);
    assert_eq!(outbox(&mut client, &wrong).await, [""; 0]);
    assert_eq!(client.ask::<String>("GET cs:reply:text").await, "x");
}

#[tokio::test]
async fn a_repeat_with_the_same_key_is_the_same_question_and_the_same_reply() {
    let server = Server::start();
    let node = Node::up(&server.url(), Settings::default()).await;
    let mut client = server.client().await;
    let first = keyed(replied(question("alice", "t"), "42"), "k", "d");
    let again = keyed(replied(question("alice", "t"), "42"), "k", "d");
    node.open(first.clone()).await.unwrap();
    assert_eq!(node.open(again.clone()).await.unwrap().callback.id, first.id);
    node.confirm(yes(&first)).await.unwrap();
    assert_eq!(node.open(again).await.unwrap().callback.status(), Status::Confirmed);
    assert_eq!(decisions(&mut client, "42").await.len(), 1);
}

#[tokio::test]
async fn a_reply_that_is_no_decision_is_pushed_and_a_list_that_is_none_stops_nobody() {
    let server = Server::start();
    let node = Node::up(&server.url(), Settings::default()).await;
    let mut client = server.client().await;
    let inbox = node.inbox().unwrap();
    let list = ReplyName::parse("job:42").unwrap();
    inbox.reply(&list, b"one").await.unwrap();
    inbox.reply(&list, b"two").await.unwrap();
    assert_eq!(client.ask::<Vec<String>>("LRANGE cs:reply:job:42 0 -1").await, ["one", "two"]);
    assert!(client.ask::<i64>("PTTL cs:reply:job:42").await > 0, "it ends on its own");
    client.ask::<()>("SET cs:reply:text x").await;
    inbox.reply(&ReplyName::parse("text").unwrap(), b"three").await.unwrap();
    server.pause();
    assert!(inbox.reply(&list, b"four").await.is_err(), "what may not have been pushed is said");
    server.go_on();
}

//! A rolling upgrade: nodes of version 0.1 and of this one work on the same records at the same time. What either writes,
//! the other reads, answers and ends, and neither asks or decides twice.

use std::{fmt::Write, future::Future, time::Duration};

use bytes::Bytes;
use countersign_backplane::{
    Callbacks, Heartbeats, HistoryPolicy, Messages, Publication, Receipts, Settings,
    callbacks::{Answerer, Canceller, Confirm, Confirmed, OpenCallback, Withdrawn},
    heartbeats::Heartbeat,
    receipts::OpenReceipt,
};
use countersign_protocol::{
    Address, Answer, ByKind, CallbackId, ConnectionId, Decision, MessageId, OnTimeout, Partition, Payload, Position,
    ids::{IdempotencyKey, ReplyName, TopicName},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    node::{Node, task, user},
    old_node::{OldNode, tag},
    server::{Client, Server},
};

/// A question.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) user: &'static str,
    pub(crate) task: &'static str,
    pub(crate) id: CallbackId,
    pub(crate) key: &'static str,
    pub(crate) timeout_ms: u64,
    pub(crate) plain: bool,
    pub(crate) reply_to: &'static str,
}

impl Asked {
    fn of(user_id: &'static str, task: &'static str) -> Self {
        let id = CallbackId::new(Partition::of(&user(user_id)), fastrand::u128(..));
        Self { user: user_id, task, id, key: "", timeout_ms: 300_000, plain: true, reply_to: "" }
    }

    pub(crate) fn head(&self) -> String {
        format!(r#"{{"type":"task_step_result","callback_id":"{}""#, self.id)
    }

    fn open(&self) -> OpenCallback {
        let key = IdempotencyKey::parse(self.key).ok().map(|key| (key, "digest".to_owned()));
        OpenCallback {
            id: self.id,
            user: user(self.user),
            task: task(self.task),
            message_head: self.head(),
            timeout: Duration::from_millis(self.timeout_ms),
            on_timeout: OnTimeout::Decline,
            plain: self.plain,
            key,
            reply_to: ReplyName::parse(self.reply_to).ok(),
        }
    }
}

/// An answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Said {
    pub(crate) asked: Asked,
    /// `None` is a guest.
    pub(crate) by: Option<&'static str>,
    pub(crate) proceed: bool,
    pub(crate) judged: bool,
    pub(crate) choice: Option<&'static str>,
    pub(crate) name: &'static str,
}

impl Said {
    fn yes(asked: Asked, by: &'static str) -> Self {
        Self { asked, by: Some(by), proceed: true, judged: false, choice: None, name: "a1" }
    }

    fn confirm(&self) -> Confirm {
        let answer = Answer {
            proceed: Some(self.proceed),
            feedback: Some("because".to_owned()),
            choice: self.choice.map(str::to_owned),
            answer_id: Some(self.name.to_owned()),
            ..Answer::default()
        };
        Confirm {
            id: self.asked.id,
            by: self.by.map_or(Answerer::Guest, |by| Answerer::User(user(by))),
            proceed: self.proceed,
            judged: self.judged,
            must_be_judged: false,
            connection: Some(ConnectionId::parse("connection").unwrap()),
            answer,
        }
    }
}

/// The digest that belongs to a message's key.
pub(crate) fn digest(message: &str) -> String {
    Sha256::digest(message.as_bytes()).iter().take(16).fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// A node of one version or the other.
enum Side {
    Old(Box<OldNode>),
    New(Box<Node>),
}

/// What both versions know of a decision.
fn known(decision: &Decision) -> Value {
    known_of(json!(decision))
}

fn known_of(mut decision: Value) -> Value {
    if let Some(fields) = decision.as_object_mut() {
        fields.remove("by_kind");
    }
    decision
}

fn said(confirmed: Confirmed) -> (String, Value) {
    match confirmed {
        Confirmed::Accepted(decision) => ("accepted".to_owned(), known(&decision)),
        Confirmed::AlreadyResolved(decision) => ("resolved".to_owned(), known(&decision)),
        Confirmed::NotFound => ("none".to_owned(), Value::Null),
        Confirmed::Judge(_) => ("judge".to_owned(), Value::Null),
    }
}

fn record(callback: &countersign_backplane::Callback) -> Value {
    json!({
        "id": callback.id, "user": callback.user, "task": callback.task, "asked": callback.asked_at,
        "deadline": callback.deadline, "message": callback.message.as_str(),
        "decision": callback.decision.as_ref().map(known),
    })
}

fn id_of(record: &Value) -> String {
    record["id"].as_str().unwrap().to_owned()
}

impl Side {
    async fn open(&mut self, asked: &Asked) -> (bool, Value) {
        match self {
            Self::Old(node) => {
                let (word, record) = node.open(asked).await;
                (word == "new", record)
            }
            Self::New(node) => {
                let opened = node.open(asked.open()).await.unwrap();
                (opened.new, record(&opened.callback))
            }
        }
    }

    async fn read(&mut self, asked: &Asked) -> Value {
        match self {
            Self::Old(node) => known_in(node.read(asked.user, asked.id).await.unwrap()),
            Self::New(node) => record(&Callbacks::read(&***node, asked.id).await.unwrap().unwrap()),
        }
    }

    async fn confirm(&mut self, answer: &Said) -> (String, Value) {
        match self {
            Self::Old(node) => {
                let (word, decision) = node.confirm(answer).await;
                (word, known_of(decision))
            }
            Self::New(node) => said(node.confirm(answer.confirm()).await.unwrap()),
        }
    }

    async fn withdraw(&mut self, asked: &Asked) -> (String, Value) {
        match self {
            Self::Old(node) => {
                let (word, decision) = node.withdraw(asked.user, asked.id).await;
                (word, known_of(decision))
            }
            Self::New(node) => match node.withdraw(asked.id).await.unwrap() {
                Withdrawn::Closed(decision) => ("closed".to_owned(), known(&decision)),
                Withdrawn::AlreadyResolved(decision) => ("resolved".to_owned(), known(&decision)),
                Withdrawn::NotFound => ("none".to_owned(), Value::Null),
            },
        }
    }

    async fn cancel(&mut self, user_id: &str, task_id: &str) -> u64 {
        match self {
            Self::Old(node) => node.cancel(user_id, task_id, user_id).await,
            Self::New(node) => {
                let by = Canceller::User(user(user_id));
                node.cancel_task(&user(user_id), &task(task_id), &by).await.unwrap().callbacks_closed
            }
        }
    }

    async fn cancel_named(&mut self, user_id: &str, task_id: &str) -> u64 {
        match self {
            Self::Old(node) => node.cancel_named(user_id, task_id).await,
            Self::New(node) => {
                let cancelled = node.cancel_tasks_named(&task(task_id), &Canceller::Producer).await.unwrap();
                cancelled.iter().map(|task| task.callbacks_closed).sum()
            }
        }
    }

    async fn task(&mut self, user_id: &str, task_id: &str) -> (String, Vec<String>) {
        match self {
            Self::Old(node) => node.task(user_id, task_id).await,
            Self::New(node) => {
                let state = node.task(&user(user_id), &task(task_id)).await.unwrap();
                let by = state.cancelled.map(|cancelled| cancelled.by).unwrap_or_default();
                (by, state.open.iter().map(ToString::to_string).collect())
            }
        }
    }

    async fn open_callbacks(&mut self, user_id: &str) -> Vec<String> {
        match self {
            Self::Old(node) => node.open_callbacks(user_id).await,
            Self::New(node) => {
                let open = node.deliver_open_callbacks(&user(user_id)).await.unwrap();
                open.iter().map(|callback| id_of(&record(callback))).collect()
            }
        }
    }

    async fn list(&mut self, user_id: &str) -> Vec<String> {
        match self {
            Self::Old(node) => node.list(user_id).await,
            Self::New(node) => {
                let (open, _) = node.all_open_callbacks(None, 100).await.unwrap();
                open.iter().map(|callback| id_of(&record(callback))).collect()
            }
        }
    }

    async fn sweep(&mut self, user_id: &str) -> (u64, u64) {
        match self {
            Self::Old(node) => node.sweep(user_id).await,
            Self::New(node) => {
                let swept = node.sweep().await.unwrap();
                (swept.timed_out, swept.beats)
            }
        }
    }

    async fn start_heartbeat(&mut self, user_id: &str, task_id: &str) {
        match self {
            Self::Old(node) => node.start_heartbeat(user_id, task_id).await,
            Self::New(node) => {
                let (interval, ttl) = (Duration::from_millis(1), Duration::from_secs(3600));
                let message_head = r#"{"type":"heartbeat""#.to_owned();
                let (user, task) = (user(user_id), task(task_id));
                node.start_heartbeat(Heartbeat { user, task, interval, ttl, message_head }).await.unwrap();
            }
        }
    }

    async fn stop_heartbeat(&mut self, user_id: &str, task_id: &str) -> bool {
        match self {
            Self::Old(node) => node.stop_heartbeat(user_id, task_id).await,
            Self::New(node) => node.stop_heartbeat(&user(user_id), &task(task_id)).await.unwrap(),
        }
    }

    async fn open_receipt(&mut self, user_id: &str, id: CallbackId, key: &str) -> (bool, String) {
        match self {
            Self::Old(node) => node.open_receipt(user_id, id, key).await,
            Self::New(node) => {
                let open = OpenReceipt {
                    id: message_id(id),
                    user: user(user_id),
                    key: Some((IdempotencyKey::parse(key).unwrap(), "digest".to_owned())),
                    retention: Duration::from_secs(3600),
                };
                let (receipt, new) = node.open_receipt(open).await.unwrap();
                (new, receipt.id.to_string())
            }
        }
    }

    async fn ack(&mut self, user_id: &str, id: CallbackId, by: &str, connection: &str) -> bool {
        match self {
            Self::Old(node) => node.ack(user_id, id, by, connection).await,
            Self::New(node) => {
                node.delivered(message_id(id)).await.unwrap();
                let connection = ConnectionId::parse(connection).unwrap();
                node.ack(message_id(id), &Answerer::User(user(by)), &connection).await.unwrap()
            }
        }
    }

    async fn acks(&mut self, user_id: &str, id: CallbackId) -> Vec<String> {
        match self {
            Self::Old(node) => node.acks(user_id, id).await,
            Self::New(node) => {
                let receipt = node.receipt(message_id(id)).await.unwrap().unwrap();
                assert!(receipt.delivered_at.is_some());
                receipt.acks.into_iter().map(|ack| ack.by).collect()
            }
        }
    }

    /// Whether it is new, and the position.
    async fn publish(&mut self, topic: &str, message: &str, key: &str) -> (bool, String) {
        match self {
            Self::Old(node) => {
                let (word, position) = node.publish(topic, message, key).await;
                (word == "new", position)
            }
            Self::New(node) => {
                let publication = Publication {
                    address: Address::Topic(TopicName::parse(topic).unwrap()),
                    message: Payload::parse(Bytes::from(message.to_owned())).unwrap(),
                    history: HistoryPolicy { size: 10, ttl: Duration::from_secs(60) },
                    key: Some(IdempotencyKey::parse(key).unwrap()),
                };
                let published = node.publish(publication).await.unwrap();
                let Position { epoch, offset } = published.position.unwrap();
                (published.nodes.is_some(), format!("{epoch}:{offset}"))
            }
        }
    }

    async fn history(&mut self, topic: &str) -> (String, u64, Vec<String>) {
        match self {
            Self::Old(node) => node.history(topic).await,
            Self::New(node) => {
                let address = Address::Topic(TopicName::parse(topic).unwrap());
                let history = Messages::history(&***node, &address, &Position::beginning(), 100).await.unwrap();
                assert!(history.complete);
                let Position { epoch, offset } = history.position;
                let texts = history.messages.into_iter().map(|(_, message)| message.as_str().to_owned());
                (epoch, offset, texts.collect())
            }
        }
    }
}

fn known_in(mut record: Value) -> Value {
    record["decision"] = known_of(record["decision"].take());
    record
}

fn message_id(id: CallbackId) -> MessageId {
    MessageId::parse(&id.to_string()).unwrap()
}

#[tokio::test]
async fn who_ended_a_record_of_the_old_version_is_said_where_that_is_certain_and_else_not() {
    let server = Server::start();
    let node = Node::up(&server.url(), Settings::default()).await;
    let mut old = OldNode::new(server.client().await).await;
    let (user, guest, producer) = (Some(ByKind::User), Some(ByKind::Guest), Some(ByKind::Producer));
    // Of a record of whom: an answer, a guest's answer, a withdrawal, a cancellation that could be the user's own, and one
    // that says "producer".
    for (name, kinds) in [
        ("alice", [user, guest, producer, user, producer]),
        ("guest", [user, guest, producer, None, producer]),
        ("producer", [user, guest, producer, None, None]),
    ] {
        let opens = [(); 5].map(|()| Asked::of(name, "t"));
        for asked in &opens[..4] {
            old.open(asked).await;
        }
        old.confirm(&Said::yes(opens[0], name)).await;
        old.confirm(&Said { by: None, ..Said::yes(opens[1], name) }).await;
        old.withdraw(name, opens[2].id).await;
        old.cancel(name, "t", name).await;
        node.lift(Some(&crate::node::user(name)), &task("t")).await.unwrap();
        old.open(&opens[4]).await;
        old.cancel(name, "t", "producer").await;
        for (asked, kind) in opens.iter().zip(kinds) {
            let decision = Callbacks::read(&*node, asked.id).await.unwrap().unwrap().decision.unwrap();
            assert_eq!(decision.by_kind, kind, "{decision:?}");
        }
        let cancelled = node.task(&crate::node::user(name), &task("t")).await.unwrap().cancelled.unwrap();
        assert_eq!((cancelled.by.as_str(), cancelled.by_kind), ("producer", kinds[4]));
    }
    // A text of the person's that looks like the end of a decision is none.
    let asked = Asked::of("producer", "t2");
    old.open(&asked).await;
    let lie = r#"{"resolution":"user","by":"guest","at":1}"#;
    let answer = Said::yes(asked, "producer").confirm();
    let answer = Answer { data: Some(serde_json::from_str(lie).unwrap()), ..answer.answer };
    let confirm = Confirm { answer, ..Said::yes(asked, "producer").confirm() };
    let Confirmed::Accepted(decision) = node.confirm(confirm).await.unwrap() else { panic!("it decides") };
    assert_eq!((decision.by.as_deref(), decision.by_kind), (Some("producer"), user));
    let timed_out = Asked { timeout_ms: 1, ..Asked::of("alice", "t3") };
    old.open(&timed_out).await;
    while old.read("alice", timed_out.id).await.unwrap()["decision"].is_null() {}
    let decision = Callbacks::read(&*node, timed_out.id).await.unwrap().unwrap().decision.unwrap();
    assert_eq!((decision.by, decision.by_kind), (None, None));
}

/// Old beside new and new beside old: each test is run with either as the one that writes first.
async fn both_ways<F>(scenario: impl Fn(Side, Side, Client) -> F)
where
    F: Future<Output = ()>,
{
    for old_first in [true, false] {
        let server = Server::start();
        let new = Side::New(Box::new(Node::up(&server.url(), Settings::default()).await));
        let old = Side::Old(Box::new(OldNode::new(server.client().await).await));
        let (first, second) = if old_first { (old, new) } else { (new, old) };
        scenario(first, second, server.client().await).await;
    }
}

#[tokio::test]
async fn what_one_version_asks_the_other_shows_and_answers() {
    both_ways(|mut first, mut second, _| async move {
        let asked = Asked { key: "k", ..Asked::of("alice", "t") };
        let (new, record) = first.open(&asked).await;
        assert!(new);
        assert_eq!(second.read(&asked).await, record);
        assert_eq!(second.list("alice").await, [asked.id.to_string()]);
        assert_eq!(second.open_callbacks("alice").await, [asked.id.to_string()]);
        assert_eq!(second.task("alice", "t").await, (String::new(), vec![asked.id.to_string()]));
        let again = Asked { key: "k", ..Asked::of("alice", "t") };
        let (new, repeated) = second.open(&again).await;
        assert_eq!((new, repeated), (false, record), "a key is a key to both");

        let eve = Said { by: Some("eve"), ..Said::yes(asked, "eve") };
        assert_eq!(second.confirm(&eve).await.0, "none");
        let answer = Said::yes(asked, "alice");
        let (word, decision) = second.confirm(&answer).await;
        assert_eq!((word.as_str(), &decision["by"]), ("accepted", &json!("alice")));
        for side in [&mut first, &mut second] {
            assert_eq!(side.confirm(&answer).await, ("accepted".to_owned(), decision.clone()), "the winner's repeat");
            let other = Said { name: "a2", ..answer };
            assert_eq!(side.confirm(&other).await, ("resolved".to_owned(), decision.clone()));
            assert_eq!(side.read(&asked).await["decision"], decision);
            assert_eq!(side.withdraw(&asked).await, ("resolved".to_owned(), decision.clone()));
            assert_eq!(side.open_callbacks("alice").await, [""; 0]);
            assert_eq!(side.list("alice").await, [""; 0]);
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_one_version_took_is_recognised_by_the_other_whoever_gave_it() {
    both_ways(|mut first, mut second, _| async move {
        // Names that both versions write in `by` for those who have none.
        for name in ["alice", "guest", "producer"] {
            let asked = Asked { plain: false, ..Asked::of(name, "t") };
            first.open(&asked).await;
            let unjudged = Said { choice: Some("left"), ..Said::yes(asked, name) };
            assert_eq!(second.confirm(&unjudged).await.0, "judge");
            let (word, decision) = first.confirm(&Said { judged: true, ..unjudged }).await;
            assert_eq!(word, "accepted");
            assert_eq!(second.confirm(&unjudged).await, ("accepted".to_owned(), decision.clone()), "{name}");
            assert_eq!(first.confirm(&unjudged).await, ("accepted".to_owned(), decision.clone()), "{name}");

            let by_guest = Asked::of(name, "t");
            first.open(&by_guest).await;
            let answer = Said { by: None, ..Said::yes(by_guest, name) };
            let (word, decision) = first.confirm(&answer).await;
            assert_eq!((word.as_str(), &decision["by"]), ("accepted", &json!("guest")));
            assert_eq!(second.confirm(&answer).await, ("accepted".to_owned(), decision.clone()), "{name}");
            // The same answer, but not by the guest.
            let person = Said { by: Some(name), ..answer };
            assert_eq!(second.confirm(&person).await, ("resolved".to_owned(), decision), "{name}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_one_version_cancels_is_cancelled_for_the_other() {
    both_ways(|mut first, mut second, _| async move {
        let withdrawn = Asked::of("alice", "w");
        first.open(&withdrawn).await;
        let (word, decision) = second.withdraw(&withdrawn).await;
        assert_eq!(
            (word.as_str(), &decision["by"], &decision["status"]),
            ("closed", &json!("producer"), &json!("cancelled"))
        );
        assert_eq!(first.read(&withdrawn).await["decision"], decision);

        let open = Asked::of("alice", "t");
        first.open(&open).await;
        assert_eq!(second.cancel("alice", "t").await, 1);
        assert_eq!(first.read(&open).await["decision"]["by"], "alice");
        let late = Asked::of("alice", "t");
        let (new, record) = first.open(&late).await;
        assert!(new);
        assert_eq!((&record["decision"]["status"], &record["decision"]["by"]), (&json!("cancelled"), &json!("alice")));
        assert_eq!(first.task("alice", "t").await, ("alice".to_owned(), vec![]));

        let open = Asked::of("alice", "named");
        second.open(&open).await;
        assert_eq!(first.cancel_named("alice", "named").await, 1);
        let late = Asked::of("alice", "named");
        assert_eq!(second.open(&late).await.1["decision"]["by"], "producer");
        assert_eq!(second.read(&open).await["decision"]["status"], "cancelled");
    })
    .await;
}

#[tokio::test]
async fn what_one_version_leaves_to_the_sweep_the_other_times_out_and_replies() {
    both_ways(|mut first, mut second, mut client| async move {
        let asked = Asked { timeout_ms: 1, reply_to: "r", ..Asked::of("alice", "t") };
        first.open(&asked).await;
        let mut swept = 0;
        while swept == 0 {
            swept = second.sweep("alice").await.0;
        }
        let decision = first.read(&asked).await["decision"].take();
        assert_eq!((&decision["status"], &decision["proceed"]), (&json!("timed_out"), &json!(false)));
        assert_eq!(second.read(&asked).await["decision"], decision);
        // An old node that only ran the script has not pushed the reply yet; it is the same either way when it is left.
        let (outbox, member) = (format!("{}:replies", tag("alice")), asked.id.to_string());
        let _: u64 = client.ask("DEL cs:reply:r").await;
        let _: u64 = client.ask(&format!("ZADD {outbox} 1 {member}")).await;
        first.sweep("alice").await;
        let replies: Vec<String> = client.ask("LRANGE cs:reply:r 0 -1").await;
        let replies: Vec<Value> = replies.iter().map(|text| known_of(serde_json::from_str(text).unwrap())).collect();
        assert_eq!(replies, [decision]);
        let left: u64 = client.ask(&format!("ZCARD {outbox}")).await;
        assert_eq!(left, 0);
    })
    .await;
}

#[tokio::test]
async fn a_heartbeat_that_one_version_started_the_other_sends_and_stops() {
    both_ways(|mut first, mut second, _| async move {
        first.start_heartbeat("alice", "t").await;
        let mut beats = 0;
        while beats == 0 {
            beats = second.sweep("alice").await.1;
        }
        first.cancel("alice", "t").await;
        assert_eq!(second.sweep("alice").await.1, 0, "a cancelled task is silent");
        assert!(second.stop_heartbeat("alice", "t").await);
        assert!(!first.stop_heartbeat("alice", "t").await);
    })
    .await;
}

#[tokio::test]
async fn a_receipt_that_one_version_opened_the_other_fills_in() {
    both_ways(|mut first, mut second, _| async move {
        for name in ["alice", "guest"] {
            let id = Asked::of(name, "t").id;
            assert_eq!(first.open_receipt(name, id, "k").await, (true, id.to_string()));
            let other = Asked::of(name, "t").id;
            assert_eq!(second.open_receipt(name, other, "k").await, (false, id.to_string()));
            assert!(!second.ack(name, id, "eve", "c0").await);
            assert!(second.ack(name, id, name, "c1").await);
            assert!(first.ack(name, id, name, "c2").await);
            assert!(second.ack(name, id, name, "c2").await);
            for side in [&mut first, &mut second] {
                assert_eq!(side.acks(name, id).await, [name, name]);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn both_versions_number_one_address_together() {
    both_ways(|mut first, mut second, _| async move {
        let (new, position) = first.publish("room", r#"{"n":1}"#, "k1").await;
        assert!(new);
        let epoch = position.split(':').next().unwrap().to_owned();
        assert_eq!(position, format!("{epoch}:1"));
        assert_eq!(second.publish("room", r#"{"n":1}"#, "k1").await, (false, position));
        assert_eq!(second.publish("room", r#"{"n":2}"#, "k2").await, (true, format!("{epoch}:2")));
        assert_eq!(first.publish("room", r#"{"n":3}"#, "k3").await, (true, format!("{epoch}:3")));
        let expected = [r#"{"n":1}"#, r#"{"n":2}"#, r#"{"n":3}"#].map(str::to_owned).to_vec();
        for side in [&mut first, &mut second] {
            assert_eq!(side.history("room").await, (epoch.clone(), 3, expected.clone()));
        }
    })
    .await;
}

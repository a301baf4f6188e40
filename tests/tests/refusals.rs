//! What is wrong about a question or an answer is said with the name of the field, changes nothing and disturbs nobody; what
//! merely looks dangerous works, and stays with its owner.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use std::collections::BTreeSet;

use harness::{Api, Cluster, Device, callback_id};
use reqwest::{Method, Url};
use serde_json::{Value, json};

/// Everything in Redis and in the listing that a created callback would change.
async fn callbacks(cluster: &Cluster) -> (BTreeSet<String>, Value) {
    let keys: BTreeSet<String> = cluster.redis().query(&["KEYS", "cs:*cb*"]).await;
    (keys, cluster.api(0).get("/v1/callbacks").await.expect_status(200))
}

fn another_id(id: &str) -> String {
    let (partition, random) = id.split_once('-').expect("a callback id has a partition");
    format!("{partition}-{}", random.chars().rev().collect::<String>())
}

fn foreign_partition(id: &str) -> String {
    let (partition, random) = id.split_once('-').expect("a callback id has a partition");
    let other = (partition.parse::<u16>().expect("a number") + 1) % 64;
    format!("{other:02}-{random}")
}

// --- answers ---------------------------------------------------------------------------------------------------------

/// Sends a `confirm` with these fields; `(type, what it says)` of the reply.
async fn tries(device: &mut Device, fields: &Value) -> (String, String) {
    let mut action = json!({"action": "confirm", "id": "try"});
    if let (Value::Object(action), Value::Object(fields)) = (&mut action, fields) {
        action.extend(fields.clone());
    }
    device.send(action).await;
    let reply = device.wait_for("reply", |message| message["reply_to"] == "try").await;
    let kind = reply["type"].as_str().unwrap_or_default().to_owned();
    let said = match kind.as_str() {
        "error" => format!("{}: {}", reply["code"], reply["message"]),
        _ => format!("{}: {}", reply["reason"], reply["message"]),
    };
    (kind, said)
}

#[tokio::test]
async fn an_answer_that_is_wrong_is_refused_by_name_and_consumes_nothing() {
    let cluster = Cluster::start(2).await;
    let api = cluster.api(0);
    let mut alice = cluster.device(1, "alice").await;
    let mut bob = cluster.device(1, "bob").await;
    let plain = api.ask("alice", "plain", json!({})).await;
    let options = json!([{"id": "retry", "label": "Try again"}, {"id": "stop", "label": "Stop", "proceed": false}]);
    let offered = api.ask("alice", "offered", json!({"options": options})).await;
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
    let described = api.ask("alice", "described", json!({"schema": schema})).await;
    let bobs = api.ask("bob", "t1", json!({})).await;
    let before = callbacks(&cluster).await;

    let (rejected, error) = ("confirmation_rejected", "error");
    let rows = [
        (json!({"callback_id": another_id(&plain), "proceed": true}), rejected, "not_found"),
        (json!({"callback_id": foreign_partition(&plain), "proceed": true}), rejected, "not_found"),
        (json!({"callback_id": bobs, "proceed": true}), rejected, "not_found"),
        (json!({"proceed": true}), error, "callback_id"),
        (json!({"callback_id": 5, "proceed": true}), error, "callback_id"),
        (json!({"callback_id": "", "proceed": true}), error, "callback_id"),
        (json!({"callback_id": "*", "proceed": true}), error, "callback_id"),
        (json!({"callback_id": plain.to_uppercase() + "F", "proceed": true}), error, "callback_id"),
        (json!({"callback_id": format!("64-{}", "0".repeat(32)), "proceed": true}), error, "callback_id"),
        (json!({"callback_id": "x".repeat(10_000), "proceed": true}), error, "callback_id"),
        (json!({"callback_id": plain}), rejected, "proceed"),
        (json!({"callback_id": plain, "proceed": "yes"}), rejected, "proceed"),
        (json!({"callback_id": plain, "proceed": 1}), rejected, "proceed"),
        (json!({"callback_id": plain, "proceed": []}), rejected, "proceed"),
        (json!({"callback_id": plain, "proceed": true, "feedback": 7}), rejected, "feedback"),
        (json!({"callback_id": plain, "proceed": true, "answer_id": "x".repeat(65)}), rejected, "answer_id"),
        (json!({"callback_id": plain, "proceed": true, "choice": "retry"}), rejected, "choice"),
        (json!({"callback_id": offered, "choice": "explode"}), rejected, "choice"),
        (json!({"callback_id": offered, "proceed": true}), rejected, "choice"),
        (json!({"callback_id": offered, "choice": 1}), rejected, "choice"),
        (json!({"callback_id": described, "proceed": true}), rejected, "data"),
        (json!({"callback_id": described, "proceed": true, "data": {}}), rejected, "data.n"),
        (json!({"callback_id": described, "proceed": true, "data": {"n": "one"}}), rejected, "data.n"),
    ];
    for (fields, kind, names) in &rows {
        let (replied, said) = tries(&mut alice, fields).await;
        assert_eq!(replied, *kind, "{fields}: {said}");
        assert!(said.contains(names), "{names} is not named for {fields}: {said}");
    }
    assert_eq!(callbacks(&cluster).await, before, "nothing was created, nothing ended");
    bob.ping().await;
    let others: Vec<_> = bob.unread().into_iter().filter(|message| message["callback_id"] != *bobs).collect();
    assert_eq!(others, Vec::<&Value>::new(), "bob was not disturbed");

    let right = [
        (&plain, json!({"proceed": true})),
        (&offered, json!({"choice": "stop"})),
        (&described, json!({"proceed": true, "data": {"n": 1}})),
    ];
    for (id, fields) in right {
        let verdict = alice.confirm_with(id, fields).await;
        assert_eq!(verdict["type"], "confirmation_accepted", "it is still open: {verdict}");
        let twice = alice.confirm_with(id, json!({"proceed": false, "choice": "retry", "data": {"n": 2}})).await;
        let accepted = twice["type"] == "confirmation_accepted";
        assert!(!accepted, "a second answer counted: {twice}");
    }
    let twice = alice.confirm(&plain, false).await;
    assert_eq!(
        (&twice["reason"], &twice["decision"]["status"]),
        (&json!("already_resolved"), &json!("confirmed")),
        "{twice}"
    );
    println!("wrong answers {}, refused by name {}, callbacks created 0, ended 0", rows.len(), rows.len());
}

#[tokio::test]
async fn an_answer_after_the_deadline_is_told_what_silence_decided() {
    let cluster = Cluster::start(2).await;
    let mut alice = cluster.device(1, "alice").await;
    for (on_timeout, proceed) in [("proceed", json!(true)), ("decline", json!(false)), ("fail", Value::Null)] {
        let id = cluster.api(0).ask("alice", on_timeout, json!({"timeout": 0.05, "on_timeout": on_timeout})).await;
        assert_eq!(cluster.api(0).wait(&id, 5).await.expect_status(200)["status"], "timed_out");
        let late = alice.confirm(&id, true).await;
        assert_eq!(late["reason"], "already_resolved", "{late}");
        let decision = &late["decision"];
        assert_eq!((&decision["resolution"], &decision["proceed"]), (&json!("timeout"), &proceed), "{late}");
    }
}

// --- questions -------------------------------------------------------------------------------------------------------

fn question() -> Value {
    json!({
        "user_id": "alice", "task_id": "t1", "step": 1,
        "step_result": {"step": "s", "message": "go on?", "status": "completed", "completed": true},
    })
}

/// A question with one field, named by a JSON pointer, replaced or (`None`) taken away.
fn with(pointer: &str, value: Option<Value>) -> Value {
    let mut body = question();
    let (parent, field) = pointer.rsplit_once('/').expect("a JSON pointer");
    let object = body.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object");
    match value {
        Some(value) => drop(object.insert(field.to_owned(), value)),
        None => drop(object.remove(field)),
    }
    body
}

#[tokio::test]
async fn a_question_that_is_wrong_is_refused_by_name_and_nobody_is_asked() {
    let cluster = Cluster::start(2).await;
    let api = cluster.api(0);
    let mut alice = cluster.device(1, "alice").await;
    let id = api.ask("alice", "t1", json!({})).await;
    alice.expect_type("task_step_result").await;
    let before = callbacks(&cluster).await;

    let long = "x".repeat(300);
    let mut rows = vec![
        ("/step_result", None, "step_result"),
        ("/step_result", Some(json!("done")), "step_result"),
        ("/step_result/message", None, "step_result.message"),
        ("/step_result/message", Some(json!(7)), "step_result.message"),
        ("/step_result/status", None, "step_result.status"),
        ("/step_result/completed", Some(json!("yes")), "step_result.completed"),
        ("/step", Some(json!({})), "step"),
        ("/timeout", Some(json!(-1)), "timeout"),
        ("/timeout", Some(json!(0)), "timeout"),
        ("/timeout", Some(json!(1e12)), "timeout"),
        ("/timeout", Some(json!(604_801)), "timeout"),
        ("/timeout", Some(json!("soon")), "timeout"),
        ("/on_timeout", Some(json!("explode")), "on_timeout"),
        ("/options", Some(json!([])), "options"),
        ("/options", Some(json!([{"id": "a", "label": "A"}, {"id": "a", "label": "B"}])), "options[1].id"),
        ("/schema", Some(json!("object")), "schema"),
    ];
    for field in ["user_id", "task_id", "idempotency_key"] {
        let pointer = ["/user_id", "/task_id", "/idempotency_key"].into_iter().find(|p| p.ends_with(field));
        let pointer = pointer.expect("one of them");
        for wrong in [json!(""), json!("a\nb"), json!("a\u{0}b"), json!("a\u{7f}b"), json!(long), json!(5)] {
            rows.push((pointer, Some(wrong), field));
        }
    }
    rows.push(("/user_id", None, "user_id"));
    rows.push(("/task_id", None, "task_id"));
    let mut refused = 0;
    for (pointer, value, names) in &rows {
        let body = with(pointer, value.clone());
        let reply = api.post("/v1/notifications?wait=0", &body).await;
        assert_eq!(reply.status, 400, "{pointer} {value:?}: {reply:?}");
        assert_eq!(reply.header("content-type"), "application/problem+json");
        assert_eq!(reply.body["field"], *names, "{pointer} {value:?}: {reply:?}");
        if *pointer == "/timeout" && value.as_ref().is_some_and(Value::is_number) {
            let detail = reply.body["detail"].as_str().unwrap_or_default();
            assert!(detail.contains("CALLBACK_MAX_TIMEOUT"), "the limit is named: {detail}");
        }
        refused += 1;
    }
    for (query, names) in [("?wait=-1", "wait"), ("?wait=1e9", "wait")] {
        let reply = api.post(&format!("/v1/notifications{query}"), &question()).await;
        assert_eq!((reply.status, &reply.body["field"]), (400, &json!(names)), "{query}: {reply:?}");
        refused += 1;
    }
    assert_eq!(api.post("/v1/notifications?wait=soon", &question()).await.status, 400);
    let headers = [("idempotency-key", "k1")];
    let two_keys = with("/idempotency_key", Some(json!("k2")));
    let reply = api.send(Method::POST, "/v1/notifications?wait=0", &headers, Some(&two_keys)).await;
    assert_eq!((reply.status, &reply.body["field"]), (400, &json!("idempotency_key")), "{reply:?}");
    for body in [json!([question()]), json!("ask"), json!(7), Value::Null] {
        assert_eq!(api.post("/v1/notifications?wait=0", &body).await.status, 400, "{body}");
        refused += 1;
    }
    let huge = with("/step_result/message", Some(json!("x".repeat(1 << 20))));
    let reply = api.post("/v1/notifications?wait=0", &huge).await;
    assert_eq!(reply.status, 413, "{:?}", reply.body["code"]);
    let detail = reply.body["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("PUBLISH_MAX_BYTES"), "the limit is named: {reply:?}");
    refused += 3;

    assert_eq!(callbacks(&cluster).await, before, "nothing was created");
    alice.ping().await;
    alice.assert_none("question", |message| message["type"] == "task_step_result");
    assert_eq!(alice.confirm(&id, true).await["type"], "confirmation_accepted");
    println!("wrong questions {refused}, refused by name {refused}, callbacks created 0, people asked 0");
}

#[tokio::test]
async fn paths_that_name_nothing_are_refused_and_end_nothing() {
    let cluster = Cluster::start(2).await;
    let api = cluster.api(0);
    let id = api.ask("alice", "t1", json!({})).await;
    let before = callbacks(&cluster).await;
    let long = "x".repeat(300);
    let mut tried = 0;
    for (path, status) in [
        (another_id(&id), 404),
        (foreign_partition(&id), 404),
        ("x".to_owned(), 400),
        ("*".to_owned(), 400),
        (id.to_uppercase() + "F", 400),
        (format!("{id}%0A"), 400),
        (format!("{id}%20"), 400),
        (long.clone(), 400),
    ] {
        for method in [Method::GET, Method::DELETE] {
            let reply = api.send(method.clone(), &format!("/v1/callbacks/{path}"), &[], None).await;
            assert_eq!(reply.status, status, "{method} {path}: {reply:?}");
            assert_eq!(reply.header("content-type"), "application/problem+json");
            if status == 400 {
                assert_eq!(reply.body["field"], "callback_id", "{method} {path}: {reply:?}");
            }
            tried += 1;
        }
    }
    for task in ["a%0Ab".to_owned(), "%00".to_owned(), long] {
        let reply = api.post(&format!("/v1/tasks/{task}/cancel"), &json!({})).await;
        assert_eq!((reply.status, &reply.body["field"]), (400, &json!("task_id")), "{task}: {reply:?}");
        let reply = api.get(&format!("/v1/callbacks?user_id={task}")).await;
        assert_eq!((reply.status, &reply.body["field"]), (400, &json!("user_id")), "{task}: {reply:?}");
        tried += 2;
    }
    assert_eq!(callbacks(&cluster).await, before, "nothing was created, nothing ended");
    println!("wrong paths {tried}, refused {tried}, callbacks created 0, ended 0");
}

// --- names that look dangerous -----------------------------------------------------------------------------------------

const NAMES: [&str; 14] =
    ["a{b}", "a{b", "a}b", "{", "{}", "a", "a*", "*", "a?", "[a]", "a:b", "a b", "a%3Ab", "ü/\\\"'"];

async fn connected(cluster: &Cluster, user: &str) -> Device {
    let url = Url::parse_with_params(&cluster.node(1).ws_url(), [("user_id", user)]).expect("a URL");
    let mut device = Device::connect(url.as_str()).await;
    assert_eq!(device.welcome()["user_id"], user);
    device.expect_type("open_callbacks").await;
    device
}

async fn open_of(api: &Api, user: &str) -> Vec<String> {
    let url = Url::parse_with_params("http://x/v1/callbacks", [("user_id", user)]).expect("a URL");
    let path = format!("{}?{}", url.path(), url.query().unwrap_or_default());
    let page = api.get(&path).await.expect_status(200);
    page["callbacks"].as_array().into_iter().flatten().map(callback_id).collect()
}

#[tokio::test]
async fn names_with_braces_stars_colons_and_spaces_work_and_stay_apart() {
    let cluster = Cluster::start(2).await;
    let api = cluster.api(0);
    let longest = "x".repeat(256);
    let names: Vec<&str> = NAMES.into_iter().chain([longest.as_str()]).collect();
    let mut people = Vec::new();
    for user in &names {
        people.push((*user, connected(&cluster, user).await, Vec::new()));
    }
    // Every user is asked about every task of these names, each with a key of these names.
    let mut ids = BTreeSet::new();
    for (user, _, theirs) in &mut people {
        for task in &names {
            let id = api.ask(user, task, json!({"idempotency_key": task})).await;
            assert!(ids.insert(id.clone()), "{user:?} {task:?} got somebody else's callback");
            theirs.push(id);
        }
    }
    assert_eq!(ids.len(), names.len() * names.len());

    let mut heard = 0;
    for (user, device, theirs) in &mut people {
        for (task, id) in names.iter().zip(theirs.iter()) {
            let question = device.expect_type("task_step_result").await;
            let shown = (&question["user_id"], &question["task_id"], &question["callback_id"]);
            assert_eq!(shown, (&json!(user), &json!(task), &json!(id)), "nobody else's question");
            heard += 1;
        }
        assert_eq!(open_of(&api, user).await, *theirs, "{user:?}");
    }

    // Each answers one, cancels one, and tries one of the next one's.
    for at in 0..people.len() {
        let foreign = people[(at + 1) % people.len()].2[3].clone();
        let (user, device, theirs) = &mut people[at];
        let stolen = device.confirm(&foreign, true).await;
        assert_eq!(stolen["reason"], "not_found", "{user:?} answered for somebody else: {stolen}");
        assert_eq!(device.confirm(&theirs[0], true).await["type"], "confirmation_accepted", "{user:?}");
        device.send(json!({"action": "cancel", "task_id": names[1], "id": "c"})).await;
        let cancelled = device.wait_for("reply", |message| message["reply_to"] == "c").await;
        assert_eq!(cancelled["callbacks_closed"], 1, "{user:?}: {cancelled}");
    }
    let mut left = 0;
    for (user, _, theirs) in &people {
        assert_eq!(open_of(&api, user).await, theirs[2..], "{user:?} lost or kept a question too many");
        left += theirs.len() - 2;
    }
    println!(
        "users {}, questions {}, heard {heard}, answered by strangers 0, left open {left}",
        names.len(),
        ids.len()
    );
}

//! The heart: a backend asks, a person answers on any node, everybody learns of the one decision.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use harness::{Api, Cluster, Device, PATIENCE, callback_id, eventually};
use serde_json::{Value, json};

#[tokio::test]
async fn a_backend_on_one_node_asks_a_person_on_another_and_a_third_still_knows_the_answer() {
    let cluster = Cluster::start(3).await;
    let mut alice = cluster.balanced_device_not_on(0, "alice").await;

    let asked = cluster.api(0);
    let asking = asked.notify("alice", "task_456", "", json!({}));
    let answering = async {
        let question = alice.expect_type("task_step_result").await;
        let shown =
            alice.confirm_with(&callback_id(&question), json!({"proceed": true, "feedback": "looks good"})).await;
        assert_eq!(shown["type"], "confirmation_accepted", "{shown}");
        let over = alice.expect_type("callback_resolved").await;
        assert_eq!(over["callback_id"], question["callback_id"]);
        question
    };
    let (reply, question) = tokio::join!(asking, answering);

    let expected = json!({
        "type": "task_step_result", "user_id": "alice", "task_id": "task_456", "step": 1,
        "step_name": "data_validation", "message": "Data validation completed, found 5 errors",
        "result": {"validated_rows": 1000, "errors": 5}, "status": "completed", "completed": true,
        "error_code": null, "error_message": null, "options": null,
    });
    for (field, value) in expected.as_object().into_iter().flatten() {
        assert_eq!(&question[field], value, "{field} of {question}");
    }
    let (asked_at, deadline) = (&question["timestamp"], &question["deadline"]);
    assert!(deadline.as_f64() > asked_at.as_f64(), "{question}");
    assert!(question["_meta"]["position"].is_null(), "callbacks are state, not history: {question}");

    let answer = reply.expect_status(200);
    assert_eq!(callback_id(&answer), callback_id(&question));
    let expected = json!({
        "status": "confirmed", "proceed": true, "feedback": "looks good", "choice": null, "data": null,
        "resolution": "user", "by": "alice", "by_kind": "user",
    });
    for (field, value) in expected.as_object().into_iter().flatten() {
        assert_eq!(&answer[field], value, "{field} of {answer}");
    }
    assert!(answer["at"].as_f64() >= asked_at.as_f64(), "{answer}");

    let later = cluster.api(2).get(&format!("/v1/callbacks/{}", callback_id(&question))).await;
    assert_eq!(later.expect_status(200), answer);
}

#[tokio::test]
async fn a_person_may_decline() {
    let cluster = Cluster::start(2).await;
    let mut alice = cluster.device(1, "alice").await;
    let api = cluster.api(0);
    let id = api.ask("alice", "t1", json!({})).await;
    alice.expect_type("task_step_result").await;
    assert_eq!(alice.confirm(&id, false).await["type"], "confirmation_accepted");
    let answer = api.wait(&id, 10).await.expect_status(200);
    assert_eq!(answer["status"], "declined");
    assert_eq!(answer["proceed"], false);
    assert_eq!(answer["resolution"], "user");
}

#[tokio::test]
async fn a_person_may_choose_one_of_the_options_and_nothing_else() {
    let cluster = Cluster::start(2).await;
    let mut alice = cluster.device(1, "alice").await;
    let options = json!([{"id": "retry", "label": "Try again"}, {"id": "stop", "label": "Stop", "proceed": false}]);
    let id = cluster.api(0).ask("alice", "t1", json!({"options": options})).await;
    assert_eq!(alice.expect_type("task_step_result").await["options"], options);
    let wrong = alice.confirm_with(&id, json!({"choice": "explode"})).await;
    assert_eq!((&wrong["type"], &wrong["reason"]), (&json!("confirmation_rejected"), &json!("invalid")), "{wrong}");
    let right = alice.confirm_with(&id, json!({"choice": "stop"})).await;
    assert_eq!(right["type"], "confirmation_accepted", "an invalid answer does not consume the callback: {right}");
    let answer = cluster.api(0).wait(&id, 10).await.expect_status(200);
    assert_eq!((&answer["choice"], &answer["proceed"]), (&json!("stop"), &json!(false)), "{answer}");
}

#[tokio::test]
async fn a_wrong_user_gets_the_reply_of_an_unknown_id() {
    let cluster = Cluster::start(2).await;
    let mut alice = cluster.device(0, "alice").await;
    let mut mallory = cluster.device(1, "mallory").await;
    let id = cluster.api(0).ask("alice", "t1", json!({})).await;
    alice.expect_type("task_step_result").await;

    let refused = mallory.confirm(&id, true).await;
    let (partition, rest) = id.split_once('-').expect("a callback id has a partition");
    let unknown = format!("{partition}-{}", rest.chars().rev().collect::<String>());
    let mut not_there = mallory.confirm(&unknown, true).await;
    assert_eq!(not_there["reason"], "not_found", "{not_there}");
    not_there["callback_id"] = json!(id);
    assert_eq!(refused, not_there, "nothing tells a foreign callback from one that does not exist");
    // Whatever is said, whose question it is is looked at first.
    let options = json!([{"id": "pay-9000-to-carol", "label": "Pay"}]);
    let offered = cluster.api(0).ask("alice", "t2", json!({"options": options})).await;
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
    let described = cluster.api(0).ask("alice", "t3", json!({"schema": schema})).await;
    for asked in [&id, &offered, &described] {
        for fields in [
            json!({"choice": "?"}),
            json!({"choice": "pay-9000-to-carol"}),
            json!({"data": {"n": "x"}}),
            json!({"data": {"n": 1}, "proceed": true}),
            json!({"feedback": "because"}),
            json!({}),
        ] {
            let refused = mallory.confirm_with(asked, fields.clone()).await;
            let mut not_there = mallory.confirm_with(&unknown, fields.clone()).await;
            // What is no answer to any question is refused as that, before anything is looked up.
            let readable = fields.get("proceed").or(fields.get("choice")).is_some();
            let reason = if readable { "not_found" } else { "invalid" };
            assert_eq!(not_there["reason"], reason, "{fields}: {not_there}");
            not_there["callback_id"] = json!(asked);
            assert_eq!(refused, not_there, "{fields}");
        }
    }
    mallory.assert_none("question for alice", |message| message["type"] == "task_step_result");

    assert_eq!(alice.confirm(&id, true).await["type"], "confirmation_accepted");
    assert_eq!(mallory.confirm(&id, true).await, refused, "the same after its end");
}

#[tokio::test]
async fn a_guest_of_open_mode_sees_every_question_and_may_answer() {
    let cluster = Cluster::start(2).await;
    let mut guest = Device::connect(&cluster.node(1).ws_url()).await;
    assert!(guest.welcome()["user_id"].is_null(), "{}", guest.welcome());
    cluster.redis().wait_for_listeners("cs:guests", 1).await;
    let id = cluster.api(0).ask("alice", "t1", json!({})).await;
    let question = guest.expect_type("task_step_result").await;
    assert_eq!(question["callback_id"], *id);
    assert_eq!(guest.confirm(&id, true).await["type"], "confirmation_accepted");
    assert_eq!(cluster.api(0).wait(&id, 10).await.expect_status(200)["proceed"], true);
}

#[tokio::test]
async fn a_guest_that_names_its_user_becomes_that_user() {
    let cluster = Cluster::start(2).await;
    let mut device = Device::connect(&cluster.node(1).ws_url()).await;
    device.send(json!({"action": "subscribe", "user_id": "alice"})).await;
    let confirmed = device.expect_type("subscription_confirmed").await;
    assert_eq!(confirmed["user_id"], "alice", "{confirmed}");
    cluster.api(0).post("/v1/users/alice/messages", &json!({"type": "hers"})).await.expect_status(200);
    device.expect_type("hers").await;
}

#[tokio::test]
async fn every_device_converges_on_what_is_open() {
    let cluster = Cluster::start(3).await;
    let api = cluster.api(0);
    let mut laptop = cluster.device(1, "alice").await;
    let first = api.ask("alice", "t1", json!({})).await;
    let second = api.ask("alice", "t2", json!({"step": 2})).await;

    // A device that comes later is shown what is open, then the complete list.
    let mut phone = Device::connect(&format!("{}?user_id=alice", cluster.node(2).ws_url())).await;
    let list = phone.expect_type("open_callbacks").await;
    assert_eq!(list["callback_ids"], json!([first, second]), "oldest first");
    let shown: Vec<&Value> = phone.unread().iter().map(|message| &message["callback_id"]).collect();
    assert_eq!(shown, [&json!(first), &json!(second)], "the questions come before the list");

    // The answer of one device ends it on the others.
    laptop.confirm(&first, true).await;
    let over = phone.expect_type("callback_resolved").await;
    assert_eq!((&over["callback_id"], &over["status"]), (&json!(first), &json!("confirmed")), "{over}");

    let mut tablet = Device::connect(&format!("{}?user_id=alice", cluster.node(0).ws_url())).await;
    assert_eq!(tablet.expect_type("open_callbacks").await["callback_ids"], json!([second]));
    let open = api.get("/v1/callbacks?user_id=alice").await.expect_status(200).to_string();
    assert!(open.contains(&second) && !open.contains(&first), "{open}");
}

#[tokio::test]
async fn of_many_answers_one_counts_and_the_others_learn_who_won() {
    let cluster = Cluster::start(3).await;
    let mut devices = Vec::new();
    for index in [0, 1, 2, 0, 1, 2] {
        devices.push(cluster.device(index, "alice").await);
    }
    let id = cluster.api(0).ask("alice", "t1", json!({})).await;
    let answers = devices.iter_mut().enumerate().map(|(number, device)| {
        let fields = json!({"proceed": number % 2 == 0, "feedback": number.to_string()});
        device.confirm_with(&id, fields)
    });
    let verdicts = futures_util::future::join_all(answers).await;

    let accepted: Vec<usize> =
        (0..verdicts.len()).filter(|number| verdicts[*number]["type"] == "confirmation_accepted").collect();
    let [winner] = accepted[..] else { panic!("exactly one answer counts: {verdicts:#?}") };
    let decision = cluster.api(1).wait(&id, 5).await.expect_status(200);
    assert_eq!(decision["feedback"], winner.to_string());
    assert_eq!(decision["proceed"], winner % 2 == 0);
    for (number, verdict) in verdicts.iter().enumerate().filter(|(number, _)| *number != winner) {
        assert_eq!(verdict["reason"], "already_resolved", "{number}: {verdict}");
        assert_eq!(verdict["decision"]["proceed"], decision["proceed"], "{number}: {verdict}");
        assert_eq!(verdict["decision"]["by"], "alice", "{number}: {verdict}");
    }
}

#[tokio::test]
async fn the_winners_repeat_is_accepted_again() {
    let cluster = Cluster::start(2).await;
    let id = cluster.api(0).ask("alice", "t1", json!({})).await;
    let answer = json!({"proceed": true, "answer_id": "a-1"});
    let mut alice = cluster.device(0, "alice").await;
    assert_eq!(alice.confirm_with(&id, answer.clone()).await["type"], "confirmation_accepted");
    // The verdict was lost with the connection, say; the repeat comes on another node.
    let mut again = cluster.device(1, "alice").await;
    assert_eq!(again.confirm_with(&id, answer).await["type"], "confirmation_accepted");
    let other = again.confirm_with(&id, json!({"proceed": true, "answer_id": "a-2"})).await;
    assert_eq!(other["reason"], "already_resolved", "{other}");
}

#[tokio::test]
async fn a_wait_that_ends_early_says_so_and_can_be_taken_up_on_another_node() {
    let cluster = Cluster::start(3).await;
    let mut alice = cluster.device(2, "alice").await;
    let pending = cluster.api(0).notify("alice", "t1", "?wait=1", json!({})).await;
    assert!(!pending.header("retry-after").is_empty(), "{pending:?}");
    let pending = pending.expect_status(202);
    assert_eq!(pending["status"], "pending");
    assert!(pending["deadline"].is_f64(), "{pending}");

    let id = callback_id(&pending);
    let second_wait = cluster.api(1);
    let (answer, _) = tokio::join!(second_wait.wait(&id, 20), alice.confirm(&id, true));
    assert_eq!(answer.expect_status(200)["status"], "confirmed");
}

#[tokio::test]
async fn any_number_may_wait_for_one_callback() {
    let cluster = Cluster::start(2).await;
    let mut alice = cluster.device(0, "alice").await;
    let id = cluster.api(0).ask("alice", "t1", json!({})).await;
    let apis: Vec<Api> = (0..10).map(|number| cluster.api(number % 2)).collect();
    let waits = futures_util::future::join_all(apis.iter().map(|api| api.wait(&id, 20)));
    let answering = async {
        eventually(PATIENCE, "both nodes wait for the answer", || async {
            (cluster.redis().listeners(&format!("cs:answer:{id}")).await == 2).then_some(())
        })
        .await;
        alice.confirm(&id, true).await
    };
    let (answers, _) = tokio::join!(waits, answering);
    let mut decisions = answers.into_iter().map(|answer| answer.expect_status(200));
    let first = decisions.next().expect("ten waits");
    assert!(decisions.all(|decision| decision == first), "every wait ends with the same decision");
    cluster.redis().wait_for_listeners(&format!("cs:answer:{id}"), 0).await;
}

#[tokio::test]
async fn a_key_asks_once() {
    let cluster = Cluster::start(2).await;
    let mut alice = cluster.device(1, "alice").await;
    let keyed = json!({"idempotency_key": "build-7"});
    let first = cluster.api(0).ask("alice", "t1", keyed.clone()).await;
    let second = cluster.api(1).ask("alice", "t1", keyed.clone()).await;
    assert_eq!(first, second);
    let other = json!({"idempotency_key": "build-7", "step": 2});
    let other = cluster.api(1).notify("alice", "t1", "?wait=0", other).await;
    assert_eq!(other.header("content-type"), "application/problem+json");
    assert_eq!(other.status, 409, "the same key with another body: {other:?}");

    alice.confirm(&first, true).await;
    let repeated = cluster.api(0).notify("alice", "t1", "", keyed.clone()).await.expect_status(200);
    assert_eq!(repeated["status"], "confirmed", "a repeat after the end is told the end");
    let bobs = cluster.api(0).ask("bob", "t1", keyed).await;
    assert_ne!(bobs, first, "a key belongs to a user");
    alice.ping().await;
    let questions = alice.unread().iter().filter(|message| message["type"] == "task_step_result").count();
    assert_eq!(questions, 1, "alice was asked once");
}

#[tokio::test]
async fn a_callback_that_was_withdrawn_is_over_for_everybody() {
    let cluster = Cluster::start(2).await;
    let mut alice = cluster.device(1, "alice").await;
    let api = cluster.api(0);
    let id = api.ask("alice", "t1", json!({})).await;
    alice.expect_type("task_step_result").await;
    let withdrawn = cluster.api(1).delete(&format!("/v1/callbacks/{id}")).await;
    assert!((200..300).contains(&withdrawn.status), "{withdrawn:?}");
    let over = alice.expect_type("callback_resolved").await;
    assert_eq!(over["status"], "cancelled");
    let answer = api.wait(&id, 5).await.expect_status(200);
    assert_eq!((&answer["status"], &answer["proceed"]), (&json!("cancelled"), &json!(false)), "{answer}");
    assert_eq!((&answer["resolution"], &answer["by"]), (&json!("cancelled"), &json!("producer")), "{answer}");
}

#[tokio::test]
async fn an_unknown_callback_is_404() {
    let cluster = Cluster::start(1).await;
    let reply = cluster.api(0).get("/v1/callbacks/07-00000000000000000000000000000000?wait=5").await;
    assert_eq!(reply.header("content-type"), "application/problem+json", "{reply:?}");
    assert_eq!(reply.status, 404, "{reply:?}");
}

#[tokio::test]
async fn a_decision_can_be_accounted_for_on_any_node() {
    let cluster = Cluster::start(3).await;
    let mut alice = cluster.device(1, "alice").await;
    let id = cluster.api(0).ask("alice", "t1", json!({})).await;
    let question = alice.expect_type("task_step_result").await;
    alice.confirm(&id, true).await;
    let record = cluster.api(2).get(&format!("/v1/callbacks/{id}/record")).await.expect_status(200);
    assert_eq!(
        (&record["status"], &record["user_id"], &record["task_id"]),
        (&json!("confirmed"), &json!("alice"), &json!("t1"))
    );
    let welcome = alice.welcome();
    assert_eq!(record["answered_via"]["connection_id"], welcome["connection_id"], "{record}");
    assert_eq!(record["answered_via"]["node_id"], welcome["node_id"], "{record}");
    assert_ne!(record["asked_via"], welcome["node_id"], "it was asked on another node: {record}");
    assert_eq!(record["asked_at"], question["timestamp"]);
    assert_eq!(record["first_delivered_at"], question["timestamp"], "a node with alice heard it at once");
    assert_eq!((&record["decision"]["proceed"], &record["decision"]["by"]), (&json!(true), &json!("alice")));
    let shown = record["shown"].as_str().expect("a digest");
    assert!(shown.strip_prefix("sha256:").is_some_and(|digest| digest.len() == 64), "{shown}");
    assert_eq!(cluster.api(0).get("/v1/callbacks/00-00000000000000000000000000000000/record").await.status, 404);
}

//! What a producer does when the gateway drains, restarts, falls or says no.

use std::time::Duration;

use crate::{CallbackState, Choice, Error, OnTimeout, Proceeds, Producer, Resolution, Status, StepResult, item};
use serde_json::{Value, json};

use super::fake::{Answer, Gateway};

const ID: &str = "07-000000000000000000000000000000ab";
/// Past on every clock, so that only the margin counts.
const PASSED: f64 = 1.0;

fn decided(proceed: Option<bool>) -> Answer {
    let decision = json!({"callback_id": ID, "status": "confirmed", "proceed": proceed, "feedback": "go", "choice": null,
        "data": null, "resolution": "user", "by": "alice", "at": 1_790_000_000.5});
    Answer::Say(200, "", decision.to_string())
}

fn pending() -> Answer {
    let body = json!({"callback_id": ID, "status": "pending", "deadline": PASSED});
    Answer::Say(202, "retry-after: 0\r\n", body.to_string())
}

fn unavailable() -> Answer {
    Answer::Say(503, "retry-after: 0.01\r\n", json!({"status": 503, "code": "unavailable"}).to_string())
}

fn refused(status: u16, code: &str) -> Answer {
    Answer::Say(status, "", json!({"status": status, "code": code, "detail": "why"}).to_string())
}

fn step_result() -> StepResult {
    StepResult { message: "found 5 errors".into(), status: "completed".into(), ..StepResult::default() }
}

#[tokio::test]
async fn an_answer_after_a_drain_and_a_restart_is_the_answer() {
    let gateway =
        Gateway::with([unavailable(), Answer::Cut, pending(), unavailable(), Answer::Cut, decided(Some(true))]).await;
    let producer = Producer::new(&gateway.url).unwrap().api_key("secret");
    let decision = producer.notify_user(&step_result(), "alice", "task_456", 1).await.unwrap();
    assert_eq!((decision.status, decision.resolution), (Status::Confirmed, Resolution::User));
    assert_eq!((decision.proceeds(), decision.feedback.as_deref()), (Ok(true), Some("go")));

    let requests = gateway.requests().await;
    let lines: Vec<_> = requests.iter().map(|request| request.line.as_str()).collect();
    let (open, wait) = ("POST /v1/notifications?wait=20 HTTP/1.1", format!("GET /v1/callbacks/{ID}?wait=20 HTTP/1.1"));
    assert_eq!(lines, [open, open, open, &wait, &wait, &wait]);
    let keys: Vec<_> = requests[..3].iter().map(|request| request.header("idempotency-key").unwrap()).collect();
    assert!(!keys[0].is_empty() && keys.iter().all(|key| *key == keys[0]), "one question, one key: {keys:?}");
    assert!(requests[..3].iter().all(|request| request.body == requests[0].body), "the same body each time");
    assert!(requests.iter().all(|request| request.header("authorization") == Some("Bearer secret")));
}

#[tokio::test]
async fn a_question_says_everything_that_was_chosen() {
    let gateway = Gateway::with([decided(Some(true))]).await;
    let producer = Producer::new(&gateway.url).unwrap();
    let result = step_result();
    let ask = producer
        .ask(&result, "alice", "task_456", "validate")
        .timeout(Duration::from_millis(1500))
        .on_timeout(OnTimeout::Fail)
        .options([Choice::new("a", "A"), Choice::new("b", "B").declines()])
        .idempotency_key("task_456/1");
    ask.wait().await.unwrap();
    let requests = gateway.requests().await;
    assert_eq!(requests[0].header("idempotency-key"), Some("task_456/1"));
    assert_eq!(
        serde_json::from_str::<Value>(&requests[0].body).unwrap(),
        json!({"user_id": "alice", "task_id": "task_456", "step": "validate", "timeout": 1.5, "on_timeout": "fail",
            "options": [{"id": "a", "label": "A", "proceed": true}, {"id": "b", "label": "B", "proceed": false}],
            "step_result": {"step": null, "result": null, "completed": false, "message": "found 5 errors",
                "status": "completed", "error_code": null, "error_message": null}})
    );
}

#[tokio::test]
async fn a_timeout_without_an_answer_is_no_consent() {
    let gateway = Gateway::with([decided(None)]).await;
    let decision = Producer::new(&gateway.url).unwrap().wait(ID.parse_id()).await.unwrap();
    assert_eq!(decision.proceed, None);
    assert_eq!(decision.proceeds().unwrap_err().callback_id.to_string(), ID);
    gateway.requests().await;
}

#[tokio::test]
async fn when_patience_ends_the_error_says_how_to_go_on() {
    let gateway = Gateway::with([pending(), unavailable()]).await;
    let producer = Producer::new(&gateway.url).unwrap().wait_margin(Duration::from_millis(100));
    // After the script the port is closed, so every further attempt is refused.
    let result = step_result();
    let ask = producer.ask(&result, "alice", "task_456", 1).timeout(Duration::ZERO).idempotency_key("k1");
    match ask.wait().await.unwrap_err() {
        Error::Unavailable { callback_id, idempotency_key, waited, last } => {
            assert_eq!(callback_id.unwrap().to_string(), ID);
            assert_eq!(idempotency_key.unwrap().as_str(), "k1");
            assert!(waited >= Duration::from_millis(100), "it gave up after {waited:?}");
            assert!(!last.is_empty());
        }
        other => panic!("{other:?}"),
    }
    gateway.requests().await;
}

#[tokio::test]
async fn a_refusal_is_typed_and_not_repeated() {
    for status in [400, 401, 404, 409] {
        let gateway = Gateway::with([refused(status, "some_code")]).await;
        let producer = Producer::new(&gateway.url).unwrap();
        match producer.notify_user(&step_result(), "alice", "task_456", 1).await.unwrap_err() {
            Error::Refused(problem) => {
                assert_eq!((problem.status, problem.code.as_str()), (status, "some_code"));
                assert_eq!(problem.detail.as_deref(), Some("why"));
            }
            other => panic!("{status}: {other:?}"),
        }
        assert_eq!(gateway.requests().await.len(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_page_that_is_no_decision_is_no_answer() {
    for page in ["<html>welcome</html>", "null", "{}", r#"{"proceed": true}"#] {
        let gateway = Gateway::with([Answer::Say(200, "", page.to_owned())]).await;
        let producer = Producer::new(&gateway.url).unwrap();
        let error = producer.notify_user(&step_result(), "alice", "task_456", 1).await.unwrap_err();
        assert!(matches!(error, Error::Unexpected(_)), "{page}: {error:?}");
        gateway.requests().await;
    }
}

#[tokio::test]
async fn a_message_is_repeated_with_its_key_until_the_gateway_says_that_it_is_published() {
    let published = Answer::Say(200, "", json!({"position": {"epoch": "e", "offset": 7}, "nodes": 2}).to_string());
    let gateway = Gateway::with([Answer::Cut, unavailable(), published]).await;
    let producer = Producer::new(&gateway.url).unwrap();
    let told = producer.send_to_user("al/ice ü", &json!({"percent": 40})).await.unwrap();
    assert_eq!((told.position.unwrap().offset, told.nodes), (7, Some(2)));
    let requests = gateway.requests().await;
    assert_eq!(requests[0].line, "POST /v1/users/al%2Fice%20%C3%BC/messages HTTP/1.1");
    let key = requests[0].header("idempotency-key").unwrap();
    assert!(requests.iter().all(|request| request.header("idempotency-key") == Some(key)));
}

#[tokio::test]
async fn at_most_once_has_no_key_and_no_second_attempt() {
    let gateway = Gateway::with([unavailable()]).await;
    let producer = Producer::new(&gateway.url).unwrap().at_most_once();
    let error = producer.broadcast(&json!({"n": 1})).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    let requests = gateway.requests().await;
    assert_eq!((requests.len(), requests[0].header("idempotency-key")), (1, None));
}

#[tokio::test]
async fn what_is_no_message_or_no_name_is_not_sent() {
    let producer = Producer::new("http://127.0.0.1:1").unwrap();
    assert!(matches!(producer.broadcast(&[1, 2]).await, Err(Error::Field(_))));
    assert!(matches!(producer.send_to_user("", &json!({})).await, Err(Error::Field(_))));
    assert!(matches!(producer.publish("user:x", &json!({})).await, Err(Error::Field(_))));
    let key = producer.clone().api_key("new\nline").status().await;
    assert!(matches!(key, Err(Error::Field(_))), "{key:?}");
}

#[tokio::test]
async fn every_message_of_a_batch_has_its_own_key_and_its_own_result() {
    let results = json!({"results": [{"nodes": 1}, {"error": {"status": 400, "code": "invalid", "detail": "why"}}]});
    let gateway = Gateway::with([Answer::Say(200, "", results.to_string())]).await;
    let producer = Producer::new(&gateway.url).unwrap();
    let items = [item("user:alice", &json!({"n": 1})).unwrap(), item("topic:t", &json!({"n": 2})).unwrap()];
    let told = producer.batch(items).await.unwrap();
    assert_eq!(told[0].as_ref().unwrap().nodes, Some(1));
    assert_eq!(told[1].as_ref().unwrap_err().to_string(), "400 invalid: why");
    let body: Value = serde_json::from_str(&gateway.requests().await[0].body).unwrap();
    assert_eq!(
        (&body["messages"][0]["address"], &body["messages"][1]["message"]),
        (&json!("user:alice"), &json!({"n": 2}))
    );
    assert_ne!(body["messages"][0]["idempotency_key"], body["messages"][1]["idempotency_key"]);
}

#[tokio::test]
async fn a_question_that_was_answered_before_it_was_withdrawn_tells_the_answer() {
    let Answer::Say(_, _, decision) = decided(Some(true)) else { panic!("a decision") };
    let gateway = Gateway::with([Answer::Say(409, "", decision), refused(404, "not_found")]).await;
    let producer = Producer::new(&gateway.url).unwrap();
    assert_eq!(producer.withdraw(ID.parse_id()).await.unwrap().by.as_deref(), Some("alice"));
    assert!(matches!(producer.withdraw(ID.parse_id()).await, Err(Error::Refused(problem)) if problem.status == 404));
    gateway.requests().await;
}

#[tokio::test]
async fn a_callback_is_read_as_open_or_ended() {
    let gateway = Gateway::with([pending(), decided(Some(false))]).await;
    let producer = Producer::new(&gateway.url).unwrap();
    assert_eq!(producer.callback(ID.parse_id()).await.unwrap(), CallbackState::Open { deadline: PASSED });
    match producer.callback(ID.parse_id()).await.unwrap() {
        CallbackState::Ended(decision) => assert_eq!(decision.proceed, Some(false)),
        other @ CallbackState::Open { .. } => panic!("{other:?}"),
    }
    gateway.requests().await;
}

trait ParseId {
    fn parse_id(&self) -> crate::CallbackId;
}

impl ParseId for &str {
    fn parse_id(&self) -> crate::CallbackId {
        crate::CallbackId::parse(self).unwrap()
    }
}

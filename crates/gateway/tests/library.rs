//! The gateway inside another program: started on an address of its own, or nested in that program's router.

use std::{future::IntoFuture, time::Duration};

use countersign_gateway::{Config, Gateway, GatewayError};
use countersign_protocol::{Resolution, Status, notification::StepResult};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

const PATIENCE: Duration = Duration::from_secs(10);

type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

fn config() -> Config {
    Config { port: 0, ..Config::default() }
}

async fn connect(url: &str) -> Client {
    Box::pin(timeout(PATIENCE, connect_async(url))).await.expect("connects in time").expect("connects").0
}

/// The next message of a type; others are passed over.
async fn next(client: &mut Client, of_type: &str) -> Value {
    let wanted = async {
        loop {
            let message = client.next().await.expect("the connection lives").expect("a frame");
            let Message::Text(text) = message else { continue };
            let value: Value = serde_json::from_str(&text).expect("JSON");
            if value["type"] == of_type {
                return value;
            }
        }
    };
    let value = timeout(PATIENCE, wanted).await;
    assert!(value.is_ok(), "no {of_type} in time");
    value.expect("just checked")
}

async fn send(client: &mut Client, value: Value) {
    client.send(Message::text(value.to_string())).await.expect("sent");
}

fn step_result() -> StepResult {
    StepResult { message: "Go on?".into(), status: "completed".into(), completed: true, ..StepResult::default() }
}

#[tokio::test]
async fn a_program_asks_in_process_and_gets_the_answer_of_a_person() {
    let gateway = Gateway::start(config()).await.unwrap();
    gateway.ready().await;
    let mut alice = connect(&format!("ws://{}/ws?user_id=alice", gateway.addr())).await;
    next(&mut alice, "connected").await;
    assert_eq!(gateway.connection_count(), 1);

    let asking = tokio::spawn({
        let gateway = (*gateway).clone();
        async move { gateway.notify_user(&step_result(), "alice", "task_1", 1).await }
    });
    let question = next(&mut alice, "task_step_result").await;
    assert_eq!((&question["step"], &question["message"]), (&json!(1), &json!("Go on?")));
    let confirm =
        json!({"action": "confirm", "callback_id": question["callback_id"], "proceed": false, "feedback": "no"});
    send(&mut alice, confirm).await;
    let decision = timeout(PATIENCE, asking).await.expect("answered in time").unwrap().unwrap();
    assert_eq!(
        (decision.status, decision.proceed, decision.resolution),
        (Status::Declined, Some(false), Resolution::User)
    );
    assert_eq!((decision.feedback.as_deref(), decision.by.as_deref()), (Some("no"), Some("alice")));

    gateway.broadcast(&json!({"type": "news"})).await.unwrap();
    gateway.send_to_user("alice", &json!({"type": "progress"})).await.unwrap();
    assert_eq!(next(&mut alice, "news").await["_meta"]["topic"], "broadcast");
    assert_eq!(next(&mut alice, "progress").await["target_user_id"], "alice");
    assert_eq!(gateway.status().status, "ready");
    gateway.stop().await;
}

#[tokio::test]
async fn a_message_that_is_no_object_is_refused_with_its_field() {
    let gateway = Gateway::open(config()).await.unwrap();
    let error = gateway.broadcast(&[1, 2]).await.unwrap_err();
    assert!(matches!(&error, GatewayError::Invalid(field) if field.field == "message"), "{error}");
    let error = gateway.notify_user(&step_result(), "", "t", 1).await.unwrap_err();
    assert!(matches!(&error, GatewayError::Invalid(field) if field.field == "user_id"), "{error}");
    gateway.stop().await;
}

#[tokio::test]
async fn nested_in_another_server_the_gateway_behaves_the_same() {
    let gateway = Gateway::open(config()).await.unwrap();
    gateway.ready().await;
    let router = axum::Router::new().nest("/realtime/{tenant}", gateway.router());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(axum::serve(listener, router).into_future());

    let mut alice = connect(&format!("ws://{address}/realtime/acme/ws?user_id=alice")).await;
    next(&mut alice, "connected").await;
    let mut watcher = connect(&format!("ws://{address}/realtime/acme/api/workflows/w1/updates")).await;
    assert_eq!(next(&mut watcher, "subscription_confirmed").await["topic"], "workflow:w1");

    // The client insists on a provider of TLS even for plain HTTP; another test may have been first.
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let http = reqwest::Client::new();
    let publish = |path: &str| http.post(format!("http://{address}/realtime/acme{path}"));
    let sent = publish("/v1/users/alice/messages").body(r#"{"type":"progress"}"#).send().await.unwrap();
    assert_eq!(sent.status(), 200);
    next(&mut alice, "progress").await;
    publish("/v1/topics/workflow:w1/messages").body(r#"{"type":"update"}"#).send().await.unwrap();
    next(&mut watcher, "update").await;

    // The host keeps its server; the gateway alone ends, and tells its connections to come back.
    gateway.stop().await;
    let closed = timeout(PATIENCE, async {
        loop {
            match alice.next().await {
                Some(Ok(Message::Close(frame))) => return frame.map(|frame| u16::from(frame.code)),
                Some(Ok(_)) => {}
                _ => return None,
            }
        }
    });
    assert_eq!(closed.await.expect("closed in time"), Some(1012));
    server.abort();
}

//! What a consumer does when the gateway speaks, cuts, drains, or does not want it.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{Request, Response},
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use crate::{CallbackId, Client, Connection, Error, Event, Verdict};

const PATIENCE: Duration = Duration::from_secs(10);
const ID: &str = "07-000000000000000000000000000000ab";

/// The gateway's end of the connections.
struct Gateway(TcpListener);

/// One of them, and how it was asked for.
struct Peer {
    socket: WebSocketStream<TcpStream>,
    target: String,
    offered: Option<String>,
}

impl Gateway {
    async fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn client(&self) -> Client {
        Client::new(&format!("ws://{}/ws", self.0.local_addr().unwrap())).unwrap()
    }

    async fn accept(&self) -> Peer {
        let (stream, _) = timeout(PATIENCE, self.0.accept()).await.expect("the client should have come").unwrap();
        let (mut target, mut offered) = (String::new(), None);
        #[expect(clippy::result_large_err, reason = "the library's callback is written so")]
        let look = |request: &Request, mut response: Response| {
            target = request.uri().to_string();
            if let Some(list) = request.headers().get("sec-websocket-protocol") {
                offered = Some(list.to_str().unwrap().to_owned());
                response.headers_mut().insert("sec-websocket-protocol", "countersign.v1".parse().unwrap());
            }
            Ok(response)
        };
        let socket = accept_hdr_async(stream, look).await.unwrap();
        Peer { socket, target, offered }
    }

    /// Accepts and welcomes.
    async fn welcome(&self, offset: u64) -> Peer {
        let mut peer = self.accept().await;
        peer.say(&json!({"type": "connected", "connection_id": "c1", "user_id": "alice", "node_id": "n1", "ping_interval": 30.0,
            "positions": {"broadcast": {"epoch": "b", "offset": offset, "recovered": true}}}))
            .await;
        peer
    }
}

impl Peer {
    async fn say(&mut self, value: &Value) {
        self.socket.send(Message::text(value.to_string())).await.unwrap();
    }

    async fn hear(&mut self) -> Value {
        loop {
            let frame = timeout(PATIENCE, self.socket.next()).await.expect("the client should have said something");
            match frame.unwrap().unwrap() {
                Message::Text(text) => return serde_json::from_str(text.as_str()).unwrap(),
                Message::Close(frame) => panic!("closed: {frame:?}"),
                _ => {}
            }
        }
    }

    async fn close(&mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        self.socket.send(Message::Close(Some(frame))).await.unwrap();
    }
}

async fn next(connection: &mut Connection) -> Event {
    timeout(PATIENCE, connection.next()).await.expect("an event should have come").expect("it ended without a word")
}

fn question() -> Value {
    json!({"type": "task_step_result", "callback_id": ID, "user_id": "alice", "task_id": "t", "step": 1, "message": "go on?",
        "status": "completed", "deadline": 2.0, "timestamp": 1.0, "options": null, "_meta": {"topic": "user:alice"}})
}

#[tokio::test]
async fn a_question_is_answered_and_the_reply_is_found_among_other_events() {
    let gateway = Gateway::new().await;
    let client = gateway.client().user_id("alice").unwrap();
    let (peer, connection) = tokio::join!(gateway.welcome(0), client.connect());
    let (mut peer, mut connection) = (peer, connection.unwrap());
    assert_eq!(peer.target, "/ws?user_id=alice");
    assert!(matches!(next(&mut connection).await, Event::Connected(connected) if connected.node_id == "n1"));
    peer.say(&question()).await;
    let Event::Callback(callback) = next(&mut connection).await else { panic!("no question") };
    let answering = connection.confirm(callback.callback_id, true, Some("yes"));
    let gateway_side = async {
        let action = peer.hear().await;
        assert_eq!(
            (&action["action"], &action["proceed"], &action["feedback"]),
            (&json!("confirm"), &json!(true), &json!("yes"))
        );
        assert!(action["answer_id"].is_string());
        // More than the queue of events holds: the reply is behind them all.
        for n in 0..3000 {
            peer.say(&json!({"n": n, "_meta": {"topic": "broadcast"}})).await;
        }
        peer.say(&json!({"type": "confirmation_accepted", "callback_id": ID, "reply_to": action["id"]})).await;
    };
    let (verdict, ()) = timeout(PATIENCE, async { tokio::join!(answering, gateway_side) }).await.expect("a reply");
    assert_eq!(verdict.unwrap(), Verdict::Accepted);
    for n in 0..3000 {
        let Event::Message(message) = next(&mut connection).await else { panic!("no message {n}") };
        assert_eq!(message.body["n"], n);
    }
}

#[tokio::test]
async fn after_a_drain_it_comes_back_resumes_and_gives_its_answer_again() {
    let gateway = Gateway::new().await;
    let client = gateway.client().user_id("alice").unwrap();
    let (peer, connection) = tokio::join!(gateway.welcome(4), client.connect());
    let (mut peer, mut connection) = (peer, connection.unwrap());
    peer.say(&json!({"n": 5, "_meta": {"topic": "broadcast", "position": {"epoch": "b", "offset": 5}}})).await;
    next(&mut connection).await;
    assert!(matches!(next(&mut connection).await, Event::Message(_)));
    let id = CallbackId::parse(ID).unwrap();
    let remote = connection.remote();
    let answering = tokio::spawn(async move { remote.confirm(id, false, None).await });
    let first = peer.hear().await;
    peer.close(1012, "Service restart").await;

    let mut peer = gateway.welcome(5).await;
    assert_eq!(peer.target, "/ws?user_id=alice&since=broadcast%40b%3A5");
    let again = peer.hear().await;
    assert_eq!(again, first, "the same answer with the same answer_id");
    peer.say(&json!({"type": "confirmation_accepted", "callback_id": ID, "reply_to": again["id"]})).await;
    let verdict = timeout(PATIENCE, answering).await.expect("a reply").unwrap();
    assert_eq!(verdict.unwrap(), Verdict::Accepted);
    assert!(matches!(next(&mut connection).await, Event::Disconnected { code: Some(1012), .. }));
    assert!(matches!(next(&mut connection).await, Event::Connected(_)));
}

#[tokio::test]
async fn an_answer_that_redis_did_not_take_is_given_again() {
    let gateway = Gateway::new().await;
    let (peer, connection) = tokio::join!(gateway.welcome(0), gateway.client().connect());
    let (mut peer, mut connection) = (peer, connection.unwrap());
    let gateway_side = async {
        let first = peer.hear().await;
        peer.say(&json!({"type": "confirmation_rejected", "callback_id": ID, "reason": "unavailable", "reply_to": first["id"]}))
            .await;
        let again = peer.hear().await;
        assert_eq!(again, first);
        peer.say(&json!({"type": "confirmation_accepted", "callback_id": ID, "reply_to": again["id"]})).await;
    };
    let (verdict, ()) = tokio::join!(connection.confirm(CallbackId::parse(ID).unwrap(), true, None), gateway_side);
    assert_eq!(verdict.unwrap(), Verdict::Accepted);
}

#[tokio::test]
async fn a_bad_token_is_not_tried_again() {
    let gateway = Gateway::new().await;
    let refusing = async {
        let mut peer = gateway.accept().await;
        peer.close(4500, "Bad token").await;
        peer.offered
    };
    let (offered, connection) = tokio::join!(refusing, gateway.client().token("abc").connect());
    assert_eq!(offered.as_deref(), Some("countersign.v1, bearer.abc"));
    let error = connection.expect_err("it was refused");
    assert!(matches!(&error, Error::Ended(reason) if reason == "4500 Bad token"), "{error:?}");
}

#[tokio::test]
async fn a_client_that_was_kicked_stays_away_and_says_so() {
    let gateway = Gateway::new().await;
    let (peer, connection) = tokio::join!(gateway.welcome(0), gateway.client().connect());
    let (mut peer, mut connection) = (peer, connection.unwrap());
    next(&mut connection).await;
    peer.close(4503, "Replaced").await;
    assert!(matches!(next(&mut connection).await, Event::Ended { code: Some(4503), .. }));
    assert_eq!(timeout(PATIENCE, connection.next()).await.expect("the end"), None);
    assert!(matches!(connection.ping().await, Err(Error::Ended(_))));
}

#[tokio::test]
async fn a_token_is_fetched_anew_for_each_connection() {
    let gateway = Gateway::new().await;
    let count = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let client = gateway.client().token_from(move || {
        let n = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        std::future::ready(Ok(format!("t{n}")))
    });
    let (peer, connection) = tokio::join!(gateway.welcome(0), client.connect());
    let (mut peer, _connection) = (peer, connection.unwrap());
    assert_eq!(peer.offered.as_deref(), Some("countersign.v1, bearer.t0"));
    peer.close(4004, "Token expired").await;
    assert_eq!(gateway.welcome(0).await.offered.as_deref(), Some("countersign.v1, bearer.t1"));
}

#[tokio::test]
async fn a_dropped_connection_says_goodbye() {
    let gateway = Gateway::new().await;
    let (peer, connection) = tokio::join!(gateway.welcome(0), gateway.client().connect());
    let mut peer = peer;
    drop(connection.unwrap());
    let frame = timeout(PATIENCE, peer.socket.next()).await.expect("a goodbye");
    assert!(matches!(frame, Some(Ok(Message::Close(_)))), "{frame:?}");
}

//! A person's browser, reduced to its WebSocket: sends what it is told, keeps what it is sent.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::deadline::PATIENCE;

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The close code; 1006 when the connection was cut without one, 1005 when the frame had none.
    pub code: u16,
    /// The reason, often empty.
    pub reason: String,
}

/// A handshake that was answered with something else than an upgrade.
#[derive(Debug)]
pub struct Refusal {
    /// The status, or 0 when the connection itself was refused or cut.
    pub status: u16,
    /// The body, or the error's text.
    pub body: String,
}

/// One WebSocket connection of a client.
#[derive(Debug)]
pub struct Device {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    welcome: Value,
    unread: VecDeque<Value>,
    seen: Vec<Value>,
    closed: Option<Closed>,
}

impl Device {
    /// Connects and waits for `connected`.
    pub async fn connect(url: &str) -> Self {
        let mut device = Self::dial(url, &[]).await.unwrap_or_else(|refusal| panic!("{url}: {refusal:?}"));
        device.welcome = device.expect_type("connected").await;
        device
    }

    /// Connects as a user (open mode) and waits for the list of open callbacks: from then on the node
    /// hears everything that is meant for this user.
    pub async fn of_user(url: &str, user: &str) -> Self {
        let separator = if url.contains('?') { '&' } else { '?' };
        let mut device = Self::connect(&format!("{url}{separator}user_id={user}")).await;
        assert_eq!(device.welcome["user_id"], user, "{}", device.welcome);
        let list = device.wait_for("open_callbacks", |m| m["type"] == "open_callbacks");
        list.await;
        device
    }

    /// Only the handshake, with additional headers; what the gateway says afterwards is not awaited.
    pub async fn dial(url: &str, headers: &[(&str, &str)]) -> Result<Self, Refusal> {
        let mut request = url.into_client_request().expect("a test's own URL");
        for (name, value) in headers {
            let name: HeaderName = name.parse().expect("a test's own header");
            let value = HeaderValue::from_str(value).expect("a test's own header");
            request.headers_mut().insert(name, value);
        }
        let dialled = timeout_at(Instant::now() + PATIENCE, connect_async(request)).await;
        match dialled {
            Ok(Ok((socket, _))) => {
                Ok(Self { socket, welcome: Value::Null, unread: VecDeque::new(), seen: Vec::new(), closed: None })
            }
            Ok(Err(Error::Http(response))) => Err(Refusal {
                status: response.status().as_u16(),
                body: String::from_utf8_lossy(response.body().as_deref().unwrap_or_default()).into_owned(),
            }),
            Ok(Err(error)) => Err(Refusal { status: 0, body: error.to_string() }),
            Err(_) => Err(Refusal { status: 0, body: format!("no handshake within {PATIENCE:?}") }),
        }
    }

    /// The `connected` message that opened this connection.
    pub fn welcome(&self) -> &Value {
        &self.welcome
    }

    /// The name of the node that serves this connection.
    pub fn node_id(&self) -> &str {
        self.welcome["node_id"].as_str().unwrap_or_else(|| panic!("no node_id in {}", self.welcome))
    }

    /// Sends one JSON object.
    pub async fn send(&mut self, action: Value) {
        self.send_raw(action.to_string()).await;
    }

    /// Sends any text as one text frame.
    pub async fn send_raw(&mut self, text: impl Into<String>) {
        self.send_frame(Message::text(text.into())).await;
    }

    /// Sends bytes that claim to be text.
    pub async fn send_bytes_as_text(&mut self, bytes: Vec<u8>) {
        let frame = Frame::message(bytes, OpCode::Data(Data::Text), true);
        self.send_frame(Message::Frame(frame)).await;
    }

    /// Sends a binary frame.
    pub async fn send_binary(&mut self, bytes: Vec<u8>) {
        self.send_frame(Message::binary(bytes)).await;
    }

    async fn send_frame(&mut self, message: Message) {
        // When the gateway has closed meanwhile, the next read says how.
        drop(self.socket.send(message).await);
    }

    /// The next message, whatever it is, in the order in which the gateway sent them.
    #[track_caller]
    pub fn next_json(&mut self, deadline: Duration) -> impl Future<Output = Value> {
        let caller = std::panic::Location::caller();
        let end = Instant::now() + deadline;
        async move {
            if let Some(message) = self.unread.pop_front() {
                return message;
            }
            match self.read(end).await {
                Some(message) => message,
                None => panic!("no message within {deadline:?} at {caller}; {}", self.report()),
            }
        }
    }

    /// The next message, or `None` when the connection is over; waits as long as it takes.
    pub async fn next(&mut self) -> Option<Value> {
        if let Some(message) = self.unread.pop_front() {
            return Some(message);
        }
        let for_ever = Instant::now() + Duration::from_secs(3600);
        self.read(for_ever).await
    }

    /// Waits for a message that fits and returns it. What came before it and does not fit stays unread.
    #[track_caller]
    pub fn wait_for(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> impl Future<Output = Value> {
        let caller = std::panic::Location::caller();
        let end = Instant::now() + PATIENCE;
        async move {
            if let Some(at) = self.unread.iter().position(&fits) {
                return self.unread.remove(at).expect("it was just found");
            }
            while let Some(message) = self.read(end).await {
                if fits(&message) {
                    return message;
                }
                self.unread.push_back(message);
            }
            panic!("no {what} within {PATIENCE:?} at {caller}; {}", self.report())
        }
    }

    /// Waits for a message of this `type`.
    #[track_caller]
    pub fn expect_type(&mut self, kind: &str) -> impl Future<Output = Value> {
        let wanted = kind.to_owned();
        self.wait_for(kind, move |message| message["type"] == *wanted)
    }

    /// Subscribes to a topic and waits until that is confirmed.
    pub async fn subscribe(&mut self, topic: &str) -> Value {
        self.send(json!({"action": "subscribe", "topic": topic})).await;
        let wanted = topic.to_owned();
        self.wait_for("subscription_confirmed", move |message| {
            message["type"] == "subscription_confirmed" && message["topic"] == *wanted
        })
        .await
    }

    /// Answers a callback and waits for the gateway's verdict, `confirmation_accepted` or
    /// `confirmation_rejected`.
    pub async fn confirm(&mut self, callback_id: &str, proceed: bool) -> Value {
        self.confirm_with(callback_id, json!({"proceed": proceed})).await
    }

    /// The same with other fields beside `proceed`.
    pub async fn confirm_with(&mut self, callback_id: &str, fields: Value) -> Value {
        let mut action = json!({"action": "confirm", "callback_id": callback_id});
        if let (Value::Object(action), Value::Object(fields)) = (&mut action, fields) {
            action.extend(fields);
        }
        self.send(action).await;
        let wanted = callback_id.to_owned();
        self.wait_for("verdict on the confirmation", move |message| {
            let kind = message["type"].as_str().unwrap_or_default();
            kind.starts_with("confirmation_") && message["callback_id"] == *wanted
        })
        .await
    }

    /// A round trip: everything that the gateway had queued for this connection before is read now.
    pub async fn ping(&mut self) {
        self.send(json!({"action": "ping"})).await;
        self.expect_type("pong").await;
    }

    /// What was received and not yet taken by anybody.
    pub fn unread(&self) -> Vec<&Value> {
        self.unread.iter().collect()
    }

    /// Panics when an unread message fits. Only means something after a fence: a later message that has
    /// arrived on the same way.
    #[track_caller]
    pub fn assert_none(&self, what: &str, fits: impl Fn(&Value) -> bool) {
        assert!(!self.unread.iter().any(fits), "there should be no {what}; {}", self.report());
    }

    /// Reads on until the gateway closes, and returns how it did.
    #[track_caller]
    pub fn closed(&mut self) -> impl Future<Output = Closed> {
        let caller = std::panic::Location::caller();
        let end = Instant::now() + PATIENCE;
        async move {
            while let Some(message) = self.read(end).await {
                self.unread.push_back(message);
            }
            match &self.closed {
                Some(closed) => closed.clone(),
                None => panic!("still open after {PATIENCE:?} at {caller}; {}", self.report()),
            }
        }
    }

    /// Closes from the client's side and waits for the end.
    pub async fn close(mut self) {
        drop(self.socket.close(None).await);
        self.closed().await;
    }

    async fn read(&mut self, end: Instant) -> Option<Value> {
        while self.closed.is_none() {
            let frame = timeout_at(end, self.socket.next()).await.ok()?;
            match frame {
                Some(Ok(Message::Text(text))) => {
                    let message: Value =
                        serde_json::from_str(&text).unwrap_or_else(|error| panic!("not JSON ({error}): {text}"));
                    self.seen.push(message.clone());
                    return Some(message);
                }
                Some(Ok(Message::Close(frame))) => {
                    self.closed = Some(frame.map_or_else(
                        || Closed { code: 1005, reason: String::new() },
                        |frame| Closed { code: frame.code.into(), reason: frame.reason.to_string() },
                    ));
                    // Sends our half of the close; what it returns does not matter any more.
                    drop(timeout_at(end, self.socket.next()).await);
                }
                Some(Ok(Message::Binary(bytes))) => panic!("a binary frame: {bytes:?}"),
                Some(Ok(_)) => {}
                Some(Err(error)) => self.closed = Some(cut(error.to_string())),
                None => self.closed = Some(cut(String::new())),
            }
        }
        None
    }

    fn report(&self) -> String {
        let mut report = String::from("seen on this connection:\n");
        for message in &self.seen {
            report.push_str("  ");
            report.push_str(&message.to_string());
            report.push('\n');
        }
        match &self.closed {
            Some(closed) => report.extend(["  closed: ", &format!("{closed:?}")]),
            None => report.push_str("  (still open)"),
        }
        report
    }
}

fn cut(reason: String) -> Closed {
    Closed { code: 1006, reason }
}

//! The usual axum chat: every connection subscribes to one broadcast channel of the process, looks whether a message is
//! for it and serialises it for its client. Read buffers of 4 KiB, one thread.
//!
//! `axum-peer PORT REDIS_PORT`: `?user_id=<id>` hears `cs:broadcast` and `cs:user:<id>`; what a client says is echoed.

use std::{collections::HashMap, sync::Arc};

use axum::{
    extract::{
        ws::{Message, WebSocket, WebSocketUpgrade},
        Query, State,
    },
    routing::get,
    Router,
};
use futures_util::StreamExt;
use serde_json::Value;
use tokio::sync::broadcast;

/// For whom it is (`None`: everybody), and what.
type Published = (Option<String>, Arc<Value>);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut ports = std::env::args().skip(1).map(|port| port.parse::<u16>().expect("axum-peer PORT REDIS_PORT"));
    let port = ports.next().expect("axum-peer PORT REDIS_PORT");
    let redis = ports.next().expect("axum-peer PORT REDIS_PORT");
    let (published, _) = broadcast::channel::<Published>(10_000);
    let client = redis::Client::open(format!("redis://127.0.0.1:{redis}")).expect("an address of Redis");
    let mut subscriber = client.get_async_pubsub().await.expect("a connection to Redis");
    subscriber.subscribe("cs:broadcast").await.expect("SUBSCRIBE");
    subscriber.psubscribe("cs:user:*").await.expect("PSUBSCRIBE");
    let publisher = published.clone();
    tokio::spawn(async move {
        let mut messages = subscriber.into_on_message();
        while let Some(message) = messages.next().await {
            let user = message.get_channel_name().strip_prefix("cs:user:").map(str::to_owned);
            if let Ok(value) = serde_json::from_slice(message.get_payload_bytes()) {
                // Nobody may be connected.
                let _ = publisher.send((user, Arc::new(value)));
            }
        }
    });
    let app = Router::new().route("/ws", get(upgrade)).with_state(published);
    let socket = socket(port);
    axum::serve(socket, app).await.expect("serving");
}

fn socket(port: u16) -> tokio::net::TcpListener {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("an option");
    socket.bind(([127, 0, 0, 1], port).into()).expect("the port is taken");
    socket.listen(1024).expect("listening")
}

async fn upgrade(
    upgrade: WebSocketUpgrade,
    Query(mut query): Query<HashMap<String, String>>,
    State(published): State<broadcast::Sender<Published>>,
) -> axum::response::Response {
    let user = query.remove("user_id");
    upgrade.read_buffer_size(4096).on_upgrade(move |socket| client(socket, user, published.subscribe()))
}

async fn client(mut socket: WebSocket, user: Option<String>, mut published: broadcast::Receiver<Published>) {
    loop {
        let out = tokio::select! {
            heard = socket.recv() => match heard {
                Some(Ok(Message::Text(text))) => Message::Text(text),
                Some(Ok(_)) => continue,
                _ => return,
            },
            message = published.recv() => match message {
                Ok((target, value)) if target.is_none() || target == user => Message::Text(value.to_string().into()),
                // Not for this client, or so far behind that messages were lost.
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => continue,
                Err(broadcast::error::RecvError::Closed) => return,
            },
        };
        if socket.send(out).await.is_err() {
            return;
        }
    }
}

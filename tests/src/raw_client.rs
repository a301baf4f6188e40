//! A client that shows what is on the wire, and reads when it is told to.

use std::{collections::VecDeque, fmt};

use countersign_ws::{
    Decoder, Event, Header, Inflater, Limits, Role, frame,
    handshake::{
        Key,
        client::{self, Request},
    },
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::{Node, PATIENCE};

/// A client that shows what was on the wire.
pub struct RawClient {
    stream: TcpStream,
    decoder: Decoder,
    inflater: Inflater,
    /// Whether compression was agreed.
    pub agreed: bool,
    /// Bytes that came, frames and all.
    pub came: usize,
    /// Messages that came and were not taken.
    pub heard: VecDeque<Value>,
    /// The code of the node's close.
    pub closed: Option<u16>,
}

impl fmt::Debug for RawClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawClient").field("came", &self.came).field("closed", &self.closed).finish_non_exhaustive()
    }
}

impl RawClient {
    /// Connects as a user, with an offer of extensions.
    pub async fn connect(node: &Node, user: &str, offer: Option<&str>) -> Self {
        let stream = TcpStream::connect(node.address()).await.expect("the node listens");
        Self::over(stream, node, &format!("/ws?user_id={user}"), offer).await
    }

    /// Connects with a receive buffer of so many bytes, so that little is on its way to a client that does not read.
    pub async fn with_window(node: &Node, target: &str, bytes: u32) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(bytes).expect("a size");
        let stream = socket.connect(node.address().parse().expect("an address")).await.expect("the node listens");
        Self::over(stream, node, target, None).await
    }

    async fn over(mut stream: TcpStream, node: &Node, target: &str, offer: Option<&str>) -> Self {
        let key = Key::new([7; 16]);
        let request = Request { host: node.address(), target, key, protocols: &[], extensions: offer };
        stream.write_all(&request.encode()).await.expect("sent");
        let mut head = Vec::new();
        let response = loop {
            let byte = timeout(PATIENCE, stream.read_u8()).await.expect("an answer in time").expect("an answer");
            head.push(byte);
            if let Some((response, _)) = client::read_answer(&head).expect("an answer to a handshake") {
                break response;
            }
        };
        let agreed = !request.check(&response).expect("accepted").extensions.is_empty();
        let decoder = Decoder::new(Role::Client, Limits::new(1 << 24));
        let (inflater, heard) = (Inflater::new(), VecDeque::new());
        let mut client = Self { stream, decoder, inflater, agreed, came: 0, heard, closed: None };
        client.next_of("connected").await;
        client
    }

    /// Sends one frame.
    pub async fn send(&mut self, header: Header, payload: &[u8]) {
        let mut bytes = Vec::new();
        frame::append(Header { mask: Some([1, 2, 3, 4]), ..header }, payload, &mut bytes);
        self.write(&bytes).await;
    }

    /// Sends bytes as they are.
    pub async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("sent");
    }

    /// Reads once.
    pub async fn read(&mut self) {
        let mut bytes = vec![0; 64 * 1024];
        let read = timeout(PATIENCE, self.stream.read(&mut bytes)).await.expect("something in time").expect("a read");
        assert!(read > 0, "the node hung up without a close");
        self.came += read;
        let mut unread = &mut bytes[..read];
        loop {
            let next = if self.agreed {
                self.decoder.next_inflating(&mut unread, &mut self.inflater)
            } else {
                self.decoder.next(&mut unread)
            };
            match next.expect("frames as the RFC wants them") {
                Some(Event::Text(text)) => self.heard.push_back(serde_json::from_str(text).expect("JSON")),
                Some(Event::Close(code)) => self.closed = code.map(|(code, _)| code),
                Some(_) => {}
                None => return,
            }
        }
    }

    /// The next message of a type; others are passed over.
    pub async fn next_of(&mut self, kind: &str) -> Value {
        loop {
            match self.heard.pop_front() {
                Some(message) if message["type"] == kind => return message,
                Some(_) => {}
                None => self.read().await,
            }
        }
    }
}

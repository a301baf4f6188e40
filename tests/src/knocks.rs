//! Clients that knock all the time, each time on a fresh connection, and write down what they found: so that a listener which
//! goes away can be seen from outside, down to the connection that came in its last moment.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::deadline::{PATIENCE, eventually};

/// What is asked of the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Knock {
    /// `GET /v1/callbacks?user_id=nobody`.
    Get,
    /// `POST /v1/broadcast`.
    Post,
    /// A WebSocket.
    Upgrade,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Found {
    /// Nobody listens.
    Refused,
    /// A whole answer with this status, and `Retry-After` if it is 503.
    Answered(u16),
    /// A connection that said `connected`.
    Open,
    /// A connection that was closed with this code.
    Closed(u16),
    /// Anything else: accepted and cut, an answer that does not end or says too little.
    Broken(String),
}

/// How often what was found.
pub type Findings = BTreeMap<(Knock, Found), usize>;

/// See the module. Whoever is refused stops knocking.
#[derive(Debug)]
pub struct Knocks {
    found: Arc<Mutex<Findings>>,
    clients: JoinSet<()>,
}

impl Knocks {
    /// So many clients of each kind at one door, until they are refused or [`stopped`](Self::stopped).
    pub fn at(address: &str, clients_of_each: usize) -> Self {
        let address: SocketAddr = address.parse().expect("host:port of a test's own server");
        let (found, mut clients) = (Arc::default(), JoinSet::new());
        for _ in 0..clients_of_each {
            for knock in [Knock::Get, Knock::Post, Knock::Upgrade] {
                clients.spawn(knocks(address, knock, Arc::clone(&found)));
            }
        }
        Self { found, clients }
    }

    /// Waits until each kind was answered so many more times.
    pub async fn answered(&self, more: usize) {
        let count = |kind: Knock| -> usize {
            let found = self.found.lock().expect("no holder of the lock panics");
            let answers = found.iter().filter(|((knock, found), _)| *knock == kind && is_well(found));
            answers.map(|(_, count)| count).sum()
        };
        for kind in [Knock::Get, Knock::Post, Knock::Upgrade] {
            let wanted = count(kind) + more;
            let what = format!("{more} more answers to {kind:?}");
            eventually(PATIENCE, &what, || async { (count(kind) >= wanted).then_some(()) }).await;
        }
    }

    /// Waits until everybody was refused; what all of them found.
    pub async fn refused(mut self) -> Findings {
        let all = async { while self.clients.join_next().await.is_some() {} };
        timeout(PATIENCE * 2, all).await.expect("everybody is refused in the end");
        self.found.lock().expect("no holder of the lock panics").clone()
    }

    /// What was found so far; nobody knocks any more.
    pub async fn stopped(mut self) -> Findings {
        self.clients.shutdown().await;
        self.found.lock().expect("no holder of the lock panics").clone()
    }
}

fn is_well(found: &Found) -> bool {
    matches!(found, Found::Open | Found::Answered(200))
}

async fn knocks(address: SocketAddr, knock: Knock, findings: Arc<Mutex<Findings>>) {
    let note = |found: Found| {
        *findings.lock().expect("no holder of the lock panics").entry((knock, found)).or_default() += 1;
    };
    // The newest WebSocket stays open while the next one is opened, so that some are there to be told to come back.
    let mut kept = None;
    loop {
        let (found, socket) = match timeout(PATIENCE, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => match timeout(PATIENCE, asks(stream, address, knock)).await {
                Ok(found) => found,
                Err(_) => (Found::Broken("no answer".to_owned()), None),
            },
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => (Found::Refused, None),
            Ok(Err(error)) => (Found::Broken(format!("connect: {:?}", error.kind())), None),
            Err(_) => (Found::Broken("no connection".to_owned()), None),
        };
        let over = found == Found::Refused;
        note(found);
        kept = socket.or(kept);
        if over {
            break;
        }
    }
    if let Some(socket) = kept {
        note(timeout(PATIENCE, ends(socket)).await.unwrap_or_else(|_| Found::Broken("not closed".to_owned())));
    }
}

type Socket = WebSocketStream<TcpStream>;

async fn asks(stream: TcpStream, address: SocketAddr, knock: Knock) -> (Found, Option<Socket>) {
    let request = match knock {
        Knock::Upgrade => return opens(stream, address).await,
        Knock::Get => {
            format!("GET /v1/callbacks?user_id=nobody HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
        }
        Knock::Post => {
            let body = r#"{"type":"knock"}"#;
            let length = body.len();
            format!(
                "POST /v1/broadcast HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
                 Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            )
        }
    };
    let answered = async {
        let (mut stream, mut answer) = (stream, Vec::new());
        stream.write_all(request.as_bytes()).await?;
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let found = match answered.await {
        Ok(answer) => read(&String::from_utf8_lossy(&answer)),
        Err(error) => Found::Broken(format!("{:?}", error.kind())),
    };
    (found, None)
}

/// An answer, if it is whole.
fn read(answer: &str) -> Found {
    let broken = || Found::Broken(format!("{answer:.200?}"));
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return broken() };
    let header = |name: &str| {
        head.lines().find_map(|line| line.split_once(": ").filter(|(given, _)| given.eq_ignore_ascii_case(name)))
    };
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let length = header("content-length").and_then(|(_, length)| length.parse::<usize>().ok());
    match (status, length) {
        (Some(503), _) if header("retry-after").is_none() => broken(),
        (Some(status), Some(length)) if body.len() == length => Found::Answered(status),
        _ => broken(),
    }
}

async fn opens(stream: TcpStream, address: SocketAddr) -> (Found, Option<Socket>) {
    let mut socket = match client_async(format!("ws://{address}/ws?user_id=knocker"), stream).await {
        Ok((socket, _)) => socket,
        Err(Error::Http(refusal)) => {
            let status = refusal.status().as_u16();
            let found = match (status, refusal.headers().contains_key("retry-after")) {
                (503, false) => Found::Broken("503 without Retry-After".to_owned()),
                _ => Found::Answered(status),
            };
            return (found, None);
        }
        Err(error) => return (Found::Broken(format!("handshake: {error}")), None),
    };
    match socket.next().await {
        Some(Ok(Message::Text(text))) if text.contains(r#""type":"connected""#) => (Found::Open, Some(socket)),
        Some(Ok(Message::Close(frame))) => (closed(frame.map(|frame| frame.code.into())), None),
        other => (Found::Broken(format!("first: {other:?}")), None),
    }
}

/// How an open connection ends.
async fn ends(mut socket: Socket) -> Found {
    loop {
        match socket.next().await {
            Some(Ok(Message::Close(frame))) => return closed(frame.map(|frame| frame.code.into())),
            Some(Ok(_)) => {}
            other => return Found::Broken(format!("open, then {other:?}")),
        }
    }
}

fn closed(code: Option<u16>) -> Found {
    code.map_or_else(|| Found::Broken("a close without a code".to_owned()), Found::Closed)
}

/// What no client should have found.
pub fn broken(findings: &Findings) -> Vec<String> {
    let broken = findings.iter().filter(|((_, found), _)| matches!(found, Found::Broken(_)));
    broken.map(|((knock, found), count)| format!("{count} x {knock:?}: {found:?}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_or_broken() {
        let whole = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(read(whole), Found::Answered(200));
        let later = "HTTP/1.1 503 Later\r\nRetry-After: 1\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(read(later), Found::Answered(503));
        let cut = whole.trim_end_matches('}');
        for text in ["", "HTTP/1.1 200 OK\r\n", cut, &later.replace("Retry-After: 1\r\n", "")] {
            assert!(matches!(read(text), Found::Broken(_)), "{text:?}");
        }
    }

    /// A server that accepts and then is gone, as one is that closes its listener with somebody in the backlog.
    #[tokio::test]
    async fn who_is_accepted_and_cut_has_found_a_broken_door() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let knocks = Knocks::at(&listener.local_addr().expect("bound").to_string(), 1);
        for _ in 0..6 {
            drop(listener.accept().await.expect("a knock"));
        }
        drop(listener);
        let found = knocks.refused().await;
        assert!(!broken(&found).is_empty(), "{found:?}");
        assert!(found.keys().any(|(_, found)| *found == Found::Refused), "{found:?}");
    }
}

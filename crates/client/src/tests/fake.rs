//! A gateway that says what a test tells it to: answers come in the order in which they were scripted, one for a
//! request, and every request is kept. Ends with the test.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// What the gateway does with one request.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// Status, additional header lines (each ends with `\r\n`), body.
    Say(u16, &'static str, String),
    /// Reads the request and hangs up.
    Cut,
}

/// One request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Method and target.
    pub(crate) line: String,
    head: String,
    /// The body.
    pub(crate) body: String,
}

impl Request {
    /// The value of a header, by its lower-case name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().filter_map(|line| line.split_once(": ")).find(|(found, _)| *found == name).map(|(_, v)| v)
    }
}

/// A scripted gateway.
#[derive(Debug)]
pub(crate) struct Gateway {
    /// `http://…`
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<Request>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Gateway {
    /// Listens on a free port of this machine.
    pub(crate) async fn with(script: impl IntoIterator<Item = Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let script: Vec<_> = script.into_iter().collect();
        let task = tokio::spawn(async move {
            for answer in script {
                let (mut stream, _) = listener.accept().await.unwrap();
                let request = read(&mut stream).await;
                seen.lock().unwrap().push(request);
                if let Answer::Say(status, headers, body) = answer {
                    let length = body.len();
                    let text = format!(
                        "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
                    );
                    stream.write_all(text.as_bytes()).await.unwrap();
                }
            }
        });
        Self { url, requests, task }
    }

    /// Everything that was asked; the script must have been played to its end.
    pub(crate) async fn requests(self) -> Vec<Request> {
        tokio::time::timeout(std::time::Duration::from_secs(5), self.task)
            .await
            .expect("the script should have ended: fewer requests came than were scripted")
            .unwrap();
        let requests = self.requests.lock().unwrap();
        requests.clone()
    }
}

async fn read(stream: &mut TcpStream) -> Request {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let text = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let (line, head) = text.split_once("\r\n").unwrap();
            let mut request = Request { line: line.to_owned(), head: head.to_owned(), body: String::new() };
            let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
            while bytes.len() < end + 4 + length {
                assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "cut in the body");
            }
            request.body = String::from_utf8(bytes[end + 4..].to_vec()).unwrap();
            return request;
        }
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "cut in the head: {bytes:?}");
    }
}

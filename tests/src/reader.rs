//! A client that reads, comes back whenever its connection ends, and says where it was. It is reduced to what the protocol
//! asks of a client: it drops nothing and repairs nothing, so that the account shows what the gateway did.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::json;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::fault::pauses;
use crate::history::now;
use crate::ledger::{Ledger, Line, Place};

/// See the module.
#[derive(Debug)]
pub struct Reader {
    name: String,
    user: Option<String>,
    topics: Vec<String>,
    urls: Vec<String>,
    ledger: Ledger,
    /// Where it is, of each address that it has heard of; `None` where no history is kept.
    places: BTreeMap<String, Option<Place>>,
    window: Option<u32>,
    reads: Option<watch::Receiver<bool>>,
    leaves_after: Option<Duration>,
}

/// A frame, as far as a reader cares.
#[derive(Debug, Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type", borrow)]
    kind: &'a str,
    n: Option<u64>,
    #[serde(rename = "_meta", borrow)]
    meta: Option<Meta<'a>>,
    #[serde(borrow)]
    topic: Option<&'a str>,
    position: Option<Position>,
    recovered: Option<bool>,
    #[serde(borrow)]
    node_id: Option<&'a str>,
    #[serde(borrow)]
    code: Option<&'a str>,
    positions: Option<BTreeMap<String, Told>>,
}

#[derive(Debug, Deserialize)]
struct Meta<'a> {
    #[serde(borrow)]
    topic: &'a str,
    position: Option<Position>,
}

#[derive(Debug, Deserialize)]
struct Position {
    epoch: String,
    offset: u64,
}

#[derive(Debug, Deserialize)]
struct Told {
    #[serde(flatten)]
    position: Position,
    recovered: Option<bool>,
}

type Socket = WebSocketStream<TcpStream>;

impl Reader {
    /// A reader of `broadcast`, of its user's messages, and of these topics, who dials the first of `urls`, and the next one
    /// whenever a connection ends.
    pub fn new(ledger: &Ledger, name: &str, user: Option<&str>, topics: &[&str], urls: &[String]) -> Self {
        Self {
            name: name.to_owned(),
            user: user.map(str::to_owned),
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            urls: urls.to_vec(),
            ledger: ledger.clone(),
            places: BTreeMap::new(),
            window: None,
            reads: None,
            leaves_after: None,
        }
    }

    /// With a small receive window, and reading only while it is told to.
    #[must_use]
    pub fn slow(self, window_bytes: u32, reads: watch::Receiver<bool>) -> Self {
        Self { window: Some(window_bytes), reads: Some(reads), ..self }
    }

    /// One that drops its connection without a word when it has had it for so long, and comes back.
    #[must_use]
    pub fn restless(self, stays: Duration) -> Self {
        Self { leaves_after: Some(stays), ..self }
    }

    /// The addresses that it reads.
    pub(crate) fn addresses(&self) -> usize {
        1 + usize::from(self.user.is_some()) + self.topics.len()
    }

    /// Lives for ever.
    pub(crate) async fn live(mut self) -> Infallible {
        // Everybody at a moment of their own, as the protocol asks: from the name, so that a run can be repeated.
        let own = self.name.bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let pause = Duration::from_millis(50 + own % 400);
        for turn in 0.. {
            let url = self.address_at(turn);
            match timeout(DIAL, dial(&url, self.window)).await {
                Ok(Some(socket)) => self.uses(socket).await,
                _ => pauses(pause).await,
            }
            pauses(pause).await;
        }
        unreachable!("the loop has no end")
    }

    fn address_at(&self, turn: usize) -> String {
        let mut url = self.urls[turn % self.urls.len()].clone();
        let mut separator = '?';
        let mut add = |name: &str, value: &str| {
            write!(url, "{separator}{name}={value}").expect("writing to a string");
            separator = '&';
        };
        if let Some(user) = &self.user {
            add("user_id", user);
        }
        for (address, place) in &self.places {
            let from_start = address == "broadcast" || address.starts_with("user:");
            if let (true, Some(Place { epoch, offset })) = (from_start, place) {
                add("since", &format!("{address}@{epoch}:{offset}"));
            }
        }
        url
    }

    async fn uses(&mut self, mut socket: Socket) {
        let mut connected = false;
        let leaves = self.leaves_after.map(|stays| Instant::now() + stays);
        let code = loop {
            if let Some(reads) = &mut self.reads {
                // The sender outlives the reader, or nobody cares any more.
                drop(reads.wait_for(|reads| *reads).await);
            }
            let next = async {
                match leaves {
                    Some(leaves) => timeout_at(leaves, socket.next()).await.ok(),
                    None => Some(socket.next().await),
                }
            };
            let Some(next) = next.await else { break 1006 };
            let text = match next {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Close(frame))) => {
                    let code = frame.map_or(1005, |frame| frame.code.into());
                    drop(timeout(DIAL, socket.next()).await);
                    break code;
                }
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => break 1006,
            };
            let frame: Frame<'_> =
                serde_json::from_str(text.as_str()).unwrap_or_else(|error| panic!("{error}: {text:.300}"));
            connected |= frame.kind == "connected";
            if let Some(reply) = self.hears(&frame) {
                if frame.kind == "error" {
                    pauses(AGAIN_AFTER).await;
                }
                // When the connection is gone, the next read says so.
                drop(socket.send(Message::text(reply)).await);
            }
        };
        if connected {
            self.line(Line::Cut { at: now(), code });
        }
        if code == RESYNC {
            self.begins_anew();
        }
    }

    /// What is to be sent in reply.
    fn hears(&mut self, frame: &Frame<'_>) -> Option<String> {
        match (frame.kind, &frame.meta) {
            (_, Some(meta)) => {
                let place = meta.position.as_ref().map(Place::from);
                if let Some(number) = frame.n {
                    let address = meta.topic.to_owned();
                    self.line(Line::Read { at: now(), address, number, place: place.clone() });
                }
                if let Some(place) = place {
                    self.places.insert(meta.topic.to_owned(), Some(place));
                }
                None
            }
            ("connected", None) => {
                self.line(Line::Connected { at: now(), node: frame.node_id.unwrap_or_default().to_owned() });
                let mut addresses = vec!["broadcast".to_owned()];
                addresses.extend(self.user.as_ref().map(|user| format!("user:{user}")));
                for address in addresses {
                    let told = frame.positions.as_ref().and_then(|positions| positions.get(&address));
                    let place = told.map(|told| Place::from(&told.position));
                    self.is_at(&address, place, told.and_then(|told| told.recovered));
                }
                self.subscription()
            }
            ("subscription_confirmed", None) => {
                let topic = frame.topic.unwrap_or_default().to_owned();
                self.is_at(&topic, frame.position.as_ref().map(Place::from), frame.recovered);
                None
            }
            ("gap", None) => {
                let topic = frame.topic.unwrap_or_default().to_owned();
                let place = frame.position.as_ref().map(Place::from);
                self.told(&topic, place.as_ref());
                self.places.insert(topic, place);
                None
            }
            // The only action was `subscribe`.
            ("error", None) => {
                assert_eq!(frame.code, Some("unavailable"), "{}: {frame:?}", self.name);
                self.subscription()
            }
            _ => None,
        }
    }

    /// `subscribe`, from where it was.
    fn subscription(&self) -> Option<String> {
        let topic = |topic: &String| match self.places.get(topic) {
            Some(Some(Place { epoch, offset })) => {
                json!({"topic": topic, "since": {"epoch": **epoch, "offset": offset}})
            }
            _ => json!({"topic": topic}),
        };
        let topics: Vec<_> = self.topics.iter().map(topic).collect();
        (!topics.is_empty()).then(|| json!({"action": "subscribe", "id": 1, "topics": topics}).to_string())
    }

    /// Where an address is, at the begin of a connection.
    fn is_at(&mut self, address: &str, place: Option<Place>, recovered: Option<bool>) {
        let known = self.places.get(address);
        match (known, recovered) {
            (None, _) => self.line(Line::Joined(address.to_owned())),
            // What follows moves it.
            (Some(_), Some(true)) => return,
            (Some(_), _) => self.told(address, place.as_ref()),
        }
        self.places.insert(address.to_owned(), place);
    }

    /// The replay is more than the gateway would send: what is missing is known to be.
    fn begins_anew(&mut self) {
        for place in self.places.values_mut() {
            *place = None;
        }
    }

    fn told(&self, address: &str, place: Option<&Place>) {
        let epoch = place.map(|place| Arc::clone(&place.epoch));
        self.line(Line::Told { at: now(), address: address.to_owned(), epoch });
    }

    fn line(&self, line: Line) {
        self.ledger.line(&self.name, line);
    }
}

impl From<&Position> for Place {
    fn from(position: &Position) -> Self {
        Self { epoch: Arc::from(position.epoch.as_str()), offset: position.offset }
    }
}

async fn dial(url: &str, window: Option<u32>) -> Option<Socket> {
    let request = url.into_client_request().expect("a test's own URL");
    let address = request.uri().authority().expect("a URL has a host").as_str().parse().expect("host:port");
    let socket = TcpSocket::new_v4().ok()?;
    if let Some(window) = window {
        socket.set_recv_buffer_size(window).ok()?;
    }
    let stream = socket.connect(address).await.ok()?;
    stream.set_nodelay(true).ok()?;
    let (socket, _) = client_async(request, stream).await.ok()?;
    Some(socket)
}

/// How long one attempt may take.
const DIAL: Duration = Duration::from_secs(5);
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// The close code that says so.
const RESYNC: u16 = 4003;

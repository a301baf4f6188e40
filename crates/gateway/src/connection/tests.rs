//! A line over a real socket, with a talk whose actions end when the test says so.

use std::{
    future::poll_fn,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use countersign_ws::{Decoder, Event, Opcode, Role, frame};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::Semaphore,
    task::JoinHandle,
    time::timeout,
};

use super::{
    ahead,
    budget::{TURN_BYTES, TURN_MESSAGES},
    *,
};
use crate::{alarms::Alarms, hub::Outbox, wire::Wire};

/// What the runtime adds to the future of a task, and takes together in multiples of 128 bytes.
const OF_A_TASK: usize = 104;
const SECOND: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(3600);

#[test]
fn an_idle_connection_is_small() {
    assert!(OF_A_TASK + size_of::<Live>() <= 3 * 128, "{} bytes", size_of::<Live>());
    assert!(size_of::<Outbox>() <= 192, "{} bytes", size_of::<Outbox>());
}

/// Answers `ping` at once, echoes what begins with `say`, and takes as long as the test wants for everything else.
struct Scripted {
    outbox: Arc<Outbox>,
    /// One permit ends one action.
    done: Arc<Semaphore>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Messages and bytes of the poll that is under way.
    turn: Mutex<(usize, usize)>,
    /// The most of each in one poll.
    most: Mutex<(usize, usize)>,
    pings: AtomicUsize,
    signs_of_life: AtomicUsize,
}

impl Counts {
    fn heard(&self, said: Said<'_>) {
        let mut turn = self.turn.lock().unwrap();
        turn.0 += 1;
        turn.1 += said.text().unwrap().len();
    }

    fn begin_turn(&self) {
        *self.turn.lock().unwrap() = (0, 0);
    }

    fn end_turn(&self) {
        let (turn, mut most) = (*self.turn.lock().unwrap(), self.most.lock().unwrap());
        *most = (most.0.max(turn.0), most.1.max(turn.1));
    }
}

impl Talk for Scripted {
    type Action = String;

    fn hear(&self, said: Said<'_>) -> Result<Option<String>, End> {
        self.counts.heard(said);
        match said.text()? {
            "ping" => self.outbox.push(&Frame::plain("pong")),
            text if text.starts_with("say") => self.outbox.push(&Frame::plain(text)),
            slow => return Ok(Some(slow.to_owned())),
        }
        Ok(None)
    }

    fn perform(self, action: String) -> BoxFuture<'static, Self> {
        async move {
            self.done.acquire().await.unwrap().forget();
            self.outbox.push(&Frame::plain(format!("did {action}")));
            self
        }
        .boxed()
    }
}

impl Host for Arc<Counts> {
    fn spread(&self) -> Duration {
        Duration::ZERO
    }

    fn ponged_after(&self, _: Duration) {
        self.signs_of_life.fetch_add(1, Ordering::Relaxed);
    }

    fn answer_at_once(&self, said: Said<'_>) -> Option<Frame> {
        (said.text().ok()? == "ping").then(|| {
            self.heard(said);
            self.pings.fetch_add(1, Ordering::Relaxed);
            Frame::plain("pong")
        })
    }
}

/// The client's end, and what the test may do to the other.
struct Client {
    stream: UnixStream,
    decoder: Decoder,
    read: Vec<u8>,
    heard: std::collections::VecDeque<String>,
    outbox: Arc<Outbox>,
    done: Arc<Semaphore>,
    counts: Arc<Counts>,
    serving: JoinHandle<()>,
}

impl Client {
    /// A line that is served by a task of its own, pings after `interval` and waits a second for the answer.
    fn of_line(interval: Duration) -> Self {
        let (ours, stream) = UnixStream::pair().unwrap();
        let socket = Socket { wire: Wire::Pair(ours), early: Vec::new(), compression: None };
        let alarms = Alarms::new();
        let agenda = Agenda::new(&alarms, interval, SECOND, None);
        let writes = OutboxLimits { bytes: 1 << 20, frames: 100_000, when_full: WhenFull::Close };
        let mut line = Line::new(socket, Limits::new(1 << 20), writes, agenda);
        let (outbox, done, counts) = (Arc::clone(line.outbox()), Arc::new(Semaphore::new(0)), Arc::default());
        let talk = Scripted { outbox: Arc::clone(&outbox), done: Arc::clone(&done), counts: Arc::clone(&counts) };
        let host = Arc::clone(&counts);
        let serving = tokio::spawn(async move {
            let mut talking = Talking::Listens(talk);
            let serve = poll_fn(|cx| {
                host.begin_turn();
                let polled = line.poll_serve(cx, &mut talking, &host);
                host.end_turn();
                polled
            });
            let end = tokio::select! {
                end = serve => end,
                () = alarms.ring(std::future::pending()) => return,
            };
            line.end(end).await;
        });
        let decoder = Decoder::new(Role::Client, Limits::new(1 << 20));
        Self { stream, decoder, read: Vec::new(), heard: [].into(), outbox, done, counts, serving }
    }

    async fn say(&mut self, texts: &[&str]) {
        let mut bytes = Vec::new();
        for text in texts {
            frame::append_client(Opcode::Text, text.as_bytes(), [0; 4], &mut bytes);
        }
        self.stream.write_all(&bytes).await.unwrap();
    }

    async fn send(&mut self, opcode: Opcode, body: &[u8]) {
        let mut bytes = Vec::new();
        frame::append_client(opcode, body, [0; 4], &mut bytes);
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// The next that the line says: a text, or a control frame in angle brackets.
    async fn hears(&mut self) -> String {
        let next = async {
            while self.heard.is_empty() {
                let mut bytes = [0; 4096];
                let read = self.stream.read(&mut bytes).await.unwrap();
                assert!(read > 0, "the line has ended");
                self.read.extend_from_slice(&bytes[..read]);
                let mut input = self.read.as_mut_slice();
                while let Some(event) = self.decoder.next(&mut input).unwrap() {
                    self.heard.push_back(match event {
                        Event::Text(text) => text.to_owned(),
                        Event::Pong(body) => format!("<pong {}>", String::from_utf8_lossy(body)),
                        Event::Ping(_) => "<ping>".to_owned(),
                        Event::Close(why) => format!("<close {}>", why.map_or(1005, |(code, _)| code)),
                        Event::Binary(_) => "<binary>".to_owned(),
                    });
                }
                self.read.clear();
            }
            self.heard.pop_front().unwrap()
        };
        timeout(PATIENCE, next).await.expect("the line says something in time")
    }

    async fn hears_each(&mut self, expected: &[&str]) {
        for text in expected {
            assert_eq!(self.hears().await, *text);
        }
    }

    /// Ends so many actions, now or when they come.
    fn finish(&self, actions: usize) {
        self.done.add_permits(actions);
    }
}

#[tokio::test]
async fn pings_are_answered_while_an_action_waits_and_all_else_keeps_its_order() {
    let mut client = Client::of_line(PATIENCE);
    client.say(&["first", "say two", "third", "ping", "say four"]).await;
    client.hears_each(&["pong"]).await;
    client.send(Opcode::Ping, b"frame").await;
    client.hears_each(&["<pong frame>"]).await;
    client.finish(1);
    client.hears_each(&["did first", "say two"]).await;
    client.say(&["ping", "say five"]).await;
    client.hears_each(&["pong"]).await;
    client.finish(1);
    client.hears_each(&["did third", "say four", "say five"]).await;
}

#[tokio::test]
async fn what_is_read_ahead_is_bounded_in_messages_and_bytes_and_nothing_is_lost() {
    for (size, count) in [(8, 1_000), (4_000, 20)] {
        let mut client = Client::of_line(PATIENCE);
        client.say(&["slow", "ping"]).await;
        client.hears_each(&["pong"]).await;
        assert!(count > ahead::MESSAGES || count * size > 2 * ahead::BYTES, "more than is kept");
        let texts: Vec<String> = (0..count).map(|number| format!("say {number:>size$}")).collect();
        let mut said: Vec<&str> = texts.iter().map(String::as_str).collect();
        said.push("ping");
        client.say(&said).await;
        // As many turns as it takes to read all of it, if it were read.
        for _ in 0..10 * count {
            tokio::task::yield_now().await;
        }
        let heard = client.stream.try_read(&mut [0; 1]).map_err(|error| error.kind());
        assert_eq!(heard, Err(std::io::ErrorKind::WouldBlock), "the ping behind all these has to wait");
        client.finish(1);
        client.hears_each(&["did slow"]).await;
        client.hears_each(&said[..count]).await;
        client.hears_each(&["pong"]).await;
    }
}

#[tokio::test]
async fn a_turn_ends_after_so_many_messages_or_bytes_and_the_others_have_theirs() {
    // Pings, long messages, messages that are answered while an action waits.
    for (text, count, acting) in
        [("ping", 1_000, false), (&*format!("say {:>4000}", ""), 50, false), ("ping", 1_000, true)]
    {
        let mut client = Client::of_line(PATIENCE);
        if acting {
            client.say(&["slow"]).await;
        }
        // All of it is there before the line is polled again, so that only the budget ends a turn.
        let texts = vec![text; count];
        client.say(&texts).await;
        let answer = if text == "ping" { "pong" } else { text };
        for _ in 0..count {
            assert_eq!(client.hears().await, answer);
        }
        let (messages, bytes) = *client.counts.most.lock().unwrap();
        assert!(messages <= TURN_MESSAGES, "{messages} messages in one turn");
        assert!(bytes <= TURN_BYTES + text.len(), "{bytes} bytes in one turn");
        assert!(
            messages == TURN_MESSAGES || bytes >= TURN_BYTES - text.len(),
            "the budget was used: {messages}, {bytes}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_action_waits_is_not_taken_for_silent() {
    let mut client = Client::of_line(SECOND);
    client.say(&["slow"]).await;
    client.hears_each(&["<ping>"]).await;
    tokio::time::sleep(10 * SECOND).await;
    client.finish(1);
    client.hears_each(&["did slow"]).await;
    // Now that everything it says is looked at again, silence ends it.
    client.hears_each(&["<close 4002>"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_pong_that_comes_while_an_action_waits_is_a_sign_of_life() {
    let mut client = Client::of_line(SECOND);
    client.say(&["slow"]).await;
    for round in 1..=5 {
        client.hears_each(&["<ping>"]).await;
        client.send(Opcode::Pong, b"").await;
        while client.counts.signs_of_life.load(Ordering::Relaxed) < round {
            tokio::task::yield_now().await;
        }
    }
    client.finish(1);
    client.hears_each(&["did slow"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_the_action_under_way_end_and_be_answered() {
    let mut client = Client::of_line(PATIENCE);
    client.say(&["slow", "ping"]).await;
    client.hears_each(&["pong"]).await;
    client.outbox.leave();
    tokio::time::sleep(10 * SECOND).await;
    client.say(&["ping"]).await;
    client.hears_each(&["pong"]).await;
    client.finish(1);
    client.hears_each(&["did slow", "<close 1012>"]).await;
}

#[tokio::test]
async fn a_client_that_closes_or_vanishes_does_not_cut_its_action() {
    for closes in [true, false] {
        let mut client = Client::of_line(PATIENCE);
        client.say(&["slow", "say more", "ping"]).await;
        client.hears_each(&["pong"]).await;
        if closes {
            client.send(Opcode::Close, &1000_u16.to_be_bytes()).await;
        } else {
            client.stream.shutdown().await.unwrap();
        }
        client.finish(1);
        client.hears_each(&["did slow", "say more"]).await;
        if closes {
            client.hears_each(&["<close 1000>"]).await;
        }
        timeout(PATIENCE, client.serving).await.expect("the line ends").unwrap();
    }
}

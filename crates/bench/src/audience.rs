//! Many connections on one thread. Each has a [`Listener`] that hears its frames in the buffer into which they were read
//! (one for the whole thread), and may answer. The thread is its own runtime, so that what it does is measured apart from
//! the producer, and everything on it is shared without locks.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::{
    io::{AsyncRead, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    sync::{Semaphore, oneshot},
    task::LocalSet,
    time::{sleep, sleep_until},
};

use crate::{
    clock::Clock,
    frames::{self, Frame, Inbox},
    meter::{Latencies, Live, Meter},
    socket::{self, Endpoint},
};

/// One read takes what has piled up of a busy connection.
const READ_BYTES: usize = 64 * 1024;
/// Handshakes at a time: enough to be quick, few enough for a listen backlog of 128.
const HANDSHAKES: usize = 64;
/// A server that says nothing after the handshake (a peer without our protocol) is ready after this time.
const SETTLE: Duration = Duration::from_secs(2);

/// What a connection does with what it hears.
pub(crate) trait Listener: 'static {
    /// What is left of it at the end.
    type Summary: Send + 'static;

    /// Right after the handshake; what is appended to `out` is sent.
    fn opened(&mut self, _now: u64, _out: &mut Vec<u8>) {}

    /// Whether this text says that from now on it hears everything that is meant for it.
    fn is_ready(&self, text: &[u8]) -> bool {
        is_list(text)
    }

    /// A text message.
    fn hear(&mut self, text: &[u8], now: u64, meter: &mut Meter, out: &mut Vec<u8>);

    /// When it wants to act by itself.
    fn wakes_at(&self) -> Option<u64> {
        None
    }

    /// It is that time.
    fn wake(&mut self, _now: u64, _out: &mut Vec<u8>) {}

    /// The end.
    fn summary(self, closed: bool) -> Self::Summary;
}

/// Who connects where.
#[derive(Debug, Clone)]
pub(crate) struct Seating {
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) connections: u64,
    pub(crate) clock: Clock,
}

/// The connections, while they are open.
#[derive(Debug)]
pub(crate) struct Audience<S> {
    pub(crate) live: Arc<Live>,
    connections: u64,
    stop: oneshot::Sender<()>,
    thread: thread::JoinHandle<Result<Gathered<S>>>,
}

/// What is left of them.
#[derive(Debug)]
pub(crate) struct Gathered<S> {
    pub(crate) summaries: Vec<S>,
    pub(crate) measured: Latencies,
    /// How connections ended that should not have, and how many.
    pub(crate) ends: BTreeMap<String, u64>,
}

struct Seat<L> {
    listener: L,
    inbox: Inbox,
    ready: bool,
    end: Option<String>,
}

/// What the connections of a thread share.
struct Room {
    seating: Seating,
    live: Arc<Live>,
    meter: RefCell<Meter>,
    buffer: RefCell<Box<[u8]>>,
    handshakes: Semaphore,
}

/// The user as whom connection `index` connects.
pub(crate) fn user(index: u64) -> String {
    format!("bench-{index}")
}

impl<S: Send + 'static> Audience<S> {
    /// Opens the connections; `listener` makes the one of connection `index`.
    pub(crate) fn open<L, F>(seating: Seating, listener: F) -> Result<Self>
    where
        L: Listener<Summary = S>,
        F: Fn(u64) -> L + Send + 'static,
    {
        let (live, connections) = (Arc::new(Live::new()), seating.connections);
        let (stop, stopped) = oneshot::channel();
        let watched = Arc::clone(&live);
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            LocalSet::new().block_on(&runtime, sit(seating, watched, listener, stopped))
        };
        let thread = thread::Builder::new().name("audience".to_owned()).spawn(run).context("starting the readers")?;
        Ok(Self { live, connections, stop, thread })
    }

    /// Waits until every connection hears what is meant for it.
    pub(crate) fn wait_until_ready(self) -> Result<Self> {
        let connections = self.connections;
        let (mut last, mut changed) = ((0, 0), Instant::now());
        loop {
            let (ready, ended) = (self.live.ready.load(Relaxed), self.live.ended.load(Relaxed));
            let connected = self.live.connected.load(Relaxed);
            if ready == connections {
                return Ok(self);
            }
            if last != (connected, ready) {
                (last, changed) = ((connected, ready), Instant::now());
            }
            if ended > 0 || self.thread.is_finished() || changed.elapsed() > SETTLE * 10 {
                let gathered = self.close()?;
                let why: Vec<_> = gathered.ends.iter().map(|(why, count)| format!("{count} × {why}")).collect();
                bail!("{connected} of {connections} connections came about: {}", why.join("; "));
            }
            if connected == connections && ready == 0 && changed.elapsed() > SETTLE {
                return Ok(self);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the connections.
    pub(crate) fn close(self) -> Result<Gathered<S>> {
        // When the thread has failed there is nobody to hear this, and the join tells why.
        let _nobody_left = self.stop.send(());
        self.thread.join().map_err(|_| anyhow!("the readers panicked"))?
    }
}

async fn sit<L: Listener>(
    seating: Seating,
    live: Arc<Live>,
    listener: impl Fn(u64) -> L,
    stopped: oneshot::Receiver<()>,
) -> Result<Gathered<L::Summary>> {
    let connections = seating.connections;
    let room = Rc::new(Room {
        seating,
        live,
        meter: RefCell::new(Meter::new()),
        buffer: RefCell::new(vec![0; READ_BYTES].into()),
        handshakes: Semaphore::new(HANDSHAKES),
    });
    let mut seats = Vec::new();
    let mut tasks = Vec::new();
    for index in 0..connections {
        let seat = Seat { listener: listener(index), inbox: Inbox::default(), ready: false, end: None };
        let seat = Rc::new(RefCell::new(seat));
        seats.push(Rc::clone(&seat));
        tasks.push(tokio::task::spawn_local(attend(Rc::clone(&room), seat, index)));
    }
    let watched = Rc::clone(&room);
    tasks.push(tokio::task::spawn_local(async move {
        loop {
            sleep(Duration::from_secs(1)).await;
            watched.meter.borrow_mut().publish_interval(&watched.live);
        }
    }));
    // An error means that the other side is gone, which is an order to stop as well.
    drop(stopped.await);
    for task in &tasks {
        task.abort();
    }
    for task in tasks {
        // Aborted is how they end.
        drop(task.await);
    }
    let mut gathered =
        Gathered { summaries: Vec::new(), measured: room.meter.borrow().measured.clone(), ends: BTreeMap::new() };
    for seat in seats {
        let Ok(seat) = Rc::try_unwrap(seat) else { bail!("a connection outlived its task") };
        let seat = seat.into_inner();
        gathered.summaries.push(seat.listener.summary(seat.end.is_some()));
        if let Some(end) = seat.end {
            *gathered.ends.entry(end).or_default() += 1;
        }
    }
    Ok(gathered)
}

/// One connection, from handshake to end.
async fn attend<L: Listener>(room: Rc<Room>, seat: Rc<RefCell<Seat<L>>>, index: u64) {
    let error = converse(&room, &seat, index).await.err();
    room.live.ended.fetch_add(1, Relaxed);
    let mut seat = seat.borrow_mut();
    if seat.end.is_none() {
        seat.end = Some(error.map_or_else(|| "the server hung up".to_owned(), |error| format!("{error:#}")));
    }
}

async fn converse<L: Listener>(room: &Room, seat: &RefCell<Seat<L>>, index: u64) -> Result<()> {
    let (mut stream, rest) = {
        let _turn = room.handshakes.acquire().await.context("the room is closed")?;
        let endpoints = &room.seating.endpoints;
        let at = usize::try_from(index)? % endpoints.len().max(1);
        socket::connect(endpoints.get(at).context("no address to connect to")?, &user(index)).await?
    };
    room.live.connected.fetch_add(1, Relaxed);
    let mut out = Vec::new();
    seat.borrow_mut().listener.opened(room.seating.clock.now(), &mut out);
    let mut open = hear(room, &mut seat.borrow_mut(), &rest, &mut out)?;
    drop(rest);
    while open {
        if !out.is_empty() {
            stream.write_all(&out).await.context("answering")?;
            out = Vec::new();
        }
        let wakes_at = seat.borrow().listener.wakes_at();
        let read = poll_fn(|cx| poll_hear(room, seat, &mut stream, &mut out, cx));
        open = match wakes_at {
            None => read.await?,
            Some(at) => tokio::select! {
                open = read => open?,
                () = sleep_until(room.seating.clock.at(at).into()) => {
                    seat.borrow_mut().listener.wake(room.seating.clock.now(), &mut out);
                    true
                }
            },
        };
    }
    Ok(())
}

/// Reads into the thread's buffer and hears it in place; false at the end of the stream. `poll_read` clears the socket's
/// readiness on a short read, which saves the second system call that would only say "nothing more".
fn poll_hear<L: Listener>(
    room: &Room,
    seat: &RefCell<Seat<L>>,
    stream: &mut TcpStream,
    out: &mut Vec<u8>,
    cx: &mut Context<'_>,
) -> Poll<Result<bool>> {
    let mut buffer = room.buffer.borrow_mut();
    let mut read = ReadBuf::new(&mut buffer);
    ready!(Pin::new(stream).poll_read(cx, &mut read)).context("reading")?;
    if read.filled().is_empty() {
        return Poll::Ready(Ok(false));
    }
    Poll::Ready(hear(room, &mut seat.borrow_mut(), read.filled(), out))
}

/// False when the server has closed.
fn hear<L: Listener>(room: &Room, seat: &mut Seat<L>, bytes: &[u8], out: &mut Vec<u8>) -> Result<bool> {
    let Seat { listener, inbox, ready, end } = seat;
    let mut meter = room.meter.borrow_mut();
    meter.begin(&room.live);
    let now = room.seating.clock.now();
    inbox.feed(bytes, |Frame { opcode, payload }| match opcode {
        frames::TEXT => {
            if !*ready && listener.is_ready(payload) {
                *ready = true;
                room.live.ready.fetch_add(1, Relaxed);
            }
            listener.hear(payload, now, &mut meter, out);
        }
        frames::PING => frames::write(frames::PONG, payload, out),
        frames::CLOSE => {
            let (code, reason) = frames::close_reason(payload);
            *end = Some(format!("{code} {reason}"));
        }
        _ => {}
    })?;
    meter.publish(&room.live);
    Ok(end.is_none())
}

/// The gateway's list of open callbacks comes when the connection hears everything that is meant for its user.
pub(crate) fn is_list(text: &[u8]) -> bool {
    text.starts_with(br#"{"type":"open_callbacks""#)
}

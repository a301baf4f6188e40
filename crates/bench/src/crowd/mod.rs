//! Many connections on few threads: the load generator. It must cost less than the server that it measures, so each
//! thread is one epoll loop with one read buffer, in which frames are found in place; nothing is allocated, copied or
//! looked up per message. Each connection has a [`Listener`] that hears its texts, and may answer.
//!
//! - `reader`: the loop of one thread; `seat`: one connection of it, from handshake to end.
//! - `handshake`: where to connect, and as whom.

pub(crate) mod handshake;
mod reader;
mod seat;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use countersign_ws::{Opcode, frame};
use mio::Waker;

use crate::{
    account::meter::{Latencies, Live, Meter, latencies},
    machine::clock::Clock,
};
pub(crate) use handshake::Endpoint;
use reader::Reader;

/// Handshakes at a time: enough to be quick, few enough for a listen backlog of 128.
const HANDSHAKES: usize = 64;
/// A server that has not made a connection ready for so long will not.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a connection does with what it hears.
pub(crate) trait Listener: 'static {
    /// What is left of it at the end.
    type Summary: Send + 'static;

    /// What is added to the address of each handshake, such as `&topic=a`.
    fn query(&self) -> String {
        String::new()
    }

    /// Right after the handshake; what is appended to `out` is sent. True when the connection hears everything that is
    /// meant for it from now on, without the server saying so.
    fn opened(&mut self, now: u64, out: &mut Vec<u8>) -> bool;

    /// Whether this text says that from now on it hears everything that is meant for it.
    fn is_ready(&self, text: &[u8]) -> bool;

    /// Whether it offers permessage-deflate; a server that does not agree then is an error.
    fn compresses(&self) -> bool {
        false
    }

    /// A compressed message has come, and what is expected next is a message that counts. True when it was counted and
    /// need not be inflated, which would make the load generator dearer than the server that it measures.
    fn skim(&mut self, _meter: &mut Meter) -> bool {
        false
    }

    /// A text message.
    fn hear(&mut self, text: &[u8], now: u64, meter: &mut Meter, out: &mut Vec<u8>);

    /// When it wants to act by itself.
    fn wakes_at(&self) -> Option<u64> {
        None
    }

    /// Whether it reads at all now. One that does not also has the least of a receive buffer, so that what it leaves
    /// unread stays with the server. It notices nothing until [`Audience::look`] when it reads again.
    fn reads(&self) -> bool {
        true
    }

    /// It is that time.
    fn wake(&mut self, _now: u64, _out: &mut Vec<u8>) {}

    /// The connection has ended, or could not be opened. When to open it again; `None`: never.
    fn ended(&mut self, _now: u64) -> Option<u64> {
        None
    }

    /// The end. `closed`: the server ended the connection.
    fn summary(self, closed: bool) -> Self::Summary;
}

/// Who connects where.
#[derive(Debug, Clone)]
pub(crate) struct Seating {
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) connections: u64,
    /// The number of the first user, for a second crowd beside another.
    pub(crate) first: u64,
    pub(crate) threads: u64,
    /// At a time, over all threads; 0 is the default.
    pub(crate) handshakes: usize,
    pub(crate) clock: Clock,
}

impl Seating {
    /// Connections on one thread, which is enough beside a server on one core.
    pub(crate) fn new(endpoints: Vec<Endpoint>, connections: u64, clock: Clock) -> Self {
        Self { endpoints, connections, first: 0, threads: 1, handshakes: 0, clock }
    }
}

/// What a thread is told from outside.
#[derive(Debug, Default)]
struct Orders {
    stop: AtomicBool,
    /// How often all sockets were to be cut.
    cuts: AtomicU64,
    /// How often all were to look at their sockets again.
    looks: AtomicU64,
}

/// The connections, while they are open.
#[derive(Debug)]
pub(crate) struct Audience<S> {
    pub(crate) live: Arc<Live>,
    connections: u64,
    orders: Arc<Orders>,
    threads: Vec<(Waker, thread::JoinHandle<Result<Part<S>>>)>,
}

/// What is left of them.
#[derive(Debug)]
pub(crate) struct Gathered<S> {
    /// By number of the connection.
    pub(crate) summaries: Vec<S>,
    pub(crate) measured: Latencies,
    /// That were read from ready connections.
    pub(crate) bytes: u64,
    /// How connections ended that should not have, and how many.
    pub(crate) ends: BTreeMap<String, u64>,
}

/// Of one thread.
#[derive(Debug)]
struct Part<S> {
    summaries: Vec<(u64, S)>,
    measured: Latencies,
    bytes: u64,
    ends: BTreeMap<String, u64>,
}

/// Says a text: appends the frame. Its mask is zero, which the wire format allows and which costs nothing; nobody between
/// here and the server could be confused by what a load generator says.
pub(crate) fn say(text: &[u8], out: &mut Vec<u8>) {
    frame::append_client(Opcode::Text, text, NO_MASK, out);
}

const NO_MASK: [u8; 4] = [0; 4];

/// The user as whom connection `index` connects.
pub(crate) fn user(index: u64) -> String {
    format!("bench-{index}")
}

impl<S: Send + 'static> Audience<S> {
    /// Opens the connections; `listener` makes the one of connection `index`.
    pub(crate) fn open<L, F>(seating: &Seating, listener: F) -> Result<Self>
    where
        L: Listener<Summary = S>,
        F: Fn(u64) -> L + Send + Sync + 'static,
    {
        let (live, orders, listener) = (Arc::new(Live::new()), Arc::new(Orders::default()), Arc::new(listener));
        let count = seating.threads.clamp(1, seating.connections.max(1));
        let at_once = if seating.handshakes == 0 { HANDSHAKES } else { seating.handshakes };
        let mut threads = Vec::new();
        for thread in 0..count {
            let poll = mio::Poll::new().context("making an epoll instance")?;
            let waker = Waker::new(poll.registry(), reader::WAKER)?;
            let (seating, listener) = (seating.clone(), Arc::clone(&listener));
            let (live, orders) = (Arc::clone(&live), Arc::clone(&orders));
            let at_once = (at_once / usize::try_from(count)?).max(1);
            let run = move || {
                let indices = (thread..seating.connections).step_by(usize::try_from(count)?);
                Reader::new(
                    poll,
                    &seating,
                    live,
                    at_once,
                    indices.map(|index| (seating.first + index, listener(index))),
                )?
                .run(&orders)
            };
            let handle = thread::Builder::new().name("reader".to_owned()).spawn(run).context("starting a reader")?;
            threads.push((waker, handle));
        }
        Ok(Self { live, connections: seating.connections, orders, threads })
    }

    /// Waits until every connection hears what is meant for it.
    pub(crate) fn wait_until_ready(self) -> Result<Self> {
        let connections = self.connections;
        let (mut last, mut changed) = ((0, 0), Instant::now());
        loop {
            let (connected, ready) = (self.live.connected.load(Relaxed), self.live.ready.load(Relaxed));
            if ready == connections {
                return Ok(self);
            }
            if last != (connected, ready) {
                (last, changed) = ((connected, ready), Instant::now());
            }
            let ended = self.live.ended.load(Relaxed);
            let is_over = self.threads.iter().any(|(_, thread)| thread.is_finished());
            if ended > 0 || is_over || changed.elapsed() > PATIENCE {
                let gathered = self.close()?;
                let why: Vec<_> = gathered.ends.iter().map(|(why, count)| format!("{count} × {why}")).collect();
                bail!("{connected} of {connections} connections came about, {ready} ready: {}", why.join("; "));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Cuts every connection's socket, as a network would that goes away; listeners say when they come back.
    pub(crate) fn cut(&self) -> Result<()> {
        self.orders.cuts.fetch_add(1, Relaxed);
        self.wake()
    }

    /// Lets every connection look at its socket, though nothing has happened there: one that did not read may do so now.
    pub(crate) fn look(&self) -> Result<()> {
        self.orders.looks.fetch_add(1, Relaxed);
        self.wake()
    }

    /// Ends the connections.
    pub(crate) fn close(self) -> Result<Gathered<S>> {
        self.orders.stop.store(true, Relaxed);
        self.wake()?;
        let mut gathered = Gathered { summaries: Vec::new(), measured: latencies(), bytes: 0, ends: BTreeMap::new() };
        let mut summaries = Vec::new();
        for (_, thread) in self.threads {
            let part = thread.join().map_err(|_| anyhow!("a reader panicked"))??;
            summaries.extend(part.summaries);
            gathered.bytes += part.bytes;
            gathered.measured.add(&part.measured).context("adding latencies")?;
            for (end, count) in part.ends {
                *gathered.ends.entry(end).or_default() += count;
            }
        }
        summaries.sort_by_key(|(index, _)| *index);
        gathered.summaries = summaries.into_iter().map(|(_, summary)| summary).collect();
        Ok(gathered)
    }

    fn wake(&self) -> Result<()> {
        self.threads.iter().try_for_each(|(waker, _)| waker.wake()).context("waking a reader")
    }
}

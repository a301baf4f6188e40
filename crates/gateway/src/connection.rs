//! One WebSocket from its first event to its close: what the client says, what it asked for, the ping, the end. One owner,
//! one bounded outbox. While an action is under way the next one is not read, so a client's actions keep their order and
//! its haste meets its own socket; messages and pings go on meanwhile.
//!
//! An idle connection is this struct and its place in the hub: no buffer, no task beside its own. Bytes are read into a
//! buffer of the thread and looked at there; messages are written by whoever fans them out.

mod agenda;
mod pulse;

use std::{cell::RefCell, future::poll_fn, io, sync::Arc, task::Poll, time::Duration};

use agenda::{Agenda, Due};
use bytes::Bytes;
use countersign_protocol::{
    Address, ConnectionId, Incoming, Position, Subscription,
    close::{self, Close},
};
use countersign_ws::{Decoder, Event, Limits, Opcode, Role, Violation, frame};
use futures_util::{FutureExt, future::BoxFuture};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{sleep_until, timeout},
};
use uuid::Uuid;

use crate::{
    auth::Identity,
    hub::{Attention, Frame, Outbox, OutboxLimits, WhenFull},
    metrics::Attempt,
    node::Node,
    session::{Session, Wrong},
    transport::Socket,
    wire::Wire,
};

/// See the module.
pub(crate) struct Connection {
    node: Arc<Node>,
    wire: Arc<Wire>,
    reader: Reader,
    session: Session,
    outbox: Arc<Outbox>,
    agenda: Agenda,
    /// One connection less for the others.
    _place: OwnedSemaphorePermit,
}

/// What the client says, up to the next thing that takes time.
struct Reader {
    decoder: Decoder,
    /// Read, and not looked at because an action is under way.
    unread: Vec<u8>,
}

/// Why a connection ends.
#[derive(Debug)]
enum End {
    /// The gateway closes it.
    Close(Close),
    /// The client does what it must not.
    Violation(Violation),
    /// The client closed it, with this code.
    Closed(Option<u16>),
    /// The socket is broken.
    Gone,
}

/// What there is to do.
enum Happened {
    Acted,
    Readable,
    Moment,
    Attention(Attention),
}

thread_local! {
    /// One buffer for all connections of a thread: what a read brings is looked at before the next read.
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

impl Connection {
    /// A connection in the hub, in no room yet.
    pub(crate) fn new(node: Arc<Node>, socket: Socket, place: OwnedSemaphorePermit, identity: &Identity) -> Self {
        let Socket { wire, early } = socket;
        let wire = Arc::new(wire);
        let limits = OutboxLimits {
            bytes: node.config.outbox_bytes,
            frames: node.config.outbox_frames,
            when_full: node.config.slow_consumer.into(),
        };
        let outbox = Arc::new(Outbox::new(limits, Arc::clone(&wire) as _));
        let id = ConnectionId::parse(&Uuid::new_v4().to_string()).expect("a UUID is a name");
        let membership = node.hub.enter(Arc::clone(&outbox));
        let session = Session::new(Arc::clone(&node), id, identity.user.clone(), membership);
        Self {
            wire,
            reader: Reader {
                decoder: Decoder::new(Role::Server, Limits::new(node.config.max_message_bytes)),
                unread: early,
            },
            session,
            outbox,
            agenda: Agenda::new(node.config.ping_interval, node.config.ping_timeout, identity.expires_at),
            _place: place,
            node,
        }
    }

    /// Serves the client until one of the two ends it.
    /// `since` says where it was, `topics` what it wants to hear beside `broadcast` and its user's messages.
    pub(crate) async fn run(mut self, since: Vec<(Address, Position)>, topics: Vec<Subscription>) {
        tracing::debug!(connection = %self.session.id, user = ?self.session.user(), "connected");
        let metrics = Arc::clone(&self.node.metrics);
        // Boxed: what a beginning needs is not kept for as long as the connection lasts.
        let begun = self.session.begin(&since, topics).boxed().await;
        drop(since);
        if let Err(wrong) = begun {
            tracing::warn!(connection = %self.session.id, reason = %wrong.message, "a connection could not begin");
            metrics.attempt(Attempt::Failed);
            let permanent = wrong.code == Wrong::TOO_MANY;
            let reason = if permanent { close::TOO_MANY_TOPICS } else { close::UNAVAILABLE };
            return self.end(End::Close(reason)).boxed().await;
        }
        metrics.attempt(Attempt::Accepted);
        metrics.connections.inc();
        let ended = self.serve().await;
        metrics.connections.dec();
        metrics.dropped(self.outbox.take_dropped());
        tracing::debug!(connection = %self.session.id, ?ended, "ending");
        self.end(ended).boxed().await;
    }

    /// The loop.
    async fn serve(&mut self) -> End {
        let Self { node, wire, reader, session, outbox, agenda, .. } = self;
        let mut acting: Option<BoxFuture<'_, ()>> = None;
        let mut leaving = false;
        if node.shutdown.is_draining() {
            // The others were told before this one came.
            agenda.leave_within(node.shutdown.spread());
        }
        let sleep = sleep_until(agenda.next());
        tokio::pin!(sleep);
        loop {
            if sleep.deadline() != agenda.next() {
                sleep.as_mut().reset(agenda.next());
            }
            let happened = poll_fn(|cx| {
                if let Some(action) = &mut acting
                    && action.as_mut().poll(cx).is_ready()
                {
                    return Poll::Ready(Happened::Acted);
                }
                // Whoever does not take its answers is not listened to.
                let listening = acting.is_none() && outbox.has_room();
                if listening && (!reader.unread.is_empty() || wire.poll_readable(cx).is_ready()) {
                    return Poll::Ready(Happened::Readable);
                }
                if sleep.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Happened::Moment);
                }
                // Last, because it writes what everything else has left.
                if let Poll::Ready(attention) = outbox.poll_attention(cx) {
                    return Poll::Ready(Happened::Attention(attention));
                }
                if !listening && acting.is_none() && outbox.has_room() {
                    return Poll::Ready(Happened::Readable);
                }
                Poll::Pending
            });
            match happened.await {
                Happened::Acted => {
                    acting = None;
                    if leaving {
                        outbox.close(close::DRAIN);
                    }
                }
                Happened::Readable => match reader.read(wire, session, outbox, agenda) {
                    Ok(action) => acting = action,
                    Err(end) => return end,
                },
                Happened::Moment => match agenda.due(acting.is_none(), outbox) {
                    Due::Nothing => {}
                    Due::Ping => outbox.push(&Frame::control(frame::server(Opcode::Ping, &[]))),
                    // Whoever has asked for something hears the answer; what waits in the outbox goes first.
                    Due::Drain if acting.is_some() => leaving = true,
                    Due::Drain => outbox.close(close::DRAIN),
                    Due::Close(reason) => return End::Close(reason),
                },
                // Spread over the drain, so that not everybody comes back at once; until its turn a client is served.
                Happened::Attention(Attention::Leave) => agenda.leave_within(node.shutdown.spread()),
                Happened::Attention(Attention::Close(reason)) => return End::Close(reason),
                Happened::Attention(Attention::Gone { unwritten }) => {
                    node.metrics.not_written(unwritten);
                    return End::Gone;
                }
            }
        }
    }

    /// Says goodbye, if there is somebody to say it to.
    async fn end(self, ended: End) {
        let last = match ended {
            End::Gone => return,
            End::Closed(None) => frame::server(Opcode::Close, &[]),
            End::Closed(Some(code)) => frame::server_close(code, ""),
            End::Close(reason) => {
                if reason == close::SLOW {
                    self.node.metrics.slow_consumer();
                } else if reason == close::PING_TIMEOUT {
                    self.node.metrics.ping_timeout();
                }
                frame::server_close(reason.code, reason.reason)
            }
            End::Violation(violation) => match violation {
                Violation::TooLong(_) => frame::server_close(close::TOO_LONG.code, close::TOO_LONG.reason),
                Violation::NotUtf8 => frame::server_close(close::BAD_DATA.code, close::BAD_DATA.reason),
                other => frame::server_close(other.close_code(), &other.to_string()),
            },
        };
        let Self { wire, session, outbox, node, .. } = self;
        // It hears nothing more, so it is nobody's member any longer.
        drop((session, node));
        say_goodbye(&wire, &outbox, last).await;
    }
}

/// Tells a client that comes in at the wrong time or with the wrong token why it may not.
pub(crate) async fn refuse(socket: Socket, reason: Close) {
    let wire = Arc::new(socket.wire);
    let limits = OutboxLimits { bytes: 0, frames: 0, when_full: WhenFull::Close };
    let outbox = Outbox::new(limits, Arc::clone(&wire) as _);
    say_goodbye(&wire, &outbox, frame::server_close(reason.code, reason.reason)).await;
}

/// Sends the last frame and waits a moment for the peer's own, or its end: a socket that is closed with something unread is
/// reset, and a reset may overtake the code. Whoever does not read in time has had its chance.
async fn say_goodbye(wire: &Wire, outbox: &Outbox, last: Bytes) {
    let goodbye = async {
        outbox.last(Frame::control(last)).await;
        timeout(LAST_WORDS, read_to_the_end(wire)).await.ok();
    };
    timeout(GOODBYE, goodbye).await.ok();
}

impl Reader {
    /// Looks at what the client says, until nothing is left or an action takes time; that action.
    fn read<'a>(
        &mut self,
        wire: &Wire,
        session: &'a Session,
        outbox: &Outbox,
        agenda: &mut Agenda,
    ) -> Result<Option<BoxFuture<'a, ()>>, End> {
        if !self.unread.is_empty() {
            let mut unread = std::mem::take(&mut self.unread);
            return self.take(&mut unread, session, outbox, agenda);
        }
        READ.with_borrow_mut(|buffer| match wire.try_read(buffer) {
            Ok(0) => Err(End::Gone),
            Ok(bytes) => self.take(buffer.get_mut(..bytes).unwrap_or_default(), session, outbox, agenda),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
            Err(_) => Err(End::Gone),
        })
    }

    fn take<'a>(
        &mut self,
        mut input: &mut [u8],
        session: &'a Session,
        outbox: &Outbox,
        agenda: &mut Agenda,
    ) -> Result<Option<BoxFuture<'a, ()>>, End> {
        loop {
            let text = match self.decoder.next(&mut input).map_err(End::Violation)? {
                None => return Ok(None),
                Some(Event::Close(given)) => return Err(End::Closed(given.map(|(code, _)| code))),
                Some(Event::Ping(body)) => {
                    outbox.push(&Frame::control(frame::server(Opcode::Pong, body)));
                    None
                }
                Some(Event::Pong(_)) => None,
                Some(Event::Text(text)) => Some(Incoming::parse(text)),
                Some(Event::Binary(bytes)) => match std::str::from_utf8(bytes) {
                    Ok(text) => Some(Incoming::parse(text)),
                    Err(_) => return Err(End::Close(close::BAD_DATA)),
                },
            };
            if let Some(took) = agenda.alive() {
                session.node.metrics.pong(took);
            }
            let action = text.and_then(|incoming| session.perform_at_once(incoming));
            if action.is_some() || !outbox.has_room() {
                self.unread = input.to_vec();
                return Ok(action.map(|incoming| session.perform(incoming).boxed()));
            }
        }
    }
}

async fn read_to_the_end(wire: &Wire) {
    loop {
        if poll_fn(|cx| wire.poll_readable(cx)).await.is_err() {
            return;
        }
        let read = READ.with_borrow_mut(|buffer| wire.try_read(buffer));
        match read {
            Ok(0) => return,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
            _ => {}
        }
    }
}

/// What one read takes at most; actions are some hundred bytes.
const READ_BYTES: usize = 64 * 1024;
/// How long a client may take to answer a close.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a client may take to hear it, if it is slow.
const GOODBYE: Duration = Duration::from_secs(5);

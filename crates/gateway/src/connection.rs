//! One WebSocket from its first event to its close: the loop that reads, acts, writes and pings. One owner, one bounded
//! outbox. While an action is under way the next one is not read, so a client's actions keep their order and its haste
//! meets its own socket; messages and pings go on meanwhile.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use countersign_protocol::{
    Address, ConnectionId, Incoming, Position, Subscription,
    close::{self, Close},
};
use futures_util::{FutureExt, future::BoxFuture};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep_until, timeout},
};
use uuid::Uuid;

use crate::{
    auth::Identity,
    hub::{Frame, Outbox, OutboxLimits, Turn},
    metrics::Attempt,
    node::Node,
    session::{Session, Wrong},
    transport::{Received, Socket},
};

/// See the module.
pub(crate) struct Connection {
    node: Arc<Node>,
    socket: Socket,
    session: Session,
    outbox: Arc<Outbox>,
    expires: Option<Instant>,
    pulse: Pulse,
    /// One connection less for the others.
    _place: OwnedSemaphorePermit,
}

impl Connection {
    /// A connection in the hub, in no room yet.
    pub(crate) fn new(node: Arc<Node>, socket: Socket, place: OwnedSemaphorePermit, identity: &Identity) -> Self {
        let limits = OutboxLimits { bytes: node.config.outbox_bytes, frames: node.config.outbox_frames };
        let outbox = Arc::new(Outbox::new(limits));
        let id = ConnectionId::parse(&Uuid::new_v4().to_string()).expect("a UUID is a name");
        let membership = node.hub.enter(Arc::clone(&outbox));
        let session = Session::new(Arc::clone(&node), id, identity.user.clone(), membership);
        let lifetime = identity.expires_at.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
        Self {
            socket,
            session,
            outbox,
            expires: lifetime.and_then(|lifetime| Instant::now().checked_add(lifetime)),
            pulse: Pulse::new(node.config.ping_interval, node.config.ping_timeout),
            _place: place,
            node,
        }
    }

    /// Serves the client until one of the two ends it.
    /// `since` says where it was, `topics` what it wants to hear beside `broadcast` and its user's messages.
    pub(crate) async fn run(mut self, since: Vec<(Address, Position)>, topics: Vec<Subscription>) {
        tracing::debug!(connection = %self.session.id, user = ?self.session.user(), "connected");
        let metrics = Arc::clone(&self.node.metrics);
        if let Err(wrong) = self.session.begin(&since, topics).await {
            tracing::warn!(connection = %self.session.id, reason = %wrong.message, "a connection could not begin");
            metrics.attempt(Attempt::Failed);
            let permanent = wrong.code == Wrong::TOO_MANY;
            self.socket.close(if permanent { close::TOO_MANY_TOPICS } else { close::UNAVAILABLE }).await;
            return;
        }
        metrics.attempt(Attempt::Accepted);
        metrics.connections.inc();
        let ended = self.serve().await;
        metrics.connections.dec();
        let Some(reason) = ended else {
            tracing::debug!(connection = %self.session.id, "gone");
            return;
        };
        if reason == close::SLOW {
            metrics.slow_consumer();
        } else if reason == close::PING_TIMEOUT {
            metrics.ping_timeout();
        }
        tracing::debug!(connection = %self.session.id, code = reason.code, reason = reason.reason, "closing");
        self.socket.close(reason).await;
    }

    /// The loop. Ends with the reason to close, or with none when the client is gone.
    async fn serve(&mut self) -> Option<Close> {
        let Self { node, socket, session, outbox, expires, pulse, .. } = self;
        let mut buffer: Vec<Frame> = Vec::new();
        let mut acting: Option<BoxFuture<'_, ()>> = None;
        let mut leave_at: Option<Instant> = None;
        loop {
            let idle = acting.is_none();
            tokio::select! {
                turn = outbox.turn(&mut buffer) => {
                    if let Turn::Close(reason) = turn {
                        return Some(reason);
                    }
                    let (heard_at, frames) = (buffer.iter().find_map(|frame| frame.heard_at), buffer.len());
                    match timeout(pulse.patience(), write(socket, &mut buffer, outbox)).await {
                        Ok(Ok(())) => if let Some(heard_at) = heard_at { node.metrics.written(heard_at) },
                        failed => {
                            node.metrics.not_written(frames);
                            return failed.map_or(Some(close::PING_TIMEOUT), |broken| broken.err().flatten());
                        }
                    }
                    if buffer.capacity() > KEPT_FRAMES {
                        buffer = Vec::new();
                    }
                },
                () = progress(&mut acting) => acting = None,
                received = socket.next(), if idle => {
                    let answered = pulse.alive();
                    match received {
                        Received::Text(text) => acting = Some(session.perform(Incoming::parse(text.as_str())).boxed()),
                        Received::Alive => if let Some(took) = answered { node.metrics.pong(took) },
                        Received::Gone => return None,
                        Received::Bad(reason) => return Some(reason),
                    }
                }
                () = sleep_until(pulse.next()) => match pulse.beat(idle) {
                    Beat::Late => return Some(close::PING_TIMEOUT),
                    Beat::Patient => {}
                    Beat::Ping => if socket.ping().await.is_err() { return None },
                },
                () = at(*expires) => return Some(close::TOKEN_EXPIRED),
                // Spread over the drain, so that not everybody comes back at once; until its turn a client is served.
                () = node.shutdown.draining(), if leave_at.is_none() => {
                    leave_at = Some(Instant::now() + node.shutdown.spread().mul_f64(fastrand::f64()));
                }
                // Whoever has asked for something hears the answer; what waits in the outbox goes first.
                () = at(leave_at), if idle => {
                    leave_at = Some(Instant::now() + FOREVER);
                    outbox.close(close::DRAIN);
                }
            }
        }
    }
}

/// Frames that an idle connection's buffer may keep room for.
const KEPT_FRAMES: usize = 64;
/// Longer than any drain.
const FOREVER: Duration = Duration::from_secs(24 * 3600);

/// Writes, unless the outbox says meanwhile that the client is too slow.
async fn write(socket: &mut Socket, buffer: &mut Vec<Frame>, outbox: &Outbox) -> Result<(), Option<Close>> {
    tokio::select! {
        written = socket.send(buffer) => written.map_err(|_| None),
        reason = outbox.cut() => Err(Some(reason)),
    }
}

/// Goes on with an action; without one it never ends.
async fn progress(acting: &mut Option<BoxFuture<'_, ()>>) {
    match acting {
        Some(acting) => acting.await,
        None => std::future::pending().await,
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// When to ping, and when silence means that nobody is there.
#[derive(Debug)]
struct Pulse {
    interval: Duration,
    timeout: Duration,
    next: Instant,
    pinged_at: Option<Instant>,
}

/// What a moment of the pulse asks for.
#[derive(Debug, PartialEq, Eq)]
enum Beat {
    /// Send a ping.
    Ping,
    /// Nothing came back in time.
    Late,
    /// Nothing was read either, so silence proves nothing yet.
    Patient,
}

impl Pulse {
    fn new(interval: Duration, timeout: Duration) -> Self {
        Self { interval, timeout, next: Instant::now() + interval, pinged_at: None }
    }

    fn next(&self) -> Instant {
        self.next
    }

    /// How long one write may take: as long as a peer may be silent.
    fn patience(&self) -> Duration {
        self.interval + self.timeout
    }

    fn beat(&mut self, reading: bool) -> Beat {
        let now = Instant::now();
        self.next = now + self.timeout;
        match self.pinged_at {
            Some(_) if reading => Beat::Late,
            Some(_) => Beat::Patient,
            None => {
                self.pinged_at = Some(now);
                Beat::Ping
            }
        }
    }

    /// Something came; how long after the ping, if one was waiting.
    fn alive(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let pinged_at = self.pinged_at.take()?;
        self.next = now + self.interval;
        Some(now - pinged_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn silence_after_a_ping_is_late_unless_nothing_was_read() {
        let mut pulse = Pulse::new(30 * SECOND, 10 * SECOND);
        assert_eq!(pulse.next() - Instant::now(), 30 * SECOND);
        assert_eq!(pulse.beat(true), Beat::Ping);
        assert_eq!(pulse.next() - Instant::now(), 10 * SECOND);
        assert_eq!(pulse.beat(false), Beat::Patient);
        assert_eq!(pulse.beat(true), Beat::Late);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sign_of_life_begins_the_next_interval() {
        let mut pulse = Pulse::new(30 * SECOND, 10 * SECOND);
        assert_eq!(pulse.alive(), None);
        pulse.beat(true);
        tokio::time::advance(SECOND).await;
        assert_eq!(pulse.alive(), Some(SECOND));
        assert_eq!(pulse.next() - Instant::now(), 30 * SECOND);
    }
}

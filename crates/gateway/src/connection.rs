//! One client's WebSocket on this node, from its first event to its end. One owner, one bounded outbox. An idle connection
//! is this struct and its place in the hub: no buffer, no task beside its own; messages to it are written by whoever fans
//! them out.
//!
//! `line` is the loop, `reader` what the client says, `ahead` what of it waits for its turn, `budget` how much of it one turn
//! looks at, `agenda` what is to be done at some time, `pulse` the pings, `overlong` the answer to a message that is too long.

mod agenda;
mod ahead;
mod budget;
mod line;
mod overlong;
mod pulse;
mod reader;
#[cfg(test)]
mod tests;

use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

pub(crate) use agenda::Agenda;
use countersign_protocol::{
    Action, Address, Incoming, Position, Subscription,
    close::{self, Close},
};
use countersign_ws::{Limits, Violation};
use futures_util::{FutureExt, future::BoxFuture};
pub(crate) use line::{End, Host, Line, Talk, Talking};
pub(crate) use reader::Said;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::{
    auth::Identity,
    hub::{Frame, OutboxLimits, WhenFull},
    metrics::Attempt,
    node::Node,
    session::{self, Session, Wrong},
    transport::Socket,
};

/// See the module.
pub(crate) struct Connection {
    node: Arc<Node>,
    line: Line,
    session: Session,
    /// One connection less for the others.
    place: OwnedSemaphorePermit,
    /// The node waits for it when it ends.
    serving: TaskTrackerToken,
}

/// A connection that is live, until it has ended. To be a task of its own: it lasts, and has nothing of what the beginning
/// needed. A future by hand, because it is the memory of an idle connection: the compiler keeps what is moved into its own twice.
#[allow(clippy::large_enum_variant, reason = "nearly all of its life it is the large one")]
pub(crate) enum Live {
    /// The client is served.
    Served(Served),
    /// The goodbye. Boxed: room for it is not kept for as long as the connection lasts.
    Ending(BoxFuture<'static, ()>),
    /// Over.
    Over,
}

/// See [`Live`].
pub(crate) struct Served {
    node: Arc<Node>,
    line: Line,
    talking: Talking<Session>,
    place: OwnedSemaphorePermit,
    serving: TaskTrackerToken,
}

impl Connection {
    /// A connection in the hub, in no room yet.
    pub(crate) fn new(
        node: Arc<Node>,
        socket: Socket,
        place: OwnedSemaphorePermit,
        serving: TaskTrackerToken,
        identity: &Identity,
    ) -> Self {
        let writes = OutboxLimits {
            bytes: node.config.outbox_bytes,
            frames: u32::try_from(node.config.outbox_frames).unwrap_or(u32::MAX),
            when_full: node.config.slow_consumer.into(),
        };
        let agenda =
            Agenda::new(&node.alarms, node.config.ping_interval, node.config.ping_timeout, identity.expires_at);
        let line = Line::new(socket, Limits::new(node.config.max_message_bytes), writes, agenda);
        let membership = node.hub.enter(Arc::clone(line.outbox()));
        let session = Session::new(Arc::clone(&node), identity.user.clone(), membership);
        Self { node, line, session, place, serving }
    }

    /// Says `connected` and what the client has to know first; the connection is live afterwards, if there is one.
    /// `since` says where it was, `topics` what it wants to hear beside `broadcast` and its user's messages.
    pub(crate) async fn begin(self, since: Vec<(Address, Position)>, topics: Vec<Subscription>) -> Option<Self> {
        tracing::debug!(connection = %self.session.id(), user = ?self.session.user(), "connected");
        if let Err(wrong) = self.session.begin(&since, topics).await {
            tracing::warn!(connection = %self.session.id(), reason = %wrong.message, "a connection could not begin");
            let refused = wrong.code == Wrong::TOO_MANY_CONNECTIONS;
            self.node.metrics.attempt(if refused { Attempt::RefusedUserLimit } else { Attempt::Failed });
            self.line.end(End::Close(wrong.close())).await;
            return None;
        }
        self.node.metrics.attempt(Attempt::Accepted);
        Some(self)
    }

    /// Serves the client until one of the two ends it.
    pub(crate) fn run(self) -> Live {
        let Self { node, mut line, session, place, serving } = self;
        node.metrics.connections.inc();
        if node.shutdown.is_draining() {
            // The others were told before this one came.
            line.leave_within(node.shutdown.spread());
        }
        Live::Served(Served { node, line, talking: Talking::Listens(session), place, serving })
    }
}

impl Future for Live {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut *self {
                Self::Served(Served { node, line, talking, .. }) => {
                    let end = ready!(line.poll_serve(cx, talking, &**node));
                    if let Self::Served(served) = mem::replace(&mut *self, Self::Over) {
                        *self = Self::Ending(served.end(end).boxed());
                    }
                }
                Self::Ending(goodbye) => {
                    ready!(goodbye.as_mut().poll(cx));
                    *self = Self::Over;
                }
                Self::Over => return Poll::Ready(()),
            }
        }
    }
}

impl Served {
    async fn end(self, end: End) {
        let Self { node, mut line, talking, place, serving } = self;
        let metrics = &node.metrics;
        metrics.connections.dec();
        metrics.dropped(line.outbox().take_dropped());
        match end {
            End::Close(close::SLOW) => metrics.slow_consumer(),
            End::Close(close::PING_TIMEOUT) => metrics.ping_timeout(),
            End::Broken(frames) => metrics.not_written(frames),
            _ => {}
        }
        if let Talking::Listens(session) = &talking {
            tracing::debug!(connection = %session.id(), ?end, "ending");
        }
        // It hears nothing more, so it is nobody's member any longer.
        drop(talking);
        match end {
            End::Violation(Violation::TooLong(limit)) => {
                metrics.action_error(overlong::CODE);
                let words = overlong::last_words(&line.beginning().await, limit, node.clock.now());
                line.end_saying(&words, end).await;
            }
            end => line.end(end).await,
        }
        drop(place);
        drop(serving);
    }
}

/// Tells a client that comes in at the wrong time or with the wrong token why it may not.
pub(crate) async fn refuse(socket: Socket, reason: Close) {
    let writes = OutboxLimits { bytes: 0, frames: 0, when_full: WhenFull::Close };
    let line = Line::new(socket, Limits::new(0), writes, Agenda::none());
    line.end(End::Close(reason)).await;
}

impl Talk for Session {
    type Action = Incoming;

    fn hear(&self, said: Said<'_>) -> Result<Option<Incoming>, End> {
        Ok(self.perform_at_once(Incoming::parse(said.text()?)))
    }

    fn perform(self, action: Incoming) -> BoxFuture<'static, Self> {
        async move {
            Self::perform(&self, action).await;
            self
        }
        .boxed()
    }
}

impl Host for Node {
    fn spread(&self) -> Duration {
        self.shutdown.spread()
    }

    fn ponged_after(&self, took: Duration) {
        self.metrics.pong(took);
    }

    fn answer_at_once(&self, said: Said<'_>) -> Option<Frame> {
        // What is no text is refused in its turn.
        match Incoming::parse(said.text().ok()?) {
            Incoming { id, action: Ok(Action::Ping { data }) } => Some(session::pong(self, id.as_ref(), data)),
            _ => None,
        }
    }
}

//! One WebSocket as a machine that reads, acts, writes, pings and ends, whatever is said on it: that is the [`Talk`]'s.
//! While an action is under way the next message is not looked at, so a client's actions keep their order and its haste
//! meets its own socket; messages to it and pings go on meanwhile.

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use countersign_protocol::close::{self, Close};
use countersign_ws::{Limits, Opcode, Violation, frame};
use futures_util::future::BoxFuture;
use tokio::time::{sleep_until, timeout};

use super::{
    Agenda,
    agenda::Due,
    reader::{Reader, Said},
};
use crate::{
    hub::{Attention, Frame, Outbox, OutboxLimits},
    transport::Socket,
};

/// See the module.
pub(crate) struct Line {
    reader: Reader,
    outbox: Arc<Outbox>,
    agenda: Agenda,
}

/// What is said on a line.
pub(crate) trait Talk: Sync {
    /// What takes time.
    type Action: Send;

    /// A message came. What it asks for, if that takes time.
    fn hear(&self, said: Said<'_>) -> Result<Option<Self::Action>, End>;

    /// Does what takes time.
    fn perform(&self, action: Self::Action) -> BoxFuture<'_, ()>;

    /// A sign of life came so long after a ping.
    fn ponged_after(&self, took: Duration);

    /// The node drains: within how long the client is told to come back.
    fn leaves_within(&self) -> Duration;
}

/// Why a line ends.
#[derive(Debug)]
pub(crate) enum End {
    /// The gateway closes it.
    Close(Close),
    /// The client does what it must not.
    Violation(Violation),
    /// The client closed it, with this code.
    Closed(Option<u16>),
    /// The socket is broken, or the client went without a word.
    Gone,
    /// The socket broke with so many frames unwritten.
    Broken(usize),
}

/// What there is to do.
enum Happened<A> {
    Acted,
    Heard(Result<Option<A>, End>),
    Moment,
    Attention(Attention),
}

impl Line {
    /// A line of a new WebSocket.
    pub(crate) fn new(socket: Socket, reads: Limits, writes: OutboxLimits, agenda: Agenda) -> Self {
        let Socket { ear, mouth, early, compression } = socket;
        let outbox = Arc::new(Outbox::new(writes, compression, Box::new(mouth)));
        Self { reader: Reader::new(ear, reads, compression, early), outbox, agenda }
    }

    /// What is to be sent.
    pub(crate) fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// Tells the client to come back, at some moment within `spread`.
    pub(crate) fn leave_within(&mut self, spread: Duration) {
        self.agenda.leave_within(spread);
    }

    /// Serves the client until one of the two ends it.
    pub(crate) async fn serve<T: Talk>(&mut self, talk: &T) -> End {
        let Self { reader, outbox, agenda } = self;
        let mut acting: Option<BoxFuture<'_, ()>> = None;
        let mut leaving = false;
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
                if listening && let Poll::Ready(heard) = reader.poll_read(cx, talk, outbox, agenda) {
                    return Poll::Ready(Happened::Heard(heard));
                }
                if sleep.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Happened::Moment);
                }
                // Last, because it writes what everything else has left.
                if let Poll::Ready(attention) = outbox.poll_attention(cx) {
                    return Poll::Ready(Happened::Attention(attention));
                }
                if !listening && acting.is_none() && outbox.has_room() {
                    return Poll::Ready(Happened::Heard(Ok(None)));
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
                Happened::Heard(Ok(action)) => acting = action.map(|action| talk.perform(action)),
                Happened::Heard(Err(end)) => return end,
                Happened::Moment => match agenda.due(acting.is_none(), outbox) {
                    Due::Nothing => {}
                    // However much waits: whoever is slow is asked too.
                    Due::Ping => outbox.owe(&Frame::control(frame::server(Opcode::Ping, &[]))),
                    // Whoever has asked for something hears the answer; what waits in the outbox goes first.
                    Due::Drain if acting.is_some() => leaving = true,
                    Due::Drain => outbox.close(close::DRAIN),
                    Due::Close(reason) => return End::Close(reason),
                },
                // Spread over the drain, so that not everybody comes back at once; until its turn a client is served.
                Happened::Attention(Attention::Leave) => agenda.leave_within(talk.leaves_within()),
                Happened::Attention(Attention::Close(reason)) => return End::Close(reason),
                Happened::Attention(Attention::Gone { unwritten }) => return End::Broken(unwritten),
            }
        }
    }

    /// Says goodbye, if there is somebody to say it to, and waits a moment for the client's own.
    pub(crate) async fn end(mut self, end: End) {
        let last = match end {
            End::Gone | End::Broken(_) => return,
            End::Closed(None) => frame::server(Opcode::Close, &[]),
            End::Closed(Some(code)) => frame::server_close(code, ""),
            End::Close(reason) => frame::server_close(reason.code, reason.reason),
            End::Violation(violation) => violated(violation),
        };
        let goodbye = async {
            self.outbox.last(Frame::control(last)).await;
            timeout(LAST_WORDS, self.reader.read_to_the_end()).await.ok();
        };
        // Whoever does not read in time has had its chance.
        timeout(GOODBYE, goodbye).await.ok();
    }
}

fn violated(violation: Violation) -> Bytes {
    match violation {
        Violation::TooLong(_) => frame::server_close(close::TOO_LONG.code, close::TOO_LONG.reason),
        Violation::NotUtf8 => frame::server_close(close::BAD_DATA.code, close::BAD_DATA.reason),
        other => frame::server_close(other.close_code(), &other.to_string()),
    }
}

/// How long a client may take to answer a close.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a client may take to hear it, if it is slow.
const GOODBYE: Duration = Duration::from_secs(5);

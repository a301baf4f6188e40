//! One WebSocket as a machine that reads, acts, writes, pings and ends, whatever is said on it: that is the [`Talk`]'s.
//! While an action is under way the next message has to wait, so a client's actions keep their order; pings are answered
//! meanwhile, and messages to it go on. What waits is bounded, and so is what one turn looks at: a client that sends much
//! makes itself wait, and nobody else.

use std::{
    mem,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use countersign_protocol::close::{self, Close};
use countersign_ws::{Limits, Opcode, Violation, frame};
use futures_util::future::BoxFuture;
use tokio::{task::yield_now, time::timeout};

use super::{
    Agenda,
    agenda::Due,
    budget::Budget,
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
    /// It is to leave when what it does is done.
    leaving: bool,
}

/// What is said on a line.
pub(crate) trait Talk: Sized + Send {
    /// What takes time.
    type Action: Send;

    /// A message came. What it asks for, if that takes time.
    fn hear(&self, said: Said<'_>) -> Result<Option<Self::Action>, End>;

    /// Does what takes time.
    fn perform(self, action: Self::Action) -> BoxFuture<'static, Self>;
}

/// Where a line is served: what it needs at any time, also while an action is under way.
pub(crate) trait Host {
    /// Over how long connections leave when the node drains.
    fn spread(&self) -> Duration;

    /// A sign of life came so long after a ping.
    fn ponged_after(&self, took: Duration);

    /// The answer to a message that depends on nothing that was said before, such as a ping. It may overtake the answers to
    /// earlier messages.
    fn answer_at_once(&self, said: Said<'_>) -> Option<Frame>;
}

/// Who talks on a line: it listens, or it does what it heard.
pub(crate) enum Talking<T> {
    Listens(T),
    Acts(BoxFuture<'static, T>),
    /// Only in between.
    Nobody,
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

impl Line {
    /// A line of a new WebSocket.
    pub(crate) fn new(socket: Socket, reads: Limits, writes: OutboxLimits, agenda: Agenda) -> Self {
        let Socket { wire, early, compression } = socket;
        let outbox = Arc::new(Outbox::new(writes, compression, wire));
        Self { reader: Reader::new(reads, compression, &early), outbox, agenda, leaving: false }
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
    pub(crate) fn poll_serve<T: Talk>(
        &mut self,
        cx: &mut Context<'_>,
        talking: &mut Talking<T>,
        host: &impl Host,
    ) -> Poll<End> {
        let Self { reader, outbox, agenda, leaving } = self;
        let mut budget = Budget::of_a_turn();
        loop {
            agenda.set_alarm(outbox);
            if let Talking::Acts(action) = talking
                && let Poll::Ready(talk) = action.as_mut().poll(cx)
            {
                *talking = Talking::Listens(talk);
                if *leaving {
                    outbox.close(close::DRAIN);
                }
                continue;
            }
            // Whoever does not take its answers is not listened to.
            let has_room = outbox.has_room();
            if has_room && !budget.is_spent() {
                match talking {
                    Talking::Listens(talk) => match reader.poll_read(cx, (talk, host), outbox, agenda, &mut budget) {
                        Poll::Ready(Err(end)) => return Poll::Ready(end),
                        Poll::Ready(Ok(Some(action))) => {
                            talking.act(action);
                            continue;
                        }
                        Poll::Ready(Ok(None)) => continue,
                        Poll::Pending => {}
                    },
                    Talking::Acts(_) if reader.poll_ahead(cx, host, outbox, agenda, &mut budget).is_ready() => continue,
                    Talking::Acts(_) | Talking::Nobody => {}
                }
            }
            // A client is silent only if everything that it has sent was looked at.
            let listening = talking.listens() && !budget.is_spent();
            // Last, because it writes what everything else has left.
            match outbox.poll_attention(cx) {
                Poll::Ready(Attention::Alarm) => match agenda.due(listening, outbox) {
                    Due::Nothing => {}
                    // However much waits: whoever is slow is asked too.
                    Due::Ping => outbox.owe(&Frame::control(frame::server(Opcode::Ping, &[]))),
                    // Whoever has asked for something hears the answer; what waits in the outbox goes first.
                    Due::Drain if !talking.listens() => *leaving = true,
                    Due::Drain => outbox.close(close::DRAIN),
                    Due::Close(reason) => return Poll::Ready(End::Close(reason)),
                },
                // Spread over the drain, so that not everybody comes back at once; until its turn a client is served.
                Poll::Ready(Attention::Leave) => agenda.leave_within(host.spread()),
                Poll::Ready(Attention::Close(reason)) => return Poll::Ready(End::Close(reason)),
                Poll::Ready(Attention::Gone { unwritten }) => return Poll::Ready(End::Broken(unwritten)),
                Poll::Pending if budget.is_spent() => {
                    to_the_back(cx);
                    return Poll::Pending;
                }
                // Now that it has taken them, it may go on.
                Poll::Pending if !has_room && outbox.has_room() => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// After [`Violation::TooLong`]: the beginning of that message; empty when it does not come soon.
    pub(crate) async fn beginning(&mut self) -> Vec<u8> {
        let reading = self.reader.read_beginning(&self.outbox);
        timeout(LAST_WORDS, reading).await.unwrap_or_default()
    }

    /// Says goodbye, if there is somebody to say it to, and waits a moment for the client's own.
    pub(crate) async fn end(self, end: End) {
        self.end_saying(&[], end).await;
    }

    /// As [`Self::end`], with some texts before the goodbye.
    pub(crate) async fn end_saying(mut self, words: &[String], end: End) {
        if let End::Violation(_) = end {
            // What it did before the violation is answered.
            self.outbox.write();
        }
        let last = match end {
            End::Gone | End::Broken(_) => return,
            End::Closed(None) => frame::server(Opcode::Close, &[]),
            End::Closed(Some(code)) => frame::server_close(code, ""),
            End::Close(reason) => frame::server_close(reason.code, reason.reason),
            End::Violation(violation) => violated(violation),
        };
        let mut all = BytesMut::new();
        for word in words {
            frame::append_server(Opcode::Text, word.as_bytes(), &mut all);
        }
        all.extend_from_slice(&last);
        let goodbye = async {
            self.outbox.last(Frame::control(all.freeze())).await;
            timeout(LAST_WORDS, self.reader.read_to_the_end(&self.outbox)).await.ok();
        };
        // Whoever does not read in time has had its chance.
        timeout(GOODBYE, goodbye).await.ok();
    }
}

impl<T: Talk> Talking<T> {
    fn listens(&self) -> bool {
        matches!(self, Self::Listens(_))
    }

    /// Whoever listens begins to do what takes time.
    fn act(&mut self, action: T::Action) {
        if let Self::Listens(talk) = mem::replace(self, Self::Nobody) {
            *self = Self::Acts(talk.perform(action));
        }
    }
}

/// Has the task polled again once all others that are ready have had their turn, and new input of all sockets was looked for.
fn to_the_back(cx: &mut Context<'_>) {
    // Its first poll only registers the task.
    let _pending = pin!(yield_now()).poll(cx);
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

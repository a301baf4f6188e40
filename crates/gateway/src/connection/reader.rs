//! What the client says: bytes into messages, one after the other, until one of them asks for something that takes time.
//! While that is under way the reader goes on: pings are answered at once, everything else is kept in order (`ahead`).
//! Bytes are read into a buffer of the thread, so a connection that says nothing holds none.

#![allow(clippy::mut_mut, reason = "a cursor over what was read, as the decoder takes it")]

use std::{
    cell::RefCell,
    future::poll_fn,
    task::{Context, Poll, ready},
};

use countersign_protocol::close;
use countersign_ws::{Decoder, Event, Inflater, Limits, Opcode, Role, deflate::Agreed, frame};

use super::{
    Agenda, End, Host, Talk,
    ahead::{Ahead, Next},
    budget::{Budget, TURN_BYTES},
};
use crate::hub::{Frame, Outbox};

/// See the module.
pub(super) struct Reader {
    limits: Limits,
    compression: Option<Agreed>,
    /// In the middle of something. Boxed, and none in between: then a new one is as good.
    decoder: Option<Box<Decoder>>,
    /// Read, and without its turn yet. Boxed, and none as long as everything had its turn.
    ahead: Option<Box<Ahead>>,
}

/// What all connections of a thread share: what a read brings is looked at before the next read.
struct Scratch {
    read: Box<[u8]>,
    inflater: Inflater,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> =
        RefCell::new(Scratch { read: vec![0; TURN_BYTES].into_boxed_slice(), inflater: Inflater::new() });
}

/// A message of the client.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Said<'a> {
    /// A text frame.
    Text(&'a str),
    /// A binary frame.
    Binary(&'a [u8]),
}

impl Reader {
    /// `early` is what came right behind the handshake.
    pub(super) fn new(limits: Limits, compression: Option<Agreed>, early: &[u8]) -> Self {
        let ahead = (!early.is_empty()).then(|| Box::new(Ahead::of_unread(early)));
        Self { limits, compression, decoder: None, ahead }
    }

    /// Looks at what the client says, until nothing is left, the budget is spent or something takes time; that. Pending when
    /// the client says nothing.
    pub(super) fn poll_read<T: Talk>(
        &mut self,
        cx: &mut Context<'_>,
        (talk, host): (&T, &impl Host),
        outbox: &Outbox,
        agenda: &mut Agenda,
        budget: &mut Budget,
    ) -> Poll<Result<Option<T::Action>, End>> {
        while let Some(next) = self.next_ahead() {
            let action = match next {
                Next::End(end) => return Poll::Ready(Err(end)),
                Next::Unread(mut unread) => {
                    return Poll::Ready(SCRATCH.with_borrow_mut(|Scratch { inflater, .. }| {
                        let mut input = &mut *unread;
                        let taken = self.take(&mut input, inflater, outbox, budget, |said| talk.hear(said));
                        self.leave_unread(input);
                        taken
                    }));
                }
                Next::Message(kept) => {
                    budget.spend(1, kept.len());
                    talk.hear(kept.said())?
                }
            };
            if action.is_some() || budget.is_spent() || !outbox.has_room() {
                return Poll::Ready(Ok(action));
            }
        }
        SCRATCH.with_borrow_mut(|Scratch { read, inflater }| {
            let mut input = ready!(poll_bytes(cx, read, host, outbox, agenda, budget))?;
            let taken = self.take(&mut input, inflater, outbox, budget, |said| talk.hear(said));
            self.leave_unread(input);
            Poll::Ready(taken)
        })
    }

    /// Reads on while an action is under way: answers what needs no turn, keeps the rest. Pending when there is nothing to
    /// read or enough is kept.
    pub(super) fn poll_ahead(
        &mut self,
        cx: &mut Context<'_>,
        host: &impl Host,
        outbox: &Outbox,
        agenda: &mut Agenda,
        budget: &mut Budget,
    ) -> Poll<()> {
        if self.ahead.as_ref().is_some_and(|ahead| ahead.is_full()) {
            return Poll::Pending;
        }
        SCRATCH.with_borrow_mut(|Scratch { read, inflater }| {
            let mut unread = self.ahead.as_mut().map(|ahead| ahead.take_unread()).unwrap_or_default();
            let read = if unread.is_empty() {
                ready!(poll_bytes(cx, read, host, outbox, agenda, budget))
            } else {
                Ok(&mut *unread)
            };
            let mut ahead = self.ahead.take().map_or_else(Ahead::default, |ahead| *ahead);
            let taken = read.and_then(|mut input| {
                let taken = self.take(&mut input, inflater, outbox, budget, |said| {
                    match host.answer_at_once(said) {
                        Some(answer) => outbox.push(&answer),
                        None => ahead.keep(said),
                    }
                    Ok(ahead.is_full().then_some(()))
                });
                ahead.put_unread(input);
                taken
            });
            if let Err(end) = taken {
                ahead.end(end);
            }
            self.ahead = (!ahead.is_empty()).then(|| Box::new(ahead));
            Poll::Ready(())
        })
    }

    /// Decodes until a message has a result, the input is used up, the budget is spent or the client does not take its
    /// answers. What is left of the input stays there.
    fn take<A>(
        &mut self,
        input: &mut &mut [u8],
        inflater: &mut Inflater,
        outbox: &Outbox,
        budget: &mut Budget,
        hear: impl FnMut(Said<'_>) -> Result<Option<A>, End>,
    ) -> Result<Option<A>, End> {
        let inflater = self.compression.is_some().then_some(inflater);
        if let Some(mut decoder) = self.decoder.take() {
            let taken = take_with(&mut decoder, input, inflater, outbox, budget, hear);
            self.decoder = Some(decoder).filter(|decoder| !decoder.is_as_new());
            return taken;
        }
        let mut decoder = Decoder::new(Role::Server, self.limits);
        let taken = take_with(&mut decoder, input, inflater, outbox, budget, hear);
        if !decoder.is_as_new() {
            self.decoder = Some(Box::new(decoder));
        }
        taken
    }

    /// What comes next of what was read before.
    fn next_ahead(&mut self) -> Option<Next> {
        let ahead = self.ahead.as_mut()?;
        let next = ahead.next();
        if ahead.is_empty() {
            self.ahead = None;
        }
        next
    }

    fn leave_unread(&mut self, rest: &[u8]) {
        if !rest.is_empty() {
            self.ahead = Some(Box::new(Ahead::of_unread(rest)));
        }
    }

    /// Reads on until the client has closed too: a socket that is closed with something unread is reset, and a reset may overtake
    /// the close code.
    pub(super) async fn read_to_the_end(&mut self, outbox: &Outbox) {
        self.read_until(Decoder::heard_close, outbox).await;
    }

    /// After [`countersign_ws::Violation::TooLong`]: reads on until the beginning of that message has come; that.
    pub(super) async fn read_beginning(&mut self, outbox: &Outbox) -> Vec<u8> {
        let decoder = self.read_until(|decoder| decoder.beginning().is_some(), outbox).await;
        decoder.beginning().unwrap_or_default().to_vec()
    }

    /// Reads on, past what is against the rules, until something has come or nothing more does.
    async fn read_until(&mut self, has_come: impl Fn(&Decoder) -> bool, outbox: &Outbox) -> &Decoder {
        let decoder = self.decoder.get_or_insert_with(|| Box::new(Decoder::new(Role::Server, self.limits)));
        poll_fn(|cx| {
            SCRATCH.with_borrow_mut(|Scratch { read, inflater }| {
                while !has_come(decoder) {
                    match ready!(outbox.poll_read(cx, read)) {
                        Ok(0) | Err(_) => break,
                        Ok(bytes) => {
                            let mut input = read.get_mut(..bytes).unwrap_or_default();
                            // A violation is said once, and then what can be read is a close frame.
                            while !matches!(decoder.next_inflating(&mut input, inflater), Ok(None)) {}
                        }
                    }
                }
                Poll::Ready(())
            })
        })
        .await;
        decoder
    }
}

impl Said<'_> {
    /// As the text that it is, whichever way it came.
    ///
    /// # Errors
    /// A binary frame that is not UTF-8.
    pub(crate) fn text(&self) -> Result<&str, End> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Binary(bytes) => std::str::from_utf8(bytes).map_err(|_| End::Close(close::BAD_DATA)),
        }
    }
}

/// Reads once from the socket, at most what is left of the budget.
fn poll_bytes<'r>(
    cx: &mut Context<'_>,
    read: &'r mut [u8],
    host: &impl Host,
    outbox: &Outbox,
    agenda: &mut Agenda,
    budget: &Budget,
) -> Poll<Result<&'r mut [u8], End>> {
    let most = budget.bytes().min(read.len());
    let read = read.get_mut(..most).unwrap_or_default();
    match ready!(outbox.poll_read(cx, read)) {
        Ok(0) | Err(_) => Poll::Ready(Err(End::Gone)),
        Ok(bytes) => {
            // Any byte is a sign of life: who sends a long message cannot answer a ping in the middle of it.
            if let Some(took) = agenda.alive() {
                host.ponged_after(took);
            }
            Poll::Ready(Ok(read.get_mut(..bytes).unwrap_or_default()))
        }
    }
}

fn take_with<A>(
    decoder: &mut Decoder,
    input: &mut &mut [u8],
    mut inflater: Option<&mut Inflater>,
    outbox: &Outbox,
    budget: &mut Budget,
    mut hear: impl FnMut(Said<'_>) -> Result<Option<A>, End>,
) -> Result<Option<A>, End> {
    loop {
        let before = input.len();
        let next = match &mut inflater {
            Some(inflater) => decoder.next_inflating(input, inflater),
            None => decoder.next(input),
        };
        let bytes = before - input.len();
        let result = match next.map_err(End::Violation)? {
            None => {
                budget.spend(0, bytes);
                return Ok(None);
            }
            Some(Event::Close(None)) => return Err(End::Closed(None)),
            Some(Event::Close(Some((code, _)))) => return Err(End::Closed(Some(code))),
            Some(Event::Ping(body)) => {
                outbox.push(&Frame::control(frame::server(Opcode::Pong, body)));
                None
            }
            Some(Event::Pong(_)) => None,
            Some(Event::Text(text)) => hear(Said::Text(text))?,
            Some(Event::Binary(bytes)) => hear(Said::Binary(bytes))?,
        };
        budget.spend(1, bytes);
        if result.is_some() || budget.is_spent() || !outbox.has_room() {
            return Ok(result);
        }
    }
}

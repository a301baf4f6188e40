//! What the client says: bytes into messages, one after the other, until one of them asks for something that takes time.
//! Bytes are read into a buffer of the thread, so a connection that says nothing holds none.

use std::{
    cell::RefCell,
    future::poll_fn,
    task::{Context, Poll, ready},
};

use countersign_protocol::close;
use countersign_ws::{Decoder, Event, Inflater, Limits, Opcode, Role, deflate::Agreed, frame};

use super::{Agenda, End, Talk};
use crate::hub::{Frame, Outbox};

/// See the module.
pub(super) struct Reader {
    limits: Limits,
    compression: Option<Agreed>,
    /// In the middle of something. Boxed, and none in between: then a new one is as good.
    decoder: Option<Box<Decoder>>,
    /// Read, and not looked at because an action is under way.
    unread: Box<[u8]>,
}

/// What all connections of a thread share: what a read brings is looked at before the next read.
struct Scratch {
    read: Box<[u8]>,
    inflater: Inflater,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> =
        RefCell::new(Scratch { read: vec![0; READ_BYTES].into_boxed_slice(), inflater: Inflater::new() });
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
    pub(super) fn new(limits: Limits, compression: Option<Agreed>, early: Vec<u8>) -> Self {
        Self { limits, compression, decoder: None, unread: early.into() }
    }

    /// Looks at what the client says, until nothing is left or something takes time; that. Pending when it says nothing.
    pub(super) fn poll_read<T: Talk>(
        &mut self,
        cx: &mut Context<'_>,
        talk: &T,
        outbox: &Outbox,
        agenda: &mut Agenda,
    ) -> Poll<Result<Option<T::Action>, End>> {
        SCRATCH.with_borrow_mut(|Scratch { read, inflater }| {
            if !self.unread.is_empty() {
                let mut unread = std::mem::take(&mut self.unread);
                return Poll::Ready(self.take(&mut unread, inflater, talk, outbox));
            }
            match ready!(outbox.poll_read(cx, read)) {
                Ok(0) | Err(_) => Poll::Ready(Err(End::Gone)),
                Ok(bytes) => {
                    // Any byte is a sign of life: who sends a long message cannot answer a ping in the middle of it.
                    if let Some(took) = agenda.alive() {
                        talk.ponged_after(took);
                    }
                    let input = read.get_mut(..bytes).unwrap_or_default();
                    Poll::Ready(self.take(input, inflater, talk, outbox))
                }
            }
        })
    }

    fn take<T: Talk>(
        &mut self,
        input: &mut [u8],
        inflater: &mut Inflater,
        talk: &T,
        outbox: &Outbox,
    ) -> Result<Option<T::Action>, End> {
        if let Some(mut decoder) = self.decoder.take() {
            let taken = self.take_with(&mut decoder, input, inflater, talk, outbox);
            self.decoder = Some(decoder).filter(|decoder| !decoder.is_as_new());
            return taken;
        }
        let mut decoder = Decoder::new(Role::Server, self.limits);
        let taken = self.take_with(&mut decoder, input, inflater, talk, outbox);
        if !decoder.is_as_new() {
            self.decoder = Some(Box::new(decoder));
        }
        taken
    }

    fn take_with<T: Talk>(
        &mut self,
        decoder: &mut Decoder,
        mut input: &mut [u8],
        inflater: &mut Inflater,
        talk: &T,
        outbox: &Outbox,
    ) -> Result<Option<T::Action>, End> {
        loop {
            let next = match self.compression {
                Some(_) => decoder.next_inflating(&mut input, inflater),
                None => decoder.next(&mut input),
            };
            let action = match next.map_err(End::Violation)? {
                None => return Ok(None),
                Some(Event::Close(None)) => return Err(End::Closed(None)),
                Some(Event::Close(Some((code, _)))) => return Err(End::Closed(Some(code))),
                Some(Event::Ping(body)) => {
                    outbox.push(&Frame::control(frame::server(Opcode::Pong, body)));
                    None
                }
                Some(Event::Pong(_)) => None,
                Some(Event::Text(text)) => talk.hear(Said::Text(text))?,
                Some(Event::Binary(bytes)) => talk.hear(Said::Binary(bytes))?,
            };
            if action.is_some() || !outbox.has_room() {
                self.unread = Box::from(&*input);
                return Ok(action);
            }
        }
    }

    /// Reads on until the client has closed too: a socket that is closed with something unread is reset, and a reset may overtake
    /// the close code.
    pub(super) async fn read_to_the_end(&mut self, outbox: &Outbox) {
        let decoder = self.decoder.get_or_insert_with(|| Box::new(Decoder::new(Role::Server, self.limits)));
        poll_fn(|cx| {
            SCRATCH.with_borrow_mut(|Scratch { read, inflater }| {
                while !decoder.heard_close() {
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

/// What one read takes at most; actions are some hundred bytes.
const READ_BYTES: usize = 64 * 1024;

//! What the client says: bytes into messages, one after the other, until one of them asks for something that takes time.
//! Bytes are read into a buffer of the thread, so a connection that says nothing holds none.

use std::{cell::RefCell, future::poll_fn, io};

use countersign_protocol::close;
use countersign_ws::{Decoder, Event, Inflater, Limits, Opcode, Role, deflate::Agreed, frame};

use super::{Agenda, End, Talk};
use crate::{
    hub::{Frame, Outbox},
    wire::Wire,
};

/// See the module.
pub(super) struct Reader {
    decoder: Decoder,
    compression: Option<Agreed>,
    /// Read, and not looked at because an action is under way.
    unread: Vec<u8>,
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
        Self { decoder: Decoder::new(Role::Server, limits), compression, unread: early }
    }

    /// Whether something was read and not looked at.
    pub(super) fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Looks at what the client says, until nothing is left or something takes time; that.
    pub(super) fn read<T: Talk>(
        &mut self,
        wire: &Wire,
        talk: &T,
        outbox: &Outbox,
        agenda: &mut Agenda,
    ) -> Result<Option<T::Action>, End> {
        SCRATCH.with_borrow_mut(|Scratch { read, inflater }| {
            if self.has_unread() {
                let mut unread = std::mem::take(&mut self.unread);
                return self.take(&mut unread, inflater, talk, outbox, agenda);
            }
            match wire.try_read(read) {
                Ok(0) => Err(End::Gone),
                Ok(bytes) => self.take(read.get_mut(..bytes).unwrap_or_default(), inflater, talk, outbox, agenda),
                Err(error) if is_nothing(&error) => Ok(None),
                Err(_) => Err(End::Gone),
            }
        })
    }

    fn take<T: Talk>(
        &mut self,
        mut input: &mut [u8],
        inflater: &mut Inflater,
        talk: &T,
        outbox: &Outbox,
        agenda: &mut Agenda,
    ) -> Result<Option<T::Action>, End> {
        loop {
            let next = match self.compression {
                Some(_) => self.decoder.next_inflating(&mut input, inflater),
                None => self.decoder.next(&mut input),
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
            if let Some(took) = agenda.alive() {
                talk.ponged_after(took);
            }
            if action.is_some() || !outbox.has_room() {
                self.unread = input.to_vec();
                return Ok(action);
            }
        }
    }

    /// Reads on until the client has closed too: a socket that is closed with something unread is reset, and a reset may overtake
    /// the close code.
    pub(super) async fn read_to_the_end(&mut self, wire: &Wire) {
        while !self.decoder.heard_close() {
            if poll_fn(|cx| wire.poll_readable(cx)).await.is_err() {
                return;
            }
            let over = SCRATCH.with_borrow_mut(|Scratch { read, inflater }| match wire.try_read(read) {
                Ok(0) => true,
                Ok(bytes) => {
                    let mut input = read.get_mut(..bytes).unwrap_or_default();
                    // A violation is said once, and then what can be read is a close frame.
                    while !matches!(self.decoder.next_inflating(&mut input, inflater), Ok(None)) {}
                    false
                }
                Err(error) => !is_nothing(&error),
            });
            if over {
                return;
            }
        }
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

fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// What one read takes at most; actions are some hundred bytes.
const READ_BYTES: usize = 64 * 1024;

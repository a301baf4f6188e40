//! Turns the bytes of one connection into events. A frame that is whole in what was read is unmasked where it lies and
//! lent; only what is cut, by reads or into fragments, is put together in the decoder's own memory, which is given back
//! when it has been taken. So an idle connection holds nothing but this struct, and what it holds never passes what its
//! peer has really sent.
//!
//! After a violation a decoder swallows what comes, and as long as it knows where frames begin it looks for the peer's
//! close frame. So a connection that closes sends its own close frame, goes on reading for a bounded time until
//! [`Decoder::heard_close`] or the end of the stream, and then hangs up: its peer, which may be in the middle of sending
//! what was too long, hears the code and not a reset. Of a message that is too long it keeps the beginning
//! ([`Decoder::beginning`]), so that the refusal can name it.

#![allow(clippy::mut_mut, reason = "a cursor over what was read, which may be changed in place")]

use std::{fmt, mem};

use crate::{
    close,
    deflate::Inflater,
    event::Event,
    header::{Compression, Header, LONGEST, Opcode, SHORT},
    limits::Limits,
    mask, utf8,
    violation::Violation,
};

/// Which side we are: the other one is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// We are the server: frames come masked.
    Server,
    /// We are the client: frames come unmasked.
    Client,
}

/// What a connection keeps between two reads: 64 bytes, and nothing on the heap between messages.
pub struct Decoder {
    /// The payload so far of the message that is not whole yet, unmasked; behind it, `tail` bytes of a control frame.
    assembly: Vec<u8>,
    progress: Progress,
    limits: Limits,
    /// Of the message that is not whole yet.
    fragments: u32,
    /// Bytes at the end of `assembly` that belong to a control frame: at most 125.
    tail: u8,
    /// Bytes at the end of a text so far that are not a whole character yet: at most three.
    unchecked: u8,
    message: Option<Message>,
    lent: Lent,
    mode: Mode,
    role: Role,
}

/// Where in a frame the next byte is.
enum Progress {
    /// In its head, of which this much has come.
    Head { bytes: [u8; LONGEST], have: u8 },
    /// In its payload.
    Payload { opcode: Opcode, last: bool, mask: [u8; 4], remaining: u64 },
}

/// The message whose last fragment has not come.
#[derive(Clone, Copy)]
struct Message {
    text: bool,
    compressed: bool,
}

/// What the last event borrowed, to be given back at the next call.
#[derive(Clone, Copy, PartialEq)]
enum Lent {
    Nothing,
    Tail,
    Message,
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Open,
    /// In the payload of the frame with which a message became too long, of which the beginning is still kept.
    Overlong,
    /// After a violation: only a close frame is still looked for.
    Closing,
    /// The peer's close frame has come, so nothing more may.
    Closed,
    /// It is not known where frames begin.
    Lost,
}

/// A whole message or control frame.
enum Whole<'i> {
    /// Lent from where it was read.
    Read(Event<'i>),
    /// Put together, and known to be well formed.
    Assembled(Opcode),
    /// A compressed message: where it was read, or put together if it was not read whole.
    Deflated { opcode: Opcode, read: Option<&'i [u8]> },
}

const NO_HEAD: Progress = Progress::Head { bytes: [0; LONGEST], have: 0 };

impl Decoder {
    /// For a new connection.
    pub fn new(role: Role, limits: Limits) -> Self {
        Self {
            assembly: Vec::new(),
            progress: NO_HEAD,
            limits,
            fragments: 0,
            tail: 0,
            unchecked: 0,
            message: None,
            lent: Lent::Nothing,
            mode: Mode::Open,
            role,
        }
    }

    /// The next event of `input`, which shrinks to what is behind it; `None` when all of it has been taken.
    ///
    /// To be called until it says `None`: only then is the memory of the last event given back.
    ///
    /// # Errors
    /// What the peer did against the rules, said once: close with its code. The rest of the input is gone then.
    pub fn next<'s, 'i: 's>(&'s mut self, input: &mut &'i mut [u8]) -> Result<Option<Event<'s>>, Violation> {
        self.step(input, None)
    }

    /// Like [`Decoder::next`], for a connection on which permessage-deflate was agreed without context takeover: so one
    /// inflater serves all connections of a thread. It is not touched unless a compressed message is whole.
    ///
    /// # Errors
    /// Like [`Decoder::next`], and for a message that cannot be inflated or becomes too long when it is.
    pub fn next_inflating<'s, 'i: 's>(
        &'s mut self,
        input: &mut &'i mut [u8],
        inflater: &'s mut Inflater,
    ) -> Result<Option<Event<'s>>, Violation> {
        self.step(input, Some(inflater))
    }

    fn step<'s, 'i: 's>(
        &'s mut self,
        input: &mut &'i mut [u8],
        inflater: Option<&'s mut Inflater>,
    ) -> Result<Option<Event<'s>>, Violation> {
        self.take_back();
        let said = self.mode != Mode::Open;
        let compression = if inflater.is_some() { Compression::Agreed } else { Compression::None };
        let violation = match self.advance(input, compression) {
            Ok(None) => return Ok(None),
            Ok(Some(Whole::Read(event))) => return Ok(Some(event)),
            Ok(Some(Whole::Assembled(opcode))) => return Ok(Some(self.assembled(opcode))),
            Ok(Some(Whole::Deflated { opcode, read })) => {
                let longest = self.limits.message_bytes();
                let deflated = read.unwrap_or(&self.assembly);
                match inflater {
                    Some(inflater) => match inflater.fill(deflated, longest) {
                        Ok(()) => match lend(opcode, inflater.inflated()) {
                            Ok(event) => return Ok(Some(event)),
                            Err(violation) => violation,
                        },
                        Err(violation) => {
                            let inflated = inflater.inflated();
                            self.assembly = inflated.get(..BEGINNING).unwrap_or(inflated).to_vec();
                            violation
                        }
                    },
                    // The caller has forgotten what was agreed when the message began.
                    None => Violation::ReservedBit,
                }
            }
            Err(violation) => violation,
        };
        self.fail(violation, input, compression);
        if said { Ok(None) } else { Err(violation) }
    }

    /// Whether the peer has sent its close frame, before or after a violation: there is nothing more to read.
    pub fn heard_close(&self) -> bool {
        self.mode == Mode::Closed
    }

    /// After [`Violation::TooLong`]: the first bytes of that message, at most [`BEGINNING`]. `None` while more of them may come.
    /// Empty after another violation, and for a compressed message that was refused before it was whole.
    pub fn beginning(&self) -> Option<&[u8]> {
        match self.mode {
            Mode::Open | Mode::Overlong => None,
            Mode::Closing | Mode::Closed | Mode::Lost => {
                self.assembly.get(..self.assembly.len() - usize::from(self.tail))
            }
        }
    }

    /// Whether it is where a new one would begin: between two messages, with nothing lent and nothing wrong. Then it need not be
    /// kept until more comes.
    pub fn is_as_new(&self) -> bool {
        self.mode == Mode::Open
            && self.lent == Lent::Nothing
            && self.message.is_none()
            && matches!(self.progress, Progress::Head { have: 0, .. })
    }

    /// Bytes of memory held beside this struct: 0 between messages.
    pub fn held_bytes(&self) -> usize {
        self.assembly.capacity()
    }

    /// Frames until one completes something.
    fn advance<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        compression: Compression,
    ) -> Result<Option<Whole<'i>>, Violation> {
        loop {
            if matches!(self.mode, Mode::Closed | Mode::Lost) {
                *input = &mut [];
                return Ok(None);
            }
            if matches!(self.progress, Progress::Head { .. }) {
                let Some(header) = self.head(input, compression)? else { return Ok(None) };
                let Header { opcode, last, length, mask, .. } = header;
                self.progress = Progress::Payload { opcode, last, mask: mask.unwrap_or_default(), remaining: length };
                if self.mode == Mode::Open {
                    self.admit(header)?;
                } else if opcode == Opcode::Close && length > SHORT {
                    self.mode = Mode::Closed;
                    continue;
                }
            }
            let whole = self.payload(input)?;
            if whole.is_some() {
                return Ok(whole);
            }
            if matches!(self.progress, Progress::Payload { .. }) {
                return Ok(None);
            }
        }
    }

    /// Takes the head of a frame from the input; `None` when it is not whole yet. What is refused is not taken.
    fn head(&mut self, input: &mut &mut [u8], compression: Compression) -> Result<Option<Header>, Violation> {
        let (role, mode) = (self.role, self.mode);
        let parse = |bytes: &[u8]| match mode {
            Mode::Open => Header::parse(role, compression, bytes),
            _ => Header::skim(bytes),
        };
        let Progress::Head { bytes, have } = &mut self.progress else { return Ok(None) };
        if *have == 0
            && let Some((header, size)) = parse(input)?
        {
            take(input, size);
            return Ok(Some(header));
        }
        loop {
            if let Some((header, _)) = parse(bytes.get(..usize::from(*have)).unwrap_or_default())? {
                return Ok(Some(header));
            }
            let (Some(to), Some(byte)) = (bytes.get_mut(usize::from(*have)), take(input, 1).first()) else {
                return Ok(None);
            };
            *to = *byte;
            *have += 1;
        }
    }

    /// Whether a frame may come here and may be this long.
    fn admit(&mut self, header: Header) -> Result<(), Violation> {
        let message = match header.opcode {
            Opcode::Close | Opcode::Ping | Opcode::Pong => return Ok(()),
            Opcode::Text | Opcode::Binary => {
                if self.message.is_some() {
                    return Err(Violation::Interleaved);
                }
                self.fragments = 0;
                Message { text: header.opcode == Opcode::Text, compressed: header.compressed }
            }
            Opcode::Continuation => self.message.ok_or(Violation::NothingToContinue)?,
        };
        if self.fragments >= self.limits.fragments() {
            return Err(Violation::TooManyFragments(self.limits.fragments()));
        }
        self.fragments += 1;
        let most = self.limits.message_bytes();
        // What cannot be deflated grows a little, by blocks and flushes.
        let most = if message.compressed { most.saturating_add(most / 8 + 64) } else { most };
        let room = most.saturating_sub(self.assembly.len());
        self.message = Some(message);
        if usize::try_from(header.length).map_or(true, |length| length > room) {
            return Err(Violation::too_long(self.limits.message_bytes()));
        }
        Ok(())
    }

    /// Takes payload from the input: the whole that it completes, if it completes one.
    fn payload<'i>(&mut self, input: &mut &'i mut [u8]) -> Result<Option<Whole<'i>>, Violation> {
        let Progress::Payload { opcode, last, mask, remaining } = &mut self.progress else { return Ok(None) };
        let (opcode, last) = (*opcode, *last);
        let piece = take(input, usize::try_from(*remaining).unwrap_or(usize::MAX));
        *remaining -= u64::try_from(piece.len()).unwrap_or(*remaining);
        let rest = *remaining;
        let ignored = !matches!(self.mode, Mode::Open | Mode::Overlong) && opcode != Opcode::Close;
        if !ignored {
            mask::apply(*mask, piece);
            *mask = mask::rotated(*mask, piece.len());
        }
        let piece = &*piece;
        if rest == 0 {
            self.progress = NO_HEAD;
        }
        if ignored {
            return Ok(None);
        }
        if self.mode == Mode::Overlong {
            self.keep_beginning(piece, rest == 0);
            return Ok(None);
        }
        if opcode.is_control() {
            return self.control(opcode, piece, rest == 0);
        }
        let Some(message) = self.message else { return Ok(None) };
        let opcode = if message.text { Opcode::Text } else { Opcode::Binary };
        let whole = rest == 0 && last;
        if whole {
            self.message = None;
            if self.assembly.is_empty() {
                if message.compressed {
                    return Ok(Some(Whole::Deflated { opcode, read: Some(piece) }));
                }
                return lend(opcode, piece).map(|event| Some(Whole::Read(event)));
            }
        }
        self.keep(piece, last.then_some(rest), message)?;
        if !whole {
            return Ok(None);
        }
        self.lent = Lent::Message;
        if message.compressed {
            return Ok(Some(Whole::Deflated { opcode, read: None }));
        }
        if mem::take(&mut self.unchecked) > 0 { Err(Violation::NotUtf8) } else { Ok(Some(Whole::Assembled(opcode))) }
    }

    /// Takes a piece of a control frame, which may come in the middle of a message.
    fn control<'i>(&mut self, opcode: Opcode, piece: &'i [u8], end: bool) -> Result<Option<Whole<'i>>, Violation> {
        let read = end && self.tail == 0;
        if !read {
            self.assembly.extend_from_slice(piece);
            self.tail += u8::try_from(piece.len()).expect("a control frame has at most 125 bytes");
            if !end {
                return Ok(None);
            }
            self.lent = Lent::Tail;
        }
        if opcode == Opcode::Close {
            self.mode = Mode::Closed;
        }
        if read {
            return lend(opcode, piece).map(|event| Some(Whole::Read(event)));
        }
        lend(opcode, self.tail()).map(|_| Some(Whole::Assembled(opcode)))
    }

    /// What was put together, as an event.
    fn assembled(&self, opcode: Opcode) -> Event<'_> {
        let bytes = if opcode.is_control() { self.tail() } else { &self.assembly };
        lend(opcode, bytes).expect("a close frame was checked when it was whole, a text whenever more of it came")
    }

    /// The control frame behind the message that is not whole yet.
    fn tail(&self) -> &[u8] {
        self.assembly.get(self.assembly.len() - usize::from(self.tail)..).unwrap_or_default()
    }

    /// Appends to the message that is not whole yet; `rest` is how much more is to come, if that is known.
    fn keep(&mut self, piece: &[u8], rest: Option<u64>, message: Message) -> Result<(), Violation> {
        let held = self.assembly.len();
        if let Some(rest) = rest
            && self.assembly.capacity() - held < piece.len()
        {
            // The end is in sight: no further than it, and never more than what has come once more.
            let ahead = usize::try_from(rest).unwrap_or(usize::MAX).min(held + piece.len());
            self.assembly.reserve_exact(piece.len() + ahead);
        }
        self.assembly.extend_from_slice(piece);
        if message.text && !message.compressed {
            let unchecked = self.assembly.get(held - usize::from(self.unchecked)..).unwrap_or_default();
            self.unchecked = utf8::beginning(unchecked).ok_or(Violation::NotUtf8)?;
        }
        Ok(())
    }

    /// Appends to the beginning of a message that is too long, until it is whole or the frame `ends`.
    fn keep_beginning(&mut self, piece: &[u8], ends: bool) {
        let room = BEGINNING.saturating_sub(self.assembly.len());
        let kept = piece.get(..room).unwrap_or(piece);
        self.assembly.reserve_exact(kept.len());
        self.assembly.extend_from_slice(kept);
        if ends || kept.len() == room {
            self.mode = Mode::Closing;
        }
    }

    /// Gives back what the last event borrowed.
    fn take_back(&mut self) {
        match self.lent {
            Lent::Nothing => return,
            Lent::Message => self.assembly = Vec::new(),
            Lent::Tail => {
                self.assembly.truncate(self.assembly.len() - usize::from(self.tail));
                self.tail = 0;
                if self.assembly.is_empty() {
                    self.assembly = Vec::new();
                }
            }
        }
        self.lent = Lent::Nothing;
    }

    /// After a violation: swallows the rest of the input, in which a close frame may be.
    fn fail(&mut self, violation: Violation, input: &mut &mut [u8], compression: Compression) {
        let overlong = matches!(violation, Violation::TooLong(_));
        let compressed = self.message.take().is_some_and(|message| message.compressed);
        if overlong && !compressed {
            self.assembly.truncate(BEGINNING);
            self.assembly.shrink_to_fit();
        } else {
            self.assembly = Vec::new();
        }
        self.tail = 0;
        self.lent = Lent::Nothing;
        let in_payload = matches!(self.progress, Progress::Payload { .. });
        self.mode = match self.mode {
            Mode::Closed => Mode::Closed,
            Mode::Open if overlong && !compressed && in_payload => Mode::Overlong,
            Mode::Open if violation != Violation::HugeLength => Mode::Closing,
            _ => Mode::Lost,
        };
        // At least once: the head that was refused may itself be a whole close frame.
        loop {
            if self.advance(input, compression).is_err() && self.mode != Mode::Closed {
                self.mode = Mode::Lost;
            }
            if input.is_empty() {
                break;
            }
        }
        self.take_back();
    }
}

/// How much of a message that is too long is kept: the names in it that a refusal needs, if they come first.
pub const BEGINNING: usize = 1024;

/// A whole payload as an event.
fn lend(opcode: Opcode, payload: &[u8]) -> Result<Event<'_>, Violation> {
    Ok(match opcode {
        Opcode::Text => Event::Text(utf8::whole(payload).ok_or(Violation::NotUtf8)?),
        Opcode::Binary | Opcode::Continuation => Event::Binary(payload),
        Opcode::Ping => Event::Ping(payload),
        Opcode::Pong => Event::Pong(payload),
        Opcode::Close => Event::Close(close::parse(payload)?),
    })
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("role", &self.role)
            .field("held_bytes", &self.held_bytes())
            .finish_non_exhaustive()
    }
}

/// The first `count` bytes, or as many as there are.
fn take<'i>(input: &mut &'i mut [u8], count: usize) -> &'i mut [u8] {
    let all = mem::take(input);
    let (taken, rest) = all.split_at_mut(count.min(all.len()));
    *input = rest;
    taken
}

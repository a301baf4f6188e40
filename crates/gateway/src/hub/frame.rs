//! One message in the form that sockets take: encoded once per node, shared by every connection that gets it.

use std::{
    cell::RefCell,
    fmt,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use countersign_protocol::{Address, CallbackId, Position};
use countersign_ws::{Deflater, Opcode, deflate::Agreed, frame};

thread_local! {
    /// Level 1: most of the gain for a third of the work.
    static DEFLATER: RefCell<Deflater> = RefCell::new(Deflater::new(1));
}

/// Bytes of a text from which deflating is worth its time: an envelope of 136 bytes shrinks by a tenth.
const DEFLATED_FROM: usize = 512;
/// The window of the form that all clients share, in bits.
const WIDEST: u8 = 15;

/// Shared wire bytes and the facts that delivery needs of them. Cloning copies no bytes.
#[derive(Debug, Clone)]
pub(crate) struct Frame(Arc<Encoded>);

/// What is said with a frame, beside its bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// The callback whose question this is.
    pub(crate) question: Option<CallbackId>,
    /// Its place in the history of its address.
    pub(crate) position: Option<Position>,
    /// The address of a message that a slow reader may miss, if it prefers that to being closed: no question, no reply, no end of
    /// a callback.
    pub(crate) may_be_dropped: Option<Address>,
}

struct Encoded {
    /// The WebSocket frame, header and text in one run.
    wire: Bytes,
    /// The same, compressed; made when it is first wanted.
    deflated: OnceLock<Option<Bytes>>,
    /// Of the text, in bytes; the header is before it.
    length: usize,
    facts: Facts,
}

impl Frame {
    /// A frame that is neither a question nor part of a history, such as a reply.
    pub(crate) fn plain(text: impl AsRef<str>) -> Self {
        Self::with(text.as_ref().as_bytes(), Facts::default())
    }

    /// A text, which is UTF-8, with its facts.
    pub(crate) fn with(text: &[u8], facts: Facts) -> Self {
        Self(Arc::new(Encoded {
            wire: frame::server(Opcode::Text, text),
            deflated: OnceLock::new(),
            length: text.len(),
            facts,
        }))
    }

    /// A frame of the WebSocket itself, as it goes over the wire.
    pub(crate) fn control(wire: Bytes) -> Self {
        Self(Arc::new(Encoded { wire, deflated: OnceLock::new(), length: 0, facts: Facts::default() }))
    }

    /// What goes over the wire to a client with which this was agreed about compression. Deflated once, by the first who asks.
    pub(crate) fn wire(&self, compression: Option<Agreed>) -> &Bytes {
        let Encoded { wire, deflated, length, .. } = &*self.0;
        match compression {
            Some(agreed) if *length >= DEFLATED_FROM && agreed.takes_shared(*length) => {
                deflated.get_or_init(|| self.deflate()).as_ref().unwrap_or(wire)
            }
            _ => wire,
        }
    }

    /// `None` when it would gain nothing.
    fn deflate(&self) -> Option<Bytes> {
        let text = self.0.wire.get(self.0.wire.len() - self.0.length..).unwrap_or_default();
        let deflated = DEFLATER.with_borrow_mut(|deflater| deflater.compress(text, WIDEST));
        deflated.map(|deflated| frame::server_compressed(Opcode::Text, &deflated))
    }

    /// Length on the wire in bytes, uncompressed.
    pub(crate) fn len(&self) -> usize {
        self.0.wire.len()
    }

    /// The callback whose question this is.
    pub(crate) fn question(&self) -> Option<CallbackId> {
        self.0.facts.question
    }

    /// Its place in the history of its address.
    pub(crate) fn position(&self) -> Option<&Position> {
        self.0.facts.position.as_ref()
    }

    /// See [`Facts::may_be_dropped`].
    pub(crate) fn may_be_dropped(&self) -> Option<&Address> {
        self.0.facts.may_be_dropped.as_ref()
    }

    /// Whether both share the same bytes.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoded({} bytes, {:?})", self.length, self.facts)
    }
}

//! One message in the form that sockets take: encoded once per node, shared by every connection that gets it.

use std::{
    cell::RefCell,
    fmt,
    hash::BuildHasher,
    sync::{Arc, LazyLock, OnceLock},
};

use bytes::Bytes;
use countersign_protocol::{Address, CallbackId, Event, Kind, Position};
use countersign_ws::{Deflater, Header, Opcode, deflate::Agreed, frame};
use hashbrown::DefaultHashBuilder;

thread_local! {
    /// Level 1: most of the gain for a third of the work.
    static DEFLATER: RefCell<Deflater> = RefCell::new(Deflater::new(1));
}

/// Of this process, so that nobody can choose two texts with one fingerprint.
static FINGERPRINTS: LazyLock<DefaultHashBuilder> = LazyLock::new(DefaultHashBuilder::default);

/// Bytes of a text from which deflating is worth its time: an envelope of 136 bytes shrinks by a tenth.
const DEFLATED_FROM: usize = 512;
/// The longest header of a server's frame: two bytes, and eight for a length.
const HEADER_BYTES: usize = 10;
/// The window of the form that all clients share, in bits.
const WIDEST: u8 = 15;

/// Shared wire bytes and the facts that delivery needs of them. Cloning copies no bytes.
#[derive(Debug, Clone)]
pub(crate) struct Frame(Arc<Encoded>);

/// What is said with a frame, beside its bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// Whether it is a question, the end of one, or something else.
    pub(crate) kind: Kind,
    /// Its place in the history of its address.
    pub(crate) position: Option<Position>,
    /// The address of a message that a slow reader may miss, if it prefers that to being closed: no question, no reply, no end of
    /// a callback.
    pub(crate) may_be_dropped: Option<Address>,
}

struct Encoded {
    /// Room for the longest header, of which the header takes the end, and the text.
    bytes: Vec<u8>,
    /// Where the header begins.
    begins: usize,
    /// Where the text begins; at the end for a frame of the WebSocket itself.
    text_from: usize,
    /// The same, compressed; made when it is first wanted.
    deflated: OnceLock<Option<Box<[u8]>>>,
    facts: Facts,
    /// See [`Frame::fingerprint`].
    fingerprint: u64,
}

impl Frame {
    /// A frame that is neither a question nor part of a history, such as a reply.
    pub(crate) fn plain(text: impl AsRef<str>) -> Self {
        Self::with(text.as_ref().as_bytes(), Facts::default())
    }

    /// A text, which is UTF-8, with its facts.
    pub(crate) fn with(text: &[u8], facts: Facts) -> Self {
        Self::written(text.len(), |bytes| {
            bytes.extend_from_slice(text);
            facts
        })
    }

    /// A text of about `length` bytes that is written into place.
    pub(crate) fn written(length: usize, write: impl FnOnce(&mut Vec<u8>) -> Facts) -> Self {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + length);
        bytes.extend_from_slice(&[0; HEADER_BYTES]);
        let facts = write(&mut bytes);
        let header = Header::whole(Opcode::Text, bytes.len() - HEADER_BYTES).encode();
        let begins = HEADER_BYTES - header.len();
        if let Some(place) = bytes.get_mut(begins..HEADER_BYTES) {
            place.copy_from_slice(&header);
        }
        let fingerprint = if facts.position.is_some() {
            FINGERPRINTS.hash_one(bytes.get(HEADER_BYTES..).unwrap_or_default())
        } else {
            0
        };
        let deflated = OnceLock::new();
        Self(Arc::new(Encoded { bytes, begins, text_from: HEADER_BYTES, deflated, facts, fingerprint }))
    }

    /// Messages of an address are missing, and `position` is before the next one that is not; `None` where no history is kept.
    pub(crate) fn gap(address: &Address, position: Option<Position>) -> Self {
        let topic = address.client_form().to_string();
        // With its place, so that a client that was told of more when it came is not told to go back.
        let facts = Facts { position: position.clone(), ..Facts::default() };
        Self::with(Event::Gap { topic, recovered: false, position }.to_json().as_bytes(), facts)
    }

    /// A frame of the WebSocket itself, or another one that is whole, as it goes over the wire.
    pub(crate) fn control(wire: Bytes) -> Self {
        let facts = Facts::default();
        Self(Arc::new(Encoded {
            text_from: wire.len(),
            bytes: wire.into(),
            begins: 0,
            deflated: OnceLock::new(),
            facts,
            fingerprint: 0,
        }))
    }

    /// What goes over the wire to a client with which this was agreed about compression. Deflated once, by the first who asks.
    pub(crate) fn wire(&self, compression: Option<Agreed>) -> &[u8] {
        let plain = self.0.bytes.get(self.0.begins..).unwrap_or_default();
        let Some(agreed) = compression else { return plain };
        let text = self.0.text();
        if text.len() < DEFLATED_FROM || !agreed.takes_shared(text.len()) {
            return plain;
        }
        self.0.deflated.get_or_init(|| deflate(text)).as_deref().unwrap_or(plain)
    }

    /// Length on the wire in bytes, uncompressed.
    pub(crate) fn len(&self) -> usize {
        self.0.bytes.len() - self.0.begins
    }

    /// The callback whose question this is.
    pub(crate) fn question(&self) -> Option<CallbackId> {
        match self.0.facts.kind {
            Kind::Question(id) => Some(id),
            Kind::End(_) | Kind::TaskCancelled | Kind::Other => None,
        }
    }

    /// The callback whose end this is.
    pub(crate) fn end(&self) -> Option<CallbackId> {
        match self.0.facts.kind {
            Kind::End(id) => Some(id),
            Kind::Question(_) | Kind::TaskCancelled | Kind::Other => None,
        }
    }

    /// Its place in the history of its address.
    pub(crate) fn position(&self) -> Option<&Position> {
        self.0.facts.position.as_ref()
    }

    /// Equal for equal texts, and hardly ever for different ones; 0 for what has no place in a history.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.0.fingerprint
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

/// `None` when it would gain nothing.
fn deflate(text: &[u8]) -> Option<Box<[u8]>> {
    let deflated = DEFLATER.with_borrow_mut(|deflater| deflater.compress(text, WIDEST))?;
    Some(frame::server_compressed(Opcode::Text, &deflated).to_vec().into_boxed_slice())
}

impl Encoded {
    /// Empty for a frame of the WebSocket itself.
    fn text(&self) -> &[u8] {
        self.bytes.get(self.text_from..).unwrap_or_default()
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoded({} bytes, {:?})", self.text().len(), self.facts)
    }
}

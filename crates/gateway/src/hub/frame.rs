//! One message in the form that sockets take: encoded once per node, shared by every connection that gets it.

use std::time::Instant;

use countersign_protocol::{CallbackId, Position};

use crate::transport::Text;

/// Shared wire text and the two facts that delivery needs of it. Cloning copies no bytes.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// What goes over the wire.
    pub(crate) text: Text,
    /// The callback whose question this is.
    pub(crate) question: Option<CallbackId>,
    /// Its place in the history of its address.
    pub(crate) position: Option<Position>,
    /// When the node heard it; `None` for what the node says itself.
    pub(crate) heard_at: Option<Instant>,
}

impl Frame {
    /// A frame that is neither a question nor part of a history, such as a reply.
    pub(crate) fn plain(text: impl Into<Text>) -> Self {
        Self { text: text.into(), question: None, position: None, heard_at: None }
    }

    /// Length of the text in bytes.
    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }
}

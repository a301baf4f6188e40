//! The WebSocket library, and the only place that knows which one it is. Everything else sees [`Socket`], [`Text`] and
//! [`Received`].
//!
//! The read buffer is 4 KiB instead of the library's 128 KiB (which it allocates and clears for every connection), and
//! frames of one turn are written together.

use std::{fmt, time::Duration};

use axum::{
    extract::{
        FromRequestParts,
        ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade},
    },
    http::request::Parts,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use countersign_protocol::close::{self, Close};
use futures_util::{SinkExt, StreamExt};
use tungstenite::error::{CapacityError, Error as WsError};

use crate::hub::Frame;

/// Shared text of a frame.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Text(Utf8Bytes);

impl Text {
    #[cfg(test)]
    pub(crate) fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// In bytes.
    pub(crate) fn len(&self) -> usize {
        self.0.as_str().len()
    }

    /// Shares bytes that are UTF-8.
    pub(crate) fn from_utf8(bytes: Bytes) -> Result<Self, std::str::Utf8Error> {
        Utf8Bytes::try_from(bytes).map(Self)
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Text({} bytes)", self.len())
    }
}

/// A request that asks for a WebSocket.
pub(crate) struct Upgrade(WebSocketUpgrade);

impl Upgrade {
    /// Checks the handshake.
    ///
    /// # Errors
    /// The response that says what is wrong with it.
    pub(crate) async fn from_parts(parts: &mut Parts) -> Result<Self, Response> {
        WebSocketUpgrade::from_request_parts(parts, &()).await.map(Self).map_err(IntoResponse::into_response)
    }

    /// Accepts: the response switches protocols, and `serve` gets the socket afterwards.
    pub(crate) fn accept<F>(
        self,
        protocol: Option<String>,
        sizes: Sizes,
        serve: impl FnOnce(Socket) -> F + Send + 'static,
    ) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // A message that is a little too long is read to its end, so that its sender hears the close code and not a reset.
        let read_at_most = sizes.received.saturating_mul(2);
        let upgrade = self
            .0
            .read_buffer_size(4 * 1024)
            .write_buffer_size(16 * 1024)
            .max_write_buffer_size(sizes.sent.saturating_add(WRITE_BUFFER))
            .max_message_size(read_at_most)
            .max_frame_size(read_at_most);
        let upgrade = match protocol {
            Some(protocol) => upgrade.protocols([protocol]),
            None => upgrade,
        };
        upgrade.on_upgrade(move |socket| serve(Socket { socket, longest: sizes.received }))
    }
}

/// The longest messages, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    /// Of a client; a longer one closes its connection.
    pub(crate) received: usize,
    /// Of a producer, which the gateway sends.
    pub(crate) sent: usize,
}

/// One WebSocket.
pub(crate) struct Socket {
    socket: WebSocket,
    longest: usize,
}

/// What came.
#[derive(Debug)]
pub(crate) enum Received {
    /// A text, or a binary frame that is UTF-8.
    Text(Utf8),
    /// A sign of life.
    Alive,
    /// The peer closed, or the connection broke.
    Gone,
    /// Against the rules: close with this.
    Bad(Close),
}

/// Text that came.
#[derive(Debug)]
pub(crate) struct Utf8(Utf8Bytes);

impl Utf8 {
    pub(crate) fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// The connection broke while writing.
#[derive(Debug)]
pub(crate) struct Broken;

impl Socket {
    /// The next thing that comes. Cancellation safe.
    pub(crate) async fn next(&mut self) -> Received {
        match self.socket.next().await {
            None => Received::Gone,
            Some(Ok(Message::Close(_))) => {
                // The library has queued the answer; who closes politely hears it.
                tokio::time::timeout(LAST_WORDS, self.socket.flush()).await.ok();
                Received::Gone
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Received::Alive,
            Some(Ok(Message::Text(text))) => self.text(text),
            Some(Ok(Message::Binary(bytes))) => match Utf8Bytes::try_from(bytes) {
                Ok(text) => self.text(text),
                Err(_) => Received::Bad(close::BAD_DATA),
            },
            Some(Err(error)) => match error.into_inner().downcast_ref::<WsError>() {
                Some(WsError::Capacity(CapacityError::MessageTooLong { .. })) => Received::Bad(close::TOO_LONG),
                Some(WsError::Utf8(_)) => Received::Bad(close::BAD_DATA),
                Some(WsError::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)) => {
                    Received::Gone
                }
                Some(WsError::Protocol(_)) => Received::Bad(close::PROTOCOL),
                _ => Received::Gone,
            },
        }
    }

    fn text(&self, text: Utf8Bytes) -> Received {
        if text.as_str().len() > self.longest { Received::Bad(close::TOO_LONG) } else { Received::Text(Utf8(text)) }
    }

    /// Writes frames together.
    pub(crate) async fn send(&mut self, frames: &mut Vec<Frame>) -> Result<(), Broken> {
        for frame in frames.drain(..) {
            self.socket.feed(Message::Text(frame.text.0)).await.map_err(|_| Broken)?;
        }
        self.socket.flush().await.map_err(|_| Broken)
    }

    /// Asks for a sign of life.
    pub(crate) async fn ping(&mut self) -> Result<(), Broken> {
        self.socket.send(Message::Ping(Bytes::new())).await.map_err(|_| Broken)
    }

    /// Closes and waits a moment for the peer's own close frame, so that it hears the code.
    pub(crate) async fn close(mut self, reason: Close) {
        let frame = CloseFrame { code: reason.code, reason: reason.reason.into() };
        let closing = async {
            if self.socket.send(Message::Close(Some(frame))).await.is_ok() {
                while let Some(Ok(_)) = self.socket.next().await {}
            }
        };
        // Whoever does not answer in time has had its chance.
        tokio::time::timeout(LAST_WORDS, closing).await.ok();
    }
}

/// What may wait in the library, beside one message, for a peer that does not read: frames go in one at a time, so this is
/// for answers to pings. A peer that sends more of them and never reads is cut off with its next message.
const WRITE_BUFFER: usize = 256 * 1024;
/// How long a closing connection may take to say goodbye.
const LAST_WORDS: Duration = Duration::from_secs(1);

//! From a request to a WebSocket: the handshake is checked field by field, the response switches protocols, and what was
//! the server's connection becomes a [`Socket`]. On a server of ours that is the TCP stream itself; on any other it is one
//! end of a pair, with a task that copies, so that TLS and other servers work too.

use std::io;

use axum::{
    body::Body,
    http::{HeaderValue, request::Parts},
    response::{IntoResponse, Response},
};
use countersign_protocol::{FieldError, close};
use countersign_ws::{
    deflate::{self, Agreed},
    frame,
    handshake::server::Request,
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncWriteExt, copy_bidirectional},
    net::{TcpStream, UnixStream},
};

use crate::{http::Problem, seldom::Seldom, wire::Wire};

/// A request that asks for a WebSocket, and may.
pub(crate) struct Upgrade {
    upgrading: OnUpgrade,
    response: axum::http::Response<()>,
    compression: Option<Agreed>,
}

/// A WebSocket of which nothing is read or written yet.
pub(crate) struct Socket {
    pub(crate) wire: Wire,
    /// What the client sent right behind its request.
    pub(crate) early: Vec<u8>,
    /// What was agreed about compression.
    pub(crate) compression: Option<Agreed>,
}

impl Upgrade {
    /// Checks the handshake. `protocol` is the subprotocol to answer with; `compresses`, whether to agree to compression.
    ///
    /// # Errors
    /// The response that says what is wrong with it.
    #[allow(clippy::result_large_err, reason = "the error is the response, and made once at most")]
    pub(crate) fn from_parts(parts: &mut Parts, protocol: Option<&str>, compresses: bool) -> Result<Self, Response> {
        let refused = |refusal: countersign_ws::handshake::Refusal| {
            let error = FieldError::new(refusal.field.as_str(), refusal.expected, "something else");
            let mut response = Problem::with_status(refusal.status, error).into_response();
            if let Some((name, value)) = refusal.header() {
                response.headers_mut().insert(name, value);
            }
            response
        };
        let request = Request::check(&parts.method, parts.version, &parts.headers).map_err(refused)?;
        let protocol = protocol.and_then(|name| HeaderValue::from_str(name).ok());
        let (compression, extensions) = match deflate::negotiate(&request.extensions).filter(|_| compresses) {
            Some((agreed, extensions)) => (Some(agreed), Some(extensions)),
            None => (None, None),
        };
        let response = request.accept(protocol, extensions);
        let Some(upgrading) = parts.extensions.remove::<OnUpgrade>() else {
            let error = FieldError::new("connection", "a server that can upgrade it", "one that cannot");
            return Err(Problem::with_status(axum::http::StatusCode::NOT_IMPLEMENTED, error).into_response());
        };
        Ok(Self { upgrading, response, compression })
    }

    /// Accepts: the response switches protocols, and `serve` gets the socket afterwards.
    pub(crate) fn accept<F>(self, serve: impl FnOnce(Socket) -> F + Send + 'static) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Self { upgrading, response, compression } = self;
        tokio::spawn(async move {
            match upgrading.await {
                Ok(upgraded) => match Socket::of(upgraded, compression).await {
                    Ok(socket) => serve(socket).await,
                    Err(error) => {
                        if let Some(left_out) = NO_PAIR.line() {
                            tracing::warn!(%error, left_out, "a connection was closed: no socket pair could be made");
                        }
                    }
                },
                Err(error) => tracing::debug!(%error, "a connection was not upgraded"),
            }
        });
        response.map(|()| Body::empty())
    }
}

impl Socket {
    /// # Errors
    /// The stream is not ours, and the process has no file descriptors left for a pair. The client is told to come back.
    async fn of(upgraded: Upgraded, compression: Option<Agreed>) -> io::Result<Self> {
        match upgraded.downcast::<TokioIo<TcpStream>>() {
            // Copied: the server's buffer is much larger and would live as long as these bytes.
            Ok(parts) => {
                Ok(Self { wire: Wire::Tcp(parts.io.into_inner()), early: parts.read_buf.to_vec(), compression })
            }
            Err(upgraded) => {
                let wire = through_a_pair(upgraded, UnixStream::pair()).await?;
                Ok(Self { wire, early: Vec::new(), compression })
            }
        }
    }
}

static NO_PAIR: Seldom = Seldom::new();

/// One end of a pair; a task copies between the other and what is not ours.
async fn through_a_pair(
    upgraded: impl hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    pair: io::Result<(UnixStream, UnixStream)>,
) -> io::Result<Wire> {
    let mut upgraded = TokioIo::new(upgraded);
    let (ours, mut theirs) = match pair {
        Ok(pair) => pair,
        Err(error) => {
            let goodbye = frame::server_close(close::FULL.code, close::FULL.reason);
            // The client may be gone; then there is nobody to be told.
            upgraded.write_all(&goodbye).await.ok();
            upgraded.shutdown().await.ok();
            return Err(error);
        }
    };
    tokio::spawn(async move {
        if let Err(error) = copy_bidirectional(&mut upgraded, &mut theirs).await {
            tracing::debug!(%error, "a connection ended early");
        }
        // The peer hears the end, whoever made it.
        upgraded.shutdown().await.ok();
    });
    Ok(Wire::Pair(ours))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn without_file_descriptors_for_a_pair_the_client_is_told_to_come_back() {
        let (upgraded, mut client) = tokio::io::duplex(1024);
        let no_files = Err(io::Error::from_raw_os_error(24));
        assert!(through_a_pair(TokioIo::new(upgraded), no_files).await.is_err());
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, frame::server_close(1013, "Server connection limit reached"));
    }
}

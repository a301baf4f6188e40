//! From a request to a WebSocket: the handshake is checked field by field, the response switches protocols, and what was
//! the server's connection becomes a [`Socket`]. On a server of ours that is the TCP stream itself; on any other it is one
//! end of a pair, with a task that copies, so that TLS and other servers work too.

use axum::{
    body::Body,
    http::{HeaderValue, request::Parts},
    response::{IntoResponse, Response},
};
use countersign_protocol::FieldError;
use countersign_ws::{
    deflate::{self, Agreed},
    handshake::server::Request,
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncWriteExt, copy_bidirectional},
    net::{TcpStream, UnixStream},
};

use crate::{http::Problem, wire::Wire};

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
                Ok(upgraded) => serve(Socket::of(upgraded, compression)).await,
                Err(error) => tracing::debug!(%error, "a connection was not upgraded"),
            }
        });
        response.map(|()| Body::empty())
    }
}

impl Socket {
    fn of(upgraded: Upgraded, compression: Option<Agreed>) -> Self {
        match upgraded.downcast::<TokioIo<TcpStream>>() {
            // Copied: the server's buffer is much larger and would live as long as these bytes.
            Ok(parts) => Self { wire: Wire::Tcp(parts.io.into_inner()), early: parts.read_buf.to_vec(), compression },
            Err(upgraded) => Self { wire: through_a_pair(upgraded), early: Vec::new(), compression },
        }
    }
}

/// One end of a pair; a task copies between the other and what is not ours.
fn through_a_pair(upgraded: Upgraded) -> Wire {
    let (ours, mut theirs) = UnixStream::pair().expect("two more file descriptors");
    tokio::spawn(async move {
        let mut upgraded = TokioIo::new(upgraded);
        if let Err(error) = copy_bidirectional(&mut upgraded, &mut theirs).await {
            tracing::debug!(%error, "a connection ended early");
        }
        // The peer hears the end, whoever made it.
        upgraded.shutdown().await.ok();
    });
    Wire::Pair(ours)
}

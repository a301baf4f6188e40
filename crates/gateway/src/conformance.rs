//! For tests alone: a server that sends every message back over the very lines that clients of the gateway have, without a
//! greeting, so that a testsuite of the protocol can be held against them.

use std::{future::poll_fn, sync::Arc, time::Duration};

use axum::{body::Body, http::Request, response::Response};
use futures_util::future::BoxFuture;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use countersign_ws::{Limits, Opcode, frame};

use crate::{
    connection::{Agenda, End, Host, Line, Said, Talk, Talking},
    hub::{Frame, Outbox, OutboxLimits, WhenFull},
    transport::{Socket, Upgrade},
};

/// The longest messages of the testsuite have 16 MiB, the shortest fragments 64 bytes.
const LONGEST: usize = 16 * 1024 * 1024;
const FRAGMENTS: u32 = 1 << 18;

/// Echoes for ever; with `compression`, for clients that offer it.
pub async fn echo(listener: TcpListener, compression: bool) -> std::io::Error {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => return error,
        };
        stream.set_nodelay(true).ok();
        let service =
            service_fn(move |request| async move { Ok::<_, std::convert::Infallible>(answer(request, compression)) });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades());
    }
}

fn answer(request: Request<hyper::body::Incoming>, compression: bool) -> Response<Body> {
    let (mut parts, _) = request.into_parts();
    match Upgrade::from_parts(&mut parts, None, compression) {
        Ok(upgrade) => upgrade.accept(converse),
        Err(refused) => refused,
    }
}

async fn converse(socket: Socket) {
    let writes = OutboxLimits { bytes: 4 * LONGEST, frames: u32::MAX, when_full: WhenFull::Close };
    let mut line = Line::new(socket, Limits::new(LONGEST).with_fragments(FRAGMENTS), writes, Agenda::none());
    let mut talking = Talking::Listens(Echo(Arc::clone(line.outbox())));
    let end = poll_fn(|cx| line.poll_serve(cx, &mut talking, &Nowhere)).await;
    line.end(end).await;
}

struct Echo(Arc<Outbox>);

impl Talk for Echo {
    type Action = ();

    fn hear(&self, said: Said<'_>) -> Result<Option<()>, End> {
        match said {
            Said::Text(text) => self.0.push(&Frame::plain(text)),
            Said::Binary(bytes) => self.0.push(&Frame::control(frame::server(Opcode::Binary, bytes))),
        }
        Ok(None)
    }

    fn perform(self, (): ()) -> BoxFuture<'static, Self> {
        Box::pin(std::future::ready(self))
    }
}

/// Every message is echoed in its turn.
struct Nowhere;

impl Host for Nowhere {
    fn spread(&self) -> Duration {
        Duration::ZERO
    }

    fn ponged_after(&self, _: Duration) {}

    fn answer_at_once(&self, _: Said<'_>) -> Option<Frame> {
        None
    }
}

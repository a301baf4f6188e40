//! The listener: accepts connections and speaks HTTP/1.1, with limits that the framework's own server does not have. A
//! request head has ten seconds, 64 headers and 16 KiB; a drain lets requests finish and keeps no connection alive.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpStream};

use crate::node::Node;

/// A head that has not come after this long does not come.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Enough for a head with a token and cookies.
const HEAD_BYTES: usize = 16 * 1024;
/// More headers than this are an attack.
const HEADERS: usize = 64;
/// Connections that may wait for being accepted: a reconnect storm of thousands fits.
const BACKLOG: i32 = 4096;
/// Bytes; the kernel keeps books of twice as many. A client that reads 30 KB a second is through with it before a ping is late.
const SEND_BUFFER: usize = 128 * 1024;
/// After a failed accept, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Binds the address of the configuration.
pub(crate) fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts until the node drains; then what is in the backlog is still accepted and the listener closed, so that a balancer
/// that is refused goes on to the next node.
pub(crate) async fn serve(node: Arc<Node>, listener: TcpListener, router: Router) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES).max_headers(HEADERS);
    let service = TowerToHyperService::new(router);
    let mut told = false;
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = node.shutdown.draining() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                told = false;
                let connection = converse(Arc::clone(&node), stream, builder.clone(), service.clone());
                node.shutdown.serving.spawn(connection);
            }
            Err(error) => {
                if !told {
                    tracing::warn!(%error, "cannot accept connections");
                    told = true;
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(node: Arc<Node>, stream: TcpStream, builder: http1::Builder, service: TowerToHyperService<Router>) {
    // Small frames must not wait for an acknowledgement; without it they only do.
    stream.set_nodelay(true).ok();
    // What a client does not read waits in its outbox, which is counted, and not in the kernel, which would take megabytes: then
    // a ping behind them is late however steadily the client reads.
    socket2::SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER).ok();
    let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = node.shutdown.draining() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}

//! The listener: accepts connections and speaks HTTP/1.1, with limits that the framework's own server does not have. A
//! request head has ten seconds, 64 headers and 16 KiB; a drain answers whoever has come, and keeps no connection alive.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper::{Request, body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::{sleep, timeout},
};
use tower::ServiceExt;

use crate::{http_connections::HttpConnection, metrics::Limit, node::Node};

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
/// A connection that is new when the node drains may still bring its request: it is on its way behind the handshake.
const FIRST_REQUEST: Duration = Duration::from_millis(500);
/// A handshake that has begun ends within one round trip. Of a balancer or client that is further away than this, one whose
/// last part is on its way in this very moment is still reset; and whoever begins one within it comes a second late.
const HANDSHAKE: Duration = Duration::from_millis(2);
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

/// Accepts until the node closes its door; then what the kernel has accepted is still served and the listener closed, so that a balancer
/// that is refused goes on to the next node.
pub(crate) async fn serve(node: Arc<Node>, listener: TcpListener, router: Router) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES).max_headers(HEADERS);
    let serve = |stream, counted| {
        node.shutdown.serving.spawn(converse(Arc::clone(&node), (stream, counted), builder.clone(), router.clone()));
    };
    let connections = &node.http_connections;
    let mut told = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = node.shutdown.closed() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                told = false;
                let counted = tokio::select! {
                    biased;
                    counted = connections.enter() => counted,
                    () = node.shutdown.closed() => connections.enter_anyway(),
                };
                serve(stream, counted);
            }
            Err(error) => {
                if !told {
                    tracing::warn!(%error, "cannot accept connections");
                    told = true;
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    match last_of(listener).await {
        Ok(last) => last.into_iter().for_each(|stream| serve(stream, connections.enter_anyway())),
        Err(error) => tracing::warn!(%error, "connections that came while the listener was closed may have been cut"),
    }
}

/// Closes a listener; what had come to it until then. The runtime does not say when nobody is left in the backlog (it waits to
/// be told by the kernel that there is somebody), so the kernel is asked.
async fn last_of(listener: TcpListener) -> std::io::Result<Vec<TcpStream>> {
    let mut last = Vec::new();
    let listener = listener.into_std()?;
    if leaves_out_newcomers(&listener) {
        sleep(HANDSHAKE).await;
    }
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                last.push(TcpStream::from_std(stream)?);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(last),
            // This one has gone away itself (accept(2)).
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Nobody else is let in until the close, which would reset them; whether that can be had. The kernel drops what wants to begin a
/// connection, its sender repeats it after a second (RFC 6298, section 2), and is refused. A handshake that has begun is completed.
#[cfg(target_os = "linux")]
fn leaves_out_newcomers(listener: &std::net::TcpListener) -> bool {
    use socket2::{SockFilter, SockRef};
    // Classic BPF (bpf(4)) on the TCP header, whose flags are byte 13 (RFC 9293, section 3.1): SYN is 0x02, ACK is 0x10.
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let filter = [
        SockFilter::new(LOAD_BYTE, 0, 0, 13),
        SockFilter::new(AND, 0, 0, 0x12),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, 0x02),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ];
    let attached = SockRef::from(listener).attach_filter(&filter);
    attached.inspect_err(|error| tracing::debug!(%error, "the listener is closed without a filter")).is_ok()
}

/// Elsewhere there is a moment in which somebody may come and be reset.
#[cfg(not(target_os = "linux"))]
fn leaves_out_newcomers(_: &std::net::TcpListener) -> bool {
    false
}

async fn converse(
    node: Arc<Node>,
    (stream, counted): (TcpStream, Arc<HttpConnection>),
    builder: http1::Builder,
    router: Router,
) {
    // Small frames must not wait for an acknowledgement; without it they only do.
    stream.set_nodelay(true).ok();
    // What a client does not read waits in its outbox, which is counted, and not in the kernel, which would take megabytes: then
    // a ping behind them is late however steadily the client reads.
    socket2::SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER).ok();
    let asked = Arc::new(Notify::new());
    let service = {
        let (asked, counted) = (Arc::clone(&asked), Arc::clone(&counted));
        router.map_request(move |mut request: Request<Incoming>| {
            asked.notify_one();
            request.extensions_mut().insert(Arc::clone(&counted));
            request
        })
    };
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = counted.closed() => {
            node.metrics.limited(Limit::SilentConnections);
            Ok(())
        }
        () = may_hang_up(&node, &asked) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}

/// The node drains, and the connection has had a request (the library closes one at once that has not) or none on its way.
async fn may_hang_up(node: &Node, asked: &Notify) {
    node.shutdown.draining().await;
    drop(timeout(FIRST_REQUEST, asked.notified()).await);
}

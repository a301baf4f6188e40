//! A TCP connection with a switch: between a node and its Redis, or a client and its node, when a test
//! wants the network to stall or to break.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What the proxy does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Network {
    /// They pass.
    Flowing,
    /// They wait, in both directions; new connections are accepted and wait too.
    Stalled,
    /// All connections are closed, new ones are closed at once.
    Cut,
}

/// Passes TCP connections on to one address. Gone, with its connections, when dropped.
#[derive(Debug)]
pub struct TcpProxy {
    address: SocketAddr,
    network: watch::Sender<Network>,
    task: JoinHandle<()>,
}

impl TcpProxy {
    /// Listens on a free loopback port and passes everything on to `target` (`host:port`).
    pub async fn to(target: impl Into<String>) -> Self {
        let target = target.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the loopback has a free port");
        let address = listener.local_addr().expect("a bound listener");
        let (network, watching) = watch::channel(Network::Flowing);
        let task = tokio::spawn(async move {
            // Dropped with this task: no connection outlives the proxy.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(serve(client, target.clone(), watching.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, network, task }
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Bytes stand still: the peers see neither data nor an end.
    pub fn stall(&self) {
        self.network.send_replace(Network::Stalled);
    }

    /// Closes every connection, and every new one until `resume`.
    pub fn cut(&self) {
        self.network.send_replace(Network::Cut);
    }

    /// Bytes pass again; stalled ones arrive now.
    pub fn resume(&self) {
        self.network.send_replace(Network::Flowing);
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(client: TcpStream, target: String, mut network: watch::Receiver<Network>) {
    if !until_flowing(&mut network).await {
        return;
    }
    let Ok(server) = TcpStream::connect(&target).await else {
        return;
    };
    // Small frames must not wait for each other in here.
    drop(client.set_nodelay(true));
    drop(server.set_nodelay(true));
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    // Either direction's end ends both: a half-closed connection is not what these tests are about.
    tokio::select! {
        () = pump(client_reads, server_writes, network.clone()) => {}
        () = pump(server_reads, client_writes, network) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut network: watch::Receiver<Network>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = tokio::select! {
            read = from.read(&mut buffer) => match read {
                Ok(count) if count > 0 => count,
                _ => return,
            },
            () = until_cut(&mut network) => return,
        };
        if !until_flowing(&mut network).await {
            return;
        }
        let bytes = buffer.get(..count).unwrap_or_default();
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

/// Whether bytes may pass now; false when the connection is to be closed instead.
async fn until_flowing(network: &mut watch::Receiver<Network>) -> bool {
    network.wait_for(|state| *state != Network::Stalled).await.is_ok_and(|state| *state == Network::Flowing)
}

/// Returns when the network is cut, or the proxy is gone.
async fn until_cut(network: &mut watch::Receiver<Network>) {
    drop(network.wait_for(|state| *state == Network::Cut).await);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn echo() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reads, mut writes) = stream.into_split();
                    drop(tokio::io::copy(&mut reads, &mut writes).await);
                });
            }
        });
        address
    }

    async fn says(stream: &mut TcpStream, text: &[u8]) {
        stream.write_all(text).await.expect("written");
    }

    async fn hears(stream: &mut TcpStream) -> Vec<u8> {
        let mut buffer = [0; 64];
        let count = stream.read(&mut buffer).await.unwrap_or(0);
        buffer[..count].to_vec()
    }

    #[tokio::test]
    async fn bytes_pass_stall_and_pass_again() {
        let proxy = TcpProxy::to(echo().await).await;
        let mut stream = TcpStream::connect(proxy.address()).await.expect("proxy");
        says(&mut stream, b"one").await;
        assert_eq!(hears(&mut stream).await, b"one");
        proxy.stall();
        says(&mut stream, b"two").await;
        let early = timeout(Duration::from_millis(100), hears(&mut stream)).await;
        assert!(early.is_err(), "stalled bytes arrived: {early:?}");
        proxy.resume();
        assert_eq!(hears(&mut stream).await, b"two");
    }

    #[tokio::test]
    async fn a_cut_closes_old_and_new_connections_until_it_is_resumed() {
        let proxy = TcpProxy::to(echo().await).await;
        let mut old = TcpStream::connect(proxy.address()).await.expect("proxy");
        says(&mut old, b"one").await;
        assert_eq!(hears(&mut old).await, b"one");
        proxy.cut();
        assert_eq!(hears(&mut old).await, b"", "the old connection ends");
        let mut new = TcpStream::connect(proxy.address()).await.expect("proxy");
        assert_eq!(hears(&mut new).await, b"", "a new connection ends");
        proxy.resume();
        let mut again = TcpStream::connect(proxy.address()).await.expect("proxy");
        says(&mut again, b"back").await;
        assert_eq!(hears(&mut again).await, b"back");
    }
}

//! A way to Redis on which replies can be lost and subscriptions can fall silent.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// The proxy; it ends when dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// How many replies to scripts are to be lost, each with its connection.
    to_lose: AtomicUsize,
    lost: AtomicUsize,
    /// Whether what is published is kept from the subscriptions that existed when it became so.
    silent: AtomicBool,
}

impl Proxy {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, port, Arc::clone(&shared)));
            }
        });
        Self { address, state, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}/", self.address)
    }

    /// The script that is sent next is carried out, and its reply is lost with the connection.
    pub(crate) fn lose_replies(&self, count: usize) {
        self.state.to_lose.store(count, Ordering::SeqCst);
    }

    pub(crate) fn lost(&self) -> usize {
        self.state.lost.load(Ordering::SeqCst)
    }

    /// From now on nothing that is published reaches the subscriptions that exist; new ones are not affected.
    pub(crate) fn silence(&self) {
        self.state.silent.store(true, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(mut client: TcpStream, port: u16, state: Arc<State>) {
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
    let born_silent = state.silent.load(Ordering::SeqCst);
    let (mut subscriber, mut script) = (false, false);
    let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            sent = client.read(&mut up) => {
                let Ok(sent @ 1..) = sent else { return };
                subscriber |= contains(&up[..sent], b"\r\nSUBSCRIBE\r\n");
                // Not the one that every connection begins with, which names its commands with tabulators behind them.
                script |= contains(&up[..sent], b"\r\nEVALSHA\r\n") && !contains(&up[..sent], b"EVALSHA\t");
                if server.write_all(&up[..sent]).await.is_err() { return }
            }
            answered = server.read(&mut down) => {
                let Ok(answered @ 1..) = answered else { return };
                if subscriber && !born_silent && state.silent.load(Ordering::SeqCst) {
                    continue;
                }
                if std::mem::take(&mut script) && !subscriber
                    && state.to_lose.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
                {
                    state.lost.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                if client.write_all(&down[..answered]).await.is_err() { return }
            }
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

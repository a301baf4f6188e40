//! The servers of a Redis Cluster: those that `REDIS_URL` names, which are asked first, and those that the cluster has told
//! of since. What is told is written by `masters.rs` and read by whoever needs a connection of its own.

use std::sync::Arc;

use redis::{ConnectionAddr, ConnectionInfo};
use tokio::sync::watch;

use super::{
    options::place,
    slots::{Address, Owners},
    topology::at,
};

/// The servers of a cluster.
#[derive(Debug)]
pub(super) struct Members {
    /// At least one; its credentials and its kind of connection are everybody's.
    seeds: Vec<ConnectionInfo>,
    owners: watch::Sender<Arc<Owners>>,
}

impl Members {
    /// `seeds` are at least one.
    pub(super) fn new(seeds: Vec<ConnectionInfo>) -> Self {
        assert!(!seeds.is_empty(), "a cluster has seeds");
        Self { seeds, owners: watch::Sender::default() }
    }

    /// For logs: without credentials.
    pub(super) fn place(&self) -> String {
        self.seeds.iter().map(place).collect::<Vec<_>>().join(",")
    }

    pub(super) fn is_tls(&self) -> bool {
        self.seeds.iter().any(|seed| matches!(seed.addr(), ConnectionAddr::TcpTls { .. }))
    }

    /// Who has which slots, as was told last, and its changes.
    pub(super) fn owners(&self) -> watch::Receiver<Arc<Owners>> {
        self.owners.subscribe()
    }

    /// The cluster has told it.
    pub(super) fn told(&self, owners: Owners) {
        self.owners.send_if_modified(|now| {
            let news = **now != owners;
            if news {
                *now = Arc::new(owners);
            }
            news
        });
    }

    /// How to connect to a server of the cluster.
    pub(super) fn info(&self, address: &Address) -> ConnectionInfo {
        let pattern = self.seeds.first().expect("a cluster has seeds");
        at(pattern, address)
    }

    /// Whom to ask, in this order: everybody known, then the seeds, which may have left; in another order each time.
    pub(super) fn to_ask(&self) -> Vec<ConnectionInfo> {
        let owners = Arc::clone(&self.owners.borrow());
        let mut known: Vec<_> = owners.servers().into_iter().map(|address| self.info(address)).collect();
        fastrand::shuffle(&mut known);
        let mut seeds = self.seeds.clone();
        fastrand::shuffle(&mut seeds);
        known.into_iter().chain(seeds).collect()
    }
}

/// Where a connection goes to, as a server of the cluster.
pub(super) fn address_of(info: &ConnectionInfo) -> Address {
    match info.addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            Address { host: host.clone(), port: *port }
        }
        // No URL of ours gives another kind.
        _ => Address { host: info.addr().to_string(), port: 0 },
    }
}

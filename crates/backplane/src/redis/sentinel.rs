//! A master that Redis Sentinel watches over, and follows when it moves. All sentinels are asked some times a second; the newest
//! configuration counts, and a server is taken for the master when it says so of itself. Whoever holds a connection to another
//! server leaves it then: a master that was demoted, or cut off with a minority of the sentinels, goes on accepting
//! connections, and publications to itself.
//!
//! Asked rather than listened to: `+switch-master` may be missed, and an answer is the state itself
//! (<https://redis.io/docs/latest/develop/reference/sentinel-clients/>).

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use redis::{ConnectionAddr, ConnectionInfo, ErrorKind, RedisResult, aio::MultiplexedConnection, cmd};
use tokio::{
    sync::{Mutex, watch},
    time::{sleep, timeout},
};

use super::{
    options::place,
    run::Run,
    slots::Address,
    topology::{CONNECT_WITHIN, at, connection_to},
};

/// The sentinels of one master.
#[derive(Debug)]
pub(super) struct Sentinels {
    all: Vec<Sentinel>,
    name: String,
    /// How a server is connected to, but for its address.
    pattern: ConnectionInfo,
    master: watch::Sender<Result<Master, String>>,
}

/// One of them.
#[derive(Debug)]
struct Sentinel {
    info: ConnectionInfo,
    connection: Mutex<Option<MultiplexedConnection>>,
}

/// Where the master is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Master {
    pub(super) address: Address,
    /// Of the configuration; greater after each failover.
    epoch: u64,
}

impl Sentinels {
    /// `sentinels` are at least one; `pattern` has what a server's connection needs, with any address.
    pub(super) fn new(sentinels: Vec<ConnectionInfo>, name: String, pattern: ConnectionInfo) -> Self {
        let connected = |info| Sentinel { info, connection: Mutex::default() };
        let master = watch::Sender::new(Err("no sentinel was asked yet".to_owned()));
        Self { all: sentinels.into_iter().map(connected).collect(), name, pattern, master }
    }

    /// For logs: without credentials.
    pub(super) fn place(&self) -> String {
        let hosts: Vec<_> = self.all.iter().map(|sentinel| sentinel.info.addr().to_string()).collect();
        let scheme = if self.is_tls() { "rediss" } else { "redis" };
        format!("{scheme}+sentinel://{}/{}/{}", hosts.join(","), self.name, self.pattern.redis_settings().db())
    }

    /// Which database has the keys.
    pub(super) fn database(&self) -> i64 {
        self.pattern.redis_settings().db()
    }

    pub(super) fn is_tls(&self) -> bool {
        matches!(self.pattern.addr(), ConnectionAddr::TcpTls { .. })
    }

    /// Where the master is, and its changes.
    pub(super) fn master(&self) -> watch::Receiver<Result<Master, String>> {
        self.master.subscribe()
    }

    /// How to connect to the master.
    pub(super) fn info(&self) -> RedisResult<ConnectionInfo> {
        match &*self.master.borrow() {
            Ok(master) => Ok(at(&self.pattern, &master.address)),
            Err(why) => Err((ErrorKind::MasterNameNotFoundBySentinel, "the master is not known", why.clone()).into()),
        }
    }

    /// Asks, for ever.
    pub(super) async fn watch(self: Arc<Self>) {
        let mut told_why = None;
        loop {
            match self.look().await {
                Ok(()) => told_why = None,
                Err(why) => {
                    // A master that is known is left when its own connections say so, or another one is found.
                    self.master.send_if_modified(|master| {
                        let unknown = master.is_err();
                        if unknown {
                            *master = Err(why.clone());
                        }
                        unknown
                    });
                    if told_why.replace(why.clone()).is_none() {
                        tracing::warn!(redis = self.place(), why, "the sentinels do not lead to a master");
                    }
                }
            }
            // With jitter, so that nodes do not ask in step.
            sleep(EVERY.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
        }
    }

    /// Finds the master anew.
    async fn look(&self) -> Result<(), String> {
        let answers = join_all(self.all.iter().map(|sentinel| sentinel.ask(&self.name))).await;
        let known = self.master.borrow().clone().ok();
        let newest = newest(&answers, known.as_ref())?;
        if known.as_ref() == Some(&newest) {
            return Ok(());
        }
        if known.as_ref().is_none_or(|known| known.address != newest.address) {
            self.prove(&newest.address).await?;
            tracing::info!(redis = self.place(), master = %newest.address, epoch = newest.epoch, "the sentinels lead to a master");
        }
        self.master.send_replace(Ok(newest)).ok();
        Ok(())
    }

    /// Asks a server whether it is a master.
    async fn prove(&self, address: &Address) -> Result<(), String> {
        let ask = async {
            let mut connection = connection_to(&at(&self.pattern, address), ASK_WITHIN).await?;
            Run::ask(&mut connection).await
        };
        match ask.await {
            Ok(run) if run.is_replica => Err(format!("{address}, which the sentinels name, says that it is a replica")),
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{address}, which the sentinels name: {error}")),
        }
    }
}

impl Sentinel {
    async fn ask(&self, name: &str) -> Result<Master, String> {
        let told = |error: &dyn std::fmt::Display| format!("{}: {error}", place(&self.info));
        let mut kept = self.connection.lock().await;
        let ask = async {
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => connection_to(&self.info, ASK_WITHIN).await?,
            };
            let answer: HashMap<String, String> =
                cmd("SENTINEL").arg("MASTER").arg(name).query_async(&mut connection).await?;
            RedisResult::Ok((answer, connection))
        };
        match timeout(CONNECT_WITHIN, ask).await {
            Ok(Ok((answer, connection))) => {
                *kept = Some(connection);
                read(&answer).ok_or_else(|| told(&"its answer is of another form"))
            }
            Ok(Err(error)) => Err(told(&error)),
            Err(_) => Err(told(&"no answer in time")),
        }
    }
}

/// The newest configuration. One that is older than what is known is a sentinel's that was cut off, unless most of them say so:
/// then they were set up anew.
fn newest(answers: &[Result<Master, String>], known: Option<&Master>) -> Result<Master, String> {
    let told = || answers.iter().flatten();
    let Some(newest) = told().max_by_key(|master| master.epoch) else {
        return Err(answers.iter().find_map(|answer| answer.clone().err()).unwrap_or_default());
    };
    let votes = told().filter(|master| *master == newest).count();
    match known {
        Some(known) if newest.epoch < known.epoch && votes * 2 <= answers.len() => Ok(known.clone()),
        _ => Ok(newest.clone()),
    }
}

fn read(answer: &HashMap<String, String>) -> Option<Master> {
    let (host, port) = (answer.get("ip")?.clone(), answer.get("port")?.parse().ok()?);
    let epoch = answer.get("config-epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
    Some(Master { address: Address { host, port }, epoch })
}

/// Between two looks. For as long a failover that the sentinels have finished may go unnoticed, and what is written to the old
/// master, which knows nothing of it yet, is lost; three small commands cost nothing.
const EVERY: Duration = Duration::from_millis(300);
/// A sentinel, or the server that it names, answers.
const ASK_WITHIN: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    fn master(port: u16, epoch: u64) -> Master {
        Master { address: Address { host: "10.0.0.1".to_owned(), port }, epoch }
    }

    #[test]
    fn the_newest_configuration_counts_and_a_sentinel_that_was_cut_off_does_not() {
        let gone = || Err("gone".to_owned());
        assert_eq!(newest(&[Ok(master(1, 1)), Ok(master(2, 2)), gone()], None), Ok(master(2, 2)));
        assert_eq!(newest(&[Ok(master(1, 1)), gone(), gone()], Some(&master(2, 2))), Ok(master(2, 2)));
        let anew = [Ok(master(1, 0)), Ok(master(1, 0)), gone()];
        assert_eq!(newest(&anew, Some(&master(2, 2))), Ok(master(1, 0)));
        assert_eq!(newest(&[gone(), gone()], Some(&master(2, 2))), Err("gone".to_owned()));
    }

    #[test]
    fn an_answer_is_read() {
        let answer = |fields: &[(&str, &str)]| {
            fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(read(&answer(&[("ip", "10.0.0.1"), ("port", "7"), ("config-epoch", "3")])), Some(master(7, 3)));
        assert_eq!(read(&answer(&[("ip", "10.0.0.1"), ("port", "x")])), None);
    }
}

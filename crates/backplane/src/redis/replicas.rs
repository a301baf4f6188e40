//! Waiting until replicas have a decision (`REDIS_WAIT_REPLICAS`), before it is told to whoever asked. The wait has a
//! connection of its own, because `WAIT` holds up everything behind it on its connection; it writes a mark there first, which
//! comes after the decision in the replication stream, and then waits for the mark, for everybody who came meanwhile at once.
//! In a cluster it waits at every master that has partitions, for the replicas of that one.
//! Too few replicas in time, or no answer, is logged and not an error: the decision stands and is published.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use redis::{Pipeline, RedisResult, aio::MultiplexedConnection};
use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{spawn, topology::Topology};

/// Those who wait.
#[derive(Debug)]
pub(super) struct Replicas {
    waiting: mpsc::Sender<oneshot::Sender<()>>,
}

impl Replicas {
    pub(super) fn start(
        wanted: u32,
        marks: Vec<String>,
        topology: Arc<Topology>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let (waiting, requests) = mpsc::channel(MOST_WAITING);
        spawn(tasks, stop, run(wanted, marks, topology, requests));
        Self { waiting }
    }

    /// Waits until enough replicas have everything that was written before, or it is clear that they do not in time.
    pub(super) async fn wait(&self) {
        let (done, wait) = oneshot::channel();
        // Both fail only when the backplane has been stopped.
        if self.waiting.send(done).await.is_ok() {
            wait.await.ok();
        }
    }
}

async fn run(
    wanted: u32,
    marks: Vec<String>,
    topology: Arc<Topology>,
    mut requests: mpsc::Receiver<oneshot::Sender<()>>,
) {
    let mut connections = BTreeMap::new();
    let mut enough = true;
    let mut batch = Vec::new();
    while requests.recv_many(&mut batch, MOST_WAITING).await > 0 {
        let answer = everywhere(&mut connections, &topology, &marks, wanted).await;
        let now_enough = matches!(answer, Ok(replicas) if replicas >= wanted);
        if enough != now_enough {
            match &answer {
                Ok(replicas) if now_enough => tracing::info!(replicas, wanted, "replicas have decisions in time again"),
                Ok(replicas) => tracing::warn!(
                    replicas,
                    wanted,
                    "REDIS_WAIT_REPLICAS: too few replicas had a decision in time; a failover may lose it"
                ),
                Err(error) => {
                    tracing::warn!(%error, wanted, "REDIS_WAIT_REPLICAS: not known whether replicas have a decision");
                }
            }
            enough = now_enough;
        }
        for waiting in batch.drain(..) {
            // Whoever waited may have given up.
            waiting.send(()).ok();
        }
    }
}

/// The fewest replicas of any master.
async fn everywhere(
    connections: &mut BTreeMap<String, MultiplexedConnection>,
    topology: &Topology,
    marks: &[String],
    wanted: u32,
) -> RedisResult<u32> {
    let waits = topology.writers(marks).into_iter().map(|(name, mark)| {
        let connection = connections.remove(&name);
        async move { (name, attempt(connection, topology, mark, wanted).await) }
    });
    let mut fewest = Ok(u32::MAX);
    // Connections to masters that are none any more, or that failed, are dropped here.
    let mut kept = BTreeMap::new();
    for (name, answer) in join_all(waits).await {
        fewest = match (answer, fewest) {
            (Ok((replicas, connection)), fewest) => {
                kept.insert(name, connection);
                fewest.map(|fewest| replicas.min(fewest))
            }
            (Err(error), _) => Err(error),
        };
    }
    *connections = kept;
    fewest
}

async fn attempt(
    connection: Option<MultiplexedConnection>,
    topology: &Topology,
    mark: &str,
    wanted: u32,
) -> RedisResult<(u32, MultiplexedConnection)> {
    let mut connection = match connection {
        Some(connection) => connection,
        None => topology.waiting_connector(Duration::ZERO, mark)?.connection().await?,
    };
    let mut mark_and_wait = Pipeline::new();
    mark_and_wait.cmd("SET").arg(mark).arg(1).arg("PX").arg(60_000).ignore();
    mark_and_wait.cmd("WAIT").arg(wanted).arg(WITHIN_MS);
    let (replicas,): (u32,) = mark_and_wait.query_async(&mut connection).await?;
    Ok((replicas, connection))
}

/// Half of what a command may take: the wait comes on top of a decision.
const WITHIN_MS: u64 = 500;
/// Beyond these, callers wait for a place.
const MOST_WAITING: usize = 1024;

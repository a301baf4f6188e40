//! The way of every command: to one server, or to the masters of a cluster (`masters.rs`), of which each has lanes
//! (`server.rs`). And what a command can be, where several are sent together.

use std::sync::Arc;

use redis::{Cmd, RedisResult, Script, ScriptInvocation, Value};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    failure::CommandError, masters::Masters, needs::Needs, scripts::evalsha, server::Server, topology::Topology,
};
use crate::Listener;

/// The way of every command.
pub(super) enum Lanes {
    One(Arc<Server>),
    Cluster(Arc<Masters>),
}

/// How a step is sent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Way {
    /// It is told the run of its server.
    pub(super) numbered: bool,
    /// Its slot of a cluster is on its way to this server.
    pub(super) asking: bool,
}

/// A step of a pipeline.
pub(super) enum Step<'a> {
    Command(Cmd),
    Script(ScriptInvocation<'a>),
    /// The command of a script on a numbered address: the lane adds the run of its server.
    Numbered(Cmd),
}

impl Step<'_> {
    /// A script on a numbered address.
    pub(super) fn numbered(script: &ScriptInvocation<'_>) -> Self {
        Self::Numbered(evalsha(script))
    }
}

impl Lanes {
    /// Starts what keeps them; it ends with `stop`.
    pub(super) fn start(
        topology: &Topology,
        needs: Arc<Needs>,
        listener: Arc<dyn Listener>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> RedisResult<Arc<Self>> {
        Ok(Arc::new(match topology {
            Topology::Cluster(members) => {
                Self::Cluster(Masters::start(Arc::clone(members), needs, listener, tasks, stop))
            }
            Topology::Single(_) | Topology::Sentinel(_) => {
                Self::One(Server::start(topology, needs, listener, tasks, stop)?)
            }
        }))
    }

    /// Whether several masters share the keys. Then a publication is counted where it was made, which says nothing.
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// One command.
    pub(super) async fn command(&self, command: &Cmd) -> Result<Value, CommandError> {
        match self {
            Self::One(server) => server.command(command).await,
            Self::Cluster(masters) => masters.command(command).await,
        }
    }

    /// One command that every master can carry out, any number of times; another one each time.
    pub(super) async fn anywhere(&self, command: &Cmd) -> Result<Value, CommandError> {
        match self {
            Self::One(server) => server.command(command).await,
            Self::Cluster(masters) => masters.anywhere(command).await,
        }
    }

    /// One script; loaded again if Redis has forgotten it.
    pub(super) async fn script(&self, script: &ScriptInvocation<'_>) -> Result<Value, CommandError> {
        match self {
            Self::One(server) => server.script(script).await,
            Self::Cluster(masters) => masters.script(script).await,
        }
    }

    /// One script on a numbered address, which is told the run of its server.
    pub(super) async fn numbered(&self, script: &ScriptInvocation<'_>) -> Result<Value, CommandError> {
        match self {
            Self::One(server) => {
                server.step(&evalsha(script), Some(script), Way { numbered: true, asking: false }).await
            }
            Self::Cluster(masters) => masters.numbered(script).await,
        }
    }

    /// Many steps in one round trip (to each master of a cluster, at the same time), in order (in a cluster: for each key),
    /// each with its own result; of the scripts in them, those in `load` are sure to be known.
    pub(super) async fn pipeline(
        &self,
        load: &[&Script],
        steps: &[Step<'_>],
    ) -> Result<Vec<Result<Value, CommandError>>, CommandError> {
        match self {
            Self::One(server) => server.pipeline(load, steps).await,
            Self::Cluster(masters) => masters.pipeline(load, steps).await,
        }
    }

    /// As [`Self::pipeline`], where one failure is a failure of the whole.
    pub(super) async fn all(&self, steps: &[Step<'_>]) -> Result<Vec<Value>, CommandError> {
        self.pipeline(&[], steps).await?.into_iter().collect()
    }
}

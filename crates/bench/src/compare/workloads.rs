//! What each server is given, which figures of it count, and the goals that the gateway has set itself.

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;

use super::{
    Plan,
    peers::{FLOOR, Peer, UWEBSOCKETS},
};
use crate::{
    account::report::Report,
    args::{Crowd, Flow, Server},
    connect::{self, Connect},
    fanout::{self, Fanout},
    idle::{self, Idle},
    pingpong::{self, PingPong},
    progress::Progress,
    user::{self, User},
};

/// Bytes of a message: what a progress report of a few fields has.
const PAYLOAD: usize = 166;
/// What is offered in an overload at least, in deliveries a second.
const OVERLOAD: f64 = 600_000.0;
/// And beyond what the server managed in this run.
const OVERLOAD_FACTOR: f64 = 1.5;
/// Players of ping-pong: enough to keep a server busy.
const PLAYERS: u64 = 100;
/// Players of the other one: more than fit into the queues of a runtime, so that an unfair one shows.
const MANY_PLAYERS: u64 = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// 50 messages a second to 1,000 connections.
    Fanout,
    /// As many messages as go to 1,000 connections.
    FanoutMax,
    /// 5,000 messages a second, each to one of 1,000 users.
    User,
    /// As many messages as go, each to one of 1,000 users.
    UserMax,
    /// The same with 10,000 users.
    UserMax10k,
    /// 10,000 connections that do nothing.
    Idle10k,
    /// Round trips on 100 connections.
    Pingpong,
    /// Round trips on 1,000 connections: who waits for whom.
    Pingpong1k,
    /// 3,000 connections that are opened as fast as it goes.
    Connect,
    /// More than the server can deliver.
    Overload,
}

/// A figure of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    CpuMicrosEach,
    PerCpuSecond,
    PerSecond,
    P50Millis,
    P99Millis,
    /// The 99th percentile to the median: how much longer than others the unlucky wait.
    P99ToP50,
    BytesPerConnection,
    LostSilently,
    LostAnnounced,
    Closed,
    MemoryGrowth,
}

/// What is compared with whom.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Goal {
    pub(crate) name: &'static str,
    pub(crate) metric: Metric,
    /// `None`: the figure itself.
    pub(crate) against: Option<&'static str>,
    pub(crate) bound: Bound,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Metric {
    /// What a reader sees above the column.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::CpuMicrosEach => "CPU µs each",
            Self::PerCpuSecond => "per CPU second",
            Self::PerSecond => "per second",
            Self::P50Millis => "p50 ms",
            Self::P99Millis => "p99 ms",
            Self::P99ToP50 => "p99 / p50",
            Self::BytesPerConnection => "bytes a connection",
            Self::LostSilently => "lost silently",
            Self::LostAnnounced => "lost, announced",
            Self::Closed => "connections closed",
            Self::MemoryGrowth => "peak memory / before",
        }
    }

    pub(crate) fn is_in(self, report: &Report) -> Option<f64> {
        let tally = report.tally;
        match self {
            Self::CpuMicrosEach => report.server.as_ref()?.cpu_us_each,
            Self::PerCpuSecond => Some(1e6 / report.server.as_ref()?.cpu_us_each?),
            Self::PerSecond => Some(report.traffic.as_ref()?.arrived_per_second),
            Self::P50Millis => Some(report.latency_ms.as_ref()?.p50),
            Self::P99Millis => Some(report.latency_ms.as_ref()?.p99),
            Self::P99ToP50 => {
                let latency = report.latency_ms.as_ref()?;
                Some(latency.p99 / latency.p50)
            }
            Self::BytesPerConnection => Some(report.server.as_ref()?.bytes_per_connection),
            Self::LostSilently => Some(tally?.lost as f64),
            Self::LostAnnounced => Some(tally?.lost_announced as f64),
            Self::Closed => Some(report.ends.values().sum::<u64>() as f64),
            Self::MemoryGrowth => {
                let server = report.server.as_ref()?;
                Some(server.rss_peak_mb / server.rss_connected_mb)
            }
        }
    }
}

impl Workload {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        Self::value_variants().iter().copied()
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Fanout => "Fan-out: 50 messages/s to 1,000 connections",
            Self::FanoutMax => "Fan-out: as many as go, 1,000 connections",
            Self::User => "Per user: 5,000 messages/s, 1,000 users",
            Self::UserMax => "Per user: as many as go, 1,000 users",
            Self::UserMax10k => "Per user: as many as go, 10,000 users",
            Self::Idle10k => "Idle: 10,000 connections, each with a user and a topic of its own",
            Self::Pingpong => "Ping-pong: round trips on 100 connections",
            Self::Pingpong1k => "Ping-pong: round trips on 1,000 connections",
            Self::Connect => "Connecting: 3,000 connections, 128 handshakes at a time",
            Self::Overload => "Overload: 1.5 times what goes, 1,000 connections",
        }
    }

    /// The figures that are told, the most important first.
    pub(crate) fn metrics(self) -> &'static [Metric] {
        use Metric::{
            BytesPerConnection, Closed, CpuMicrosEach, LostAnnounced, LostSilently, MemoryGrowth, P50Millis, P99Millis,
            P99ToP50, PerCpuSecond, PerSecond,
        };
        match self {
            Self::Fanout | Self::User | Self::Pingpong => &[CpuMicrosEach, P50Millis, P99Millis],
            Self::FanoutMax => &[PerCpuSecond, PerSecond, CpuMicrosEach],
            Self::UserMax | Self::UserMax10k => &[CpuMicrosEach, PerCpuSecond, PerSecond],
            Self::Idle10k => &[BytesPerConnection],
            Self::Pingpong1k => &[P99Millis, P50Millis, P99ToP50, CpuMicrosEach],
            Self::Connect => &[PerSecond, CpuMicrosEach],
            Self::Overload => &[LostSilently, LostAnnounced, Closed, MemoryGrowth, PerSecond],
        }
    }

    /// What the gateway wants to reach here.
    pub(crate) fn goals(self) -> Vec<Goal> {
        use Bound::{AtLeast, AtMost};
        let to = |name, metric, against, bound| Goal { name, metric, against: Some(against), bound };
        let own = |name, metric, bound| Goal { name, metric, against: None, bound };
        match self {
            Self::Fanout => vec![
                to("G1", Metric::CpuMicrosEach, FLOOR, AtMost(1.25)),
                to("G1", Metric::CpuMicrosEach, UWEBSOCKETS, AtMost(1.1)),
                to("G7", Metric::P50Millis, FLOOR, AtMost(1.25)),
            ],
            Self::FanoutMax => vec![
                to("G2", Metric::PerCpuSecond, UWEBSOCKETS, AtLeast(1.0)),
                to("G2", Metric::PerCpuSecond, "nchan", AtLeast(15.0)),
                to("G2", Metric::PerCpuSecond, "socketio", AtLeast(20.0)),
            ],
            Self::User => vec![to("G7", Metric::P50Millis, FLOOR, AtMost(1.25))],
            Self::UserMax => vec![
                to("G3", Metric::CpuMicrosEach, FLOOR, AtMost(1.25)),
                to("G3", Metric::CpuMicrosEach, UWEBSOCKETS, AtMost(1.1)),
            ],
            // Against itself with a tenth of the connections: `results` knows that one.
            Self::UserMax10k => Vec::new(),
            Self::Idle10k => vec![own("G5", Metric::BytesPerConnection, AtMost(2048.0))],
            Self::Pingpong => vec![to("G6", Metric::CpuMicrosEach, FLOOR, AtMost(1.3))],
            Self::Pingpong1k => vec![own("G10", Metric::P99ToP50, AtMost(2.5))],
            Self::Connect => vec![to("Connecting", Metric::PerSecond, UWEBSOCKETS, AtLeast(0.5))],
            Self::Overload => vec![
                own("G8", Metric::LostSilently, AtMost(0.0)),
                own("G8", Metric::Closed, AtMost(0.0)),
                own("G8", Metric::MemoryGrowth, AtMost(1.2)),
            ],
        }
    }

    /// Whether it takes 10,000 connections.
    pub(crate) fn is_large(self) -> bool {
        matches!(self, Self::UserMax10k | Self::Idle10k)
    }

    /// Whether connections hear what is for them alone.
    pub(crate) fn is_personal(self) -> bool {
        !matches!(self, Self::Fanout | Self::FanoutMax | Self::Overload)
    }

    /// Whether this server takes part.
    pub(crate) fn is_for(self, peer: &Peer) -> bool {
        match self {
            _ if peer.is_sharded() => matches!(self, Self::Fanout | Self::UserMax),
            // What 10,000 connections or an overload do to others is not ours to publish.
            Self::UserMax10k | Self::Overload => peer.is_main(),
            _ => true,
        }
    }

    /// Gives it to a server. `best` is the best fan-out of this server in this run, in deliveries a second.
    pub(crate) fn run(self, server: &Server, plan: Plan, best: Option<f64>) -> Result<Report> {
        let quiet = Progress::new(true);
        let crowd = |connections| Crowd { connections, threads: 1, seconds: plan.seconds, warmup: plan.warmup };
        let at = |rate| Flow::at(rate, PAYLOAD);
        let max = Flow::most(PAYLOAD);
        let everybody =
            |flow| fanout::run(server, &Fanout { crowd: crowd(1_000), flow, topic: None, topics: None }, quiet);
        let each = |connections, flow| user::run(server, &User { crowd: crowd(connections), flow }, quiet);
        match self {
            Self::Fanout => everybody(at(50.0)),
            Self::FanoutMax => everybody(max),
            Self::User => each(1_000, at(5_000.0)),
            Self::UserMax => each(1_000, max),
            Self::UserMax10k => each(10_000, max),
            Self::Idle10k => {
                let topics = server.dialect == crate::dialect::Dialect::Countersign;
                idle::run(server, &Idle { crowd: Crowd { seconds: 1.0, ..crowd(10_000) }, topics }, quiet)
            }
            Self::Pingpong => pingpong::run(server, &PingPong { crowd: crowd(PLAYERS), rate: None }, quiet),
            Self::Pingpong1k => pingpong::run(server, &PingPong { crowd: crowd(MANY_PLAYERS), rate: None }, quiet),
            Self::Connect => {
                connect::run(server, &Connect { connections: 3_000, at_once: 128, jwt_secret: None }, quiet)
            }
            Self::Overload => {
                let offered = OVERLOAD.max(best.unwrap_or_default() * OVERLOAD_FACTOR);
                everybody(at((offered / 1_000.0).round()))
            }
        }
    }
}

//! What can be said on the command line: which server, and how much load. `local` starts the server itself and so takes
//! only the load.

use std::{ops::Range, time::Duration};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    account::content::Content,
    busy::Busy,
    callbacks::Callbacks,
    compare::Compare,
    connect::Connect,
    crowd::Endpoint,
    dialect::Dialect,
    doors::{Door, Http, Posting, Redis, Wire},
    fanout::Fanout,
    hostile::Hostile,
    idle::Idle,
    machine::{clock::nanos, local::Local, observer::Observer, process::Processes},
    outage::reconnect::Reconnect,
    overload::Overload,
    pace::Pace,
    pingpong::PingPong,
    series::Series,
    slow::Slow,
    storm::Storm,
    user::User,
};

/// Loads a realtime gateway and counts what was lost, duplicated and reordered beside latency and cost.
///
/// Exit status: 0 when nothing went wrong, 3 when something was lost that the server did not announce (or was
/// duplicated, reordered or wrongly answered), 1 when the measurement itself failed.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
pub(crate) struct Cli {
    /// Print the report as one JSON object instead of a table.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say nothing while it runs.
    #[arg(long, global = true)]
    pub(crate) quiet: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// One message to every connection, again and again.
    Fanout(On<Fanout>),
    /// Each message to one user of many.
    User(On<User>),
    /// `ping` and `pong` on every connection.
    Pingpong(On<PingPong>),
    /// `subscribe` and `unsubscribe` on every connection.
    Churn(On<PingPong>),
    /// Connections that do nothing: what they cost.
    Idle(On<Idle>),
    /// Connections that are opened as fast as it goes.
    Connect(On<Connect>),
    /// More than can be delivered: what is lost, closed and hoarded.
    Overload(On<Overload>),
    /// Every connection is cut at once and comes back.
    Reconnect(On<Reconnect>),
    /// Notify, answer at once, decide: what lies between.
    Callbacks(On<Callbacks>),
    /// Callbacks alone, and while a thousand connections are flooded on the same node.
    Busy(On<Busy>),
    /// Readers that stop reading, and what becomes of the others' latency.
    Slow(On<Slow>),
    /// Clients that flood the node, and what becomes of the others' pings and of /health/live.
    Hostile(On<Hostile>),
    /// Waves of connections that come and go: what memory the server keeps.
    Storm(On<Storm>),
    /// Start a redis-server and a gateway on free ports, measure them, end them.
    Local(Local),
    /// One thing after the other: doors, nodes, message sizes, topics.
    Series(Series),
    /// The gateway and its peers side by side: ratios, goals, tables and plots.
    Compare(Compare),
}

/// A run against a server.
#[derive(Debug, Args)]
pub(crate) struct On<T: Args> {
    #[command(flatten)]
    pub(crate) server: Server,
    #[command(flatten)]
    pub(crate) run: T,
}

/// The server.
#[derive(Debug, Clone, Args)]
pub(crate) struct Server {
    /// Where clients connect; given several times, connections take turns.
    #[arg(long = "url", default_value = "ws://127.0.0.1:8765/ws")]
    pub(crate) urls: Vec<String>,
    /// Where producers call; given several times, calls take turns.
    #[arg(long, default_value = "http://127.0.0.1:8765")]
    pub(crate) http: Vec<String>,
    /// The server's Redis: where to publish, and where commands are counted.
    #[arg(long)]
    pub(crate) redis: Option<String>,
    /// How messages are published; by default with PUBLISH when there is a --redis, else over HTTP.
    #[arg(long, value_enum)]
    pub(crate) door: Option<DoorKind>,
    /// What the server speaks inside its frames.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) dialect: Dialect,
    /// The gateway's REDIS_PREFIX.
    #[arg(long, default_value = "cs")]
    pub(crate) redis_prefix: String,
    /// The producers' API key.
    #[arg(long)]
    pub(crate) api_key: Option<String>,
    /// Process of the server, to read its CPU time and memory; may be given several times.
    #[arg(long = "pid")]
    pub(crate) pids: Vec<u32>,
    /// Other processes of the run, such as Redis: their work is no disturbance.
    #[arg(long = "beside-pid")]
    pub(crate) beside: Vec<u32>,
}

/// How messages are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DoorKind {
    /// Bare PUBLISH to the gateway's channels.
    Publish,
    /// XADD to the gateway's inbox.
    Inbox,
    /// The gateway's HTTP calls.
    Http,
    /// PUBLISH as Socket.IO's Redis adapter listens to it.
    SocketIo,
    /// PUBLISH as Sockudo's Redis adapter listens to it.
    Sockudo,
    /// nchan's publisher location.
    Nchan,
}

/// How many, how long.
#[derive(Debug, Clone, Args)]
pub(crate) struct Crowd {
    /// Connections, each of a user of its own.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) connections: u64,
    /// Threads that read them.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub(crate) threads: u64,
    /// How long to measure.
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    pub(crate) seconds: f64,
    /// How long to load the server before that.
    #[arg(long, default_value_t = 2.0, value_parser = positive)]
    pub(crate) warmup: f64,
}

/// How fast, how big.
#[derive(Debug, Clone, Args)]
pub(crate) struct Flow {
    /// Messages a second, at their times whatever the server does (open loop).
    #[arg(long, value_parser = positive, conflicts_with = "max")]
    pub(crate) rate: Option<f64>,
    /// As many as the slowest connection takes (closed loop).
    #[arg(long)]
    pub(crate) max: bool,
    /// Messages on the way with --max.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) window: Option<u64>,
    /// Bytes of a message as the producer sends it.
    #[arg(long, default_value_t = 166)]
    pub(crate) payload: usize,
    /// What a message is filled with.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) content: Content,
    /// Clients offer permessage-deflate (the gateway needs WEBSOCKET_COMPRESSION=on).
    #[arg(long)]
    pub(crate) compression: bool,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if number > 0.0 && number < 1e9 => Ok(number),
        _ => Err("a number above 0 and below a thousand million is expected".to_owned()),
    }
}

impl Server {
    pub(crate) fn endpoints(&self) -> Result<Vec<Endpoint>> {
        self.urls.iter().map(|url| Endpoint::parse(url)).collect()
    }

    pub(crate) fn door(&self) -> Result<Door> {
        let default = if self.redis.is_some() { DoorKind::Publish } else { DoorKind::Http };
        let redis = |wire| {
            let url = self.redis.as_ref().context("this door needs a --redis")?;
            Ok(Door::Redis(Redis::open(url, &self.redis_prefix, wire)?))
        };
        let http = |posting| {
            let base = self.http.first().context("no --http address to publish to")?;
            Ok(Door::Http(Box::new(Http::open(base, self.api_key.as_deref(), posting)?)))
        };
        match self.door.unwrap_or(default) {
            DoorKind::Publish => redis(Wire::Publish),
            DoorKind::Inbox => redis(Wire::Inbox),
            DoorKind::SocketIo => redis(Wire::SocketIo),
            DoorKind::Sockudo => redis(Wire::Sockudo),
            DoorKind::Http => http(Posting::Gateway),
            DoorKind::Nchan => http(Posting::Nchan),
        }
    }

    pub(crate) fn processes(&self) -> Processes {
        Processes::new(self.pids.clone())
    }

    /// Watches the server's processes, and what the machine does beside the run.
    pub(crate) fn observer(&self) -> Result<Observer> {
        Observer::new(self.processes(), Processes::new(self.beside.clone()))
    }
}

impl Crowd {
    /// What is measured of a run that begins now, in nanoseconds.
    pub(crate) fn window(&self, now: u64) -> Range<u64> {
        let start = now + nanos(Duration::from_secs_f64(self.warmup));
        start..start + nanos(Duration::from_secs_f64(self.seconds))
    }
}

impl Flow {
    /// So many messages a second, of so many bytes.
    pub(crate) fn at(rate: f64, payload: usize) -> Self {
        Self { rate: Some(rate), max: false, ..Self::most(payload) }
    }

    /// As many messages as go.
    pub(crate) fn most(payload: usize) -> Self {
        Self { rate: None, max: true, window: None, payload, content: Content::Pad, compression: false }
    }

    /// The pace, with the defaults of a command.
    pub(crate) fn pace(&self, rate: f64, window: u64) -> Pace {
        if self.max || (self.window.is_some() && self.rate.is_none()) {
            Pace::Closed { window: self.window.unwrap_or(window) }
        } else {
            Pace::Open { per_second: self.rate.unwrap_or(rate) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        let cli = Cli::parse_from(["bench", "fanout", "--url", "ws://127.0.0.1:1/ws", "--max", "--json"]);
        assert!(cli.json && matches!(&cli.command, Command::Fanout(on) if on.run.flow.max));
        assert!(Cli::try_parse_from(["bench", "user", "--rate", "0"]).is_err());
        assert!(Cli::try_parse_from(["bench", "user", "--rate", "5", "--max"]).is_err());
        assert!(Cli::try_parse_from(["bench", "local", "--nodes", "2", "callbacks", "--users", "5"]).is_ok());
    }
}

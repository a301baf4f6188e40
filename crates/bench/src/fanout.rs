//! `bench fanout`: one message to every connection, again and again.

use anyhow::{Result, ensure};
use clap::Args;

use crate::{
    account::report::Report,
    args::{Crowd, Flow, Server},
    progress::Progress,
    publish::{Run, Spread},
};

/// 50 messages a second are PERF's first workload: at a thousand connections 50,000 deliveries a second.
const RATE: f64 = 50.0;
/// 64 messages of 166 bytes to 1,000 connections are 10 MB on the way: enough to batch, little enough for the kernel.
const WINDOW: u64 = 64;

#[derive(Debug, Args)]
pub(crate) struct Fanout {
    #[command(flatten)]
    pub(crate) crowd: Crowd,
    #[command(flatten)]
    pub(crate) flow: Flow,
    /// Subscribe all connections to this topic and publish there, instead of to everybody.
    #[arg(long, conflicts_with = "topics")]
    pub(crate) topic: Option<String>,
    /// Spread the connections evenly over so many topics, and publish to one after the other.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) topics: Option<u64>,
}

pub(crate) fn run(
    server: &Server,
    Fanout { crowd, flow, topic, topics }: &Fanout,
    progress: Progress,
) -> Result<Report> {
    let spread = match (topic, topics) {
        (Some(name), _) => Spread::Topic(name.clone()),
        (None, Some(count)) => {
            ensure!(crowd.connections % count == 0, "--topics must divide the number of connections evenly");
            Spread::Topics((0..*count).map(|number| format!("bench:topic-{number}")).collect())
        }
        (None, None) => Spread::Broadcast,
    };
    Run::new("fanout", server, crowd, flow, spread, flow.pace(RATE, WINDOW)).run(progress)
}

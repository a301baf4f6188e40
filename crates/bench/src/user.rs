//! `bench user`: each message to one user of many, in turn.

use anyhow::Result;
use clap::Args;

use crate::{
    account::report::Report,
    args::{Crowd, Flow, Server},
    progress::Progress,
    publish::{Run, Spread},
};

/// PERF measures the latency of per-user messages at this rate.
const RATE: f64 = 5_000.0;
/// Two on the way for each of a thousand users.
const WINDOW: u64 = 2_000;

#[derive(Debug, Args)]
pub(crate) struct User {
    #[command(flatten)]
    pub(crate) crowd: Crowd,
    #[command(flatten)]
    pub(crate) flow: Flow,
}

pub(crate) fn run(server: &Server, User { crowd, flow }: &User, progress: Progress) -> Result<Report> {
    let pace = flow.pace(RATE, WINDOW);
    Run::new("user", server, crowd, flow, Spread::EachUser, pace).run(progress)
}

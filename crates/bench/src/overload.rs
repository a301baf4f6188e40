//! `bench overload`: more is offered than a server can deliver, at a fixed rate. Nothing may be lost without being told,
//! no connection that reads as fast as it can may be closed, and memory may not grow without end.

use anyhow::Result;
use clap::Args;

use crate::{
    account::report::Report,
    args::{Crowd, Flow, Server},
    pace::Pace,
    progress::Progress,
    publish::{Run, Spread},
};

#[derive(Debug, Args)]
pub(crate) struct Overload {
    #[command(flatten)]
    pub(crate) crowd: Crowd,
    /// Deliveries a second that are offered, over all connections.
    #[arg(long, default_value_t = 600_000.0)]
    pub(crate) deliveries: f64,
    /// Bytes of a message as the producer sends it.
    #[arg(long, default_value_t = 166)]
    pub(crate) payload: usize,
}

pub(crate) fn run(server: &Server, overload: &Overload, progress: Progress) -> Result<Report> {
    let Overload { crowd, deliveries, payload } = overload;
    let pace = Pace::Open { per_second: deliveries / crowd.connections as f64 };
    let flow = Flow::most(*payload);
    Run::new("overload", server, crowd, &flow, Spread::Broadcast, pace).run(progress)
}

//! `bench local recovery`: Redis dies and comes back with what it has acknowledged. From its return on: how long until
//! every connection hears the first new message.

use std::{sync::Arc, thread, time::Duration};

use anyhow::Result;
use clap::Args;

use super::{Outage, Publishing, Returner, Sign, drain, mark};
use crate::{
    account::report::Report,
    args::Server,
    crowd::{Audience, Seating},
    machine::clock::Clock,
    progress::Progress,
};

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Recovery {
    /// Connections, each of a user of its own, all subscribed to one topic.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) connections: u64,
    /// Messages a second that are published, as long as there is a Redis to take them.
    #[arg(long, default_value_t = 50.0)]
    pub(crate) rate: f64,
    /// How long Redis is away.
    #[arg(long, default_value_t = 2.0)]
    pub(crate) down: f64,
    /// Redis comes back empty, as one that keeps nothing on a disk.
    #[arg(long)]
    pub(crate) empty: bool,
}

/// What is done to Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Switch {
    Off,
    On,
}

pub(crate) fn run(
    server: &Server,
    recovery: &Recovery,
    redis: &mut dyn FnMut(Switch) -> Result<()>,
    progress: Progress,
) -> Result<Report> {
    let Recovery { connections, rate, down, empty } = *recovery;
    let (clock, outage) = (Clock::start(), Arc::new(Outage::default()));
    let seating = Seating::new(server.endpoints()?, connections, clock);
    let shared = Arc::clone(&outage);
    let audience = Audience::open(&seating, move |index| Returner::new(index, Sign::Message, Arc::clone(&shared)))?;
    progress.say(format_args!("opening {connections} connections"));
    let audience = audience.wait_until_ready()?;
    audience.live.measure(0, u64::MAX);
    let publishing = Publishing::start(server, rate, clock)?;
    thread::sleep(Duration::from_secs(1));

    progress.say(format_args!("Redis is killed, for {down} s"));
    redis(Switch::Off)?;
    thread::sleep(Duration::from_secs_f64(down));
    redis(Switch::On)?;
    mark(&outage, clock);
    let all_back_ms = outage.until_all_back(connections, clock, progress, &audience.live)?;
    thread::sleep(Duration::from_secs(1));
    let sent = publishing.finish()?;
    drain(&audience.live);
    let gathered = audience.close()?;
    let came_back = if empty { "came back empty" } else { "came back with its data" };
    let load = format!("Redis was away for {down} s and {came_back}, {rate} messages/s with history");
    let mut report = Report::new("recovery", load, connections, all_back_ms / 1e3);
    outage.tell(&mut report, gathered, sent, all_back_ms)?;
    Ok(report)
}

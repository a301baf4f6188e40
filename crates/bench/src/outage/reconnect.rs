//! `bench reconnect`: every connection is lost in the same moment, by cutting its socket or by restarting the node, and
//! comes back at once with the position of its last message.

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

#[derive(Debug, Args)]
pub(crate) struct Reconnect {
    /// Connections, each of a user of its own, all subscribed to one topic.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) connections: u64,
    /// Messages a second that are published all the while.
    #[arg(long, default_value_t = 20.0)]
    pub(crate) rate: f64,
    /// Handshakes that are on the way at a time.
    #[arg(long, default_value_t = 512)]
    pub(crate) at_once: usize,
    /// With `local`: kill the node and start it again, instead of cutting sockets.
    #[arg(long)]
    pub(crate) restart: bool,
}

/// `restart` takes the node away and brings it back.
pub(crate) fn run(
    server: &Server,
    reconnect: &Reconnect,
    restart: Option<&mut dyn FnMut() -> Result<()>>,
    progress: Progress,
) -> Result<Report> {
    let Reconnect { connections, rate, at_once, .. } = *reconnect;
    let (clock, outage) = (Clock::start(), Arc::new(Outage::default()));
    let seating = Seating { handshakes: at_once, ..Seating::new(server.endpoints()?, connections, clock) };
    let shared = Arc::clone(&outage);
    let audience = Audience::open(&seating, move |index| Returner::new(index, Sign::Subscribed, Arc::clone(&shared)))?;
    progress.say(format_args!("opening {connections} connections"));
    let audience = audience.wait_until_ready()?;
    audience.live.measure(0, u64::MAX);
    let publishing = Publishing::start(server, rate, clock)?;
    thread::sleep(Duration::from_secs(1));

    mark(&outage, clock);
    let how = if let Some(restart) = restart {
        progress.say(format_args!("restarting the node"));
        restart()?;
        "the node was killed and started again"
    } else {
        progress.say(format_args!("cutting every socket"));
        audience.cut()?;
        "every socket was cut"
    };
    let all_back_ms = outage.until_all_back(connections, clock, progress, &audience.live)?;
    thread::sleep(Duration::from_secs(1));
    let sent = publishing.finish()?;
    drain(&audience.live);
    let gathered = audience.close()?;
    let load = format!("{how} under {rate} messages/s with history, {at_once} handshakes at a time");
    let mut report = Report::new("reconnect", load, connections, all_back_ms / 1e3);
    outage.tell(&mut report, gathered, sent, all_back_ms)?;
    Ok(report)
}

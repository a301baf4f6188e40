//! `bench connect`: how many connections a second can be opened, until each hears what is meant for it; with a token to
//! be checked for each, when there is a secret.

use std::sync::atomic::Ordering::Relaxed;

use anyhow::Result;
use clap::Args;

use crate::{
    account::{
        meter::Meter,
        report::{Latency, Report},
    },
    args::Server,
    crowd::{Audience, Listener, Seating},
    machine::clock::Clock,
    progress::Progress,
};

#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// Connections, each of a user of its own.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) connections: u64,
    /// Handshakes that are on the way at a time.
    #[arg(long, default_value_t = 128)]
    pub(crate) at_once: usize,
    /// The gateway's AUTH_JWT_SECRET: each connection brings a token that is signed with it (HS256).
    #[arg(long)]
    pub(crate) jwt_secret: Option<String>,
}

/// Hears until it is ready.
struct Arrival {
    dialect: crate::dialect::Dialect,
    began: u64,
    is_there: bool,
}

impl Listener for Arrival {
    type Summary = ();

    fn opened(&mut self, now: u64, _out: &mut Vec<u8>) -> bool {
        self.began = now;
        !self.dialect.announces()
    }

    fn is_ready(&self, text: &[u8]) -> bool {
        self.dialect.is_ready(text)
    }

    fn hear(&mut self, text: &[u8], now: u64, meter: &mut Meter, _out: &mut Vec<u8>) {
        if !self.is_there && self.dialect.is_ready(text) {
            self.is_there = true;
            meter.arrived();
            meter.took(self.began, now);
        }
    }

    fn summary(self, _closed: bool) {}
}

pub(crate) fn run(server: &Server, connect: &Connect, progress: Progress) -> Result<Report> {
    let Connect { connections, at_once, jwt_secret } = connect;
    let (clock, dialect) = (Clock::start(), server.dialect);
    let mut endpoints = server.endpoints()?;
    if let Some(secret) = jwt_secret {
        endpoints = endpoints.into_iter().map(|endpoint| endpoint.with_tokens(secret)).collect();
    }
    let mut observer = server.observer()?;
    let seating = Seating { handshakes: *at_once, ..Seating::new(endpoints, *connections, clock) };
    progress.say(format_args!("opening {connections} connections, {at_once} at a time"));
    observer.begin(0)?;
    let began = clock.now();
    let audience = Audience::open(&seating, move |_| Arrival { dialect, began: 0, is_there: false })?;
    audience.live.measure(0, u64::MAX);
    let audience = audience.wait_until_ready()?;
    let seconds = (clock.now() - began) as f64 / 1e9;
    observer.connected()?;
    observer.end(audience.live.ready.load(Relaxed))?;
    let gathered = audience.close()?;

    let token = if jwt_secret.is_some() { ", each with a token" } else { "" };
    let load = format!("{at_once} handshakes at a time{token}; latency from the upgrade until it hears everything");
    let mut report = Report::new("connect", load, *connections, seconds);
    report.latency_ms = Some(Latency::of(&gathered.measured));
    report.ends = gathered.ends;
    observer.tell(&mut report, "connections", *connections, 0);
    Ok(report)
}

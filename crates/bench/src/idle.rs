//! `bench idle`: connections that do nothing, each of a user of its own. What they cost in memory, and in processor time
//! while they are held (pings, probes).

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::{
    account::{meter::Meter, report::Report},
    args::{Crowd, Server},
    crowd::{self, Audience, Listener, Seating},
    dialect::Dialect,
    machine::clock::Clock,
    progress::Progress,
    publish::{is_subscribed, subscribe},
};

/// Files of this process beside its connections.
const OTHER_FILES: u64 = 64;

#[derive(Debug, Args)]
pub(crate) struct Idle {
    #[command(flatten)]
    pub(crate) crowd: Crowd,
    /// Subscribe each connection to a topic of its own.
    #[arg(long)]
    pub(crate) topics: bool,
}

struct Sleeper {
    index: u64,
    dialect: Dialect,
    topic: Option<String>,
}

impl Listener for Sleeper {
    type Summary = ();

    fn opened(&mut self, _now: u64, out: &mut Vec<u8>) -> bool {
        self.dialect.greeting(self.index).iter().for_each(|words| crowd::say(words.as_bytes(), out));
        if let Some(topic) = &self.topic {
            crowd::say(subscribe(topic).as_bytes(), out);
        }
        !self.dialect.announces()
    }

    fn is_ready(&self, text: &[u8]) -> bool {
        match self.topic {
            Some(_) => is_subscribed(text),
            None => self.dialect.is_ready(text),
        }
    }

    fn hear(&mut self, _text: &[u8], _now: u64, _meter: &mut Meter, _out: &mut Vec<u8>) {}

    fn summary(self, _closed: bool) {}
}

pub(crate) fn run(server: &Server, Idle { crowd, topics }: &Idle, progress: Progress) -> Result<Report> {
    let (clock, connections, topics) = (Clock::start(), crowd.connections, *topics);
    let limit = open_files()?;
    ensure!(
        connections + OTHER_FILES <= limit,
        "this process may open {limit} files: raise it (ulimit -n) or take fewer connections"
    );
    let mut observer = server.observer()?;
    let seating = Seating { threads: crowd.threads, ..Seating::new(server.endpoints()?, connections, clock) };
    let dialect = server.dialect;
    let topic = move |index| topics.then(|| format!("bench:{index}"));
    let audience = Audience::open(&seating, move |index| Sleeper { index, dialect, topic: topic(index) })?;
    progress.say(format_args!("opening {connections} connections"));
    let audience = audience.wait_until_ready()?;
    let held = crowd.window(clock.now());
    progress.watch(&audience.live, clock, held.start, || false);
    observer.connected()?;
    observer.begin(0)?;
    progress.watch(&audience.live, clock, held.end, || false);
    observer.end(0)?;
    let gathered = audience.close()?;

    let load = if topics { "a user and a topic each" } else { "a user each" };
    let mut report = Report::new("idle", load.to_owned(), connections, crowd.seconds);
    report.ends = gathered.ends;
    observer.tell(&mut report, "nothing", 0, 0);
    Ok(report)
}

/// The soft limit of this process.
fn open_files() -> Result<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").context("reading this process's limits")?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap_or_default();
    let soft = line.split_ascii_whitespace().next().unwrap_or_default();
    Ok(soft.parse().unwrap_or(u64::MAX))
}

//! A run of numbered messages from a producer's door to many sockets: `fanout` and `user` differ only in whom a message
//! is for. The producer has its own thread, which sleeps and sends; the readers have theirs; this one looks on.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};

use crate::{
    args::{Crowd, Flow, Server},
    audience::{self, Audience, Listener, Seating},
    clock::Clock,
    door::{Door, Target},
    frames,
    ledger::{Ledger, Tally},
    message::{self, Template},
    meter::{Live, Meter},
    observer::Observer,
    pace::{Pace, Turn},
    progress::Progress,
    report::{Latency, Report},
};

/// After the last message: the rest has arrived when nothing has come for this long.
const QUIET: Duration = Duration::from_secs(2);
/// With a full window: what has not moved for this long will not.
const STALLED: Duration = Duration::from_secs(1);
/// Between connecting and measuring memory.
const SETTLE: Duration = Duration::from_millis(500);

/// Whom a message is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Spread {
    /// Everybody.
    Broadcast,
    /// All, as subscribers of one topic.
    Topic(String),
    /// The users in turn.
    EachUser,
}

impl Spread {
    /// Where message `k` goes, and its number there.
    fn target(&self, k: u64, connections: u64) -> (Target, u64) {
        match self {
            Self::Broadcast => (Target::Broadcast, k),
            Self::Topic(name) => (Target::Topic(name.clone()), k),
            Self::EachUser => (Target::User(audience::user(k % connections)), k / connections),
        }
    }

    /// How many connections hear a message.
    fn copies(&self, connections: u64) -> u64 {
        if *self == Self::EachUser { 1 } else { connections }
    }

    /// How many of the first `sent` messages connection `index` should have heard.
    fn share(&self, sent: u64, connections: u64, index: u64) -> u64 {
        match self {
            Self::EachUser => sent / connections + u64::from(index < sent % connections),
            _ => sent,
        }
    }
}

/// Counts numbered messages.
#[derive(Debug, Default)]
struct Counter {
    ledger: Ledger,
    topic: Option<String>,
}

impl Listener for Counter {
    /// The account, and whether the server closed the connection.
    type Summary = (Ledger, bool);

    fn opened(&mut self, _now: u64, out: &mut Vec<u8>) {
        if let Some(topic) = &self.topic {
            frames::write(frames::TEXT, subscribe(topic).as_bytes(), out);
        }
    }

    fn is_ready(&self, text: &[u8]) -> bool {
        match self.topic {
            Some(_) => text.starts_with(br#"{"type":"subscription_confirmed""#),
            None => audience::is_list(text),
        }
    }

    fn hear(&mut self, text: &[u8], now: u64, meter: &mut Meter, _out: &mut Vec<u8>) {
        if let Some((number, intended)) = message::read(text) {
            self.ledger.heard(number);
            meter.arrived(intended, now);
        } else if text.starts_with(br#"{"type":"gap""#) {
            self.ledger.gap();
        }
    }

    fn summary(self, closed: bool) -> Self::Summary {
        (self.ledger, closed)
    }
}

/// The action that subscribes to a topic.
pub(crate) fn subscribe(topic: &str) -> String {
    serde_json::json!({"action": "subscribe", "topic": topic}).to_string()
}

/// What the producer did.
#[derive(Debug, Clone, Copy)]
struct Produced {
    sent: u64,
    behind: u64,
}

struct Producer {
    door: Door,
    live: Arc<Live>,
    spread: Spread,
    pace: Pace,
    connections: u64,
    template: Template,
    clock: Clock,
    begin: u64,
    end: u64,
}

impl Producer {
    fn run(mut self) -> Result<Produced> {
        let copies = self.spread.copies(self.connections);
        let (mut sent, mut written_off, mut moved) = (0u64, 0u64, (0u64, Instant::now()));
        let mut batch = Vec::new();
        loop {
            let now = self.clock.now();
            if now >= self.end {
                break;
            }
            let delivered = self.live.delivered.load(Relaxed);
            if delivered != moved.0 {
                moved = (delivered, Instant::now());
            }
            let mut on_the_way = (sent * copies).saturating_sub(delivered + written_off);
            if moved.1.elapsed() > STALLED {
                written_off += on_the_way;
                on_the_way = 0;
                moved.1 = Instant::now();
            }
            match self.pace.turn(now - self.begin, sent, on_the_way.div_ceil(copies)) {
                Turn::Sleep(pause) => thread::sleep(pause.min(Duration::from_nanos(self.end - now))),
                Turn::Send(count) => {
                    batch.clear();
                    for k in sent..sent + count {
                        let (target, number) = self.spread.target(k, self.connections);
                        let time = self.begin + self.pace.intended(k, now - self.begin);
                        batch.push((target, self.template.write(number, time).to_vec()));
                    }
                    self.door.publish(&batch).context("publishing")?;
                    sent += count;
                }
            }
        }
        Ok(Produced { sent, behind: self.pace.due(self.end - self.begin).saturating_sub(sent + 1) })
    }
}

/// One run.
pub(crate) struct Run<'a> {
    pub(crate) command: &'static str,
    pub(crate) server: &'a Server,
    pub(crate) crowd: &'a Crowd,
    pub(crate) flow: &'a Flow,
    pub(crate) spread: Spread,
    pub(crate) pace: Pace,
}

impl Run<'_> {
    pub(crate) fn run(self, progress: Progress) -> Result<Report> {
        let Self { command, server, crowd, flow, spread, pace } = self;
        let (clock, connections) = (Clock::start(), crowd.connections);
        let door = server.door()?;
        let mut observer = Observer::new(server.processes())?;
        let topic = if let Spread::Topic(name) = &spread { Some(name.clone()) } else { None };
        let seating = Seating { endpoints: server.endpoints()?, connections, clock };
        let audience = Audience::open(seating, move |_| Counter { ledger: Ledger::default(), topic: topic.clone() })?;
        progress.say(format_args!("opening {connections} connections"));
        let audience = audience.wait_until_ready()?;
        thread::sleep(SETTLE);
        observer.connected()?;

        let begin = clock.now();
        let measured = crowd.window(begin);
        audience.live.measure(measured.start, measured.end);
        let template = Template::new(flow.payload);
        let (live, share) = (Arc::clone(&audience.live), spread.clone());
        let producer = Producer { door, live, spread, pace, connections, template, clock, begin, end: measured.end };
        let producer = thread::Builder::new().name("producer".to_owned()).spawn(move || producer.run())?;

        let arrived = || audience.live.delivered.load(Relaxed);
        progress.watch(&audience.live, clock, measured.start, || producer.is_finished());
        observer.begin(arrived())?;
        progress.watch(&audience.live, clock, measured.end, || producer.is_finished());
        observer.end(arrived())?;
        let produced = producer.join().map_err(|_| anyhow!("the producer panicked"))??;

        drain(&audience.live, produced.sent * share.copies(connections));
        let gathered = audience.close()?;
        let mut tally = Tally::default();
        for (index, (ledger, closed)) in (0u64..).zip(gathered.summaries) {
            tally += ledger.close(share.share(produced.sent, connections, index), closed);
        }

        let mut report = Report::new(command, words(flow, pace, server), connections, crowd.seconds);
        report.tally = Some(tally);
        report.latency_ms = Some(Latency::of(&gathered.measured));
        report.ends = gathered.ends;
        observer.tell(&mut report, "deliveries", produced.sent, produced.behind);
        Ok(report)
    }
}

fn words(flow: &Flow, pace: Pace, server: &Server) -> String {
    let door = if server.redis.is_some() { "Redis PUBLISH" } else { "HTTP" };
    let pace = match pace {
        Pace::Open { per_second } => format!("{per_second} messages/s"),
        Pace::Closed { window } => format!("as fast as possible, {window} messages on the way"),
    };
    format!("{pace} of {} bytes through {door}", flow.payload.max(message::SHORTEST))
}

/// Waits until everything has arrived, or nothing comes any more.
fn drain(live: &Live, expected: u64) {
    let mut moved = (0, Instant::now());
    while moved.1.elapsed() < QUIET {
        let delivered = live.delivered.load(Relaxed);
        if delivered >= expected {
            return;
        }
        if delivered != moved.0 {
            moved = (delivered, Instant::now());
        }
        thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_gets_its_own_numbers_in_order() {
        let (spread, connections, sent) = (Spread::EachUser, 3, 8);
        let mut heard = vec![Vec::new(); 3];
        for k in 0..sent {
            let (target, number) = spread.target(k, connections);
            let Target::User(id) = target else { panic!("{target:?}") };
            heard[id.strip_prefix("bench-").unwrap().parse::<usize>().unwrap()].push(number);
        }
        for (index, numbers) in (0u64..).zip(&heard) {
            let share = spread.share(sent, connections, index);
            assert_eq!(*numbers, (0..share).collect::<Vec<_>>(), "connection {index}");
        }
    }
}

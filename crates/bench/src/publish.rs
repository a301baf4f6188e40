//! A run of numbered messages from a producer's door to many sockets: `fanout` and `user` differ only in whom a message
//! is for. The producer has its own thread, which sleeps and sends; the readers have theirs; this one looks on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};

use crate::{
    account::{
        ledger::{Ledger, Tally},
        message::{self, Template},
        meter::{Live, Meter},
        report::{Latency, Report, round},
    },
    args::{Crowd, DoorKind, Flow, Server},
    crowd::{self, Audience, Listener, Seating},
    dialect::Dialect,
    doors::{Door, Target},
    machine::clock::Clock,
    pace::{Pace, Turn},
    progress::Progress,
};

/// After the last message: the rest has arrived when nothing has come for this long.
const QUIET: Duration = Duration::from_secs(2);
/// With a full window: what has not moved for this long will not.
const STALLED: Duration = Duration::from_secs(1);
/// Between connecting and measuring memory; also long enough for a server that does not say when it is ready.
const SETTLE: Duration = Duration::from_millis(500);

/// How long slow readers read in the end, to learn what became of them.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Whom a message is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Spread {
    /// Everybody.
    Broadcast,
    /// All, as subscribers of one topic.
    Topic(String),
    /// The users in turn.
    EachUser,
    /// These topics in turn; connections subscribe to one each, in turn as well.
    Topics(Vec<String>),
}

/// The number of a message is its place among all that were sent, so that a connection can tell what was meant for
/// another; its place among those of one connection is what its ledger counts.
impl Spread {
    /// Where message `number` goes.
    fn target(&self, number: u64, connections: u64) -> Target<'_> {
        match self {
            Self::Broadcast => Target::Broadcast,
            Self::Topic(name) => Target::Topic(name),
            Self::EachUser => Target::User(number % connections),
            Self::Topics(names) => {
                let at = usize::try_from(number % self.turns(connections)).unwrap_or_default();
                names.get(at).map_or(Target::Broadcast, |name| Target::Topic(name))
            }
        }
    }

    /// How many take turns.
    fn turns(&self, connections: u64) -> u64 {
        match self {
            Self::Broadcast | Self::Topic(_) => 1,
            Self::EachUser => connections,
            Self::Topics(names) => u64::try_from(names.len()).unwrap_or(u64::MAX).clamp(1, connections),
        }
    }

    /// How many connections hear a message.
    fn copies(&self, connections: u64) -> u64 {
        connections / self.turns(connections)
    }

    /// How many of the first `sent` messages connection `index` should have heard.
    fn share(&self, sent: u64, connections: u64, index: u64) -> u64 {
        let turns = self.turns(connections);
        sent / turns + u64::from(index % turns < sent % turns)
    }

    /// What connection `index` subscribes to.
    fn topic(&self, index: u64) -> Option<String> {
        match self {
            Self::Broadcast | Self::EachUser => None,
            Self::Topic(name) => Some(name.clone()),
            Self::Topics(names) => names.iter().cycle().nth(usize::try_from(index).ok()?).cloned(),
        }
    }
}

/// One connection in so many is asked for latencies: they are the same for its neighbours, and reading a clock and
/// sixteen digits of each message would make the load generator dearer than the servers that it measures.
const TIMED: u64 = 16;
/// With so few connections, all are.
const ALL_TIMED: u64 = 64;

/// Counts numbered messages.
#[derive(Debug)]
struct Counter {
    index: u64,
    ledger: Ledger,
    dialect: Dialect,
    topic: Option<String>,
    is_timed: bool,
    /// When it is this connection's turn, and how many turns there are: a number that leaves another rest is another's.
    turn: (u64, u64),
    compresses: bool,
    /// Whether it stops to read once it hears everything, until that is over.
    is_slow: bool,
    slowness_is_over: Arc<AtomicBool>,
}

impl Counter {
    fn new(spread: &Spread, dialect: Dialect, connections: u64, index: u64) -> Self {
        let is_timed = connections <= ALL_TIMED || index.is_multiple_of(TIMED);
        let (ledger, topic, turns) = (Ledger::default(), spread.topic(index), spread.turns(connections));
        let slowness_is_over = Arc::default();
        Self {
            index,
            ledger,
            dialect,
            topic,
            is_timed,
            turn: (index % turns, turns),
            compresses: false,
            is_slow: false,
            slowness_is_over,
        }
    }
}

/// What is left of a connection.
struct Account {
    ledger: Ledger,
    /// The server closed it.
    closed: bool,
    is_slow: bool,
}

impl Listener for Counter {
    type Summary = Account;

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

    fn hear(&mut self, text: &[u8], now: u64, meter: &mut Meter, _out: &mut Vec<u8>) {
        let message = self.dialect.message(text);
        let Some(number) = message::number(message) else {
            if text.starts_with(br#"{"type":"gap""#) {
                self.ledger.gap();
            }
            return;
        };
        match self.turn {
            (_, 1) => self.ledger.heard(number),
            (turn, turns) if number % turns == turn => self.ledger.heard(number / turns),
            _ => self.ledger.misrouted(),
        }
        meter.arrived();
        if self.is_timed
            && !self.is_slow
            && let Some(intended) = message::time(message)
        {
            meter.took(intended, now);
        }
    }

    fn compresses(&self) -> bool {
        self.compresses
    }

    /// Those that are timed look at what they hear; the others count.
    fn skim(&mut self, meter: &mut Meter) -> bool {
        if !self.is_timed {
            self.ledger.counted();
            meter.arrived();
        }
        !self.is_timed
    }

    fn reads(&self) -> bool {
        !self.is_slow || self.slowness_is_over.load(Relaxed)
    }

    fn summary(self, closed: bool) -> Self::Summary {
        Account { ledger: self.ledger, closed, is_slow: self.is_slow }
    }
}

/// The gateway's answer to [`subscribe`].
pub(crate) fn is_subscribed(text: &[u8]) -> bool {
    text.starts_with(br#"{"type":"subscription_confirmed""#)
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
}

impl Producer {
    /// Until the measured time is over.
    fn run(mut self) -> Result<Produced> {
        let copies = self.spread.copies(self.connections);
        let (mut sent, mut written_off, mut moved) = (0u64, 0u64, (0u64, Instant::now()));
        loop {
            let (now, end) = (self.clock.now(), self.live.measured_to());
            if now >= end {
                let behind = self.pace.due(end - self.begin).saturating_sub(sent + 1);
                return Ok(Produced { sent, behind });
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
                Turn::Sleep(pause) => thread::sleep(pause.min(Duration::from_nanos(end - now))),
                Turn::Send(count) => {
                    for number in sent..sent + count {
                        let time = self.begin + self.pace.intended(number, now - self.begin);
                        let target = self.spread.target(number, self.connections);
                        self.door.add(target, self.template.write(number, time)).context("publishing")?;
                    }
                    self.door.flush().context("publishing")?;
                    sent += count;
                }
            }
        }
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
    /// The number of the first user, when there is another crowd.
    pub(crate) first: u64,
    /// Connections that stop to read once they hear everything. They are left out of the tally.
    pub(crate) slow: u64,
}

impl<'a> Run<'a> {
    /// Everybody reads.
    pub(crate) fn new(
        command: &'static str,
        server: &'a Server,
        crowd: &'a Crowd,
        flow: &'a Flow,
        spread: Spread,
        pace: Pace,
    ) -> Self {
        Self { command, server, crowd, flow, spread, pace, first: 0, slow: 0 }
    }

    /// For as long as the crowd is to be measured.
    pub(crate) fn run(self, progress: Progress) -> Result<Report> {
        Ok(self.play(progress, None::<fn() -> Result<()>>)?.0)
    }

    /// For as long as something else takes, which begins after the warm-up.
    pub(crate) fn beside<T>(self, progress: Progress, work: impl FnOnce() -> Result<T>) -> Result<(Report, T)> {
        let (report, done) = self.play(progress, Some(work))?;
        Ok((report, done.expect("the work was given")))
    }

    fn play<T>(self, progress: Progress, work: Option<impl FnOnce() -> Result<T>>) -> Result<(Report, Option<T>)> {
        let Self { command, server, crowd, flow, spread, pace, first, slow } = self;
        let (clock, connections) = (Clock::start(), crowd.connections);
        let door = server.door()?;
        let mut observer = server.observer()?;
        let seating =
            Seating { first, threads: crowd.threads, ..Seating::new(server.endpoints()?, connections, clock) };
        let (seats, dialect, compresses) = (spread.clone(), server.dialect, flow.compression);
        let slowness = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&slowness);
        let audience = Audience::open(&seating, move |index| {
            let is_slow = index >= connections.saturating_sub(slow);
            Counter {
                is_slow,
                compresses,
                slowness_is_over: Arc::clone(&over),
                ..Counter::new(&seats, dialect, connections, index)
            }
        })?;
        progress.say(format_args!("opening {connections} connections"));
        let audience = audience.wait_until_ready()?;
        thread::sleep(SETTLE);
        observer.connected()?;

        let begin = clock.now();
        let mut measured = crowd.window(begin);
        if work.is_some() {
            measured.end = u64::MAX;
        }
        audience.live.measure(measured.start, measured.end);
        let template = Template::new(flow.payload, flow.content);
        let (live, share) = (Arc::clone(&audience.live), spread.clone());
        let producer = Producer { door, live, spread, pace, connections, template, clock, begin };
        let producer = thread::Builder::new().name("producer".to_owned()).spawn(move || producer.run())?;

        let arrived = || audience.live.delivered.load(Relaxed);
        progress.watch(&audience.live, clock, measured.start, || producer.is_finished());
        observer.begin(arrived())?;
        let done = match work {
            None => {
                progress.watch(&audience.live, clock, measured.end, || producer.is_finished());
                None
            }
            Some(work) => {
                let done = work();
                measured.end = clock.now();
                audience.live.measure(measured.start, measured.end);
                Some(done?)
            }
        };
        observer.end(arrived())?;
        let produced = producer.join().map_err(|_| anyhow!("the producer panicked"))??;

        let copies = share.copies(connections);
        drain(&audience.live, produced.sent * copies.saturating_sub(slow));
        if slow > 0 {
            // A connection that was closed behind what it has not read yet hears of it now.
            slowness.store(true, Relaxed);
            audience.look()?;
            thread::sleep(LAST_WORDS);
        }
        let gathered = audience.close()?;
        let mut tally = Tally::default();
        for (index, Account { ledger, closed, is_slow }) in (0u64..).zip(gathered.summaries) {
            if !is_slow {
                tally += ledger.close(share.share(produced.sent, connections, index), closed);
            }
        }

        let seconds = (measured.end - measured.start) as f64 / 1e9;
        let mut report = Report::new(command, words(flow, pace, server), connections, seconds);
        report.tally = Some(tally);
        report.latency_ms = Some(Latency::of(&gathered.measured));
        let arrived = tally.received.max(1);
        report.wire_bytes_each = Some(round(gathered.bytes as f64 / arrived as f64, 1));
        report.ends = gathered.ends;
        observer.tell(&mut report, "deliveries", produced.sent, produced.behind);
        Ok((report, done))
    }
}

fn words(flow: &Flow, pace: Pace, server: &Server) -> String {
    let door = match server.door {
        Some(DoorKind::Publish) => "PUBLISH",
        Some(DoorKind::Inbox) => "the inbox",
        Some(DoorKind::SocketIo | DoorKind::Sockudo) => "its Redis adapter",
        None if server.redis.is_some() => "PUBLISH",
        _ => "HTTP",
    };
    let pace = match pace {
        Pace::Open { per_second } => format!("{per_second} messages/s"),
        Pace::Closed { window } => format!("as fast as possible, {window} messages on the way"),
    };
    let compressed = if flow.compression { ", compressed" } else { "" };
    format!("{pace} of {} bytes through {door}{compressed}", flow.payload.max(message::SHORTEST))
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
    use crate::account::content::Content;

    fn counter(index: u64) -> (Counter, Meter) {
        (Counter::new(&Spread::EachUser, Dialect::Bare, 3, index), Meter::new())
    }

    #[test]
    fn every_user_gets_its_own_numbers_in_order() {
        let (spread, connections, sent) = (Spread::EachUser, 3, 8);
        let mut counters = [0, 1, 2].map(counter);
        let mut template = Template::new(0, Content::Pad);
        for number in 0..sent {
            let Target::User(index) = spread.target(number, connections) else { panic!("{number} is for a user") };
            let (counter, meter) = &mut counters[usize::try_from(index).unwrap()];
            counter.hear(template.write(number, 0), 0, meter, &mut Vec::new());
        }
        for (index, (counter, meter)) in (0..).zip(counters) {
            let share = spread.share(sent, connections, index);
            assert_eq!(counter.ledger.close(share, false), Tally { received: share, ..Tally::default() });
            assert_eq!(meter.delivered, share, "connection {index}");
        }
    }

    #[test]
    fn topics_take_turns_and_every_subscriber_of_one_hears_its_share() {
        let spread = Spread::Topics(vec!["a".to_owned(), "b".to_owned()]);
        let (connections, sent) = (6, 5);
        assert_eq!((spread.copies(connections), spread.topic(3).as_deref()), (3, Some("b")));
        let mut counter = Counter::new(&spread, Dialect::Bare, connections, 3);
        let (mut meter, mut template) = (Meter::new(), Template::new(0, Content::Pad));
        for number in (0..sent).filter(|number| spread.target(*number, connections) == Target::Topic("b")) {
            counter.hear(template.write(number, 0), 0, &mut meter, &mut Vec::new());
        }
        let share = spread.share(sent, connections, 3);
        assert_eq!(counter.ledger.close(share, false), Tally { received: 2, ..Tally::default() });
    }

    #[test]
    fn compressed_messages_are_counted_by_those_that_are_not_timed_and_read_by_the_others() {
        let meter = &mut Meter::new();
        let mut counting = Counter::new(&Spread::Broadcast, Dialect::Bare, ALL_TIMED + 1, 1);
        assert!(counting.skim(meter) && counting.skim(meter));
        assert_eq!(counting.ledger.close(3, false), Tally { received: 2, lost: 1, ..Tally::default() });
        let mut timed = Counter::new(&Spread::Broadcast, Dialect::Bare, ALL_TIMED + 1, 0);
        assert!(!timed.skim(meter), "it is to be inflated and heard");
        assert_eq!((timed.ledger.close(0, false), meter.delivered), (Tally::default(), 2));
    }

    #[test]
    fn a_slow_reader_does_not_read_until_its_slowness_is_over_and_is_not_timed() {
        let over = Arc::new(AtomicBool::new(false));
        let counter = Counter::new(&Spread::Broadcast, Dialect::Bare, 2, 1);
        let mut slow = Counter { is_slow: true, slowness_is_over: Arc::clone(&over), ..counter };
        assert!(!slow.reads());
        over.store(true, Relaxed);
        assert!(slow.reads());
        let (live, mut meter, mut template) = (Live::new(), Meter::new(), Template::new(0, Content::Pad));
        live.measure(0, u64::MAX);
        meter.begin(&live);
        slow.hear(template.write(0, 5), 1_000_000, &mut meter, &mut Vec::new());
        assert_eq!((meter.delivered, meter.measured.len()), (1, 0));
        slow.is_slow = false;
        slow.hear(template.write(1, 5), 1_000_000, &mut meter, &mut Vec::new());
        assert_eq!((meter.delivered, meter.measured.len()), (2, 1), "the others are timed");
    }

    #[test]
    fn a_message_for_another_user_is_misrouted_and_not_ones_own() {
        let (mut counter, mut meter) = counter(1);
        let mut template = Template::new(0, Content::Pad);
        for number in [1, 2, 4] {
            counter.hear(template.write(number, 0), 0, &mut meter, &mut Vec::new());
        }
        assert_eq!(counter.ledger.close(2, false), Tally { received: 2, misrouted: 1, ..Tally::default() });
    }
}

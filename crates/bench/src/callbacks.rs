//! `bench callbacks`: a producer asks, the person's device answers at once, the producer has the decision. What lies in
//! between is the gateway's and Redis's. With two nodes, questions go in at one (`--http`) and answers at the other
//! (`--url`).

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Args;
use countersign_client::{Decision, OnTimeout, Proceeds, Producer, Status, StepResult};
use tokio::{task::LocalSet, time::sleep_until};

use crate::{
    account::{
        meter::{Latencies, Live, Meter, latencies},
        report::{Latency, Report, grouped, round},
    },
    args::Server,
    backlog::Standing,
    crowd::{self, Audience, Listener, Seating},
    dialect::Dialect,
    machine::clock::{Clock, nanos},
    progress::Progress,
    stages::{self, Stages, Unaccepted},
};

/// How long a person has: far longer than any answer takes here, so that a timeout is a fault.
const TIMEOUT: Duration = Duration::from_secs(30);
/// What the device writes beside its yes.
const FEEDBACK: &str = "bench";

#[derive(Debug, Args)]
pub(crate) struct Callbacks {
    /// Users, each with one device.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) users: u64,
    /// Callbacks that are open at a time (closed loop).
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) inflight: u64,
    /// Callbacks a second, at their times (open loop).
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
    /// How long to measure.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seconds: u64,
    /// Callbacks that are open all the while and that nobody answers.
    #[arg(long, default_value_t = 0)]
    pub(crate) open: u64,
    /// How long to load the server before that.
    #[arg(long, default_value_t = 1)]
    pub(crate) warmup: u64,
}

/// How a question begins, up to its id.
const QUESTION: &[u8] = br#"{"type":"task_step_result","callback_id":""#;

/// Says yes to everything, once.
struct Device {
    stages: Arc<Stages>,
    unaccepted: Unaccepted,
}

impl Listener for Device {
    type Summary = ();

    fn opened(&mut self, _now: u64, _out: &mut Vec<u8>) -> bool {
        false
    }

    fn is_ready(&self, text: &[u8]) -> bool {
        Dialect::Countersign.is_ready(text)
    }

    fn hear(&mut self, text: &[u8], now: u64, _meter: &mut Meter, out: &mut Vec<u8>) {
        if text.starts_with(br#"{"type":"confirmation_accepted""#) {
            return self.stages.accepted(now, &mut self.unaccepted);
        }
        let Some(rest) = text.strip_prefix(QUESTION) else { return };
        let Some(id) = rest.iter().position(|byte| *byte == b'"').and_then(|end| rest.get(..end)) else { return };
        let id = String::from_utf8_lossy(id);
        let confirm = format!(r#"{{"action":"confirm","callback_id":"{id}","proceed":true,"feedback":"{FEEDBACK}"}}"#);
        crowd::say(confirm.as_bytes(), out);
        if let Some(number) = stages::number(text) {
            self.stages.answers(number, now, &mut self.unaccepted);
        }
    }

    fn summary(self, _closed: bool) {}
}

/// What the producers share; they live on one thread.
struct Desk {
    producers: Vec<Producer>,
    users: u64,
    clock: Clock,
    live: Arc<Live>,
    window: std::ops::Range<u64>,
    stages: Arc<Stages>,
    books: RefCell<Books>,
}

struct Books {
    asked: u64,
    decided: u64,
    latencies: Latencies,
    wrong: BTreeMap<String, u64>,
}

impl Desk {
    /// The number of the next question.
    fn next(&self) -> u64 {
        let mut books = self.books.borrow_mut();
        books.asked += 1;
        books.asked - 1
    }

    /// Asks one person and waits; `intended` is when it should have begun.
    async fn ask(&self, number: u64, intended: u64) -> Result<()> {
        let user = crowd::user(number % self.users);
        let at = usize::try_from(number)? % self.producers.len().max(1);
        let producer = self.producers.get(at).context("no --http address to ask at")?;
        let result = StepResult { message: "Go on?".into(), status: "completed".into(), ..StepResult::default() };
        let task = format!("bench-{number}");
        let ask = producer.ask(&result, &user, &task, number).timeout(TIMEOUT).on_timeout(OnTimeout::Fail);
        if self.window.contains(&intended) {
            self.stages.asks(number, self.clock.now());
        }
        let decision = ask.wait().await;
        let now = self.clock.now();
        self.stages.decided(number, now);
        let latency = now.saturating_sub(intended);
        let mut books = self.books.borrow_mut();
        if let Some(wrong) = fault(&user, &decision) {
            *books.wrong.entry(wrong).or_default() += 1;
        }
        books.decided += 1;
        self.live.delivered.store(books.decided, Relaxed);
        if self.window.contains(&intended) {
            books.latencies.saturating_record(latency);
        }
        Ok(())
    }

    /// One question after the other, until the end.
    async fn closed_loop(self: Rc<Self>) -> Result<()> {
        while self.clock.now() < self.window.end {
            self.ask(self.next(), self.clock.now()).await?;
        }
        Ok(())
    }

    /// Questions at their times, until the end.
    async fn open_loop(self: Rc<Self>, rate: u32, begin: u64) -> Result<()> {
        let mut asking = tokio::task::JoinSet::new();
        loop {
            let number = self.next();
            let intended = begin + nanos(Duration::from_secs(number) / rate);
            if intended >= self.window.end {
                break;
            }
            sleep_until(self.clock.at(intended).into()).await;
            let desk = Rc::clone(&self);
            // The timer's own resolution of a millisecond is not the gateway's.
            let began = self.clock.now();
            let counted = if began - intended < TIMER_NANOS { began } else { intended };
            asking.spawn_local(async move { desk.ask(number, counted).await });
        }
        while let Some(end) = asking.join_next().await {
            end.context("a producer panicked")??;
        }
        Ok(())
    }
}

/// A question goes out this much late at most before it counts from when it was due.
const TIMER_NANOS: u64 = 2_000_000;

/// What is wrong with a decision, if anything.
fn fault(user: &str, decision: &countersign_client::Result<Decision>) -> Option<String> {
    match decision {
        Err(error) => Some(error.to_string()),
        Ok(decision) if decision.status != Status::Confirmed || decision.proceeds() != Ok(true) => {
            Some(format!("the device said yes, and it ended {}", decision.status.as_str()))
        }
        Ok(decision) if decision.by.as_deref() != Some(user) => Some("answered by another user".to_owned()),
        Ok(decision) if decision.feedback.as_deref() != Some(FEEDBACK) => Some("with another feedback".to_owned()),
        Ok(_) => None,
    }
}

pub(crate) fn run(server: &Server, callbacks: &Callbacks, progress: Progress) -> Result<Report> {
    let Callbacks { users, inflight, rate, seconds, open, warmup } = *callbacks;
    let clock = Clock::start();
    let mut observer = server.observer()?;
    let producers = server
        .http
        .iter()
        .map(|url| {
            let producer = Producer::new(url)?;
            Ok(server.api_key.as_deref().map_or(producer.clone(), |key| producer.api_key(key)))
        })
        .collect::<Result<Vec<_>>>()?;
    let seating = Seating::new(server.endpoints()?, users, clock);
    let stages = Arc::new(Stages::new());
    let shared = Arc::clone(&stages);
    let device = move |_| Device { stages: Arc::clone(&shared), unaccepted: Unaccepted::new() };
    let audience = Audience::open(&seating, device)?;
    progress.say(format_args!("opening {users} connections"));
    let audience = audience.wait_until_ready()?;
    observer.connected()?;

    let commands = Commands::of(server)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let first = producers.first().cloned().context("no --http address to ask at")?;
    let standing = if open > 0 {
        let redis = commands.as_ref().map(|commands| &commands.0);
        Some(runtime.block_on(Standing::open(open, &first, redis, &server.processes(), &progress))?)
    } else {
        None
    };
    let begin = clock.now();
    let start = begin + nanos(Duration::from_secs(warmup));
    let window = start..start + nanos(Duration::from_secs(seconds));
    let books = Books { asked: 0, decided: 0, latencies: latencies(), wrong: BTreeMap::new() };
    let live = Arc::clone(&audience.live);
    let books = RefCell::new(books);
    let desk = Desk { producers, users, clock, live, window: window.clone(), stages, books };
    let desk = Rc::new(desk);
    let ran = LocalSet::new().block_on(&runtime, async {
        let mut loops = tokio::task::JoinSet::new();
        match rate {
            Some(rate) => drop(loops.spawn_local(Rc::clone(&desk).open_loop(rate, begin))),
            None => (0..inflight).for_each(|_| drop(loops.spawn_local(Rc::clone(&desk).closed_loop()))),
        }
        sleep_until(clock.at(window.start).into()).await;
        observer.begin(desk.books.borrow().decided)?;
        let counted = commands.as_ref().map(Commands::count).transpose()?;
        let asked_at_start = desk.books.borrow().decided;
        while clock.now() < window.end && !loops.is_empty() {
            let until = (clock.now() + 1_000_000_000).min(window.end);
            sleep_until(clock.at(until).into()).await;
            let books = desk.books.borrow();
            let latency = Latency::of(&books.latencies);
            let (decided, p50, p99) = (grouped(books.decided), latency.p50, latency.p99);
            progress.say(format_args!("{decided} decided  p50 {p50:.2} ms  p99 {p99:.2} ms"));
        }
        observer.end(desk.books.borrow().decided)?;
        let each = match (&commands, counted) {
            (Some(commands), Some(before)) => commands.since(&before, desk.books.borrow().decided - asked_at_start)?,
            _ => BTreeMap::new(),
        };
        while let Some(end) = loops.join_next().await {
            end.context("a producer panicked")??;
        }
        Ok::<_, anyhow::Error>(each)
    });
    let backlog = standing.map(|standing| runtime.block_on(standing.close(&first))).transpose()?;
    let redis_commands = ran?;
    let gathered = audience.close()?;

    let load = match rate {
        Some(rate) => format!("{rate} callbacks/s, answered at once"),
        None => format!("{inflight} callbacks at a time, answered at once"),
    };
    let mut report = Report::new("callbacks", load, users, Duration::from_secs(seconds).as_secs_f64());
    let books = desk.books.borrow();
    report.latency_ms = Some(Latency::of(&books.latencies));
    report.stages_ms = Some(desk.stages.taken());
    report.redis_commands = redis_commands;
    report.backlog = backlog;
    report.ends = gathered.ends;
    report.wrong.clone_from(&books.wrong);
    observer.tell(&mut report, "decisions", books.decided, 0);
    Ok(report)
}

/// Counts what Redis does, by `INFO commandstats`.
struct Commands(RefCell<redis::Connection>);

impl Commands {
    fn of(server: &Server) -> Result<Option<Self>> {
        let Some(url) = &server.redis else { return Ok(None) };
        let client = redis::Client::open(url.as_str()).with_context(|| format!("{url:?} is no address of a Redis"))?;
        let connection = client.get_connection().with_context(|| format!("connecting to {url}"))?;
        Ok(Some(Self(RefCell::new(connection))))
    }

    fn count(&self) -> Result<BTreeMap<String, u64>> {
        let mut connection = self.0.borrow_mut();
        let info: String = redis::cmd("INFO").arg("commandstats").query(&mut *connection).context("INFO")?;
        Ok(parse(&info))
    }

    /// For each callback since then; what is rarer than one in a hundred is left out.
    fn since(&self, before: &BTreeMap<String, u64>, callbacks: u64) -> Result<BTreeMap<String, f64>> {
        let each = |(name, count): (String, u64)| {
            let count = count.saturating_sub(before.get(&name).copied().unwrap_or_default());
            (name, round(count as f64 / callbacks.max(1) as f64, 2))
        };
        Ok(self.count()?.into_iter().map(each).filter(|(name, count)| *count >= 0.01 && name != "info").collect())
    }
}

/// `cmdstat_get:calls=5,usec=…` by line.
fn parse(info: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    };
    info.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_answers_the_question_that_it_hears_and_nothing_else() {
        let device = Device { stages: Arc::new(Stages::new()), unaccepted: Unaccepted::new() };
        let (mut device, mut meter, mut out) = (device, Meter::new(), Vec::new());
        device.hear(br#"{"type":"connected"}"#, 0, &mut meter, &mut out);
        assert!(out.is_empty());
        device.hear(br#"{"type":"task_step_result","callback_id":"07-ab","user_id":"u"}"#, 0, &mut meter, &mut out);
        let text = String::from_utf8_lossy(&out).into_owned();
        assert!(text.contains(r#""callback_id":"07-ab","proceed":true"#), "{text}");
    }

    #[test]
    fn commands_are_counted_by_name() {
        let info = "# Commandstats\r\ncmdstat_evalsha:calls=12,usec=5\r\ncmdstat_config|get:calls=1,usec=2\r\n";
        assert_eq!(parse(info), BTreeMap::from([("evalsha".into(), 12), ("config|get".into(), 1)]));
    }
}

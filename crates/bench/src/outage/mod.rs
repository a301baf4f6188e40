//! What an outage costs the people who sit behind it. All connections hear one topic with history, a producer goes on
//! publishing numbered messages, and something breaks: `reconnect` cuts every socket or restarts the node, `recovery`
//! takes Redis away and gives it back. How long until everybody is back, and was anything lost, repeated or reordered?
//!
//! Connections behave as the SDKs do: they come back with the position of the last message that they heard.

pub(crate) mod reconnect;
pub(crate) mod recovery;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use serde::Serialize;

use crate::{
    account::{
        content::Content,
        ledger::{Ledger, Tally},
        message::{self, Template},
        meter::{Live, Meter},
        report::Report,
    },
    args::{DoorKind, Server},
    crowd::{self, Gathered, Listener},
    machine::clock::Clock,
    progress::Progress,
};

/// What everybody hears.
const TOPIC: &str = "bench:outage";
/// A connection that could not be opened is tried again about so often, like a client that has just begun to try.
const RETRY: Duration = Duration::from_millis(50);
/// A producer tries a refused message again after this time.
const REPEAT: Duration = Duration::from_millis(20);
/// Longer than any gateway should take.
const PATIENCE: Duration = Duration::from_secs(60);
const PAYLOAD: usize = 166;

/// Being back after an outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// The subscription is confirmed.
    Subscribed,
    /// A message that was published afterwards has arrived.
    Message,
}

/// The outage, as everybody sees it.
#[derive(Debug, Default)]
struct Outage {
    /// From when on being back counts, in nanoseconds; 0 before.
    since: AtomicU64,
    back: AtomicU64,
}

/// What came of it.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Return {
    pub(crate) back: u64,
    /// Until the last connection was back.
    pub(crate) all_back_ms: f64,
    /// Subscriptions whose missed messages were replayed.
    pub(crate) recovered: u64,
    /// Subscriptions that were told that they were not.
    pub(crate) not_recovered: u64,
}

/// A connection that comes back.
struct Returner {
    index: u64,
    sign: Sign,
    outage: Arc<Outage>,
    is_back: bool,
    /// Of the last message.
    position: Option<(String, u64)>,
    ledger: Ledger,
    recovered: u64,
    not_recovered: u64,
}

impl Returner {
    fn new(index: u64, sign: Sign, outage: Arc<Outage>) -> Self {
        let ledger = Ledger::default();
        Self { index, sign, outage, is_back: false, position: None, ledger, recovered: 0, not_recovered: 0 }
    }

    /// The first time after the outage.
    fn is_back(&mut self, now: u64, meter: &mut Meter) {
        let since = self.outage.since.load(Relaxed);
        if !self.is_back && since > 0 && now >= since {
            self.is_back = true;
            self.outage.back.fetch_add(1, Relaxed);
            meter.took(since, now);
        }
    }
}

impl Listener for Returner {
    type Summary = (Ledger, bool, u64, u64);

    fn opened(&mut self, _now: u64, out: &mut Vec<u8>) -> bool {
        let topic = match &self.position {
            None => serde_json::json!(TOPIC),
            Some((epoch, offset)) => {
                serde_json::json!({"topic": TOPIC, "since": {"epoch": epoch, "offset": offset}})
            }
        };
        let subscribe = serde_json::json!({"action": "subscribe", "topics": [topic]}).to_string();
        crowd::say(subscribe.as_bytes(), out);
        false
    }

    fn is_ready(&self, text: &[u8]) -> bool {
        crate::publish::is_subscribed(text)
    }

    fn hear(&mut self, text: &[u8], now: u64, meter: &mut Meter, _out: &mut Vec<u8>) {
        if let Some(number) = message::number(text) {
            self.ledger.heard(number);
            meter.arrived();
            if let Some((epoch, offset)) = position(text) {
                match &mut self.position {
                    Some((known, newest)) if known.as_bytes() == epoch => *newest = offset,
                    other => *other = Some((String::from_utf8_lossy(epoch).into_owned(), offset)),
                }
            }
            let is_new = message::time(text).is_some_and(|time| time >= self.outage.since.load(Relaxed));
            if self.sign == Sign::Message && is_new {
                self.is_back(now, meter);
            }
        } else if crate::publish::is_subscribed(text) {
            if has(text, br#""recovered":false"#) {
                self.not_recovered += 1;
                self.ledger.gap();
            }
            self.recovered += u64::from(has(text, br#""recovered":true"#));
            if let Some((epoch, offset)) = position(text)
                && self.position.is_none()
            {
                self.position = Some((String::from_utf8_lossy(epoch).into_owned(), offset));
            }
            if self.sign == Sign::Subscribed {
                self.is_back(now, meter);
            }
        } else if text.starts_with(br#"{"type":"gap""#) {
            self.not_recovered += 1;
            self.ledger.gap();
        }
    }

    fn ended(&mut self, now: u64) -> Option<u64> {
        // Spread over as much again, by the connection's number, so that not all knock in the same millisecond.
        let retry = crate::machine::clock::nanos(RETRY);
        Some(if self.outage.since.load(Relaxed) == 0 { now } else { now + self.index * 7919 % retry })
    }

    fn summary(self, closed: bool) -> Self::Summary {
        (self.ledger, closed, self.recovered, self.not_recovered)
    }
}

/// The position in what the gateway has put at the end of a text.
fn position(text: &[u8]) -> Option<(&[u8], u64)> {
    const EPOCH: &[u8] = br#""epoch":""#;
    const OFFSET: &[u8] = br#"","offset":"#;
    let at = text.windows(EPOCH.len()).rposition(|window| window == EPOCH)? + EPOCH.len();
    let rest = text.get(at..)?;
    let end = rest.iter().position(|byte| *byte == b'"')?;
    let digits = rest.get(end..)?.strip_prefix(OFFSET)?;
    let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let offset = std::str::from_utf8(digits.get(..count)?).ok()?.parse().ok()?;
    Some((rest.get(..end)?, offset))
}

fn has(text: &[u8], words: &[u8]) -> bool {
    text.windows(words.len()).any(|window| window == words)
}

/// Publishes numbered messages over HTTP at a rate, each until it is taken, until it is told to stop.
struct Publishing {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Result<u64>>,
}

impl Publishing {
    fn start(server: &Server, rate: f64, clock: Clock) -> Result<Self> {
        let server = Server { door: Some(DoorKind::Http), ..server.clone() };
        // So that a wrong address is an error now.
        let mut door = Some(server.door()?);
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let run = move || {
            let mut template = Template::new(PAYLOAD, Content::Pad);
            let (begin, mut number, mut refused) = (Instant::now(), 0u64, None::<Instant>);
            while !told.load(Relaxed) {
                let due = begin + Duration::from_secs_f64(number as f64 / rate);
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let text = template.write(number, clock.now());
                let taken = match &mut door {
                    Some(door) => door.add(crate::doors::Target::Topic(TOPIC), text).and_then(|()| door.flush()),
                    None => server.door().map(|new| door = Some(new)).and_then(|()| Err(anyhow!("a new connection"))),
                };
                match taken {
                    Ok(()) => (number, refused) = (number + 1, None),
                    Err(error) => {
                        let since = refused.get_or_insert_with(Instant::now);
                        if since.elapsed() > PATIENCE {
                            return Err(error.context("nothing could be published for a minute"));
                        }
                        // A new connection was made; any other error ends the old one.
                        if error.to_string() != "a new connection" {
                            door = None;
                            thread::sleep(REPEAT);
                        }
                    }
                }
            }
            Ok(number)
        };
        Ok(Self { stop, thread: thread::Builder::new().name("producer".to_owned()).spawn(run)? })
    }

    /// How many were published.
    fn finish(self) -> Result<u64> {
        self.stop.store(true, Relaxed);
        self.thread.join().map_err(|_| anyhow!("the producer panicked"))?
    }
}

impl Outage {
    /// Waits until all are back; returns the milliseconds since the outage.
    fn until_all_back(&self, connections: u64, clock: Clock, progress: Progress, live: &Live) -> Result<f64> {
        let (began, mut said) = (Instant::now(), Instant::now());
        loop {
            let back = self.back.load(Relaxed);
            if back == connections {
                return Ok((clock.now() - self.since.load(Relaxed)) as f64 / 1e6);
            }
            let ready = live.ready.load(Relaxed);
            ensure!(began.elapsed() < PATIENCE, "{back} of {connections} were back after {PATIENCE:?}, {ready} ready");
            if said.elapsed() > Duration::from_secs(1) {
                said = Instant::now();
                progress.say(format_args!("{back} of {connections} are back"));
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Draws the accounts together.
    fn tell(
        &self,
        report: &mut Report,
        gathered: Gathered<(Ledger, bool, u64, u64)>,
        sent: u64,
        all_back_ms: f64,
    ) -> Result<()> {
        let (mut tally, mut recovered, mut not_recovered) = (Tally::default(), 0, 0);
        for (ledger, closed, again, not) in gathered.summaries {
            tally += ledger.close(sent, closed);
            recovered += again;
            not_recovered += not;
        }
        report.tally = Some(tally);
        report.latency_ms = Some(crate::account::report::Latency::of(&gathered.measured));
        report.ends = gathered.ends;
        let back = self.back.load(Relaxed);
        report.outage = Some(Return { back, all_back_ms, recovered, not_recovered });
        ensure!(tally.received > 0, "no message arrived at all, so nothing was shown");
        Ok(())
    }
}

/// Waits until everybody has heard the last message, or nothing comes any more.
fn drain(live: &Live) {
    let mut moved = (live.delivered.load(Relaxed), Instant::now());
    while moved.1.elapsed() < Duration::from_secs(2) {
        let delivered = live.delivered.load(Relaxed);
        if delivered != moved.0 {
            moved = (delivered, Instant::now());
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// From now on, being back counts.
fn mark(outage: &Outage, clock: Clock) {
    outage.since.store(clock.now().max(1), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_remembers_the_position_at_the_end_of_a_message_and_comes_back_with_it() {
        let outage = Arc::new(Outage::default());
        let (mut returner, mut meter, mut out) = (Returner::new(0, Sign::Subscribed, outage), Meter::new(), Vec::new());
        let mut text = Template::new(60, Content::Pad).write(0, 5).to_vec();
        text.pop();
        text.extend_from_slice(br#","_meta":{"topic":"t","position":{"epoch":"e1","offset":42}}}"#);
        returner.hear(&text, 7, &mut meter, &mut out);
        assert_eq!(returner.position, Some(("e1".to_owned(), 42)));
        returner.opened(8, &mut out);
        let said = String::from_utf8_lossy(&out).into_owned();
        assert!(said.contains(r#""since":{"epoch":"e1","offset":42}"#), "{said}");
        assert_eq!(position(br#"{"type":"pong"}"#), None);
    }

    #[test]
    fn being_back_counts_once_and_only_after_the_outage() {
        let outage = Arc::new(Outage::default());
        let mut returner = Returner::new(0, Sign::Subscribed, Arc::clone(&outage));
        let mut meter = Meter::new();
        let confirmed = br#"{"type":"subscription_confirmed","topic":"t","recovered":true}"#;
        returner.hear(confirmed, 5, &mut meter, &mut Vec::new());
        assert_eq!(outage.back.load(Relaxed), 0);
        outage.since.store(10, Relaxed);
        for now in [20, 30] {
            returner.hear(confirmed, now, &mut meter, &mut Vec::new());
        }
        assert_eq!((outage.back.load(Relaxed), returner.recovered), (1, 3));
    }
}

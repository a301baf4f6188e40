//! Whether an [`Account`] keeps what the gateway promises of messages with history, as a pure function: every reader reads
//! everything that was accepted, in order and once, or was told at that very place that something is missing.
//!
//! | promise | broken as |
//! |---|---|
//! | nothing is lost silently | [`Lost`](Breach::Lost) |
//! | nothing comes twice | [`Twice`](Breach::Twice) |
//! | what comes, comes in order | [`Disordered`](Breach::Disordered) |
//! | what was not sent does not come | [`Invented`](Breach::Invented) |
//! | an insisting producer gets its yes | [`NotAccepted`](Breach::NotAccepted) |
//!
//! Only Redis's own forgetting excuses a repeat: a message that was sent more than once and comes again in another epoch,
//! after the reader was told of the break.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::audit::print_figures;
use crate::ledger::{Account, Line, Place, Published, number_of};

/// A promise that was not kept to one reader of one address.
#[derive(Clone, Debug, PartialEq)]
pub enum Breach {
    /// It never read these, and nobody told it.
    Lost {
        /// Who.
        reader: String,
        /// Of which address.
        address: String,
        /// Which.
        numbers: Vec<u64>,
    },
    /// It read this again.
    Twice(String, String, u64),
    /// It read this after a later one.
    Disordered(String, String, u64),
    /// Nobody sent this.
    Invented(String, String, u64),
    /// A producer never got its yes.
    NotAccepted(String, u64),
}

/// What happened, in numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Messages that were accepted.
    pub accepted: usize,
    /// Requests beyond one for each message.
    pub repeats: usize,
    /// The longest that one message took from its first sending to its yes, in seconds.
    pub longest_yes: f64,
    /// Readers.
    pub readers: usize,
    /// Messages that readers were owed.
    pub owed: usize,
    /// Messages that were read.
    pub delivered: usize,
    /// Messages that were owed, not read, and told to be missing.
    pub told_lost: usize,
    /// How often a reader was told of an address that something is missing.
    pub told: usize,
    /// Messages that Redis forgot, and that were therefore sent and read again.
    pub again: usize,
    /// Connections that ended, by code.
    pub cuts: BTreeMap<u16, usize>,
    /// From the fault's beginning to the first sign of it: a node that is not ready, a reader that is cut or told.
    pub detected: Option<f64>,
    /// From the fault's beginning to the first node that says it is not ready.
    pub unready: Option<f64>,
    /// From the fault's end until everybody had read, of every address, the first message that was sent after it.
    pub recovered: Option<f64>,
    /// From a message's first sending to its reading, the longest, in seconds.
    pub slowest: f64,
}

/// The outcome of an audit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// What happened.
    pub figures: Figures,
    /// What should not have.
    pub breaches: Vec<Breach>,
}

/// Holds an account against the promises.
pub fn audit(account: &Account) -> Report {
    let mut report = Report::default();
    producers(account, &mut report);
    for (reader, lines) in &account.read {
        report.figures.readers += 1;
        let mut addresses: BTreeMap<&str, Reading> = BTreeMap::new();
        for line in lines {
            match line {
                Line::Joined(address) => {
                    let published = account.published.get(address).map_or(&[][..], Vec::as_slice);
                    let empty = || Reading { reader, address, published, last: None, ..Reading::default() };
                    addresses.entry(address).or_insert_with(empty);
                }
                Line::Read { at, address, number, place } => match addresses.get_mut(address.as_str()) {
                    Some(reading) => reading.reads(*number, place.as_ref(), *at, &mut report),
                    None => report.breaches.push(Breach::Invented(reader.clone(), address.clone(), *number)),
                },
                Line::Told { address, epoch, .. } => {
                    report.figures.told += 1;
                    if let Some(reading) = addresses.get_mut(address.as_str()) {
                        (reading.told, reading.goes_on_in) = (true, epoch.as_deref());
                    }
                }
                Line::Cut { code, .. } => *report.figures.cuts.entry(*code).or_default() += 1,
                Line::Connected { .. } => {}
            }
        }
        for reading in addresses.into_values() {
            reading.ends(&mut report);
        }
    }
    times(account, &mut report.figures);
    report
}

fn producers(account: &Account, report: &mut Report) {
    for (address, messages) in &account.published {
        for (index, message) in messages.iter().enumerate() {
            report.figures.repeats += usize::try_from(message.attempts.saturating_sub(1)).unwrap_or_default();
            match message.accepted {
                Some(at) => {
                    report.figures.accepted += 1;
                    report.figures.longest_yes = report.figures.longest_yes.max(at - message.sent);
                }
                None => report.breaches.push(Breach::NotAccepted(address.clone(), number_of(index + 1))),
            }
        }
    }
}

/// One reader's way through one address.
#[derive(Debug, Default)]
struct Reading<'a> {
    reader: &'a str,
    address: &'a str,
    published: &'a [Published],
    /// The newest that was read; before the first message, nothing.
    last: Option<u64>,
    epoch: Option<&'a str>,
    seen: BTreeSet<u64>,
    missing: BTreeSet<u64>,
    /// Something is missing between the last message and the next one, and that was said.
    told: bool,
    /// In which epoch, if that was said. What still comes of an earlier one was on its way, and lies before the gap's end.
    goes_on_in: Option<&'a str>,
}

impl<'a> Reading<'a> {
    fn reads(&mut self, number: u64, place: Option<&'a Place>, at: f64, report: &mut Report) {
        let Report { figures, breaches } = report;
        let (reader, address) = (self.reader.to_owned(), self.address.to_owned());
        let message = usize::try_from(number).ok().and_then(|number| self.published.get(number.checked_sub(1)?));
        let Some(message) = message else {
            breaches.push(Breach::Invented(reader, address, number));
            return;
        };
        figures.slowest = figures.slowest.max(at - message.sent);
        let epoch = place.map(|place| &*place.epoch);
        let anew = epoch != self.epoch && self.told;
        let last = self.last.unwrap_or_default();
        if self.seen.insert(number) {
            figures.delivered += 1;
            if number < last {
                self.missing.remove(&number);
                breaches.push(Breach::Disordered(reader, address, number));
            } else {
                self.misses(last + 1..number, figures);
            }
        } else if anew && message.attempts > 1 {
            figures.again += 1;
        } else {
            breaches.push(Breach::Twice(reader, address, number));
        }
        self.told &= self.goes_on_in.is_some_and(|told| epoch.is_some_and(|epoch| epoch != told));
        self.epoch = epoch.or(self.epoch);
        self.last = Some(number.max(last));
    }

    /// What lies between two messages: excused, if that was said here.
    fn misses(&mut self, numbers: std::ops::Range<u64>, figures: &mut Figures) {
        let accepted = numbers.filter(|number| {
            let index = usize::try_from(number - 1).unwrap_or(usize::MAX);
            self.published.get(index).is_some_and(|message| message.accepted.is_some())
        });
        if self.told {
            figures.told_lost += accepted.count();
        } else {
            self.missing.extend(accepted);
        }
    }

    fn ends(mut self, report: &mut Report) {
        let owed = self.published.iter().filter(|message| message.accepted.is_some()).count();
        report.figures.owed += owed;
        let end = number_of(self.published.len()) + 1;
        self.misses(self.last.unwrap_or_default() + 1..end, &mut report.figures);
        if !self.missing.is_empty() {
            report.breaches.push(Breach::Lost {
                reader: self.reader.to_owned(),
                address: self.address.to_owned(),
                numbers: self.missing.into_iter().collect(),
            });
        }
    }
}

fn times(account: &Account, figures: &mut Figures) {
    let lines = || account.read.values().flatten();
    if let Some(began) = account.began {
        let not_ready = account.readiness.iter().filter(|(_, ready, at)| !ready && *at >= began).map(|(_, _, at)| *at);
        let unready = not_ready.reduce(f64::min);
        let noticed = lines().filter_map(|line| match line {
            Line::Cut { at, .. } | Line::Told { at, .. } if *at >= began => Some(*at),
            _ => None,
        });
        figures.unready = unready.map(|at| at - began);
        figures.detected = noticed.chain(unready).reduce(f64::min).map(|at| at - began);
    }
    if let Some(ended) = account.ended {
        // By address, the first message that was sent when it was over.
        let first = account.published.iter().filter_map(|(address, messages)| {
            let index = messages.iter().position(|message| message.sent >= ended)?;
            Some((address.as_str(), number_of(index + 1)))
        });
        let first: BTreeMap<&str, u64> = first.collect();
        let mut latest = None::<f64>;
        for lines in account.read.values() {
            let mut open = first.clone();
            for line in lines {
                if let Line::Read { at, address, number, .. } = line
                    && open.get(address.as_str()).is_some_and(|first| number >= first)
                {
                    open.remove(address.as_str());
                    latest = Some(latest.unwrap_or(*at).max(*at));
                }
            }
        }
        figures.recovered = latest.map(|at| at - ended);
    }
}

/// What a reader went through around the first message that it lost: nodes, cuts, and its neighbours. Times are seconds from the
/// message's first sending.
pub fn story(account: &Account, breach: &Breach) -> Option<String> {
    let Breach::Lost { reader, address, numbers } = breach else { return None };
    let (lost, lines) = (*numbers.first()?, account.read.get(reader)?);
    let message = account.published.get(address)?.get(usize::try_from(lost - 1).ok()?)?;
    let since = |at: f64| at - message.sent;
    let later = |line: &Line| matches!(line, Line::Read { address: of, number, .. } if of == address && *number > lost);
    let next = lines.iter().position(later).unwrap_or(lines.len());
    // To the connection on which it happened, and the message before.
    let before = lines.get(..next)?.iter().rposition(|line| matches!(line, Line::Connected { .. })).unwrap_or(next);
    let shown = lines.get(before.min(next.saturating_sub(3)).saturating_sub(2)..(next + 2).min(lines.len()))?;
    let mut story =
        format!("{reader} lost {numbers:?} of {address}, accepted {:+.3};", message.accepted.map_or(f64::NAN, since));
    let told = |line: &Line| match line {
        Line::Connected { at, node } => format!(" {:+.3} connected to {node};", since(*at)),
        Line::Cut { at, code } => format!(" {:+.3} cut {code};", since(*at)),
        Line::Joined(address) => format!(" joined {address};"),
        Line::Told { at, address, .. } => format!(" {:+.3} told {address};", since(*at)),
        Line::Read { at, address, number, .. } => format!(" {:+.3} {address} {number};", since(*at)),
    };
    let ends = shown.iter().take(4).chain(shown.iter().skip(4.max(shown.len().saturating_sub(8))));
    story.extend(ends.map(told));
    Some(story)
}

impl Report {
    /// How many of the breaches fit.
    pub fn count(&self, fits: impl Fn(&Breach) -> bool) -> usize {
        self.breaches.iter().filter(|breach| fits(breach)).count()
    }

    /// Messages that were lost silently.
    pub fn lost(&self) -> usize {
        self.breaches
            .iter()
            .map(|breach| if let Breach::Lost { numbers, .. } = breach { numbers.len() } else { 0 })
            .sum()
    }

    /// Prints the figures, and panics when a promise was broken.
    #[track_caller]
    pub fn expect_kept(self, scenario: &str) -> Figures {
        print_figures(scenario, &self);
        let shown = &self.breaches[..self.breaches.len().min(20)];
        assert!(self.breaches.is_empty(), "{scenario}: {self}\n{shown:#?}");
        assert!(self.figures.delivered > 0, "{scenario}: nobody read anything: {self}");
        self.figures
    }

    /// The same where history has everything: nobody is told that anything is missing.
    #[track_caller]
    pub fn expect_complete(self, scenario: &str) -> Figures {
        let figures = self.expect_kept(scenario);
        assert_eq!((figures.told_lost, figures.told), (0, 0), "{scenario}: history had everything: {figures:?}");
        assert_eq!(figures.delivered, figures.owed, "{scenario}: {figures:?}");
        figures
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { accepted, repeats, longest_yes, readers, owed, delivered, .. } = &self.figures;
        let Figures { told_lost, told, again, cuts, detected, unready, recovered, slowest, .. } = &self.figures;
        write!(f, "accepted {accepted} (repeats {repeats}, longest {longest_yes:.1} s)")?;
        write!(f, "; readers {readers}, owed {owed}, delivered {delivered} (slowest {slowest:.1} s)")?;
        let twice = self.count(|breach| matches!(breach, Breach::Twice(..)));
        let disordered = self.count(|breach| matches!(breach, Breach::Disordered(..)));
        write!(f, "; lost {}, duplicated {twice}, out of order {disordered}", self.lost())?;
        write!(f, "; told gaps {told} (of {told_lost} messages), sent again {again}, cuts {cuts:?}")?;
        for (what, seconds) in [("detected", detected), ("not ready", unready), ("recovered", recovered)] {
            match seconds {
                Some(seconds) => write!(f, "; {what} after {seconds:.2} s")?,
                None => write!(f, "; {what}: never")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "delivery_tests.rs"]
mod tests;

//! Whether a [`History`] keeps what the gateway promises, as a pure function: one decision for each question, told
//! to everybody alike, asked once, in time.
//!
//! | promise | broken as |
//! |---|---|
//! | one decision | [`TwoWinners`](Violation::TwoWinners), [`WrongAnswer`](Violation::WrongAnswer), [`EndedTwice`](Violation::EndedTwice) |
//! | the loser is told who won | [`LoserMisled`](Violation::LoserMisled), [`NotAnswered`](Violation::NotAnswered) |
//! | no answer is lost | [`LostAnswer`](Violation::LostAnswer), [`NotAnswered`](Violation::NotAnswered) |
//! | nobody is asked twice | [`AskedTwice`](Violation::AskedTwice), [`ShownTwice`](Violation::ShownTwice) |
//! | the deadline decides, and decides in time | [`WrongSide`](Violation::WrongSide), [`LateWait`](Violation::LateWait) |
//! | every device converges | [`NotTold`](Violation::NotTold), [`Stale`](Violation::Stale) |

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::history::{End, Ending, History, Outcome};

/// A wait may outlive its deadline by this much (guarantee 4), in seconds.
pub const PAST_DEADLINE: f64 = 1.0;
/// The Redis clock is cut to milliseconds in what is told of it.
const MILLISECOND: f64 = 0.001;

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq)]
pub enum Violation {
    /// Two different attempts were told that they decided the same callback.
    TwoWinners(String, BTreeSet<Ending>),
    /// A caller was told something else than what decided; or what nobody had said.
    WrongAnswer {
        /// Which callback.
        callback: String,
        /// What a caller was told.
        told: Ending,
        /// What would have been right.
        right: BTreeSet<Ending>,
    },
    /// An attempt that came too late was told of another decision than the callers.
    LoserMisled {
        /// Which callback.
        callback: String,
        /// What it was told.
        told: Ending,
        /// What the callers were told.
        right: Ending,
    },
    /// An attempt was refused without a decision.
    NotAnswered(String, String),
    /// A caller that kept asking has no decision.
    LostAnswer {
        /// Which question.
        key: String,
        /// How many of its callers have one.
        told: usize,
        /// How many there are.
        callers: usize,
    },
    /// A question has several callbacks.
    AskedTwice(String, BTreeSet<String>),
    /// A connection was shown a callback more often than it was sent a list.
    ShownTwice(u64, String),
    /// A wait ended too late, by so many seconds.
    LateWait(String, f64),
    /// A user decided after the deadline, or the deadline before it.
    WrongSide {
        /// Which callback.
        callback: String,
        /// What decided.
        status: String,
        /// How many seconds after the deadline.
        after_deadline: f64,
    },
    /// A connection that was shown a callback and lasted did not learn of its end.
    NotTold(u64, String),
    /// A connection that lasted still shows a callback that has ended, although it had heard of the end.
    Stale(u64, String),
    /// A connection heard the end of a callback more than once.
    EndedTwice(u64, String),
    /// A caller was refused.
    Refused(String, u16),
}

/// What happened, in numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Questions put.
    pub questions: usize,
    /// Callbacks that they became.
    pub callbacks: usize,
    /// Callbacks by how they ended, as callers were told.
    pub ended: BTreeMap<String, usize>,
    /// Callbacks with exactly one winner among the attempts to end them.
    pub one_winner: usize,
    /// Attempts that came too late and were told what decided.
    pub losers_told: usize,
    /// Attempts of which nothing was heard.
    pub unheard: usize,
    /// Times that a question was shown.
    pub shown: usize,
    /// Times that a device heard of an end.
    pub told: usize,
    /// Requests that waited.
    pub waits: usize,
    /// Of these: 202.
    pub pending: usize,
    /// Of these: 503.
    pub unknown: usize,
    /// Of these: refused or cut.
    pub cut: usize,
    /// The latest end of a wait after its deadline, or after its start when it began later; seconds.
    pub latest: f64,
}

/// The outcome of an audit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// What happened.
    pub figures: Figures,
    /// What should not have.
    pub violations: Vec<Violation>,
}

/// Holds a history against the promises.
pub fn audit(history: &History) -> Report {
    let mut report = Report::default();
    report.figures.questions = history.questions.len();
    let answers = answers(history, &mut report);
    ids(history, &mut report);
    bids(history, &answers, &mut report);
    sides_and_times(history, &mut report);
    devices(history, &answers, &mut report);
    report
}

/// What callers were told about each callback: every answer of it has to be the right one.
fn answers(history: &History, report: &mut Report) -> BTreeMap<String, Ending> {
    let Report { figures, violations } = report;
    let mut told: BTreeMap<&str, BTreeSet<&Ending>> = BTreeMap::new();
    let mut served: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    let mut question_of: BTreeMap<&str, &str> = BTreeMap::new();
    for wait in &history.waits {
        figures.waits += 1;
        match &wait.end {
            End::Decided { callback, ending, .. } => {
                told.entry(callback).or_default().insert(ending);
                served.entry(&wait.key).or_default().insert(wait.caller);
                question_of.insert(callback, &wait.key);
            }
            End::Pending { .. } => figures.pending += 1,
            End::Unknown => figures.unknown += 1,
            End::Cut => figures.cut += 1,
            End::Refused(status) => violations.push(Violation::Refused(wait.key.clone(), *status)),
        }
    }
    for question in &history.questions {
        let told = served.get(question.key.as_str()).map_or(0, BTreeSet::len);
        if told < question.callers {
            violations.push(Violation::LostAnswer { key: question.key.clone(), told, callers: question.callers });
        }
    }
    let on_timeout: BTreeMap<&str, Option<bool>> =
        history.questions.iter().map(|question| (question.key.as_str(), question.on_timeout)).collect();
    let mut answers = BTreeMap::new();
    for (callback, endings) in told {
        let silence = question_of.get(callback).and_then(|key| on_timeout.get(key)).copied().map(Ending::timed_out);
        let right = right_answers(history, callback, silence);
        for ending in &endings {
            if !right.contains(*ending) || endings.len() > 1 {
                violations.push(Violation::WrongAnswer {
                    callback: callback.to_owned(),
                    told: (*ending).clone(),
                    right: right.clone(),
                });
            }
        }
        if let Some(ending) = endings.into_iter().next() {
            *figures.ended.entry(ending.status.clone()).or_default() += 1;
            answers.insert(callback.to_owned(), ending.clone());
        }
    }
    answers
}

/// The winner's ending if there is one; else that of any attempt of which nothing was heard, or the deadline's.
fn right_answers(history: &History, callback: &str, silence: Option<Ending>) -> BTreeSet<Ending> {
    let bids = || history.bids.iter().filter(|bid| bid.callback == callback);
    let winners: BTreeSet<Ending> =
        bids().filter(|bid| bid.outcome == Outcome::Won).map(|bid| bid.ending.clone()).collect();
    if !winners.is_empty() {
        return winners;
    }
    let unheard = bids().filter(|bid| bid.outcome == Outcome::Unknown).map(|bid| bid.ending.clone());
    unheard.chain(silence).collect()
}

/// One question is one callback.
fn ids(history: &History, report: &mut Report) {
    let mut ids: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for shown in &history.shown {
        ids.entry(&shown.key).or_default().insert(&shown.callback);
    }
    for wait in &history.waits {
        if let End::Decided { callback, .. } | End::Pending { callback } = &wait.end {
            ids.entry(&wait.key).or_default().insert(callback);
        }
    }
    for (key, ids) in ids {
        report.figures.callbacks += ids.len();
        if ids.len() > 1 {
            let ids = ids.into_iter().map(str::to_owned).collect();
            report.violations.push(Violation::AskedTwice(key.to_owned(), ids));
        }
    }
}

/// One attempt decides, the others are told what did.
fn bids(history: &History, answers: &BTreeMap<String, Ending>, report: &mut Report) {
    let Report { figures, violations } = report;
    let mut winners: BTreeMap<&str, BTreeSet<&Ending>> = BTreeMap::new();
    for bid in &history.bids {
        match &bid.outcome {
            Outcome::Won => {
                winners.entry(&bid.callback).or_default().insert(&bid.ending);
            }
            Outcome::Lost(told) => match answers.get(&bid.callback) {
                Some(right) if right != told => violations.push(Violation::LoserMisled {
                    callback: bid.callback.clone(),
                    told: told.clone(),
                    right: right.clone(),
                }),
                _ => figures.losers_told += 1,
            },
            Outcome::Late => figures.losers_told += 1,
            Outcome::Refused(reason) => {
                violations.push(Violation::NotAnswered(bid.callback.clone(), reason.clone()));
            }
            Outcome::Unknown => figures.unheard += 1,
        }
    }
    for (callback, winners) in winners {
        if winners.len() == 1 {
            figures.one_winner += 1;
        } else {
            let winners = winners.into_iter().cloned().collect();
            violations.push(Violation::TwoWinners(callback.to_owned(), winners));
        }
    }
}

/// A user decides before the deadline and the deadline after it, and every reply comes in time.
fn sides_and_times(history: &History, report: &mut Report) {
    let Report { figures, violations } = report;
    let deadlines: BTreeMap<&str, f64> =
        history.shown.iter().map(|shown| (shown.callback.as_str(), shown.deadline)).collect();
    let deadline_of: BTreeMap<&str, f64> =
        history.shown.iter().map(|shown| (shown.key.as_str(), shown.deadline)).collect();
    let mut checked = BTreeSet::new();
    for wait in &history.waits {
        // A node that stands still ends nothing: its callers' next request has the second.
        let by_nobody = wait.end == End::Cut
            || history
                .stopped
                .iter()
                .any(|(door, from, to)| *door == wait.door && wait.started < *to && wait.ended > *from);
        if let Some(deadline) = deadline_of.get(wait.key.as_str()).filter(|_| !by_nobody) {
            // What was put before Redis went away is a wait already.
            let putting = history.putting.filter(|(since, _)| wait.put && wait.started >= *since);
            let waits_from = wait.started + putting.map_or(0.0, |(_, seconds)| seconds);
            let late = wait.ended - deadline.max(waits_from);
            figures.latest = figures.latest.max(late);
            if late > PAST_DEADLINE + history.machine_lag {
                violations.push(Violation::LateWait(wait.key.clone(), late));
            }
        }
        let End::Decided { callback, ending, at } = &wait.end else { continue };
        let Some(deadline) = deadlines.get(callback.as_str()).filter(|_| checked.insert(callback)) else { continue };
        let after_deadline = at - deadline;
        let wrong = match ending.status.as_str() {
            "timed_out" => after_deadline < -MILLISECOND,
            _ => after_deadline > MILLISECOND,
        };
        if wrong {
            let status = ending.status.clone();
            violations.push(Violation::WrongSide { callback: callback.clone(), status, after_deadline });
        }
    }
}

/// A device is shown a question once for each list that it is sent, the first of which comes at connect; one that stays
/// learns of the end, or is sent a list without it.
fn devices(history: &History, answers: &BTreeMap<String, Ending>, report: &mut Report) {
    let Report { figures, violations } = report;
    figures.shown = history.shown.len();
    figures.told = history.told.len();
    let mut told: BTreeSet<(u64, &str)> = BTreeSet::new();
    for (connection, callback) in &history.told {
        if !told.insert((*connection, callback)) {
            violations.push(Violation::EndedTwice(*connection, callback.clone()));
        }
    }
    let mut lists: BTreeMap<u64, Vec<&BTreeSet<String>>> = BTreeMap::new();
    for (connection, list) in &history.lists {
        lists.entry(*connection).or_default().push(list);
    }
    let mut shown: BTreeMap<(u64, &str), usize> = BTreeMap::new();
    for question in &history.shown {
        *shown.entry((question.connection, &question.callback)).or_default() += 1;
    }
    for ((connection, callback), times) in shown {
        let lists = lists.get(&connection).map_or(&[][..], Vec::as_slice);
        if times > lists.len().max(1) {
            violations.push(Violation::ShownTwice(connection, callback.to_owned()));
        }
        let dropped = || lists.len() > 1 && lists.last().is_some_and(|list| !list.contains(callback));
        let over = answers.contains_key(callback);
        if over && history.lasting.contains(&connection) {
            let shows = || history.screens.get(&connection).is_some_and(|screen| screen.contains(callback));
            if !told.contains(&(connection, callback)) && !dropped() {
                violations.push(Violation::NotTold(connection, callback.to_owned()));
            } else if shows() {
                violations.push(Violation::Stale(connection, callback.to_owned()));
            }
        }
    }
}

/// One line for each scenario, for people: shown by `cargo test -- --nocapture` and `cargo nextest run --no-capture`.
#[allow(clippy::print_stdout, reason = "figures are what such a run is for")]
pub fn print_figures(scenario: &str, figures: impl fmt::Display) {
    println!("{scenario}: {figures}");
}

impl Report {
    /// How many of the violations fit.
    pub fn count(&self, fits: impl Fn(&Violation) -> bool) -> usize {
        self.violations.iter().filter(|violation| fits(violation)).count()
    }

    /// Prints the figures, and panics when a promise was broken.
    #[track_caller]
    pub fn expect_clean(self, scenario: &str) -> Figures {
        print_figures(scenario, &self);
        assert!(self.violations.is_empty(), "{scenario}: {self}\n{:#?}", self.violations);
        self.figures
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { questions, callbacks, ended, one_winner, losers_told, unheard, shown, told, .. } = &self.figures;
        let Figures { waits, pending, unknown, cut, latest, .. } = &self.figures;
        write!(f, "questions {questions}, callbacks {callbacks}")?;
        for (status, count) in ended {
            write!(f, ", {status} {count}")?;
        }
        write!(f, "; one winner {one_winner}, losers told {losers_told}, attempts unheard {unheard}")?;
        write!(f, "; shown {shown}, ends told {told}")?;
        write!(
            f,
            "; waits {waits} (202 {pending}, 503 {unknown}, cut {cut}), latest {latest:+.3} s after its deadline"
        )?;
        let lost = self.count(|v| matches!(v, Violation::LostAnswer { .. }));
        let twice = self.count(|v| matches!(v, Violation::AskedTwice(..) | Violation::ShownTwice(..)));
        let wrong = self.count(|v| {
            use Violation::{LoserMisled, TwoWinners, WrongAnswer, WrongSide};
            matches!(v, TwoWinners(..) | WrongAnswer { .. } | LoserMisled { .. } | WrongSide { .. })
        });
        let late = self.count(|v| matches!(v, Violation::LateWait(..)));
        let rest = self.violations.len() - lost - twice - wrong - late;
        write!(f, "; lost {lost}, asked twice {twice}, wrong {wrong}, late {late}, other {rest}")
    }
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;

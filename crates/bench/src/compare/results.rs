//! All figures of a comparison: one cell for each server, workload and round; then, by workload, medians, ratios within a
//! round and the goals. A ratio is taken between two cells of the same round only, and of clean ones as long as there are
//! any.

use std::{collections::BTreeMap, fs};

use anyhow::Result;
use serde::Serialize;

use super::{
    appendix::Section,
    peers::{FLOOR, Peer, UWEBSOCKETS},
    stats::Spread,
    workloads::{Bound, Goal, Metric, Workload},
};
use crate::{account::report::Report, machine::others::Disturbance};

/// One server under one workload in one round.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Cell {
    pub(crate) peer: String,
    pub(crate) workload: Workload,
    pub(crate) round: u32,
    /// What others used of the machine meanwhile, in percent of a core.
    pub(crate) disturbance: f64,
    pub(crate) values: BTreeMap<Metric, f64>,
    /// What the server did that it must not do.
    pub(crate) fault: Option<String>,
    /// Why there is no figure.
    pub(crate) failed: Option<String>,
    pub(crate) report: Option<Report>,
    #[serde(skip)]
    standing: Standing,
}

/// What a peer is in the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Ours,
    /// The same in shards: compared with itself only.
    Sharded,
    Other,
}

/// A comparison.
#[derive(Debug, Serialize)]
pub(crate) struct Results {
    /// Processor, cores and kernel.
    pub(crate) machine: String,
    pub(crate) seconds: f64,
    /// A cell with more disturbance is dirty.
    pub(crate) noise: f64,
    /// Peers that took no part, and why.
    pub(crate) skipped: Vec<String>,
    pub(crate) summaries: Vec<Summary>,
    /// Of the gateway alone.
    pub(crate) appendix: Vec<Section>,
    pub(crate) cells: Vec<Cell>,
}

/// All servers under one workload.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) workload: Workload,
    pub(crate) rows: Vec<Row>,
    pub(crate) verdicts: Vec<Verdict>,
}

/// One server under one workload.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) peer: String,
    pub(crate) values: BTreeMap<Metric, Spread>,
    /// Of the first metric, to the floor's and to uWebSockets' of the same round.
    pub(crate) to_floor: Option<Spread>,
    pub(crate) to_uwebsockets: Option<Spread>,
    pub(crate) rounds: usize,
    pub(crate) dirty: usize,
    /// Faults and failures, each once.
    pub(crate) notes: Vec<String>,
}

/// Whether a goal was reached.
#[derive(Debug, Serialize)]
pub(crate) struct Verdict {
    pub(crate) goal: String,
    pub(crate) found: Spread,
    pub(crate) is_met: bool,
}

impl Cell {
    pub(crate) fn new(peer: &Peer, round: u32, workload: Workload, measured: Result<Report>) -> Self {
        let standing = match (peer.is_sharded(), peer.is_ours()) {
            (true, _) => Standing::Sharded,
            (false, true) => Standing::Ours,
            (false, false) => Standing::Other,
        };
        let mut cell = Self {
            peer: peer.name.clone(),
            workload,
            round,
            disturbance: 0.0,
            values: BTreeMap::new(),
            fault: None,
            failed: None,
            report: None,
            standing,
        };
        match measured {
            Err(error) => cell.failed = Some(format!("{error:#}")),
            Ok(report) => {
                cell.disturbance = report.disturbance.map_or(0.0, Disturbance::percent);
                let metrics = workload.metrics().iter();
                cell.values = metrics.filter_map(|metric| Some((*metric, metric.is_in(&report)?))).collect();
                cell.fault = report.fault();
                cell.report = Some(report);
            }
        }
        cell
    }

    pub(crate) fn is_clean(&self, noise: f64) -> bool {
        self.failed.is_none() && self.disturbance <= noise
    }

    /// This one or the other, whichever was disturbed less; one that failed only when both did.
    pub(crate) fn or_cleaner(self, other: Self) -> Self {
        let key = |cell: &Self| (cell.failed.is_some(), cell.disturbance);
        if key(&other) < key(&self) { other } else { self }
    }

    /// One line for those who wait.
    pub(crate) fn line(&self, workload: Workload) -> String {
        let figure = |metric: &Metric| Some(format!("{} {}", metric.title(), tell(*self.values.get(metric)?)));
        let figures: Vec<_> = workload.metrics().iter().filter_map(figure).collect();
        let name = format!("{workload:?}").to_lowercase();
        let wrong = self.failed.as_ref().or(self.fault.as_ref()).map_or_else(String::new, |wrong| format!("  {wrong}"));
        format!("{name:<11} {:<16} {}  (others {:.0} %){wrong}", self.peer, figures.join("  "), self.disturbance)
    }
}

impl Results {
    pub(crate) fn new(noise: f64, seconds: f64, skipped: Vec<String>) -> Result<Self> {
        Ok(Self {
            machine: machine()?,
            seconds,
            noise,
            skipped,
            summaries: Vec::new(),
            appendix: Vec::new(),
            cells: Vec::new(),
        })
    }

    pub(crate) fn add(&mut self, cell: Cell) {
        self.cells.push(cell);
    }

    /// The best fan-out of a server so far, in deliveries a second.
    pub(crate) fn best_rate(&self, peer: &str) -> Option<f64> {
        let of_peer = self.cells.iter().filter(|cell| cell.peer == peer && cell.workload == Workload::FanoutMax);
        of_peer.filter_map(|cell| cell.values.get(&Metric::PerSecond).copied()).max_by(f64::total_cmp)
    }

    /// What the gateway did that it must not do, in any round.
    pub(crate) fn fault(&self) -> Option<String> {
        let ours = self.cells.iter().filter(|cell| cell.standing != Standing::Other);
        let wrong = |cell: &Cell| {
            let wrong = cell.fault.as_ref().or(cell.failed.as_ref())?;
            Some(format!("{} under {}: {wrong}", cell.peer, cell.workload.title()))
        };
        let beside = self.appendix.iter().filter_map(|section| section.fault.clone());
        let all: Vec<_> = ours.filter_map(wrong).chain(beside).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// Draws the figures together.
    pub(crate) fn finish(&mut self) {
        let workloads = Workload::all().filter(|workload| self.cells.iter().any(|cell| cell.workload == *workload));
        self.summaries = workloads.map(|workload| self.summary(workload)).collect();
    }

    fn summary(&self, workload: Workload) -> Summary {
        let mut names: Vec<&str> = Vec::new();
        for cell in self.cells.iter().filter(|cell| cell.workload == workload) {
            if !names.contains(&cell.peer.as_str()) {
                names.push(&cell.peer);
            }
        }
        let first = workload.metrics().first().copied();
        let mut rows: Vec<Row> = names.iter().map(|peer| self.row(workload, peer, first)).collect();
        // The best first, by the first figure.
        let sign = if first == Some(Metric::PerCpuSecond) { -1.0 } else { 1.0 };
        let key = |row: &Row| {
            first.and_then(|metric| row.values.get(&metric)).map_or(f64::MAX, |spread| sign * spread.median)
        };
        rows.sort_by(|a, b| key(a).total_cmp(&key(b)));
        let ours = |standing| {
            let cells = self.cells.iter().filter(move |cell| cell.standing == standing && cell.workload == workload);
            cells.map(|cell| cell.peer.as_str()).collect::<std::collections::BTreeSet<_>>()
        };
        let mut verdicts = Vec::new();
        for peer in ours(Standing::Ours) {
            verdicts.extend(workload.goals().into_iter().filter_map(|goal| self.verdict(workload, peer, &goal)));
            if workload == Workload::UserMax10k {
                let found = self.ratio((workload, peer), (Workload::UserMax, peer), Metric::CpuMicrosEach);
                verdicts.extend(found.map(|found| Verdict {
                    goal: format!("G4 {peer}: CPU µs each ≤ 1.2 × its own with 1,000 users"),
                    is_met: found.median <= 1.2,
                    found,
                }));
            }
        }
        for peer in ours(Standing::Sharded) {
            let whole = peer.split(',').next().unwrap_or_default();
            let found = self.ratio((workload, peer), (workload, whole), Metric::CpuMicrosEach);
            verdicts.extend(found.map(|found| Verdict {
                goal: format!("G9 {peer}: CPU µs each ≤ 1.1 × with one shard"),
                is_met: found.median <= 1.1,
                found,
            }));
        }
        Summary { workload, rows, verdicts }
    }

    fn row(&self, workload: Workload, peer: &str, first: Option<Metric>) -> Row {
        let cells: Vec<&Cell> = self.of(workload, peer).collect();
        let clean: Vec<&Cell> = cells.iter().copied().filter(|cell| cell.is_clean(self.noise)).collect();
        let counted = if clean.is_empty() { &cells } else { &clean };
        let of = |metric: Metric| Spread::of(counted.iter().filter_map(|cell| cell.values.get(&metric).copied()));
        let values = workload.metrics().iter().filter_map(|metric| Some((*metric, of(*metric)?))).collect();
        let to = |other: &str| {
            let ratio = self.ratio((workload, peer), (workload, other), first?);
            ratio.filter(|_| peer != other)
        };
        let mut notes: Vec<String> = Vec::new();
        for wrong in cells.iter().filter_map(|cell| cell.failed.as_ref().or(cell.fault.as_ref())) {
            if !notes.contains(wrong) {
                notes.push(wrong.clone());
            }
        }
        let dirty = cells.len() - clean.len();
        let (to_floor, to_uwebsockets) = (to(FLOOR), to(UWEBSOCKETS));
        Row { peer: peer.to_owned(), values, to_floor, to_uwebsockets, rounds: cells.len(), dirty, notes }
    }

    fn verdict(&self, workload: Workload, peer: &str, goal: &Goal) -> Option<Verdict> {
        let Goal { name, metric, against, bound } = *goal;
        let found = match against {
            Some(other) => self.ratio((workload, peer), (workload, other), metric)?,
            None => Spread::of(self.of(workload, peer).filter_map(|cell| cell.values.get(&metric).copied()))?,
        };
        let (sign, limit) = match bound {
            Bound::AtMost(limit) => ("≤", limit),
            Bound::AtLeast(limit) => ("≥", limit),
        };
        let than = against.map_or_else(String::new, |other| format!(" × {other}"));
        let goal = format!("{name} {peer}: {} {sign} {}{than}", metric.title(), tell(limit));
        let is_met = match bound {
            Bound::AtMost(limit) => found.median <= limit,
            Bound::AtLeast(limit) => found.median >= limit,
        };
        Some(Verdict { goal, found, is_met })
    }

    /// Of one metric of two cells of the same round; of clean pairs, when there are any.
    fn ratio(&self, this: (Workload, &str), other: (Workload, &str), metric: Metric) -> Option<Spread> {
        let pairs: Vec<(f64, bool)> = self
            .of(this.0, this.1)
            .filter_map(|cell| {
                let against = self.of(other.0, other.1).find(|against| against.round == cell.round)?;
                let ratio = cell.values.get(&metric)? / against.values.get(&metric)?;
                Some((ratio, cell.is_clean(self.noise) && against.is_clean(self.noise)))
            })
            .collect();
        let clean = pairs.iter().filter(|(_, is_clean)| *is_clean).map(|(ratio, _)| *ratio);
        Spread::of(clean).or_else(|| Spread::of(pairs.iter().map(|(ratio, _)| *ratio)))
    }

    fn of<'a>(&'a self, workload: Workload, peer: &'a str) -> impl Iterator<Item = &'a Cell> {
        self.cells.iter().filter(move |cell| cell.workload == workload && cell.peer == peer)
    }
}

/// A figure with as many digits as say something.
pub(crate) fn tell(figure: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is at least a thousand, and a count"
    )]
    match figure.abs() {
        size if size >= 1_000.0 => crate::account::report::grouped(figure.round() as u64),
        size if size >= 100.0 || size == 0.0 => format!("{figure:.0}"),
        size if size >= 10.0 => format!("{figure:.1}"),
        size if size >= 0.1 => format!("{figure:.2}"),
        _ => format!("{figure:.3}"),
    }
}

fn machine() -> Result<String> {
    let processors = fs::read_to_string("/proc/cpuinfo")?;
    let cores = processors.lines().filter(|line| line.starts_with("processor")).count();
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let release = kernel.trim().split('-').next().unwrap_or_default().to_owned();
    Ok(format!("{cores} cores ({}), Linux {release}", model.trim_start_matches([' ', '\t', ':']).trim()))
}

#[cfg(test)]
impl Cell {
    /// A cell as a test needs it.
    pub(super) fn of(peer: &str, workload: Workload, round: u32, disturbance: f64, values: &[(Metric, f64)]) -> Self {
        Self {
            peer: peer.to_owned(),
            workload,
            round,
            disturbance,
            values: values.iter().copied().collect(),
            fault: None,
            failed: None,
            report: None,
            standing: if peer == "countersign" { Standing::Ours } else { Standing::Other },
        }
    }
}

//! `bench compare`: the gateway and its peers side by side on one machine, in one run. Rounds alternate: in each round
//! every workload is given to one server after the other, each freshly started with a Redis of its own, pinned to one
//! core while the load generator and Redis have the other. What is reported are ratios within a round, because only
//! those survive a machine that is faster today than tomorrow.
//!
//! - `peers`: who takes part and how each is started; `workloads`: what each is given, and which figures count.
//! - `results`: all figures of all rounds, medians, ratios and goals, as JSON.
//! - `appendix`: what is told of the gateway alone beside it: series, floods, slow readers, memory and outages.
//! - `stats`: median, least and most; `table`: the results as text and as Markdown; `plot`: as SVG.

mod appendix;
mod peers;
mod plot;
mod results;
mod stats;
mod table;
#[cfg(test)]
mod tests;
mod workloads;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::{
    account::report::Report,
    machine::start::{Ending, LOAD_CORE, pin_own},
    progress::Progress,
};
use peers::Peer;
use results::{Cell, Results};
use workloads::Workload;

/// Peers that no goal but the widest refers to are measured in so many rounds, to save time.
const ROUNDS_OF_OTHERS: u32 = 2;

#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// A gateway's binary, or NAME=binary to compare several builds; may be given several times.
    #[arg(long = "gateway", required = true)]
    gateways: Vec<String>,
    /// Rounds; in each, every workload is given to every peer.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// Only these workloads; may be given several times, or comma-separated.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Workload>,
    /// Only these peers beside the gateway (floor, uwebsockets, axum, nchan, socketio, sockudo).
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Two short rounds against the floor and uWebSockets, without the workloads of 10,000 connections.
    #[arg(long)]
    quick: bool,
    /// How long each measurement lasts, after a second of warm-up.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// No round begins after this many minutes.
    #[arg(long, default_value_t = 20.0)]
    minutes: f64,
    /// A measurement is dirty when others used more of one core than this, in percent.
    #[arg(long, default_value_t = 10.0)]
    noise: f64,
    /// A dirty measurement is made again, so often; the cleanest counts, and is marked when it is dirty all the same.
    #[arg(long, default_value_t = 1)]
    repeats: u32,
    /// Where peers are built.
    #[arg(long, default_value = "target/peers")]
    cache: PathBuf,
    /// Where the peers' recipes are; by default in the sources that this was built from.
    #[arg(long)]
    recipes: Option<PathBuf>,
    /// Also measure the gateway alone: producers' doors, nodes, sizes, topics, compression, floods, slow readers, memory,
    /// outages (about seven minutes).
    #[arg(long)]
    appendix: bool,
    /// Write all figures here as JSON.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Write the tables into this Markdown file, between its two marks, and the plots beside it.
    #[arg(long)]
    doc: Option<PathBuf>,
}

/// What all measurements of a run share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) seconds: f64,
    pub(crate) warmup: f64,
}

pub(crate) fn run(compare: &Compare, progress: Progress) -> Result<Results> {
    let recipes = compare.recipes.clone().unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("peers"));
    fs::create_dir_all(&compare.cache).with_context(|| format!("making {}", compare.cache.display()))?;
    let cache = compare.cache.canonicalize()?;
    let mut peers = peers::all(&compare.gateways)?;
    let wanted: &[String] = &compare.peers;
    let is_wanted = |peer: &Peer| match wanted {
        _ if peer.is_ours() => true,
        [] => !compare.quick || peer.is_yardstick(),
        some => some.contains(&peer.name),
    };
    for name in wanted {
        ensure!(peers.iter().any(|peer| peer.name == *name), "--peers {name}: there is no such peer");
    }
    let mut skipped = Vec::new();
    peers.retain(is_wanted);
    peers.retain(|peer| match peer.build(&recipes, &cache, progress) {
        Ok(()) => true,
        Err(error) => {
            progress.say(format_args!("without {}: {error:#}", peer.name));
            skipped.push(format!("{}: {error:#}", peer.name));
            false
        }
    });
    // Peers are built on all cores, and measured on two.
    pin_own(LOAD_CORE)?;
    let ending = Ending::on_signals()?;
    let workloads: Vec<Workload> = match compare.only.as_slice() {
        [] => Workload::all().filter(|workload| !compare.quick || !workload.is_large()).collect(),
        only => only.to_vec(),
    };
    let (rounds, seconds) =
        if compare.quick { (compare.rounds.min(2), 1.5) } else { (compare.rounds, compare.seconds) };
    let plan = Plan { seconds, warmup: 1.0 };
    let repeats = if compare.quick { 0 } else { compare.repeats };
    let place = Place { recipes: &recipes, cache: &cache, ending: &ending };
    let mut results = Results::new(compare.noise, seconds, skipped)?;
    let (began, limit) = (Instant::now(), Duration::from_secs_f64(compare.minutes * 60.0));
    for round in 0..rounds {
        if began.elapsed() > limit {
            progress.say(format_args!("{} minutes are over: {round} rounds have to do", compare.minutes));
            break;
        }
        for &workload in &workloads {
            let mut taking_part: Vec<&Peer> = peers
                .iter()
                .filter(|peer| workload.is_for(peer) && (round < ROUNDS_OF_OTHERS || peer.is_main()))
                .collect();
            // Each round another one goes first.
            let first = usize::try_from(round)? % taking_part.len().max(1);
            taking_part.rotate_left(first);
            for peer in taking_part {
                let measure = || Cell::new(peer, round, workload, place.measure(peer, workload, plan, &results));
                let mut cell = measure();
                for _ in 0..repeats {
                    if cell.is_clean(compare.noise) || began.elapsed() > limit {
                        break;
                    }
                    cell = cell.or_cleaner(measure());
                }
                progress.say(format_args!("round {}/{rounds}  {}", round + 1, cell.line(workload)));
                results.add(cell);
            }
        }
    }
    results.finish();
    if compare.appendix
        && let Some(binary) = peers.iter().find_map(Peer::binary)
    {
        results.appendix = appendix::sections(binary, seconds.min(2.0), &ending, progress);
    }
    if let Some(path) = &compare.out {
        fs::write(path, serde_json::to_vec_pretty(&results)?).with_context(|| format!("writing {}", path.display()))?;
    }
    if let Some(path) = &compare.doc {
        table::into_document(&results, path)?;
        plot::beside(&results, path)?;
    }
    Ok(results)
}

/// Where peers come from and by whom they are ended.
struct Place<'a> {
    recipes: &'a Path,
    cache: &'a Path,
    ending: &'a Ending,
}

impl Place<'_> {
    /// One server under one workload.
    fn measure(&self, peer: &Peer, workload: Workload, plan: Plan, results: &Results) -> Result<Report> {
        let standing = peer.start(workload, self.recipes, self.cache, self.ending)?;
        workload.run(&standing.server, plan, results.best_rate(&peer.name))
    }
}

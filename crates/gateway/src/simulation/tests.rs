//! Many seeds, the same seed twice, and the proof that mistakes are found.

use std::{
    collections::BTreeMap,
    env,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use super::{
    flaws::Flaw,
    story::{Failed, Telling, tell},
};

/// Seeds without being asked for more.
const SEEDS: u64 = 1000;
/// Seeds within which every mistake is found.
const FOUND_WITHIN: u64 = 300;

fn number(variable: &str) -> Option<u64> {
    let value = env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is no number")))
}

fn show(seed: u64, Failed { wrong, events }: &Failed) -> String {
    format!(
        "{wrong}\n\nThe last events of SEED={seed}:\n{events}\nAgain: SEED={seed} cargo test -p countersign-gateway simulation"
    )
}

/// Tells the stories of many seeds on all cores; those that go wrong, at most so many, in order.
fn tell_all(seeds: u64, telling: Telling, most: usize) -> Vec<(u64, Failed)> {
    let (next, failed) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let tellers = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    thread::scope(|scope| {
        for _ in 0..tellers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds || failed.lock().unwrap().len() >= most {
                        return;
                    }
                    if let Err(wrong) = tell(seed, telling) {
                        failed.lock().unwrap().push((seed, wrong));
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap();
    failed.sort_by_key(|(seed, _)| *seed);
    failed
}

#[test]
fn whatever_breaks_everybody_hears_in_order_without_repeats_or_is_told() {
    if let Some(seed) = number("SEED") {
        let telling = Telling { aloud: env::var("ALOUD").is_ok(), ..Telling::default() };
        if let Err(failed) = tell(seed, telling) {
            panic!("{}", show(seed, &failed));
        }
        return;
    }
    let most = number("SIMULATION_FAILURES").map_or(1, |most| usize::try_from(most).unwrap());
    let failed = tell_all(number("SIMULATION_SEEDS").unwrap_or(SEEDS), Telling::default(), most);
    for (seed, Failed { wrong, .. }) in &failed {
        println!("SEED={seed} {wrong}");
    }
    if let Some((seed, failed)) = failed.first() {
        panic!("{}", show(*seed, failed));
    }
}

#[test]
fn everything_that_can_be_told_of_a_loss_is_told_in_some_story() {
    let mut counts = BTreeMap::<String, u64>::new();
    for seed in 0..60 {
        let told = tell(seed, Telling::default()).unwrap_or_else(|failed| panic!("{}", show(seed, &failed)));
        assert!(told.messages > 0);
        told.counts.into_iter().for_each(|(kind, count)| *counts.entry(kind).or_default() += count);
    }
    let kinds = [
        ["gap", "messages_dropped", "recovered", "not recovered", "error"],
        ["closed with 1012", "closed with 1013", "closed with 4001", "closed with 4002", "closed with 4003"],
    ];
    for kind in kinds.as_flattened() {
        assert!(counts.contains_key(*kind), "no {kind} in {counts:?}");
    }
}

#[test]
fn when_nothing_breaks_nobody_is_told_of_a_loss() {
    let usual =
        ["connected", "subscription_confirmed", "unsubscribed", "open_callbacks", "recovered", "closed with 1000"];
    for seed in 0..60 {
        let telling = Telling { quiet: true, ..Telling::default() };
        let told = tell(seed, telling).unwrap_or_else(|failed| panic!("{}", show(seed, &failed)));
        let unusual: Vec<_> = told.counts.iter().filter(|(kind, _)| !usual.contains(&kind.as_str())).collect();
        assert!(unusual.is_empty(), "seed {seed}: {unusual:?}");
    }
}

#[test]
fn the_same_seed_is_the_same_story() {
    for seed in 0..40 {
        let tell = || tell(seed, Telling::default()).map_err(|failed| failed.wrong);
        assert_eq!(tell(), tell(), "seed {seed}");
    }
}

#[test]
fn every_mistake_is_found() {
    let flaws = [
        Flaw::ReadsBeforeSubscribed,
        Flaw::JoinsDeaf,
        Flaw::ForgetsTold,
        Flaw::IgnoresHoles,
        Flaw::IgnoresInterruptions,
        Flaw::ForgetsHeld,
        Flaw::DropsSilently,
        Flaw::NoLimits,
        Flaw::KeepsRooms,
        Flaw::ClientLoses,
        Flaw::ClientRepeats,
        Flaw::ClientSwaps,
        Flaw::ClientMishears,
    ];
    for flaw in flaws {
        let found = tell_all(FOUND_WITHIN, Telling { flaw: Some(flaw), ..Telling::default() }, 1);
        assert!(!found.is_empty(), "{flaw:?} is not found within {FOUND_WITHIN} seeds");
    }
}

//! A client that comes in the very moment in which a node leaves: it is served, told to come back, or refused, but never let in
//! and then dropped without a word. Behind nginx it notices nothing at all.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use std::collections::BTreeMap;

use harness::audit::print_figures;
use harness::knocks::{Findings, Found, Knock, Knocks, broken};
use harness::{Cluster, Node, PATIENCE, eventually};

/// Each ends in other moments of other clients.
const ROUNDS: usize = 6;
const CLIENTS_OF_EACH: usize = 6;
/// Each lasts as long as nginx mistrusts a node that was gone.
const BALANCED_ROUNDS: usize = 4;

fn add(all: &mut Findings, more: Findings) {
    for (what, count) in more {
        *all.entry(what).or_default() += count;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_while_a_node_leaves_is_answered_or_refused() {
    let mut all = BTreeMap::new();
    for _ in 0..ROUNDS {
        let node = Node::builder().env("DRAIN_TIMEOUT", "4").start().await;
        let knocks = Knocks::at(node.address(), CLIENTS_OF_EACH);
        knocks.answered(20).await;
        node.terminate();
        add(&mut all, knocks.refused().await);
        assert_eq!(node.wait_exit(Cluster::drain_deadline()).await, Some(0));
    }
    print_figures("connects while a node leaves", format!("{all:?}"));
    assert_eq!(broken(&all), [""; 0], "{all:?}");
    for (knock, found) in all.keys() {
        let fits = match found {
            Found::Refused | Found::Answered(503) | Found::Open | Found::Closed(1012) => true,
            Found::Answered(200) => *knock != Knock::Upgrade,
            _ => false,
        };
        assert!(fits, "{knock:?}: {found:?} of {all:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_nginx_nobody_notices_that_a_node_leaves() {
    let mut cluster = Cluster::builder(2).env("DRAIN_TIMEOUT", "4").start().await;
    let knocks = Knocks::at(&cluster.nginx().address(), 2);
    for round in 0..BALANCED_ROUNDS {
        let leaving = round % 2;
        knocks.answered(20).await;
        cluster.node(leaving).terminate();
        assert_eq!(cluster.node(leaving).wait_exit(Cluster::drain_deadline()).await, Some(0));
        knocks.answered(20).await;
        cluster.restart_node(leaving).await;
        // For two seconds nginx leaves out a node that was gone; only then may the other one leave.
        let taken_back =
            || async { (cluster.node(leaving).metric("countersign_published_total", "").await > 0.5).then_some(()) };
        eventually(PATIENCE, "nginx leads somebody to the node that came back", taken_back).await;
    }
    let all = knocks.stopped().await;
    print_figures("connects through nginx while nodes leave", format!("{all:?}"));
    for (knock, found) in all.keys() {
        let fits = match knock {
            Knock::Get => *found == Found::Answered(200),
            Knock::Upgrade => matches!(found, Found::Open | Found::Closed(1012)),
            // 503: it met the leaving node on a connection that nginx kept. nginx never sends a POST twice, its caller does.
            Knock::Post => matches!(found, Found::Answered(200 | 503)),
        };
        assert!(fits, "{knock:?}: {found:?} of {all:?}");
    }
}

//! Every node is replaced, one after the other, behind nginx, with two hundred questions open: each gets its one answer.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use harness::audit::audit;
use harness::{Ask, Cluster, Scene};

const USERS: usize = 20;
/// Questions of each user that are open when the deploy begins.
const OPEN: usize = 10;
/// Nodes; before and after each is replaced, people answer some of what is open and are asked something new.
const NODES: usize = 3;

#[tokio::test]
async fn a_rolling_restart_with_two_hundred_open_questions_loses_none_and_asks_none_twice() {
    let mut cluster = Cluster::builder(NODES).env("DRAIN_TIMEOUT", "5").start().await;
    let mut scene = Scene::open();
    let doors = [cluster.balanced_api()];
    for user in 0..USERS {
        scene.person(&format!("user-{user}"), "laptop", &[cluster.nginx().ws_url()]);
    }
    scene.connected(USERS).await;
    for user in 0..USERS {
        for number in 0..OPEN {
            // From "before the first node leaves" to "after the last one is back".
            let phase = u64::try_from(1 + number % (2 * NODES + 1)).expect("small");
            scene.ask(&Ask::new(format!("user-{user}"), format!("open-{user}-{number}")).answered_in(phase), &doors);
        }
    }
    scene.shown(USERS * OPEN).await;

    scene.go_to(1);
    let mut phase = 1;
    for index in 0..NODES {
        cluster.node(index).terminate();
        phase += 1;
        scene.go_to(phase);
        for user in 0..USERS {
            scene.ask(&Ask::new(format!("user-{user}"), format!("new-{user}-{index}")), &doors);
        }
        assert_eq!(cluster.node(index).wait_exit(Cluster::drain_deadline()).await, Some(0), "node-{}", index + 1);
        cluster.restart_node(index).await;
        phase += 1;
        scene.go_to(phase);
    }

    let figures = audit(&scene.over().await).expect_clean("rolling restart of three nodes");
    let questions = USERS * (OPEN + NODES);
    let decided: usize = ["confirmed", "declined"].iter().filter_map(|status| figures.ended.get(*status)).sum();
    assert_eq!((figures.questions, figures.callbacks, decided), (questions, questions, questions), "{figures:?}");
    assert!(figures.pending + figures.unknown + figures.cut > USERS * OPEN, "everybody had to ask again: {figures:?}");
}

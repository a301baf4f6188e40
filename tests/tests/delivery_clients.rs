//! Clients come back all at once, read too slowly, vanish without a word, or are more than a node has files for; the node's
//! clock jumps. Whoever can be served is served, completely and in order, and nobody costs a node more than its limits.

#![forbid(unsafe_code)]
#![allow(clippy::panic, reason = "in a test that is how to say that it failed")]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use std::cell::Cell;
use std::process::Command;
use std::time::{Duration, Instant};

use harness::audit::print_figures;
use harness::history::now;
use harness::ledger::Line;
use harness::{
    Device, Nginx, Node, NodeBuilder, PATIENCE, RedisServer, TcpProxy, Traffic, WallClock, eventually, fault_lasts,
};
use reqwest::Method;
use serde_json::json;
use tokio::sync::watch;

#[tokio::test]
async fn two_thousand_clients_cut_at_once_are_all_back_and_miss_nothing() {
    const CLIENTS: u32 = 2_000;
    raise_open_files(16_000);
    let redis = RedisServer::start().await;
    let node = || Node::builder().redis(&redis).env("HISTORY_SIZE", "2000").start();
    let nodes = [node().await, node().await];
    let mut nginx = Nginx::start_for(&[nodes[0].address().to_owned(), nodes[1].address().to_owned()], 8_000).await;
    let mut traffic = Traffic::new();
    traffic.watch(&nodes);
    for number in 0..CLIENTS {
        let name = format!("reader-{number}");
        let reader = traffic.reader(&name, Some(&name), &["room:1"], &[nginx.ws_url()]);
        traffic.add(reader);
    }
    traffic.joined().await;
    traffic.publish("room:1", &[nodes[0].api(), nodes[1].api()], 2, 0);
    traffic.flowing(2).await;
    let connections = async || {
        nodes[0].metric("countersign_connections", "").await + nodes[1].metric("countersign_connections", "").await
    };
    let back = traffic
        .fault(async |_| {
            nginx.restart().await;
            let begun = Instant::now();
            eventually(PATIENCE * 2, "everybody back", || async {
                (connections().await >= f64::from(CLIENTS)).then_some(())
            })
            .await;
            begun.elapsed()
        })
        .await;
    let figures = traffic.over().await.expect_complete("2,000 clients cut at once");
    assert!(figures.cuts.values().sum::<usize>() >= 2_000, "everybody was cut: {figures:?}");
    print_figures("2,000 clients cut at once", format!("all connected again {back:.1?} after nginx was back"));
}

#[tokio::test]
async fn a_node_without_files_to_spare_stays_healthy_and_lets_people_in_again_when_others_leave() {
    const FILES: u32 = 256;
    let redis = RedisServer::start().await;
    let node = Node::builder().redis(&redis).open_files(FILES).start().await;
    let mut inside = Vec::new();
    let mut refused = Vec::new();
    for number in 0..FILES + 40 {
        let url = format!("{}?user_id=user-{number}", node.ws_url());
        let mut device = Device::dial(&url, &[]).await.expect("whoever is too many is told so, not left waiting");
        match device.next().await {
            Some(first) if first["type"] == "connected" => inside.push(device),
            _ => refused.push(device.closed().await.code),
        }
    }
    assert!(inside.len() > 100 && refused.len() > 40, "{} were let in, {} refused", inside.len(), refused.len());
    assert!(refused.iter().all(|code| *code == 1013), "come back later: {refused:?}");
    let before = node.processor_time();
    fault_lasts(Duration::from_secs(1)).await;
    let busy = node.processor_time().saturating_sub(before);
    assert!(busy < Duration::from_millis(500), "a busy loop: {busy:?} of processor time in a second");
    // Those who are in are served, and a monitor gets in.
    inside[0].ping().await;
    assert_eq!(node.readiness().await, 200, "a node that is full is healthy");
    node.wait_for_metric("countersign_connections", "", f64::from(u32::try_from(inside.len()).expect("few"))).await;
    // A Redis that comes back is found again: the node has kept files for that.
    let _: u64 = redis.query(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    let _: u64 = redis.query(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    eventually(PATIENCE, "messages again", || async {
        let (api, fence) = (node.api(), json!({"type": "fence"}));
        let sending = api.try_send(Method::POST, "/v1/broadcast", &[], Some(&fence));
        sending.await.is_ok_and(|reply| reply.status == 200).then_some(())
    })
    .await;
    inside[0].expect_type("fence").await;
    print_figures(
        "256 files",
        format!(
            "let in {}, refused with 1013 {}, open {}; CPU when full {busy:?} in 1 s",
            inside.len(),
            refused.len(),
            node.open_files()
        ),
    );
    for device in inside.drain(..) {
        device.close().await;
    }
    node.wait_for_metric("countersign_connections", "", 0.0).await;
    let mut again = Device::of_user(&node.ws_url(), "again").await;
    again.ping().await;
}

#[tokio::test]
async fn a_slow_reader_is_closed_and_recovers_while_another_hears_everything_in_order() {
    const OUTBOX: u64 = 256 * 1024;
    let redis = RedisServer::start().await;
    let builder = Node::builder().redis(&redis).env("WEBSOCKET_OUTBOX_BYTES", OUTBOX.to_string());
    let node = builder.env("HISTORY_SIZE", "2000").start().await;
    let mut traffic = Traffic::new();
    let (reads, reading) = watch::channel(true);
    let slow = traffic.reader("slow", Some("slow"), &["room:1"], &[node.ws_url()]).slow(4096, reading);
    traffic.add(slow);
    let quick = traffic.reader("quick", Some("quick"), &["room:1"], &[node.ws_url()]);
    traffic.add(quick);
    traffic.joined().await;
    traffic.publish("room:1", &[node.api()], 200, 20_000);
    traffic.accepted(3).await;
    let before = node.memory();
    let highest = Cell::new(before);
    traffic
        .fault(async |_| {
            reads.send_replace(false);
            eventually(PATIENCE * 2, "a slow consumer", || async {
                highest.set(highest.get().max(node.memory()));
                (node.metric("countersign_slow_consumers_total", "").await >= 1.0).then_some(())
            })
            .await;
            reads.send_replace(true);
        })
        .await;
    let ledger = traffic.ledger().clone();
    let figures = traffic.over().await.expect_kept("a slow reader under a flood of 20 kB messages");
    let account = ledger.account();
    let grown = highest.get() - before;
    print_figures("a slow reader", format!("RSS grew by {} kB, cuts {:?}", grown / 1024, figures.cuts));
    assert!(grown < 16 * 1024 * 1024, "its outbox is {OUTBOX} bytes, the node grew by {grown}");
    assert_eq!(figures.cuts.get(&4001), Some(&1), "it is told why: {figures:?}");
    let told = |name: &str| {
        let told = |line: &&Line| matches!(line, Line::Told { .. });
        account.read.get(name).map_or(0, |lines| lines.iter().filter(told).count())
    };
    assert!(told("slow") > 0 && told("quick") == 0, "the quick one hears everything in order");
}

#[tokio::test]
async fn a_client_that_missed_more_than_four_outboxes_is_told_and_goes_on() {
    let redis = RedisServer::start().await;
    let builder = Node::builder().redis(&redis).env("WEBSOCKET_OUTBOX_BYTES", "16384");
    let node = builder.env("HISTORY_SIZE", "2000").start().await;
    let proxy = TcpProxy::to(node.address()).await;
    let mut traffic = Traffic::new();
    let url = format!("ws://{}/ws", proxy.address());
    traffic.add_sdk("sdk", "alice", &["room:1"], &url);
    let reader = traffic.reader("reader", Some("alice"), &["room:1"], &[url]);
    traffic.add(reader);
    traffic.joined().await;
    traffic.publish("room:1", &[node.api()], 20, 10_000);
    traffic.publish("user:alice", &[node.api()], 20, 0);
    traffic.flowing(3).await;
    traffic
        .fault(async |traffic| {
            proxy.cut();
            traffic.accepted(20).await;
            proxy.resume();
        })
        .await;
    let figures = traffic.over().await.expect_kept("200 kB missed, an outbox of 16 kB");
    assert_eq!(figures.cuts.get(&4003), Some(&2), "each is sent on once, and comes back without `since`: {figures:?}");
    assert!(figures.told_lost >= 20, "{figures:?}");
}

#[tokio::test]
async fn a_device_that_vanished_without_a_word_is_given_up_and_no_longer_counted() {
    let redis = RedisServer::start().await;
    let builder = Node::builder().redis(&redis).env("WEBSOCKET_PING_INTERVAL", "0.5");
    let node = builder.env("WEBSOCKET_PING_TIMEOUT", "0.5").start().await;
    let proxy = TcpProxy::to(node.address()).await;
    let here = Device::of_user(&node.ws_url(), "here").await;
    let gone = Device::of_user(&format!("ws://{}/ws", proxy.address()), "gone").await;
    node.wait_for_metric("countersign_connections", "", 2.0).await;
    proxy.forget();
    let begun = Instant::now();
    // It even closes: nobody hears.
    drop(gone);
    // Somebody who is there answers pings while reading.
    let mut here = here;
    let reading = async { while here.next().await.is_some() {} };
    tokio::select! {
        () = reading => panic!("the one who is there was given up"),
        () = node.wait_for_metric("countersign_ping_timeouts_total", "", 1.0) => {}
    }
    node.wait_for_metric("countersign_connections", "", 1.0).await;
    redis.wait_for_listeners("cs:user:gone", 0).await;
    print_figures("a half-open device", format!("given up after {:.1?} (ping 0.5 s + 0.5 s)", begun.elapsed()));
}

/// A node whose wall clock is `clock`.
fn timed_by(clock: &WallClock, node: NodeBuilder) -> NodeBuilder {
    clock.environment().into_iter().fold(node, |node, (name, value)| node.env(name, value))
}

#[tokio::test]
async fn a_clock_that_jumps_moves_no_deadline_no_wait_and_no_message() {
    let redis = RedisServer::start().await;
    let clock = WallClock::new();
    let jumping = timed_by(&clock, Node::builder().redis(&redis).env("HISTORY_SIZE", "2000")).start().await;
    let steady = Node::builder().redis(&redis).start().await;
    let mut traffic = Traffic::new();
    traffic.watch(std::slice::from_ref(&jumping));
    let reader = traffic.reader("reader", Some("reader"), &["room:1"], &[jumping.ws_url()]);
    traffic.add(reader);
    traffic.joined().await;
    traffic.publish("room:1", &[jumping.api()], 20, 0);
    traffic.flowing(3).await;
    let mut alice = Device::of_user(&jumping.ws_url(), "alice").await;
    let mut furthest: f64 = 0.0;
    traffic
        .fault(async |_| {
            for (jump, seconds) in [("+60", 60), ("-60", -60), ("+3600", 3600), ("-3600", -3600), ("+0", 0)] {
                // Two waits are held across the jump, one on the node whose clock jumps and one beside it.
                let api = jumping.api();
                let asked = now();
                let id = api.ask("alice", &format!("t{jump}"), json!({"timeout": 2, "on_timeout": "decline"})).await;
                let jumps = async {
                    jumping.wait_for_metric("countersign_waits", "", 1.0).await;
                    clock.set(jump);
                    jumping.wait_for_wall_clock(seconds).await;
                    alice.send(json!({"action": "ping"})).await;
                    let pong = alice.expect_type("pong").await;
                    let off = pong["timestamp"].as_f64().expect("a time") - now();
                    assert!(off.abs() < 10.0, "what it tells people has jumped by {off} s");
                };
                let (here, there) = (jumping.api(), steady.api());
                let (first, second, ()) = tokio::join!(here.wait(&id, 10), there.wait(&id, 10), jumps);
                let ended = now() - asked;
                for reply in [first, second] {
                    let answer = reply.expect_status(200);
                    assert_eq!(
                        (&answer["status"], &answer["proceed"]),
                        (&json!("timed_out"), &json!(false)),
                        "{answer}"
                    );
                }
                furthest = furthest.max((ended - 2.0).abs());
                // The deadline, at most a second, and a busy machine.
                assert!((2.0..3.0 + LAG).contains(&ended), "{jump}: a wait of 2 s ended after {ended:.2} s");
            }
        })
        .await;
    assert_eq!(jumping.readiness().await, 200);
    let figures = traffic.over().await.expect_complete("a node's clock jumps by an hour, forth and back");
    assert!(
        figures.cuts.is_empty() && figures.unready.is_none(),
        "nobody is cut, and the node stays ready: {figures:?}"
    );
    print_figures("clock jump", format!("waits of 2 s ended at most {furthest:.2} s beside their deadline"));
}

/// What a busy machine may add to a second.
const LAG: f64 = 1.0;

/// For as many sockets as this very process holds, and the servers that it starts.
fn raise_open_files(needed: u32) {
    let id = std::process::id().to_string();
    let raised = Command::new("prlimit").args(["--pid", &id, &format!("--nofile={needed}:")]).output();
    let raised = raised.unwrap_or_else(|error| panic!("cannot run prlimit (of util-linux): {error}"));
    assert!(
        raised.status.success(),
        "{needed} open files are not allowed (ulimit -Hn): {}",
        String::from_utf8_lossy(&raised.stderr)
    );
}

//! A Redis that is away, and one that refuses everybody for the same reason: nodes neither hammer it nor pile up what waits for
//! it, and come back in batches.

use std::time::{Duration, Instant};

use bytes::Bytes;
use countersign_backplane::{
    BackplaneError, Callbacks, Channel, HistoryPolicy, Messages, Publication, Settings, listener::Failure,
};
use countersign_protocol::{Address, Payload, TopicName};
use futures_util::{FutureExt, future::join_all};
use tokio::time::timeout;

use crate::{
    node::{Node, PATIENCE, eventually, question},
    server::Server,
};

fn topic(n: usize) -> Channel {
    Channel::Topic(TopicName::parse(&format!("t{n}")).unwrap())
}

#[tokio::test]
async fn twenty_thousand_channels_are_subscribed_again_in_batches_and_the_node_goes_on_meanwhile() {
    const CHANNELS: usize = 20_000;
    let server = Server::start();
    let node = Node::up(&server.url(), Settings::default()).await;
    let wanted: Vec<_> = (0..CHANNELS).map(|n| node.interest.want(&topic(n))).collect();
    let all = || join_all(wanted.iter().map(countersign_backplane::Wanted::confirmed));
    timeout(PATIENCE, all()).await.expect("every channel is confirmed");
    server.process.start_again();
    // Turns that something else had while some channels were subscribed again and others not.
    let sample: Vec<_> = wanted.iter().step_by(CHANNELS / 20).collect();
    let mut turns = 0;
    let other_work = async {
        loop {
            let confirmed = sample.iter().filter(|wanted| wanted.confirmed().now_or_never().is_some()).count();
            turns += usize::from(0 < confirmed && confirmed < sample.len());
            tokio::task::yield_now().await;
        }
    };
    let resumed = async {
        node.ear.until("the resumption", |memory| memory.resumed == 1).await;
        timeout(PATIENCE, all()).await.expect("every channel is confirmed again");
    };
    tokio::select! {
        () = resumed => {}
        () = other_work => {}
    }
    let mut client = server.client().await;
    let stats: String = client.ask("INFO commandstats").await;
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_subscribe:calls=")).unwrap();
    let calls: usize = calls.split(',').next().unwrap().parse().unwrap();
    // A thousand at a time, and the node's own; one by one it would be twenty thousand.
    assert!((21..=25).contains(&calls), "{calls} SUBSCRIBE");
    let counts: Vec<(String, u64)> = client.ask("PUBSUB NUMSUB cs:topic:t0 cs:topic:t9999 cs:topic:t19999").await;
    assert!(counts.iter().all(|(_, count)| *count == 1), "{counts:?}");
    // One for each batch at least; subscribed in one go, there would be none.
    assert!(turns >= 10, "the node let nothing else in: {turns} turns");
}

#[tokio::test]
async fn what_does_not_pass_soon_is_told_at_once_and_counted_by_its_kind() {
    let server = Server::start();
    let node = Node::up(&server.url(), Settings::default()).await;
    let mut client = server.client().await;
    for (refuse, allow, kind) in [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", Failure::OutOfMemory),
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0", Failure::Misconfigured),
        ("ACL SETUSER default -hset", "ACL SETUSER default +hset", Failure::Forbidden),
    ] {
        let _: () = client.ask(refuse).await;
        let failures = || node.ear.memory().failures().filter(|failure| *failure == kind).count();
        let before = failures();
        let refused = node.open(question("alice", "t")).await.unwrap_err();
        let tries = failures() - before;
        let full = matches!(refused, BackplaneError::Full(_));
        assert!(full == (kind == Failure::OutOfMemory), "{refused:?}");
        assert!(full || matches!(refused, BackplaneError::Unavailable(_)), "{refused:?}");
        // Repeated until its patience ends, a call fails ten times; one more may be the node's own, such as a probe.
        assert!((1..=2).contains(&tries), "{kind:?} was met {tries} times");
        // What writes nothing goes on, and so does the link.
        let message = Payload::parse(Bytes::from_static(b"{}")).unwrap();
        let bare = Publication { address: Address::Broadcast, message, history: HistoryPolicy::NONE, key: None };
        if kind != Failure::Misconfigured {
            node.publish(bare).await.unwrap();
        }
        node.until_link(true).await;
        let _: () = client.ask(allow).await;
        assert!(node.open(question("alice", "t")).await.unwrap().new);
    }
}

#[tokio::test]
async fn calls_to_a_redis_that_is_away_end_and_tries_to_reach_it_are_few() {
    let server = Server::start();
    let node = Node::up(&server.url(), Settings::default()).await;
    server.process.kill();
    node.until_link(false).await;
    let count = || node.ear.memory().failures().count();
    let before = count();
    // Time that passes on purpose: what is counted is how often something was tried in it.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let tries = count() - before;
    assert!((1..60).contains(&tries), "{tries} tries in 4 s");
    let began = Instant::now();
    let calls = join_all((0..200).map(|_| node.open(question("alice", "t")))).await;
    assert!(calls.iter().all(|call| matches!(call, Err(BackplaneError::Unavailable(_)))));
    assert!(began.elapsed() < Duration::from_secs(6), "a call has an end: {:?}", began.elapsed());
    server.process.start_again();
    eventually("the first call that is answered", || async { node.open(question("alice", "t")).await.ok() }).await;
    println!("{tries} tries in 4 s");
}

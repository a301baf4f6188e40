//! What happens to Redis, and what the node makes of it.

use std::time::Duration;

use bytes::Bytes;
use countersign_backplane::{
    Audience, BackplaneError, Callbacks, Channel, Cluster, HistoryPolicy, Messages, Observation, Publication, Settings,
    callbacks::{Answerer, Canceller, Confirm, Confirmed, Withdrawn},
};
use countersign_protocol::{Address, Answer, CallbackId, Payload, Status, TopicName, ids::IdempotencyKey};
use futures_util::{FutureExt, StreamExt, future::join_all, stream::FuturesUnordered};
use tokio::time::{Instant, timeout};

use crate::{
    node::{Node, PATIENCE, eventually, question, task, topic, user},
    proxy::Proxy,
    server::Server,
    support::free_port,
};

fn message(text: &str) -> Payload {
    Payload::parse(Bytes::from(format!(r#"{{"text":{text:?}}}"#))).unwrap()
}

fn publication(name: &str, text: &str, size: usize) -> Publication {
    let address = Address::Topic(TopicName::parse(name).unwrap());
    let history = HistoryPolicy { size, ttl: Duration::from_secs(300) };
    Publication { address, message: message(text), history, key: None }
}

fn confirm(id: CallbackId, user_id: &str) -> Confirm {
    let answer = Answer { proceed: Some(true), ..Answer::default() };
    Confirm {
        id,
        by: Answerer::User(user(user_id)),
        answer,
        proceed: true,
        judged: false,
        must_be_judged: false,
        connection: None,
    }
}

#[tokio::test]
async fn a_node_may_be_there_before_its_redis() {
    let server = Server::start();
    server.process.kill();
    let node = Node::start(&server.url(), Settings::default());
    let wanted = node.interest.want(&topic("a"));
    let refused = node.publish(publication("a", "early", 0)).await;
    assert!(matches!(refused, Err(BackplaneError::Unavailable(_))), "{refused:?}");
    assert!(!node.link().borrow().is_up());
    server.process.start_again();
    node.until_link(true).await;
    timeout(PATIENCE, wanted.confirmed()).await.expect("the wish is confirmed when Redis is there");
    let memory = node.ear.memory();
    assert_eq!((memory.interrupted, memory.resumed), (0, 0), "nothing was interrupted: nothing had begun");
    assert_eq!(node.publish(publication("a", "late", 0)).await.unwrap().nodes, Some(1));
}

#[tokio::test]
async fn a_node_outlives_its_redis_and_hears_every_channel_again() {
    let server = Server::start();
    let node = Node::up(&server.url(), Settings::default()).await;
    let names: Vec<_> = (0..2500).map(|n| format!("t{n}")).collect();
    let wanted: Vec<_> = names.iter().map(|name| node.interest.want(&topic(name))).collect();
    timeout(PATIENCE, join_all(wanted.iter().map(countersign_backplane::Wanted::confirmed))).await.unwrap();
    for round in 1..=2 {
        server.process.kill();
        node.ear.until("the interruption", |memory| memory.interrupted == round).await;
        node.until_link(false).await;
        // A wish that comes while nothing is subscribed is part of what is resumed.
        let late = node.interest.want(&topic(&format!("late{round}")));
        server.process.start_again();
        node.ear.until("the resumption", |memory| memory.resumed == round).await;
        node.until_link(true).await;
        assert_eq!(late.confirmed().now_or_never(), Some(()));
        let results = node.publish_all(names.iter().map(|name| publication(name, name, 5)).collect()).await;
        assert!(results.iter().all(|result| result.as_ref().unwrap().nodes == Some(1)), "round {round}");
        node.ear.until("every message", |memory| memory.heard.len() == names.len() * round).await;
    }
    let memory = node.ear.memory();
    assert_eq!((memory.interrupted, memory.resumed, memory.refused), (2, 2, 0));
    assert_eq!(memory.connected, 6, "every connection of both audiences was counted");
}

#[tokio::test]
async fn a_cut_subscriber_comes_back_with_all_channels() {
    let server = Server::start();
    let node = Node::up(&server.url(), Settings::default()).await;
    let mut client = server.client().await;
    let _wanted = [node.hear(topic("a")).await, node.hear(Channel::Broadcast).await, node.hear(topic("c")).await];
    for round in 1..=5 {
        let killed: u64 = client.ask("CLIENT KILL TYPE pubsub").await;
        assert!(killed >= 1, "that for crowds, and that for persons unless it is still on its way back");
        node.ear.until("the resumption", |memory| memory.resumed == round).await;
        let counts: Vec<(String, u64)> = client.ask("PUBSUB NUMSUB cs:topic:a cs:broadcast cs:topic:c").await;
        assert!(counts.iter().all(|(_, count)| *count == 1), "{counts:?}");
        assert_eq!(node.ear.memory().interrupted, round);
    }
    node.until_link(true).await;
}

/// The address of a user, and what is said to it.
fn personal(text: &str) -> Publication {
    let address = Address::User(user("alice"));
    Publication { address, message: message(text), history: HistoryPolicy { size: 0, ttl: Duration::ZERO }, key: None }
}

#[tokio::test]
async fn a_person_does_not_wait_behind_a_crowd() {
    let server = Server::start();
    let node = Node::up(&server.url(), Settings::default()).await;
    let alice = Channel::User(user("alice"));
    let _wanted = [node.hear(topic("a")).await, node.hear(alice.clone()).await];
    node.ear.busy_with_a_crowd.send_replace(true);
    node.publish(publication("a", "to everybody", 0)).await.unwrap();
    node.publish(personal("to alice")).await.unwrap();
    let memory = node.ear.until("the person's message", |memory| !memory.on(&alice).is_empty()).await;
    assert!(memory.on(&topic("a")).is_empty(), "nobody has taken it yet");
    node.ear.busy_with_a_crowd.send_replace(false);
    node.ear.until("the crowd's message", |memory| !memory.on(&topic("a")).is_empty()).await;
}

#[tokio::test]
async fn what_cuts_off_a_crowd_cuts_off_no_person() {
    let server = Server::start();
    let node = Node::up(&server.url(), Settings::default()).await;
    let mut client = server.client().await;
    let alice = Channel::User(user("alice"));
    let _wanted = [node.hear(topic("a")).await, node.hear(topic("b")).await, node.hear(alice.clone()).await];
    // The node's own channel, that of all nodes, and two topics; the other has the node's own, and one user.
    let list: String = client.ask("CLIENT LIST TYPE pubsub").await;
    let crowd = list.lines().find(|line| line.contains(" sub=4 ")).expect("a connection with four channels");
    let id = crowd.split(' ').find_map(|field| field.strip_prefix("id=")).expect("it has an id");
    let killed: u64 = client.ask(&format!("CLIENT KILL ID {id}")).await;
    assert_eq!(killed, 1);
    node.ear.until("the interruption", |memory| memory.interrupted == 1).await;
    node.publish(personal("to alice")).await.unwrap();
    let memory = node.ear.until("the person's message", |memory| !memory.on(&alice).is_empty()).await;
    assert_eq!(memory.interruptions, [Audience::Crowd]);
    node.ear.until("the resumption", |memory| memory.resumed == 1).await;
    node.until_link(true).await;
}

#[tokio::test]
async fn a_subscription_that_is_silently_dead_is_found_by_the_probe_and_made_again() {
    let server = Server::start();
    let proxy = Proxy::to(server.process.port()).await;
    let node = Node::up(&proxy.url(), Settings::default()).await;
    let _wanted = node.hear(topic("a")).await;
    // The connection is whole and Redis sends to it, but nothing comes through: commands go on as if nothing were wrong.
    proxy.silence();
    assert_eq!(node.publish(publication("a", "into the void", 0)).await.unwrap().nodes, Some(1));
    node.until_link(false).await;
    node.ear.until("the resumption", |memory| memory.resumed == 1).await;
    let back = Instant::now();
    node.until_link(true).await;
    // The new session is proved at once, which takes milliseconds. A probe that was sent to the old one was waited for
    // three seconds.
    assert!(back.elapsed() < Duration::from_secs(1), "the node was not ready for {:?} too long", back.elapsed());
    node.publish(publication("a", "heard again", 0)).await.unwrap();
    let memory = node.ear.until("the message", |memory| !memory.on(&topic("a")).is_empty()).await;
    assert_eq!(memory.on(&topic("a")), [message("heard again").as_str()]);
    assert_eq!((memory.interrupted, memory.resumed), (1, 1));
}

/// A pause between two tries is two seconds at most; the rest is for connecting, subscribing and a probe on a busy machine.
const BACK_WITHIN: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_redis_that_comes_back_is_used_as_soon_as_it_is_tried_again() {
    let server = Server::start();
    let node = Node::up(&server.url(), Settings::default()).await;
    for away in [300, 1200, 2500] {
        server.process.kill();
        node.until_link(false).await;
        // An absence of a length of its own, so that it ends at another point of the node's pauses.
        tokio::time::sleep(Duration::from_millis(away)).await;
        server.process.start_again();
        let back = Instant::now();
        node.until_link(true).await;
        assert!(back.elapsed() < BACK_WITHIN, "after {away} ms it took {:?}", back.elapsed());
    }
}

#[tokio::test]
async fn a_paused_redis_takes_the_link_down_and_nothing_hangs() {
    let server = Server::start();
    let node = Node::up(&server.url(), Settings::default()).await;
    let question = question("alice", "t");
    node.open(question.clone()).await.unwrap();
    server.pause();
    let began = Instant::now();
    let answer = node.confirm(confirm(question.id, "alice")).await;
    assert!(matches!(answer, Err(BackplaneError::Unavailable(_))), "{answer:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "a call ends within its patience");
    node.until_link(false).await;
    server.go_on();
    node.until_link(true).await;
    // What was sent before may have been carried out meanwhile: the answer is one of ours in any case.
    let decided = node.read(question.id).await.unwrap().unwrap().decision;
    let answer = node.confirm(confirm(question.id, "alice")).await.unwrap();
    match decided {
        Some(decision) => assert_eq!(answer, Confirmed::AlreadyResolved(decision)),
        None => assert!(matches!(answer, Confirmed::Accepted(_))),
    }
    assert!(node.ear.memory().observations.iter().any(|seen| matches!(seen, Observation::CommandFailed(_))));
}

#[tokio::test]
async fn forgotten_scripts_are_loaded_again() {
    let server = Server::start();
    let node = Node::up(&server.url(), Settings::default()).await;
    let mut client = server.client().await;
    let flush = || server.process.command(&[b"SCRIPT", b"FLUSH"]);
    flush();
    let asked = question("alice", "t");
    assert!(node.open(asked.clone()).await.unwrap().new);
    flush();
    assert!(matches!(node.confirm(confirm(asked.id, "alice")).await.unwrap(), Confirmed::Accepted(_)));
    flush();
    // In a pipeline the library would not load them.
    let batch: Vec<_> = (0..50).map(|n| publication("a", &n.to_string(), 100)).collect();
    let offsets: Vec<_> =
        node.publish_all(batch).await.into_iter().map(|r| r.unwrap().position.unwrap().offset).collect();
    assert_eq!(offsets, (1..=50).collect::<Vec<_>>(), "in order, each once");
    flush();
    assert_eq!(node.cancel_tasks_named(&task("t"), &Canceller::Producer).await.unwrap(), []);
    flush();
    node.sweep().await.unwrap();
    let errors: String = client.ask("INFO errorstats").await;
    assert!(errors.contains("errorstat_NOSCRIPT"), "the test flushed what was in use: {errors}");
}

#[tokio::test]
async fn a_full_redis_refuses_and_nothing_is_written_or_heard() {
    let server = Server::start();
    let node = Node::up(&server.url(), Settings::default()).await;
    let _wanted = node.hear(Channel::User(user("alice"))).await;
    let open = question("alice", "before");
    node.open(open.clone()).await.unwrap();
    let mut client = server.client().await;
    let keys = client.keys().await;
    let _: () = client.ask("CONFIG SET maxmemory 1").await;
    let refused = question("alice", "t");
    let answer = node.open(refused.clone()).await;
    assert!(matches!(&answer, Err(BackplaneError::Full(why)) if why.contains("OOM")), "{answer:?}");
    for answer in node.publish_all(vec![publication("a", "x", 10), publication("a", "y", 10)]).await {
        assert!(matches!(answer, Err(BackplaneError::Full(_))), "{answer:?}");
    }
    assert!(matches!(node.confirm(confirm(open.id, "alice")).await, Err(BackplaneError::Full(_))));
    let _: () = client.ask("CONFIG SET maxmemory 0").await;
    assert_eq!(client.keys().await, keys, "a refusal has written nothing");
    assert_eq!(node.read(open.id).await.unwrap().unwrap().status(), Status::Pending);
    assert!(node.open(refused).await.unwrap().new, "the same id opens it afterwards");
    let heard = node.ear.until("the questions", |memory| memory.heard.len() >= 2).await;
    assert_eq!(heard.heard.len(), 2, "the refused try was heard by nobody");
}

#[tokio::test]
async fn a_key_of_another_type_is_said_to_be_unreadable_and_nothing_is_written() {
    let server = Server::start();
    let node = Node::up(&server.url(), Settings::default()).await;
    let mut client = server.client().await;
    let asked = question("alice", "t");
    let tag = format!("cs:{{p{}}}", asked.id.partition());
    for key in ["open:alice", "deadlines", "task:alice:t", "tasks:t"] {
        let key = format!("{tag}:{key}");
        let _: () = client.ask(&format!("SET {key} x")).await;
        let answer = node.open(asked.clone()).await;
        assert!(
            matches!(&answer, Err(BackplaneError::Unreadable(why)) if why.contains("WRONGTYPE")),
            "{key}: {answer:?}"
        );
        assert_eq!(client.keys().await, [key.as_str()], "nothing was written");
        let _: u64 = client.ask(&format!("DEL {key}")).await;
    }
    for key in ["history", "meta"] {
        let key = format!("cs:{{topic%3Aa}}:{key}");
        let _: () = client.ask(&format!("SET {key} x")).await;
        let answer = node.publish(publication("a", "x", 10)).await;
        assert!(matches!(&answer, Err(BackplaneError::Unreadable(_))), "{key}: {answer:?}");
        assert_eq!(client.keys().await, [key.as_str()], "nothing was written");
        let _: u64 = client.ask(&format!("DEL {key}")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn futures_dropped_under_load_never_yield_anothers_reply() {
    let server = Server::start();
    let node = Node::up(&server.url(), Settings::default()).await;
    let users: Vec<_> = (0..40).map(|n| format!("user{n}")).collect();
    let mut ids = Vec::new();
    for user in &users {
        let question = question(user, user);
        node.open(question.clone()).await.unwrap();
        ids.push((user.clone(), question.id));
    }
    let mut checked = 0;
    for round in 0..40 {
        let mut reads: FuturesUnordered<_> = ids
            .iter()
            .cycle()
            .take(400)
            .map(|(user, id)| {
                let node = &node;
                async move { (user, *id, node.read(*id).await.unwrap().unwrap()) }
            })
            .collect();
        // A part of them is answered, the others are dropped with their requests under way.
        for _ in 0..(round * 7) % 200 {
            let (owner, id, callback) = reads.next().await.unwrap();
            assert_eq!((callback.user.as_str(), callback.id), (owner.as_str(), id));
            checked += 1;
        }
        drop(reads);
        for (owner, id) in &ids {
            assert_eq!(node.read(*id).await.unwrap().unwrap().user.as_str(), owner);
        }
    }
    assert!(checked > 1000, "{checked} replies were compared");
}

#[tokio::test]
async fn a_reply_that_is_lost_is_asked_for_again_and_nothing_is_done_twice() {
    let server = Server::start();
    let proxy = Proxy::to(server.process.port()).await;
    let node = Node::up(&proxy.url(), Settings::default()).await;
    let alice = Channel::User(user("alice"));
    let _wanted = node.hear(alice.clone()).await;
    let (asked, other) = (question("alice", "t"), question("alice", "t"));
    proxy.lose_replies(2);
    let opened = node.open(asked.clone()).await.unwrap();
    assert_eq!(
        (opened.new, opened.callback.id),
        (true, asked.id),
        "the call that opened it says so, whichever try did"
    );
    assert!(!node.open(asked.clone()).await.unwrap().new, "the same id in another call is a repeat");
    proxy.lose_replies(1);
    assert!(matches!(node.confirm(confirm(asked.id, "alice")).await.unwrap(), Confirmed::Accepted(_)));
    assert!(matches!(node.confirm(confirm(asked.id, "alice")).await.unwrap(), Confirmed::AlreadyResolved(_)));
    node.open(other.clone()).await.unwrap();
    proxy.lose_replies(1);
    assert!(matches!(node.withdraw(other.id).await.unwrap(), Withdrawn::Closed(_)));
    node.open(question("alice", "t")).await.unwrap();
    proxy.lose_replies(1);
    let cancelled = node.cancel_task(&user("alice"), &task("t"), &Canceller::Producer).await.unwrap();
    assert_eq!(cancelled.callbacks_closed, 1, "not the nothing that was left for the second try");
    node.lift(Some(&user("alice")), &task("t")).await.unwrap();
    node.open(question("alice", "t")).await.unwrap();
    proxy.lose_replies(1);
    let cancelled = node.cancel_tasks_named(&task("t"), &Canceller::Producer).await.unwrap();
    assert_eq!(cancelled.iter().map(|task| task.callbacks_closed).collect::<Vec<_>>(), [1]);
    assert_eq!(proxy.lost(), 6);
    let heard = node.ear.until("everything", |memory| memory.on(&alice).len() >= 10).await;
    assert_eq!(heard.on(&alice).len(), 10, "four questions, four ends, two cancellations, each once");
}

#[tokio::test]
async fn a_keyed_message_whose_reply_is_lost_is_published_once_and_a_keyless_one_is_not_repeated() {
    let server = Server::start();
    let proxy = Proxy::to(server.process.port()).await;
    let node = Node::up(&proxy.url(), Settings::default()).await;
    let _wanted = node.hear(topic("a")).await;
    let key = |key| Some(IdempotencyKey::parse(key).unwrap());
    proxy.lose_replies(1);
    let published = node.publish(Publication { key: key("k"), ..publication("a", "one", 100) }).await.unwrap();
    assert_eq!((published.position.unwrap().offset, published.nodes), (1, None), "the repeat of what was done");
    proxy.lose_replies(1);
    let batch = ["k1", "k2"].map(|name| Publication { key: key(name), ..publication("a", name, 100) });
    let offsets = node.publish_all(batch.to_vec()).await.into_iter().map(|one| one.unwrap().position.unwrap().offset);
    assert_eq!(offsets.collect::<Vec<_>>(), [2, 3]);
    proxy.lose_replies(1);
    let unknown = node.publish(publication("a", "keyless", 100)).await;
    assert!(matches!(unknown, Err(BackplaneError::Unavailable(_))), "{unknown:?}");
    assert_eq!(proxy.lost(), 3);
    let heard = node.ear.until("every message", |memory| memory.on(&topic("a")).len() >= 4).await;
    assert_eq!(heard.on(&topic("a")).len(), 4);
}

#[tokio::test]
async fn stopping_ends_every_connection() {
    let server = Server::start();
    let node = Node::up(&server.url(), Settings::default()).await;
    let mut client = server.client().await;
    assert!(client.ask::<String>("CLIENT LIST").await.lines().count() > 3);
    timeout(PATIENCE, node.stop()).await.expect("stopping ends");
    drop(node);
    eventually("the end of the node's connections", || {
        let mut client = client.clone();
        async move { (client.ask::<String>("CLIENT LIST").await.lines().count() == 1).then_some(()) }
    })
    .await;
}

#[tokio::test]
async fn a_port_without_redis_is_named_in_the_reason() {
    let node = Node::start(&format!("redis://127.0.0.1:{}", free_port()), Settings::default());
    let mut link = node.link();
    let refused = |link: &countersign_backplane::Link| matches!(link, countersign_backplane::Link::Down(why) if why.contains("refused"));
    timeout(PATIENCE, link.wait_for(refused)).await.expect("the reason is told").unwrap();
}

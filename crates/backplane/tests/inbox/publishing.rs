//! Publishing and deleting are one step: nothing comes twice, whoever repeats, and nothing is deleted that was not published.

use std::{sync::Arc, time::Duration};

use countersign_backplane::{
    BackplaneError, Channel, History, Inbox, Messages, Publication, Wanted,
    inbox::{Letter, Progress, Taken},
    messages::HistoryPolicy,
};
use countersign_protocol::{Address, IdempotencyKey, Payload, Position};

use crate::{
    entries::{LONGEST, add, bodies, left, node},
    node::{Node, eventually, topic},
    server::{Client, Server},
};

const NONE: usize = 0;

/// A message of an entry, with so much history.
fn letter(id: &str, address: &str, text: &str, size: usize) -> Letter {
    let message = Payload::parse(text.to_owned().into()).unwrap();
    let history = HistoryPolicy { size, ttl: Duration::from_secs(60) };
    let publication = Publication { address: Address::parse(address).unwrap(), message, history, key: None };
    Letter { id: id.to_owned(), publication }
}

fn keyed(letter: Letter, key: &str) -> Letter {
    let key = Some(IdempotencyKey::parse(key).unwrap());
    Letter { publication: Publication { key, ..letter.publication }, ..letter }
}

/// `{"n":…}` for each of the entries, all to one address.
fn letters(taken: &Taken, address: &str, size: usize) -> Vec<Letter> {
    let texts = bodies(&taken.entries).into_iter().map(|body| format!(r#"{{"n":{body}}}"#));
    taken.entries.iter().zip(texts).map(|(entry, text)| letter(&entry.id, address, &text, size)).collect()
}

fn lines(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers.into_iter().map(|n| format!(r#"{{"n":{n}}}"#)).collect()
}

/// A node with the lease that hears the topic `t`.
async fn holder(server: &Server) -> (Node, Arc<dyn Inbox>, Wanted) {
    let (node, inbox) = node(server, "n1").await;
    let wanted = node.hear(topic("t")).await;
    assert!(inbox.hold().await.unwrap());
    (node, inbox, wanted)
}

async fn add_all(client: &mut Client, numbers: std::ops::Range<u64>) {
    for n in numbers {
        add(client, n).await;
    }
}

async fn all(inbox: &Arc<dyn Inbox>) -> Taken {
    eventually("entries", || async {
        Some(inbox.next(100, LONGEST).await.unwrap()).filter(|taken| !taken.entries.is_empty())
    })
    .await
}

/// What came to the topic `t`, up to a message that is published for this.
async fn heard(node: &Node) -> Vec<String> {
    let end = format!(r#"{{"end":{}}}"#, fastrand::u64(..));
    node.publish(letter("", "topic:t", &end, NONE).publication).await.unwrap();
    let memory =
        node.ear.until("the end", |memory| memory.on(&topic("t")).last().is_some_and(|last| *last == end)).await;
    memory.on(&topic("t")).into_iter().filter(|text| !text.contains("end")).collect()
}

async fn history(node: &Node, address: &str) -> History {
    node.history(&Address::parse(address).unwrap(), &Position::beginning(), 100).await.unwrap()
}

#[tokio::test]
async fn what_was_published_is_not_there_any_more_and_a_repeat_publishes_nothing() {
    let server = Server::start();
    for size in [NONE, 100] {
        let (node, inbox, _wanted) = holder(&server).await;
        let mut client = server.client().await;
        add_all(&mut client, 0..5).await;
        let taken = all(&inbox).await;
        let letters = letters(&taken, "topic:t", size);
        assert_eq!(inbox.publish(&taken.stream, &letters).await.unwrap(), Progress::Done(5));
        assert_eq!(left(&mut client).await, 0);
        for repeated in [&letters[..], &letters[2..], &letters[4..]] {
            assert_eq!(inbox.publish(&taken.stream, repeated).await.unwrap(), Progress::Moved);
        }
        add_all(&mut client, 5..6).await;
        assert_eq!(inbox.publish(&taken.stream, &letters).await.unwrap(), Progress::Moved, "with others behind them");
        assert_eq!(left(&mut client).await, 1);
        assert_eq!(heard(&node).await, lines(0..5));
        // That the same message twice would have been heard twice:
        node.publish(letters[4].publication.clone()).await.unwrap();
        assert_eq!(heard(&node).await, lines([0, 1, 2, 3, 4, 4]));
        drop(client.ask::<String>("FLUSHALL").await);
    }
}

#[tokio::test]
async fn only_what_the_inbox_begins_with_is_published_and_nothing_behind_it_is_deleted() {
    let server = Server::start();
    let (node, inbox, _wanted) = holder(&server).await;
    let mut client = server.client().await;
    add_all(&mut client, 0..5).await;
    let taken = all(&inbox).await;
    let letters = letters(&taken, "topic:t", NONE);
    assert_eq!(inbox.publish(&taken.stream, &letters[1..]).await.unwrap(), Progress::Moved);
    assert_eq!(inbox.publish(&taken.stream, &letters[..2]).await.unwrap(), Progress::Done(2));
    inbox.done(&[letters[2].id.clone()]).await.unwrap();
    assert_eq!(inbox.publish(&taken.stream, &letters[3..4]).await.unwrap(), Progress::Done(1));
    assert_eq!((heard(&node).await, bodies(&all(&inbox).await.entries)), (lines([0, 1, 3]), vec!["4".to_owned()]));
}

#[tokio::test]
async fn a_holder_that_stood_still_and_was_overtaken_publishes_nothing_twice() {
    let server = Server::start();
    let (first, paused, _wanted) = holder(&server).await;
    let (_second, other) = node(&server, "n2").await;
    let mut client = server.client().await;
    add_all(&mut client, 0..4).await;
    let taken = all(&paused).await;
    let letters = letters(&taken, "topic:t", NONE);
    // As if it had run out.
    let _: u64 = client.ask("DEL cs:inbox:lease").await;
    assert!(other.hold().await.unwrap());
    let again = all(&other).await;
    assert_eq!(again, taken, "what it left undone");
    // It goes on before the other one has published, and after.
    assert_eq!(paused.publish(&taken.stream, &letters).await.unwrap(), Progress::Moved, "without the lease");
    assert_eq!(other.publish(&again.stream, &letters[..2]).await.unwrap(), Progress::Done(2));
    assert_eq!(paused.publish(&taken.stream, &letters[2..]).await.unwrap(), Progress::Moved, "without the lease");
    other.release().await.unwrap();
    assert_eq!(paused.publish(&taken.stream, &letters[2..]).await.unwrap(), Progress::Moved, "nobody has it");
    assert!(paused.hold().await.unwrap());
    assert_eq!(paused.publish(&taken.stream, &letters).await.unwrap(), Progress::Moved, "two of them are done");
    assert_eq!(paused.publish(&taken.stream, &letters[2..]).await.unwrap(), Progress::Done(2));
    assert_eq!(heard(&first).await, lines(0..4));
}

#[tokio::test]
async fn a_stream_that_began_anew_loses_nothing_to_what_was_in_hand_of_the_one_before() {
    let server = Server::start();
    let (node, inbox, _wanted) = holder(&server).await;
    let mut client = server.client().await;
    let begin = async |client: &mut Client, body: u64| {
        let _: u64 = client.ask("DEL cs:inbox").await;
        for id in ["5-1", "5-2"] {
            drop(client.ask::<String>(&format!("XADD cs:inbox {id} op broadcast body {body}")).await);
        }
        all(&inbox).await
    };
    let old = begin(&mut client, 1).await;
    let new = begin(&mut client, 2).await;
    assert_ne!(old.stream, new.stream);
    let in_hand = letters(&old, "topic:t", NONE);
    assert_eq!(inbox.publish(&old.stream, &in_hand).await.unwrap(), Progress::Moved);
    assert_eq!(left(&mut client).await, 2);
    assert_eq!(inbox.publish(&new.stream, &letters(&new, "topic:t", NONE)).await.unwrap(), Progress::Done(2));
    assert_eq!(heard(&node).await, lines([2, 2]));

    // That without the stream's name new entries would have been deleted for old ones:
    let newer = begin(&mut client, 3).await;
    assert_eq!(inbox.publish(&newer.stream, &in_hand).await.unwrap(), Progress::Done(2));
    assert_eq!((heard(&node).await, left(&mut client).await), (lines([2, 2, 1, 1]), 0));
}

#[tokio::test]
async fn with_and_without_keys_and_history_the_order_is_that_of_the_inbox() {
    let server = Server::start();
    let (node, inbox, _wanted) = holder(&server).await;
    let mut client = server.client().await;
    add_all(&mut client, 0..8).await;
    let taken = all(&inbox).await;
    let mut mixed: Vec<Letter> = letters(&taken, "topic:t", NONE);
    for (at, size, key) in [(1, 3, None), (2, NONE, Some("a")), (3, 3, Some("b")), (5, 3, None), (6, 3, None)] {
        let Letter { id, publication } = mixed[at].clone();
        let fresh = letter(&id, "topic:t", publication.message.as_str(), size);
        mixed[at] = key.map_or(fresh.clone(), |key| keyed(fresh, key));
    }
    assert_eq!(inbox.publish(&taken.stream, &mixed).await.unwrap(), Progress::Done(8));
    assert_eq!(heard(&node).await, lines(0..8));
    let kept = history(&node, "topic:t").await;
    let offsets: Vec<_> = kept.messages.iter().map(|(offset, _)| *offset).collect();
    let texts: Vec<_> = kept.messages.iter().map(|(_, message)| message.as_str().to_owned()).collect();
    assert_eq!((kept.position.offset, offsets, texts), (4, vec![2, 3, 4], lines([3, 5, 6])));
    for key in ["cs:{topic%3At}:history", "cs:{topic%3At}:meta", "cs:{topic%3At}:idem:a"] {
        assert!(client.ask::<i64>(&format!("PTTL {key}")).await > 0, "{key} ends on its own");
    }

    // The keys are those that every door has, and so are the numbers.
    let through_another_door = node.publish(mixed[3].publication.clone()).await.unwrap();
    assert_eq!(through_another_door.position.map(|position| position.offset), Some(2));
    let next = node.publish(letter("", "topic:t", "{}", 3).publication).await.unwrap();
    assert_eq!(next.position, Some(Position::new(kept.position.epoch, 5)));
    add_all(&mut client, 8..10).await;
    let taken = all(&inbox).await;
    let [first, second] = &letters(&taken, "topic:t", 3)[..] else { panic!("{taken:?}") };
    let repeated = keyed(Letter { publication: mixed[3].publication.clone(), ..first.clone() }, "b");
    assert_eq!(inbox.publish(&taken.stream, &[repeated, second.clone()]).await.unwrap(), Progress::Done(2));
    assert_eq!(history(&node, "topic:t").await.position.offset, 6);
}

#[tokio::test]
async fn what_is_wrong_stops_those_behind_it_and_is_told_when_it_is_the_first() {
    let server = Server::start();
    let (node, inbox, _wanted) = holder(&server).await;
    let mut client = server.client().await;
    drop(client.ask::<String>("SET cs:{topic%3Abroken}:meta text").await);
    drop(client.ask::<String>("SET cs:{topic%3Aworn}:history text").await);
    node.publish(keyed(letter("", "topic:t", r#"{"n":100}"#, NONE), "k").publication).await.unwrap();
    for wrong in ["conflict", "topic:broken", "topic:worn"] {
        let before = heard(&node).await.len();
        add_all(&mut client, 0..4).await;
        let taken = all(&inbox).await;
        let mut letters = letters(&taken, "topic:t", 10);
        let id = letters[2].id.clone();
        letters[2] = match wrong {
            "conflict" => keyed(letters[2].clone(), "k"),
            address => letter(&id, address, "{}", 10),
        };
        assert_eq!(inbox.publish(&taken.stream, &letters).await.unwrap(), Progress::Done(2), "{wrong}");
        let refused = inbox.publish(&taken.stream, &letters[2..]).await.unwrap_err();
        match wrong {
            "conflict" => assert_eq!(refused, BackplaneError::Conflict),
            _ => assert!(matches!(&refused, BackplaneError::Unreadable(why) if why.contains("WRONGTYPE")), "{refused}"),
        }
        assert_eq!(left(&mut client).await, 2, "{wrong}");
        inbox.bury(&id, "wrong").await.unwrap();
        assert_eq!(inbox.publish(&taken.stream, &letters[3..]).await.unwrap(), Progress::Done(1));
        assert_eq!(heard(&node).await[before..], lines([0, 1, 3]), "{wrong}");
    }
    assert_eq!(history(&node, "topic:t").await.position.offset, 9, "no number is left out");
}

#[tokio::test]
async fn a_full_redis_publishes_what_needs_no_room_and_refuses_the_rest_without_a_trace() {
    let server = Server::start();
    let (node, inbox, _wanted) = holder(&server).await;
    let mut client = server.client().await;
    add_all(&mut client, 0..3).await;
    let taken = all(&inbox).await;
    for needy in [letter("", "topic:t", r#"{"n":1}"#, 10), keyed(letter("", "topic:t", r#"{"n":1}"#, NONE), "k")] {
        let mut letters = letters(&taken, "topic:t", NONE);
        letters[1] = Letter { id: letters[1].id.clone(), ..needy };
        let rest = &letters[letters.len() - usize::try_from(left(&mut client).await).unwrap()..];
        let _: () = client.ask("CONFIG SET maxmemory 1").await;
        if rest.len() == 3 {
            assert_eq!(inbox.publish(&taken.stream, rest).await.unwrap(), Progress::Done(1));
        }
        let refused = inbox.publish(&taken.stream, &letters[1..]).await.unwrap_err();
        assert!(matches!(refused, BackplaneError::Full(_)), "{refused}");
        let _: () = client.ask("CONFIG SET maxmemory 0").await;
        assert_eq!(
            client.ask::<u64>("EXISTS cs:{topic%3At}:meta cs:{topic%3At}:history cs:{topic%3At}:idem:k").await,
            0
        );
        assert_eq!(heard(&node).await, lines([0]));
    }
    let letters = letters(&taken, "topic:t", 10);
    assert_eq!(inbox.publish(&taken.stream, &letters[1..]).await.unwrap(), Progress::Done(2));
    assert_eq!(heard(&node).await, lines(0..3));
}

#[tokio::test]
async fn the_longest_messages_are_published_together() {
    let server = Server::start();
    let (node, inbox, _wanted) = holder(&server).await;
    let mut client = server.client().await;
    let long = format!(r#"{{"text":"{}"}}"#, "x".repeat(1024 * 1024 - 11));
    for _ in 0..3 {
        add(&mut client, &long).await;
    }
    let mut published = 0;
    while published < 3 {
        let taken = inbox.next(100, 2 * long.len()).await.unwrap();
        let letters: Vec<_> = taken.entries.iter().map(|entry| letter(&entry.id, "topic:t", &long, 5)).collect();
        assert_eq!(inbox.publish(&taken.stream, &letters).await.unwrap(), Progress::Done(letters.len()));
        published += letters.len();
    }
    assert_eq!(heard(&node).await, vec![long; 3]);
    assert_eq!(left(&mut client).await, 0);
}

#[tokio::test]
async fn many_addresses_are_one_step_each_with_its_own_numbers() {
    let server = Server::start();
    let (node, inbox, _wanted) = holder(&server).await;
    let _broadcast = node.hear(Channel::Broadcast).await;
    let mut client = server.client().await;
    add_all(&mut client, 0..90).await;
    let taken = all(&inbox).await;
    let addresses = ["broadcast", "user:alice", "topic:t"];
    let letters: Vec<_> = letters(&taken, "topic:t", 100)
        .into_iter()
        .zip(addresses.into_iter().cycle())
        .map(|(each, address)| letter(&each.id, address, each.publication.message.as_str(), 100))
        .collect();
    assert_eq!(inbox.publish(&taken.stream, &letters).await.unwrap(), Progress::Done(90));
    for (first, address) in (0..).zip(addresses) {
        let kept = history(&node, address).await;
        assert!(kept.complete && kept.position.offset == 30, "{address}: {kept:?}");
        let texts: Vec<_> = kept.messages.iter().map(|(_, message)| message.as_str().to_owned()).collect();
        assert_eq!(texts, lines((first..90).step_by(3)), "{address}");
    }
    let memory = node.ear.until("broadcasts", |memory| memory.on(&Channel::Broadcast).len() == 30).await;
    let positions: Vec<_> = memory.heard.iter().filter(|heard| heard.channel == Channel::Broadcast).collect();
    assert!(positions.iter().zip(1..).all(|(heard, n)| heard.position.as_ref().is_some_and(|at| at.offset == n)));
}

//! Entries: order, the lease, what is left undone, and what is wrong.

use std::sync::Arc;

use countersign_backplane::{Doors, Inbox, Settings, inbox::InboxEntry, redis::RedisOptions};
use countersign_protocol::NodeId;

use crate::{
    node::{Node, eventually},
    server::{Client, Server},
};

pub(crate) const LONGEST: usize = 1000;

pub(crate) async fn node(server: &Server, name: &str) -> (Node, Arc<dyn Inbox>) {
    let options = RedisOptions::new(&server.url(), NodeId::parse(name).unwrap());
    let node = Node::with(options, Settings::default());
    node.until_link(true).await;
    let inbox = node.inbox().expect("Redis has an inbox");
    (node, inbox)
}

pub(crate) async fn add(client: &mut Client, body: impl std::fmt::Display) -> String {
    client.ask(&format!("XADD cs:inbox * op broadcast body {body}")).await
}

pub(crate) fn bodies(entries: &[InboxEntry]) -> Vec<String> {
    entries.iter().map(|entry| String::from_utf8(entry.fields[1].1.clone()).unwrap()).collect()
}

fn ids(entries: &[InboxEntry]) -> Vec<String> {
    entries.iter().map(|entry| entry.id.clone()).collect()
}

/// Takes the next entries that there are, however often it has to look.
async fn some(inbox: &Arc<dyn Inbox>, most: usize) -> Vec<InboxEntry> {
    eventually("entries", || async {
        let taken = inbox.next(most, LONGEST).await.unwrap();
        (!taken.entries.is_empty()).then_some(taken.entries)
    })
    .await
}

/// How many are not done, as Redis itself says.
pub(crate) async fn left(client: &mut Client) -> u64 {
    client.ask("XLEN cs:inbox").await
}

#[tokio::test]
async fn entries_come_in_order_and_again_until_they_are_done() {
    let server = Server::start();
    let (_node, inbox) = node(&server, "n1").await;
    let mut client = server.client().await;
    for n in 0..5 {
        add(&mut client, n).await;
    }
    assert!(inbox.hold().await.unwrap());
    let taken = inbox.next(3, LONGEST).await.unwrap();
    assert_eq!((bodies(&taken.entries), taken.waiting), (vec!["0".to_owned(), "1".into(), "2".into()], 5));
    assert_eq!(taken.entries[0].fields[0], ("op".to_owned(), b"broadcast".to_vec()));
    assert_eq!(taken.entries[0].length, "opbroadcastbody0".len());
    assert_eq!(inbox.next(3, LONGEST).await.unwrap(), taken, "none of them is done");
    inbox.done(&ids(&taken.entries)[..2]).await.unwrap();
    let rest = some(&inbox, 3).await;
    assert_eq!(bodies(&rest), ["2", "3", "4"], "what is done does not");
    assert_eq!(bodies(&inbox.after(&rest[0].id, 9, LONGEST).await.unwrap().entries), ["3", "4"]);
    assert_eq!(inbox.after(&rest[2].id, 9, LONGEST).await.unwrap().entries, [], "without waiting");
    inbox.done(&ids(&rest)).await.unwrap();
    assert_eq!(left(&mut client).await, 0);
}

#[tokio::test]
async fn an_entry_is_not_waited_for_longer_than_it_takes_to_come() {
    let server = Server::start();
    let (_node, inbox) = node(&server, "n1").await;
    let mut client = server.client().await;
    assert!(inbox.hold().await.unwrap());
    assert_eq!(inbox.next(3, LONGEST).await.unwrap().entries, [], "and for about a second at most");
    let waiting = tokio::spawn({
        let inbox = Arc::clone(&inbox);
        async move { some(&inbox, 3).await }
    });
    eventually("a blocked reader", || {
        let mut client = client.clone();
        async move { client.ask::<String>("INFO clients").await.contains("blocked_clients:1\r\n").then_some(()) }
    })
    .await;
    add(&mut client, "x").await;
    assert_eq!(bodies(&waiting.await.unwrap()), ["x"]);
}

#[tokio::test]
async fn one_node_reads_and_another_goes_on_where_it_died() {
    let server = Server::start();
    let (_first, holder) = node(&server, "n1").await;
    let (_second, other) = node(&server, "n2").await;
    let mut client = server.client().await;
    for n in 0..6 {
        add(&mut client, n).await;
    }
    assert!(holder.hold().await.unwrap());
    assert!(!other.hold().await.unwrap(), "somebody else has it");
    assert_eq!(other.next(9, LONGEST).await.unwrap().entries, [], "who does not hold it takes nothing");
    let taken = some(&holder, 4).await;
    holder.done(&ids(&taken)[..2]).await.unwrap();

    // The first stands still from here on: its lease runs out.
    eventually("the end of a lease that nobody renews", || async { other.hold().await.unwrap().then_some(()) }).await;
    assert_eq!(bodies(&some(&other, 9).await), ["2", "3", "4", "5"], "what was left undone is first");
    assert!(!holder.hold().await.unwrap());
    assert_eq!(holder.next(9, LONGEST).await.unwrap().entries, [], "a holder that comes back takes nothing more");
    // What it had in hand it may still finish, and bury: that is done once.
    holder.done(&ids(&taken)[2..3]).await.unwrap();
    holder.bury(&taken[3].id, "wrong").await.unwrap();
    other.bury(&taken[3].id, "wrong").await.unwrap();
    assert_eq!(client.ask::<u64>("XLEN cs:inbox:dead").await, 1);
    let rest = some(&other, 9).await;
    assert_eq!(bodies(&rest), ["4", "5"]);
    other.done(&ids(&rest)).await.unwrap();
    assert_eq!(left(&mut client).await, 0);

    other.release().await.unwrap();
    assert!(holder.hold().await.unwrap(), "given back is free at once");
    other.release().await.unwrap();
    assert!(!other.hold().await.unwrap(), "nobody gives back what another holds");
}

#[tokio::test]
async fn what_is_wrong_is_kept_with_its_reason() {
    let server = Server::start();
    let (_node, inbox) = node(&server, "n1").await;
    let mut client = server.client().await;
    let long = "x".repeat(3 * 1024 * 1024);
    let first = add(&mut client, "a").await;
    let second = add(&mut client, &long).await;
    add(&mut client, "b").await;
    let many: Vec<String> = (0..3000).map(|n| format!("f{n} v")).collect();
    let third: String = client.ask(&format!("XADD cs:inbox * {}", many.join(" "))).await;
    assert!(inbox.hold().await.unwrap());
    let taken = some(&inbox, 9).await;
    let (entry, length) = (&taken[1], long.len() + "opbroadcastbody".len());
    assert_eq!((&entry.id, entry.fields.len(), entry.length), (&second, 0, length), "too long to be sent");
    assert_eq!(taken[0].beginnings, [], "it is whole");
    let beginning = (&entry.beginnings[0], &entry.beginnings[1].0, entry.beginnings[1].1.len());
    assert_eq!(beginning, (&("op".to_owned(), b"broadcast".to_vec()), &"body".to_owned(), 1024));
    for (id, reason) in [(&first, "op: expected nothing"), (&second, "too long"), (&third, "nonsense")] {
        inbox.bury(id, reason).await.unwrap();
    }
    assert_eq!(bodies(&some(&inbox, 9).await), ["b"], "the others are not concerned");
    let dead: Vec<(String, Vec<String>)> = client.ask("XRANGE cs:inbox:dead - +").await;
    assert_eq!(dead[0].1, ["id", &first, "reason", "op: expected nothing", "op", "broadcast", "body", "a"]);
    assert_eq!(dead[1].1[7].len(), 1024 * 1024, "cut");
    assert_eq!((dead[2].1[1].as_str(), dead[2].1.len()), (third.as_str(), 2004));
    let ttl: i64 = client.ask("PTTL cs:inbox:dead").await;
    assert!(ttl > 0, "dead letters end on their own");
    let lease: i64 = client.ask("PTTL cs:inbox:lease").await;
    assert!((1..=5000).contains(&lease), "{lease}");
}

#[tokio::test]
async fn a_redis_that_has_forgotten_everything_is_an_empty_inbox() {
    let server = Server::start();
    let (_node, inbox) = node(&server, "n1").await;
    let mut client = server.client().await;
    add(&mut client, 1).await;
    assert!(inbox.hold().await.unwrap());
    let taken = some(&inbox, 9).await;
    for forget in ["FLUSHALL", "DEL cs:inbox"] {
        drop(client.ask::<redis::Value>(forget).await);
        inbox.done(&ids(&taken)).await.unwrap();
        inbox.bury(&taken[0].id, "gone").await.unwrap();
        assert!(inbox.hold().await.unwrap(), "{forget}");
        add(&mut client, "new").await;
        let again = some(&inbox, 9).await;
        assert_eq!(bodies(&again), ["new"], "{forget}");
        inbox.done(&ids(&again)).await.unwrap();
    }
    assert_eq!(client.ask::<u64>("EXISTS cs:inbox:dead").await, 0);
}

#[tokio::test]
async fn an_entry_that_somebody_deletes_is_done() {
    let server = Server::start();
    let (_node, inbox) = node(&server, "n1").await;
    let mut client = server.client().await;
    for n in 0..3 {
        add(&mut client, n).await;
    }
    assert!(inbox.hold().await.unwrap());
    let taken = some(&inbox, 2).await;
    let _: u64 = client.ask(&format!("XDEL cs:inbox {}", taken[0].id)).await;
    assert_eq!(bodies(&some(&inbox, 9).await), ["1", "2"]);
    let _: u64 = client.ask("XTRIM cs:inbox MAXLEN 0").await;
    assert_eq!(inbox.next(9, LONGEST).await.unwrap().entries, []);
    assert_eq!(left(&mut client).await, 0);
}

#[tokio::test]
async fn a_look_brings_few_bytes_however_long_the_entries_are() {
    let server = Server::start();
    let (_node, inbox) = node(&server, "n1").await;
    let mut client = server.client().await;
    let body = "x".repeat(300 * 1024);
    for _ in 0..20 {
        add(&mut client, &body).await;
    }
    assert!(inbox.hold().await.unwrap());
    let mut looks = 0;
    loop {
        let taken = inbox.next(1000, 400 * 1024).await.unwrap();
        if taken.entries.is_empty() {
            break;
        }
        assert!(taken.entries.len() <= 4, "{} entries of {} bytes", taken.entries.len(), body.len());
        inbox.done(&ids(&taken.entries)).await.unwrap();
        looks += 1;
    }
    assert!(looks >= 5 && left(&mut client).await == 0, "{looks} looks");
}

#[tokio::test]
async fn an_inbox_without_entries_is_soon_no_key() {
    let server = Server::start();
    let (_node, inbox) = node(&server, "n1").await;
    let mut client = server.client().await;
    assert!(inbox.hold().await.unwrap());
    assert!(inbox.next(10, LONGEST).await.unwrap().entries.is_empty());
    assert_eq!(client.ask::<u64>("EXISTS cs:inbox").await, 0, "to look at it makes no key");
    let young = add(&mut client, "young").await;
    assert_eq!(ids(&some(&inbox, 10).await), [young.as_str()]);
    inbox.done(&[young]).await.unwrap();
    assert!(inbox.next(10, LONGEST).await.unwrap().entries.is_empty());
    assert_eq!(client.ask::<u64>("EXISTS cs:inbox").await, 1, "an id of this moment must not be given again");
    let _: u64 = client.ask("DEL cs:inbox").await;
    // An entry of long ago.
    let old: String = client.ask("XADD cs:inbox 1000-0 op broadcast body old").await;
    assert_eq!(ids(&some(&inbox, 10).await), [old.as_str()]);
    inbox.done(&[old]).await.unwrap();
    assert!(inbox.next(10, LONGEST).await.unwrap().entries.is_empty());
    assert_eq!(client.ask::<u64>("EXISTS cs:inbox").await, 0);
    let next = add(&mut client, "next").await;
    assert_eq!(ids(&some(&inbox, 10).await), [next]);
}

//! A receipt is a record: any node may write it and any may read it, and whoever waits for an acknowledgement hears of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use countersign_backplane::{
    BackplaneError, Channel, Settings,
    callbacks::Answerer,
    receipts::{MOST_ACKS, OpenReceipt, Receipt},
};
use countersign_protocol::{ConnectionId, MessageId, Partition};
use serde_json::json;
use tokio::sync::Barrier;

use crate::{
    fixture::{Fixture, Node, SHORT},
    words::{FAR, key, odd_names, user},
};

fn fresh(user_name: &str) -> OpenReceipt {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let id = MessageId::new(Partition::of(&user(user_name)), u128::from(NEXT.fetch_add(1, Ordering::Relaxed)));
    OpenReceipt { id, user: user(user_name), key: None, retention: FAR }
}

fn keyed(open: OpenReceipt, name: &str, digest: &str) -> OpenReceipt {
    OpenReceipt { key: Some((key(name), digest.to_owned())), ..open }
}

fn connection(name: &str) -> ConnectionId {
    ConnectionId::parse(name).unwrap()
}

fn of(user_name: &str) -> Answerer {
    Answerer::User(user(user_name))
}

async fn read(node: &Node, id: MessageId) -> Receipt {
    node.receipt(id).await.unwrap().expect("the receipt is kept")
}

fn who(receipt: &Receipt) -> Vec<(&str, &str)> {
    receipt.acks.iter().map(|ack| (ack.by.as_str(), ack.connection.as_str())).collect()
}

pub(crate) async fn a_receipt_says_how_far_its_message_has_come<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (one, two) = (fixture.node("one").await, fixture.node("two").await);
    let open = fresh("alice");
    let (queued, new) = one.open_receipt(open.clone()).await.unwrap();
    assert!(new);
    assert_eq!((queued.id, &queued.user, queued.delivered_at, who(&queued)), (open.id, &open.user, None, vec![]));
    assert_eq!(read(&two, open.id).await, queued);

    fixture.advance(Duration::from_millis(5)).await;
    one.delivered(open.id).await.unwrap();
    let delivered = read(&two, open.id).await;
    assert!(delivered.delivered_at.unwrap() > delivered.queued_at, "{delivered:?}");
    assert_eq!(delivered, Receipt { delivered_at: delivered.delivered_at, ..queued });
    fixture.advance(Duration::from_millis(5)).await;
    two.delivered(open.id).await.unwrap();
    assert_eq!(read(&one, open.id).await, delivered, "only the first time counts");

    assert!(two.ack(open.id, &of("alice"), &connection("phone")).await.unwrap());
    let acked = read(&one, open.id).await;
    assert_eq!((who(&acked), acked.delivered_at), (vec![("alice", "phone")], delivered.delivered_at));
    assert!(acked.acks[0].at > delivered.delivered_at.unwrap(), "{acked:?}");
}

pub(crate) async fn who_waits_on_another_node_hears_an_acknowledgement<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (one, two) = (fixture.node("one").await, fixture.node("two").await);
    let (open, other) = (fresh("alice"), fresh("alice"));
    let _acks = one.hear(&Channel::Ack(open.id)).await;
    one.open_receipt(open.clone()).await.unwrap();
    one.open_receipt(other.clone()).await.unwrap();
    for (id, name) in [(other.id, "phone"), (open.id, "phone"), (open.id, "phone"), (open.id, "laptop")] {
        assert!(two.ack(id, &of("alice"), &connection(name)).await.unwrap());
    }
    let heard = fixture.values_so_far(&one, &Channel::Ack(open.id)).await;
    assert_eq!(heard, vec![json!({"message_id": open.id}); 2], "once for each connection");
}

pub(crate) async fn a_connection_acknowledges_once_and_all_in_order<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let open = fresh("alice");
    node.open_receipt(open.clone()).await.unwrap();
    for name in ["z", "a", "z", "m", "a", "10", "9"] {
        assert!(node.ack(open.id, &of("alice"), &connection(name)).await.unwrap());
    }
    let receipt = read(&node, open.id).await;
    assert_eq!(who(&receipt), ["z", "a", "m", "10", "9"].map(|name| ("alice", name)));
    assert_eq!(receipt.delivered_at, Some(receipt.acks[0].at), "what is acknowledged was delivered");
}

pub(crate) async fn only_the_addressed_user_and_guests_find_a_receipt<F: Fixture>() {
    let fixture = F::start(Settings { guests: true, ..Settings::default() }).await;
    let node = fixture.node("one").await;
    let (open, unknown) = (fresh("alice"), fresh("alice"));
    let _acks = node.hear(&Channel::Ack(open.id)).await;
    node.open_receipt(open.clone()).await.unwrap();
    assert!(!node.ack(open.id, &of("mallory"), &connection("c")).await.unwrap());
    assert!(!node.ack(unknown.id, &of("alice"), &connection("c")).await.unwrap());
    assert!(!node.ack(unknown.id, &Answerer::Guest, &connection("c")).await.unwrap());
    node.delivered(unknown.id).await.unwrap();
    assert_eq!(node.receipt(unknown.id).await.unwrap(), None, "what does not exist is not made");
    assert_eq!(fixture.values_so_far(&node, &Channel::Ack(open.id)).await.len(), 0);
    assert_eq!(who(&read(&node, open.id).await), []);
    assert!(node.ack(open.id, &Answerer::Guest, &connection("g")).await.unwrap());
    assert_eq!(who(&read(&node, open.id).await), [("guest", "g")]);
}

pub(crate) async fn the_same_id_or_key_is_the_same_receipt<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let nodes = [Arc::new(fixture.node("one").await), Arc::new(fixture.node("two").await)];
    let first = keyed(fresh("alice"), "k", "digest|with|bars");
    let barrier = Arc::new(Barrier::new(8));
    let opens: Vec<_> = (0..8)
        .map(|n| {
            let (node, barrier) = (Arc::clone(&nodes[n % 2]), Arc::clone(&barrier));
            let open = if n < 4 { first.clone() } else { keyed(fresh("alice"), "k", "digest|with|bars") };
            tokio::spawn(async move {
                barrier.wait().await;
                node.open_receipt(open).await.unwrap()
            })
        })
        .collect();
    let mut opened = Vec::new();
    for open in opens {
        opened.push(open.await.unwrap());
    }
    assert_eq!(opened.iter().filter(|(_, new)| *new).count(), 1, "{opened:?}");
    assert!(opened.iter().all(|(receipt, _)| *receipt == opened[0].0), "{opened:?}");

    let other = keyed(fresh("alice"), "k", "another");
    assert_eq!(nodes[0].open_receipt(other.clone()).await, Err(BackplaneError::Conflict));
    assert_eq!(nodes[0].receipt(other.id).await.unwrap(), None, "a conflict writes nothing");
    let bobs = keyed(fresh("bob"), "k", "another");
    assert!(nodes[0].open_receipt(bobs).await.unwrap().1, "a key belongs to a user");
    nodes[1].ack(opened[0].0.id, &of("alice"), &connection("c")).await.unwrap();
    let (later, new) = nodes[0].open_receipt(keyed(fresh("alice"), "k", "digest|with|bars")).await.unwrap();
    assert_eq!((new, who(&later)), (false, vec![("alice", "c")]), "a repeat finds what has happened meanwhile");
}

pub(crate) async fn a_receipt_and_its_key_end_with_the_retention<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let open = keyed(OpenReceipt { retention: SHORT, ..fresh("alice") }, "k", "one");
    node.open_receipt(open.clone()).await.unwrap();
    fixture.advance(SHORT + Duration::from_millis(20)).await;
    assert_eq!(node.receipt(open.id).await.unwrap(), None);
    assert!(!node.ack(open.id, &of("alice"), &connection("c")).await.unwrap());
    node.delivered(open.id).await.unwrap();
    assert_eq!(node.receipt(open.id).await.unwrap(), None, "it does not come back");
    assert!(node.open_receipt(keyed(fresh("alice"), "k", "two")).await.unwrap().1);
}

pub(crate) async fn a_receipt_keeps_so_many_acknowledgements_and_no_more<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let open = fresh("alice");
    node.open_receipt(open.clone()).await.unwrap();
    for n in 0..MOST_ACKS + 3 {
        assert!(node.ack(open.id, &of("alice"), &connection(&format!("c{n}"))).await.unwrap());
    }
    let receipt = read(&node, open.id).await;
    assert_eq!(receipt.acks.len(), MOST_ACKS);
    assert_eq!(receipt.acks.last().unwrap().connection, connection(&format!("c{}", MOST_ACKS - 1)));
}

pub(crate) async fn receipts_of_any_names_are_told_apart<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let names = odd_names();
    let mut opened = Vec::new();
    for name in &names {
        let open = keyed(fresh(name), name, name);
        let (receipt, new) = node.open_receipt(open.clone()).await.unwrap();
        assert!(new, "{name:?}");
        assert_eq!(receipt.user, user(name));
        opened.push(open);
    }
    for (open, name) in opened.iter().zip(&names) {
        assert!(node.ack(open.id, &of(name), &connection(name)).await.unwrap(), "{name:?}");
        let (found, new) = node.open_receipt(keyed(fresh(name), name, name)).await.unwrap();
        assert_eq!((found.id, new, who(&found)), (open.id, false, vec![(name.as_str(), name.as_str())]), "{name:?}");
    }
}

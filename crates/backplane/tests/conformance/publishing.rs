//! Order, positions, idempotency.

use std::{collections::HashMap, sync::Arc, time::Duration};

use countersign_backplane::{BackplaneError, HistoryPolicy, Publication, Settings};
use countersign_protocol::{Address, Position};
use tokio::sync::Barrier;

use crate::{
    fixture::{Fixture, SHORT, counted},
    words::{TEN, bare, kept, key, message, number, odd_names, topic, topic_channel},
};

pub(crate) async fn concurrent_messages_arrive_everywhere_in_the_order_of_their_positions<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let nodes = [Arc::new(fixture.node("one").await), Arc::new(fixture.node("two").await)];
    let (with, without) = (topic_channel("with"), topic_channel("without"));
    let mut wanted = Vec::new();
    for node in &nodes {
        wanted.push(node.hear(&with).await);
        wanted.push(node.hear(&without).await);
    }
    let publishers = nodes.iter().enumerate().map(|(publisher, node)| {
        let node = Arc::clone(node);
        tokio::spawn(async move {
            for n in 0..150 {
                let n = publisher * 1000 + n;
                node.publish(kept(topic("with"), n)).await.unwrap();
                node.publish(bare(topic("without"), n)).await.unwrap();
            }
        })
    });
    for publisher in publishers.collect::<Vec<_>>() {
        publisher.await.unwrap();
    }
    let mut orders = HashMap::new();
    for node in &nodes {
        let heard = node.ear.until_heard(&with, 300).await;
        let positions: Vec<_> = heard.iter().map(|heard| heard.position.clone().unwrap()).collect();
        assert_eq!(positions.iter().map(|position| position.offset).collect::<Vec<_>>(), (1..=300).collect::<Vec<_>>());
        assert!(positions.iter().all(|position| position.epoch == positions[0].epoch));
        for (name, heard) in [("with", heard), ("without", node.ear.until_heard(&without, 300).await)] {
            let order: Vec<_> = heard.iter().map(|heard| number(&heard.payload)).collect();
            for publisher in 0..2 {
                let of_one: Vec<_> = order.iter().filter(|n| **n / 1000 == publisher).map(|n| n % 1000).collect();
                assert_eq!(of_one, (0..150).collect::<Vec<_>>(), "a publisher's own order, {name}");
            }
            let first = orders.entry(name).or_insert_with(|| order.clone());
            assert_eq!(*first, order, "both nodes hear one order, {name}");
        }
    }
}

pub(crate) async fn an_epoch_is_sixteen_hex_digits_and_addresses_have_their_own<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let a = node.publish(kept(topic("a"), 1)).await.unwrap().position.unwrap();
    let b = node.publish(kept(topic("b"), 1)).await.unwrap().position.unwrap();
    for position in [&a, &b] {
        assert_eq!((position.epoch.len(), position.offset), (16, 1));
        assert!(position.epoch.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)));
    }
    assert_ne!(a.epoch, b.epoch);
}

pub(crate) async fn many_messages_keep_their_order_and_each_has_its_own_result<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let channel = topic_channel("a");
    let _wanted = node.hear(&channel).await;
    let keyed = |publication: Publication| Publication { key: Some(key("k")), ..publication };
    let batch = vec![
        kept(topic("a"), 0),
        keyed(kept(topic("a"), 1)),
        bare(topic("a"), 2),
        keyed(kept(topic("a"), 3)),
        keyed(kept(topic("a"), 1)),
        kept(topic("b"), 4),
        kept(topic("a"), 5),
    ];
    let results = node.publish_all(batch).await;
    assert_eq!(results.len(), 7);
    assert_eq!(results[3], Err(BackplaneError::Conflict));
    let offsets: Vec<_> = results
        .iter()
        .map(|result| result.as_ref().ok().and_then(|published| published.position.as_ref()).map(|at| at.offset))
        .collect();
    assert_eq!(offsets, [Some(1), Some(2), None, None, Some(2), Some(1), Some(3)]);
    let nodes: Vec<_> =
        results.iter().map(|result| result.as_ref().ok().and_then(|published| published.nodes)).collect();
    assert_eq!(
        nodes,
        [counted::<F>(1), counted::<F>(1), counted::<F>(1), None, None, counted::<F>(0), counted::<F>(1)]
    );
    let heard = fixture.heard_so_far(&node, &channel).await;
    assert_eq!(heard.iter().map(|heard| number(&heard.payload)).collect::<Vec<_>>(), [0, 1, 2, 5]);
    assert_eq!(node.publish_all(Vec::new()).await, []);

    let many = (0..2500).map(|n| if n % 2 == 0 { kept(topic("c"), n) } else { bare(topic("c"), n) }).collect();
    let _wanted = node.hear(&topic_channel("c")).await;
    assert!(node.publish_all(many).await.iter().all(Result::is_ok));
    let heard = node.ear.until_heard(&topic_channel("c"), 2500).await;
    assert!(heard.iter().map(|heard| number(&heard.payload)).eq(0..2500));
}

pub(crate) async fn a_repeat_with_the_same_key_publishes_nothing<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (one, two) = (fixture.node("one").await, fixture.node("two").await);
    for (name, history) in [("with", TEN), ("without", HistoryPolicy::NONE)] {
        let channel = topic_channel(name);
        let _wanted = two.hear(&channel).await;
        let publication = Publication { key: Some(key("k1")), history, ..bare(topic(name), 1) };
        let first = one.publish(publication.clone()).await.unwrap();
        assert_eq!((first.position.is_some(), first.nodes), (name == "with", counted::<F>(1)));
        let later = one.publish(Publication { key: None, ..publication.clone() }).await.unwrap();
        assert_eq!(later.nodes, counted::<F>(1));
        let repeat = two.publish(publication.clone()).await.unwrap();
        assert_eq!((repeat.position, repeat.nodes), (first.position, None));
        let other = Publication { message: message(2), ..publication.clone() };
        assert_eq!(two.publish(other).await, Err(BackplaneError::Conflict));
        assert_eq!(fixture.heard_so_far(&two, &channel).await.len(), 2, "the message and its keyless repeat");
        // The scope is (address, key).
        let address = topic(&format!("{name}, elsewhere"));
        let elsewhere = Publication { address, message: message(3), ..publication.clone() };
        assert_eq!(one.publish(elsewhere).await.unwrap().nodes, counted::<F>(0));
        let other_key = Publication { key: Some(key("k2")), ..publication };
        assert_eq!(one.publish(other_key).await.unwrap().nodes, counted::<F>(1));
    }
}

pub(crate) async fn one_key_from_two_nodes_at_once_publishes_once<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let nodes = [Arc::new(fixture.node("one").await), Arc::new(fixture.node("two").await)];
    let channel = topic_channel("a");
    let _wanted = nodes[0].hear(&channel).await;
    for round in 0..50 {
        let barrier = Arc::new(Barrier::new(2));
        let attempts = nodes.clone().map(|node| {
            let barrier = Arc::clone(&barrier);
            tokio::spawn(async move {
                barrier.wait().await;
                let key = Some(key(&format!("k{round}")));
                node.publish(Publication { key, ..kept(topic("a"), round) }).await.unwrap()
            })
        });
        let [one, two] = attempts;
        let (one, two) = (one.await.unwrap(), two.await.unwrap());
        assert_eq!(one.position, two.position);
        assert_eq!([one.nodes, two.nodes].iter().flatten().count(), usize::from(F::ONE_PLACE), "one of them published");
    }
    assert_eq!(fixture.heard_so_far(&nodes[0], &channel).await.len(), 50);
}

pub(crate) async fn the_result_of_a_key_ends_with_its_retention<F: Fixture>() {
    let fixture = F::start(Settings { message_key_retention: SHORT, ..Settings::default() }).await;
    let node = fixture.node("one").await;
    let publication = Publication { key: Some(key("k")), ..bare(topic("a"), 1) };
    assert_eq!(node.publish(publication.clone()).await.unwrap().nodes, counted::<F>(0));
    fixture.advance(SHORT + Duration::from_millis(50)).await;
    let other = Publication { message: message(2), ..publication };
    assert_eq!(node.publish(other).await.unwrap().nodes, counted::<F>(0));
}

pub(crate) async fn names_and_keys_that_look_alike_are_told_apart<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let names = odd_names();
    let mut addresses = Vec::new();
    for (n, name) in names.iter().enumerate() {
        for address in [Address::User(crate::words::user(name)), topic(name)] {
            let publication = Publication { key: Some(key(name)), ..kept(address.clone(), n) };
            let first = node.publish(publication.clone()).await.unwrap();
            assert_eq!((first.position.as_ref().unwrap().offset, first.nodes), (1, counted::<F>(0)), "{name:?}");
            assert_eq!(node.publish(publication).await.unwrap().position, first.position, "{name:?}");
            addresses.push(address);
        }
    }
    // One address, all keys.
    for (n, name) in names.iter().enumerate() {
        let publication = Publication { key: Some(key(name)), ..bare(topic("all"), n) };
        assert_eq!(node.publish(publication).await.unwrap().nodes, counted::<F>(0), "{name:?}");
    }
    let positions = node.positions(&addresses).await.unwrap();
    assert!(positions.iter().all(|position| position.offset == 1));
    for (address, position) in addresses.iter().zip(positions) {
        let history = node.history(address, &Position::beginning(), 10).await.unwrap();
        assert_eq!((history.position, history.messages.len(), history.complete), (position, 1, true));
    }
}

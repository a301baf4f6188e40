//! A node hears what it wants, from the moment when the wish is confirmed until it is taken back, and nothing else.

use bytes::Bytes;
use countersign_backplane::{Channel, Settings};
use countersign_protocol::Address;
use futures_util::future::join_all;
use serde_json::json;
use tokio::time::timeout;

use crate::{
    fixture::{Entry, Fixture, PATIENCE, counted, eventually, value},
    words::{bare, message, number, odd_names, topic, topic_channel, user_channel},
};

pub(crate) async fn nothing_is_heard_without_a_wish<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (publisher, bystander) = (fixture.node("one").await, fixture.node("two").await);
    let published = publisher.publish(bare(topic("a"), 1)).await.unwrap();
    assert_eq!((published.position, published.nodes), (None, counted::<F>(0)));
    let _other = bystander.hear(&topic_channel("b")).await;
    assert_eq!(fixture.heard_so_far(&bystander, &topic_channel("b")).await.len(), 0);
    let _wanted = bystander.hear(&topic_channel("a")).await;
    assert_eq!(fixture.heard_so_far(&bystander, &topic_channel("a")).await.len(), 0);
    assert_eq!(publisher.publish(bare(topic("a"), 2)).await.unwrap().nodes, counted::<F>(1));
    let heard = fixture.heard_so_far(&bystander, &topic_channel("a")).await;
    assert_eq!(heard.iter().map(|heard| number(&heard.payload)).collect::<Vec<_>>(), [2]);
    assert_eq!(fixture.heard_so_far(&bystander, &topic_channel("b")).await.len(), 0);
}

pub(crate) async fn a_confirmed_wish_hears_the_very_next_message<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (publisher, hearer) = (fixture.node("one").await, fixture.node("two").await);
    for n in 0..100 {
        let name = format!("t{n}");
        let _wanted = hearer.hear(&topic_channel(&name)).await;
        assert_eq!(publisher.publish(bare(topic(&name), n)).await.unwrap().nodes, counted::<F>(1), "{name}");
        assert_eq!(hearer.ear.until_heard(&topic_channel(&name), 1).await[0].payload, message(n));
    }
}

pub(crate) async fn after_the_last_wish_is_gone_nothing_is_heard<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (publisher, hearer) = (fixture.node("one").await, fixture.node("two").await);
    let channel = topic_channel("a");
    let (first, second) = (hearer.hear(&channel).await, hearer.hear(&channel).await);
    drop(first);
    assert_eq!(publisher.publish(bare(topic("a"), 1)).await.unwrap().nodes, counted::<F>(1));
    drop(second);
    let mut last_heard = 1;
    eventually("the end of the subscription", || async {
        let nodes = publisher.publish(bare(topic("a"), 2)).await.unwrap().nodes;
        (nodes == Some(0)).then_some(())
    })
    .await;
    assert_eq!(publisher.publish(bare(topic("a"), 3)).await.unwrap().nodes, counted::<F>(0));
    let _again = hearer.hear(&channel).await;
    assert_eq!(publisher.publish(bare(topic("a"), 4)).await.unwrap().nodes, counted::<F>(1));
    for heard in fixture.heard_so_far(&hearer, &channel).await {
        let n = number(&heard.payload);
        assert!(n != 3 && n >= last_heard, "{n} after {last_heard}");
        last_heard = n;
    }
    assert_eq!(last_heard, 4);
}

pub(crate) async fn a_broadcast_reaches_every_node_and_the_publisher_like_the_others<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let nodes = [fixture.node("one").await, fixture.node("two").await, fixture.node("three").await];
    let _wanted = join_all(nodes.iter().map(|node| node.hear(&Channel::Broadcast))).await;
    assert_eq!(nodes[0].publish(bare(Address::Broadcast, 7)).await.unwrap().nodes, counted::<F>(3));
    for node in &nodes {
        let heard = node.ear.until_heard(&Channel::Broadcast, 1).await;
        assert_eq!((heard.len(), &heard[0].payload, &heard[0].position), (1, &message(7), &None));
    }
}

pub(crate) async fn many_wishes_at_once_are_all_confirmed<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let wanted: Vec<_> = (0..3000).map(|n| node.interest.want(&topic_channel(&format!("t{n}")))).collect();
    timeout(PATIENCE, join_all(wanted.iter().map(countersign_backplane::Wanted::confirmed)))
        .await
        .expect("every wish is confirmed");
    for n in [0, 1499, 2999] {
        assert_eq!(node.publish(bare(topic(&format!("t{n}")), n)).await.unwrap().nodes, counted::<F>(1));
    }
    drop(wanted);
    eventually("the end of the last subscription", || async {
        (node.publish(bare(topic("t2999"), 1)).await.unwrap().nodes == Some(0)).then_some(())
    })
    .await;
}

pub(crate) async fn wishes_that_come_and_go_quickly_end_as_the_last_one_says<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    for n in 0..200 {
        drop(node.interest.want(&topic_channel("a")));
        if n % 3 == 0 {
            // One round trip to the store: some wishes get as far, others are gone before.
            node.publish(bare(topic("b"), n)).await.unwrap();
        }
    }
    let wanted = node.hear(&topic_channel("a")).await;
    assert_eq!(node.publish(bare(topic("a"), 1)).await.unwrap().nodes, counted::<F>(1));
    node.ear.until_heard(&topic_channel("a"), 1).await;
    drop(wanted);
    eventually("the end of the subscription", || async {
        (node.publish(bare(topic("a"), 1)).await.unwrap().nodes == Some(0)).then_some(())
    })
    .await;
}

pub(crate) async fn odd_names_are_heard_by_those_who_want_them_and_nobody_else<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let names = odd_names();
    assert!(names.len() > 40);
    let mut wanted = Vec::new();
    for name in &names {
        wanted.push(node.hear(&user_channel(name)).await);
        wanted.push(node.hear(&topic_channel(name)).await);
    }
    for (n, name) in names.iter().enumerate() {
        let address = Address::User(crate::words::user(name));
        assert_eq!(node.publish(bare(address, n)).await.unwrap().nodes, counted::<F>(1), "{name:?}");
        assert_eq!(node.publish(bare(topic(name), n + 1000)).await.unwrap().nodes, counted::<F>(1), "{name:?}");
    }
    for (n, name) in names.iter().enumerate() {
        let heard = fixture.values_so_far(&node, &user_channel(name)).await;
        assert_eq!(heard, [json!({ "n": n })], "{name:?}");
        let heard = fixture.values_so_far(&node, &topic_channel(name)).await;
        assert_eq!(heard, [json!({ "n": n + 1000 })], "{name:?}");
    }
}

pub(crate) async fn what_is_no_message_is_refused_and_not_fatal<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let channel = topic_channel("a");
    let _wanted = node.hear(&channel).await;
    let bad: [&[u8]; 9] = [b"", b"hello", b"[1]", b"e:1:[]", b"e:x:{}", b"{\"a\":\"\xff\"}", b"{", b"{} {}", b"\0"];
    for (n, bad) in bad.iter().enumerate() {
        fixture.publish_raw(&channel, bad).await;
        fixture.publish_raw(&channel, message(n).bytes()).await;
    }
    let heard = node.ear.until_heard(&channel, bad.len()).await;
    assert_eq!(heard.iter().map(value).collect::<Vec<_>>(), (0..9).map(|n| json!({ "n": n })).collect::<Vec<_>>());
    node.ear
        .until("every refusal", |log| {
            let refused = log.iter().filter(|entry| matches!(entry, Entry::Refused(on) if *on == channel)).count();
            assert!(!log.iter().any(|entry| matches!(entry, Entry::Interrupted)), "bad input broke the link");
            (refused == bad.len()).then_some(())
        })
        .await;
}

pub(crate) async fn a_position_in_the_payload_is_heard_as_one<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let channel = topic_channel("a");
    let _wanted = node.hear(&channel).await;
    fixture.publish_raw(&channel, &Bytes::from_static(b"00ff:18:{\"n\":1}")).await;
    let heard = node.ear.until_heard(&channel, 1).await;
    let position = heard[0].position.clone().unwrap();
    assert_eq!((position.epoch.as_str(), position.offset, &heard[0].payload), ("00ff", 18, &message(1)));
}

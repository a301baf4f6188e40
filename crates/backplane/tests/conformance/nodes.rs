//! Which nodes there are, and what happens when the link breaks.

use std::time::Duration;

use countersign_backplane::{BackplaneError, Link, Settings};
use tokio::time::timeout;

use crate::{
    fixture::{Entry, Fixture, PATIENCE, SHORT, counted, eventually},
    words::{ask, bare, kept, message, odd_names, topic, topic_channel, user},
};

pub(crate) async fn announced_nodes_are_known_to_all<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (one, two) = (fixture.node("one").await, fixture.node("two").await);
    assert_eq!(one.nodes().await.unwrap(), []);
    let minute = Duration::from_secs(60);
    two.announce(&two.id, r#"{"n":2}"#.to_owned(), minute).await.unwrap();
    one.announce(&one.id, r#"{"n":0}"#.to_owned(), minute).await.unwrap();
    one.announce(&one.id, r#"{"n":1}"#.to_owned(), minute).await.unwrap();
    for node in [&one, &two] {
        let mut nodes = node.nodes().await.unwrap();
        nodes.sort();
        assert_eq!(nodes, [(one.id.clone(), r#"{"n":1}"#.to_owned()), (two.id.clone(), r#"{"n":2}"#.to_owned())]);
    }
    one.withdraw_announcement(&one.id).await.unwrap();
    one.withdraw_announcement(&one.id).await.unwrap();
    assert_eq!(two.nodes().await.unwrap(), [(two.id.clone(), r#"{"n":2}"#.to_owned())]);
}

pub(crate) async fn an_announcement_ends_with_its_ttl<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (one, two) = (fixture.node("one").await, fixture.node("two").await);
    two.announce(&two.id, "{}".to_owned(), Duration::from_secs(60)).await.unwrap();
    one.announce(&one.id, "{}".to_owned(), SHORT).await.unwrap();
    fixture.advance(SHORT + Duration::from_millis(50)).await;
    assert_eq!(two.nodes().await.unwrap(), [(two.id.clone(), "{}".to_owned())]);
    one.announce(&one.id, r#"{"again":1}"#.to_owned(), Duration::from_secs(60)).await.unwrap();
    assert_eq!(two.nodes().await.unwrap().len(), 2);
}

pub(crate) async fn nodes_with_odd_names_are_told_apart<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let mut expected = Vec::new();
    for name in odd_names() {
        let id = countersign_protocol::NodeId::parse(&name).unwrap();
        node.announce(&id, name.clone(), Duration::from_secs(60)).await.unwrap();
        expected.push((id, name));
    }
    let mut nodes = node.nodes().await.unwrap();
    nodes.sort();
    expected.sort();
    assert_eq!(nodes, expected);
}

pub(crate) async fn a_broken_link_is_told_and_heals<F: Fixture>() {
    let fixture = F::start_alone(Settings::default()).await;
    let (one, two) = (fixture.node("one").await, fixture.node("two").await);
    let (kept_wish, gone) = (two.hear(&topic_channel("kept")).await, two.hear(&topic_channel("gone")).await);
    let mut links = [one.link(), two.link()];
    fixture.break_links().await;
    for link in &mut links {
        timeout(PATIENCE, link.wait_for(|link| !link.is_up())).await.expect("the link goes down").unwrap();
    }
    let interrupted = |log: &[Entry]| log.iter().any(|entry| matches!(entry, Entry::Interrupted)).then_some(());
    two.ear.until("the interruption", interrupted).await;
    assert!(matches!(*links[0].borrow(), Link::Down(ref reason) if !reason.is_empty()));
    let asked = timeout(PATIENCE, one.open(ask("alice", "t"))).await.expect("a command does not hang");
    assert!(matches!(asked, Err(BackplaneError::Unavailable(_))), "{asked:?}");
    let published = one.publish(kept(topic("kept"), 1)).await;
    assert!(matches!(published, Err(BackplaneError::Unavailable(_))), "{published:?}");
    let many = one.publish_all(vec![bare(topic("kept"), 1), kept(topic("kept"), 2)]).await;
    assert!(
        many.len() == 2 && many.iter().all(|result| matches!(result, Err(BackplaneError::Unavailable(_)))),
        "{many:?}"
    );
    // Wishes change while nobody can be told.
    drop(gone);
    let new_wish = two.interest.want(&topic_channel("new"));
    assert!(!two.ear.heard_on(&topic_channel("kept")).iter().any(|heard| heard.payload == message(1)));

    fixture.mend_links().await;
    for link in &mut links {
        timeout(PATIENCE, link.wait_for(Link::is_up)).await.expect("the link comes up again").unwrap();
    }
    two.ear
        .until("the resumption, after the interruption", |log| {
            let told: Vec<_> =
                log.iter().filter(|entry| matches!(entry, Entry::Interrupted | Entry::Resumed)).collect();
            assert!(matches!(told[0], Entry::Interrupted));
            matches!(told.last(), Some(Entry::Resumed)).then_some(())
        })
        .await;
    timeout(PATIENCE, new_wish.confirmed()).await.expect("the new wish is confirmed");
    timeout(PATIENCE, kept_wish.confirmed()).await.expect("the old wish is confirmed again");
    for (name, nodes) in [("kept", 1), ("new", 1), ("gone", 0)] {
        let published =
            eventually("a command that is answered", || async { one.publish(bare(topic(name), 7)).await.ok() });
        assert_eq!(published.await.nodes, counted::<F>(nodes), "{name}");
    }
    for name in ["kept", "new"] {
        assert_eq!(two.ear.until_heard(&topic_channel(name), 1).await.last().unwrap().payload, message(7));
    }
    assert!(one.open(ask("alice", "t")).await.unwrap().new);
    assert!(!one.open_callbacks(&user("alice")).await.unwrap().is_empty());
}

pub(crate) async fn a_stopped_node_hears_nothing_and_leaves_the_others_alone<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (one, two) = (fixture.node("one").await, fixture.node("two").await);
    let _of_one = one.hear(&topic_channel("a")).await;
    let _of_two = two.hear(&topic_channel("a")).await;
    assert_eq!(two.publish(bare(topic("a"), 1)).await.unwrap().nodes, counted::<F>(2));
    timeout(PATIENCE, one.stop()).await.expect("it ends");
    timeout(PATIENCE, one.stop()).await.expect("it has ended");
    eventually("the end of the subscription", || async {
        let nodes = two.publish(bare(topic("a"), 2)).await.unwrap().nodes;
        (nodes == counted::<F>(1)).then_some(())
    })
    .await;
    drop(one);
    two.ear.until_heard(&topic_channel("a"), 2).await;
}

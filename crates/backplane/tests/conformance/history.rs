//! Positions and what is remembered.

use std::time::Duration;

use countersign_backplane::{HistoryPolicy, Publication, Settings};
use countersign_protocol::{Address, Position};

use crate::{
    fixture::{Fixture, Node, SHORT},
    words::{bare, kept, number, topic},
};

async fn published<F: Fixture>(count: usize) -> (F, Node, String) {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let mut epoch = String::new();
    for n in 1..=count {
        let position = node.publish(kept(topic("a"), n)).await.unwrap().position.unwrap();
        assert_eq!(position.offset, n as u64);
        epoch = position.epoch;
    }
    (fixture, node, epoch)
}

/// The offsets after `since`, and whether they are all.
async fn read(node: &Node, since: &Position, most: usize) -> (Vec<u64>, bool) {
    let history = node.history(&topic("a"), since, most).await.unwrap();
    for (offset, message) in &history.messages {
        assert_eq!(*offset, number(message), "each message was published with its offset as its number");
    }
    (history.messages.iter().map(|(offset, _)| *offset).collect(), history.complete)
}

pub(crate) async fn a_history_is_complete_when_everything_after_a_position_is_there<F: Fixture>() {
    let (_fixture, node, epoch) = published::<F>(7).await;
    let at = |offset| Position::new(epoch.clone(), offset);
    assert_eq!(read(&node, &at(4), 10).await, (vec![5, 6, 7], true));
    assert_eq!(read(&node, &at(4), 3).await, (vec![5, 6, 7], true));
    assert_eq!(read(&node, &at(7), 10).await, (vec![], true));
    assert_eq!(read(&node, &at(0), 10).await, (vec![1, 2, 3, 4, 5, 6, 7], true));
    assert_eq!(read(&node, &Position::beginning(), 10).await, (vec![1, 2, 3, 4, 5, 6, 7], true));
    assert_eq!(node.history(&topic("a"), &at(2), 10).await.unwrap().position, at(7));
}

pub(crate) async fn a_history_says_when_something_is_missing<F: Fixture>() {
    let (_fixture, node, epoch) = published::<F>(14).await;
    let at = |offset| Position::new(epoch.clone(), offset);
    // Ten are kept: 5 to 14.
    assert_eq!(read(&node, &at(4), 20).await, ((5..=14).collect(), true));
    assert_eq!(read(&node, &at(3), 20).await, ((5..=14).collect(), false));
    assert!(!read(&node, &Position::beginning(), 20).await.1, "the beginning is gone");
    assert_eq!(read(&node, &at(4), 9).await, ((5..=13).collect(), false), "there are more than were asked for");
    assert!(!read(&node, &at(15), 20).await.1, "a position that was never given");
    assert!(!read(&node, &Position::new("0123456789abcdef", 14), 20).await.1, "another epoch");
    assert!(!read(&node, &Position::new("", 14), 20).await.1, "an offset without an epoch");
}

pub(crate) async fn an_address_without_messages_is_at_the_beginning<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    node.publish(bare(topic("bare"), 1)).await.unwrap();
    node.publish(kept(Address::Broadcast, 1)).await.unwrap();
    let positions = node.positions(&[topic("bare"), Address::Broadcast, topic("never")]).await.unwrap();
    assert_eq!(
        (&positions[0], positions[1].offset, &positions[2]),
        (&Position::beginning(), 1, &Position::beginning())
    );
    assert_eq!(node.positions(&[]).await.unwrap(), []);
    for address in [topic("bare"), topic("never")] {
        let history = node.history(&address, &Position::beginning(), 10).await.unwrap();
        assert_eq!((history.position, history.messages, history.complete), (Position::beginning(), vec![], true));
        let history = node.history(&address, &Position::new("0123456789abcdef", 3), 10).await.unwrap();
        assert_eq!((history.position, history.complete), (Position::beginning(), false));
    }
}

pub(crate) async fn the_numbering_outlives_the_messages<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let brief = HistoryPolicy { size: 10, ttl: SHORT };
    let publish = |n| node.publish(Publication { history: brief, ..bare(topic("a"), n) });
    publish(1).await.unwrap();
    let newest = publish(2).await.unwrap().position.unwrap();
    fixture.advance(SHORT + Duration::from_millis(50)).await;
    assert_eq!(node.positions(&[topic("a")]).await.unwrap()[0], newest);
    assert_eq!(read(&node, &newest, 10).await, (vec![], true));
    assert_eq!(read(&node, &Position::new(newest.epoch.clone(), 1), 10).await, (vec![], false));
    assert_eq!(publish(3).await.unwrap().position, Some(Position::new(newest.epoch.clone(), 3)));
    assert_eq!(read(&node, &newest, 10).await, (vec![3], true));
    assert_eq!(read(&node, &Position::new(newest.epoch.clone(), 1), 10).await, (vec![3], false));
}

pub(crate) async fn a_lost_numbering_is_a_new_epoch<F: Fixture>() {
    let fixture = F::start(Settings { message_key_retention: SHORT, ..Settings::default() }).await;
    let node = fixture.node("one").await;
    let publish =
        || node.publish(Publication { history: HistoryPolicy { size: 10, ttl: SHORT }, ..bare(topic("a"), 1) });
    let old = publish().await.unwrap().position.unwrap();
    fixture.advance(SHORT * 2 + Duration::from_millis(50)).await;
    assert_eq!(node.positions(&[topic("a")]).await.unwrap(), [Position::beginning()]);
    let new = publish().await.unwrap().position.unwrap();
    assert_eq!(new.offset, 1);
    assert_ne!(new.epoch, old.epoch);
    assert!(!read(&node, &old, 10).await.1, "positions of the old epoch mean nothing");
}

pub(crate) async fn a_message_of_any_size_and_text_is_kept_as_its_bytes<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let texts = [
        r#"{"b":1.50, "a":123456789012345678901234567890}"#.to_owned(),
        r#"{"empty":[],"object":{},"null":null,"text":"\u0000\"\\ü☃𝄞\u2028"}"#.to_owned(),
        r#"{"":"","n":-0.0,"e":1E400}"#.to_owned(),
        format!("{{\"big\":\"{}\"}}", "x".repeat(1 << 20)),
    ];
    let channel = crate::words::topic_channel("a");
    let _wanted = node.hear(&channel).await;
    for text in &texts {
        let message = countersign_protocol::Payload::parse(text.clone().into()).unwrap();
        node.publish(Publication { message, ..kept(topic("a"), 0) }).await.unwrap();
    }
    let heard = node.ear.until_heard(&channel, texts.len()).await;
    assert!(heard.iter().map(|heard| heard.payload.as_str()).eq(texts.iter().map(String::as_str)));
    let history = node.history(&topic("a"), &Position::beginning(), 10).await.unwrap();
    assert!(history.messages.iter().map(|(_, message)| message.as_str()).eq(texts.iter().map(String::as_str)));
}

//! A store that comes back without what it had acknowledged: no position is given twice, and nobody is told that they have
//! everything. [`silent_hole`] is what a client would fall into; that the tests can fail is shown in
//! [`a_numbering_that_forgets_its_run_would_lie`], and on a real Redis in `redis/losing.rs`.

use countersign_backplane::{History, Publication, Settings};
use countersign_protocol::{Payload, Position};
use tokio::time::{Instant, sleep};

use crate::{
    fixture::{Fixture, Node, PATIENCE},
    words::{kept, key, message, number, topic},
};

async fn publish(node: &Node, n: usize) -> Position {
    insist(node, kept(topic("a"), n)).await
}

/// Publishes, again and again while the store is away.
async fn insist(node: &Node, publication: Publication) -> Position {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match node.publish(publication.clone()).await {
            Ok(published) => return published.position.expect("it has history"),
            Err(error) => assert!(Instant::now() < deadline, "not published: {error}"),
        }
        sleep(std::time::Duration::from_millis(5)).await;
    }
}

async fn history(node: &Node, since: &Position) -> History {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match node.history(&topic("a"), since, 100).await {
            Ok(history) => return history,
            Err(error) => assert!(Instant::now() < deadline, "not read: {error}"),
        }
    }
}

/// Whether a client that has heard `heard` is told that with what it is given it has everything, and has not.
fn silent_hole(heard: &[u64], published: &[u64], told: &History) -> bool {
    let given: Vec<u64> = told.messages.iter().map(|(_, message)| number(message)).collect();
    told.complete && published.iter().any(|n| !heard.contains(n) && !given.contains(n))
}

/// `kept` messages are remembered, `lost` follow and are forgotten; the position of the newest.
async fn lose<F: Fixture>(kept: usize, lost: usize) -> (F, Node, Position) {
    let fixture = F::start_alone(Settings::default()).await;
    let node = fixture.node("one").await;
    let mut newest = Position::beginning();
    for n in 1..=kept {
        newest = publish(&node, n).await;
    }
    fixture.remember().await;
    for n in kept + 1..=kept + lost {
        newest = publish(&node, n).await;
    }
    assert_eq!(newest.offset, (kept + lost) as u64);
    fixture.recall().await;
    (fixture, node, newest)
}

pub(crate) async fn a_position_is_never_given_twice_whatever_the_store_has_lost<F: Fixture>() {
    let (_fixture, node, since) = lose::<F>(3, 2).await;
    // As many as were lost, and more: the offsets that the client knows are given again.
    let mut positions = Vec::new();
    for n in 6..=9 {
        positions.push(publish(&node, n).await);
    }
    assert!(positions.iter().all(|position| position.epoch != since.epoch), "{positions:?} after {since}");
    assert_eq!(positions.iter().map(|position| position.offset).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let told = history(&node, &since).await;
    assert!(!silent_hole(&[1, 2, 3, 4, 5], &[6, 7, 8, 9], &told), "{told:?}");
    assert!(!told.complete);
    assert_eq!(told.position, positions[3]);
    // From here on it is a numbering like any other.
    let told = history(&node, &positions[1]).await;
    assert!(told.complete && told.messages.len() == 2, "{told:?}");
}

pub(crate) async fn what_is_left_of_a_lost_numbering_is_read_and_said_to_be_no_whole<F: Fixture>() {
    let (_fixture, node, newest) = lose::<F>(5, 2).await;
    let at = |offset| Position::new(newest.epoch.clone(), offset);
    for published in [0, 2] {
        for n in 0..published {
            publish(&node, 8 + n).await;
        }
        let told = history(&node, &at(3)).await;
        assert_eq!((told.epoch.as_str(), told.complete), (newest.epoch.as_str(), false));
        assert!(told.messages.iter().map(|(offset, _)| *offset).eq([4, 5]), "{told:?}");
        assert_ne!(told.position.epoch, newest.epoch);
        assert_eq!(told.position.offset, published as u64);
        let told = history(&node, &newest).await;
        assert_eq!((told.messages.len(), told.complete), (0, false));
    }
    let now = node.positions(&[topic("a")]).await.unwrap().remove(0);
    let told = history(&node, &Position::new(now.epoch, 0)).await;
    assert_eq!((told.messages.len(), told.complete), (2, true), "{told:?}");
}

pub(crate) async fn a_numbering_that_was_lost_nothing_of_begins_anew_all_the_same<F: Fixture>() {
    let (_fixture, node, newest) = lose::<F>(4, 0).await;
    let told = history(&node, &newest).await;
    assert!(!told.complete, "nobody can know that nothing was lost: {told:?}");
    let now = node.positions(&[topic("a")]).await.unwrap().remove(0);
    assert_eq!((now.offset, now.epoch == newest.epoch), (0, false));
    let told = history(&node, &now).await;
    assert!(told.complete && told.messages.is_empty(), "who was told once is told no more: {told:?}");
    assert_eq!(publish(&node, 5).await, Position::new(now.epoch, 1), "what was told is what goes on");
}

pub(crate) async fn a_client_that_never_heard_a_message_is_not_told_that_it_missed_none<F: Fixture>() {
    let (_fixture, node, _) = lose::<F>(2, 2).await;
    publish(&node, 5).await;
    // Told before there was any message.
    let told = history(&node, &Position::beginning()).await;
    assert!(!silent_hole(&[], &[1, 2, 3, 4, 5], &told), "{told:?}");
}

pub(crate) async fn a_keyed_message_is_published_once_across_a_loss<F: Fixture>() {
    let fixture = F::start_alone(Settings::default()).await;
    let node = fixture.node("one").await;
    let keyed = Publication { key: Some(key("k")), ..kept(topic("a"), 1) };
    let first = insist(&node, keyed.clone()).await;
    fixture.remember().await;
    fixture.recall().await;
    assert_eq!(insist(&node, keyed).await, first, "a repeat has the first position");
    assert_eq!(history(&node, &first).await.position.offset, 0, "and nothing was published");
}

pub(crate) async fn losses_one_after_another_are_all_told<F: Fixture>() {
    let (fixture, node, first) = lose::<F>(2, 1).await;
    let second = publish(&node, 4).await;
    fixture.remember().await;
    publish(&node, 5).await;
    fixture.recall().await;
    let third = publish(&node, 6).await;
    assert!(third.epoch != first.epoch && third.epoch != second.epoch);
    for since in [&first, &second] {
        let told = history(&node, since).await;
        assert!(!told.complete && told.position == third, "{told:?} after {since}");
    }
}

/// The proof that these tests can fail: by the rule that an epoch is lost only with its key, the store gives the same
/// positions again, and a client is told that it has everything.
#[test]
fn a_numbering_that_forgets_its_run_would_lie() {
    let entry = |offset: u64, n: usize| (offset, Payload::clone(&message(n)));
    // Remembered at 3, forgotten 4 and 5; then 6 to 9 were published as 4 to 7.
    let messages = vec![entry(6, 8), entry(7, 9)];
    let told = History { position: Position::new("e", 7), epoch: "e".to_owned(), messages, complete: true };
    assert!(silent_hole(&[1, 2, 3, 4, 5], &[6, 7, 8, 9], &told), "6 and 7 went by in silence");
}

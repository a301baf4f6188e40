//! Two messages with one position: the history decides which one it has, and no message is lost without a word.

use super::*;

/// A device that has heard 1, and then a message with the position of the next one that somebody made up.
fn misled(hub: &Arc<Hub>) -> Device {
    let device = connect(hub);
    live(&device, &topic("a"));
    assert!(!deliver(hub, [(topic("a"), at("1", "e", 1)), (topic("a"), at("forged", "e", 2))]));
    assert_eq!(sent(&device), ["1", "forged"]);
    device
}

fn gap(offset: u64) -> String {
    format!(r#"{{"type":"gap","topic":"a","recovered":false,"position":{{"epoch":"e","offset":{offset}}}}}"#)
}

/// How many messages were refused.
fn refused(hub: &Hub, missed: Missed) -> usize {
    let released = hub.release(&topic("a"), missed);
    assert!(!released.another);
    assert!(released.refused.iter().all(|channel| *channel == topic("a")));
    released.refused.len()
}

#[test]
fn a_made_up_position_does_not_make_the_real_message_vanish() {
    let (hub, _) = hub();
    let device = misled(&hub);
    assert!(deliver(&hub, [(topic("a"), at("2", "e", 2)), (topic("a"), at("3", "e", 3))]));
    assert_eq!(hub.holding(), [(topic("a"), Some(Position::new("e", 1)))]);
    assert_eq!(refused(&hub, known(&["2", "3"], "e", 3)), 1);
    assert_eq!(sent(&device), [gap(1), "2".into(), "3".into()]);
    assert!(!deliver(&hub, [(topic("a"), at("3", "e", 3)), (topic("a"), at("4", "e", 4))]));
    assert_eq!((sent(&device), hub.holding()), (vec!["4".to_owned()], vec![]));
}

#[test]
fn a_made_up_repeat_of_a_real_message_changes_nothing() {
    let (hub, _) = hub();
    let device = connect(&hub);
    live(&device, &topic("a"));
    deliver(&hub, [(topic("a"), at("1", "e", 1)), (topic("a"), at("2", "e", 2))]);
    assert!(deliver(&hub, [(topic("a"), at("forged", "e", 2)), (topic("a"), at("3", "e", 3))]));
    assert_eq!(hub.holding(), [(topic("a"), Some(Position::new("e", 1)))]);
    assert_eq!(refused(&hub, known(&["2"], "e", 2)), 1);
    assert_eq!(sent(&device), ["1", "2", "3"]);
}

#[test]
fn two_made_up_messages_leave_the_place_to_the_real_one() {
    let (hub, _) = hub();
    let device = misled(&hub);
    assert!(deliver(&hub, [(topic("a"), at("forged, too", "e", 2))]));
    assert_eq!(hub.holding().len(), 1);
    assert_eq!(refused(&hub, Missed::Messages(Vec::new(), Position::new("e", 1))), 2);
    assert!(!deliver(&hub, [(topic("a"), at("2", "e", 2))]));
    assert_eq!(sent(&device), [gap(1), "2".into()]);
}

#[test]
fn real_messages_behind_several_that_were_made_up_are_heard() {
    let (hub, _) = hub();
    let device = misled(&hub);
    assert!(!deliver(&hub, [(topic("a"), at("forged, too", "e", 3))]));
    assert!(deliver(&hub, [(topic("a"), at("2", "e", 2)), (topic("a"), at("3", "e", 3))]));
    assert_eq!(hub.holding(), [(topic("a"), Some(Position::new("e", 1)))]);
    assert_eq!(refused(&hub, known(&["2", "3"], "e", 3)), 1);
    assert_eq!(sent(&device), ["forged, too".into(), gap(1), "2".into(), "3".into()]);
}

#[test]
fn what_the_history_cannot_decide_is_a_gap() {
    let (hub, _) = hub();
    let device = misled(&hub);
    assert!(deliver(&hub, [(topic("a"), at("2", "e", 2))]));
    assert_eq!(refused(&hub, Missed::Gap(Frame::plain("gap"), Some(Position::new("e", 2)))), 1);
    assert!(!deliver(&hub, [(topic("a"), at("3", "e", 3))]));
    assert_eq!(sent(&device), ["gap", "3"]);
}

#[test]
fn a_made_up_message_that_was_held_back_is_refused() {
    let (hub, _) = hub();
    let device = connect(&hub);
    live(&device, &topic("a"));
    deliver(&hub, [(topic("a"), at("1", "e", 1))]);
    interruption(&hub);
    deliver(&hub, [(topic("a"), at("forged", "e", 2)), (topic("a"), at("2", "e", 2)), (topic("a"), at("3", "e", 3))]);
    assert_eq!(refused(&hub, known(&["2"], "e", 2)), 1);
    assert_eq!(sent(&device), ["1", "2", "3"]);
}

#[test]
fn what_was_read_before_it_was_heard_is_no_conflict() {
    let (hub, _) = hub();
    let device = connect(&hub);
    live(&device, &topic("a"));
    deliver(&hub, [(topic("a"), at("1", "e", 1))]);
    interruption(&hub);
    assert_eq!(refused(&hub, known(&["2", "3"], "e", 3)), 0);
    assert!(!deliver(&hub, (2..=4).map(|offset| (topic("a"), at(&offset.to_string(), "e", offset)))));
    assert_eq!(sent(&device), ["1", "2", "3", "4"]);
}

//! What those hear who come at the same time, who come while the subscription breaks, and who come again.

use countersign_protocol::Address;

use super::{super::member::HELD_FRAMES, *};

fn closed(member: &Membership) -> Option<close::Close> {
    match member.outbox().poll_attention(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Attention::Close(reason)) => Some(reason),
        _ => None,
    }
}

fn message(text: &str, epoch: &str, offset: u64) -> Frame {
    let facts = Facts {
        position: Some(Position::new(epoch, offset)),
        may_be_dropped: Some(Address::Broadcast),
        ..Facts::default()
    };
    Frame::with(text.as_bytes(), facts)
}

fn gap(epoch: &str, offset: u64) -> Missed {
    Missed::Gap(at("gap", epoch, offset), Some(Position::new(epoch, offset)))
}

#[test]
fn what_was_read_of_a_hole_before_another_interruption_does_not_fill_it() {
    let (hub, _) = hub();
    let alice = connect(&hub);
    live(&alice, &topic("a"));
    deliver(&hub, [(topic("a"), at("1", "e", 1))]);
    interruption(&hub);
    assert_eq!(hub.holding().len(), 1);
    hub.interrupt(Audience::Crowd);
    hub.resume(Audience::Crowd);
    assert!(release(&hub, &topic("a"), known(&["2"], "e", 2)), "3 was lost after 2 was read");
    assert_eq!((sent(&alice), hub.holding().len()), (vec!["1".to_owned()], 1));
    assert!(!release(&hub, &topic("a"), known(&["2", "3"], "e", 3)));
    assert_eq!(sent(&alice), ["2", "3"]);
}

#[test]
fn two_who_come_at_once_and_read_one_after_the_other_both_hear_everything() {
    let (hub, _) = hub();
    let (alice, bob, carol) = (connect(&hub), connect(&hub), connect(&hub));
    let [first, second, third] = [&alice, &bob, &carol].map(|member| member.join(&topic("a"), 10).unwrap());
    first.complete(&[], Some(&Position::new("e", 4)), &HashSet::new());
    deliver(&hub, [(topic("a"), at("2", "e", 2)), (topic("a"), at("3", "e", 3))]);
    second.complete(&[], Some(&Position::new("e", 1)), &HashSet::new());
    third.complete(&[], Some(&Position::new("e", 2)), &HashSet::new());
    deliver(&hub, [(topic("a"), at("4", "e", 4)), (topic("a"), at("5", "e", 5))]);
    assert_eq!(sent(&alice), ["5"]);
    assert_eq!(sent(&bob), ["2", "3", "4", "5"]);
    assert_eq!(sent(&carol), ["3", "4", "5"]);
}

#[test]
fn a_hole_in_a_room_that_has_heard_nothing_begins_at_the_oldest_that_a_member_was_told() {
    let (hub, _) = hub();
    let (alice, bob) = (connect(&hub), connect(&hub));
    let (first, second) = (alice.join(&topic("a"), 10).unwrap(), bob.join(&topic("a"), 10).unwrap());
    first.complete(&[], Some(&Position::new("e", 4)), &HashSet::new());
    second.complete(&[], Some(&Position::new("e", 2)), &HashSet::new());
    assert!(deliver(&hub, [(topic("a"), at("6", "e", 6))]));
    assert_eq!(hub.holding(), [(topic("a"), Some(Position::new("e", 2)))]);
}

#[test]
fn where_a_room_is_whose_members_were_told_of_different_numberings_is_not_known() {
    let (hub, _) = hub();
    let (alice, bob) = (connect(&hub), connect(&hub));
    alice.join(&topic("a"), 10).unwrap().complete(&[], Some(&Position::new("e", 4)), &HashSet::new());
    bob.join(&topic("a"), 10).unwrap().complete(&[], Some(&Position::beginning()), &HashSet::new());
    interruption(&hub);
    assert_eq!(hub.holding(), [(topic("a"), None)], "a history from the beginning says nothing of what follows e:4");
}

#[test]
fn whoever_joins_while_the_subscription_breaks_comes_back() {
    let (hub, _) = hub();
    let (alice, bob) = (connect(&hub), connect(&hub));
    let joining = alice.join(&topic("a"), 10).unwrap();
    interruption(&hub);
    joining.complete(&[Frame::plain("confirmed")], Some(&Position::new("e", 1)), &HashSet::new());
    assert_eq!(closed(&alice), Some(close::UNAVAILABLE), "2 may have been lost after 1 was read");
    let joining = bob.join(&topic("a"), 10).unwrap();
    interruption(&hub);
    joining.reads();
    joining.complete(&[Frame::plain("confirmed")], Some(&Position::new("e", 2)), &HashSet::new());
    assert_eq!((closed(&bob), sent(&bob)), (None, vec!["confirmed".to_owned()]));
}

#[test]
fn whoever_joins_before_a_number_that_was_not_heard_comes_back() {
    let (hub, _) = hub();
    let (alice, bob) = (connect(&hub), connect(&hub));
    let (first, second) = (alice.join(&topic("a"), 10).unwrap(), bob.join(&topic("a"), 10).unwrap());
    deliver(&hub, [(topic("a"), message("3", "e", 3)), (topic("a"), message("4", "e", 4))]);
    first.complete(&[], Some(&Position::new("e", 1)), &HashSet::new());
    assert_eq!(closed(&alice), Some(close::UNAVAILABLE));
    second.complete(&[], Some(&Position::new("e", 2)), &HashSet::new());
    assert_eq!((closed(&bob), sent(&bob)), (None, vec!["3".to_owned(), "4".to_owned()]));
}

#[test]
fn what_is_left_from_a_subscription_before_is_not_heard_after_the_confirmation_of_another() {
    let (hub, _) = hub();
    let alice = connect(&hub);
    let joining = alice.join(&topic("a"), 10).unwrap();
    say(&hub, &topic("a"), "old");
    joining.reads();
    say(&hub, &topic("a"), "new");
    joining.complete(&[Frame::plain("confirmed")], None, &HashSet::new());
    assert_eq!(sent(&alice), ["confirmed", "new"]);
}

#[test]
fn whoever_was_told_of_more_than_a_gap_when_it_came_is_not_told_to_go_back() {
    let (hub, _) = hub();
    let (alice, bob) = (connect(&hub), connect(&hub));
    live(&alice, &topic("a"));
    deliver(&hub, [(topic("a"), at("1", "e", 1))]);
    interruption(&hub);
    bob.join(&topic("a"), 10).unwrap().complete(&[], Some(&Position::new("e", 9)), &HashSet::new());
    deliver(&hub, [(topic("a"), at("9", "e", 9)), (topic("a"), at("10", "e", 10))]);
    release(&hub, &topic("a"), gap("e", 8));
    assert_eq!(
        (sent(&alice), sent(&bob)),
        (vec!["1".into(), "gap".into(), "9".into(), "10".into()], vec!["10".into()])
    );
}

#[test]
fn whoever_subscribes_again_is_told_where_it_is() {
    let (hub, _) = hub();
    let alice = connect(&hub);
    let again = || {
        alice.tell_position(&topic("a"), |position| Frame::plain(position.unwrap().to_string()));
        sent(&alice)
    };
    alice.join(&topic("a"), 10).unwrap().complete(&[], Some(&Position::new("e", 5)), &HashSet::new());
    deliver(&hub, [(topic("a"), at("4", "e", 4))]);
    assert_eq!(again(), ["e:5"], "what it was told when it came");
    deliver(&hub, [(topic("a"), at("5", "e", 5)), (topic("a"), at("6", "e", 6))]);
    assert_eq!(again(), ["6", "e:6"], "what it has heard");
    interruption(&hub);
    deliver(&hub, [(topic("a"), at("8", "e", 8))]);
    assert_eq!(again(), ["e:6"], "not what is held back");
    release(&hub, &topic("a"), gap("f", 1));
    assert_eq!(again(), ["gap", "f:1"], "what it was told of a gap");
}

#[test]
fn whoever_was_told_of_the_new_numbering_hears_nothing_of_the_old_one() {
    let (hub, _) = hub();
    let (alice, bob, carol) = (connect(&hub), connect(&hub), connect(&hub));
    live(&alice, &topic("a"));
    deliver(&hub, [(topic("a"), at("1", "e", 1))]);
    interruption(&hub);
    bob.join(&topic("a"), 10).unwrap().complete(&[], Some(&Position::new("f", 0)), &HashSet::new());
    carol.join(&topic("a"), 10).unwrap().complete(&[], Some(&Position::new("f", 3)), &HashSet::new());
    let torn = |told: u64, next: Vec<Frame>| {
        Missed::Torn(vec![at("2", "e", 2)], at("gap", "f", told), next, Position::new("f", 2))
    };
    release(&hub, &topic("a"), torn(0, vec![at("n1", "f", 1), at("n2", "f", 2)]));
    assert_eq!(sent(&alice), ["1", "2", "gap", "n1", "n2"]);
    assert_eq!((sent(&bob), sent(&carol)), (vec!["n1".to_owned(), "n2".to_owned()], vec![]));
    interruption(&hub);
    let dora = connect(&hub);
    dora.join(&topic("a"), 10).unwrap().complete(&[], Some(&Position::new("f", 1)), &HashSet::new());
    release(&hub, &topic("a"), torn(2, vec![]));
    assert_eq!(sent(&dora), ["gap"], "it was told of less");
}

#[test]
fn what_was_held_back_before_another_interruption_is_looked_for_in_the_history() {
    let (hub, _) = hub();
    let alice = connect(&hub);
    live(&alice, &topic("a"));
    deliver(&hub, [(topic("a"), at("1", "e", 1))]);
    interruption(&hub);
    deliver(&hub, [(topic("a"), at("3", "e", 3)), (topic("a"), Frame::plain("bare"))]);
    interruption(&hub);
    deliver(&hub, [(topic("a"), at("n2", "f", 2))]);
    hub.holding();
    assert!(!release(&hub, &topic("a"), gap("f", 1)));
    assert_eq!(sent(&alice), ["1", "gap", "bare", "n2"], "3 is before the gap");
}

#[test]
fn what_the_node_says_to_a_joining_member_is_bounded_as_what_it_hears() {
    let (hub, _) = hub();
    for hears in [true, false] {
        let alice = connect(&hub);
        let _joining = alice.join(&topic("a"), 10).unwrap();
        for number in 0..=HELD_FRAMES {
            assert_eq!(closed(&alice), None, "after {number} frames");
            if hears {
                deliver(&hub, [(topic("a"), Frame::plain("news"))]);
            } else {
                say(&hub, &topic("a"), "news");
            }
        }
        assert_eq!(closed(&alice), Some(close::RESYNC));
    }
}

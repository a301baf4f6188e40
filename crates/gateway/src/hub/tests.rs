//! The order of words in rooms, as plain tests: no runtime, no clock.

mod conflicts;
mod joining;
mod questions;

use std::{
    cell::Cell,
    ops::Deref,
    task::{Context, Poll, Waker},
};

use countersign_protocol::{Kind, Partition, TopicName};

use super::{outbox::tests::Kernel, room::HELD_FRAMES, *};

const LIMITS: OutboxLimits = OutboxLimits { bytes: 1 << 20, frames: 1000, when_full: WhenFull::Close };

fn hub() -> (Arc<Hub>, Arc<Interest>) {
    let interest = Interest::new();
    (Hub::new(Arc::clone(&interest)), interest)
}

/// A place in the hub, and the socket of its connection.
struct Device {
    membership: Membership,
    kernel: Arc<Kernel>,
    heard: Cell<usize>,
}

impl Deref for Device {
    type Target = Membership;

    fn deref(&self) -> &Membership {
        &self.membership
    }
}

fn connect(hub: &Arc<Hub>) -> Device {
    let kernel = Kernel::taking(usize::MAX);
    let outbox = Outbox::new(LIMITS, None, Box::new(Arc::clone(&kernel)));
    Device { membership: hub.enter(Arc::new(outbox)), kernel, heard: Cell::new(0) }
}

fn topic(name: &str) -> Channel {
    Channel::Topic(TopicName::parse(name).unwrap())
}

fn live(member: &Membership, channel: &Channel) {
    member.join(channel, 10).unwrap().complete(&[], None, &HashSet::new());
}

/// The subscription breaks and is back, and somebody begins to look what is missing.
fn interruption(hub: &Hub) {
    hub.interrupt(Audience::Crowd);
    hub.resume(Audience::Crowd);
    drop(hub.holding());
}

fn say(hub: &Hub, channel: &Channel, text: &str) {
    deliver(hub, [(channel.clone(), Frame::plain(text))]);
}

/// Whether it shows a hole.
fn deliver(hub: &Hub, batch: impl IntoIterator<Item = (Channel, Frame)>) -> bool {
    let numbered = |(channel, frame)| Some((hub.interest.number_of(&channel)?, frame));
    let (channels, frames): (Vec<_>, Vec<_>) = batch.into_iter().filter_map(numbered).unzip();
    let turn = hub.deliver(&channels, &frames);
    let hole = turn.hole;
    turn.leave_to_owners();
    hole
}

fn at(text: &str, epoch: &str, offset: u64) -> Frame {
    Frame::with(text.as_bytes(), Facts { position: Some(Position::new(epoch, offset)), ..Facts::default() })
}

/// Whether another hole shows.
fn release(hub: &Hub, channel: &Channel, missed: Missed) -> bool {
    hub.release(channel, missed).another
}

fn asked(text: &str, id: CallbackId) -> Frame {
    Frame::with(text.as_bytes(), Facts { kind: Kind::Question(id), ..Facts::default() })
}

/// What the device has heard since it was asked last.
fn sent(device: &Device) -> Vec<String> {
    device.outbox().write();
    let texts = device.kernel.texts();
    texts[device.heard.replace(texts.len())..].to_vec()
}

#[test]
fn only_members_of_the_room_hear_in_the_order_of_delivery() {
    let (hub, _) = hub();
    let (alice, bob) = (connect(&hub), connect(&hub));
    live(&alice, &topic("a"));
    live(&bob, &topic("b"));
    say(&hub, &topic("a"), "1");
    say(&hub, &topic("b"), "2");
    say(&hub, &topic("a"), "3");
    assert_eq!((sent(&alice), sent(&bob)), (vec!["1".into(), "3".into()], vec!["2".into()]));
}

#[test]
fn a_room_is_wanted_from_its_first_member_to_its_last() {
    let (hub, interest) = hub();
    let (alice, bob) = (connect(&hub), connect(&hub));
    live(&alice, &topic("a"));
    live(&bob, &topic("a"));
    assert_eq!(interest.wanted(), 1);
    assert!(alice.leave(&topic("a")));
    assert!(!alice.leave(&topic("a")));
    assert_eq!(interest.wanted(), 1);
    drop(bob);
    assert_eq!((interest.wanted(), hub.load().rooms), (0, 0));
}

#[test]
fn what_is_heard_while_joining_follows_the_first_words_without_repeats() {
    let (hub, _) = hub();
    let alice = connect(&hub);
    let joining = alice.join(&topic("a"), 10).unwrap();
    deliver(&hub, [(topic("a"), at("5", "e", 5)), (topic("a"), at("6", "e", 6)), (topic("a"), at("new", "f", 1))]);
    assert_eq!(sent(&alice), Vec::<String>::new());
    joining.complete(&[Frame::plain("confirmed")], Some(&Position::new("e", 5)), &HashSet::new());
    say(&hub, &topic("a"), "live");
    assert_eq!(sent(&alice), ["confirmed", "6", "new", "live"]);
}

fn known(texts: &[&str], epoch: &str, newest: u64) -> Missed {
    let first = newest + 1 - texts.len() as u64;
    let frames = texts.iter().zip(first..).map(|(text, offset)| at(text, epoch, offset)).collect();
    Missed::Messages(frames, Position::new(epoch, newest))
}

#[test]
fn a_hole_in_the_numbering_is_filled_before_what_follows_it() {
    let (hub, _) = hub();
    let alice = connect(&hub);
    live(&alice, &topic("a"));
    assert!(!deliver(&hub, [(topic("a"), at("1", "e", 1))]));
    assert!(deliver(&hub, [(topic("a"), at("4", "e", 4))]));
    deliver(&hub, [(topic("a"), at("5", "e", 5)), (topic("a"), Frame::plain("bare"))]);
    assert_eq!(sent(&alice), ["1"]);
    assert_eq!(hub.holding(), [(topic("a"), Some(Position::new("e", 1)))]);
    assert!(!release(&hub, &topic("a"), known(&["2", "3", "4"], "e", 4)));
    deliver(&hub, [(topic("a"), at("5", "e", 5)), (topic("a"), at("6", "e", 6))]);
    assert_eq!(sent(&alice), ["2", "3", "4", "5", "bare", "6"]);
    assert_eq!(hub.holding(), []);
}

#[test]
fn what_is_broken_is_filled_when_it_is_back_and_what_is_whole_is_left_alone() {
    let (hub, _) = hub();
    let device = connect(&hub);
    let alice = Channel::User(UserId::parse("alice").unwrap());
    live(&device, &topic("a"));
    live(&device, &alice);
    hub.interrupt(Audience::Crowd);
    assert_eq!(hub.holding(), [], "it would have to be filled again");
    say(&hub, &alice, "to alice");
    hub.resume(Audience::Crowd);
    assert_eq!((hub.holding(), sent(&device)), (vec![(topic("a"), None)], vec!["to alice".to_owned()]));
}

#[test]
fn what_cannot_be_filled_is_told_and_the_rest_follows() {
    let (hub, _) = hub();
    let alice = connect(&hub);
    live(&alice, &topic("a"));
    deliver(&hub, [(topic("a"), at("1", "e", 1))]);
    interruption(&hub);
    deliver(&hub, [(topic("a"), at("8", "f", 8)), (topic("a"), at("9", "f", 9))]);
    assert!(!release(&hub, &topic("a"), Missed::Gap(Frame::plain("gap"), Some(Position::new("f", 8)))));
    assert_eq!(sent(&alice), ["1", "gap", "9"]);
}

#[test]
fn a_numbering_that_was_torn_is_heard_to_its_end_and_the_next_one_from_its_beginning() {
    let (hub, _) = hub();
    let alice = connect(&hub);
    live(&alice, &topic("a"));
    deliver(&hub, [(topic("a"), at("1", "e", 1))]);
    interruption(&hub);
    deliver(&hub, [(topic("a"), at("n1", "f", 1)), (topic("a"), at("n2", "f", 2)), (topic("a"), at("n3", "f", 3))]);
    let (left, next) = (vec![at("2", "e", 2)], vec![at("n1", "f", 1), at("n2", "f", 2)]);
    let torn = Missed::Torn(left, Frame::plain("gap"), next, Position::new("f", 2));
    assert!(!release(&hub, &topic("a"), torn));
    assert_eq!(sent(&alice), ["1", "2", "gap", "n1", "n2", "n3"]);
}

#[test]
fn another_hole_behind_the_first_is_seen() {
    let (hub, _) = hub();
    let alice = connect(&hub);
    live(&alice, &topic("a"));
    deliver(&hub, [(topic("a"), at("1", "e", 1))]);
    interruption(&hub);
    deliver(&hub, [(topic("a"), at("3", "e", 3)), (topic("a"), at("6", "e", 6)), (topic("a"), at("7", "e", 7))]);
    assert!(release(&hub, &topic("a"), known(&["2", "3"], "e", 3)));
    assert_eq!(hub.holding(), [(topic("a"), Some(Position::new("e", 3)))]);
    assert!(!release(&hub, &topic("a"), known(&["4", "5", "6", "7"], "e", 7)));
    assert_eq!(sent(&alice), ["1", "2", "3", "4", "5", "6", "7"]);
}

#[test]
fn what_has_no_number_and_does_not_fit_behind_a_hole_is_told_as_another_gap() {
    let (hub, _) = hub();
    let alice = connect(&hub);
    live(&alice, &topic("a"));
    interruption(&hub);
    for _ in 0..HELD_FRAMES {
        say(&hub, &topic("a"), "kept");
    }
    say(&hub, &topic("a"), "too many");
    assert!(release(&hub, &topic("a"), Missed::Gap(Frame::plain("gap"), None)), "one is missing");
    let heard = sent(&alice);
    assert_eq!((heard.len(), heard[0].as_str()), (1 + HELD_FRAMES, "gap"));
    say(&hub, &topic("a"), "later");
    assert_eq!(hub.holding(), [(topic("a"), None)]);
    assert!(!release(&hub, &topic("a"), Missed::Gap(Frame::plain("another gap"), None)));
    assert_eq!(sent(&alice), ["another gap", "later"]);
}

#[test]
fn a_made_up_position_is_dropped_and_stops_nothing() {
    let (hub, _) = hub();
    let alice = connect(&hub);
    live(&alice, &topic("a"));
    deliver(&hub, [(topic("a"), at("1", "e", 1))]);
    assert!(deliver(&hub, [(topic("a"), at("forged", "e", 1000)), (topic("a"), at("2", "e", 2))]));
    assert!(!release(&hub, &topic("a"), known(&["2"], "e", 2)));
    deliver(&hub, [(topic("a"), at("3", "e", 3))]);
    assert_eq!((sent(&alice), hub.holding()), (vec!["1".into(), "2".into(), "3".into()], vec![]));
}

#[test]
fn a_new_numbering_from_its_beginning_is_no_hole() {
    let (hub, _) = hub();
    let alice = connect(&hub);
    alice.join(&topic("a"), 10).unwrap().complete(&[], Some(&Position::beginning()), &HashSet::new());
    for frame in [at("1", "e", 1), at("1", "e", 1), at("2", "e", 2), at("new", "f", 1)] {
        assert!(!deliver(&hub, [(topic("a"), frame)]));
    }
    assert!(deliver(&hub, [(topic("a"), at("late", "g", 2))]));
    assert_eq!(sent(&alice), ["1", "2", "new"]);
}

#[test]
fn whoever_comes_during_a_hole_gets_what_it_has_not_been_told() {
    let (hub, _) = hub();
    let (alice, bob) = (connect(&hub), connect(&hub));
    live(&alice, &topic("a"));
    deliver(&hub, [(topic("a"), at("1", "e", 1))]);
    interruption(&hub);
    bob.join(&topic("a"), 10).unwrap().complete(&[], Some(&Position::new("e", 2)), &HashSet::new());
    deliver(&hub, [(topic("a"), at("4", "e", 4))]);
    release(&hub, &topic("a"), known(&["2", "3", "4"], "e", 4));
    assert_eq!(
        (sent(&alice), sent(&bob)),
        (vec!["1".into(), "2".into(), "3".into(), "4".into()], vec!["3".into(), "4".into()])
    );
}

#[test]
fn a_question_that_is_known_is_not_put_twice() {
    let (hub, _) = hub();
    let alice = connect(&hub);
    let joining = alice.join(&topic("a"), 10).unwrap();
    let id = CallbackId::new(Partition::from_number(1).unwrap(), 1);
    deliver(&hub, [(topic("a"), asked("asked", id))]);
    joining.complete(&[], None, &HashSet::from([id]));
    assert_eq!(sent(&alice), Vec::<String>::new());
}

#[test]
fn what_was_read_is_not_repeated_when_it_is_heard_only_afterwards() {
    let (hub, _) = hub();
    let alice = connect(&hub);
    let (known, other) = (CallbackId::new(Partition::from_number(1).unwrap(), 1), Partition::from_number(2).unwrap());
    let joining = alice.join(&topic("a"), 10).unwrap();
    joining.complete(&[], Some(&Position::new("e", 5)), &HashSet::from([known]));
    let late = [at("4", "e", 4), asked("asked", known), at("5", "e", 5), at("6", "e", 6), at("new", "f", 1)];
    deliver(&hub, late.map(|frame| (topic("a"), frame)));
    deliver(&hub, [(topic("a"), asked("asked now", CallbackId::new(other, 2)))]);
    assert_eq!(sent(&alice), ["6", "new", "asked now"]);
}

#[test]
fn a_gap_that_a_joining_member_is_told_follows_its_first_words() {
    let (hub, _) = hub();
    let (alice, bob) = (connect(&hub), connect(&hub));
    live(&alice, &topic("a"));
    interruption(&hub);
    let joining = bob.join(&topic("a"), 10).unwrap();
    release(&hub, &topic("a"), Missed::Gap(Frame::plain("gap"), None));
    joining.complete(&[Frame::plain("connected")], None, &HashSet::new());
    assert_eq!(sent(&bob), ["connected", "gap"]);
}

#[test]
fn a_join_that_is_given_up_leaves_the_room() {
    let (hub, interest) = hub();
    let alice = connect(&hub);
    drop(alice.join(&topic("a"), 10).unwrap());
    assert_eq!((interest.wanted(), alice.is_in(&topic("a"))), (0, false));
    live(&alice, &topic("a"));
    assert_eq!(alice.join(&topic("a"), 10).err(), Some(NotJoined::Already));
    assert_eq!(alice.join(&topic("b"), 1).err(), Some(NotJoined::TooMany));
}

#[test]
fn a_slow_member_is_closed_and_disturbs_nobody() {
    let (hub, _) = hub();
    let limits = OutboxLimits { bytes: 2, frames: 2, when_full: WhenFull::Close };
    let slow = hub.enter(Arc::new(Outbox::new(limits, None, Box::new(Kernel::taking(0)))));
    let quick = connect(&hub);
    live(&slow, &topic("a"));
    live(&quick, &topic("a"));
    for n in 0..5 {
        say(&hub, &topic("a"), &n.to_string());
    }
    let attention = slow.outbox().poll_attention(&mut Context::from_waker(Waker::noop()));
    assert_eq!(attention, Poll::Ready(Attention::Close(close::SLOW)));
    assert_eq!(sent(&quick).len(), 5);
}

/// Two read the past of a room in which nothing was heard yet: one before a message was published, one after it, and the
/// message itself is on its way.
#[test]
fn what_one_member_has_read_and_the_room_has_not_heard_reaches_the_others() {
    for later_goes_live_first in [true, false] {
        for heard_before_both_are_live in [true, false] {
            let (hub, _) = hub();
            let (early, late) = (connect(&hub), connect(&hub));
            let go_live = |joining: Joining, read: u64| {
                let past: Vec<_> = (69..=read).map(|offset| at(&offset.to_string(), "e", offset)).collect();
                joining.complete(&past, Some(&Position::new("e", read)), &HashSet::new());
            };
            let joined = |device: &Device| device.join(&topic("a"), 10).unwrap();
            let mut both = [(joined(&early), 70), (joined(&late), 72)];
            if later_goes_live_first {
                both.reverse();
            }
            let [(first, first_read), (second, second_read)] = both;
            let hear = || {
                let frames = (71..=73).map(|offset| (topic("a"), at(&offset.to_string(), "e", offset)));
                assert!(!deliver(&hub, frames), "there is no hole");
            };
            go_live(first, first_read);
            if heard_before_both_are_live {
                hear();
            }
            go_live(second, second_read);
            if !heard_before_both_are_live {
                hear();
            }
            let case = (later_goes_live_first, heard_before_both_are_live);
            for device in [&early, &late] {
                assert_eq!(sent(device), ["69", "70", "71", "72", "73"], "{case:?}");
            }
        }
    }
}

#[test]
fn a_hole_before_anything_was_heard_is_filled_from_where_the_first_member_was() {
    let (hub, _) = hub();
    let (early, late) = (connect(&hub), connect(&hub));
    for (device, read) in [(&late, 72), (&early, 70)] {
        device.join(&topic("a"), 10).unwrap().complete(&[], Some(&Position::new("e", read)), &HashSet::new());
    }
    interruption(&hub);
    assert_eq!(hub.holding(), [(topic("a"), Some(Position::new("e", 70)))]);
    let missed = (71..=73).map(|offset| at(&offset.to_string(), "e", offset)).collect();
    release(&hub, &topic("a"), Missed::Messages(missed, Position::new("e", 73)));
    assert_eq!(sent(&early), ["71", "72", "73"]);
    assert_eq!(sent(&late), ["73"]);
}

#[test]
fn a_member_that_asks_again_hears_where_it_is_and_not_where_the_address_is() {
    let (hub, _) = hub();
    let alice = connect(&hub);
    live(&alice, &topic("a"));
    deliver(&hub, [(topic("a"), at("1", "e", 1)), (topic("a"), at("2", "e", 2))]);
    alice.tell_position(&topic("a"), |heard| Frame::plain(format!("at {}", heard.unwrap().offset)));
    deliver(&hub, [(topic("a"), at("3", "e", 3))]);
    assert_eq!(sent(&alice), ["1", "2", "at 2", "3"]);
}

#[test]
fn whether_there_is_room_for_more_is_known_before_anything_is_joined() {
    let (hub, _) = hub();
    let alice = connect(&hub);
    live(&alice, &topic("a"));
    let channels = [topic("a"), topic("b"), topic("c")];
    assert!(alice.has_room_for(channels.iter(), 3) && !alice.has_room_for(channels.iter(), 2));
    assert!(alice.has_room_for(channels[..1].iter(), 1), "it is in that one already");
}

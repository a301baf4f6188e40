//! A session is told frames and asked what changed; no socket is needed to show that it converges.

use super::*;
use countersign_protocol::{ByKind, Status, ids::Partition};

const CONNECTED: &str = r#"{"type":"connected","connection_id":"c1","user_id":"alice","node_id":"n1","ping_interval":30.0,"positions":{"broadcast":{"epoch":"b","offset":5},"user:alice":{"epoch":"","offset":0}}}"#;

fn id(number: u128) -> CallbackId {
    CallbackId::new(Partition::from_number(7).unwrap(), number)
}

fn question(number: u128) -> String {
    json!({"type": "task_step_result", "callback_id": id(number), "user_id": "alice", "task_id": "t", "step": 1, "message": "m",
        "status": "completed", "deadline": 2.0, "timestamp": 1.0, "options": null})
    .to_string()
}

fn list(numbers: &[u128]) -> String {
    let ids: Vec<_> = numbers.iter().map(|&number| id(number)).collect();
    json!({"type": "open_callbacks", "callback_ids": ids}).to_string()
}

fn message(address: &str, epoch: &str, offset: u64) -> String {
    json!({"n": offset, "_meta": {"topic": address, "position": {"epoch": epoch, "offset": offset}}}).to_string()
}

fn connected() -> Session {
    let mut session = Session::new(None);
    session.receive(CONNECTED);
    session
}

fn events(outputs: Vec<Output>) -> Vec<Event> {
    outputs
        .into_iter()
        .map(|output| match output {
            Output::Event(event) => event,
            other => panic!("not an event: {other:?}"),
        })
        .collect()
}

fn reply(outputs: Vec<Output>) -> (ActionId, Replied) {
    match <[Output; 1]>::try_from(outputs) {
        Ok([Output::Reply(id, Ok(replied))]) => (id, replied),
        other => panic!("not one good reply: {other:?}"),
    }
}

fn value(frame: &str) -> Value {
    serde_json::from_str(frame).unwrap()
}

#[test]
fn a_question_is_told_once_however_often_it_arrives() {
    let mut session = connected();
    assert!(matches!(&events(session.receive(&question(1)))[..], [Event::Callback(told)] if told.callback_id == id(1)));
    assert!(events(session.receive(&question(1))).is_empty());
    let ended = json!({"type": "callback_resolved", "callback_id": id(1), "status": "confirmed", "by": "bob",
        "by_kind": "user"});
    let (status, by_kind) = (Some(Status::Confirmed), Some(ByKind::User));
    let resolved = Resolved { callback_id: id(1), status, by: Some("bob".into()), by_kind };
    assert_eq!(events(session.receive(&ended.to_string())), [Event::CallbackResolved(resolved)]);
    assert!(events(session.receive(&question(1))).is_empty(), "a late copy of an ended question");
    assert!(events(session.receive(&ended.to_string())).is_empty());
}

#[test]
fn what_the_list_does_not_name_has_ended() {
    let mut session = connected();
    session.receive(&question(1));
    session.receive(&question(2));
    session.disconnected(None);
    session.receive(CONNECTED);
    assert!(events(session.receive(&question(2))).is_empty());
    let resolved = Resolved::while_away(id(1));
    assert_eq!(
        events(session.receive(&list(&[2]))),
        [Event::CallbackResolved(resolved), Event::OpenCallbacks(vec![id(2)])]
    );
}

#[test]
fn a_replay_that_overlaps_tells_no_message_twice_and_moves_the_position() {
    let mut session = connected();
    for offset in [6, 7] {
        assert_eq!(events(session.receive(&message("broadcast", "b", offset))).len(), 1);
    }
    assert!(events(session.receive(&message("broadcast", "b", 6))).is_empty());
    assert_eq!(session.since(), ["broadcast@b:7", "user:alice@:0"]);
    assert_eq!(events(session.receive(&message("broadcast", "new", 1))).len(), 1, "a new epoch counts anew");
    assert_eq!(session.since()[0], "broadcast@new:1");
}

#[test]
fn a_position_that_could_not_be_resumed_is_a_gap_and_a_recovered_one_waits_for_its_replay() {
    let mut session = connected();
    session.receive(&message("broadcast", "b", 9));
    let again = CONNECTED.replace(r#""offset":5}"#, r#""offset":12,"recovered":true}"#);
    assert_eq!(events(session.receive(&again)).len(), 1);
    assert_eq!(session.since()[0], "broadcast@b:9", "the replay from 10 has not come yet");
    let lost = CONNECTED.replace(r#""offset":5}"#, r#""offset":50,"recovered":false}"#);
    let position = Some(Position::new("b", 50));
    assert_eq!(events(session.receive(&lost))[1], Event::Gap { address: Address::Broadcast, position });
    assert_eq!(session.since()[0], "broadcast@b:50");
}

#[test]
fn topics_are_subscribed_again_from_where_they_were() {
    let mut session = connected();
    let topic = TopicName::parse("room:7").unwrap();
    let asked = session.subscribe(&topic, None, false);
    assert_eq!(value(session.frame(asked).unwrap())["topics"], json!(["room:7"]));
    session.disconnected(None);
    let greeting = session.greeting();
    assert_eq!(greeting.len(), 1);
    let confirmed =
        json!({"type": "subscription_confirmed", "topic": "room:7", "position": {"epoch": "r", "offset": 3}});
    assert_eq!(reply(session.receive(&confirmed.to_string())), (asked, Replied::Done));
    session.receive(&message("room:7", "r", 4));
    session.disconnected(None);
    let greeting = value(&session.greeting()[0]);
    assert_eq!(greeting["topics"], json!([{"topic": "room:7", "since": {"epoch": "r", "offset": 4}}]));

    session.unsubscribe(&topic);
    assert_eq!(reply(session.disconnected(None)).1, Replied::Done);
    assert!(session.greeting().is_empty());
}

#[test]
fn an_answer_whose_outcome_is_unknown_is_given_again_with_the_same_answer_id() {
    let mut session = connected();
    let fields = json!({"proceed": true, "answer_id": "a1"}).as_object().unwrap().clone();
    let asked = session.confirm(id(1), fields);
    assert!(session.disconnected(None).is_empty());
    let greeting = session.greeting();
    assert_eq!(value(&greeting[0])["answer_id"], "a1");
    let unavailable =
        json!({"type": "confirmation_rejected", "callback_id": id(1), "reason": "unavailable", "reply_to": asked});
    assert!(matches!(session.receive(&unavailable.to_string())[..], [Output::Again { id, tries: 0 }] if id == asked));
    let accepted = json!({"type": "confirmation_accepted", "callback_id": id(1), "reply_to": asked}).to_string();
    assert_eq!(reply(session.receive(&accepted)), (asked, Replied::Verdict(Verdict::Accepted)));
    assert!(session.receive(&accepted).is_empty() && session.greeting().is_empty());
}

#[test]
fn the_loser_of_a_race_is_told_who_won() {
    let mut session = connected();
    let asked = session.confirm(id(1), Map::new());
    let decision = json!({"callback_id": id(1), "status": "declined", "proceed": false, "feedback": null, "choice": null,
        "data": null, "resolution": "user", "by": "bob", "at": 1.0});
    let rejected = json!({"type": "confirmation_rejected", "callback_id": id(1), "reason": "already_resolved",
        "decision": decision, "reply_to": asked});
    let (_, replied) = reply(session.receive(&rejected.to_string()));
    assert!(
        matches!(&replied, Replied::Verdict(Verdict::AlreadyResolved(Some(won))) if won.by.as_deref() == Some("bob")),
        "{replied:?}"
    );
}

#[test]
fn an_error_goes_to_the_action_that_caused_it() {
    let mut session = connected();
    let asked = session.subscribe(&TopicName::parse("secret").unwrap(), None, false);
    let forbidden = json!({"type": "error", "code": "forbidden", "message": "no", "timestamp": 1.0, "reply_to": asked});
    assert!(matches!(
        &session.receive(&forbidden.to_string())[..],
        [Output::Reply(_, Err(Error::Refused(problem)))] if problem.code == "forbidden"
    ));
    assert!(session.greeting().is_empty(), "a topic that is forbidden is not asked for again");
    assert!(matches!(&events(session.receive(&forbidden.to_string()))[..], [Event::Error { .. }]));
}

#[test]
fn a_ping_dies_with_its_connection() {
    let mut session = connected();
    let asked = session.ping();
    assert!(matches!(session.disconnected(None)[..], [Output::Reply(id, Err(Error::Cut))] if id == asked));
    let asked = session.ping();
    let pong = json!({"type": "pong", "timestamp": 1.0, "original_data": {}, "reply_to": asked}).to_string();
    assert_eq!(reply(session.receive(&pong)), (asked, Replied::Done));
}

#[test]
fn a_watched_topic_is_watched_again_and_its_list_is_asked_for_after_a_cut() {
    let mut session = connected();
    let (room, other) = (TopicName::parse("room:7").unwrap(), TopicName::parse("other").unwrap());
    session.subscribe(&other, None, false);
    let asked = session.subscribe(&room, None, true);
    assert_eq!(value(session.frame(asked).unwrap())["presence"], true);
    let change = json!({"type": "joined", "topic": "room:7", "user_id": "bob", "timestamp": 1.5});
    assert!(
        matches!(&events(session.receive(&change.to_string()))[..], [Event::Joined(who)] if who.user_id.as_str() == "bob")
    );
    session.disconnected(None);
    session.receive(CONNECTED);
    let without_id = |frame: &String| {
        let mut action = value(frame);
        action.as_object_mut().unwrap().remove("id");
        action
    };
    let frames: Vec<_> = session.greeting().iter().map(without_id).collect();
    let subscribe =
        |topic: &str, presence: bool| json!({"action": "subscribe", "topics": [topic], "presence": presence});
    let expected =
        [subscribe("other", false), subscribe("room:7", true), json!({"action": "presence", "topic": "room:7"})];
    assert_eq!(frames, expected);
    let list = json!({"type": "presence", "topic": "room:7", "members": ["alice"], "count": 1});
    assert!(matches!(&events(session.receive(&list.to_string()))[..], [Event::Presence(list)] if list.count == 1));
    session.unsubscribe(&room);
    assert_eq!(session.greeting().len(), 1);
}

#[test]
fn a_list_that_was_asked_for_is_a_reply_and_survives_a_cut_while_a_publication_does_not() {
    let mut session = connected();
    let room = TopicName::parse("room:7").unwrap();
    let (list, published) = (session.presence(&room), session.publish(&room, &Map::new()));
    assert!(matches!(&session.disconnected(None)[..], [Output::Reply(id, Err(Error::Cut))] if *id == published));
    session.receive(CONNECTED);
    assert_eq!(session.greeting().len(), 1);
    let answer = json!({"type": "presence", "topic": "room:7", "members": [], "count": 0, "reply_to": list});
    let Replied::Members(members) = reply(session.receive(&answer.to_string())).1 else { panic!("no list") };
    assert_eq!((members.topic, members.count), (room.clone(), 0));
    let published = session.publish(&room, &Map::new());
    let answer = json!({"type": "published", "position": {"epoch": "e", "offset": 3}, "reply_to": published});
    let replied = reply(session.receive(&answer.to_string()));
    assert_eq!(replied, (published, Replied::Published(Some(Position::new("e", 3)))));
}

#[test]
fn after_a_resync_nothing_is_asked_to_be_replayed_and_every_address_is_told_to_have_a_gap() {
    let mut session = connected();
    session.subscribe(&TopicName::parse("room:7").unwrap(), None, false);
    session.receive(&message("room:7", "r", 3));
    session.disconnected(None);
    let gaps = events(session.forget_positions());
    let told = |gap: &Event| match gap {
        Event::Gap { address, position: None } => address.client_form().to_string(),
        other => panic!("not a gap: {other:?}"),
    };
    assert_eq!(gaps.iter().map(told).collect::<Vec<_>>(), ["broadcast", "user:alice", "room:7"]);
    assert_eq!(session.since(), Vec::<String>::new());
    let greeting = value(&session.greeting()[0]);
    assert_eq!(greeting["topics"], json!(["room:7"]));
    // Where it is now is learnt from the next connection, and is no second gap.
    assert_eq!(events(session.receive(CONNECTED)).len(), 1);
    assert_eq!(session.since(), ["broadcast@b:5", "user:alice@:0"]);
}

fn error(code: &str, more: &Value, reply_to: Option<ActionId>) -> String {
    let mut error = json!({"type": "error", "code": code, "message": "why", "timestamp": 1.0});
    let fields = error.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    fields.extend(reply_to.map(|id| ("reply_to".to_owned(), json!(id))));
    error.to_string()
}

fn confirmed(topic: &str) -> String {
    json!({"type": "subscription_confirmed", "topic": topic, "position": {"epoch": "e", "offset": 1}}).to_string()
}

#[track_caller]
fn refused(outputs: Vec<Output>) -> (ActionId, Box<crate::Problem>) {
    match <[Output; 1]>::try_from(outputs) {
        Ok([Output::Reply(id, Err(Error::Refused(problem)))]) => (id, problem),
        other => panic!("not one refusal: {other:?}"),
    }
}

#[test]
fn what_names_an_action_comes_first_in_its_frame() {
    let mut session = connected();
    let asked = session.confirm(id(1), json!({"answer_id": "a", "proceed": false}).as_object().unwrap().clone());
    let expected =
        format!(r#"{{"id":{asked},"action":"confirm","callback_id":"{}","answer_id":"a","proceed":false}}"#, id(1));
    assert_eq!(session.frame(asked), Some(expected.as_str()));
}

#[test]
fn an_action_that_was_too_long_is_refused_and_not_sent_again() {
    // The gateway says how long a frame may be, or (an older one) only closes: then the longest was too long.
    for told in [Some(json!({"limit": 1000})), None] {
        let mut session = connected();
        let short = session.confirm(id(1), json!({"proceed": true}).as_object().unwrap().clone());
        let long = json!({"proceed": false, "feedback": "x".repeat(2000)});
        let long = session.confirm(id(2), long.as_object().unwrap().clone());
        if let Some(told) = told {
            assert_eq!(events(session.receive(&error("too_long", &told, None))).len(), 1);
        }
        let (dropped, problem) = refused(session.disconnected(Some(1009)));
        assert_eq!((dropped, problem.code.as_str()), (long, "too_long"));
        session.receive(CONNECTED);
        let greeting: Vec<_> = session.greeting().iter().map(|frame| value(frame)["id"].clone()).collect();
        assert_eq!(greeting, [json!(short)]);
        assert!(session.disconnected(Some(1006)).is_empty(), "another cut drops nothing");
    }
}

#[test]
fn an_answer_that_was_rejected_as_too_long_drops_no_other() {
    let mut session = connected();
    let short = session.confirm(id(1), json!({"proceed": true}).as_object().unwrap().clone());
    let long = json!({"proceed": false, "feedback": "x".repeat(2000)});
    let long = session.confirm(id(2), long.as_object().unwrap().clone());
    let rejected = json!({"type": "confirmation_rejected", "callback_id": id(2), "reason": "invalid", "message": "m", "reply_to": long});
    assert_eq!(reply(session.receive(&rejected.to_string())), (long, Replied::Verdict(Verdict::Invalid("m".into()))));
    session.receive(&error("too_long", &json!({"limit": 1000}), Some(long)));
    assert!(session.disconnected(Some(1009)).is_empty());
    assert_eq!(session.greeting().len(), 1);
    assert!(session.frame(short).is_some());
}

#[test]
fn a_subscription_that_could_not_be_made_is_asked_for_again() {
    let mut session = connected();
    let asked = session.subscribe(&TopicName::parse("room:7").unwrap(), None, false);
    for expected in 0..3 {
        let again = session.receive(&error("unavailable", &json!({"topic": "room:7"}), Some(asked)));
        assert!(matches!(again[..], [Output::Again { id, tries }] if id == asked && tries == expected), "{again:?}");
        assert_eq!(value(&session.repeat(asked).unwrap())["topics"], json!(["room:7"]));
    }
    assert_eq!(reply(session.receive(&confirmed("room:7"))), (asked, Replied::Done));
    assert_eq!(session.repeat(asked), None);
}

#[test]
fn a_new_connection_asks_again_for_the_topics_that_it_does_not_hear() {
    let mut session = connected();
    for topic in ["a", "b", "c"] {
        session.subscribe(&TopicName::parse(topic).unwrap(), None, false);
        session.receive(&confirmed(topic));
    }
    session.disconnected(None);
    session.receive(CONNECTED);
    let greeting = value(&session.greeting()[0]);
    let asked = greeting["id"].as_u64().unwrap();
    session.receive(&confirmed("a"));
    let again = session.receive(&error("unavailable", &json!({"topics": ["b", "c"]}), Some(asked)));
    assert!(matches!(again[..], [Output::Again { id, tries: 0 }] if id == asked), "{again:?}");
    session.unsubscribe(&TopicName::parse("b").unwrap());
    let repeated = value(&session.repeat(asked).unwrap());
    assert_eq!(repeated["topics"], json!([{"topic": "c", "since": {"epoch": "e", "offset": 1}}]));
    session.receive(&confirmed("c"));
    assert_eq!(session.repeat(asked), None, "everything is heard");
}

#[test]
fn a_topic_that_is_refused_does_not_keep_the_others_from_being_heard() {
    let mut session = connected();
    let waits = session.subscribe(&TopicName::parse("secret").unwrap(), None, false);
    session.subscribe(&TopicName::parse("room:7").unwrap(), None, false);
    session.disconnected(None);
    session.receive(CONNECTED);
    let asked = value(&session.greeting()[0])["id"].as_u64().unwrap();
    let again = session.receive(&error("forbidden", &json!({}), Some(asked)));
    let [Output::Again { id: room, .. }, Output::Again { id: secret, .. }] = again[..] else { panic!("{again:?}") };
    assert_eq!(value(&session.repeat(room).unwrap())["topics"], json!(["room:7"]));
    session.receive(&confirmed("room:7"));
    let outputs = session.receive(&error("forbidden", &json!({}), Some(secret)));
    assert!(
        matches!(&outputs[..], [Output::Reply(id, Err(Error::Refused(_))), Output::Event(Event::Error { .. })] if *id == waits),
        "{outputs:?}"
    );
}

#[test]
fn many_topics_are_asked_for_in_frames_that_a_gateway_takes() {
    let mut session = connected();
    for n in 0..1000 {
        session.subscribe(&TopicName::parse(&format!("{n:0>256}")).unwrap(), Some(Position::new("e", n)), n % 2 == 0);
    }
    session.disconnected(None);
    let frames = session.greeting();
    assert!(frames.iter().all(|frame| frame.len() < 65_536));
    let topics = |frame: &String| value(frame)["topics"].as_array().map_or(0, Vec::len);
    assert_eq!(frames.iter().map(topics).sum::<usize>(), 1000);
}

#[test]
fn a_message_that_cannot_be_read_is_a_gap_once_and_moves_the_position() {
    let mut session = connected();
    let unreadable = r#"{"n":1e400,"_meta":{"topic":"broadcast","position":{"epoch":"b","offset":6}}}"#;
    let gap = Event::Gap { address: Address::Broadcast, position: Some(Position::new("b", 6)) };
    assert_eq!(events(session.receive(unreadable)), [gap]);
    assert!(events(session.receive(unreadable)).is_empty());
    assert_eq!(session.since()[0], "broadcast@b:6");
}

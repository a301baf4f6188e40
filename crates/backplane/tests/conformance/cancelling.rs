//! A cancelled task ends its callbacks, tells everybody concerned, and asks nobody until it is lifted or forgotten.

use std::{collections::BTreeMap, time::Duration};

use countersign_backplane::{
    BackplaneError, Channel, Settings,
    callbacks::{Cancellation, CancelledTask, Canceller, TaskState},
};
use countersign_protocol::{ByKind, Partition, Status, UserId};
use serde_json::json;

use crate::{
    fixture::{Fixture, Node, SHORT},
    words::{accepted, already, answer, ask, assert_ended, decided, keyed, task, topic_channel, user, user_channel},
};

/// By whom a task is cancelled, if it is.
async fn canceller(node: &Node, user_name: &str, task_name: &str) -> Option<String> {
    node.task(&user(user_name), &task(task_name)).await.unwrap().cancelled.map(|cancelled| cancelled.by)
}

pub(crate) async fn a_cancellation_closes_the_tasks_callbacks_and_tells_everybody<F: Fixture>() {
    let fixture = F::start(Settings { guests: true, ..Settings::default() }).await;
    let (one, two) = (fixture.node("one").await, fixture.node("two").await);
    let channels = [user_channel("alice"), topic_channel("task:t"), Channel::Guests, user_channel("bob")];
    let mut wanted = Vec::new();
    for channel in &channels {
        wanted.push(two.hear(channel).await);
    }
    let (first, second, other) = (ask("alice", "t"), ask("alice", "t"), ask("alice", "u"));
    for open in [&first, &second, &other] {
        one.open(open.clone()).await.unwrap();
    }
    let by = Canceller::User(user("alice"));
    let cancelled = one.cancel_task(&user("alice"), &task("t"), &by).await.unwrap();
    assert_eq!((&cancelled.user, cancelled.callbacks_closed), (&user("alice"), 2));
    for open in [&first, &second] {
        let decision = decided(two.read(open.id).await.unwrap());
        assert_ended(&decision, Status::Cancelled, Some("alice"));
        assert_eq!(already(two.confirm(answer(open.id, "alice", true)).await.unwrap()), decision);
    }
    let state = two.task(&user("alice"), &task("t")).await.unwrap();
    let by = Cancellation { by: "alice".to_owned(), by_kind: Some(ByKind::User), at: cancelled.at };
    assert_eq!(state, TaskState { cancelled: Some(by), open: vec![] });
    let state = two.task(&user("alice"), &task("u")).await.unwrap();
    assert_eq!(state, TaskState { cancelled: None, open: vec![other.id] });
    let notice = json!({"type": "task_cancelled", "user_id": "alice", "task_id": "t", "timestamp": cancelled.at, "callbacks_closed": 2});
    let resolved = [&first, &second]
        .map(|open| json!({"type": "callback_resolved", "callback_id": open.id, "status": "cancelled", "by": "alice", "by_kind": "user"}));
    for channel in &channels[..3] {
        let mut heard = fixture.values_so_far(&two, channel).await;
        heard.retain(|event| event["type"] != "task_step_result");
        let expected = if *channel == channels[1] { vec![] } else { resolved.to_vec() };
        assert_eq!(heard, [expected, vec![notice.clone()]].concat(), "{}", channel.name());
    }
    assert_eq!(fixture.values_so_far(&two, &user_channel("bob")).await.len(), 0);
}

pub(crate) async fn on_a_cancelled_task_nobody_is_asked<F: Fixture>() {
    let fixture = F::start(Settings { guests: true, ..Settings::default() }).await;
    let node = fixture.node("one").await;
    let _events = node.hear(&user_channel("alice")).await;
    let _guests = node.hear(&Channel::Guests).await;
    node.cancel_task(&user("alice"), &task("t"), &Canceller::Guest).await.unwrap();
    let open = keyed(ask("alice", "t"), "k", "digest");
    let opened = node.open(open.clone()).await.unwrap();
    assert!(opened.new);
    let decision = opened.callback.decision.clone().unwrap();
    assert_ended(&decision, Status::Cancelled, Some("guest"));
    assert!(opened.callback.message.as_str().starts_with(&open.message_head));
    assert_eq!(decided(node.read(open.id).await.unwrap()), decision);
    assert_eq!(already(node.confirm(answer(open.id, "alice", true)).await.unwrap()), decision);
    assert_eq!(node.open_callbacks(&user("alice")).await.unwrap(), []);
    assert_eq!(node.all_open_callbacks(None, 10).await.unwrap(), (vec![], None));
    assert_eq!(node.sweep().await.unwrap().open, 0);
    // The end is kept under its key, whatever becomes of the task.
    node.lift(Some(&user("alice")), &task("t")).await.unwrap();
    let repeat = node.open(keyed(ask("alice", "t"), "k", "digest")).await.unwrap();
    assert_eq!((repeat.new, repeat.callback.id, repeat.callback.decision), (false, open.id, Some(decision)));
    for channel in [user_channel("alice"), Channel::Guests] {
        let heard = fixture.values_so_far(&node, &channel).await;
        assert_eq!(heard.iter().map(|event| &event["type"]).collect::<Vec<_>>(), ["task_cancelled"]);
    }
    assert!(node.open(ask("alice", "t")).await.unwrap().callback.decision.is_none());
}

pub(crate) async fn a_lift_ends_a_cancellation<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (one, two) = (fixture.node("one").await, fixture.node("two").await);
    assert_eq!(one.lift(Some(&user("alice")), &task("t")).await, Ok(false));
    one.cancel_task(&user("alice"), &task("t"), &Canceller::Producer).await.unwrap();
    assert_eq!(canceller(&two, "alice", "t").await.as_deref(), Some("producer"));
    assert_eq!(two.lift(Some(&user("bob")), &task("t")).await, Ok(false));
    assert_eq!(two.lift(None, &task("t")).await, Ok(false));
    assert_eq!(two.lift(Some(&user("alice")), &task("t")).await, Ok(true));
    assert_eq!(two.lift(Some(&user("alice")), &task("t")).await, Ok(false));
    assert_eq!(canceller(&one, "alice", "t").await, None);
    let open = ask("alice", "t");
    assert!(one.open(open.clone()).await.unwrap().callback.decision.is_none());
    accepted(one.confirm(answer(open.id, "alice", true)).await.unwrap());
}

pub(crate) async fn a_cancellation_ends_with_its_retention_which_a_repeat_renews<F: Fixture>() {
    let fixture = F::start(Settings { cancel_retention: SHORT * 2, ..Settings::default() }).await;
    let node = fixture.node("one").await;
    for name in ["renewed", "forgotten"] {
        node.cancel_task(&user("alice"), &task(name), &Canceller::Producer).await.unwrap();
    }
    node.cancel_tasks_named(&task("named"), &Canceller::Producer).await.unwrap();
    fixture.advance(SHORT).await;
    let again = node.cancel_task(&user("alice"), &task("renewed"), &Canceller::User(user("alice"))).await.unwrap();
    assert_eq!(again.callbacks_closed, 0);
    fixture.advance(SHORT + Duration::from_millis(50)).await;
    let state = node.task(&user("alice"), &task("renewed")).await.unwrap();
    let last = Cancellation { by: "alice".to_owned(), by_kind: Some(ByKind::User), at: again.at };
    assert_eq!(state.cancelled, Some(last), "who cancelled last");
    for name in ["forgotten", "named"] {
        assert_eq!(canceller(&node, "alice", name).await, None);
        assert!(node.open(ask("alice", name)).await.unwrap().callback.decision.is_none());
    }
}

pub(crate) async fn a_named_task_is_cancelled_for_every_user<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (one, two) = (fixture.node("one").await, fixture.node("two").await);
    let names: Vec<_> = (0..80).map(|n| format!("user {n}")).collect();
    let partitions: std::collections::BTreeSet<_> = names.iter().map(|name| Partition::of(&user(name))).collect();
    assert!(partitions.len() > 20 && partitions.len() < names.len(), "several partitions, and some with several users");
    let mut wanted = vec![two.hear(&topic_channel("task:t")).await];
    for (n, name) in names.iter().enumerate() {
        wanted.push(two.hear(&user_channel(name)).await);
        for _ in 0..n % 3 {
            one.open(ask(name, "t")).await.unwrap();
        }
        one.open(ask(name, "other")).await.unwrap();
    }
    let cancelled = one.cancel_tasks_named(&task("t"), &Canceller::Producer).await.unwrap();
    let closed = |cancelled: &[CancelledTask]| {
        cancelled.iter().map(|task| (task.user.clone(), task.callbacks_closed)).collect::<BTreeMap<UserId, u64>>()
    };
    let expected: BTreeMap<_, _> =
        names.iter().zip(0..).map(|(name, n)| (user(name), n % 3)).filter(|(_, closed)| *closed > 0).collect();
    assert_eq!((cancelled.len(), closed(&cancelled)), (expected.len(), expected.clone()));
    for name in &names {
        assert_eq!(two.task(&user(name), &task("t")).await.unwrap().open, []);
        assert_eq!(canceller(&two, name, "t").await.as_deref(), Some("producer"));
        let open = two.open_callbacks(&user(name)).await.unwrap();
        assert_eq!(open.iter().map(|callback| callback.task.as_str()).collect::<Vec<_>>(), ["other"]);
        let mut heard = fixture.values_so_far(&two, &user_channel(name)).await;
        heard.retain(|event| event["type"] != "task_step_result");
        let closed = expected.get(&user(name)).copied().unwrap_or_default();
        let notices = heard.iter().filter(|event| event["type"] == "task_cancelled").count();
        assert_eq!((heard.len() as u64, notices), (closed + u64::from(closed > 0), usize::from(closed > 0)));
    }
    let mut told = fixture.values_so_far(&two, &topic_channel("task:t")).await;
    if !F::ONE_PLACE {
        told.sort_by_key(|event| event["user_id"].is_null());
    }
    // Whoever works on the task hears it also when nobody was asked anything.
    let (everybody, users) = told.split_last().unwrap();
    let total: u64 = expected.values().sum();
    assert_eq!((&everybody["user_id"], &everybody["callbacks_closed"]), (&json!(null), &json!(total)));
    let told: BTreeMap<_, _> = users
        .iter()
        .map(|event| (user(event["user_id"].as_str().unwrap()), event["callbacks_closed"].as_u64().unwrap()))
        .collect();
    assert_eq!(told, expected);
}

pub(crate) async fn a_named_cancellation_holds_for_users_who_are_asked_later<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let _wanted = node.hear(&topic_channel("task:t")).await;
    assert_eq!(node.cancel_tasks_named(&task("t"), &Canceller::User(user("admin"))).await.unwrap(), []);
    let told = fixture.values_so_far(&node, &topic_channel("task:t")).await;
    assert_eq!(told.len(), 1);
    let timestamp = &told[0]["timestamp"];
    assert!(timestamp.is_f64());
    assert_eq!(
        told[0],
        json!({"type": "task_cancelled", "user_id": null, "task_id": "t", "timestamp": timestamp, "callbacks_closed": 0})
    );
    for name in ["alice", "bob"] {
        let opened = node.open(ask(name, "t")).await.unwrap();
        assert_ended(&opened.callback.decision.unwrap(), Status::Cancelled, Some("admin"));
        assert!(node.open(ask(name, "another")).await.unwrap().callback.decision.is_none());
    }
    // A user's own cancellation and everybody's are two.
    node.cancel_task(&user("alice"), &task("t"), &Canceller::User(user("alice"))).await.unwrap();
    assert_eq!(canceller(&node, "alice", "t").await.as_deref(), Some("alice"));
    assert_eq!(node.lift(None, &task("t")).await, Ok(true));
    assert_eq!(node.lift(None, &task("t")).await, Ok(false));
    assert_eq!(canceller(&node, "alice", "t").await.as_deref(), Some("alice"));
    assert_eq!(canceller(&node, "bob", "t").await, None);
    node.cancel_tasks_named(&task("t"), &Canceller::Producer).await.unwrap();
    assert_eq!(node.lift(Some(&user("alice")), &task("t")).await, Ok(true));
    assert_eq!(canceller(&node, "alice", "t").await.as_deref(), Some("producer"), "everybody's still holds");
}

pub(crate) async fn a_task_whose_name_is_too_long_for_a_topic_is_cancelled_all_the_same<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let name = "x".repeat(256);
    let _events = node.hear(&user_channel("alice")).await;
    let open = ask("alice", &name);
    node.open(open.clone()).await.unwrap();
    let cancelled = node.cancel_task(&user("alice"), &task(&name), &Canceller::Producer).await.unwrap();
    assert_eq!(cancelled.callbacks_closed, 1);
    let heard = fixture.values_so_far(&node, &user_channel("alice")).await;
    assert_eq!((&heard[2]["type"], &heard[2]["task_id"]), (&json!("task_cancelled"), &json!(name)));
}

pub(crate) async fn a_person_cancels_so_many_invented_tasks_and_no_more<F: Fixture>() {
    let settings = Settings { cancel_user_limit: 3, cancel_retention: Duration::from_secs(4), ..Settings::default() };
    let fixture = F::start(settings).await;
    let node = fixture.node("one").await;
    let alice = user("alice");
    for (canceller, other) in [(Canceller::User(alice.clone()), "bob"), (Canceller::Guest, "alice")] {
        let cancel = async |name: &str| node.cancel_task(&alice, &task(name), &canceller).await;
        for n in 0..3 {
            assert_eq!(cancel(&format!("invented {n}")).await.unwrap().callbacks_closed, 0);
        }
        assert_eq!(cancel("one more").await, Err(BackplaneError::TooManyCancellations(3)));
        assert_eq!(node.task(&alice, &task("one more")).await.unwrap(), TaskState { cancelled: None, open: vec![] });
        // What is cancelled already may be cancelled again, and what closes something always.
        cancel("invented 0").await.unwrap();
        let open = ask("alice", "asked");
        node.open(open.clone()).await.unwrap();
        assert_eq!(cancel("asked").await.unwrap().callbacks_closed, 1);
        // A flood is its own user's affair, and none of producers.
        node.cancel_task(&alice, &task("by a producer"), &Canceller::Producer).await.unwrap();
        if other != "alice" {
            node.cancel_task(&user(other), &task("t"), &Canceller::User(user(other))).await.unwrap();
        }
        // A lift makes room for one.
        assert!(node.lift(Some(&alice), &task("invented 1")).await.unwrap());
        cancel("one more").await.unwrap();
        assert_eq!(cancel("and another").await, Err(BackplaneError::TooManyCancellations(3)));
        for name in ["invented 0", "invented 2", "one more", "asked", "by a producer"] {
            assert!(node.lift(Some(&alice), &task(name)).await.unwrap(), "{name}");
        }
        for n in 0..3 {
            cancel(&format!("later {n}")).await.unwrap();
        }
        assert_eq!(cancel("one more").await, Err(BackplaneError::TooManyCancellations(3)));
        fixture.advance(Duration::from_secs(4)).await;
        cancel("one more").await.unwrap();
        assert!(node.lift(Some(&alice), &task("one more")).await.unwrap());
    }
}

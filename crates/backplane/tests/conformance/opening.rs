//! A question is asked once, whoever repeats it, and what a person sees is already recorded.

use std::{sync::Arc, time::Duration};

use countersign_backplane::{
    BackplaneError, Channel, Settings,
    callbacks::{Canceller, Confirmed, Withdrawn},
};
use countersign_protocol::{CallbackId, Partition, Status};
use serde_json::Value;
use tokio::sync::Barrier;

use crate::{
    fixture::{Fixture, SHORT},
    words::{
        FAR, accepted, answer, ask, assert_ended, decided, head, keyed, odd_names, soon, task, user, user_channel,
    },
};

pub(crate) async fn a_question_is_published_as_it_was_recorded<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (asker, device) = (fixture.node("one").await, fixture.node("two").await);
    let _wanted = device.hear(&user_channel("alice")).await;
    let mut open = ask("alice", "t");
    r#"{"type":"task_step_result","n":1.50,"big":123456789012345678901234567890,"e":[],"o":{},"t":"ü\u0000\"\\%s%d\u2028""#
        .clone_into(&mut open.message_head);
    let opened = asker.open(open.clone()).await.unwrap();
    assert!(opened.new);
    let callback = opened.callback;
    assert_eq!((callback.id, &callback.user, &callback.task), (open.id, &open.user, &open.task));
    assert_eq!((callback.status(), &callback.decision), (Status::Pending, &None));
    assert!((callback.deadline - callback.asked_at - FAR.as_secs_f64()).abs() < 0.001, "{callback:?}");
    assert!(callback.remaining <= FAR && callback.remaining + Duration::from_secs(30) > FAR, "{callback:?}");
    let expected =
        format!("{},\"deadline\":{:.3},\"timestamp\":{:.3}}}", open.message_head, callback.deadline, callback.asked_at);
    assert_eq!(callback.message.as_str(), expected);
    let heard = fixture.heard_so_far(&device, &user_channel("alice")).await;
    assert_eq!((heard.len(), heard[0].payload.as_str(), &heard[0].position), (1, expected.as_str(), &None));
    let read = device.read(open.id).await.unwrap().unwrap();
    assert_eq!((read.message, read.asked_at, read.deadline), (callback.message, callback.asked_at, callback.deadline));
    let pending = device.open_callbacks(&open.user).await.unwrap();
    assert_eq!(pending.iter().map(|callback| callback.id).collect::<Vec<_>>(), [open.id]);
}

pub(crate) async fn the_same_id_from_two_nodes_at_once_asks_once<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let nodes = [Arc::new(fixture.node("one").await), Arc::new(fixture.node("two").await)];
    let _wanted = nodes[0].hear(&user_channel("alice")).await;
    for round in 0..50 {
        let (open, barrier) = (ask("alice", "t"), Arc::new(Barrier::new(2)));
        let attempts = nodes.clone().map(|node| {
            let (open, barrier) = (open.clone(), Arc::clone(&barrier));
            tokio::spawn(async move {
                barrier.wait().await;
                node.open(open).await.unwrap()
            })
        });
        let [one, two] = attempts;
        let (one, two) = (one.await.unwrap(), two.await.unwrap());
        assert!(one.new != two.new, "round {round}: one of them asked");
        assert_eq!((one.callback.id, one.callback.message), (two.callback.id, two.callback.message));
    }
    assert_eq!(fixture.heard_so_far(&nodes[0], &user_channel("alice")).await.len(), 50);
    assert_eq!(nodes[0].open_callbacks(&user("alice")).await.unwrap().len(), 50);
}

pub(crate) async fn the_same_key_from_two_nodes_at_once_asks_once<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let nodes = [Arc::new(fixture.node("one").await), Arc::new(fixture.node("two").await)];
    let _wanted = nodes[0].hear(&user_channel("alice")).await;
    for round in 0..50 {
        let barrier = Arc::new(Barrier::new(2));
        let attempts = nodes.clone().map(|node| {
            let (open, barrier) = (keyed(ask("alice", "t"), &format!("k{round}"), "digest"), Arc::clone(&barrier));
            tokio::spawn(async move {
                barrier.wait().await;
                node.open(open).await.unwrap()
            })
        });
        let [one, two] = attempts;
        let (one, two) = (one.await.unwrap(), two.await.unwrap());
        assert!(one.new != two.new, "round {round}: one of them asked");
        assert_eq!((one.callback.id, one.callback.message), (two.callback.id, two.callback.message));
    }
    assert_eq!(fixture.heard_so_far(&nodes[0], &user_channel("alice")).await.len(), 50);
    assert_eq!(nodes[0].open_callbacks(&user("alice")).await.unwrap().len(), 50);
}

pub(crate) async fn a_key_with_another_body_is_a_conflict_and_writes_nothing<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let _wanted = node.hear(&user_channel("alice")).await;
    let first = keyed(ask("alice", "t"), "k", "digest");
    assert!(node.open(first.clone()).await.unwrap().new);
    let other = keyed(ask("alice", "t"), "k", "other digest");
    assert_eq!(node.open(other.clone()).await, Err(BackplaneError::Conflict));
    assert_eq!(node.read(other.id).await, Ok(None));
    assert_eq!(node.open_callbacks(&user("alice")).await.unwrap().len(), 1);
    assert_eq!(fixture.heard_so_far(&node, &user_channel("alice")).await.len(), 1);
    // The scope is (user, key), and the id comes before the key.
    assert!(node.open(keyed(ask("bob", "t"), "k", "other digest")).await.unwrap().new);
    let same_id = keyed(first.clone(), "another key", "another digest");
    let opened = node.open(same_id).await.unwrap();
    assert_eq!((opened.new, opened.callback.id), (false, first.id));
    assert!(node.open(keyed(ask("alice", "t"), "another key", "another digest")).await.unwrap().new);
}

pub(crate) async fn a_repeat_after_the_end_hears_the_decision<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let open = keyed(ask("alice", "t"), "k", "digest");
    node.open(open.clone()).await.unwrap();
    let decision = accepted(node.confirm(answer(open.id, "alice", true)).await.unwrap());
    for repeat in [open.clone(), keyed(ask("alice", "t"), "k", "digest")] {
        let opened = node.open(repeat).await.unwrap();
        assert_eq!((opened.new, opened.callback.id), (false, open.id));
        assert_eq!(opened.callback.decision.as_ref(), Some(&decision));
    }
    assert_eq!(node.open_callbacks(&user("alice")).await.unwrap(), []);
}

pub(crate) async fn a_repeat_past_the_deadline_times_it_out_first<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let by_id = soon(ask("alice", "t"), SHORT);
    let by_key = soon(keyed(ask("alice", "t"), "k", "digest"), SHORT);
    node.open(by_id.clone()).await.unwrap();
    node.open(by_key.clone()).await.unwrap();
    fixture.advance(SHORT + Duration::from_millis(20)).await;
    for (repeat, id) in [(by_id.clone(), by_id.id), (keyed(ask("alice", "t"), "k", "digest"), by_key.id)] {
        let opened = node.open(repeat).await.unwrap();
        assert_eq!((opened.new, opened.callback.id), (false, id));
        assert_ended(&opened.callback.decision.unwrap(), Status::TimedOut, None);
    }
}

pub(crate) async fn a_user_has_so_many_open_callbacks_and_no_more<F: Fixture>() {
    let fixture = F::start(Settings { callback_user_limit: 3, ..Settings::default() }).await;
    let node = fixture.node("one").await;
    let _wanted = node.hear(&user_channel("alice")).await;
    let opens = [soon(ask("alice", "t"), SHORT), ask("alice", "t"), ask("alice", "u")];
    for open in &opens {
        assert!(node.open(open.clone()).await.unwrap().new);
    }
    let fourth = keyed(ask("alice", "t"), "k", "digest");
    assert_eq!(node.open(fourth.clone()).await, Err(BackplaneError::TooManyCallbacks(3)));
    assert_eq!(node.read(fourth.id).await, Ok(None));
    assert!(!node.open(opens[1].clone()).await.unwrap().new, "a repeat is no new one");
    assert!(node.open(ask("bob", "t")).await.unwrap().new);
    // What is due does not count.
    fixture.advance(SHORT + Duration::from_millis(20)).await;
    assert!(node.open(fourth.clone()).await.unwrap().new, "the refusal had written nothing, so the key is free");
    assert_ended(&decided(node.read(opens[0].id).await.unwrap()), Status::TimedOut, None);
    assert_eq!(node.open(ask("alice", "t")).await, Err(BackplaneError::TooManyCallbacks(3)));
    accepted(node.confirm(answer(opens[1].id, "alice", true)).await.unwrap());
    assert!(node.open(ask("alice", "t")).await.unwrap().new);
    // On a cancelled task nobody is asked, so there is no limit to exceed.
    node.cancel_task(&user("alice"), &task("cancelled"), &Canceller::Producer).await.unwrap();
    assert_ended(
        &node.open(ask("alice", "cancelled")).await.unwrap().callback.decision.unwrap(),
        Status::Cancelled,
        Some("producer"),
    );
    let asked = fixture.values_so_far(&node, &user_channel("alice")).await;
    assert_eq!(asked.iter().filter(|event| event["type"] == "task_step_result").count(), 5);
}

pub(crate) async fn a_record_and_its_key_end_with_the_retention<F: Fixture>() {
    let fixture = F::start(Settings { callback_retention: SHORT, ..Settings::default() }).await;
    let node = fixture.node("one").await;
    let open = keyed(ask("alice", "t"), "k", "digest");
    let pending = ask("alice", "t");
    node.open(open.clone()).await.unwrap();
    node.open(pending.clone()).await.unwrap();
    accepted(node.confirm(answer(open.id, "alice", true)).await.unwrap());
    assert!(node.read(open.id).await.unwrap().is_some());
    fixture.advance(SHORT + Duration::from_millis(50)).await;
    assert_eq!(node.read(open.id).await, Ok(None));
    assert_eq!(node.confirm(answer(open.id, "alice", true)).await, Ok(Confirmed::NotFound));
    assert_eq!(node.withdraw(open.id).await, Ok(Withdrawn::NotFound));
    let again = keyed(ask("alice", "t"), "k", "other digest");
    assert!(node.open(again).await.unwrap().new);
    assert!(node.read(pending.id).await.unwrap().is_some(), "retention begins with the end");
}

pub(crate) async fn guests_hear_everything_in_open_mode<F: Fixture>() {
    let (mut kinds, ids) = everything_for_guests::<F>(true).await;
    let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
    let of = |kind: &str, id: &str| (kind.to_owned(), id.to_owned());
    if !F::ONE_PLACE {
        // Then what is about one callback is in order.
        let place = |id: &String| ids.iter().position(|of| of == id).unwrap_or(ids.len());
        kinds.sort_by_key(|(_, id)| place(id));
    }
    assert_eq!(
        kinds,
        [
            of("task_step_result", &ids[0]),
            of("callback_resolved", &ids[0]),
            of("task_step_result", &ids[1]),
            of("callback_resolved", &ids[1]),
            of("task_cancelled", ""),
        ]
    );
}

pub(crate) async fn guests_hear_nothing_where_there_are_none<F: Fixture>() {
    assert_eq!(everything_for_guests::<F>(false).await.0, []);
}

/// A question, its answer, another question, and a cancellation: what comes on the guests' channel.
async fn everything_for_guests<F: Fixture>(guests: bool) -> (Vec<(String, String)>, [CallbackId; 2]) {
    let fixture = F::start(Settings { guests, ..Settings::default() }).await;
    let (asker, device) = (fixture.node("one").await, fixture.node("two").await);
    let _wanted = device.hear(&Channel::Guests).await;
    let opens = [ask("alice", "t"), ask("bob", "t")];
    asker.open(opens[0].clone()).await.unwrap();
    accepted(asker.confirm(answer(opens[0].id, "alice", false)).await.unwrap());
    asker.open(opens[1].clone()).await.unwrap();
    asker.cancel_task(&user("bob"), &task("t"), &Canceller::Guest).await.unwrap();
    let text = |event: &Value, name: &str| event[name].as_str().unwrap_or_default().to_owned();
    let heard = fixture.values_so_far(&device, &Channel::Guests).await;
    (heard.iter().map(|event| (text(event, "type"), text(event, "callback_id"))).collect(), opens.map(|open| open.id))
}

pub(crate) async fn names_that_look_alike_are_told_apart<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let names = odd_names();
    let opens: Vec<_> = names.iter().map(|name| keyed(ask(name, name), name, "digest")).collect();
    let mut wanted = Vec::new();
    for (open, name) in opens.iter().zip(&names) {
        wanted.push(node.hear(&user_channel(name)).await);
        assert!(node.open(open.clone()).await.unwrap().new, "{name:?}");
        assert!(!node.open(keyed(ask(name, name), name, "digest")).await.unwrap().new, "{name:?}");
    }
    for (open, name) in opens.iter().zip(&names) {
        let pending = node.open_callbacks(&open.user).await.unwrap();
        assert_eq!(pending.len(), 1, "{name:?}");
        assert_eq!((&pending[0].id, &pending[0].user, &pending[0].task), (&open.id, &open.user, &open.task));
        let state = node.task(&open.user, &open.task).await.unwrap();
        assert_eq!((state.cancelled, state.open), (None, vec![open.id]), "{name:?}");
    }
    for (n, (open, name)) in opens.iter().zip(&names).enumerate() {
        if n % 2 == 0 {
            let decision = accepted(node.confirm(answer(open.id, name, true)).await.unwrap());
            assert_eq!(decision.by.as_deref(), Some(name.as_str()));
        } else {
            let by = Canceller::User(open.user.clone());
            let cancelled = node.cancel_task(&open.user, &open.task, &by).await.unwrap();
            assert_eq!((&cancelled.user, cancelled.callbacks_closed), (&open.user, 1), "{name:?}");
            assert_ended(&decided(node.read(open.id).await.unwrap()), Status::Cancelled, Some(name));
        }
        let kinds: Vec<_> = fixture.values_so_far(&node, &user_channel(name)).await;
        let kinds: Vec<_> = kinds.iter().map(|event| event["type"].as_str().unwrap_or_default()).collect();
        let expected = ["task_step_result", "callback_resolved", "task_cancelled"];
        assert_eq!(kinds, expected[..if n % 2 == 0 { 2 } else { 3 }], "{name:?}");
    }
}

pub(crate) async fn users_tasks_and_keys_of_one_partition_do_not_mix<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    // `a` with `b:c` and `a:b` with `c` would be one key if names were only joined.
    let short = (0..100_000)
        .map(|n| format!("a{n}"))
        .find(|name| Partition::of(&user(name)) == Partition::of(&user(&format!("{name}:b"))))
        .unwrap();
    let long = format!("{short}:b");
    let of_short = keyed(ask(&short, "b:c"), "b:c", "digest");
    let of_long = keyed(ask(&long, "c"), "c", "other digest");
    assert!(node.open(of_short.clone()).await.unwrap().new);
    assert!(node.open(of_long.clone()).await.unwrap().new);
    let cancelled = node.cancel_task(&user(&short), &task("b:c"), &Canceller::Producer).await.unwrap();
    assert_eq!(cancelled.callbacks_closed, 1);
    let state = node.task(&user(&long), &task("c")).await.unwrap();
    assert_eq!((state.cancelled, state.open), (None, vec![of_long.id]));
}

pub(crate) async fn a_question_as_large_as_a_message_may_be_is_kept_whole<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let mut open = ask("alice", "t");
    open.message_head = format!("{},\"big\":\"{}\"", head(open.id, "alice"), "x".repeat(1 << 20));
    let message = node.open(open.clone()).await.unwrap().callback.message;
    assert!(message.as_str().starts_with(&open.message_head));
    assert_eq!(node.read(open.id).await.unwrap().unwrap().message, message);
    assert_eq!(node.open_callbacks(&open.user).await.unwrap()[0].message, message);
}

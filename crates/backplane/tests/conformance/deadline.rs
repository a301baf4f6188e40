//! The deadline fires once: by whoever touches the callback first, else by a sweep.

use std::{sync::Arc, time::Duration};

use countersign_backplane::{
    Channel, Settings,
    callbacks::{Canceller, OpenCallback, Swept, Withdrawn},
};
use countersign_protocol::{Decision, OnTimeout, Resolution, Status};
use serde_json::json;
use tokio::sync::Barrier;

use crate::{
    fixture::{Fixture, Node, SHORT},
    words::{accepted, already, answer, ask, assert_ended, decided, named, soon, task, user, user_channel},
};

const PAST: Duration = Duration::from_millis(320);

/// A callback past its deadline that nobody has looked at.
async fn due<F: Fixture>(fixture: &F, node: &Node) -> OpenCallback {
    let open = soon(ask("alice", "t"), SHORT);
    assert!(node.open(open.clone()).await.unwrap().new);
    fixture.advance(PAST).await;
    open
}

pub(crate) async fn a_read_times_out_and_the_decision_is_the_one_chosen<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (asker, reader) = (fixture.node("one").await, fixture.node("two").await);
    let choices = [OnTimeout::Proceed, OnTimeout::Decline, OnTimeout::Fail];
    let opens = choices.map(|on_timeout| OpenCallback { on_timeout, ..soon(ask("alice", "t"), SHORT) });
    let mut wanted = vec![reader.hear(&user_channel("alice")).await];
    for open in &opens {
        wanted.push(reader.hear(&Channel::Answer(open.id)).await);
        asker.open(open.clone()).await.unwrap();
    }
    fixture.advance(PAST).await;
    for (open, proceed) in opens.iter().zip([Some(true), Some(false), None]) {
        let callback = reader.read(open.id).await.unwrap().unwrap();
        assert_eq!(callback.remaining, Duration::ZERO);
        let decision = callback.decision.unwrap();
        assert_eq!((decision.status, decision.resolution), (Status::TimedOut, Resolution::Timeout));
        assert_eq!((decision.proceed, &decision.by, decision.callback_id), (proceed, &None, open.id));
        assert!(decision.at >= callback.deadline, "{decision:?}");
        assert_eq!(decided(asker.read(open.id).await.unwrap()), decision, "it stays");
        let heard = fixture.values_so_far(&reader, &Channel::Answer(open.id)).await;
        assert_eq!(heard.len(), 1, "it fires once");
        assert_eq!(serde_json::from_value::<Decision>(heard[0].clone()).unwrap(), decision);
    }
    let resolved = opens
        .map(|open| json!({"type": "callback_resolved", "callback_id": open.id, "status": "timed_out", "by": null, "by_kind": null}));
    assert_eq!(fixture.values_so_far(&reader, &user_channel("alice")).await[3..], resolved);
}

pub(crate) async fn a_callback_is_open_until_its_deadline<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let open = soon(ask("alice", "t"), Duration::from_secs(30));
    node.open(open.clone()).await.unwrap();
    fixture.advance(SHORT).await;
    let callback = node.read(open.id).await.unwrap().unwrap();
    assert_eq!(callback.status(), Status::Pending);
    assert!(callback.remaining + SHORT <= open.timeout && callback.remaining > Duration::from_secs(10));
    assert_eq!(node.sweep().await.unwrap(), Swept { open: 1, ..Swept::default() });
    accepted(node.confirm(answer(open.id, "alice", true)).await.unwrap());
}

pub(crate) async fn a_confirm_past_the_deadline_comes_too_late<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let open = due(&fixture, &node).await;
    let late = named(answer(open.id, "alice", false), "a1");
    assert_ended(&already(node.confirm(late.clone()).await.unwrap()), Status::TimedOut, None);
    assert_ended(&already(node.confirm(late).await.unwrap()), Status::TimedOut, None);
}

pub(crate) async fn a_question_with_options_is_not_judged_past_the_deadline<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let open = OpenCallback { plain: false, ..soon(ask("alice", "t"), SHORT) };
    node.open(open.clone()).await.unwrap();
    fixture.advance(PAST).await;
    assert_ended(&already(node.confirm(answer(open.id, "alice", true)).await.unwrap()), Status::TimedOut, None);
}

pub(crate) async fn a_withdrawal_past_the_deadline_comes_too_late<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let open = due(&fixture, &node).await;
    match node.withdraw(open.id).await.unwrap() {
        Withdrawn::AlreadyResolved(decision) => assert_ended(&decision, Status::TimedOut, None),
        other => panic!("expected to come too late, got {other:?}"),
    }
}

pub(crate) async fn a_cancellation_past_the_deadline_times_out_what_was_due<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let pending = ask("alice", "t");
    node.open(pending.clone()).await.unwrap();
    let one = due(&fixture, &node).await;
    let cancelled = node.cancel_task(&user("alice"), &task("t"), &Canceller::Producer).await.unwrap();
    assert_eq!(cancelled.callbacks_closed, 1);
    assert_ended(&decided(node.read(one.id).await.unwrap()), Status::TimedOut, None);
    assert_ended(&decided(node.read(pending.id).await.unwrap()), Status::Cancelled, Some("producer"));

    node.lift(Some(&user("alice")), &task("t")).await.unwrap();
    let two = due(&fixture, &node).await;
    assert_eq!(node.cancel_tasks_named(&task("t"), &Canceller::Producer).await.unwrap(), []);
    assert_ended(&decided(node.read(two.id).await.unwrap()), Status::TimedOut, None);
}

pub(crate) async fn what_is_due_is_listed_nowhere<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let _events = node.hear(&user_channel("alice")).await;
    let pending = ask("alice", "t");
    node.open(pending.clone()).await.unwrap();
    due(&fixture, &node).await;
    let (all, more) = node.all_open_callbacks(None, 100).await.unwrap();
    assert_eq!((all.iter().map(|callback| callback.id).collect::<Vec<_>>(), more), (vec![pending.id], None));
    assert_eq!(node.task(&user("alice"), &task("t")).await.unwrap().open, [pending.id]);
    let open = node.open_callbacks(&user("alice")).await.unwrap();
    assert_eq!(open.iter().map(|callback| callback.id).collect::<Vec<_>>(), [pending.id]);
    let told = fixture.values_so_far(&node, &user_channel("alice")).await;
    assert_eq!(told.iter().filter(|event| event["type"] == "callback_resolved").count(), 1, "it fired once");
}

pub(crate) async fn sweeps_of_all_nodes_time_out_what_is_due_once<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let nodes = [Arc::new(fixture.node("one").await), Arc::new(fixture.node("two").await)];
    let names: Vec<_> = (0..30).map(|n| format!("user {n}")).collect();
    let mut wanted = Vec::new();
    let mut due = Vec::new();
    for name in &names {
        wanted.push(nodes[0].hear(&user_channel(name)).await);
        let open = soon(ask(name, "t"), SHORT);
        nodes[0].open(open.clone()).await.unwrap();
        nodes[1].open(ask(name, "t")).await.unwrap();
        due.push(open);
    }
    fixture.advance(PAST).await;
    let barrier = Arc::new(Barrier::new(4));
    let sweeps: Vec<_> = (0..4)
        .map(|n| {
            let (node, barrier) = (Arc::clone(&nodes[n % 2]), Arc::clone(&barrier));
            tokio::spawn(async move {
                barrier.wait().await;
                node.sweep().await.unwrap()
            })
        })
        .collect();
    let mut timed_out = 0;
    for sweep in sweeps {
        timed_out += sweep.await.unwrap().timed_out;
    }
    assert_eq!(timed_out, 30);
    assert_eq!(nodes[0].sweep().await.unwrap(), Swept { open: 30, ..Swept::default() });
    for (open, name) in due.iter().zip(&names) {
        let told = fixture.values_so_far(&nodes[0], &user_channel(name)).await;
        let resolved = json!({"type": "callback_resolved", "callback_id": open.id, "status": "timed_out", "by": null, "by_kind": null});
        assert_eq!(told[2..], [resolved], "{name} heard of two questions and one end");
        assert_ended(&decided(nodes[1].read(open.id).await.unwrap()), Status::TimedOut, None);
    }
}

pub(crate) async fn a_great_many_due_at_once_all_time_out<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    // One partition, more than one script would want to time out at once. The timeout has to outlast the asking.
    for _ in 0..700 {
        node.open(soon(ask("alice", "t"), Duration::from_secs(2))).await.unwrap();
    }
    fixture.advance(Duration::from_millis(2050)).await;
    let mut timed_out = 0;
    loop {
        match node.sweep().await.unwrap() {
            Swept { timed_out: 0, open: 0, .. } => break,
            Swept { timed_out: 0, open, .. } => panic!("{open} are left after {timed_out}"),
            some => timed_out += some.timed_out,
        }
    }
    assert_eq!(timed_out, 700);
}

pub(crate) async fn what_ended_before_its_deadline_is_not_timed_out_again<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    // Long enough for three steps on a busy machine.
    let timeout = Duration::from_secs(2);
    let opens = [(); 3].map(|()| soon(ask("alice", "t"), timeout));
    for open in &opens {
        node.open(open.clone()).await.unwrap();
    }
    node.confirm(answer(opens[0].id, "alice", true)).await.unwrap();
    node.withdraw(opens[1].id).await.unwrap();
    node.cancel_task(&user("alice"), &task("t"), &Canceller::Producer).await.unwrap();
    fixture.advance(timeout).await;
    let swept = node.sweep().await.unwrap();
    assert_eq!((swept.timed_out, swept.open), (0, 0), "nothing of them is left in the index of deadlines");
}

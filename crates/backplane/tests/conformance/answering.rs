//! One decision ends a callback, for ever; the loser of a race is told who won.

use std::{sync::Arc, time::Duration};

use countersign_backplane::{
    Channel, Settings,
    callbacks::{Answerer, Canceller, Confirm, Confirmed, Withdrawn},
    receipts::OpenReceipt,
};
use countersign_protocol::{Answer, ByKind, CallbackId, ConnectionId, Decision, MessageId, Status};
use serde_json::json;
use tokio::sync::Barrier;

use crate::{
    fixture::{Fixture, Node, PATIENCE, value},
    words::{
        accepted, already, answer, ask, assert_ended, by_guest, closed, decided, named, soon, task, user, user_channel,
    },
};

const ROUNDS: usize = 200;

pub(crate) async fn a_confirm_on_another_node_ends_the_wait<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (waiting, other) = (fixture.node("one").await, fixture.node("two").await);
    let open = ask("alice", "t");
    let _answer = waiting.hear(&Channel::Answer(open.id)).await;
    let _events = waiting.hear(&user_channel("alice")).await;
    waiting.open(open.clone()).await.unwrap();
    let confirm = Confirm {
        answer: Answer {
            proceed: Some(true),
            feedback: Some("go \"on\" ☃ \\ \u{0}\u{2028}".to_owned()),
            choice: Some("retry".to_owned()),
            data: Some(
                json!({"list": [], "object": {}, "n": 1.5, "null": null, "big": 9_007_199_254_740_993_u64, "t": "ü"}),
            ),
            answer_id: None,
        },
        ..answer(open.id, "alice", true)
    };
    let decision = accepted(other.confirm(confirm.clone()).await.unwrap());
    assert_ended(&decision, Status::Confirmed, Some("alice"));
    assert_eq!(decision.callback_id, open.id);
    assert_eq!(
        (&decision.feedback, &decision.choice, &decision.data),
        (&confirm.answer.feedback, &confirm.answer.choice, &confirm.answer.data)
    );
    let heard = waiting.ear.until_heard(&Channel::Answer(open.id), 1).await;
    assert_eq!(serde_json::from_value::<Decision>(value(&heard[0])).unwrap(), decision);
    assert_eq!(decided(waiting.read(open.id).await.unwrap()), decision);
    let events = fixture.values_so_far(&waiting, &user_channel("alice")).await;
    let resolved = json!({"type": "callback_resolved", "callback_id": open.id, "status": "confirmed", "by": "alice",
        "by_kind": "user"});
    assert_eq!(events[1..], [resolved]);
}

pub(crate) async fn an_answer_without_more_leaves_the_rest_null<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let open = ask("alice", "t");
    node.open(open.clone()).await.unwrap();
    let decision = accepted(node.confirm(answer(open.id, "alice", false)).await.unwrap());
    assert_ended(&decision, Status::Declined, Some("alice"));
    assert_eq!((&decision.feedback, &decision.choice, &decision.data), (&None, &None, &None));
    assert_eq!(decided(node.read(open.id).await.unwrap()), decision);
}

pub(crate) async fn only_the_addressed_user_finds_a_callback<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let open = ask("alice", "t");
    node.open(open.clone()).await.unwrap();
    for stranger in ["bob", "Alice", "alice ", "guest", "*", "producer"] {
        assert_eq!(node.confirm(answer(open.id, stranger, true)).await, Ok(Confirmed::NotFound), "{stranger}");
    }
    let unknown = crate::words::fresh_id("alice");
    assert_eq!(node.confirm(answer(unknown, "alice", true)).await, Ok(Confirmed::NotFound));
    assert_eq!(node.withdraw(unknown).await, Ok(Withdrawn::NotFound));
    assert_eq!(node.read(unknown).await, Ok(None));
    let decision = accepted(node.confirm(answer(open.id, "alice", true)).await.unwrap());
    // Not even how it ended.
    assert_eq!(node.confirm(answer(open.id, "bob", true)).await, Ok(Confirmed::NotFound));
    assert_eq!(decided(node.read(open.id).await.unwrap()), decision);
}

pub(crate) async fn a_guest_finds_every_callback<F: Fixture>() {
    let fixture = F::start(Settings { guests: true, ..Settings::default() }).await;
    let node = fixture.node("one").await;
    let open = ask("alice", "t");
    node.open(open.clone()).await.unwrap();
    let decision = accepted(node.confirm(by_guest(answer(open.id, "alice", true))).await.unwrap());
    assert_ended(&decision, Status::Confirmed, Some("guest"));
    assert_eq!(already(node.confirm(answer(open.id, "alice", true)).await.unwrap()), decision);
}

pub(crate) async fn the_winners_repeat_is_accepted_again<F: Fixture>() {
    let fixture = F::start(Settings { guests: true, ..Settings::default() }).await;
    let (one, two) = (fixture.node("one").await, fixture.node("two").await);
    let open = ask("alice", "t");
    one.open(open.clone()).await.unwrap();
    let _events = one.hear(&Channel::Answer(open.id)).await;
    let mine = named(answer(open.id, "alice", true), "a1");
    let decision = accepted(one.confirm(mine.clone()).await.unwrap());
    assert_eq!(accepted(two.confirm(mine.clone()).await.unwrap()), decision);
    // A name that comes back with another answer is no repeat: who sends it must not think that it counts.
    assert_eq!(already(two.confirm(named(answer(open.id, "alice", false), "a1")).await.unwrap()), decision);
    let mut more = mine.clone();
    more.answer.feedback = Some("and more".to_owned());
    assert_eq!(already(two.confirm(more).await.unwrap()), decision);
    assert_eq!(already(two.confirm(named(answer(open.id, "alice", true), "a2")).await.unwrap()), decision);
    assert_eq!(already(two.confirm(answer(open.id, "alice", true)).await.unwrap()), decision);
    assert_eq!(already(two.confirm(by_guest(mine)).await.unwrap()), decision);
    assert_eq!(fixture.heard_so_far(&one, &Channel::Answer(open.id)).await.len(), 1, "one decision was told");
}

pub(crate) async fn a_repeat_without_a_name_comes_too_late<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let (confirmed, withdrawn) = (ask("alice", "t"), ask("alice", "t"));
    for open in [&confirmed, &withdrawn] {
        node.open(open.clone()).await.unwrap();
    }
    let decision = accepted(node.confirm(answer(confirmed.id, "alice", true)).await.unwrap());
    assert_eq!(already(node.confirm(answer(confirmed.id, "alice", true)).await.unwrap()), decision);
    closed(node.withdraw(withdrawn.id).await.unwrap());
    // An end without an answer has no winner whose repeat could be accepted.
    already(node.confirm(answer(withdrawn.id, "alice", true)).await.unwrap());
    already(node.confirm(named(answer(withdrawn.id, "alice", true), "a1")).await.unwrap());
}

pub(crate) async fn an_answer_to_options_is_judged_before_it_decides<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let mut open = ask("alice", "t");
    open.plain = false;
    open.message_head += r#","options":[{"id":"a","label":"A"}]"#;
    node.open(open.clone()).await.unwrap();
    let _events = node.hear(&Channel::Answer(open.id)).await;
    let unjudged = named(answer(open.id, "alice", true), "a1");
    for _ in 0..2 {
        match node.confirm(unjudged.clone()).await.unwrap() {
            Confirmed::Judge(callback) => {
                assert_eq!((callback.id, callback.status()), (open.id, Status::Pending));
                assert!(callback.message.as_str().starts_with(&open.message_head), "the options are there to be read");
            }
            other => panic!("expected to be told to judge, got {other:?}"),
        }
    }
    assert_eq!(node.confirm(answer(open.id, "bob", true)).await, Ok(Confirmed::NotFound));
    assert_eq!(node.read(open.id).await.unwrap().unwrap().status(), Status::Pending);
    let judged = Confirm { proceed: false, judged: true, ..unjudged.clone() };
    let decision = accepted(node.confirm(judged.clone()).await.unwrap());
    assert_ended(&decision, Status::Declined, Some("alice"));
    assert_eq!(accepted(node.confirm(unjudged).await.unwrap()), decision, "the repeat need not be judged again");
    assert_eq!(already(node.confirm(named(judged, "a2")).await.unwrap()), decision);
    assert_eq!(fixture.heard_so_far(&node, &Channel::Answer(open.id)).await.len(), 1);
}

pub(crate) async fn a_withdrawn_callback_is_cancelled_by_the_producer<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (one, two) = (fixture.node("one").await, fixture.node("two").await);
    let (open, confirmed) = (ask("alice", "t"), ask("alice", "t"));
    let _answer = two.hear(&Channel::Answer(open.id)).await;
    let _events = two.hear(&user_channel("alice")).await;
    one.open(open.clone()).await.unwrap();
    one.open(confirmed.clone()).await.unwrap();
    let decision = closed(one.withdraw(open.id).await.unwrap());
    assert_ended(&decision, Status::Cancelled, Some("producer"));
    assert_eq!(one.withdraw(open.id).await, Ok(Withdrawn::AlreadyResolved(decision.clone())));
    assert_eq!(already(two.confirm(answer(open.id, "alice", true)).await.unwrap()), decision);
    let heard = fixture.values_so_far(&two, &Channel::Answer(open.id)).await;
    assert_eq!(heard.len(), 1);
    assert_eq!(serde_json::from_value::<Decision>(heard[0].clone()).unwrap(), decision);
    let resolved = json!({"type": "callback_resolved", "callback_id": open.id, "status": "cancelled", "by": "producer",
        "by_kind": "producer"});
    assert_eq!(fixture.values_so_far(&two, &user_channel("alice")).await[2..], [resolved]);
    let decision = accepted(one.confirm(answer(confirmed.id, "alice", true)).await.unwrap());
    assert_eq!(two.withdraw(confirmed.id).await, Ok(Withdrawn::AlreadyResolved(decision)));
}

/// How one of two racers fared: the decision, and whether it was its own.
type Fared = (bool, Decision);

fn confirmed(result: Confirmed) -> Fared {
    match result {
        Confirmed::Accepted(decision) => (true, decision),
        Confirmed::AlreadyResolved(decision) => (false, decision),
        other => panic!("neither won nor lost: {other:?}"),
    }
}

/// Lets two nodes race for many callbacks, and checks each time that one won, that the other was told so, and that
/// everybody heard one decision, the winner's.
async fn race<F, A, B>(guests: bool, first: A, second: B)
where
    F: Fixture,
    A: AsyncFn(&Node, CallbackId) -> Fared,
    B: AsyncFn(&Node, CallbackId) -> Fared,
{
    let fixture = F::start(Settings { guests, ..Settings::default() }).await;
    let (one, two) = (fixture.node("one").await, fixture.node("two").await);
    let _events = one.hear(&user_channel("alice")).await;
    let mut decisions = Vec::new();
    for round in 0..ROUNDS {
        let open = ask("alice", &format!("t{round}"));
        let answer = (round % 20 == 0).then_some(Channel::Answer(open.id));
        let _answer = if let Some(channel) = &answer { Some(two.hear(channel).await) } else { None };
        one.open(open.clone()).await.unwrap();
        // Who is polled first takes turns; on the wire and under the lock they are on their own.
        let ((won, decision), (other_won, other)) = if round % 2 == 0 {
            tokio::join!(first(&one, open.id), second(&two, open.id))
        } else {
            let (second, first) = tokio::join!(second(&two, open.id), first(&one, open.id));
            (first, second)
        };
        assert!(won != other_won, "round {round}: one and only one decides");
        assert_eq!(decision, other, "round {round}: the loser is told the winner's decision");
        assert_eq!(decided(two.read(open.id).await.unwrap()), decision, "round {round}");
        if let Some(channel) = &answer {
            let heard = fixture.values_so_far(&two, channel).await;
            assert_eq!(heard, [json!(decision)], "round {round}");
        }
        decisions.push((open.id, decision.status));
    }
    let mut told = fixture.values_so_far(&one, &user_channel("alice")).await;
    told.retain(|event| event["type"] == "callback_resolved");
    let told: Vec<_> = told.iter().map(|event| (event["callback_id"].clone(), event["status"].clone())).collect();
    let expected: Vec<_> = decisions.iter().map(|(id, status)| (json!(id), json!(status))).collect();
    assert_eq!(told, expected, "each end was told once, as it was");
}

pub(crate) async fn of_two_confirms_at_once_one_decides<F: Fixture>() {
    race::<F, _, _>(
        false,
        async |node, id| {
            let (won, decision) = confirmed(node.confirm(named(answer(id, "alice", true), "phone")).await.unwrap());
            assert_eq!(won, decision.status == Status::Confirmed);
            (won, decision)
        },
        async |node, id| {
            let (won, decision) = confirmed(node.confirm(named(answer(id, "alice", false), "laptop")).await.unwrap());
            assert_eq!(won, decision.status == Status::Declined);
            (won, decision)
        },
    )
    .await;
}

pub(crate) async fn of_a_confirm_and_a_withdrawal_at_once_one_decides<F: Fixture>() {
    race::<F, _, _>(
        false,
        async |node, id| {
            let (won, decision) = confirmed(node.confirm(answer(id, "alice", true)).await.unwrap());
            assert_eq!(won, decision.status == Status::Confirmed);
            (won, decision)
        },
        async |node, id| match node.withdraw(id).await.unwrap() {
            Withdrawn::Closed(decision) => (true, decision),
            Withdrawn::AlreadyResolved(decision) => (false, decision),
            Withdrawn::NotFound => panic!("the callback is lost"),
        },
    )
    .await;
}

pub(crate) async fn of_a_confirm_and_a_cancellation_at_once_one_decides<F: Fixture>() {
    race::<F, _, _>(
        true,
        async |node, id| {
            let (won, decision) = confirmed(node.confirm(answer(id, "alice", true)).await.unwrap());
            assert_eq!(won, decision.status == Status::Confirmed);
            (won, decision)
        },
        async |node, id| {
            // The task of this round: the only one of alice's that has an open callback, or none any more.
            let callback = node.read(id).await.unwrap().unwrap();
            let cancelled = node.cancel_task(&callback.user, &callback.task, &Canceller::Guest).await.unwrap();
            let decision = decided(node.read(id).await.unwrap());
            assert_eq!(cancelled.callbacks_closed == 1, decision.status == Status::Cancelled);
            (cancelled.callbacks_closed == 1, decision)
        },
    )
    .await;
}

pub(crate) async fn four_devices_on_two_nodes_get_one_decision<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let nodes = [Arc::new(fixture.node("one").await), Arc::new(fixture.node("two").await)];
    for round in 0..ROUNDS {
        let open = ask("alice", "t");
        nodes[0].open(open.clone()).await.unwrap();
        let barrier = Arc::new(Barrier::new(4));
        let devices: Vec<_> = (0..4)
            .map(|device| {
                let (node, barrier) = (Arc::clone(&nodes[device % 2]), Arc::clone(&barrier));
                let confirm = named(answer(open.id, "alice", device < 2), &format!("device {device}"));
                tokio::spawn(async move {
                    barrier.wait().await;
                    confirmed(node.confirm(confirm).await.unwrap())
                })
            })
            .collect();
        let mut fared = Vec::new();
        for device in devices {
            fared.push(tokio::time::timeout(PATIENCE, device).await.expect("an answer in time").unwrap());
        }
        let winners: Vec<_> = (0..4).filter(|device| fared[*device].0).collect();
        assert_eq!(winners.len(), 1, "round {round}");
        let expected = if winners[0] < 2 { Status::Confirmed } else { Status::Declined };
        assert!(fared.iter().all(|(_, decision)| *decision == fared[0].1), "round {round}");
        assert_eq!(fared[0].1.status, expected, "round {round}: the winner's answer is the decision");
    }
}

pub(crate) async fn of_a_confirm_and_the_deadline_at_once_one_decides<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (one, two) = (fixture.node("one").await, fixture.node("two").await);
    let _events = one.hear(&user_channel("alice")).await;
    let mut ended = Vec::new();
    for round in 0..ROUNDS {
        let open = soon(ask("alice", "t"), Duration::from_millis(5));
        two.open(open.clone()).await.unwrap();
        let late = async {
            fixture.advance(Duration::from_millis(if round % 4 == 0 { 1 } else { 5 })).await;
            confirmed(one.confirm(answer(open.id, "alice", true)).await.unwrap())
        };
        let clock = async {
            fixture.advance(Duration::from_millis(4)).await;
            two.sweep().await.unwrap();
        };
        let ((won, decision), ()) = tokio::join!(late, clock);
        assert_eq!(won, decision.status == Status::Confirmed, "round {round}: {decision:?}");
        if !won {
            assert_ended(&decision, Status::TimedOut, None);
        }
        fixture.advance(Duration::from_millis(5)).await;
        two.sweep().await.unwrap();
        assert_eq!(decided(two.read(open.id).await.unwrap()), decision, "round {round}: it stays");
        ended.push(open.id);
    }
    let mut told = fixture.values_so_far(&one, &user_channel("alice")).await;
    told.retain(|event| event["type"] == "callback_resolved");
    assert!(told.iter().map(|event| &event["callback_id"]).eq(&ended.iter().map(|id| json!(id)).collect::<Vec<_>>()));
}

pub(crate) async fn a_cancelled_task_and_its_answers_leave_the_other_user_alone<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let (of_alice, of_bob) = (ask("alice", "same"), ask("bob", "same"));
    node.open(of_alice.clone()).await.unwrap();
    node.open(of_bob.clone()).await.unwrap();
    node.cancel_task(&user("alice"), &task("same"), &Canceller::User(user("alice"))).await.unwrap();
    assert_ended(&decided(node.read(of_alice.id).await.unwrap()), Status::Cancelled, Some("alice"));
    assert_eq!(node.task(&user("bob"), &task("same")).await.unwrap().cancelled, None);
    assert_eq!(node.task(&user("bob"), &task("same")).await.unwrap().open, [of_bob.id]);
    assert!(node.open(ask("bob", "same")).await.unwrap().callback.decision.is_none());
    accepted(node.confirm(answer(of_bob.id, "bob", true)).await.unwrap());
}

pub(crate) async fn an_answer_that_must_be_judged_is_only_looked_at_by_those_whom_the_question_asks<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let (plain, offered) = (ask("alice", "t"), ask("alice", "t"));
    let offered = countersign_backplane::callbacks::OpenCallback { plain: false, ..offered };
    for open in [&plain, &offered] {
        node.open(open.clone()).await.unwrap();
        let odd = |user_name: &str| Confirm {
            answer: Answer { choice: Some("?".to_owned()), ..Answer::default() },
            proceed: false,
            must_be_judged: true,
            ..answer(open.id, user_name, false)
        };
        assert_eq!(node.confirm(odd("eve")).await, Ok(Confirmed::NotFound));
        assert!(matches!(node.confirm(odd("alice")).await, Ok(Confirmed::Judge(callback)) if callback.id == open.id));
        let judged = Confirm { judged: true, ..odd("eve") };
        assert_eq!(node.confirm(judged).await, Ok(Confirmed::NotFound));
        assert_eq!(node.read(open.id).await.unwrap().unwrap().status(), Status::Pending);
        let decision = accepted(node.confirm(Confirm { judged: true, ..odd("alice") }).await.unwrap());
        assert_eq!(node.confirm(odd("eve")).await, Ok(Confirmed::NotFound));
        assert_eq!(already(node.confirm(odd("alice")).await.unwrap()), decision);
    }
}

pub(crate) async fn a_user_who_is_called_guest_or_producer_is_told_from_them<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    for name in ["alice", "guest", "producer"] {
        let _events = node.hear(&user_channel(name)).await;
        let opens = [(); 6].map(|()| ask(name, "t"));
        for open in &opens[..4] {
            node.open(open.clone()).await.unwrap();
        }
        let by_user = accepted(node.confirm(answer(opens[0].id, name, true)).await.unwrap());
        let by_guest = accepted(node.confirm(by_guest(answer(opens[1].id, name, true))).await.unwrap());
        let by_producer = closed(node.withdraw(opens[2].id).await.unwrap());
        let mut expected = vec![
            (by_user.clone(), name, ByKind::User),
            (by_guest, "guest", ByKind::Guest),
            (by_producer, "producer", ByKind::Producer),
        ];
        // What is cancelled and what is asked afterwards.
        let cancellers = [Canceller::User(user(name)), Canceller::Guest, Canceller::Producer];
        for (canceller, n) in cancellers.iter().zip(3..) {
            let open = &opens[n];
            node.lift(Some(&user(name)), &task("t")).await.unwrap();
            node.open(open.clone()).await.unwrap();
            node.cancel_task(&user(name), &task("t"), canceller).await.unwrap();
            let late = ask(name, "t");
            let late = node.open(late).await.unwrap().callback.decision.unwrap();
            let known = node.task(&user(name), &task("t")).await.unwrap().cancelled.unwrap();
            assert_eq!((known.by.as_str(), known.by_kind), (canceller.as_str(), Some(canceller.kind())));
            expected.push((decided(node.read(open.id).await.unwrap()), canceller.as_str(), canceller.kind()));
            assert_eq!((late.by.as_deref(), late.by_kind), (Some(canceller.as_str()), Some(canceller.kind())));
        }
        let told = fixture.values_so_far(&node, &user_channel(name)).await;
        for (decision, by, kind) in expected {
            assert_eq!((decision.by.as_deref(), decision.by_kind), (Some(by), Some(kind)), "{decision:?}");
            let resolved = json!({
                "type": "callback_resolved", "callback_id": decision.callback_id, "status": decision.status,
                "by": by, "by_kind": kind,
            });
            assert_eq!(told.iter().filter(|event| **event == resolved).count(), 1, "{resolved} in {told:?}");
            assert_eq!(decided(node.read(decision.callback_id).await.unwrap()), decision);
        }
        // An acknowledgement names somebody too.
        let id = MessageId::parse(&opens[0].id.to_string()).unwrap();
        let receipt = OpenReceipt { id, user: user(name), key: None, retention: Duration::from_secs(60) };
        node.open_receipt(receipt).await.unwrap();
        for (answerer, connection) in [(Answerer::User(user(name)), "c1"), (Answerer::Guest, "c2")] {
            assert!(node.ack(id, &answerer, &ConnectionId::parse(connection).unwrap()).await.unwrap());
        }
        let acks = node.receipt(id).await.unwrap().unwrap().acks;
        let acks: Vec<_> = acks.iter().map(|ack| (ack.by.as_str(), ack.by_kind)).collect();
        assert_eq!(acks, [(name, Some(ByKind::User)), ("guest", Some(ByKind::Guest))]);
    }
}

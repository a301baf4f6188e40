//! Doctored histories: the proof that an audit can fail. Each test breaks one promise in a history that keeps all of them.

use super::*;
use crate::history::{Bid, Question, Shown, Wait};

const ID: &str = "07-1";

/// Two devices answered at once, one caller asked: everything as promised.
fn kept() -> History {
    let winner = Ending::answered("alice", true, "laptop");
    let loser = Ending::answered("alice", false, "phone");
    History {
        questions: vec![Question { key: "k1".to_owned(), callers: 1, on_timeout: Some(false) }],
        shown: [1, 2].map(shown).to_vec(),
        lists: vec![(1, BTreeSet::new()), (2, BTreeSet::new())],
        told: vec![(1, ID.to_owned()), (2, ID.to_owned())],
        screens: BTreeMap::new(),
        lasting: BTreeSet::from([1, 2]),
        bids: vec![
            Bid { callback: ID.to_owned(), ending: winner.clone(), outcome: Outcome::Won },
            Bid { callback: ID.to_owned(), ending: loser, outcome: Outcome::Lost(winner.clone()) },
        ],
        waits: vec![wait(End::Decided { callback: ID.to_owned(), ending: winner, at: 105.0 })],
        putting: None,
        stopped: Vec::new(),
        machine_lag: 0.0,
    }
}

fn shown(connection: u64) -> Shown {
    Shown { connection, key: "k1".to_owned(), callback: ID.to_owned(), deadline: 110.0 }
}

fn wait(end: End) -> Wait {
    Wait { key: "k1".to_owned(), caller: 0, door: "node-1".to_owned(), put: false, started: 100.0, ended: 105.01, end }
}

/// The callback of [`kept`] ended by its deadline instead.
fn timed_out(at: f64, ended: f64) -> History {
    let mut history = kept();
    let silence = Ending::timed_out(Some(false));
    for bid in &mut history.bids {
        bid.outcome = Outcome::Lost(silence.clone());
    }
    let end = End::Decided { callback: ID.to_owned(), ending: silence, at };
    history.waits = vec![Wait { ended, ..wait(end) }];
    history
}

#[track_caller]
fn flagged(history: &History) -> Violation {
    let report = audit(history);
    let [violation] = &report.violations[..] else { panic!("exactly one violation: {:#?}", report.violations) };
    violation.clone()
}

#[test]
fn a_history_that_keeps_all_promises_is_clean() {
    let report = audit(&kept());
    assert_eq!(report.violations, []);
    let figures = report.figures;
    assert_eq!((figures.one_winner, figures.losers_told, figures.told, figures.waits), (1, 1, 2, 1));
    assert_eq!(audit(&timed_out(110.0, 110.9)).violations, []);
}

#[test]
fn two_winners_are_flagged() {
    let mut history = kept();
    history.bids[1].outcome = Outcome::Won;
    assert!(matches!(flagged(&history), Violation::TwoWinners(id, winners) if id == ID && winners.len() == 2));
    // The same answer, accepted again because it was repeated, is one winner.
    history.bids[1] = history.bids[0].clone();
    assert_eq!(audit(&history).violations, []);
}

#[test]
fn a_loser_that_is_told_of_another_decision_is_flagged() {
    let mut history = kept();
    history.bids[1].outcome = Outcome::Lost(Ending::answered("alice", true, "tablet"));
    assert!(matches!(flagged(&history), Violation::LoserMisled { .. }));
}

#[test]
fn a_loser_that_is_told_nothing_is_flagged() {
    let mut history = kept();
    history.bids[1].outcome = Outcome::Refused("not_found".to_owned());
    assert!(matches!(flagged(&history), Violation::NotAnswered(id, why) if id == ID && why == "not_found"));
}

#[test]
fn a_lost_answer_is_flagged() {
    let mut history = kept();
    history.waits = vec![wait(End::Unknown), wait(End::Cut), wait(End::Pending { callback: ID.to_owned() })];
    assert!(matches!(flagged(&history), Violation::LostAnswer { told: 0, callers: 1, .. }));
    let mut history = kept();
    history.questions[0].callers = 2;
    assert!(matches!(flagged(&history), Violation::LostAnswer { told: 1, callers: 2, .. }));
}

#[test]
fn a_wrong_answer_is_flagged() {
    for wrong in [Ending::answered("alice", false, "phone"), Ending::timed_out(Some(false))] {
        let mut history = kept();
        history.bids.pop();
        history.waits = vec![wait(End::Decided { callback: ID.to_owned(), ending: wrong.clone(), at: 105.0 })];
        let violations = audit(&history).violations;
        assert!(matches!(&violations[0], Violation::WrongAnswer { told, .. } if *told == wrong), "{violations:?}");
    }
}

#[test]
fn an_answer_that_nobody_gave_is_flagged() {
    let mut history = kept();
    history.bids.clear();
    assert!(matches!(flagged(&history), Violation::WrongAnswer { .. }));
    // Silence that was to decline does not proceed.
    let mut history = timed_out(110.0, 110.1);
    let ending = Ending::timed_out(Some(true));
    history.bids.clear();
    history.waits = vec![wait(End::Decided { callback: ID.to_owned(), ending, at: 110.0 })];
    assert!(matches!(flagged(&history), Violation::WrongAnswer { .. }));
}

#[test]
fn an_answer_of_which_the_person_heard_nothing_may_have_counted() {
    let mut history = kept();
    history.bids.pop();
    history.bids[0].outcome = Outcome::Unknown;
    assert_eq!(audit(&history).violations, []);
    let silence = timed_out(110.0, 110.1);
    history.waits = silence.waits;
    assert_eq!(audit(&history).violations, [], "or may not have, and then the deadline decided");
}

#[test]
fn two_callers_with_different_answers_are_flagged() {
    let mut history = kept();
    history.questions[0].callers = 2;
    let ending = Ending::answered("alice", false, "phone");
    history.waits.push(Wait { caller: 1, ..wait(End::Decided { callback: ID.to_owned(), ending, at: 105.0 }) });
    let report = audit(&history);
    assert!(report.count(|violation| matches!(violation, Violation::WrongAnswer { .. })) > 0, "{report:?}");
}

#[test]
fn a_question_asked_twice_is_flagged() {
    let mut history = kept();
    history.waits.push(wait(End::Pending { callback: "07-2".to_owned() }));
    assert!(matches!(flagged(&history), Violation::AskedTwice(key, ids) if key == "k1" && ids.len() == 2));
}

#[test]
fn a_question_shown_twice_on_one_connection_is_flagged_unless_a_list_came_with_it() {
    let mut history = kept();
    history.shown.push(shown(1));
    assert_eq!(flagged(&history), Violation::ShownTwice(1, ID.to_owned()));
    history.lists.push((1, BTreeSet::from([ID.to_owned()])));
    assert_eq!(audit(&history).violations, []);
}

#[test]
fn a_late_wait_is_flagged_and_the_machine_is_forgiven() {
    let mut history = timed_out(110.0, 111.2);
    assert!(matches!(flagged(&history), Violation::LateWait(key, late) if key == "k1" && late > 1.19));
    history.machine_lag = 0.3;
    assert_eq!(audit(&history).violations, []);
    // A wait that began after the deadline has its second from there; one that was cut ended nothing.
    let mut history = timed_out(110.0, 120.9);
    history.waits[0].started = 120.0;
    history.waits.push(Wait { ended: 119.0, ..wait(End::Cut) });
    assert_eq!(audit(&history).violations, []);
}

#[test]
fn putting_a_question_may_take_as_long_as_a_node_repeats_it_and_waiting_by_id_may_not() {
    let mut history = timed_out(110.0, 113.9);
    (history.waits[0].put, history.waits[0].started) = (true, 110.0);
    assert!(matches!(flagged(&history), Violation::LateWait(..)));
    history.putting = Some((111.0, 3.0));
    assert!(matches!(flagged(&history), Violation::LateWait(..)), "it was put before");
    history.putting = Some((109.0, 3.0));
    assert_eq!(audit(&history).violations, []);
    history.waits[0].put = false;
    assert!(matches!(flagged(&history), Violation::LateWait(..)));
}

#[test]
fn a_node_that_stood_still_is_forgiven_and_the_others_are_not() {
    let mut history = timed_out(110.0, 113.0);
    history.stopped.push(("node-1".to_owned(), 108.0, 112.9));
    assert_eq!(audit(&history).violations, []);
    history.stopped[0].0 = "node-2".to_owned();
    assert!(matches!(flagged(&history), Violation::LateWait(..)));
    history.stopped[0] = ("node-1".to_owned(), 90.0, 99.0);
    assert!(matches!(flagged(&history), Violation::LateWait(..)), "it had gone on long before");
}

#[test]
fn an_answer_after_the_deadline_and_a_deadline_before_its_time_are_flagged() {
    let mut history = kept();
    let Some(End::Decided { at, .. }) = history.waits.first_mut().map(|wait| &mut wait.end) else { unreachable!() };
    *at = 110.005;
    assert!(matches!(flagged(&history), Violation::WrongSide { status, .. } if status == "confirmed"));
    assert!(matches!(
        flagged(&timed_out(109.99, 110.0)),
        Violation::WrongSide { status, .. } if status == "timed_out"
    ));
}

#[test]
fn a_device_that_does_not_learn_of_the_end_is_flagged_unless_it_is_gone_or_was_sent_a_list() {
    let mut history = kept();
    history.told.pop();
    assert_eq!(flagged(&history), Violation::NotTold(2, ID.to_owned()));
    let mut gone = history.clone();
    gone.lasting.remove(&2);
    assert_eq!(audit(&gone).violations, []);
    history.lists.push((2, BTreeSet::new()));
    assert_eq!(audit(&history).violations, []);
}

#[test]
fn an_end_that_is_told_twice_is_flagged() {
    let mut history = kept();
    history.told.push((1, ID.to_owned()));
    assert_eq!(flagged(&history), Violation::EndedTwice(1, ID.to_owned()));
}

#[test]
fn a_refused_caller_is_flagged() {
    let mut history = kept();
    history.waits.push(wait(End::Refused(404)));
    assert_eq!(flagged(&history), Violation::Refused("k1".to_owned(), 404));
}

#[test]
fn a_device_that_keeps_a_question_whose_end_it_has_heard_is_flagged() {
    let mut history = kept();
    history.screens.insert(1, BTreeSet::from([ID.to_owned()]));
    assert_eq!(flagged(&history), Violation::Stale(1, ID.to_owned()));
    // A connection that is gone shows nothing.
    history.lasting.remove(&1);
    assert_eq!(audit(&history).violations, []);
}

#[test]
fn a_screen_follows_questions_ends_and_lists() {
    let notebook = crate::history::Notebook::default();
    let connection = notebook.connected();
    let question = |id: &str| serde_json::json!({"type": "task_step_result", "callback_id": id, "task_id": id});
    let screen = || notebook.read(|history| history.screens[&connection].iter().cloned().collect::<Vec<_>>());
    for id in ["1", "2", "3"] {
        notebook.heard(connection, &question(id));
    }
    notebook.heard(connection, &serde_json::json!({"type": "callback_resolved", "callback_id": "1"}));
    assert_eq!(screen(), ["2", "3"]);
    notebook.heard(connection, &serde_json::json!({"type": "open_callbacks", "callback_ids": ["3"]}));
    assert_eq!(screen(), ["3"]);
    // An ended question that comes back stays.
    notebook.heard(connection, &question("1"));
    assert_eq!(screen(), ["1", "3"]);
}

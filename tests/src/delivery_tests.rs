//! Each promise, broken by hand in an account that keeps them all: the audit finds that and nothing else.

use super::*;

const ADDRESS: &str = "topic:room:1";

fn place(number: u64) -> Place {
    Place { epoch: "e".into(), offset: number }
}

fn reads(number: u64) -> Line {
    Line::Read { at: 100.0, address: ADDRESS.to_owned(), number, place: Some(place(number)) }
}

fn told(address: &str) -> Line {
    Line::Told { at: 100.0, address: address.to_owned(), epoch: None }
}

fn joined() -> Line {
    Line::Joined(ADDRESS.to_owned())
}

/// Ten messages, and a reader of each of these lines.
fn account(readers: &[(&str, Vec<Line>)]) -> Account {
    let message = Published { sent: 99.0, accepted: Some(99.5), attempts: 1 };
    let mut account = Account::default();
    account.published.insert(ADDRESS.to_owned(), vec![message; 10]);
    for (name, lines) in readers {
        let all = std::iter::once(joined()).chain(lines.iter().cloned());
        account.read.insert((*name).to_owned(), all.collect());
    }
    account
}

fn one_to(last: u64) -> Vec<Line> {
    (1..=last).map(reads).collect()
}

fn lost(reader: &str, numbers: &[u64]) -> Vec<Breach> {
    vec![Breach::Lost { reader: reader.to_owned(), address: ADDRESS.to_owned(), numbers: numbers.to_vec() }]
}

#[test]
fn everything_once_and_in_order_is_clean() {
    let report = audit(&account(&[("a", one_to(10)), ("b", one_to(10))]));
    assert_eq!(report.breaches, []);
    assert_eq!((report.figures.accepted, report.figures.owed, report.figures.delivered), (10, 20, 20));
}

#[test]
fn a_lost_message_is_found_wherever_it_was() {
    for number in 1..=10 {
        let mut lines = one_to(10);
        lines.remove(usize::try_from(number - 1).unwrap());
        let report = audit(&account(&[("a", lines), ("b", one_to(10))]));
        assert_eq!(report.breaches, lost("a", &[number]));
        assert_eq!((report.lost(), report.figures.delivered), (1, 19));
    }
    assert_eq!(audit(&account(&[("a", Vec::new())])).lost(), 10, "who reads nothing has lost everything");
}

#[test]
fn a_duplicated_message_is_found() {
    let mut lines = one_to(10);
    lines.insert(4, reads(4));
    let twice = |number| vec![Breach::Twice("a".to_owned(), ADDRESS.to_owned(), number)];
    assert_eq!(audit(&account(&[("a", lines)])).breaches, twice(4));
    let mut late = one_to(10);
    late.push(reads(2));
    assert_eq!(audit(&account(&[("a", late)])).breaches, twice(2));
}

#[test]
fn swapped_messages_are_found() {
    let mut lines = one_to(10);
    lines.swap(4, 5);
    let report = audit(&account(&[("a", lines)]));
    assert_eq!(report.breaches, [Breach::Disordered("a".to_owned(), ADDRESS.to_owned(), 5)]);
}

#[test]
fn a_message_that_nobody_sent_is_found() {
    let mut lines = one_to(10);
    lines.push(reads(11));
    let report = audit(&account(&[("a", lines)]));
    assert_eq!(report.breaches, [Breach::Invented("a".to_owned(), ADDRESS.to_owned(), 11)]);
}

#[test]
fn a_hole_is_excused_where_it_was_told_and_nowhere_else() {
    let holed = |at: usize, address: &str| {
        let mut lines = one_to(10);
        lines.drain(4..6);
        lines.insert(at, told(address));
        lines
    };
    let excused = audit(&account(&[("a", holed(4, ADDRESS))]));
    assert_eq!((excused.breaches, excused.figures.told_lost, excused.figures.told), (vec![], 2, 1));
    // Too early, too late, of another address, to another reader.
    assert_eq!(audit(&account(&[("a", holed(3, ADDRESS))])).breaches, lost("a", &[5, 6]));
    assert_eq!(audit(&account(&[("a", holed(5, ADDRESS))])).breaches, lost("a", &[5, 6]));
    assert_eq!(audit(&account(&[("a", holed(4, "topic:room:2"))])).breaches, lost("a", &[5, 6]));
    let mut untold = holed(4, ADDRESS);
    untold.remove(4);
    assert_eq!(audit(&account(&[("a", untold), ("b", holed(4, ADDRESS))])).breaches, lost("a", &[5, 6]));
}

#[test]
fn a_missing_end_is_excused_when_it_was_told_last() {
    let mut lines = one_to(8);
    assert_eq!(audit(&account(&[("a", lines.clone())])).breaches, lost("a", &[9, 10]));
    lines.push(told(ADDRESS));
    assert_eq!(audit(&account(&[("a", lines)])).breaches, []);
}

#[test]
fn only_what_redis_forgot_may_come_again() {
    let again = |attempts, told_of: bool, epoch: &str| {
        let mut lines = one_to(5);
        lines.extend(told_of.then(|| told(ADDRESS)));
        let place = |number| Some(Place { epoch: epoch.into(), offset: number });
        let anew = |number| Line::Read { at: 100.0, address: ADDRESS.to_owned(), number, place: place(number) };
        lines.extend((5..=10).map(anew));
        let mut account = account(&[("a", lines)]);
        account.published.get_mut(ADDRESS).unwrap()[4].attempts = attempts;
        audit(&account)
    };
    let excused = again(2, true, "f");
    assert_eq!((excused.breaches, excused.figures.again), (vec![], 1));
    for report in [again(1, true, "f"), again(2, false, "f"), again(2, true, "e")] {
        assert_eq!(report.breaches, [Breach::Twice("a".to_owned(), ADDRESS.to_owned(), 5)]);
    }
}

#[test]
fn a_message_that_was_never_accepted_is_owed_to_nobody_and_held_against_the_gateway() {
    let mut lines = one_to(10);
    lines.remove(2);
    let mut account = account(&[("a", lines)]);
    account.published.get_mut(ADDRESS).unwrap()[2].accepted = None;
    assert_eq!(audit(&account).breaches, [Breach::NotAccepted(ADDRESS.to_owned(), 3)]);
}

#[test]
fn the_fault_is_timed_from_its_beginning_and_from_its_end() {
    let mut account = account(&[("a", one_to(10))]);
    (account.began, account.ended) = (Some(90.0), Some(98.0));
    account.readiness = vec![("n".to_owned(), false, 91.5), ("n".to_owned(), true, 98.5)];
    let figures = audit(&account).figures;
    assert_eq!((figures.detected, figures.unready, figures.recovered), (Some(1.5), Some(1.5), Some(2.0)));
    account.read.get_mut("a").unwrap().push(Line::Cut { at: 90.5, code: 1006 });
    let figures = audit(&account).figures;
    assert_eq!((figures.detected, figures.cuts), (Some(0.5), BTreeMap::from([(1006, 1)])));
}

#[test]
fn the_story_of_a_loss_names_the_node_and_the_neighbours() {
    let mut lines = vec![Line::Connected { at: 98.0, node: "n-1".to_owned() }];
    lines.extend([1, 2, 4].map(reads));
    let account = account(&[("a", lines)]);
    let report = audit(&account);
    let story = story(&account, &report.breaches[0]).expect("a loss has a story");
    for part in ["a lost [3", "connected to n-1", "topic:room:1 2", "topic:room:1 4"] {
        assert!(story.contains(part), "{part} is not in {story}");
    }
}

#[test]
fn what_was_on_its_way_from_an_earlier_epoch_does_not_end_a_gap() {
    let read = |number, epoch: &str| {
        let place = Some(Place { epoch: epoch.into(), offset: number });
        Line::Read { at: 100.0, address: ADDRESS.to_owned(), number, place }
    };
    let with = |epoch: &str, late: &str| {
        let mut lines = one_to(5);
        lines.push(Line::Told { at: 100.0, address: ADDRESS.to_owned(), epoch: Some(epoch.into()) });
        lines.push(read(6, late));
        lines.extend((8..=10).map(|number| read(number, "f")));
        audit(&account(&[("a", lines)])).breaches
    };
    assert_eq!(with("f", "e"), []);
    // It went on with 6: 7 is missing after the gap.
    assert_eq!(with("f", "f"), lost("a", &[7]));
}

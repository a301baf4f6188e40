//! What is made of figures: ratios within a round, dirty rounds left out, goals judged, and the same rows printed.

use super::{
    plot,
    results::{Cell, Results, tell},
    table,
    workloads::{Metric, Workload},
};

fn results(cells: Vec<Cell>) -> Results {
    let mut results = Results::new(10.0, 3.0, vec!["nchan: it does not build here".into()]).unwrap();
    for cell in cells {
        results.add(cell);
    }
    results.finish();
    results
}

/// CPU of the floor and of the gateway in one round.
fn round(round: u32, floor: f64, ours: f64, disturbance: f64) -> [Cell; 2] {
    let cell = |peer, cpu| {
        Cell::of(peer, Workload::Fanout, round, disturbance, &[(Metric::CpuMicrosEach, cpu), (Metric::P50Millis, 2.0)])
    };
    [cell("floor", floor), cell("countersign", ours)]
}

#[test]
fn ratios_are_taken_within_a_round_so_that_a_machine_that_changes_its_speed_does_no_harm() {
    let cells = [round(0, 4.0, 4.4, 1.0), round(1, 8.0, 8.8, 1.0), round(2, 4.0, 4.8, 1.0)].concat();
    let results = results(cells);
    let row = results.summaries[0].rows.iter().find(|row| row.peer == "countersign").unwrap();
    let ratio = row.to_floor.unwrap();
    assert!((ratio.median - 1.1).abs() < 1e-9 && (ratio.most - 1.2).abs() < 1e-9 && ratio.count == 3, "{ratio:?}");
}

#[test]
fn a_disturbed_round_is_counted_and_left_out_as_long_as_there_is_a_clean_one() {
    let with_clean = results([round(0, 4.0, 4.4, 1.0), round(1, 4.0, 40.0, 50.0)].concat());
    let row = with_clean.summaries[0].rows.iter().find(|row| row.peer == "countersign").unwrap();
    assert_eq!((row.rounds, row.dirty, row.to_floor.unwrap().count), (2, 1, 1));
    assert!(with_clean.to_string().contains("2, 1 of them disturbed"), "{with_clean}");
    let without = results(round(0, 4.0, 40.0, 50.0).to_vec());
    let row = without.summaries[0].rows.iter().find(|row| row.peer == "countersign").unwrap();
    assert_eq!((row.dirty, row.to_floor.unwrap().median.round().to_bits()), (1, 10.0f64.to_bits()));
}

#[test]
fn goals_are_judged_by_the_median() {
    let judged = |ours| {
        let results = results(round(0, 4.0, ours, 0.0).to_vec());
        let verdicts = &results.summaries[0].verdicts;
        let goal = verdicts.iter().find(|verdict| verdict.goal.contains("G1") && verdict.goal.contains("floor"));
        (goal.unwrap().is_met, results.to_string())
    };
    let (met, text) = judged(5.0);
    assert!(met && text.contains("met    G1 countersign: CPU µs each ≤ 1.25 × floor: 1.25"), "{text}");
    let (met, text) = judged(5.1);
    assert!(!met && text.contains("MISSED G1"), "{text}");
}

#[test]
fn what_the_gateway_did_wrong_is_a_fault_and_what_a_peer_did_is_a_note() {
    let [mut floor, mut ours] = round(0, 4.0, 4.4, 0.0);
    floor.fault = Some("7 lost in silence".into());
    let noted = results(vec![floor.clone(), ours.clone()]);
    assert_eq!(noted.fault(), None);
    assert!(noted.to_string().contains("floor: 7 lost in silence"), "{noted}");
    ours.fault = Some("1 lost in silence".into());
    assert!(results(vec![floor, ours]).fault().unwrap().contains("countersign"));
}

#[test]
fn the_document_gets_the_rows_between_its_marks_and_keeps_the_rest() {
    let results = results(round(0, 4.0, 4.4, 0.0).to_vec());
    let text = format!("# Performance\n\n{}\nold\n{}\n\nThe end.\n", table::BEGIN, table::END);
    let once = table::between(&text, &table::markdown(&results, "performance")).unwrap();
    assert!(once.starts_with("# Performance\n") && once.ends_with("The end.\n") && !once.contains("old"), "{once}");
    assert!(once.contains("| countersign | 4.40 | 2.00 |") && once.contains("performance/fanout.svg"), "{once}");
    assert_eq!(table::between(&once, &table::markdown(&results, "performance")).unwrap(), once);
    assert_eq!(table::between("no marks", ""), None);
}

#[test]
fn a_plot_has_a_bar_for_each_server() {
    let results = results(round(0, 4.0, 8.0, 0.0).to_vec());
    let drawing = plot::draw(&plot::Chart::of(&results.summaries[0])).unwrap();
    assert_eq!(drawing.matches("<rect").count(), 2);
    assert!(drawing.contains(r#"width="420.0""#) && drawing.contains(r#"width="210.0""#), "{drawing}");
}

#[test]
fn figures_are_told_with_the_digits_that_say_something() {
    assert_eq!([0.0, 0.0123, 1.234, 12.34, 123.4, 1234.5].map(tell), ["0", "0.012", "1.23", "12.3", "123", "1,235"]);
}

#[test]
fn every_command_of_the_document_can_be_said_and_its_tables_have_a_place() {
    use clap::Parser;
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/performance.md");
    let text = std::fs::read_to_string(path).unwrap();
    assert!(table::between(&text, "").is_some(), "the document has no marks");
    let is_command = |line: &&str| line.starts_with("bench ") || line.starts_with("target/dist/bench ");
    let commands: Vec<&str> = text.lines().filter(is_command).collect();
    assert!(commands.len() > 5, "{commands:?}");
    for command in commands {
        let said = command.split('#').next().unwrap_or_default();
        // What the shell would put there is one word; here a number does.
        let (before, after) = said.split_once("$(").unwrap_or((said, ""));
        let after = after.rsplit_once(')').map_or("", |(_, after)| after);
        let word = if said.contains("$(") { "1" } else { "" };
        let words = format!("{}{word}{after}", before.replace('"', ""));
        let parsed = crate::args::Cli::try_parse_from(words.replace('"', "").split_whitespace());
        assert!(parsed.is_ok(), "{command}: {}", parsed.unwrap_err());
    }
}

#[test]
fn a_server_that_lets_some_wait_much_longer_than_others_misses_its_goal() {
    let judged = |p99_to_p50| {
        let cell = Cell::of("countersign", Workload::Pingpong1k, 0, 0.0, &[(Metric::P99ToP50, p99_to_p50)]);
        results(vec![cell]).to_string()
    };
    assert!(judged(1.7).contains("met    G10 countersign: p99 / p50 ≤ 2.50: 1.70"), "{}", judged(1.7));
    assert!(judged(146.0).contains("MISSED G10"), "{}", judged(146.0));
}

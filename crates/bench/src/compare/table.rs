//! The results as a table for a terminal and as Markdown. The same rows: what stands in the documentation is what the tool
//! has printed.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};

use super::{
    plot,
    results::{Results, Row, Summary, tell},
    stats::Spread,
};

/// In a document, the tables stand between these two lines.
pub(super) const BEGIN: &str = "<!-- bench compare: begin -->";
pub(super) const END: &str = "<!-- bench compare: end -->";

/// The header and the rows of a summary.
fn cells(summary: &Summary) -> Vec<Vec<String>> {
    let metrics = summary.workload.metrics();
    let has_ratios = summary.rows.iter().any(|row| row.to_floor.is_some() || row.to_uwebsockets.is_some());
    let mut header = vec![String::new()];
    header.extend(metrics.iter().map(|metric| metric.title().to_owned()));
    if has_ratios {
        header.extend(["× floor".to_owned(), "× uWebSockets".to_owned()]);
    }
    header.push("rounds".to_owned());
    let mut lines = vec![header];
    for row in &summary.rows {
        let mut line = vec![row.peer.clone()];
        line.extend(metrics.iter().map(|metric| row.values.get(metric).map_or_else(|| "–".to_owned(), median)));
        if has_ratios {
            line.push(row.to_floor.as_ref().map_or_else(String::new, range));
            line.push(row.to_uwebsockets.as_ref().map_or_else(String::new, range));
        }
        line.push(rounds(row));
        lines.push(line);
    }
    lines
}

fn median(spread: &Spread) -> String {
    tell(spread.median)
}

/// `1.10 (1.05–1.21)`.
fn range(spread: &Spread) -> String {
    format!("{:.2} ({:.2}–{:.2})", spread.median, spread.least, spread.most)
}

fn rounds(row: &Row) -> String {
    if row.dirty == 0 { row.rounds.to_string() } else { format!("{}, {} of them disturbed", row.rounds, row.dirty) }
}

/// For a terminal.
impl std::fmt::Display for Results {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}; {} s a measurement; medians, ratios with least and most", self.machine, self.seconds)?;
        for summary in &self.summaries {
            writeln!(f, "\n{}", summary.workload.title())?;
            let lines = cells(summary);
            let widths: Vec<usize> = (0..lines.first().map_or(0, Vec::len))
                .map(|at| lines.iter().filter_map(|line| Some(line.get(at)?.chars().count())).max().unwrap_or_default())
                .collect();
            for line in &lines {
                let padded: Vec<String> =
                    line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
                writeln!(f, "  {}", padded.join("  ").trim_end())?;
            }
            for row in &summary.rows {
                row.notes.iter().try_for_each(|note| writeln!(f, "  {}: {note}", row.peer))?;
            }
            for verdict in &summary.verdicts {
                let word = if verdict.is_met { "met" } else { "MISSED" };
                writeln!(f, "  {word:<6} {}: {}", verdict.goal, range(&verdict.found))?;
            }
        }
        for section in &self.appendix {
            write!(f, "\n{}\n\n{}", section.title, section.table)?;
        }
        self.skipped.iter().try_for_each(|peer| writeln!(f, "\nwithout {peer}"))
    }
}

/// As Markdown; `plots` is the name of the folder with the plots.
pub(crate) fn markdown(results: &Results, plots: &str) -> String {
    let mut out = format!(
        "{}. {} s a measurement, medians of the rounds; ratios are taken within a round, with the least and the most.\n",
        results.machine, results.seconds
    );
    for summary in &results.summaries {
        let lines = cells(summary);
        write!(out, "\n### {}\n\n", summary.workload.title()).expect("writing to memory cannot fail");
        if let Some(file) = plot::file(summary) {
            writeln!(out, "![{}]({plots}/{file})\n", summary.workload.title()).expect("writing to memory cannot fail");
        }
        for (at, line) in lines.iter().enumerate() {
            writeln!(out, "| {} |", line.join(" | ")).expect("writing to memory cannot fail");
            if at == 0 {
                writeln!(out, "|{}", "---|".repeat(line.len())).expect("writing to memory cannot fail");
            }
        }
        let notes = summary.rows.iter().flat_map(|row| row.notes.iter().map(move |note| (&row.peer, note)));
        for (at, (peer, note)) in notes.enumerate() {
            let gap = if at == 0 { "\n" } else { "" };
            writeln!(out, "{gap}- {peer}: {note}").expect("writing to memory cannot fail");
        }
        for (at, verdict) in summary.verdicts.iter().enumerate() {
            let gap = if at == 0 { "\n" } else { "" };
            let word = if verdict.is_met { "met" } else { "**missed**" };
            writeln!(out, "{gap}- {}: {}, {word}", verdict.goal, range(&verdict.found))
                .expect("writing to memory cannot fail");
        }
    }
    for section in &results.appendix {
        write!(out, "\n### {}\n\n", section.title).expect("writing to memory cannot fail");
        if let Some(plot) = &section.plot {
            writeln!(out, "![{}]({plots}/{})\n", section.title, plot.file).expect("writing to memory cannot fail");
        }
        out.push_str(&section.table);
    }
    for peer in &results.skipped {
        write!(out, "\nWithout {peer}\n").expect("writing to memory cannot fail");
    }
    out
}

/// Puts the tables between the marks of a document.
pub(crate) fn into_document(results: &Results, path: &Path) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let tables = markdown(results, &plot::folder(path)?);
    let text = between(&text, &tables).with_context(|| format!("{}: no lines {BEGIN} and {END}", path.display()))?;
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// The text with `tables` between its marks.
pub(super) fn between(text: &str, tables: &str) -> Option<String> {
    let (head, rest) = text.split_once(BEGIN)?;
    let (_, tail) = rest.split_once(END)?;
    Some(format!("{head}{BEGIN}\n{tables}{END}{tail}"))
}

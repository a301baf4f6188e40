//! The first figure of each workload, and what grows in each series, as a bar chart in SVG: the median as a bar, the least
//! and the most as a line over it.
//! Text is drawn in the reader's own font and in a grey that can be read on white and on black.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};

use super::{
    results::{Results, Row, Summary, tell},
    stats::Spread,
};

const WIDTH: f64 = 760.0;
const LABELS: f64 = 230.0;
const FIGURES: f64 = 110.0;
const BAR: f64 = 20.0;
const STEP: f64 = 28.0;
const HEAD: f64 = 30.0;

/// The name of the folder beside a document, `performance` for `performance.md`.
pub(crate) fn folder(document: &Path) -> Result<String> {
    let stem = document.file_stem().and_then(|stem| stem.to_str()).context("the document has no name")?;
    Ok(stem.to_owned())
}

/// The name of a plot; `None` when there is nothing to draw.
pub(crate) fn file(summary: &Summary) -> Option<String> {
    let metric = summary.workload.metrics().first()?;
    let is_told = summary.rows.iter().any(|row| row.values.get(metric).is_some_and(|spread| spread.most > 0.0));
    let name = serde_json::to_value(summary.workload).ok()?;
    is_told.then(|| format!("{}.svg", name.as_str().unwrap_or_default()))
}

/// Writes all plots into the folder beside the document.
pub(crate) fn beside(results: &Results, document: &Path) -> Result<()> {
    let folder = document.with_file_name(folder(document)?);
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let workloads = results.summaries.iter().map(|summary| (file(summary), draw(&Chart::of(summary))));
    let sections = results.appendix.iter().filter_map(|section| section.plot.as_ref());
    let sections = sections.map(|plot| (Some(plot.file.clone()), draw(&plot.chart)));
    for (name, drawing) in workloads.chain(sections) {
        if let (Some(name), Some(drawing)) = (name, drawing) {
            let path = folder.join(name);
            fs::write(&path, drawing).with_context(|| format!("writing {}", path.display()))?;
        }
    }
    Ok(())
}

/// A chart and the name of its file.
#[derive(Debug)]
pub(crate) struct Plot {
    pub(crate) file: String,
    pub(crate) chart: Chart,
}

/// Bars with a name each.
#[derive(Debug)]
pub(crate) struct Chart {
    /// What it is about, and what the bars are.
    pub(crate) title: String,
    pub(crate) bars: Vec<Bar>,
}

#[derive(Debug)]
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) spread: Spread,
    /// Of the gateway.
    pub(crate) is_ours: bool,
}

impl Chart {
    /// The first figure of a workload.
    pub(super) fn of(summary: &Summary) -> Self {
        let metric = summary.workload.metrics().first();
        let title = metric.map_or("", |metric| metric.title());
        let bar = |row: &Row| {
            let spread = *row.values.get(metric?)?;
            Some(Bar { name: row.peer.clone(), spread, is_ours: row.peer.starts_with("countersign") })
        };
        let bars = summary.rows.iter().filter_map(bar).collect();
        Self { title: format!("{}; {title}", summary.workload.title()), bars }
    }
}

/// The chart as SVG; `None` when there is nothing to draw.
pub(super) fn draw(chart: &Chart) -> Option<String> {
    let most = chart.bars.iter().map(|bar| bar.spread.most).max_by(f64::total_cmp).filter(|most| *most > 0.0)?;
    let scale = (WIDTH - LABELS - FIGURES) / most;
    let height = chart.bars.iter().fold(HEAD + 8.0, |height, _| height + STEP);
    let mut out = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| writeln!(out, "{text}").expect("writing to memory cannot fail");
    line(format_args!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13" fill="#808890">"##
    ));
    line(format_args!(r#"<text x="0" y="16" font-weight="bold">{}</text>"#, escaped(&chart.title)));
    let mut top = HEAD;
    for Bar { name, spread, is_ours } in &chart.bars {
        let color = if *is_ours { "#d9822b" } else { "#5c7080" };
        let middle = top + BAR / 2.0;
        let [width, from, to] = [spread.median, spread.least, spread.most].map(|figure| figure * scale);
        let (from, to, text) = (LABELS + from, LABELS + to, LABELS + to + 8.0);
        let below = middle + 5.0;
        line(format_args!(r#"<text x="{}" y="{below:.1}" text-anchor="end">{}</text>"#, LABELS - 8.0, escaped(name)));
        line(format_args!(r#"<rect x="{LABELS}" y="{top:.1}" width="{width:.1}" height="{BAR}" fill="{color}"/>"#));
        line(format_args!(
            r##"<line x1="{from:.1}" x2="{to:.1}" y1="{middle:.1}" y2="{middle:.1}" stroke="#a0a8b0" stroke-width="2"/>"##
        ));
        line(format_args!(r#"<text x="{text:.1}" y="{below:.1}">{}</text>"#, tell(spread.median)));
        top += STEP;
    }
    line(format_args!("</svg>"));
    Some(out)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

//! What a run found out: one object that is printed as a table or as JSON, and the verdict that becomes the exit status.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Serialize;

use super::{ledger::Tally, meter::Latencies};
use crate::{
    backlog::Backlog,
    machine::{others::Disturbance, process::Usage},
    outage::Return,
    stages::StagesTaken,
};

/// A finished run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    pub(crate) command: &'static str,
    /// What was asked for, in words.
    pub(crate) load: String,
    pub(crate) connections: u64,
    pub(crate) seconds: f64,
    /// Messages, round trips or callbacks, by what they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) traffic: Option<Traffic>,
    /// Bytes that were read from sockets for each message that arrived, warm-up included: what is around it, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) wire_bytes_each: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tally: Option<Tally>,
    /// From the time that a message was meant to be sent until it was read from the socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latency_ms: Option<Latency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server: Option<Cost>,
    /// Of this process, of one core.
    pub(crate) bench_cpu_percent: f64,
    /// Of the processes beside the server, which is Redis, of one core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) beside_cpu_percent: Option<f64>,
    /// What the machine did that has nothing to do with the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) disturbance: Option<Disturbance>,
    /// Redis commands for each callback.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) redis_commands: BTreeMap<String, f64>,
    /// Callbacks that were open all the while.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) backlog: Option<Backlog>,
    /// Where the time of a callback went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stages_ms: Option<StagesTaken>,
    /// What came of an outage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outage: Option<Return>,
    /// How connections ended that should not have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) ends: BTreeMap<String, u64>,
    /// What was answered otherwise than the client had answered.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) wrong: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Traffic {
    pub(crate) what: &'static str,
    /// By the producer, warm-up included.
    pub(crate) sent: u64,
    /// Meant to be sent by then, but the producer had fallen behind.
    pub(crate) behind: u64,
    /// Within the measured time.
    pub(crate) arrived: u64,
    pub(crate) arrived_per_second: f64,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Latency {
    pub(crate) count: u64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

/// What the server's processes used.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Cost {
    /// Of one core.
    pub(crate) cpu_percent: f64,
    /// For each message, round trip or callback that arrived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_us_each: Option<f64>,
    pub(crate) rss_before_mb: f64,
    pub(crate) rss_connected_mb: f64,
    pub(crate) rss_end_mb: f64,
    /// The most at any time since its start.
    pub(crate) rss_peak_mb: f64,
    /// What the connections added, before any load.
    pub(crate) bytes_per_connection: f64,
}

/// The server's use at the moments that matter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moments {
    pub(crate) before: Usage,
    pub(crate) connected: Usage,
    pub(crate) begin: Usage,
    pub(crate) end: Usage,
}

const MB: f64 = 1_000_000.0;

impl Latency {
    pub(crate) fn of(latencies: &Latencies) -> Self {
        let at = |quantile| millis(latencies.value_at_quantile(quantile));
        Self {
            count: latencies.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: millis(latencies.max()),
        }
    }
}

impl Cost {
    pub(crate) fn of(moments: &Moments, seconds: f64, arrived: u64, connections: u64) -> Self {
        let Moments { before, connected, begin, end } = moments;
        let cpu = end.cpu.saturating_sub(begin.cpu);
        let mb = |usage: &Usage| usage.rss_bytes as f64 / MB;
        let added = connected.rss_bytes.saturating_sub(before.rss_bytes);
        Self {
            cpu_percent: percent(cpu, seconds),
            cpu_us_each: (arrived > 0).then(|| round(cpu.as_secs_f64() * 1e6 / arrived as f64, 3)),
            rss_before_mb: round(mb(before), 2),
            rss_connected_mb: round(mb(connected), 2),
            rss_end_mb: round(mb(end), 2),
            rss_peak_mb: round(end.peak_bytes as f64 / MB, 2),
            bytes_per_connection: round(added as f64 / connections as f64, 0),
        }
    }
}

impl Report {
    /// A report about nothing yet.
    pub(crate) fn new(command: &'static str, load: String, connections: u64, seconds: f64) -> Self {
        Self {
            command,
            load,
            connections,
            seconds: round(seconds, 3),
            traffic: None,
            wire_bytes_each: None,
            tally: None,
            latency_ms: None,
            server: None,
            bench_cpu_percent: 0.0,
            beside_cpu_percent: None,
            disturbance: None,
            redis_commands: BTreeMap::new(),
            backlog: None,
            stages_ms: None,
            outage: None,
            ends: BTreeMap::new(),
            wrong: BTreeMap::new(),
        }
    }

    /// What a server must not do, whatever the load.
    pub(crate) fn fault(&self) -> Option<String> {
        let Tally { lost, duplicated, reordered, misrouted, .. } = self.tally.unwrap_or_default();
        let wrong = self.wrong.values().sum();
        let faults: Vec<_> = [
            (lost, "lost in silence"),
            (duplicated, "duplicated"),
            (reordered, "reordered"),
            (misrouted, "misrouted"),
            (wrong, "wrong"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
        (!faults.is_empty()).then(|| faults.join(", "))
    }
}

/// The table.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, value: fmt::Arguments<'_>| writeln!(f, "  {name:<22}{value}");
        row("bench", format_args!("{}: {}", self.command, self.load))?;
        row("connections", format_args!("{}", grouped(self.connections)))?;
        if let Some(Traffic { what, sent, behind, arrived, arrived_per_second }) = &self.traffic {
            row("sent", format_args!("{} (with warm-up; {} behind)", grouped(*sent), grouped(*behind)))?;
            row(what, format_args!("{} in {} s = {arrived_per_second:.0}/s", grouped(*arrived), self.seconds))?;
        }
        if let Some(bytes) = self.wire_bytes_each {
            row("on the wire", format_args!("{bytes:.1} bytes each"))?;
        }
        if let Some(Latency { p50, p90, p99, p999, max, .. }) = &self.latency_ms {
            row("latency ms", format_args!("p50 {p50:.3}  p90 {p90:.3}  p99 {p99:.3}  p99.9 {p999:.3}  max {max:.3}"))?;
        }
        if let Some(stages) = &self.stages_ms {
            for (name, Latency { p50, p99, .. }) in stages.named() {
                row(name, format_args!("p50 {p50:.3}  p99 {p99:.3}"))?;
            }
        }
        if let Some(cost) = &self.server {
            let each = cost.cpu_us_each.map_or_else(String::new, |each| format!(", {each:.3} µs each"));
            row("server CPU", format_args!("{:.1} % of a core{each}", cost.cpu_percent))?;
            row(
                "server RSS MB",
                format_args!(
                    "{:.2} before, {:.2} connected, {:.2} at the end, {:.2} at most; {:.0} bytes a connection",
                    cost.rss_before_mb,
                    cost.rss_connected_mb,
                    cost.rss_end_mb,
                    cost.rss_peak_mb,
                    cost.bytes_per_connection
                ),
            )?;
        }
        let beside = self.beside_cpu_percent.map_or_else(String::new, |percent| format!(", Redis {percent:.1} %"));
        row("bench CPU", format_args!("{:.1} % of a core{beside}", self.bench_cpu_percent))?;
        if let Some(Disturbance { other_percent, steal_percent }) = &self.disturbance {
            row("others", format_args!("{other_percent:.1} % of a core, stolen {steal_percent:.1} %"))?;
        }
        if !self.redis_commands.is_empty() {
            let total: f64 = self.redis_commands.values().sum();
            let each: Vec<_> = self.redis_commands.iter().map(|(name, count)| format!("{name} {count:.2}")).collect();
            row("Redis commands each", format_args!("{total:.2}: {}", each.join(", ")))?;
        }
        if let Some(Backlog { open, redis_bytes_each, idle_cpu_percent }) = &self.backlog {
            let bytes = redis_bytes_each.map_or_else(String::new, |bytes| format!(", {bytes:.0} bytes of Redis each"));
            let idle = idle_cpu_percent.map_or_else(String::new, |cpu| format!(", nodes idle at {cpu:.1} % of a core"));
            row("open meanwhile", format_args!("{}{bytes}{idle}", grouped(*open)))?;
        }
        if let Some(Return { back, all_back_ms, recovered, not_recovered }) = &self.outage {
            row("back", format_args!("{} after {all_back_ms:.0} ms", grouped(*back)))?;
            row("subscriptions", format_args!("{recovered} recovered, {not_recovered} told that they were not"))?;
        }
        if let Some(Tally { lost, lost_announced, duplicated, reordered, misrouted, .. }) = &self.tally {
            row(
                "integrity",
                format_args!(
                    "lost {lost} (announced {lost_announced}), duplicated {duplicated}, reordered {reordered}, misrouted {misrouted}"
                ),
            )?;
        }
        for (what, map) in [("ended", &self.ends), ("wrong", &self.wrong)] {
            for (why, count) in map {
                row(what, format_args!("{count} × {why}"))?;
            }
        }
        Ok(())
    }
}

/// Processor time as a part of one core.
pub(crate) fn percent(cpu: Duration, seconds: f64) -> f64 {
    round(cpu.as_secs_f64() * 100.0 / seconds, 1)
}

pub(crate) fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

fn millis(nanos: u64) -> f64 {
    round(nanos as f64 / 1e6, 3)
}

/// 1234567 as 1,234,567.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_announced_is_a_fault() {
        let mut report = Report::new("fanout", "x".into(), 1, 1.0);
        report.tally = Some(Tally { lost_announced: 5, received: 1, ..Tally::default() });
        assert_eq!(report.fault(), None);
        report.tally = Some(Tally { lost: 2, reordered: 1, ..Tally::default() });
        assert_eq!(report.fault().as_deref(), Some("2 lost in silence, 1 reordered"));
        report.tally = None;
        report.wrong.insert("declined".into(), 3);
        assert_eq!(report.fault().as_deref(), Some("3 wrong"));
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([1, 999, 1000, 1_234_567].map(grouped), ["1", "999", "1,000", "1,234,567"]);
    }
}

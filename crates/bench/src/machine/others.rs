//! How clean the machine was: what it did beside the run, by `/proc/stat` (proc(5)). A figure that was taken while
//! another process or another virtual machine wanted the same cores says little.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;

/// `/proc/stat` counts in ticks of USER_HZ, which is 100 on every Linux that this runs on.
const TICK: Duration = Duration::from_millis(10);

/// All cores together, since the start of the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    /// In processes.
    busy: Duration,
    /// Wanted, and given to another machine by the hypervisor.
    stolen: Duration,
}

/// Of one core.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Disturbance {
    /// Processes that have no part in the run.
    pub(crate) other_percent: f64,
    /// Other virtual machines.
    pub(crate) steal_percent: f64,
}

impl Machine {
    pub(crate) fn now() -> Result<Self> {
        read(&fs::read_to_string("/proc/stat").context("reading /proc/stat")?)
    }

    /// What it did since `before` apart from `own`, the processor time of the run's processes.
    pub(crate) fn disturbance(self, before: Self, own: Duration, seconds: f64) -> Disturbance {
        let percent = |time: Duration| (time.as_secs_f64() / seconds * 1000.0).round() / 10.0;
        let other = self.busy.saturating_sub(before.busy).saturating_sub(own);
        Disturbance { other_percent: percent(other), steal_percent: percent(self.stolen.saturating_sub(before.stolen)) }
    }
}

impl Disturbance {
    pub(crate) fn percent(self) -> f64 {
        self.other_percent + self.steal_percent
    }
}

/// The first line: `cpu user nice system idle iowait irq softirq steal …`. Interrupts are left out: on a quiet machine
/// they are the run's own.
fn read(stat: &str) -> Result<Machine> {
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u32> = line.split_ascii_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
    let &[user, nice, system, _idle, _wait, _irq, _softirq, steal, ..] = ticks.as_slice() else {
        anyhow::bail!("/proc/stat begins with {line:?}");
    };
    Ok(Machine { busy: TICK * (user + nice + system), stolen: TICK * steal })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_the_machines_work_is_others() {
        let before = read("cpu  100 0 100 5000 0 7 7 10 0 0\ncpu0 1\n").unwrap();
        let after = read("cpu  200 10 140 5000 0 9 9 15 0 0\ncpu0 1\n").unwrap();
        let found = after.disturbance(before, Duration::from_millis(1_400), 1.0);
        assert!((found.other_percent - 10.0).abs() < 1e-9 && (found.steal_percent - 5.0).abs() < 1e-9, "{found:?}");
        assert!(read("cpu  1 2 3").is_err());
    }

    #[test]
    fn a_busy_neighbour_is_seen() {
        let before = Machine::now().unwrap();
        let mut spinning = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        let found = loop {
            let found = Machine::now().unwrap().disturbance(before, Duration::ZERO, 1.0);
            if found.other_percent > 20.0 || std::time::Instant::now() > deadline {
                break found;
            }
            std::thread::yield_now();
        };
        spinning.kill().unwrap();
        spinning.wait().unwrap();
        assert!(found.other_percent > 20.0, "a shell that spins was not seen: {found:?}");
    }
}

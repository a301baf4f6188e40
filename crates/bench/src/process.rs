//! What the server costs, as Linux counts it: processor time and resident memory of its processes.

use std::{fs, time::Duration};

use anyhow::{Context, Result, anyhow};

/// `/proc/<pid>/stat` counts in ticks of USER_HZ, which is 100 on every Linux that this runs on (proc(5)).
const TICKS_PER_SECOND: u32 = 100;
const KIB: u64 = 1024;

/// Processes that are watched together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Processes(Vec<u32>);

/// At one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// User and system time since the start.
    pub(crate) cpu: Duration,
    /// Resident memory.
    pub(crate) rss_bytes: u64,
}

impl Processes {
    pub(crate) fn new(pids: Vec<u32>) -> Self {
        Self(pids)
    }

    /// This process itself.
    pub(crate) fn own() -> Self {
        Self(vec![std::process::id()])
    }

    /// The sum over them; `None` when none is watched.
    pub(crate) fn usage(&self) -> Result<Option<Usage>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let mut sum = Usage::default();
        for pid in &self.0 {
            let read = |name: &str| {
                fs::read_to_string(format!("/proc/{pid}/{name}"))
                    .with_context(|| format!("reading what process {pid} uses: is it still running, on this machine?"))
            };
            sum.cpu += cpu(&read("stat")?).with_context(|| format!("/proc/{pid}/stat"))?;
            sum.rss_bytes += rss(&read("status")?).with_context(|| format!("/proc/{pid}/status"))?;
        }
        Ok(Some(sum))
    }
}

/// The name of the process, in brackets, may hold spaces: fields are counted from its end.
fn cpu(stat: &str) -> Result<Duration> {
    let (_, fields) = stat.rsplit_once(')').ok_or_else(|| anyhow!("no name in {stat:?}"))?;
    // Fields 14 and 15 of proc(5); the first after the name is field 3.
    let ticks = |at: usize| -> Result<u32> {
        Ok(fields.split_ascii_whitespace().nth(at - 3).ok_or_else(|| anyhow!("no field {at}"))?.parse()?)
    };
    Ok(Duration::from_secs(1) / TICKS_PER_SECOND * (ticks(14)? + ticks(15)?))
}

fn rss(status: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or_else(|| anyhow!("no VmRSS"))?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * KIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_found_behind_any_name() {
        let stat = "42 (a ) b) S 1 1 1 0 -1 4194560 100 0 0 0 150 50 7 8 20 0 4 0 100 1 1";
        assert_eq!(cpu(stat).unwrap(), Duration::from_secs(2));
        assert_eq!(rss("Name:\tx\nVmRSS:\t   2048 kB\n").unwrap(), 2 * 1024 * 1024);
    }

    #[test]
    fn this_process_uses_memory_and_an_unknown_one_is_named() {
        assert!(Processes::own().usage().unwrap().unwrap().rss_bytes > 100 * KIB);
        assert_eq!(Processes::default().usage().unwrap(), None);
        assert!(Processes::new(vec![u32::MAX]).usage().unwrap_err().to_string().contains("is it still running"));
    }
}

//! What the server costs, as Linux counts it: processor time and resident memory of its processes and their children
//! (a peer may be a script that starts the server, or a master with workers).

use std::{collections::BTreeSet, fs, time::Duration};

use anyhow::{Context, Result};

const KIB: u64 = 1024;

/// Processes that are watched together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Processes(Vec<u32>);

/// At one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Time on a processor since the start, of the threads that are there now.
    pub(crate) cpu: Duration,
    /// Resident memory.
    pub(crate) rss_bytes: u64,
    /// The most resident memory at any time.
    pub(crate) peak_bytes: u64,
}

impl Processes {
    pub(crate) fn new(pids: Vec<u32>) -> Self {
        Self(pids)
    }

    /// This process alone.
    pub(crate) fn own() -> Result<Usage> {
        usage(std::process::id())
    }

    /// The sum over them and their children; `None` when none is watched.
    pub(crate) fn usage(&self) -> Result<Option<Usage>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let mut sum = Usage::default();
        for pid in with_children(&self.0) {
            let one = usage(pid)
                .with_context(|| format!("reading what process {pid} uses: is it still running, on this machine?"))?;
            sum.cpu += one.cpu;
            sum.rss_bytes += one.rss_bytes;
            sum.peak_bytes += one.peak_bytes;
        }
        Ok(Some(sum))
    }
}

fn usage(pid: u32) -> Result<Usage> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let mut cpu = Duration::ZERO;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may have ended between the two.
        if let Ok(times) = fs::read_to_string(thread?.path().join("schedstat")) {
            cpu += on_processor(&times).with_context(|| format!("/proc/{pid}/task/…/schedstat"))?;
        }
    }
    Ok(Usage { cpu, rss_bytes: memory(&status, "VmRSS:")?, peak_bytes: memory(&status, "VmHWM:")? })
}

/// These processes, their children, theirs, and so on.
fn with_children(pids: &[u32]) -> BTreeSet<u32> {
    let mut all = BTreeSet::new();
    let mut next = pids.to_vec();
    while let Some(pid) = next.pop() {
        if all.insert(pid) {
            // Each thread has children of its own. One that has ended since has none any more.
            for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
                next.extend(children.split_ascii_whitespace().filter_map(|child| child.parse::<u32>().ok()));
            }
        }
    }
    all
}

/// The first figure is nanoseconds on a processor, which `/proc/<pid>/stat` has only in hundredths of a second
/// (<https://docs.kernel.org/scheduler/sched-stats.html>).
fn on_processor(schedstat: &str) -> Result<Duration> {
    let nanos = schedstat.split_ascii_whitespace().next().context("it is empty")?;
    Ok(Duration::from_nanos(nanos.parse()?))
}

fn memory(status: &str, name: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * KIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_as_the_kernel_writes_them() {
        assert_eq!(on_processor("222938 0 2\n").unwrap(), Duration::from_nanos(222_938));
        let status = "Name:\tx\nVmHWM:\t   3072 kB\nVmRSS:\t   2048 kB\n";
        assert_eq!(memory(status, "VmRSS:").unwrap(), 2 * 1024 * 1024);
        assert_eq!(memory(status, "VmHWM:").unwrap(), 3 * 1024 * 1024);
        assert!(memory(status, "VmSwap:").is_err());
    }

    #[test]
    fn a_child_counts_with_its_parent() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let all = with_children(&[std::process::id()]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(all.contains(&child.id()), "{all:?}");
    }

    #[test]
    fn this_process_uses_memory_and_an_unknown_one_is_named() {
        let own = Processes::own().unwrap();
        assert!(own.rss_bytes > 100 * KIB && own.cpu > Duration::ZERO && own.peak_bytes >= own.rss_bytes);
        assert_eq!(Processes::default().usage().unwrap(), None);
        assert!(Processes::new(vec![u32::MAX]).usage().unwrap_err().to_string().contains("is it still running"));
    }
}

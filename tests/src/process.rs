//! A child process with its log. Ended when dropped; when the test is failing, its log goes to stderr.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::deadline::eventually;

/// What a test sends to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: please end.
    Terminate,
    /// SIGKILL: gone at once.
    Kill,
    /// SIGSTOP: stands still, keeps its sockets.
    Stop,
    /// SIGCONT: goes on.
    Continue,
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGQUIT: end when what is under way has ended, as nginx understands it.
    Quit,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Terminate => "TERM",
            Self::Kill => "KILL",
            Self::Stop => "STOP",
            Self::Continue => "CONT",
            Self::Reload => "HUP",
            Self::Quit => "QUIT",
        }
    }
}

/// A running child process. Owns the child, and the lines that it has written so far.
#[derive(Debug)]
pub struct Process {
    name: String,
    id: u32,
    child: Mutex<Child>,
    lines: Arc<Mutex<Vec<String>>>,
    readers: Mutex<Vec<JoinHandle<()>>>,
    ended_by: Signal,
}

impl Process {
    /// Starts `command` with both outputs captured. It is ended by SIGKILL when dropped.
    pub fn spawn(name: impl Into<String>, command: &mut Command) -> Self {
        let name = name.into();
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap_or_else(
                |error| {
                    panic!(
                        "cannot start {name} ({}): {error}; is it installed? ./test installs what is missing",
                        command.get_program().display()
                    )
                },
            );
        let lines = Arc::default();
        let mut readers = Vec::new();
        if let Some(output) = child.stdout.take() {
            readers.push(collect(output, &lines));
        }
        if let Some(output) = child.stderr.take() {
            readers.push(collect(output, &lines));
        }
        Self {
            name,
            id: child.id(),
            child: Mutex::new(child),
            lines,
            readers: Mutex::new(readers),
            ended_by: Signal::Kill,
        }
    }

    /// Ends by SIGTERM first when dropped: for a server with children of its own.
    pub(crate) fn ended_politely(mut self) -> Self {
        self.ended_by = Signal::Terminate;
        self
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Everything written so far, stdout and stderr together.
    pub fn log(&self) -> Vec<String> {
        lock(&self.lines).clone()
    }

    /// Everything that a process which has ended wrote, to its last line.
    pub fn last_log(&self) -> Vec<String> {
        assert!(self.exit_code().is_some(), "{} still runs", self.name);
        for reader in lock(&self.readers).drain(..) {
            // A reader only ends; it has nothing to panic about.
            drop(reader.join());
        }
        self.log()
    }

    /// Sends a signal. A process that is gone already is left in peace.
    pub fn signal(&self, signal: Signal) {
        let mut child = lock(&self.child);
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        // Not yet reaped, so the id is still this child's. `kill` is a builtin of every shell.
        let sent = Command::new("sh").arg("-c").arg(format!("kill -{} {}", signal.name(), self.id)).status();
        assert!(sent.is_ok_and(|status| status.success()), "cannot send {signal:?} to {} ({})", self.name, self.id);
    }

    /// The exit code, when the process has ended: `None` while it runs, `Some(None)` after a signal.
    pub fn exit_code(&self) -> Option<Option<i32>> {
        let status = lock(&self.child).try_wait().expect("a child can be waited for");
        status.map(|status| status.code())
    }

    /// Waits until the process has ended; `None` means that a signal ended it.
    pub async fn wait_exit(&self, deadline: Duration) -> Option<i32> {
        let what = format!("the end of {}", self.name);
        eventually(deadline, &what, || async { self.exit_code() }).await
    }

    /// SIGKILL, and back only when the process is gone and its ports are free.
    pub fn kill(&self) {
        let mut child = lock(&self.child);
        // An error means that it has ended by itself.
        drop(child.kill());
        drop(child.wait());
    }

    fn end(&self) {
        if self.ended_by == Signal::Terminate {
            self.signal(Signal::Continue);
            self.signal(Signal::Terminate);
            drop(lock(&self.child).wait());
        }
        self.kill();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            let lines = self.log();
            let skipped = lines.len().saturating_sub(MOST_LINES_SHOWN);
            eprintln!("--- {} ({skipped} earlier lines left out)", self.name);
            for line in lines.iter().skip(skipped) {
                eprintln!("{line}");
            }
            eprintln!("--- end of {}", self.name);
        }
    }
}

const MOST_LINES_SHOWN: usize = 120;

fn collect(output: impl Read + Send + 'static, lines: &Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    let lines = Arc::clone(lines);
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            match line {
                Ok(line) => lock(&lines).push(line),
                Err(_) => break,
            }
        }
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deadline::PATIENCE;

    fn shell(script: &str) -> Process {
        Process::spawn("shell", Command::new("sh").arg("-c").arg(script))
    }

    #[tokio::test]
    async fn the_log_holds_both_outputs_and_the_exit_code_is_known() {
        let process = shell("echo out; echo err >&2; exit 7");
        assert_eq!(process.wait_exit(PATIENCE).await, Some(7));
        let mut log = process.last_log();
        log.sort();
        assert_eq!(log, ["err", "out"]);
    }

    #[tokio::test]
    async fn a_signal_reaches_the_process() {
        let process = shell("trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done");
        eventually(PATIENCE, "ready", || async { process.log().first().cloned() }).await;
        process.signal(Signal::Terminate);
        assert_eq!(process.wait_exit(PATIENCE).await, Some(3));
    }
}

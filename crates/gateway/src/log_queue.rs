//! The lines of the log on their way out. They are written by a thread of their own, so that a reader that stands still (a full
//! pipe, a stopped terminal) stops that thread and nothing else. What does not fit into the queue is dropped and counted.

use std::{
    io::{self, Write},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

/// Bytes that may wait: some thousands of lines.
const MOST_BYTES: usize = 1024 * 1024;
/// How long the end of the process waits for a reader.
const FLUSH_WITHIN: Duration = Duration::from_millis(500);

/// Lines that were dropped and are not in a metric yet. One for the process, as its log is.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Lines that were dropped since the last call.
pub(crate) fn take_dropped() -> u64 {
    DROPPED.swap(0, Relaxed)
}

/// The log of the process. Dropping it writes what waits, as [`Self::finish`] does; lines that come later are still written.
#[derive(Debug)]
pub struct Log {
    queue: Arc<Queue>,
}

impl Log {
    /// Waits until everything is written, half a second at most: a reader that stands still does not keep the process.
    pub fn finish(&self) {
        self.queue.wait_until_written(FLUSH_WITHIN);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Starts the thread that writes to `out`.
///
/// # Errors
/// When the system has no thread to give.
pub(crate) fn start(out: impl Write + Send + 'static) -> io::Result<(Log, Lines)> {
    let queue = Arc::new(Queue { waiting: Mutex::default(), changed: Condvar::new(), most: MOST_BYTES });
    let writer = Arc::clone(&queue);
    thread::Builder::new().name("log".to_owned()).spawn(move || writer.write_out(out))?;
    Ok((Log { queue: Arc::clone(&queue) }, Lines(queue)))
}

/// Where lines go in. Never waits for their reader.
#[derive(Debug, Clone)]
pub(crate) struct Lines(Arc<Queue>);

#[derive(Debug)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    most: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    /// Others are being written.
    writes: bool,
    dropped: u64,
}

impl Write for Lines {
    /// One line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = self.0.lock();
        if waiting.lines.len() + line.len() > self.0.most {
            waiting.dropped += 1;
            DROPPED.fetch_add(1, Relaxed);
        } else {
            waiting.lines.extend_from_slice(line);
            self.0.changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Queue {
    fn write_out(&self, mut out: impl Write) {
        let mut lines = Vec::new();
        loop {
            let mut waiting = self.lock();
            while waiting.lines.is_empty() {
                waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            lines.clear();
            std::mem::swap(&mut lines, &mut waiting.lines);
            waiting.writes = true;
            drop(waiting);
            let written = out.write_all(&lines).and_then(|()| out.flush()).is_ok();
            let mut waiting = self.lock();
            waiting.writes = false;
            let dropped = if written { std::mem::take(&mut waiting.dropped) } else { 0 };
            drop(waiting);
            self.changed.notify_all();
            if !written {
                let lost = lines.split_inclusive(|byte| *byte == b'\n').count();
                DROPPED.fetch_add(lost as u64, Relaxed);
            }
            if dropped > 0 {
                tracing::warn!(dropped, "lines of the log were dropped, because their reader was too slow");
            }
        }
    }

    fn wait_until_written(&self, within: Duration) {
        let waiting = self.lock();
        let unwritten = |waiting: &mut Waiting| waiting.writes || !waiting.lines.is_empty();
        // Whether it was in time makes no difference: the process ends.
        drop(self.changed.wait_timeout_while(waiting, within, unwritten));
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing in here panics between two states.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A reader that takes nothing until it is let.
    struct Gate {
        open: mpsc::Receiver<()>,
        read: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.open.recv().map_err(io::Error::other)?;
            self.read.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stands_still_holds_up_nobody_and_what_fits_comes_in_order_when_it_goes_on() {
        let (opens, open) = mpsc::channel();
        let read = Arc::<Mutex<Vec<u8>>>::default();
        let (log, mut lines) = start(Gate { open, read: Arc::clone(&read) }).unwrap();
        let line = |n: u32| format!("{n:0>99}\n");
        let most = u32::try_from(2 * MOST_BYTES / 100).unwrap();
        take_dropped();
        for n in 0..most + 1000 {
            lines.write_all(line(n).as_bytes()).unwrap();
        }
        assert!(take_dropped() >= 1000, "what does not fit is counted");
        log.finish();
        assert_eq!(read.lock().unwrap().len(), 0, "the end does not wait for the reader");
        for _ in 0..3 {
            opens.send(()).unwrap();
        }
        log.finish();
        let text = String::from_utf8(read.lock().unwrap().clone()).unwrap();
        let written: Vec<&str> = text.lines().collect();
        assert!(written.len() > MOST_BYTES / 100 - 10, "{} lines", written.len());
        for (n, line_read) in (0..).zip(&written) {
            assert_eq!(*line_read, line(n).trim_end());
        }
    }
}

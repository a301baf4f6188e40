//! Frames as one run of bytes for one write. Connections that get the same frames get the same run: the one that was made
//! last is kept for the next connection of this thread, so that a burst to a thousand connections is put together once.

use std::{cell::RefCell, collections::VecDeque};

use super::queue::Waiting;
use crate::hub::Frame;

/// The run that was made last, and of what. It keeps those frames alive, so that another frame is never taken for one of them.
#[derive(Default)]
struct Run {
    frames: Vec<Frame>,
    bytes: Vec<u8>,
}

thread_local! {
    static LAST: RefCell<Run> = RefCell::default();
}

/// Lends the first frames that wait as one run, without what is written of the first.
pub(super) fn with_run_of<R>(waiting: &VecDeque<Waiting>, written: usize, use_it: impl FnOnce(&[u8]) -> R) -> R {
    let mut frames = waiting.iter().map(|waiting| &waiting.frame);
    let first = frames.next().expect("something waits");
    if waiting.len() == 1 || first.len() - written >= RUN_BYTES {
        return use_it(&first.wire()[written..]);
    }
    LAST.with_borrow_mut(|last| {
        if !last.is_of(waiting) {
            last.make_of(waiting);
        }
        use_it(&last.bytes[written..])
    })
}

impl Run {
    /// Whether it is what would be made now.
    fn is_of(&self, waiting: &VecDeque<Waiting>) -> bool {
        let whole =
            self.frames.len() == waiting.len() || (self.frames.len() < waiting.len() && self.bytes.len() >= RUN_BYTES);
        whole && self.frames.iter().zip(waiting).all(|(frame, waiting)| frame.is(&waiting.frame))
    }

    fn make_of(&mut self, waiting: &VecDeque<Waiting>) {
        self.frames.clear();
        self.bytes.clear();
        if self.bytes.capacity() > KEPT_BYTES {
            self.bytes = Vec::new();
        }
        for Waiting { frame, .. } in waiting {
            self.frames.push(frame.clone());
            self.bytes.extend_from_slice(frame.wire());
            if self.bytes.len() >= RUN_BYTES {
                break;
            }
        }
    }
}

/// A run is no longer than this and one frame: about what a socket's buffer takes at once.
const RUN_BYTES: usize = 64 * 1024;
/// Memory that a thread keeps for its next run.
const KEPT_BYTES: usize = 4 * RUN_BYTES;

//! Frames as one run of bytes for one write. Connections that get the same frames get the same run: the one that was made
//! last is kept for the next connection of this thread, so that a burst to a thousand connections is put together once.

use std::cell::RefCell;

use countersign_ws::deflate::Agreed;

use super::frames::{Frames, Waiting};
use crate::hub::Frame;

/// The run that was made last, and of what. It keeps those frames alive, so that another frame is never taken for one of them.
#[derive(Default)]
struct Run {
    frames: Vec<Frame>,
    /// In what form.
    compression: Option<Agreed>,
    bytes: Vec<u8>,
}

thread_local! {
    static LAST: RefCell<Run> = RefCell::default();
}

/// Lends the first frames that wait as one run, without what is written of the first.
pub(super) fn with_run_of<R>(
    waiting: &Frames,
    compression: Option<Agreed>,
    written: usize,
    use_it: impl FnOnce(&[u8]) -> R,
) -> R {
    let first = waiting.front().expect("something waits").frame.wire(compression);
    if waiting.len() == 1 || first.len() - written >= RUN_BYTES {
        return use_it(&first[written..]);
    }
    LAST.with_borrow_mut(|last| {
        if last.compression != compression || !last.is_of(waiting) {
            last.make_of(waiting, compression);
        }
        use_it(&last.bytes[written..])
    })
}

impl Run {
    /// Whether it is what would be made now.
    fn is_of(&self, waiting: &Frames) -> bool {
        let whole =
            self.frames.len() == waiting.len() || (self.frames.len() < waiting.len() && self.bytes.len() >= RUN_BYTES);
        whole && self.frames.iter().zip(waiting.iter()).all(|(frame, waiting)| frame.is(&waiting.frame))
    }

    fn make_of(&mut self, waiting: &Frames, compression: Option<Agreed>) {
        self.compression = compression;
        self.frames.clear();
        self.bytes.clear();
        if self.bytes.capacity() > KEPT_BYTES {
            self.bytes = Vec::new();
        }
        for Waiting { frame, .. } in waiting.iter() {
            self.frames.push(frame.clone());
            self.bytes.extend_from_slice(frame.wire(compression));
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

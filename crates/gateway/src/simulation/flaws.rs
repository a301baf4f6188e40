//! Mistakes that can be made on purpose, to see that the simulation finds them. Each is one line where the work is done, compiled
//! for tests only; or a client that is told something else than it was sent.

use std::cell::Cell;

thread_local! {
    static FLAW: Cell<Option<Flaw>> = const { Cell::new(None) };
}

/// A mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// A read does not wait until the subscription is confirmed.
    ReadsBeforeSubscribed,
    /// What is heard while a member joins is thrown away.
    JoinsDeaf,
    /// A member does not remember what it was told from what was read.
    ForgetsTold,
    /// A number that was not heard is no hole.
    IgnoresHoles,
    /// The hub does not hold back what follows an interruption.
    IgnoresInterruptions,
    /// What is held back behind a hole is thrown away when that is filled.
    ForgetsHeld,
    /// Messages that a slow reader misses are not told.
    DropsSilently,
    /// The outbox takes whatever comes.
    NoLimits,
    /// The last one who leaves does not close the room.
    KeepsRooms,
    /// A message that arrived is not looked at.
    ClientLoses,
    /// A message that arrived is looked at twice.
    ClientRepeats,
    /// A message that arrived is looked at after the next one.
    ClientSwaps,
    /// A message arrives at another client.
    ClientMishears,
}

impl Flaw {
    /// Whether this mistake is made on this thread.
    pub(crate) fn is_made(self) -> bool {
        FLAW.get() == Some(self)
    }

    /// Makes a mistake on this thread, or none.
    pub(super) fn make(flaw: Option<Self>) {
        FLAW.set(flaw);
    }
}

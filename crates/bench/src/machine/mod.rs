//! The machine under the run: its clock (`clock`), what processes use of it (`process`, `observer`), what others use of it
//! meanwhile (`others`), what a bare round trip takes (`probe`), servers that are started on it (`start`, together as a `stage`), and the command that does so
//! (`local`).

pub(crate) mod clock;
pub(crate) mod local;
pub(crate) mod observer;
pub(crate) mod others;
pub(crate) mod probe;
pub(crate) mod process;
pub(crate) mod stage;
pub(crate) mod start;

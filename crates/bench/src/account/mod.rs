//! What arrived and what it says: numbered messages (`message`), what fills them (`content`), who should have heard what (`ledger`), how long it took
//! (`meter`), and what is printed of it (`report`).

pub(crate) mod content;
pub(crate) mod ledger;
pub(crate) mod message;
pub(crate) mod meter;
pub(crate) mod report;

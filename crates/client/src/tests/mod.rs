//! The async skins against a scripted gateway. The machines have their tests beside them.

mod connection;
mod fake;
mod producer;

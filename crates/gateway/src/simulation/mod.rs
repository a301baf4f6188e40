//! The delivery of several nodes over one shared backplane, simulated from a seed: real nodes, hubs, relays, connections and
//! outboxes; a simulated wire, a backplane that answers late or not at all, an ear that hears late, links that break, nodes
//! that die, clients that read slowly, leave, and come back elsewhere with what they last heard. Time is virtual and there is
//! one thread, so one `u64` decides everything that happens, and the same seed is the same story to the letter.
//!
//! Every client keeps an honest account of what it heard and what it was told, and is held against what the backplane has
//! accepted: in order, no repeats, no silent hole, nothing that it did not ask for. When an account does not add up, the test
//! ends with the seed and the last events; `SEED=… cargo test -p countersign-gateway simulation` tells the same story again,
//! and `SIMULATION_SEEDS=100000` tells more of them.
//!
//! - `plan`: what a seed decides beforehand.
//! - `chronicle`: what has happened, and what the backplane has accepted.
//! - `wire`: a socket without a network.
//! - `far`: the backplane as a node reaches it, and the ear with which it hears.
//! - `account`: what one client knows of one address.
//! - `client`: a client, which answers for its accounts.
//! - `story`: one run, step by step.
//! - `ending`: how it ends, and whether it adds up.
//! - `flaws`: mistakes that can be made on purpose, to see that they are found.

mod account;
mod chronicle;
mod client;
mod ending;
mod far;
mod flaws;
mod plan;
mod story;
mod tests;
mod wire;

pub(crate) use flaws::Flaw;
pub(crate) use wire::ServerEnd;

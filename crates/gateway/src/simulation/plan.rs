//! What a seed decides beforehand: how many take part, how large things are, and what goes wrong how often.

use std::time::Duration;

use countersign_protocol::NodeId;

use crate::config::{Config, HistoryOverrides, HistorySizes, SlowConsumer};

/// See the module. Chances are of a thousand; times are milliseconds.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) nodes: usize,
    pub(super) clients: usize,
    pub(super) users: usize,
    pub(super) topics: usize,
    pub(super) steps: usize,
    /// The longest pause between two steps.
    pub(super) pause: u64,
    /// The longest that a command or its reply takes.
    pub(super) latency: u64,
    /// The longest that a message takes to a node, beyond what it takes to all.
    pub(super) lag: u64,
    pub(super) lost_commands: u32,
    pub(super) lost_replies: u32,
    pub(super) shaken: u32,
    /// Links, nodes.
    pub(super) faults: u32,
    /// Clients that are slow, of a thousand.
    pub(super) slow: u32,
    /// Bytes that a kernel holds for its client.
    pub(super) kernel: usize,
    /// The longest message, about.
    pub(super) longest: usize,
    /// Whether something is published to addresses with history that is not kept there.
    pub(super) bare: bool,
    pub(super) history: usize,
    pub(super) history_ttl: Duration,
    /// Whether a numbering ends soon after its history. Somebody who heard nothing yet cannot know that one has come and gone.
    pub(super) forgets: bool,
    /// Whether the backplane may come back from an older copy of itself, in which a numbering may have not begun yet.
    pub(super) recalls: bool,
    pub(super) outbox_bytes: usize,
    pub(super) outbox_frames: usize,
    pub(super) drops: bool,
}

impl Plan {
    pub(super) fn new(chance: &mut fastrand::Rng) -> Self {
        let often = |chance: &mut fastrand::Rng, one_in: u32, most: u32| {
            if chance.u32(..one_in) == 0 { chance.u32(1..=most) } else { 0 }
        };
        let drops = chance.u8(..3) == 0;
        let ttl = [500, 5000, 300_000][chance.usize(..3)];
        Self {
            nodes: chance.usize(1..=3),
            clients: chance.usize(1..=6),
            users: chance.usize(1..=3),
            topics: chance.usize(1..=4),
            steps: chance.usize(60..=220),
            pause: [0, 3, 30, 200][chance.usize(..4)],
            latency: [0, 1, 10, 60][chance.usize(..4)],
            lag: [0, 0, 5, 50][chance.usize(..4)],
            lost_commands: often(chance, 3, 200),
            lost_replies: often(chance, 3, 200),
            // The last message of a numbering that has ended is not missed by anybody who hears the next one from its beginning.
            shaken: if ttl > 100_000 { often(chance, 2, 150) } else { 0 },
            faults: often(chance, 2, 120) + chance.u32(..20),
            slow: [0, 300, 900][chance.usize(..3)],
            kernel: [200, 1000, 100_000][chance.usize(..3)],
            longest: [10, 300, 1500][chance.usize(..3)],
            bare: !drops && chance.bool(),
            history: [1, 4, 20, 100][chance.usize(..4)],
            history_ttl: Duration::from_millis(ttl),
            forgets: chance.bool(),
            recalls: chance.bool(),
            outbox_bytes: [600, 4000, 1 << 20][chance.usize(..3)],
            outbox_frames: [3, 20, 10_000][chance.usize(..3)],
            drops,
        }
    }

    /// The same without anything that goes wrong.
    pub(super) fn quiet(self) -> Self {
        Self {
            lost_commands: 0,
            lost_replies: 0,
            shaken: 0,
            faults: 0,
            slow: 0,
            kernel: 1 << 20,
            outbox_bytes: 1 << 20,
            outbox_frames: 10_000,
            history: 10_000,
            history_ttl: Duration::from_secs(300),
            forgets: false,
            latency: self.latency.min(10),
            lag: self.lag.min(5),
            ..self
        }
    }

    /// The configuration of its nodes.
    pub(super) fn config(&self, node: &str) -> Config {
        Config {
            node_id: NodeId::parse(node).expect("a name"),
            outbox_bytes: self.outbox_bytes,
            outbox_frames: self.outbox_frames,
            slow_consumer: if self.drops { SlowConsumer::Drop } else { SlowConsumer::Close },
            history: HistorySizes {
                default: self.history,
                overrides: HistoryOverrides(vec![("bare".to_owned(), 0), ("user:bare".to_owned(), 0)]),
            },
            history_ttl: self.history_ttl,
            ping_interval: Duration::from_secs(5),
            ping_timeout: Duration::from_secs(2),
            shards: 1,
            ..Config::default()
        }
    }
}

/// Whether history is kept of an address: see [`Plan::config`].
pub(super) fn keeps_history(topic: &str) -> bool {
    !topic.contains("bare")
}

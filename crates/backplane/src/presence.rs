//! Who is in a topic. Members are users: once each, however many connections they have on however many nodes. A node holds
//! its users' places as leases, which it renews; what a dead node held ends by itself. Whoever touches a topic gives up what
//! has expired there, so `joined` and `left` are told on [`crate::Channel::Presence`] exactly when a user's first place is
//! taken and the last one is gone, by whoever's step that was.

use std::time::Duration;

use async_trait::async_trait;
use countersign_protocol::{TopicName, UserId};

use crate::Result;

/// What one node's places in one topic are to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Where.
    pub topic: TopicName,
    /// Users for whom a place is taken, or renewed.
    pub hold: Vec<UserId>,
    /// Users whose place is given up.
    pub let_go: Vec<UserId>,
}

/// What a step told on the topic's channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Told {
    /// Users who were not there before.
    pub joined: u64,
    /// Users who are there no more.
    pub left: u64,
}

/// Who is in a topic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Members {
    /// Sorted; not all, when there are more than were asked for.
    pub users: Vec<UserId>,
    /// How many there are.
    pub count: u64,
}

/// Presence.
#[async_trait]
pub trait Presence: Send + Sync {
    /// Takes, renews and gives up places of this node, and gives up what has expired in these topics, whosever it was (so
    /// naming a topic without users looks after it). Each topic is one atomic step with a result of its own; a repeat is
    /// harmless. A place that is not renewed ends after `lease`.
    async fn hold_places(&self, places: Vec<Places>, lease: Duration) -> Vec<Result<Told>>;

    /// Who is in a topic now, at most `most` of them by name. What has expired is given up first.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn members(&self, topic: &TopicName, most: usize) -> Result<Members>;
}

/// The event of a change, as JSON.
pub(crate) fn event(word: &str, topic: &TopicName, user: &UserId, at: f64) -> String {
    use countersign_protocol::payload::JsonText;
    let (topic, user) = (JsonText(topic.as_str()), JsonText(user.as_str()));
    format!(r#"{{"type":"{word}","topic":{topic},"user_id":{user},"timestamp":{at:.3}}}"#)
}

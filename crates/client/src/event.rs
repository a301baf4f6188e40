//! What a connection hears, as types. A message is the object that its producer published; the gateway's own words
//! are told from it by `_meta`, which the gateway writes into messages and which a producer can neither forge nor take
//! away. So nothing that is published on a topic can pass for a question, a reply or a decision.

use std::time::Duration;

use countersign_protocol::{Address, ByKind, CallbackId, Decision, Position, Status, TaskId, TopicName, UserId};
use serde::Deserialize;
use serde_json::{Map, Value};

/// What happened. More may be added: match with a last arm for what you do not know.
///
/// ```
/// use countersign_client::Event;
///
/// fn shown(event: &Event) -> String {
///     match event {
///         Event::Callback(callback) => format!("{}: {} (yes/no)", callback.task_id, callback.message),
///         Event::CallbackResolved(ended) => format!("{} is settled", ended.callback_id),
///         Event::Message(message) => message.body["text"].to_string(),
///         _ => String::new(),
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// There is a connection, the first or a new one.
    Connected(Connected),
    /// The connection is gone; the next attempt comes by itself.
    Disconnected {
        /// The close code, when there was one.
        code: Option<u16>,
        /// In words.
        reason: String,
        /// Until the next attempt.
        retry_in: Duration,
    },
    /// The connection is gone, and coming back is useless: the last event.
    Ended {
        /// The close code, when there was one.
        code: Option<u16>,
        /// In words.
        reason: String,
    },
    /// A question that has not been told of before.
    Callback(Box<Callback>),
    /// The complete list of the user's open callbacks, oldest first. Those that are not in it have been told to be
    /// resolved just before.
    OpenCallbacks(Vec<CallbackId>),
    /// A question that was told of needs no answer any more.
    CallbackResolved(Resolved),
    /// A producer's message.
    Message(Message),
    /// Messages of an address were missed and cannot be filled in: read again what they are about.
    Gap {
        /// Of which address.
        address: Address,
        /// Where it is now, if it keeps history.
        position: Option<Position>,
    },
    /// Who is in a watched topic now; comes after every reconnect, and whenever a change may have been missed.
    Presence(Members),
    /// A user came into a watched topic, on whichever connection first.
    Joined(WhoMoved),
    /// A user left a watched topic, with the last connection.
    Left(WhoMoved),
    /// A task was cancelled, on whichever device.
    TaskCancelled(TaskCancelled),
    /// A task is still executing.
    Heartbeat(Heartbeat),
    /// An action was wrong, and none of those that wait for a reply.
    Error {
        /// For programs.
        code: String,
        /// For people.
        message: String,
    },
    /// Something else that the gateway says, as it came.
    Other(Map<String, Value>),
}

/// The first word of every connection.
///
/// ```
/// # use countersign_client::Event;
/// # fn example(event: Event) {
/// if let Event::Connected(connected) = event {
///     println!("{:?} on node {}", connected.user_id, connected.node_id);
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Connected {
    /// Of this connection.
    pub connection_id: String,
    /// `None` for a guest.
    #[serde(default)]
    pub user_id: Option<UserId>,
    /// The node that holds the connection.
    pub node_id: String,
    /// Seconds between two pings of the gateway.
    pub ping_interval: f64,
}

/// A question to this user.
///
/// ```no_run
/// # use countersign_client::{Callback, Connection};
/// # async fn example(mut connection: Connection, callback: Callback) -> countersign_client::Result<()> {
/// println!("{}: {}", callback.step_name.unwrap_or_default(), callback.message);
/// connection.confirm(callback.callback_id, true, None).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Callback {
    /// By which it is answered.
    pub callback_id: CallbackId,
    /// Whom it asks.
    pub user_id: UserId,
    /// About which task.
    pub task_id: TaskId,
    /// The number or the word of the step.
    #[serde(default)]
    pub step: Value,
    /// Its name.
    #[serde(default)]
    pub step_name: Option<String>,
    /// For people.
    pub message: String,
    /// Whatever the step produced.
    #[serde(default)]
    pub result: Value,
    /// A word of the producer's, such as `completed`.
    pub status: String,
    /// Whether the step came to its end.
    #[serde(default)]
    pub completed: bool,
    /// For programs, when it failed.
    #[serde(default)]
    pub error_code: Option<String>,
    /// For people, when it failed.
    #[serde(default)]
    pub error_message: Option<String>,
    /// The offered answers; `None`: a bare yes or no.
    #[serde(default)]
    pub options: Option<Vec<OfferedOption>>,
    /// The JSON Schema that the answer's `data` has to fit, if one is asked for.
    #[serde(default)]
    pub schema: Option<Value>,
    /// When it times out, in Unix seconds by the gateway's clock.
    pub deadline: f64,
    /// When it was asked, in Unix seconds by the gateway's clock.
    pub timestamp: f64,
}

/// One of the answers that are offered.
///
/// ```
/// fn labels(callback: &countersign_client::Callback) -> Vec<&str> {
///     callback.options.iter().flatten().map(|option| option.label.as_str()).collect()
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct OfferedOption {
    /// What `choice` of the answer has to be.
    pub id: String,
    /// For people.
    pub label: String,
    /// The `proceed` that it stands for, when it says so.
    #[serde(default)]
    pub proceed: Option<bool>,
}

/// A question that needs no answer any more.
///
/// ```
/// fn shown(ended: &countersign_client::Resolved) -> String {
///     format!("{} by {}", ended.callback_id, ended.by.as_deref().unwrap_or("nobody"))
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Which.
    pub callback_id: CallbackId,
    /// How it ended; `None` when it ended while this connection was away.
    pub status: Option<Status>,
    /// Who ended it, where that is known.
    pub by: Option<String>,
    /// What kind of party that is: a user may be called `producer`. `None` where it is not known.
    pub by_kind: Option<ByKind>,
}

impl Resolved {
    /// Of a question that is not open any more when the connection is back.
    pub(crate) fn while_away(callback_id: CallbackId) -> Self {
        Self { callback_id, status: None, by: None, by_kind: None }
    }
}

/// A producer's message.
///
/// ```
/// fn percent(message: &countersign_client::Message) -> Option<u64> {
///     message.body.get("percent")?.as_u64()
/// }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Where it was published.
    pub address: Option<Address>,
    /// Its place in the history of the address, if that keeps one.
    pub position: Option<Position>,
    /// The object, without the fields that the gateway added.
    pub body: Map<String, Value>,
}

/// Who is in a topic.
///
/// ```
/// fn shown(members: &countersign_client::Members) -> String {
///     format!("{} in {}: {:?}", members.count, members.topic.as_str(), members.members)
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Members {
    /// Which.
    #[serde(deserialize_with = "topic")]
    pub topic: TopicName,
    /// Users, sorted by name; at most a thousand of them.
    pub members: Vec<UserId>,
    /// How many there are.
    pub count: u64,
}

/// A user who came into a topic, or left it.
///
/// ```
/// use std::collections::BTreeSet;
/// use countersign_client::{Event, UserId};
///
/// /// Keeps a list of who is there.
/// fn keep(present: &mut BTreeSet<UserId>, event: Event) {
///     match event {
///         Event::Presence(list) => *present = list.members.into_iter().collect(),
///         Event::Joined(who) => drop(present.insert(who.user_id)),
///         Event::Left(who) => drop(present.remove(&who.user_id)),
///         _ => {}
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct WhoMoved {
    /// Where.
    #[serde(deserialize_with = "topic")]
    pub topic: TopicName,
    /// Who.
    pub user_id: UserId,
    /// When, in Unix seconds by the gateway's clock.
    pub timestamp: f64,
}

fn topic<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<TopicName, D::Error> {
    TopicName::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

/// A task was cancelled.
///
/// ```
/// fn shown(cancelled: &countersign_client::TaskCancelled) -> String {
///     format!("{} ({} questions closed)", cancelled.task_id, cancelled.callbacks_closed)
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct TaskCancelled {
    /// Whose.
    pub user_id: UserId,
    /// Which.
    pub task_id: TaskId,
    /// When, in Unix seconds by the gateway's clock.
    pub timestamp: f64,
    /// How many open callbacks this closed.
    #[serde(default)]
    pub callbacks_closed: u64,
}

/// A task is still executing.
///
/// ```
/// fn shown(heartbeat: &countersign_client::Heartbeat) -> String {
///     format!("{}: {}", heartbeat.task_id, heartbeat.message)
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Heartbeat {
    /// Whose task.
    pub user_id: UserId,
    /// Which.
    pub task_id: TaskId,
    /// For people.
    pub message: String,
    /// When, in Unix seconds by the gateway's clock.
    pub timestamp: f64,
}

/// What became of an answer.
///
/// ```
/// use countersign_client::Verdict;
///
/// fn shown(verdict: &Verdict) -> String {
///     match verdict {
///         Verdict::Accepted => "thank you".into(),
///         Verdict::AlreadyResolved(Some(decision)) => format!("{:?} was faster", decision.by),
///         Verdict::AlreadyResolved(None) => "somebody was faster".into(),
///         Verdict::NotFound => "this question is unknown".into(),
///         Verdict::Invalid(why) => format!("not an answer to this question: {why}"),
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It decides.
    Accepted,
    /// Somebody or something else decided before; with what, where the gateway says it.
    AlreadyResolved(Option<Box<Decision>>),
    /// No such callback, or not this user's.
    NotFound,
    /// Not an answer to this question, which is still open.
    Invalid(String),
}

//! The words of Countersign, and nothing that moves: no IO, no clock, no runtime.
//!
//! A tour, one sentence a file:
//! - [`ids`]: newtypes for every name that crosses a boundary, each with one parser that says what it expected.
//! - [`address`]: where a message goes: `broadcast`, `user:<id>` or `topic:<name>`.
//! - [`position`]: `{epoch, offset}` of a message within the history of its address.
//! - [`payload`]: bytes that are known to be one JSON object, and the splice that adds routing facts to them.
//! - [`json`]: whether bytes are one JSON object, without reading it into anything, and what every reader can read of it.
//! - [`fields`]: reads fields of a JSON object so that every error names the field and what was expected.
//! - [`action`]: what clients say.
//! - [`event`]: what the gateway says to clients.
//! - [`callback`]: statuses, decisions and what a decision is made of.
//! - [`notification`]: the body that opens a callback, and the message that clients see of it.
//! - [`kind`]: whether a payload is a question, the end of one, or something else.
//! - [`question`]: options and schema of a callback: is this answer one that was offered?
//! - [`schema`]: the flat JSON Schema of an answer's data.
//! - [`heartbeat`]: the body that starts a heartbeat, and the message of each beat.
//! - [`receipt`]: what a producer is told of a message that wants to be acknowledged.
//! - [`producer`]: the other bodies of the producers' doors.
//! - [`refusal`]: what a reply list gets for a question that was refused.
//! - [`workflow`]: the update of a workflow, as existing services send it.
//! - [`close`]: WebSocket close codes as advice, in bands.
#![forbid(unsafe_code)]

pub mod action;
pub mod address;
pub mod callback;
pub mod close;
pub mod event;
pub mod fields;
pub mod heartbeat;
pub mod ids;
pub mod json;
pub mod kind;
pub mod notification;
pub mod payload;
pub mod position;
pub mod producer;
pub mod question;
pub mod receipt;
pub mod refusal;
pub mod schema;
pub mod workflow;

pub use action::{Action, ActionError, Answer, Incoming, Sender, Subscription};
pub use address::{Address, AddressError};
pub use callback::{ByKind, Decision, OnTimeout, Resolution, Status};
pub use event::{Event, Reply};
pub use fields::FieldError;
pub use ids::{
    CallbackId, ConnectionId, IdempotencyKey, MessageId, NodeId, Partition, ReplyName, TaskId, TopicName, UserId,
};
pub use kind::Kind;
pub use notification::Notification;
pub use payload::Payload;
pub use position::Position;
pub use refusal::Refusal;

//! Short ways to say what the tests say often.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use countersign_backplane::{
    Callback, Channel, HistoryPolicy, Publication,
    callbacks::{Answerer, Confirm, Confirmed, OpenCallback, Withdrawn},
};
use countersign_protocol::{
    Address, Answer, CallbackId, Decision, IdempotencyKey, OnTimeout, Partition, Payload, Resolution, Status, TaskId,
    TopicName, UserId, payload::JsonText,
};
use serde_json::Value;

/// A timeout that no test lives to see.
pub(crate) const FAR: Duration = Duration::from_secs(600);
/// Some history.
pub(crate) const TEN: HistoryPolicy = HistoryPolicy { size: 10, ttl: Duration::from_secs(60) };

/// Names that have a meaning of their own in channels, keys, patterns or hash tags of some implementation.
pub(crate) fn odd_names() -> Vec<String> {
    let mut names: Vec<String> = [
        "plain",
        "a{b}",
        "b",
        "{b}",
        "{",
        "}",
        "}{",
        "{}",
        "*",
        "a*",
        "?",
        "[a]",
        "x:y",
        "x",
        ":",
        "::",
        "a:b:c",
        "%41",
        "A",
        "a",
        "%",
        "%25",
        "%%",
        "two words",
        " ",
        "ünï☃𝄞",
        "\u{e9}",
        "e\u{301}",
        "|",
        "a|b",
        "'",
        "\"",
        "\\",
        "$1",
        "\\u0041",
        "task:1",
        "p00",
        "{p00}",
        "nil",
        "null",
        "0",
        "-1",
        "a\u{2028}b",
    ]
    .map(str::to_owned)
    .to_vec();
    names.extend(["x".repeat(256), "☃".repeat(85)]);
    names
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

pub(crate) fn task(name: &str) -> TaskId {
    TaskId::parse(name).unwrap()
}

pub(crate) fn key(name: &str) -> IdempotencyKey {
    IdempotencyKey::parse(name).unwrap()
}

pub(crate) fn topic(name: &str) -> Address {
    Address::Topic(TopicName::parse(name).unwrap())
}

pub(crate) fn topic_channel(name: &str) -> Channel {
    Channel::from(&topic(name))
}

pub(crate) fn user_channel(name: &str) -> Channel {
    Channel::User(user(name))
}

/// `{"n":…}`.
pub(crate) fn message(n: usize) -> Payload {
    Payload::parse(Bytes::from(format!("{{\"n\":{n}}}"))).unwrap()
}

/// The `n` of a [`message`].
pub(crate) fn number(payload: &Payload) -> u64 {
    let value: Value = serde_json::from_slice(payload.bytes()).unwrap();
    value["n"].as_u64().expect("a numbered message")
}

/// A message without history and key.
pub(crate) fn bare(address: Address, n: usize) -> Publication {
    Publication { address, message: message(n), history: HistoryPolicy::NONE, key: None }
}

/// A message with history.
pub(crate) fn kept(address: Address, n: usize) -> Publication {
    Publication { history: TEN, ..bare(address, n) }
}

/// An id that no other callback of this process has.
pub(crate) fn fresh_id(user_name: &str) -> CallbackId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    CallbackId::new(Partition::of(&user(user_name)), u128::from(NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// A plain question with a far deadline.
pub(crate) fn ask(user_name: &str, task_name: &str) -> OpenCallback {
    let id = fresh_id(user_name);
    OpenCallback {
        id,
        user: user(user_name),
        task: task(task_name),
        message_head: head(id, user_name),
        timeout: FAR,
        on_timeout: OnTimeout::Proceed,
        plain: true,
        key: None,
        reply_to: None,
    }
}

/// The beginning of a question's message.
pub(crate) fn head(id: CallbackId, user_name: &str) -> String {
    format!(r#"{{"type":"task_step_result","callback_id":"{id}","user_id":{},"result":[]"#, JsonText(user_name))
}

/// A key whose body has this digest.
pub(crate) fn keyed(open: OpenCallback, name: &str, digest: &str) -> OpenCallback {
    OpenCallback { key: Some((key(name), digest.to_owned())), ..open }
}

/// A question that times out soon.
pub(crate) fn soon(open: OpenCallback, timeout: Duration) -> OpenCallback {
    OpenCallback { timeout, ..open }
}

/// A user's answer without more.
pub(crate) fn answer(id: CallbackId, user_name: &str, proceed: bool) -> Confirm {
    let answer = Answer { proceed: Some(proceed), ..Answer::default() };
    Confirm {
        id,
        by: Answerer::User(user(user_name)),
        answer,
        proceed,
        judged: false,
        must_be_judged: false,
        connection: None,
    }
}

/// The same with the client's own name.
pub(crate) fn named(confirm: Confirm, answer_id: &str) -> Confirm {
    Confirm { answer: Answer { answer_id: Some(answer_id.to_owned()), ..confirm.answer }, ..confirm }
}

pub(crate) fn by_guest(confirm: Confirm) -> Confirm {
    Confirm { by: Answerer::Guest, ..confirm }
}

pub(crate) fn accepted(confirmed: Confirmed) -> Decision {
    match confirmed {
        Confirmed::Accepted(decision) => decision,
        other => panic!("expected an accepted answer, got {other:?}"),
    }
}

pub(crate) fn already(confirmed: Confirmed) -> Decision {
    match confirmed {
        Confirmed::AlreadyResolved(decision) => decision,
        other => panic!("expected to come too late, got {other:?}"),
    }
}

pub(crate) fn closed(withdrawn: Withdrawn) -> Decision {
    match withdrawn {
        Withdrawn::Closed(decision) => decision,
        other => panic!("expected a withdrawal, got {other:?}"),
    }
}

/// The decision of a callback that has ended.
pub(crate) fn decided(callback: Option<Callback>) -> Decision {
    callback.expect("the record is kept").decision.expect("it has ended")
}

/// Asserts how and by whom it ended.
#[track_caller]
pub(crate) fn assert_ended(decision: &Decision, status: Status, by: Option<&str>) {
    let (resolution, proceed) = match status {
        Status::Confirmed => (Resolution::User, Some(Some(true))),
        Status::Declined => (Resolution::User, Some(Some(false))),
        Status::Cancelled => (Resolution::Cancelled, Some(Some(false))),
        Status::TimedOut => (Resolution::Timeout, None),
        Status::Pending => panic!("a decision is never pending"),
    };
    assert_eq!((decision.status, decision.resolution), (status, resolution), "{decision:?}");
    assert_eq!(decision.by.as_deref(), by, "{decision:?}");
    assert_eq!(decision.proceed, proceed.unwrap_or(decision.proceed), "{decision:?}");
}

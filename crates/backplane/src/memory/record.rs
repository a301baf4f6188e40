//! One callback as it is stored, and what a decision is made of. Plain data without clock or index.

use std::time::Duration;

use countersign_protocol::{
    Answer, ByKind, CallbackId, Decision, IdempotencyKey, NodeId, OnTimeout, Payload, Resolution, Status, TaskId,
    UserId,
};

use super::clock::seconds;
use crate::{
    Callback,
    callbacks::{AnsweredVia, Answerer, Canceller, Trail},
};

/// A callback as it is stored.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) user: UserId,
    pub(super) task: TaskId,
    pub(super) message: Payload,
    pub(super) asked_ms: u64,
    pub(super) deadline_ms: u64,
    pub(super) on_timeout: OnTimeout,
    pub(super) plain: bool,
    pub(super) key: Option<IdempotencyKey>,
    /// Its place in the order of asking.
    pub(super) turn: u64,
    pub(super) end: Option<End>,
    pub(super) asked_via: NodeId,
    pub(super) delivered_ms: Option<u64>,
}

/// How a callback ended.
#[derive(Debug)]
pub(super) struct End {
    pub(super) decision: Decision,
    /// The winner's name of the answer.
    pub(super) answer_id: Option<String>,
    pub(super) via: Option<AnsweredVia>,
}

impl Record {
    /// What others may see of it.
    pub(super) fn callback(&self, id: CallbackId, now: u64) -> Callback {
        Callback {
            id,
            user: self.user.clone(),
            task: self.task.clone(),
            message: self.message.clone(),
            asked_at: seconds(self.asked_ms),
            deadline: seconds(self.deadline_ms),
            remaining: Duration::from_millis(self.deadline_ms.saturating_sub(now)),
            decision: self.end.as_ref().map(|end| end.decision.clone()),
            trail: Trail {
                asked_via: self.asked_via.clone(),
                first_delivered_at: self.delivered_ms.map(seconds),
                answered_via: self.end.as_ref().and_then(|end| end.via.clone()),
            },
        }
    }

    /// Whether nobody has decided and the deadline has come.
    pub(super) fn is_due(&self, now: u64) -> bool {
        self.end.is_none() && self.deadline_ms <= now
    }
}

impl End {
    /// By the deadline.
    pub(super) fn timed_out(id: CallbackId, now: u64, on_timeout: OnTimeout) -> Self {
        let decision = decision(id, now, Status::TimedOut, on_timeout.proceed(), Resolution::Timeout, None);
        Self { decision, answer_id: None, via: None }
    }

    /// By a cancellation.
    pub(super) fn cancelled(id: CallbackId, now: u64, by: &Canceller) -> Self {
        let by = Some((by.as_str(), by.kind()));
        let decision = decision(id, now, Status::Cancelled, Some(false), Resolution::Cancelled, by);
        Self { decision, answer_id: None, via: None }
    }

    /// By a person.
    pub(super) fn answered(
        id: CallbackId,
        now: u64,
        by: &Answerer,
        answer: Answer,
        proceed: bool,
        via: AnsweredVia,
    ) -> Self {
        let status = if proceed { Status::Confirmed } else { Status::Declined };
        let decision = Decision {
            feedback: answer.feedback,
            choice: answer.choice,
            data: answer.data,
            ..decision(id, now, status, Some(proceed), Resolution::User, Some((by.as_str(), by.kind())))
        };
        Self { decision, answer_id: answer.answer_id, via: Some(via) }
    }

    /// Whether an answer is the one that decided, sent again.
    pub(super) fn is_repeated_by(&self, by: &Answerer, answer: &Answer, proceed: Option<bool>) -> bool {
        let Decision { feedback, choice, data, .. } = &self.decision;
        self.decision.resolution == Resolution::User
            && proceed.is_none_or(|proceed| self.decision.proceed == Some(proceed))
            && (feedback, choice, data) == (&answer.feedback, &answer.choice, &answer.data)
            && (self.decision.by.as_deref(), self.decision.by_kind) == (Some(by.as_str()), Some(by.kind()))
            && self.answer_id.is_some()
            && self.answer_id == answer.answer_id
    }
}

fn decision(
    id: CallbackId,
    now: u64,
    status: Status,
    proceed: Option<bool>,
    resolution: Resolution,
    by: Option<(&str, ByKind)>,
) -> Decision {
    Decision {
        callback_id: id,
        status,
        proceed,
        feedback: None,
        choice: None,
        data: None,
        resolution,
        by: by.map(|(name, _)| name.to_owned()),
        by_kind: by.map(|(_, kind)| kind),
        at: seconds(now),
    }
}

//! The way from a question to its decision, as a pure machine: it is told what became of the last request and says
//! what the next one is, or the end. Only a decision of the gateway ends it well. A 202, a 503, a cut connection or a
//! proxy's page is never an answer: the first says "wait on with this id", the others "repeat the same request".

use std::time::Duration;

use countersign_protocol::{CallbackId, Decision, IdempotencyKey};

use crate::{
    error::{Error, Problem, Result},
    patience::Patience,
};

/// The next request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// The question itself, with its key.
    Open,
    /// Another wait for a callback that is known.
    Wait(CallbackId),
}

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// 200.
    Decided(Box<Decision>),
    /// 202.
    Pending {
        /// Of which callback.
        callback_id: CallbackId,
        /// From now to its deadline, as far as this clock can tell.
        remaining: Duration,
        /// What the gateway asked for.
        retry_after: Option<Duration>,
    },
    /// 4xx.
    Refused(Box<Problem>),
    /// No answer, or none of the gateway's; it may have acted all the same.
    Unknown {
        /// What the gateway asked for.
        retry_after: Option<Duration>,
        /// For the error, if this was the last attempt.
        why: String,
    },
    /// An answer that no gateway gives.
    Unexpected(String),
}

/// What to do now.
#[derive(Debug)]
pub(crate) enum Next {
    /// Pause, then send.
    Send(Duration, Request),
    /// It is over.
    Done(Result<Decision>),
}

/// One question on its way.
#[derive(Debug)]
pub(crate) struct Asking {
    callback: Option<CallbackId>,
    key: Option<IdempotencyKey>,
    margin: Duration,
    patience: Patience,
}

impl Asking {
    /// A question whose deadline is expected `timeout` after the first request; it is waited for `margin` longer.
    pub(crate) fn new(key: IdempotencyKey, timeout: Duration, margin: Duration, random: fastrand::Rng) -> Self {
        let patience = Patience::until(timeout.saturating_add(margin), random);
        Self { callback: None, key: Some(key), margin, patience }
    }

    /// A callback that was opened before.
    pub(crate) fn resumed(callback: CallbackId, margin: Duration, random: fastrand::Rng) -> Self {
        Self { callback: Some(callback), key: None, margin, patience: Patience::until(margin, random) }
    }

    /// The request to send next; a question that has an id is never put again.
    pub(crate) fn request(&self) -> Request {
        self.callback.map_or(Request::Open, Request::Wait)
    }

    /// `now` is the time since the first request.
    pub(crate) fn heard(&mut self, now: Duration, outcome: Outcome) -> Next {
        match outcome {
            Outcome::Decided(decision) => Next::Done(Ok(*decision)),
            Outcome::Refused(problem) => Next::Done(Err(Error::Refused(problem))),
            Outcome::Unexpected(what) => Next::Done(Err(Error::Unexpected(what))),
            Outcome::Pending { callback_id, remaining, retry_after } => {
                self.callback = Some(callback_id);
                // That it is open now is proof enough to wait for another margin, whatever the two clocks say.
                self.patience.extend(now.saturating_add(remaining).saturating_add(self.margin));
                Next::Send(self.patience.stagger(retry_after), self.request())
            }
            Outcome::Unknown { retry_after, why } => match self.patience.pause(now, retry_after) {
                Some(pause) => Next::Send(pause, self.request()),
                None => Next::Done(Err(Error::Unavailable {
                    callback_id: self.callback,
                    idempotency_key: self.key.clone(),
                    waited: now,
                    last: why,
                })),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_protocol::{Resolution, Status, ids::Partition};

    const TIMEOUT: Duration = Duration::from_secs(60);
    const MARGIN: Duration = Duration::from_secs(10);

    fn id() -> CallbackId {
        CallbackId::new(Partition::from_number(7).unwrap(), 0xAB)
    }

    fn asking() -> Asking {
        let key = IdempotencyKey::parse("k1").unwrap();
        Asking::new(key, TIMEOUT, MARGIN, fastrand::Rng::with_seed(1))
    }

    fn unknown() -> Outcome {
        Outcome::Unknown { retry_after: None, why: "connection refused".to_owned() }
    }

    fn pending(remaining: Duration) -> Outcome {
        Outcome::Pending { callback_id: id(), remaining, retry_after: None }
    }

    fn decision() -> Decision {
        Decision {
            callback_id: id(),
            status: Status::Confirmed,
            proceed: Some(true),
            feedback: None,
            choice: None,
            data: None,
            resolution: Resolution::User,
            by: Some("alice".to_owned()),
            by_kind: None,
            at: 1.0,
        }
    }

    #[track_caller]
    fn sends(next: Next) -> Request {
        match next {
            Next::Send(_, request) => request,
            Next::Done(end) => panic!("it ended with {end:?}"),
        }
    }

    #[test]
    fn what_is_not_known_is_asked_again_with_the_same_request() {
        let mut asking = asking();
        assert_eq!(asking.request(), Request::Open);
        assert_eq!(sends(asking.heard(Duration::ZERO, unknown())), Request::Open);
        assert_eq!(sends(asking.heard(Duration::ZERO, pending(TIMEOUT))), Request::Wait(id()));
        assert_eq!(sends(asking.heard(TIMEOUT, unknown())), Request::Wait(id()));
        assert!(matches!(asking.heard(TIMEOUT, Outcome::Decided(Box::new(decision()))), Next::Done(Ok(_))));
    }

    #[test]
    fn it_gives_up_only_when_deadline_and_margin_have_passed_and_says_how_to_go_on() {
        let mut asking = asking();
        sends(asking.heard(TIMEOUT + MARGIN / 2, unknown()));
        let Next::Done(Err(Error::Unavailable { callback_id, idempotency_key, last, .. })) =
            asking.heard(TIMEOUT + MARGIN, unknown())
        else {
            panic!("it should have given up")
        };
        assert_eq!((callback_id, idempotency_key.unwrap().as_str()), (None, "k1"));
        assert_eq!(last, "connection refused");
    }

    #[test]
    fn a_callback_that_is_still_open_is_waited_for_whatever_the_clocks_say() {
        let mut asking = asking();
        let late = TIMEOUT * 100;
        assert_eq!(sends(asking.heard(late, pending(Duration::ZERO))), Request::Wait(id()));
        sends(asking.heard(late + MARGIN / 2, unknown()));
        assert!(matches!(asking.heard(late + MARGIN, unknown()), Next::Done(Err(Error::Unavailable { .. }))));
    }

    #[test]
    fn a_refusal_ends_it_at_once() {
        let problem = Box::new(Problem { status: 409, ..Problem::default() });
        let Next::Done(Err(Error::Refused(problem))) = asking().heard(Duration::ZERO, Outcome::Refused(problem)) else {
            panic!("a refusal is final")
        };
        assert_eq!(problem.status, 409);
    }
}

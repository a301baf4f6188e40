//! Where the time of a callback goes: from asking until the device has the question, from the device's answer until it is
//! accepted, and from its answer until the producer has the decision. The load generator is on both ends, so one clock
//! tells all three.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use serde::Serialize;

use crate::account::{
    meter::{Latencies, latencies},
    report::Latency,
};

/// Callbacks that may be open at a time, as far as stages are concerned.
const PLACES: usize = 8192;

/// What devices and producers tell each other, in nanoseconds of the run's clock; 0 is never.
#[derive(Debug)]
pub(crate) struct Stages {
    /// By the callback's number.
    asked: Vec<AtomicU64>,
    answered: Vec<AtomicU64>,
    taken: Mutex<[Latencies; 3]>,
}

/// The three stages.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct StagesTaken {
    pub(crate) ask_to_question: Latency,
    pub(crate) answer_to_accepted: Latency,
    pub(crate) answer_to_decision: Latency,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Question = 0,
    Accepted = 1,
    Decision = 2,
}

impl StagesTaken {
    /// Each with its name.
    pub(crate) fn named(&self) -> [(&'static str, &Latency); 3] {
        [
            ("ask → question", &self.ask_to_question),
            ("answer → accepted", &self.answer_to_accepted),
            ("answer → decision", &self.answer_to_decision),
        ]
    }
}

/// What a device has answered and nobody has accepted yet: when, in the order of answering.
pub(crate) type Unaccepted = VecDeque<u64>;

impl Stages {
    pub(crate) fn new() -> Self {
        let places = || (0..PLACES).map(|_| AtomicU64::new(0)).collect();
        Self { asked: places(), answered: places(), taken: Mutex::new([latencies(), latencies(), latencies()]) }
    }

    /// A callback that counts is being asked.
    pub(crate) fn asks(&self, number: u64, now: u64) {
        set(&self.asked, number, now);
        set(&self.answered, number, 0);
    }

    /// A device has heard its question and answers.
    pub(crate) fn answers(&self, number: u64, now: u64, unaccepted: &mut Unaccepted) {
        if let Some(asked) = get(&self.asked, number) {
            self.took(Stage::Question, asked, now);
            set(&self.answered, number, now);
            unaccepted.push_back(now);
        } else {
            unaccepted.push_back(0);
        }
    }

    /// A device was told that its answer is accepted.
    pub(crate) fn accepted(&self, now: u64, unaccepted: &mut Unaccepted) {
        if let Some(answered) = unaccepted.pop_front().filter(|answered| *answered > 0) {
            self.took(Stage::Accepted, answered, now);
        }
    }

    /// A producer has the decision.
    pub(crate) fn decided(&self, number: u64, now: u64) {
        if let Some(answered) = get(&self.answered, number) {
            self.took(Stage::Decision, answered, now);
        }
        set(&self.asked, number, 0);
    }

    pub(crate) fn taken(&self) -> StagesTaken {
        let [question, accepted, decision] = &*self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        StagesTaken {
            ask_to_question: Latency::of(question),
            answer_to_accepted: Latency::of(accepted),
            answer_to_decision: Latency::of(decision),
        }
    }

    fn took(&self, stage: Stage, from: u64, to: u64) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(latencies) = taken.get_mut(stage as usize) {
            latencies.saturating_record(to.saturating_sub(from));
        }
    }
}

/// The number of the callback in the task id of a question, `bench-<number>`.
pub(crate) fn number(question: &[u8]) -> Option<u64> {
    const TASK: &[u8] = br#""task_id":"bench-"#;
    let at = question.windows(TASK.len()).position(|window| window == TASK)? + TASK.len();
    let digits = question.get(at..)?.split(|byte| *byte == b'"').next()?;
    str::from_utf8(digits).ok()?.parse().ok()
}

fn place(places: &[AtomicU64], number: u64) -> Option<&AtomicU64> {
    places.get(usize::try_from(number).ok()? % PLACES)
}

fn set(places: &[AtomicU64], number: u64, now: u64) {
    if let Some(place) = place(places, number) {
        place.store(now, Relaxed);
    }
}

fn get(places: &[AtomicU64], number: u64) -> Option<u64> {
    place(places, number).map(|place| place.load(Relaxed)).filter(|time| *time > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_is_taken_once_and_only_of_callbacks_that_count() {
        let (stages, mut unaccepted) = (Stages::new(), Unaccepted::new());
        // One of the warm-up: nobody said that it counts.
        stages.answers(6, 1_000, &mut unaccepted);
        stages.asks(7, 1_000_000);
        stages.answers(7, 3_000_000, &mut unaccepted);
        stages.accepted(3_500_000, &mut unaccepted);
        stages.accepted(7_000_000, &mut unaccepted);
        stages.decided(7, 8_000_000);
        stages.decided(6, 9_000_000);
        let StagesTaken { ask_to_question, answer_to_accepted, answer_to_decision } = stages.taken();
        let near = |latency: &Latency, ms: f64| latency.count == 1 && (latency.p50 - ms).abs() < 0.02;
        assert!(near(&ask_to_question, 2.0), "{ask_to_question:?}");
        assert!(near(&answer_to_accepted, 4.0), "{answer_to_accepted:?}");
        assert!(near(&answer_to_decision, 5.0), "{answer_to_decision:?}");
    }

    #[test]
    fn a_question_names_its_number() {
        let text = br#"{"type":"task_step_result","callback_id":"07-ab","user_id":"u","task_id":"bench-42","step":1}"#;
        assert_eq!(number(text), Some(42));
        assert_eq!(number(br#"{"type":"task_step_result","task_id":"other"}"#), None);
    }
}

//! Trying again. A step that may be repeated (it has an id or a name of its own) is, until Redis has answered or about
//! three seconds have passed; a step that may not be repeated is tried again only when it is known that nothing was written.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, timeout_at};

use super::failure::CommandError;

/// What came of it.
#[derive(Debug)]
pub(super) struct Tried<T> {
    pub(super) value: T,
    /// Whether an earlier try may have been carried out too.
    pub(super) maybe_before: bool,
}

/// Repeats a step whose repetition is harmless.
pub(super) async fn repeat<T, F, Fut>(step: F) -> Result<Tried<T>, CommandError>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<T, CommandError>>,
{
    attempts(step, CommandError::passes_soon).await
}

/// Repeats a step only as long as it is known that nothing was written.
pub(super) async fn repeat_unwritten<T, F, Fut>(step: F) -> Result<T, CommandError>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<T, CommandError>>,
{
    attempts(step, |error| error.passes_soon() && error.unwritten).await.map(|tried| tried.value)
}

async fn attempts<T, F, Fut>(step: F, again: impl Fn(&CommandError) -> bool) -> Result<Tried<T>, CommandError>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<T, CommandError>>,
{
    let end = Instant::now() + PATIENCE;
    let mut maybe_before = false;
    let mut last = None;
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match timeout_at(end, step()).await {
            Ok(Ok(value)) => return Ok(Tried { value, maybe_before }),
            Ok(Err(error)) => error,
            Err(_) => return Err(CommandError::no_answer(PATIENCE, last.as_ref())),
        };
        maybe_before |= !error.unwritten;
        if !again(&error) || Instant::now() + pause >= end {
            return Err(error);
        }
        last = Some(error);
        tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// How long one call may take in all: well under what a caller waits, long enough for a restart of Redis in good order.
const PATIENCE: Duration = Duration::from_secs(3);
const FIRST_PAUSE: Duration = Duration::from_millis(40);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);

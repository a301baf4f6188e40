//! Waiting for a condition. The pause between two looks at it is the only sleep of the test suite.

use std::panic::Location;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

/// How long a test waits for something that takes milliseconds on an idle machine. Generous, because it
/// is only ever spent by a test that is about to fail.
pub const PATIENCE: Duration = Duration::from_secs(15);

const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// Looks until `look` returns `Some`, and panics with `what` when `deadline` passes first.
///
/// A look that does not come back counts against the deadline too.
#[track_caller]
pub fn eventually<T, Look, Looking>(deadline: Duration, what: &str, mut look: Look) -> impl Future<Output = T>
where
    Look: FnMut() -> Looking,
    Looking: Future<Output = Option<T>>,
{
    let caller = Location::caller();
    let end = Instant::now() + deadline;
    async move {
        loop {
            if let Ok(Some(found)) = timeout_at(end, look()).await {
                return found;
            }
            assert!(Instant::now() < end, "not within {deadline:?}: {what} (awaited at {caller})");
            sleep_until((Instant::now() + BETWEEN_LOOKS).min(end)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_condition_that_comes_true_is_returned() {
        let mut looks = 0;
        let seen = eventually(PATIENCE, "three looks", || {
            looks += 1;
            let now = looks;
            async move { (now == 3).then_some(now) }
        })
        .await;
        assert_eq!(seen, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "a look that hangs")]
    async fn a_look_that_hangs_does_not_outlive_the_deadline() {
        eventually(Duration::from_millis(50), "a look that hangs", std::future::pending::<Option<()>>).await;
    }
}

//! Time that passes on purpose: how long a fault lasts, the moment at which an attempt is aimed, the pause of a caller that
//! repeats. Nothing here waits for anything to happen: that is what [`eventually`](crate::eventually) is for.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::history::{Notebook, now};

/// A fault that is in force lasts this long.
pub async fn fault_lasts(duration: Duration) {
    sleep(duration).await;
}

/// Returns at a moment (Unix seconds) for which an attempt is aimed, as exactly as a timer can.
pub async fn aimed_at(unix_seconds: f64) {
    sleep(Duration::from_secs_f64((unix_seconds - now()).max(0.0))).await;
}

/// What a caller or a person lets pass before trying again what failed at once.
pub(crate) async fn before_repeating() {
    sleep(Duration::from_millis(100)).await;
}

/// What a client lets pass before it comes back, or a producer before its next message is due.
pub(crate) async fn pauses(duration: Duration) {
    sleep(duration).await;
}

/// Writes down how late this machine is when it wakes somebody up: what runs on it cannot be expected to be quicker. Ends
/// when dropped.
#[derive(Debug)]
pub struct Lag(JoinHandle<()>);

impl Lag {
    /// Begins to measure.
    pub fn measured_in(notebook: &Notebook) -> Self {
        let notebook = notebook.clone();
        Self(tokio::spawn(async move {
            loop {
                let due = Instant::now() + Duration::from_millis(20);
                sleep_until(due).await;
                notebook.lagged((Instant::now() - due).as_secs_f64());
            }
        }))
    }
}

impl Drop for Lag {
    fn drop(&mut self) {
        self.0.abort();
    }
}

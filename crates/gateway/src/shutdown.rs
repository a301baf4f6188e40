//! How a node ends: not ready, waits answered, connections told to come back, then gone. Every task that may hold
//! something for a client is tracked, because nothing else waits for an upgraded connection.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFuture},
    task::TaskTracker,
};

/// The phases of a node's end, each entered once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shutdown {
    unready: CancellationToken,
    closed: CancellationToken,
    draining: CancellationToken,
    stopped: CancellationToken,
    /// Over how long connections are told to come back.
    spread: Arc<OnceLock<Duration>>,
    /// Who accepts connections.
    pub(crate) listening: TaskTracker,
    /// Connections and requests.
    pub(crate) serving: TaskTracker,
    /// What works for the node itself.
    pub(crate) background: TaskTracker,
}

impl Shutdown {
    /// Answers 503 to whoever asks whether the node is ready.
    pub(crate) fn begin(&self) {
        self.unready.cancel();
    }

    /// Listens no more, and comes back when nobody can come in: whoever is told to come back would else come here again.
    pub(crate) async fn close(&self) {
        self.unready.cancel();
        self.closed.cancel();
        self.listening.close();
        self.listening.wait().await;
    }

    /// Answers held waits, tells connections to come back, spread over `spread`.
    pub(crate) fn drain(&self, spread: Duration) {
        // The first drain decides.
        self.spread.get_or_init(|| spread);
        self.unready.cancel();
        self.closed.cancel();
        self.draining.cancel();
    }

    /// Ends the node's own tasks.
    pub(crate) fn stop(&self) {
        self.drain(Duration::ZERO);
        self.stopped.cancel();
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.unready.is_cancelled()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    pub(crate) fn spread(&self) -> Duration {
        self.spread.get().copied().unwrap_or_default()
    }

    /// Waits for [`Self::close`].
    pub(crate) fn closed(&self) -> WaitForCancellationFuture<'_> {
        self.closed.cancelled()
    }

    /// Waits for [`Self::drain`].
    pub(crate) fn draining(&self) -> WaitForCancellationFuture<'_> {
        self.draining.cancelled()
    }

    /// Waits for [`Self::stop`].
    pub(crate) fn stopped(&self) -> WaitForCancellationFuture<'_> {
        self.stopped.cancelled()
    }

    /// Waits until everything that serves has ended, at most `limit`; whether it has.
    pub(crate) async fn served(&self, limit: Duration) -> bool {
        self.serving.close();
        tokio::time::timeout(limit, self.serving.wait()).await.is_ok()
    }

    /// Waits until the node's own tasks have ended.
    pub(crate) async fn finished(&self) {
        self.background.close();
        self.background.wait().await;
    }
}

//! The node's proof that it hears: once a second it publishes to its own channel, through the way that every publication
//! takes, and expects to hear it. A subscription that is silently dead is found and made anew, and a node that cannot
//! publish is not ready.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use redis::cmd;
use tokio::{
    sync::watch,
    time::{sleep_until, timeout},
};

use super::{lanes::Lanes, link::LinkState};
use crate::{Listener, Observation};

/// What the subscriber and the prober share.
#[derive(Debug)]
pub(super) struct Probe {
    /// The probe that is under way. Others may come from another process that was given the same node id.
    sent: AtomicU64,
    /// The newest probe of ours that was heard.
    heard: watch::Sender<u64>,
}

impl Probe {
    pub(super) fn new() -> Self {
        Self { sent: AtomicU64::new(0), heard: watch::Sender::new(0) }
    }

    /// For the subscriber: whether what was published to the node's own channel is a probe, which nobody else hears of.
    pub(super) fn hears(&self, payload: &[u8]) -> bool {
        let Some(number) = payload.strip_prefix(START.as_bytes()).and_then(|rest| rest.strip_suffix(b"}")) else {
            return false;
        };
        let sent = self.sent.load(Ordering::Acquire);
        if std::str::from_utf8(number).ok().and_then(|number| number.parse().ok()) == Some(sent) {
            self.heard.send_replace(sent);
        }
        true
    }

    /// Probes, for ever.
    pub(super) async fn run(
        self: Arc<Self>,
        channel: String,
        lanes: Arc<Lanes>,
        link: Arc<LinkState>,
        listener: Arc<dyn Listener>,
    ) {
        let mut ready = link.ready();
        let mut heard = self.heard.subscribe();
        let mut number = fastrand::u64(1..u64::MAX / 2);
        loop {
            number += 1;
            self.sent.store(number, Ordering::Release);
            let session = *ready.borrow_and_update();
            let sent = Instant::now();
            let published = lanes.anywhere(cmd("PUBLISH").arg(&channel).arg(format!("{START}{number}}}"))).await;
            let left = HEARD_WITHIN.saturating_sub(sent.elapsed());
            let echo = timeout(left, heard.wait_for(|heard| *heard == number));
            // Without a session nobody listens: the subscriber is at it.
            if session != 0 {
                let echoed = echo.await.is_ok();
                match published {
                    Ok(_) if echoed => listener.observed(Observation::Probe(sent.elapsed())),
                    Ok(_) => link.fell_silent(session),
                    // No answer, and yet it came through: the next one will tell.
                    Err(_) if echoed => {}
                    Err(error) => link.down(&format!("commands fail: {error}")),
                }
            }
            tokio::select! {
                () = sleep_until((sent + EVERY).into()) => {}
                // A session that has just become ready is proved at once.
                () = async { ready.wait_for(|ready| *ready != session && *ready != 0).await.ok(); } => {}
            }
        }
    }
}

const START: &str = r#"{"type":"probe","n":"#;
const EVERY: Duration = Duration::from_secs(1);
/// Far above a healthy round trip, and as long as a caller's patience with one call.
const HEARD_WITHIN: Duration = Duration::from_secs(3);

//! The node's proof that it hears: once a second it publishes to its own channel, through the way that every publication
//! takes, and expects to hear it. A subscription that is silently dead is found and made anew, and a node that cannot
//! publish is not ready.
//!
//! A probe says something about one session of the subscriber only. When that session ends, the probe is over: its
//! successor is proved at once by a probe of its own.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::cmd;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{failure::CommandError, lanes::Lanes, link::LinkState};
use crate::{Listener, Observation, listener::Failure};

/// What the subscriber and the prober share.
#[derive(Debug)]
pub(super) struct Probe {
    /// The newest probe. Others may come from another process that was given the same node id.
    sent: AtomicU64,
    /// The newest probe of ours that was heard.
    heard: watch::Sender<u64>,
}

/// What was heard on the node's own channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Echo {
    /// A probe that this process sent.
    Own,
    /// A probe of another process with the same node id, or one that is too old.
    Foreign,
}

/// Publishes a probe.
pub(super) trait Publish {
    /// The way that every publication takes.
    fn publish(&self, probe: String) -> impl Future<Output = Result<(), CommandError>> + Send;
}

/// Publishes to one channel.
pub(super) struct OwnChannel {
    pub(super) name: String,
    pub(super) lanes: Arc<Lanes>,
}

impl Publish for OwnChannel {
    async fn publish(&self, probe: String) -> Result<(), CommandError> {
        self.lanes.anywhere(cmd("PUBLISH").arg(&self.name).arg(probe)).await.map(drop)
    }
}

/// What became of a probe that a session could carry.
enum Outcome {
    Heard,
    /// The session ended first: nothing is known.
    Over,
    /// Redis has taken it and the session did not carry it.
    Unheard,
    /// It could not be published for certain.
    Failed(CommandError),
}

impl Probe {
    pub(super) fn new() -> Self {
        Self { sent: AtomicU64::new(0), heard: watch::Sender::new(0) }
    }

    /// For the subscriber: what was published to the node's own channel, if it is a probe. Nobody else hears of probes.
    pub(super) fn hears(&self, payload: &[u8]) -> Option<Echo> {
        let number = payload.strip_prefix(START.as_bytes()).and_then(|rest| rest.strip_suffix(b"}"))?;
        let sent = self.sent.load(Ordering::Acquire);
        let number = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok());
        match number {
            // An earlier one that comes late is a proof, too.
            Some(number) if (sent.saturating_sub(UNDER_WAY)..=sent).contains(&number) => {
                self.heard.send_modify(|heard| *heard = number.max(*heard));
                Some(Echo::Own)
            }
            _ => Some(Echo::Foreign),
        }
    }

    /// Probes until the task is dropped.
    pub(super) async fn run(self: Arc<Self>, way: impl Publish, link: Arc<LinkState>, listener: Arc<dyn Listener>) {
        let mut ready = link.ready();
        let mut heard = self.heard.subscribe();
        let mut number = fastrand::u64(UNDER_WAY..u64::MAX / 2);
        let (mut newest, mut last_heard) = (0, None::<Instant>);
        loop {
            number += 1;
            self.sent.store(number, Ordering::Release);
            let session = *ready.borrow_and_update();
            let sent = Instant::now();
            let published = way.publish(format!("{START}{number}}}")).await;
            // Without a session nobody listens: the subscriber is at it.
            if session != 0 {
                // What was not published for certain is not waited for: the next probe tells sooner.
                let until = if published.is_ok() { sent + HEARD_WITHIN } else { Instant::now() };
                let outcome = tokio::select! {
                    biased;
                    _ = heard.wait_for(|heard| *heard >= number) => Outcome::Heard,
                    _ = ready.wait_for(|ready| *ready != session) => Outcome::Over,
                    () = sleep_until(until) => match published {
                        Ok(()) => Outcome::Unheard,
                        Err(error) => Outcome::Failed(error),
                    },
                };
                let now = *heard.borrow();
                if std::mem::replace(&mut newest, now) != now {
                    last_heard = Some(Instant::now());
                }
                match outcome {
                    Outcome::Heard => listener.observed(Observation::Probe(sent.elapsed())),
                    Outcome::Over => {}
                    Outcome::Unheard => link.fell_silent(session),
                    // A lane may be lost and made again within the patience of one call.
                    Outcome::Failed(_) if last_heard.is_some_and(|at| at.elapsed() < HEARD_WITHIN) => {}
                    // The connection has logged what is missing.
                    Outcome::Failed(error) if error.kind == Failure::Unfit => link.down_as_logged(&error.to_string()),
                    Outcome::Failed(error) => link.down(&format!("commands fail: {error}")),
                }
            }
            tokio::select! {
                () = sleep_until(sent + EVERY) => {}
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
/// More probes than can be on their way at one time.
const UNDER_WAY: u64 = 8;

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use countersign_protocol::FieldError;
    use tokio::{
        sync::mpsc,
        time::{advance, timeout},
    };

    use super::*;
    use crate::{Audience, Channel, Heard, Link, redis::link::Links};

    /// A connection is made, subscribed and proved within milliseconds; what takes longer has waited for something. Far below
    /// the patience with a probe.
    const PROMPTLY: Duration = Duration::from_millis(100);

    struct Deaf;

    #[async_trait]
    impl Listener for Deaf {
        async fn heard(&self, _: Vec<Heard>) {}
        fn refused(&self, _: &Channel, _: &FieldError) {}
        fn interrupted(&self, _: Audience) {}
        fn resumed(&self, _: Audience) {}
        fn observed(&self, _: Observation) {}
    }

    /// A Redis that takes probes, or cannot be reached.
    struct FakeRedis {
        taken: mpsc::Sender<String>,
        reachable: watch::Receiver<bool>,
    }

    impl Publish for FakeRedis {
        async fn publish(&self, probe: String) -> Result<(), CommandError> {
            let mut reachable = self.reachable.clone();
            let found = timeout(Duration::from_secs(1), reachable.wait_for(|reachable| *reachable)).await;
            found.map_err(|_| CommandError::unconnected("it is away"))?.unwrap();
            self.taken.send(probe).await.unwrap();
            Ok(())
        }
    }

    struct Stage {
        probe: Arc<Probe>,
        link: Arc<LinkState>,
        node: watch::Receiver<Link>,
        taken: mpsc::Receiver<String>,
        reachable: watch::Sender<bool>,
    }

    impl Stage {
        /// A node whose other audience is well, and whose first session is ready.
        fn set() -> Self {
            let links = Links::new();
            let other = LinkState::new(Arc::clone(&links), Audience::Person, String::new());
            other.became_ready(1);
            other.heard(1);
            let link = Arc::new(LinkState::new(Arc::clone(&links), Audience::Crowd, String::new()));
            link.became_ready(1);
            let ((sender, taken), reachable) = (mpsc::channel(100), watch::Sender::new(true));
            let probe = Arc::new(Probe::new());
            let redis = FakeRedis { taken: sender, reachable: reachable.subscribe() };
            tokio::spawn(Arc::clone(&probe).run(redis, Arc::clone(&link), Arc::new(Deaf)));
            Self { probe, link, node: links.watch(), taken, reachable }
        }

        /// The next probe comes through to a session.
        async fn echo(&mut self, session: u64) {
            let probe = self.taken.recv().await.unwrap();
            assert_eq!(self.probe.hears(probe.as_bytes()), Some(Echo::Own));
            self.link.heard(session);
        }

        fn is_up(&self) -> bool {
            self.node.borrow().is_up()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_of_a_session_that_has_ended_does_not_hold_up_its_successor() {
        let mut stage = Stage::set();
        stage.echo(1).await;
        assert!(stage.is_up());
        // Taken by Redis, and on its way when the connection is cut.
        stage.taken.recv().await.unwrap();
        stage.link.broke("cut");
        assert!(!stage.is_up());
        stage.link.became_ready(2);
        timeout(PROMPTLY, stage.echo(2)).await.expect("the new session is proved at once");
        assert!(stage.is_up());
    }

    #[tokio::test(start_paused = true)]
    async fn the_session_after_a_silent_one_is_proved_at_once() {
        let mut stage = Stage::set();
        stage.echo(1).await;
        stage.taken.recv().await.unwrap();
        let mut silent = stage.link.silent();
        let fell_silent_after = Instant::now();
        silent.wait_for(|session| *session == 1).await.unwrap();
        assert_eq!(fell_silent_after.elapsed(), HEARD_WITHIN);
        // The subscriber needs a moment to hear of it, in which the next probe goes out to the silent session.
        advance(Duration::from_millis(50)).await;
        while stage.taken.try_recv().is_ok() {}
        stage.link.broke("a probe was not heard");
        stage.link.became_ready(2);
        timeout(PROMPTLY, stage.echo(2)).await.expect("the new session is proved at once");
        assert!(stage.is_up());
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_ready_as_soon_as_its_commands_are_taken_again() {
        let mut stage = Stage::set();
        stage.echo(1).await;
        stage.reachable.send_replace(false);
        let away_since = Instant::now();
        let mut node = stage.node.clone();
        node.wait_for(|link| !link.is_up()).await.unwrap();
        assert!(away_since.elapsed() + EVERY >= HEARD_WITHIN, "a short absence is waited for");
        for away in [Duration::from_millis(300), Duration::from_millis(1200)] {
            advance(away).await;
            tokio::task::yield_now().await;
        }
        stage.reachable.send_replace(true);
        timeout(PROMPTLY, stage.echo(1)).await.expect("nothing is waited for that was never published");
        assert!(stage.is_up());
    }

    #[test]
    fn late_probes_are_a_proof_and_those_of_others_are_not() {
        let probe = Probe::new();
        probe.sent.store(1_000, Ordering::Release);
        let hears = |text: &str| probe.hears(text.as_bytes());
        assert_eq!(hears(r#"{"type":"probe","n":999}"#), Some(Echo::Own));
        assert_eq!(hears(r#"{"type":"probe","n":1000}"#), Some(Echo::Own));
        for foreign in ["1001", "7", "", "999,\"database\":1"] {
            assert_eq!(hears(&format!("{START}{foreign}}}")), Some(Echo::Foreign), "{foreign}");
        }
        assert_eq!(hears(r#"{"type":"close"}"#), None);
        assert_eq!(*probe.heard.borrow(), 1000, "the newest");
    }
}

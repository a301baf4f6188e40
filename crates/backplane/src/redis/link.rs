//! Whether the node can hear the others, itself included: known from two facts, that its subscriber has every wanted
//! channel, and that it has lately heard its own probe. The subscriber says when it is ready and when it broke, the probe
//! says when it is not heard; everybody else watches.

use tokio::sync::watch;

use crate::Link;

/// The state of the link.
#[derive(Debug)]
pub(super) struct LinkState {
    link: watch::Sender<Link>,
    /// The subscriber's session that has every wanted channel; 0 when there is none.
    ready: watch::Sender<u64>,
    /// The last session that did not carry a probe.
    silent: watch::Sender<u64>,
    /// Where Redis is, for logs.
    place: String,
}

impl LinkState {
    pub(super) fn new(place: String) -> Self {
        Self {
            link: watch::Sender::new(Link::Down(NOT_YET.to_owned())),
            ready: watch::Sender::new(0),
            silent: watch::Sender::new(0),
            place,
        }
    }

    /// For everybody.
    pub(super) fn watch(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    /// Which session is ready, and its changes.
    pub(super) fn ready(&self) -> watch::Receiver<u64> {
        self.ready.subscribe()
    }

    /// Which session was silent last, and its changes.
    pub(super) fn silent(&self) -> watch::Receiver<u64> {
        self.silent.subscribe()
    }

    /// The session has every wanted channel. The link is up when it also carries a probe.
    pub(super) fn became_ready(&self, session: u64) {
        self.ready.send_replace(session);
    }

    /// A probe was heard on the session.
    pub(super) fn heard(&self, session: u64) {
        if *self.ready.borrow() == session && self.change(Link::Up) {
            tracing::info!(redis = self.place, "the node hears itself through Redis");
        }
    }

    /// The session ended, or could not begin.
    pub(super) fn broke(&self, reason: &str) {
        self.ready.send_replace(0);
        self.down(reason);
    }

    /// The session did not carry a probe that Redis has taken: it is deaf, and has to be made anew.
    pub(super) fn fell_silent(&self, session: u64) {
        self.down("the node does not hear itself through Redis");
        self.silent.send_replace(session);
    }

    /// Not up, and why. Logged when that is news.
    pub(super) fn down(&self, reason: &str) {
        let before = self.link.borrow().clone();
        if !self.change(Link::Down(reason.to_owned())) {
            return;
        }
        // Reasons may change with every try; that they do is no news.
        if before.is_up() || before == Link::Down(NOT_YET.to_owned()) {
            tracing::warn!(redis = self.place, reason, "not connected to Redis; trying again without end");
        } else {
            tracing::debug!(redis = self.place, reason, "still not connected to Redis");
        }
    }

    fn change(&self, link: Link) -> bool {
        self.link.send_if_modified(|now| {
            let news = *now != link;
            if news {
                *now = link;
            }
            news
        })
    }
}

const NOT_YET: &str = "not connected to Redis yet";

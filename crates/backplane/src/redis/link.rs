//! Whether the node can hear the others, itself included: known from two facts for each audience, that its subscriber has
//! every wanted channel, and that it has lately heard its own probe. The subscriber says when it is ready and when it broke,
//! the probe says when it is not heard; everybody else watches. What the neighbours say may bar a node that hears well.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::{Audience, ByAudience, Link};

/// The link of the node: up when both of its subscribers hear.
#[derive(Debug)]
pub(super) struct Links {
    link: watch::Sender<Link>,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    each: ByAudience<Link>,
    /// Why the node is not to be used although it may hear.
    barred: Option<String>,
}

impl Links {
    pub(super) fn new() -> Arc<Self> {
        let down = || Link::Down(NOT_YET.to_owned());
        let known = Known { each: ByAudience::from_fn(|_| down()), barred: None };
        Arc::new(Self { link: watch::Sender::new(down()), known: Mutex::new(known) })
    }

    /// For everybody.
    pub(super) fn watch(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    /// What is known of one audience now. Whether that is news of the node.
    fn change(&self, audience: Audience, link: Link) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known.each.of_mut(audience) = link;
        self.tell(&known)
    }

    /// Keeps the node from being used, for a reason, or no longer.
    pub(super) fn bar(&self, barred: Option<String>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.barred = barred;
        self.tell(&known);
    }

    /// Under the lock, so that nobody sees an older state last.
    fn tell(&self, known: &Known) -> bool {
        let down = Audience::ALL.into_iter().map(|audience| known.each.of(audience)).find(|link| !link.is_up());
        let whole = match &known.barred {
            Some(reason) => Link::Down(reason.clone()),
            None => down.cloned().unwrap_or(Link::Up),
        };
        self.link.send_if_modified(|now| {
            let news = *now != whole;
            *now = whole;
            news
        })
    }
}

/// The state of the subscriber of one audience.
#[derive(Debug)]
pub(super) struct LinkState {
    links: Arc<Links>,
    audience: Audience,
    /// The subscriber's session that has every wanted channel; 0 when there is none.
    ready: watch::Sender<u64>,
    /// The last session that did not carry a probe.
    silent: watch::Sender<u64>,
    /// Where Redis is, for logs.
    place: String,
}

impl LinkState {
    pub(super) fn new(links: Arc<Links>, audience: Audience, place: String) -> Self {
        Self { links, audience, ready: watch::Sender::new(0), silent: watch::Sender::new(0), place }
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
        if *self.ready.borrow() == session
            && self.links.change(self.audience, Link::Up)
            && self.links.link.borrow().is_up()
        {
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

    /// Not up, for a reason that is in the log already.
    pub(super) fn down_as_logged(&self, reason: &str) {
        self.links.change(self.audience, Link::Down(reason.to_owned()));
    }

    /// Not up, and why. Logged when that is news.
    pub(super) fn down(&self, reason: &str) {
        let before = self.links.link.borrow().clone();
        if !self.links.change(self.audience, Link::Down(reason.to_owned())) {
            return;
        }
        let audience = self.audience.as_str();
        // Reasons may change with every try; that they do is no news.
        if before.is_up() || before == Link::Down(NOT_YET.to_owned()) {
            tracing::warn!(redis = self.place, audience, reason, "not connected to Redis; trying again without end");
        } else {
            tracing::debug!(redis = self.place, audience, reason, "still not connected to Redis");
        }
    }
}

const NOT_YET: &str = "not connected to Redis yet";

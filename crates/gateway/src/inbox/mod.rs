//! Reading the inbox: the durable door of producers in Redis. Every node has one reader, and one reader at a time holds the
//! lease; it takes entries in order, has the node do what they say, and deletes what is done. What cannot be done now stays
//! and comes again, so nothing is lost. Messages are published in the step that deletes their entries, and everything else
//! that an entry does has a name, so nothing that comes again is done twice. What is wrong goes to the dead letters with the
//! reason, which the producer who waits for a reply is told, too, and the next one follows.

mod order;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use countersign_backplane::{
    BackplaneError, Inbox,
    callbacks::Canceller,
    inbox::{InboxEntry, Letter, Progress, Taken},
};
use countersign_protocol::{Refusal, ReplyName};
use tokio::{
    join,
    time::{Instant, sleep, timeout},
};

use self::order::{Errand, Order};
use crate::{error::GatewayError, metrics::Outcome, node::Node, seldom::Seldom};

static WRONG: Seldom = Seldom::new();

/// Reads while this node holds the lease, until it drains. Ends at once when there is no inbox.
pub(crate) async fn read(node: Arc<Node>) {
    if let Some(inbox) = node.backplane.inbox() {
        Reader { node, inbox, state: State::Waits }.run().await;
    }
}

/// What one look brought, read.
struct Steps {
    in_order: VecDeque<Step>,
    stream: String,
    /// The id of the last entry; none when there was no entry.
    last: Option<String>,
    /// When the lease that it renewed is to be renewed.
    until: Instant,
}

/// What one entry wants done.
enum Step {
    Publish(Letter),
    /// Something else, or it is wrong.
    Other(Origin, Result<Errand, GatewayError>),
}

/// Where a step comes from.
struct Origin {
    /// The entry.
    id: String,
    /// Where its producer waits, if it does.
    reply_to: Option<ReplyName>,
}

struct Reader {
    node: Arc<Node>,
    inbox: Arc<dyn Inbox>,
    state: State,
}

/// What the log has said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waits,
    Reads,
    Fails,
}

impl Reader {
    async fn run(mut self) {
        let node = Arc::clone(&self.node);
        while !node.shutdown.is_draining() {
            match self.turn().await {
                // A drain has ended the turn before it was known whether this node has the lease.
                Ok(true) if node.shutdown.is_draining() => {}
                Ok(true) => self.enter(State::Reads, None),
                Ok(false) => {
                    self.enter(State::Waits, None);
                    self.pause(LOOK_FOR_LEASE).await;
                }
                Err(error) => {
                    self.enter(State::Fails, Some(&error));
                    self.pause(AFTER_FAILURE).await;
                }
            }
        }
        // Without it the lease runs out, and the next holder waits for that.
        timeout(RELEASE_WITHIN, self.inbox.release()).await.ok();
    }

    /// Takes the lease, then entries, and does what they say, until there is none. Whether this node has the lease.
    async fn turn(&mut self) -> Result<bool, GatewayError> {
        let taken = tokio::select! {
            biased;
            () = self.node.shutdown.draining() => return Ok(true),
            taken = self.take() => taken?,
        };
        let Some(mut taken) = taken else { return Ok(false) };
        while let Some(last) = taken.last.take() {
            // Redis brings the next ones while these are worked on, and they are read while Redis publishes these.
            let (worked, ahead) = join!(self.work(taken), self.take_after(&last));
            if !worked? {
                break;
            }
            self.enter(State::Reads, None);
            taken = ahead?;
        }
        Ok(true)
    }

    async fn take(&self) -> Result<Option<Steps>, BackplaneError> {
        if !self.inbox.hold().await? {
            return Ok(None);
        }
        Ok(Some(self.read(self.inbox.next(MOST_ENTRIES, self.longest()).await?)))
    }

    async fn take_after(&self, id: &str) -> Result<Steps, BackplaneError> {
        Ok(self.read(self.inbox.after(id, MOST_ENTRIES, self.longest()).await?))
    }

    fn longest(&self) -> usize {
        self.node.config.publish_max_bytes.saturating_add(NAMES)
    }

    fn read(&self, taken: Taken) -> Steps {
        self.node.metrics.inbox_waiting(taken.waiting);
        let last = taken.entries.last().map(|entry| entry.id.clone());
        let in_order = taken.entries.into_iter().map(|entry| self.step(&taken.stream, entry)).collect();
        Steps { in_order, stream: taken.stream, last, until: Instant::now() + RENEW_AFTER }
    }

    fn step(&self, stream: &str, entry: InboxEntry) -> Step {
        let errand = match Order::read(&entry, stream, self.node.config.publish_max_bytes) {
            Ok(Order::Publish(item)) => match self.node.publication(item) {
                Ok(publication) => return Step::Publish(Letter { id: entry.id, publication }),
                Err(error) => Err(error),
            },
            Ok(Order::Other(errand)) => Ok(errand),
            Err(error) => Err(error.into()),
        };
        let reply_to = match &errand {
            Ok(Errand::Notify(notification)) => notification.reply_to.clone(),
            Ok(_) => None,
            Err(_) => order::list_of(&entry),
        };
        Step::Other(Origin { id: entry.id, reply_to }, errand)
    }

    /// In order. A drain ends it between two steps, and so does the loss of the lease; what is left comes again. Whether all is
    /// done.
    async fn work(&self, Steps { mut in_order, stream, until, .. }: Steps) -> Result<bool, GatewayError> {
        let mut renew_at = until;
        while let Some(step) = in_order.pop_front() {
            if self.node.shutdown.is_draining() {
                return Ok(false);
            }
            if Instant::now() >= renew_at {
                if !self.inbox.hold().await? {
                    return Ok(false);
                }
                renew_at = Instant::now() + RENEW_AFTER;
            }
            match step {
                Step::Publish(first) => {
                    // All that are published one after the other are one step of Redis.
                    let mut letters = vec![first];
                    while let Some(Step::Publish(_)) = in_order.front()
                        && let Some(Step::Publish(letter)) = in_order.pop_front()
                    {
                        letters.push(letter);
                    }
                    if !self.publish(&stream, letters).await? {
                        return Ok(false);
                    }
                }
                Step::Other(origin, Ok(errand)) => {
                    let result = self.run_errand(errand).await;
                    self.settle(origin, result).await?;
                }
                Step::Other(origin, Err(error)) => self.settle(origin, Err(error)).await?,
            }
        }
        Ok(true)
    }

    /// All of them, however many steps it takes. Whether they were there to be published.
    async fn publish(&self, stream: &str, letters: Vec<Letter>) -> Result<bool, GatewayError> {
        let mut rest = letters.as_slice();
        while let Some((first, others)) = rest.split_first() {
            match self.inbox.publish(stream, rest).await {
                Ok(Progress::Done(count)) => {
                    self.node.metrics.published(count);
                    self.node.metrics.inbox_entries(Outcome::Done, count);
                    rest = rest.get(count..).unwrap_or_default();
                }
                Ok(Progress::Moved) => return Ok(false),
                Err(error) => {
                    let origin = Origin { id: first.id.clone(), reply_to: None };
                    self.settle(origin, Err(error.into())).await?;
                    rest = others;
                }
            }
        }
        Ok(true)
    }

    async fn run_errand(&self, errand: Errand) -> Result<(), GatewayError> {
        match errand {
            Errand::Notify(notification) => self.node.ask(&notification).await.map(drop),
            Errand::Cancel { user, task } => {
                self.node.cancel(user.as_ref(), &task, &Canceller::Producer).await.map(drop)
            }
            Errand::Heartbeat { task, heartbeat } => self.node.start_heartbeat(&task, &heartbeat).await.map(drop),
        }
    }

    /// Deletes what was done and buries what is wrong; an error is what has to be tried again.
    async fn settle(&self, origin: Origin, result: Result<(), GatewayError>) -> Result<(), GatewayError> {
        let Origin { id, reply_to } = origin;
        match result {
            Ok(()) => {
                self.inbox.done(&[id]).await?;
                self.node.metrics.inbox_entries(Outcome::Done, 1);
            }
            Err(error @ (GatewayError::Unavailable(_) | GatewayError::Unanswered { .. } | GatewayError::Full(_))) => {
                return Err(error);
            }
            Err(error) => {
                let reason = error.to_string();
                // First, because a letter that is buried does not come again.
                if let Some(list) = &reply_to {
                    let field =
                        if let GatewayError::Invalid(wrong) = &error { Some(wrong.field.as_str()) } else { None };
                    let refusal =
                        Refusal { code: error.code(), field, reason: &reason, entry: &id, at: self.node.clock.now() };
                    self.inbox.reply(list, refusal.to_json().as_bytes()).await?;
                }
                self.inbox.bury(&id, &reason).await?;
                self.node.metrics.inbox_entries(Outcome::Dead, 1);
                if let Some(left_out) = WRONG.line() {
                    tracing::warn!(%id, reason, left_out, "an entry of the inbox is wrong and was put to the dead letters");
                }
            }
        }
        Ok(())
    }

    fn enter(&mut self, state: State, error: Option<&GatewayError>) {
        if state != State::Reads {
            self.node.metrics.inbox_waiting(0);
        }
        if state == self.state {
            return;
        }
        match (state, error) {
            (State::Reads, _) => tracing::info!("this node reads the inbox"),
            (State::Waits, _) => tracing::info!("another node reads the inbox"),
            (State::Fails, error) => {
                tracing::warn!(error = error.map(tracing::field::display), "the inbox stands still: trying again");
            }
        }
        self.state = state;
    }

    /// Halved to one and a half by chance, so that nodes do not keep step; a drain ends it.
    async fn pause(&self, pause: Duration) {
        tokio::select! {
            () = self.node.shutdown.draining() => {}
            () = sleep(pause.mul_f64(0.5 + fastrand::f64())) => {}
        }
    }
}

/// Of one look: what Redis publishes in one step, so some milliseconds in which it does nothing else.
const MOST_ENTRIES: usize = 500;
/// What the names in an entry may have beyond its body.
const NAMES: usize = 4096;
/// Between two looks of a node that does not hold the lease: how long the inbox stands still after a drain.
const LOOK_FOR_LEASE: Duration = Duration::from_secs(1);
/// After a failure of the backplane, which has waited itself before it said so.
const AFTER_FAILURE: Duration = Duration::from_millis(500);
/// A step takes some three seconds when Redis is slow, and the lease lasts five.
const RENEW_AFTER: Duration = Duration::from_secs(1);
/// A drain does not wait longer for the lease to be given back.
const RELEASE_WITHIN: Duration = Duration::from_secs(1);

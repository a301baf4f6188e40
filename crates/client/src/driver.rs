//! The task that owns the socket: it carries frames between the gateway and the [`Session`], and comes back after a cut
//! as the close code advises, with full jitter. Everything that it knows is the session's; it ends when the
//! [`Connection`](crate::Connection) is dropped or when coming back is useless.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, OnceLock},
    time::Duration,
};

use countersign_protocol::close;
use futures_util::{SinkExt, StreamExt};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::{
    client::{Client, Failed, Socket, closed, for_now},
    connection::{Action, Asked},
    error::{Error, Result},
    event::Event,
    patience::backoff,
    session::{ActionId, Output, Replied, Session},
};

/// The limit of the first pause before coming back, and of every pause after an orderly goodbye (a drain, a resync).
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The limit that doubling does not pass, for a gateway that is down or full.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A connection that held this long was a good one: the next failure is the first again.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// Before an answer or a subscription goes out again that Redis did not take, doubled each time; a random part of it is added.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// The limit that doubling does not pass: the person who answered waits.
const AGAIN_AT_THE_LATEST: Duration = Duration::from_secs(5);
/// A frame that cannot be sent for so long has no connection.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Added to two ping intervals of the gateway: silence beyond that is a dead connection.
const SILENCE_MARGIN: Duration = Duration::from_secs(10);
/// Until the gateway has told its ping interval.
const DEFAULT_PING_INTERVAL: Duration = Duration::from_secs(30);

pub(crate) struct Driver {
    client: Client,
    session: Session,
    actions: mpsc::Receiver<Asked>,
    events: mpsc::Sender<Event>,
    ended: Arc<OnceLock<String>>,
    waiting: HashMap<ActionId, oneshot::Sender<Result<Replied>>>,
    /// Events that the consumer has no room for; while there are any, nothing is read.
    backlog: VecDeque<Event>,
    /// Actions to send again, and when.
    again: BTreeSet<(Instant, ActionId)>,
    silence: Duration,
}

/// Why a connection is over.
enum Over {
    /// Nobody wants it any more.
    Released,
    Failed(Failed),
}

impl Driver {
    pub(crate) fn new(
        client: Client,
        session: Session,
        actions: mpsc::Receiver<Asked>,
        events: mpsc::Sender<Event>,
        ended: Arc<OnceLock<String>>,
    ) -> Self {
        Self {
            client,
            session,
            actions,
            events,
            ended,
            waiting: HashMap::new(),
            backlog: VecDeque::new(),
            again: BTreeSet::new(),
            silence: DEFAULT_PING_INTERVAL * 2 + SILENCE_MARGIN,
        }
    }

    /// Serves one connection after the other, until it is over for good.
    pub(crate) async fn run(mut self, socket: Socket, welcome: String) {
        let mut next = Ok((socket, welcome));
        let mut failures = 0;
        loop {
            let failed = match next {
                Ok((socket, welcome)) => {
                    let since = Instant::now();
                    let over = self.serve(socket, &welcome).await;
                    let code = match &over {
                        Over::Failed(Failed::ForNow { code, .. } | Failed::ForGood { code, .. }) => *code,
                        Over::Released => None,
                    };
                    // What is still wanted goes out with the greeting.
                    self.again.clear();
                    let outputs = self.session.disconnected(code);
                    self.take(outputs);
                    if since.elapsed() >= STABLE_AFTER {
                        failures = 0;
                    }
                    match over {
                        Over::Released => return,
                        Over::Failed(failed) => failed,
                    }
                }
                Err(failed) => failed,
            };
            let (code, reason) = match failed {
                Failed::ForNow { code, reason } => (code, reason),
                Failed::ForGood { code, reason } => return self.end(code, reason).await,
            };
            let retry_in = pause_limit(code, failures).mul_f64(fastrand::f64());
            failures = failures.saturating_add(1);
            if code == Some(close::RESYNC.code) {
                // Coming back with the same positions would end the same way, for as long as the history lasts.
                let outputs = self.session.forget_positions();
                self.take(outputs);
            }
            self.backlog.push_back(Event::Disconnected { code, reason, retry_in });
            if !self.tell_all().await {
                return;
            }
            tokio::select! {
                () = sleep(retry_in) => {}
                () = self.events.closed() => return,
            }
            next = tokio::select! {
                dialled = self.client.dial(&self.session) => dialled,
                () = self.events.closed() => return,
            };
        }
    }

    async fn serve(&mut self, mut socket: Socket, welcome: &str) -> Over {
        self.hear(welcome);
        for frame in self.session.greeting() {
            if let Err(failed) = send(&mut socket, frame).await {
                return Over::Failed(failed);
            }
        }
        let events = self.events.clone();
        let mut silent_at = Instant::now() + self.silence;
        loop {
            let again_at = self.again.first().map(|(at, _)| *at);
            let frame = tokio::select! {
                () = events.closed() => {
                    // Whether the goodbye arrives does not matter any more.
                    drop(timeout(SEND_TIMEOUT, (*socket).close(None)).await);
                    return Over::Released;
                }
                permit = events.reserve(), if !self.backlog.is_empty() => {
                    if let (Ok(permit), Some(event)) = (permit, self.backlog.pop_front()) {
                        permit.send(event);
                    }
                    // What the consumer held up was not the gateway's silence.
                    silent_at = Instant::now() + self.silence;
                    None
                }
                heard = socket.next(), if self.backlog.is_empty() => {
                    silent_at = Instant::now() + self.silence;
                    match self.receive(heard) {
                        Ok(()) => None,
                        Err(failed) => return Over::Failed(failed),
                    }
                }
                Some(asked) = self.actions.recv() => self.ask(asked),
                () = sleep_until(again_at.unwrap_or(silent_at)), if again_at.is_some() => {
                    self.again.pop_first().and_then(|(_, id)| self.session.repeat(id))
                }
                () = sleep_until(silent_at), if self.backlog.is_empty() => {
                    return Over::Failed(for_now(format!("nothing was heard for {:?}", self.silence)));
                }
            };
            if let Some(frame) = frame
                && let Err(failed) = send(&mut socket, frame).await
            {
                return Over::Failed(failed);
            }
        }
    }

    fn receive(&mut self, heard: Option<tungstenite::Result<Message>>) -> Result<(), Failed> {
        match heard {
            Some(Ok(Message::Text(text))) => self.hear(text.as_str()),
            Some(Ok(Message::Close(Some(frame)))) => return Err(closed(u16::from(frame.code), frame.reason.as_str())),
            Some(Ok(Message::Close(None))) | None => return Err(for_now("closed without a code".to_owned())),
            // The library answers pings itself; that one came is all that matters here.
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(for_now(error.to_string())),
        }
        Ok(())
    }

    fn hear(&mut self, text: &str) {
        let outputs = self.session.receive(text);
        self.take(outputs);
    }

    fn take(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Event(event) => {
                    if let Event::Connected(connected) = &event {
                        let interval = Duration::try_from_secs_f64(connected.ping_interval);
                        self.silence = interval.unwrap_or(DEFAULT_PING_INTERVAL) * 2 + SILENCE_MARGIN;
                    }
                    self.backlog.push_back(event);
                }
                Output::Reply(id, replied) => {
                    if let Some(waiter) = self.waiting.remove(&id) {
                        // Whoever does not wait any more does not need it.
                        drop(waiter.send(replied));
                    }
                }
                Output::Again { id, tries } => {
                    let pause = backoff(tries, AGAIN_AFTER, AGAIN_AT_THE_LATEST).mul_f64(1.0 + fastrand::f64());
                    self.again.insert((Instant::now() + pause, id));
                }
            }
        }
    }

    /// The frame of a new action.
    fn ask(&mut self, Asked { action, reply }: Asked) -> Option<String> {
        let id = match action {
            Action::Ping => self.session.ping(),
            Action::Subscribe { topic, since, watch } => self.session.subscribe(&topic, since, watch),
            Action::Presence(topic) => self.session.presence(&topic),
            Action::Publish(topic, message) => self.session.publish(&topic, &message),
            Action::Unsubscribe(topic) => self.session.unsubscribe(&topic),
            Action::Confirm(callback, fields) => self.session.confirm(callback, fields),
            Action::Cancel(task, user) => self.session.cancel(&task, user.as_ref()),
        };
        self.waiting.insert(id, reply);
        self.session.frame(id).map(str::to_owned)
    }

    async fn end(mut self, code: Option<u16>, reason: String) {
        drop(self.ended.set(reason.clone()));
        for (_, waiter) in self.waiting.drain() {
            // Whoever does not wait any more does not need it.
            drop(waiter.send(Err(Error::Ended(reason.clone()))));
        }
        self.actions.close();
        self.backlog.push_back(Event::Ended { code, reason });
        self.tell_all().await;
    }

    /// Hands over what has piled up; false when nobody wants it any more.
    async fn tell_all(&mut self) -> bool {
        while let Some(event) = self.backlog.pop_front() {
            if self.events.send(event).await.is_err() {
                return false;
            }
        }
        true
    }
}

async fn send(socket: &mut Socket, frame: String) -> Result<(), Failed> {
    match timeout(SEND_TIMEOUT, socket.send(Message::text(frame))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(for_now(error.to_string())),
        Err(_) => Err(for_now(format!("the gateway took nothing for {SEND_TIMEOUT:?}"))),
    }
}

/// The pause after an orderly goodbye is short, as another node is there; a cut (no code) and a full gateway (1013) are
/// given room.
fn pause_limit(code: Option<u16>, failures: u32) -> Duration {
    match code {
        Some(1001 | 1012 | 4000..=4499) if failures == 0 => FIRST_PAUSE,
        _ => backoff(failures, FIRST_PAUSE, LONGEST_PAUSE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_that_is_down_or_full_is_given_room() {
        assert_eq!(pause_limit(Some(1012), 0), FIRST_PAUSE);
        assert_eq!(pause_limit(None, 3), FIRST_PAUSE * 8);
        assert_eq!(pause_limit(Some(1013), 20), LONGEST_PAUSE);
    }
}

//! What one consumer knows, as a pure machine: no socket, no clock. It is told what arrived and returns what changed,
//! and it hands out the frames to send. It outlives connections: open callbacks converge to the gateway's list, positions
//! say from where to replay, topics are subscribed again, and answers whose outcome is unknown are given again with the
//! same `answer_id`. It never tells a question or a message twice.

mod topics;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use countersign_protocol::{Address, CallbackId, Position, TaskId, TopicName, UserId, close, position};
use serde_json::{Map, Value, json};

use crate::{
    error::Error,
    event::{Event, Members, Resolved, Verdict},
    heard::{self, Heard},
};

/// The newest ended callbacks are kept, so that a late copy of one is not told as open again.
const MOST_ENDED: usize = 200;

/// The gateway's word for it.
const TOO_LONG: &str = "too_long";

/// The id of an action.
pub(crate) type ActionId = u64;

/// What came of a frame.
#[derive(Debug)]
pub(crate) enum Output {
    /// For the consumer.
    Event(Event),
    /// For whoever waits for the reply to this action.
    Reply(ActionId, Result<Replied, Error>),
    /// The gateway asks to send this action again later; [`Session::repeat`] has its frame.
    Again {
        /// Which.
        id: ActionId,
        /// How often it was asked for before.
        tries: u32,
    },
}

/// A good reply.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Replied {
    /// To `ping`, `cancel`, `subscribe` and `unsubscribe`.
    Done,
    /// To `confirm`.
    Verdict(Verdict),
    /// To `presence`.
    Members(Members),
    /// To `publish`.
    Published(Option<Position>),
}

/// What an action is about, and so what becomes of it when the connection is cut.
#[derive(Debug, Clone, PartialEq)]
enum Verb {
    Ping,
    Subscribe(Address),
    /// Of a new connection, to what the consumer is subscribed to.
    Resubscribe(Vec<Address>),
    Unsubscribe(Address),
    Confirm,
    Cancel(TaskId),
    Presence,
    Publish,
}

#[derive(Debug)]
struct Asked {
    verb: Verb,
    frame: String,
    /// How often the gateway has asked for it again.
    tries: u32,
}

/// One consumer.
#[derive(Debug, Default)]
pub(crate) struct Session {
    user: Option<UserId>,
    open: BTreeSet<CallbackId>,
    ended: VecDeque<CallbackId>,
    topics: BTreeSet<Address>,
    /// Those of the topics whose comings and goings are heard, too.
    watched: BTreeSet<Address>,
    /// Those of the topics that this connection hears.
    confirmed: BTreeSet<Address>,
    /// The longest frame that the gateway takes, once it has refused one.
    longest: Option<u64>,
    positions: BTreeMap<Address, Position>,
    asked: BTreeMap<ActionId, Asked>,
    last_id: ActionId,
}

impl Session {
    /// A consumer that knows nothing yet.
    pub(crate) fn new(user: Option<UserId>) -> Self {
        Self { user, ..Self::default() }
    }

    /// The `?since=` values of the next connection: where to resume what it hears from the start.
    pub(crate) fn since(&self) -> Vec<String> {
        let own = self.user.clone().map(Address::User);
        let from_start = std::iter::once(Address::Broadcast).chain(own);
        from_start
            .filter_map(|address| self.positions.get(&address).map(|position| position::since(&address, position)))
            .collect()
    }

    /// What to send on a new connection: topics from where they were, and what may be asked again.
    pub(crate) fn greeting(&mut self) -> Vec<String> {
        let mut frames = self.resubscribe();
        // Who came and went meanwhile shows in a new list.
        let lists = self.watched.iter().map(|topic| json!({"action": "presence", "topic": topic.client_form()}));
        frames.extend(lists.map(|action| action.to_string()));
        let repeats = |asked: &&Asked| matches!(asked.verb, Verb::Confirm | Verb::Cancel(_) | Verb::Presence);
        let again = self.asked.values().filter(repeats);
        frames.extend(again.map(|asked| asked.frame.clone()));
        frames
    }

    /// The connection is gone: nothing that was asked on it will be replied to.
    pub(crate) fn disconnected(&mut self, code: Option<u16>) -> Vec<Output> {
        let mut outputs = if code == Some(close::TOO_LONG.code) { self.drop_too_long() } else { Vec::new() };
        self.longest = None;
        self.confirmed.clear();
        self.asked.retain(|&id, asked| match asked.verb {
            Verb::Confirm | Verb::Cancel(_) | Verb::Subscribe(_) | Verb::Presence => true,
            Verb::Resubscribe(_) => false,
            Verb::Unsubscribe(_) => {
                outputs.push(Output::Reply(id, Ok(Replied::Done)));
                false
            }
            // Nobody could tell a second try from a second message.
            Verb::Ping | Verb::Publish => {
                outputs.push(Output::Reply(id, Err(Error::Cut)));
                false
            }
        });
        outputs
    }

    /// The gateway does not replay as much as was missed: everything is heard from now on, and what lies between is told
    /// to be missing.
    pub(crate) fn forget_positions(&mut self) -> Vec<Output> {
        let known = std::mem::take(&mut self.positions).into_keys();
        known.map(|address| Output::Event(Event::Gap { address, position: None })).collect()
    }

    /// What was too long is not sent again: it would close the next connection, too. When the gateway did not say how long a frame
    /// may be, it was the longest.
    fn drop_too_long(&mut self) -> Vec<Output> {
        let length = |asked: &Asked| u64::try_from(asked.frame.len()).unwrap_or(u64::MAX);
        let longest = self.asked.values().map(length).max().unwrap_or_default();
        let most = self.longest.unwrap_or(longest.saturating_sub(1));
        let too_long = self.asked.iter().filter(|(_, asked)| length(asked) > most);
        let ids: Vec<ActionId> = too_long.map(|(id, _)| *id).collect();
        let message = "the action is longer than the gateway takes: shorten it";
        ids.into_iter().map(|id| self.failed(id, TOO_LONG.to_owned(), message.to_owned())).collect()
    }

    /// The frame of an action whose reply is still awaited.
    pub(crate) fn frame(&self, id: ActionId) -> Option<&str> {
        self.asked.get(&id).map(|asked| asked.frame.as_str())
    }

    pub(crate) fn ping(&mut self) -> ActionId {
        self.ask(Verb::Ping, json!({"action": "ping"}))
    }

    /// `fields` are those of the answer, among them its `answer_id`, by which a repeat is known.
    pub(crate) fn confirm(&mut self, callback: CallbackId, mut fields: Map<String, Value>) -> ActionId {
        fields.insert("action".into(), "confirm".into());
        fields.insert("callback_id".into(), callback.to_string().into());
        self.ask(Verb::Confirm, Value::Object(fields))
    }

    pub(crate) fn cancel(&mut self, task: &TaskId, user: Option<&UserId>) -> ActionId {
        let mut action = json!({"action": "cancel", "task_id": task});
        if let Some(user) = user {
            action["user_id"] = json!(user);
        }
        self.ask(Verb::Cancel(task.clone()), action)
    }

    pub(crate) fn presence(&mut self, topic: &TopicName) -> ActionId {
        self.ask(Verb::Presence, json!({"action": "presence", "topic": topic}))
    }

    pub(crate) fn publish(&mut self, topic: &TopicName, message: &Map<String, Value>) -> ActionId {
        self.ask(Verb::Publish, json!({"action": "publish", "topic": topic, "message": message}))
    }

    /// Takes one frame.
    pub(crate) fn receive(&mut self, text: &str) -> Vec<Output> {
        let (heard, reply_to) = heard::read(text);
        let event = |event| vec![Output::Event(event)];
        match heard {
            Heard::Connected(connected, positions) => {
                self.user.clone_from(&connected.user_id);
                let mut outputs = event(Event::Connected(connected));
                outputs.extend(positions.into_iter().filter_map(|(address, position, recovered)| {
                    self.resume(&address, Some(position), recovered).map(Output::Event)
                }));
                outputs
            }
            Heard::Callback(callback) => {
                let id = callback.callback_id;
                let news = !self.ended.contains(&id) && self.open.insert(id);
                if news { event(Event::Callback(callback)) } else { Vec::new() }
            }
            Heard::OpenCallbacks(ids) => self.converge(ids),
            Heard::Resolved(ended) => self.end(ended.callback_id).then(|| resolved(ended)).into_iter().collect(),
            Heard::TaskCancelled(cancelled) => {
                let waiting: Vec<_> = self
                    .asked
                    .iter()
                    .filter(|(_, asked)| asked.verb == Verb::Cancel(cancelled.task_id.clone()))
                    .map(|(id, _)| *id)
                    .collect();
                let mut outputs: Vec<_> = waiting.into_iter().map(|id| self.done(id)).collect();
                // The reply and the news of it are two frames; the consumer is told once, by the news.
                if reply_to.is_none() {
                    outputs.push(Output::Event(Event::TaskCancelled(cancelled)));
                }
                outputs
            }
            Heard::Heartbeat(heartbeat) => event(Event::Heartbeat(heartbeat)),
            Heard::Pong => reply_to.map(|id| self.done(id)).into_iter().collect(),
            Heard::Subscribed { address, position, recovered } => {
                let mut outputs = self.confirmed(&address);
                if self.topics.contains(&address) {
                    outputs.extend(self.resume(&address, position, recovered).map(Output::Event));
                }
                outputs
            }
            Heard::Unsubscribed(address) => self.settle(&Verb::Unsubscribe(address)),
            Heard::Accepted => self.verdict(reply_to, Verdict::Accepted),
            Heard::Rejected { reason, message, decision } => match (reason.as_str(), reply_to) {
                ("unavailable", Some(id)) if self.asked.contains_key(&id) => self.again(id),
                ("already_resolved", _) => self.verdict(reply_to, Verdict::AlreadyResolved(decision)),
                ("not_found", _) => self.verdict(reply_to, Verdict::NotFound),
                _ => self.verdict(reply_to, Verdict::Invalid(message.unwrap_or(reason))),
            },
            Heard::Presence(members) => match reply_to.filter(|id| self.asked.remove(id).is_some()) {
                Some(id) => vec![Output::Reply(id, Ok(Replied::Members(members)))],
                None => event(Event::Presence(members)),
            },
            Heard::Joined(change) => event(Event::Joined(change)),
            Heard::Left(change) => event(Event::Left(change)),
            Heard::Published(position) => {
                let id = reply_to.filter(|id| self.asked.remove(id).is_some());
                id.map(|id| Output::Reply(id, Ok(Replied::Published(position)))).into_iter().collect()
            }
            Heard::Gap(address, position) => {
                self.adopt(&address, position.clone());
                event(Event::Gap { address, position })
            }
            Heard::Error { code, message, limit } => {
                if code == TOO_LONG {
                    self.longest = limit.or(self.longest);
                }
                match reply_to.filter(|id| self.asked.contains_key(id)) {
                    Some(id) => self.refused(id, code, message),
                    None => event(Event::Error { code, message }),
                }
            }
            Heard::Message(message) => {
                if self.is_new(message.address.as_ref(), message.position.as_ref()) {
                    event(Event::Message(message))
                } else {
                    Vec::new()
                }
            }
            Heard::Unreadable(address, position) => {
                if self.is_new(Some(&address), position.as_ref()) {
                    event(Event::Gap { address, position })
                } else {
                    Vec::new()
                }
            }
            Heard::Other(map) => match reply_to.filter(|id| self.asked.remove(id).is_some()) {
                Some(id) => vec![Output::Reply(id, Err(Error::Unexpected(Value::Object(map).to_string())))],
                None => event(Event::Other(map)),
            },
        }
    }

    fn ask(&mut self, verb: Verb, action: Value) -> ActionId {
        self.last_id += 1;
        let frame = frame_of(self.last_id, action);
        self.asked.insert(self.last_id, Asked { verb, frame, tries: 0 });
        self.last_id
    }

    fn again(&mut self, id: ActionId) -> Vec<Output> {
        let Some(asked) = self.asked.get_mut(&id) else { return Vec::new() };
        let tries = asked.tries;
        asked.tries = tries.saturating_add(1);
        vec![Output::Again { id, tries }]
    }

    fn done(&mut self, id: ActionId) -> Output {
        self.asked.remove(&id);
        Output::Reply(id, Ok(Replied::Done))
    }

    /// Replies to every action of this verb: a subscription may be confirmed on a later connection than it was asked on.
    fn settle(&mut self, verb: &Verb) -> Vec<Output> {
        let ids: Vec<_> = self.asked.iter().filter(|(_, asked)| asked.verb == *verb).map(|(id, _)| *id).collect();
        ids.into_iter().map(|id| self.done(id)).collect()
    }

    fn verdict(&mut self, reply_to: Option<ActionId>, verdict: Verdict) -> Vec<Output> {
        let id = reply_to.filter(|id| self.asked.remove(id).is_some());
        id.map(|id| Output::Reply(id, Ok(Replied::Verdict(verdict)))).into_iter().collect()
    }

    fn failed(&mut self, id: ActionId, code: String, message: String) -> Output {
        if let Some(Asked { verb: Verb::Subscribe(topic), .. }) = self.asked.remove(&id) {
            self.topics.remove(&topic);
            self.watched.remove(&topic);
        }
        let problem = crate::Problem { code, detail: Some(message), ..crate::Problem::default() };
        Output::Reply(id, Err(Error::Refused(Box::new(problem))))
    }

    fn converge(&mut self, ids: Vec<CallbackId>) -> Vec<Output> {
        let gone: Vec<_> = self.open.iter().filter(|id| !ids.contains(id)).copied().collect();
        let mut outputs: Vec<_> =
            gone.into_iter().filter(|&id| self.end(id)).map(|id| resolved(Resolved::while_away(id))).collect();
        outputs.push(Output::Event(Event::OpenCallbacks(ids)));
        outputs
    }

    /// Whether it was told as open and has now ended.
    fn end(&mut self, id: CallbackId) -> bool {
        if !self.ended.contains(&id) {
            self.ended.push_back(id);
            if self.ended.len() > MOST_ENDED {
                self.ended.pop_front();
            }
        }
        self.open.remove(&id)
    }

    /// After `since`: recovered means that the replay which follows moves the position; else what we had means nothing.
    fn resume(&mut self, address: &Address, position: Option<Position>, recovered: Option<bool>) -> Option<Event> {
        if recovered == Some(true) {
            return None;
        }
        let had = self.positions.contains_key(address);
        self.adopt(address, position.clone());
        (recovered == Some(false) && had).then(|| Event::Gap { address: address.clone(), position })
    }

    fn adopt(&mut self, address: &Address, position: Option<Position>) {
        match position {
            Some(position) => self.positions.insert(address.clone(), position),
            None => self.positions.remove(address),
        };
    }

    fn is_new(&mut self, address: Option<&Address>, position: Option<&Position>) -> bool {
        let (Some(address), Some(position)) = (address, position) else { return true };
        let known = self.positions.get(address);
        if known.is_some_and(|known| known.epoch == position.epoch && position.offset <= known.offset) {
            return false;
        }
        self.positions.insert(address.clone(), position.clone());
        true
    }
}

/// The frame of an action. What names it comes first: of a message that is too long the gateway reads no more than the beginning.
fn frame_of(id: ActionId, action: Value) -> String {
    let mut fields = match action {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    let names = ["action", "callback_id"].map(|name| fields.remove_entry(name));
    let ordered = names.into_iter().flatten().chain(fields);
    let rest = ordered.map(|(name, value)| format!(",{}:{value}", Value::String(name)));
    format!("{{\"id\":{id}{}}}", rest.collect::<String>())
}

fn resolved(ended: Resolved) -> Output {
    Output::Event(Event::CallbackResolved(ended))
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;

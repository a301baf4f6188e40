//! The topics of a consumer: asked for on every connection from where they were, and asked for again as long as the gateway
//! cannot subscribe. Without that a consumer would hear nothing of them and not know.

use countersign_protocol::{Address, Position, TopicName};
use serde_json::{Value, json};

use super::{ActionId, Asked, Output, Session, Verb, frame_of};
use crate::event::Event;

impl Session {
    /// From where it was, or from `since`; with its comings and goings if they are to be watched.
    pub(crate) fn subscribe(&mut self, topic: &TopicName, since: Option<Position>, watch: bool) -> ActionId {
        let address = Address::Topic(topic.clone());
        self.topics.insert(address.clone());
        if watch {
            self.watched.insert(address.clone());
        }
        if let Some(since) = since {
            self.positions.insert(address.clone(), since);
        }
        let action = json!({"action": "subscribe", "topics": [self.resumed(&address)], "presence": watch});
        self.ask(Verb::Subscribe(address), action)
    }

    pub(crate) fn unsubscribe(&mut self, topic: &TopicName) -> ActionId {
        let address = Address::Topic(topic.clone());
        self.topics.remove(&address);
        self.watched.remove(&address);
        self.confirmed.remove(&address);
        self.positions.remove(&address);
        self.ask(Verb::Unsubscribe(address), json!({"action": "unsubscribe", "topic": topic}))
    }

    /// Subscribes a new connection to all topics, some in a frame: a frame of all might be too long for the gateway.
    pub(super) fn resubscribe(&mut self) -> Vec<String> {
        let (watched, others): (Vec<_>, Vec<_>) =
            self.topics.iter().cloned().partition(|topic| self.watched.contains(topic));
        let together = others.chunks(TOPICS_OF_A_FRAME).chain(watched.chunks(TOPICS_OF_A_FRAME));
        let ids: Vec<ActionId> = together.map(|topics| self.ask_for(topics)).collect();
        ids.into_iter().filter_map(|id| self.frame(id).map(str::to_owned)).collect()
    }

    /// The frame to send again, if it is still wanted.
    pub(crate) fn repeat(&mut self, id: ActionId) -> Option<String> {
        match &self.asked.get(&id)?.verb {
            Verb::Subscribe(address) => Some(frame_of(id, self.subscription(std::slice::from_ref(address)))),
            Verb::Resubscribe(addresses) => {
                let missing = |address: &&Address| self.topics.contains(*address) && !self.confirmed.contains(*address);
                let missing: Vec<Address> = addresses.iter().filter(missing).cloned().collect();
                if missing.is_empty() {
                    self.asked.remove(&id);
                    return None;
                }
                Some(frame_of(id, self.subscription(&missing)))
            }
            _ => self.frame(id).map(str::to_owned),
        }
    }

    /// An error is the reply. A subscription that could not be made now is asked for again: without it the consumer would hear
    /// nothing of its topics and not know.
    pub(super) fn refused(&mut self, id: ActionId, code: String, message: String) -> Vec<Output> {
        let passes = matches!(code.as_str(), "unavailable" | "backplane_full");
        let addresses = match self.asked.get(&id).map(|asked| &asked.verb) {
            Some(Verb::Subscribe(_) | Verb::Resubscribe(_)) if passes => return self.again(id),
            Some(Verb::Resubscribe(addresses)) => addresses.clone(),
            _ => return vec![self.failed(id, code, message)],
        };
        self.asked.remove(&id);
        match &addresses[..] {
            // Whoever waits for it was cut off before the first reply.
            [address] => {
                let waits = |(_, asked): &(&ActionId, &Asked)| asked.verb == Verb::Subscribe(address.clone());
                let waiting: Vec<ActionId> = self.asked.iter().filter(waits).map(|(id, _)| *id).collect();
                let mut outputs: Vec<_> =
                    waiting.into_iter().map(|id| self.failed(id, code.clone(), message.clone())).collect();
                outputs.push(Output::Event(Event::Error { code, message }));
                outputs
            }
            // One of them is refused, and the gateway takes all or none.
            several => several
                .iter()
                .flat_map(|address| {
                    let alone = self.ask_for(std::slice::from_ref(address));
                    self.again(alone)
                })
                .collect(),
        }
    }

    fn ask_for(&mut self, topics: &[Address]) -> ActionId {
        let action = self.subscription(topics);
        self.ask(Verb::Resubscribe(topics.to_vec()), action)
    }

    /// To topics that are all watched or all not.
    fn subscription(&self, topics: &[Address]) -> Value {
        let presence = topics.iter().any(|topic| self.watched.contains(topic));
        let topics: Vec<_> = topics.iter().map(|topic| self.resumed(topic)).collect();
        json!({"action": "subscribe", "topics": topics, "presence": presence})
    }

    fn resumed(&self, topic: &Address) -> Value {
        match self.positions.get(topic) {
            Some(position) => json!({"topic": topic.client_form(), "since": position}),
            None => json!(topic.client_form()),
        }
    }

    /// The connection hears a topic.
    pub(super) fn confirmed(&mut self, address: &Address) -> Vec<Output> {
        self.confirmed.insert(address.clone());
        let confirmed = &self.confirmed;
        self.asked.retain(|_, asked| match &asked.verb {
            Verb::Resubscribe(addresses) => !addresses.iter().all(|address| confirmed.contains(address)),
            _ => true,
        });
        self.settle(&Verb::Subscribe(address.clone()))
    }
}

/// Topics of one `subscribe`: with names and positions of the greatest length they are half of what a gateway takes by default.
const TOPICS_OF_A_FRAME: usize = 50;

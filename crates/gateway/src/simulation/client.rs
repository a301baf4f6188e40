//! A client as an honest one would be: it remembers where it is in each address, says so when it comes back, and answers for
//! every message. It reads as fast as the story lets it.

use std::collections::{BTreeMap, BTreeSet};

use countersign_protocol::{Address, Position, Subscription, UserId, close};
use countersign_ws::{Decoder, Event, Limits, Opcode, Role, frame};
use serde_json::{Value, json};

use super::{
    account::{Account, Wrong},
    chronicle::Chronicle,
    far::number_of,
    flaws::Flaw,
    plan::keeps_history,
    wire::ClientEnd,
};

/// See the module.
pub(super) struct Client {
    pub(super) name: String,
    pub(super) user: Option<UserId>,
    /// Reads only when it is its turn.
    pub(super) slow: bool,
    line: Option<Line>,
    accounts: BTreeMap<String, Account>,
    /// Topics that it wants to hear.
    wanted: BTreeSet<String>,
    action: u64,
    /// Messages that it has heard, ever.
    heard: u64,
    kept_back: Option<(u64, String)>,
    /// Messages of another client.
    pub(super) misheard: Vec<(u64, String)>,
    /// Whether numberings end.
    forgets: bool,
}

struct Line {
    host: usize,
    end: ClientEnd,
    decoder: Decoder,
    /// `connected` was heard.
    begun: bool,
}

/// What a decoder said.
enum Said {
    Text(String),
    Ping(Vec<u8>),
    Close(u16),
    Nothing,
}

impl Client {
    pub(super) fn new(name: String, user: Option<UserId>, slow: bool, forgets: bool) -> Self {
        Self {
            name,
            user,
            slow,
            line: None,
            accounts: BTreeMap::new(),
            wanted: BTreeSet::new(),
            action: 0,
            heard: 0,
            kept_back: None,
            misheard: Vec::new(),
            forgets,
        }
    }

    /// On which host it is.
    pub(super) fn host(&self) -> Option<usize> {
        self.line.as_ref().map(|line| line.host)
    }

    pub(super) fn wanted(&self) -> &BTreeSet<String> {
        &self.wanted
    }

    /// Topics that it wants to hear and is not sure to hear.
    pub(super) fn unheard(&self) -> Vec<String> {
        let hears = |topic: &String| {
            self.accounts.get(topic).is_some_and(|account| account.is_member() || account.is_waiting())
        };
        self.wanted.iter().filter(|topic| !hears(topic)).cloned().collect()
    }

    /// Whether it is connected and everything that it asked for was answered.
    pub(super) fn is_settled(&self) -> bool {
        self.line.as_ref().is_some_and(|line| line.begun)
            && self.unheard().is_empty()
            && self.accounts.values().all(|account| !account.is_waiting())
    }

    /// Comes to a host; what it asks for there. Of a thousand addresses it forgets so many.
    pub(super) fn comes(
        &mut self,
        host: usize,
        end: ClientEnd,
        forgets: u32,
        chronicle: &Chronicle,
    ) -> (Vec<(Address, Position)>, Vec<Subscription>) {
        let mut first = vec![Address::Broadcast];
        first.extend(self.user.clone().map(Address::User));
        let topics: Vec<Address> =
            self.wanted.iter().map(|topic| Address::parse_client(topic).expect("an address of ours")).collect();
        let mut since = Vec::new();
        let mut subscriptions = Vec::new();
        let first_ones = first.len();
        for (at, address) in first.into_iter().chain(topics).enumerate() {
            let forgotten = chronicle.happens(forgets);
            let account = self.account(&address.client_form().to_string());
            if forgotten {
                account.forgets();
            }
            let position = account.at().cloned();
            account.asks_to_join(0, position.clone(), chronicle);
            if at >= first_ones {
                subscriptions.push(Subscription { address, since: position });
            } else {
                since.extend(position.map(|position| (address, position)));
            }
        }
        chronicle.event(format_args!("{} comes to {host}, since {since:?}, topics {subscriptions:?}", self.name));
        let decoder = Decoder::new(Role::Client, Limits::new(1 << 24));
        self.line = Some(Line { host, end, decoder, begun: false });
        (since, subscriptions)
    }

    /// Goes without a word, or is cut off.
    pub(super) fn goes(&mut self, chronicle: &Chronicle, why: &str) {
        if self.line.take().is_some() {
            chronicle.event(format_args!("{} goes: {why}", self.name));
        }
        self.kept_back = None;
        self.accounts.values_mut().for_each(Account::ended);
    }

    /// Says goodbye.
    pub(super) fn closes(&self) {
        if let Some(line) = &self.line {
            let mut bytes = Vec::new();
            frame::append_client_close(1000, "", MASK, &mut bytes);
            line.end.write(&bytes);
        }
    }

    /// Wants to hear topics from now on; `again` says where it is.
    pub(super) fn subscribes(&mut self, topics: &[String], again: bool, chronicle: &Chronicle) {
        if !self.line.as_ref().is_some_and(|line| line.begun) {
            return;
        }
        self.action += 1;
        let id = self.action;
        let mut wanted = Vec::new();
        for topic in topics {
            self.wanted.insert(topic.clone());
            let account = self.account(topic);
            let since = account.at().filter(|_| again).cloned();
            account.asks_to_join(id, since.clone(), chronicle);
            wanted.push(match since {
                Some(Position { epoch, offset }) => {
                    json!({"topic": topic, "since": {"epoch": epoch, "offset": offset}})
                }
                None => json!(topic),
            });
        }
        chronicle.event(format_args!("{} subscribes {}", self.name, Value::from(wanted.clone())));
        self.says(&json!({"action": "subscribe", "topics": wanted, "id": id}));
    }

    pub(super) fn unsubscribes(&mut self, topic: &str, chronicle: &Chronicle) {
        if !self.line.as_ref().is_some_and(|line| line.begun) {
            return;
        }
        self.action += 1;
        let id = self.action;
        self.wanted.remove(topic);
        self.account(topic).asks_to_leave(id);
        chronicle.event(format_args!("{} unsubscribes {topic}", self.name));
        self.says(&json!({"action": "unsubscribe", "topic": topic, "id": id}));
    }

    fn says(&self, action: &Value) {
        self.writes(Opcode::Text, action.to_string().as_bytes());
    }

    fn writes(&self, opcode: Opcode, payload: &[u8]) {
        if let Some(line) = &self.line {
            let mut bytes = Vec::new();
            frame::append_client(opcode, payload, MASK, &mut bytes);
            line.end.write(&bytes);
        }
    }

    fn account(&mut self, topic: &str) -> &mut Account {
        let forgets = self.forgets;
        self.accounts.entry(topic.to_owned()).or_insert_with(|| Account::new(topic, keeps_history(topic), forgets))
    }

    /// From now on it reads as fast as it gets something.
    pub(super) fn hurries(&mut self) {
        self.slow = false;
        if let Some(line) = &self.line {
            line.end.widen();
        }
    }

    /// Reads at most so many bytes.
    pub(super) fn reads(&mut self, most: usize, chronicle: &Chronicle) -> Result<(), Wrong> {
        let mut left = most;
        while left > 0 {
            let Some(line) = &self.line else { return Ok(()) };
            let Some((turn, mut bytes)) = line.end.read(left) else { break };
            left -= bytes.len();
            let mut input = bytes.as_mut_slice();
            loop {
                let Some(line) = &mut self.line else { return Ok(()) };
                let said = match line.decoder.next(&mut input) {
                    Ok(None) => break,
                    Ok(Some(Event::Text(text))) => Said::Text(text.to_owned()),
                    Ok(Some(Event::Ping(body))) => Said::Ping(body.to_vec()),
                    Ok(Some(Event::Close(close))) => Said::Close(close.map_or(1005, |(code, _)| code)),
                    Ok(Some(Event::Binary(_) | Event::Pong(_))) => Said::Nothing,
                    Err(violation) => return Err(format!("{}: {violation}", self.name)),
                };
                match said {
                    Said::Text(text) => self.takes(turn, text, chronicle)?,
                    Said::Ping(body) => self.writes(Opcode::Pong, &body),
                    Said::Close(code) => self.closed(code, chronicle)?,
                    Said::Nothing => {}
                }
            }
        }
        if self.line.as_ref().is_some_and(|line| line.end.is_over()) {
            self.goes(chronicle, "the node is gone");
        }
        Ok(())
    }

    fn closed(&mut self, code: u16, chronicle: &Chronicle) -> Result<(), Wrong> {
        if code == close::RESYNC.code {
            self.accounts.values_mut().for_each(Account::forgets);
        }
        self.closes();
        chronicle.count(format!("closed with {code}"));
        self.goes(chronicle, &format!("closed with {code}"));
        let expected = [1000, 1012, 1013, close::SLOW.code, close::PING_TIMEOUT.code, close::RESYNC.code];
        if expected.contains(&code) { Ok(()) } else { Err(format!("{} was closed with {code}", self.name)) }
    }

    /// Takes a text as it came, unless a mistake is made on purpose.
    fn takes(&mut self, turn: u64, text: String, chronicle: &Chronicle) -> Result<(), Wrong> {
        if number_of(&text).is_some() {
            self.heard += 1;
            if self.heard == TAMPERED {
                if Flaw::ClientLoses.is_made() {
                    return Ok(());
                }
                if Flaw::ClientRepeats.is_made() {
                    self.hears(turn, &text, chronicle)?;
                }
                if Flaw::ClientSwaps.is_made() {
                    self.kept_back = Some((turn, text));
                    return Ok(());
                }
                if Flaw::ClientMishears.is_made() {
                    self.misheard.push((turn, text.clone()));
                }
            }
        }
        self.hears(turn, &text, chronicle)?;
        match self.kept_back.take() {
            Some((turn, text)) => self.hears(turn, &text, chronicle),
            None => Ok(()),
        }
    }

    /// Hears one text that was written in this turn.
    pub(super) fn hears(&mut self, turn: u64, text: &str, chronicle: &Chronicle) -> Result<(), Wrong> {
        let name = self.name.clone();
        self.hears_one(turn, text, chronicle)
            .map_err(|wrong| format!("{name}: {wrong}; at {}", text.replace(&"x".repeat(10), "")))
    }

    fn hears_one(&mut self, turn: u64, text: &str, chronicle: &Chronicle) -> Result<(), Wrong> {
        let heard: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let topic = || heard["topic"].as_str().map(str::to_owned).ok_or("no topic");
        let id = heard["reply_to"].as_u64().unwrap_or(0);
        let position = position_of(&heard["position"]);
        if let Some(number) = number_of(text) {
            return self.hears_message(number, &heard, chronicle);
        }
        chronicle.event(format_args!("{} hears {}", self.name, brief(&heard)));
        chronicle.count(heard["type"].as_str().unwrap_or_default());
        match heard["type"].as_str() {
            Some("connected") => {
                self.line.as_mut().expect("it hears on a line").begun = true;
                let told = heard["positions"].as_object().into_iter().flat_map(|positions| positions.values());
                told.for_each(|told| count_recovered(told, chronicle));
                let mut topics = vec!["broadcast".to_owned()];
                topics.extend(self.user.as_ref().map(|user| format!("user:{user}")));
                for topic in topics {
                    let told = &heard["positions"][&topic];
                    let recovered = told["recovered"].as_bool();
                    self.account(&topic).joined(turn, 0, position_of(told), recovered, chronicle)?;
                }
                Ok(())
            }
            Some("subscription_confirmed") => {
                count_recovered(&heard, chronicle);
                self.account(&topic()?).joined(turn, id, position, heard["recovered"].as_bool(), chronicle)
            }
            Some("unsubscribed") => self.account(&topic()?).left(id),
            Some("gap") => self.account(&topic()?).gap(turn, position, chronicle),
            Some("messages_dropped") => {
                let count = heard["count"].as_u64().ok_or("no count")?;
                self.account(&topic()?).drops(count, position.as_ref(), chronicle)
            }
            Some("error") => {
                self.accounts.values_mut().for_each(|account| account.failed(id));
                let unavailable = heard["code"] == "unavailable";
                if unavailable { Ok(()) } else { Err("an error that nothing explains".to_owned()) }
            }
            Some("open_callbacks" | "pong") => Ok(()),
            _ => Err("an event that nobody knows".to_owned()),
        }
    }

    fn hears_message(&mut self, number: u64, heard: &Value, chronicle: &Chronicle) -> Result<(), Wrong> {
        chronicle.event(format_args!("{} hears message {number}", self.name));
        let (topic, place) = chronicle.place(number).ok_or("a message that was never accepted")?;
        let mut route = json!({"topic": topic});
        if let super::chronicle::Place::Kept(_, Position { epoch, offset }) = &place {
            route["position"] = json!({"epoch": epoch, "offset": offset});
        }
        if heard["_meta"] != route {
            return Err(format!("a message of {route}"));
        }
        let target = topic.strip_prefix("user:");
        if heard["target_user_id"].as_str() != target
            || (target.is_some() && target != self.user.as_ref().map(UserId::as_str))
        {
            return Err("a message of another user".to_owned());
        }
        self.account(&topic).hears(&place, chronicle)
    }

    /// Everything that was accepted has had its time.
    pub(super) fn adds_up(&self, chronicle: &Chronicle) -> Result<(), Wrong> {
        let wrong = |wrong| format!("{}: {wrong}, in the end", self.name);
        self.accounts.values().try_for_each(|account| account.adds_up(chronicle)).map_err(wrong)
    }
}

fn count_recovered(told: &Value, chronicle: &Chronicle) {
    if let Some(recovered) = told["recovered"].as_bool() {
        chronicle.count(if recovered { "recovered" } else { "not recovered" });
    }
}

fn position_of(value: &Value) -> Option<Position> {
    Some(Position::new(value["epoch"].as_str()?, value["offset"].as_u64()?))
}

/// An event without what is different each time.
fn brief(event: &Value) -> String {
    let mut event = event.clone();
    if let Some(fields) = event.as_object_mut() {
        for other in ["connection_id", "timestamp", "ping_interval"] {
            fields.remove(other);
        }
    }
    event.to_string()
}

/// Hides nothing, and is the same in every run.
const MASK: [u8; 4] = [1, 2, 3, 4];
/// Which message of a client is tampered with, when one is.
const TAMPERED: u64 = 5;

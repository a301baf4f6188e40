//! Publishing, positions and history in Redis. What needs neither history nor a key is a bare `PUBLISH`; everything else
//! is one script under the hash tag of its address.

use std::{fmt::Write, sync::Arc, time::Duration};

use async_trait::async_trait;
use countersign_protocol::{Address, Payload, Position, producer::Published};
use redis::{Cmd, Script, ScriptInvocation, Value, cmd, from_redis_value};
use sha2::{Digest, Sha256};

use super::{
    RedisBackplane,
    failure::CommandError,
    keys::Keys,
    lanes::{Lanes, Step},
    millis,
    retry::{repeat, repeat_unwritten},
    scripts::SCRIPTS,
};
use crate::{BackplaneError, Channel, History, Messages, Publication, Result};

/// The addresses of a Redis.
#[derive(Clone)]
pub(super) struct RedisMessages {
    pub(super) keys: Keys,
    pub(super) lanes: Arc<Lanes>,
    /// Of an idempotency key's result.
    pub(super) retention: Duration,
}

#[async_trait]
impl Messages for RedisBackplane {
    async fn publish(&self, publication: Publication) -> Result<Published> {
        self.messages.publish(publication).await
    }

    async fn publish_all(&self, publications: Vec<Publication>) -> Vec<Result<Published>> {
        self.messages.publish_all(publications).await
    }

    async fn positions(&self, addresses: &[Address]) -> Result<Vec<Position>> {
        self.messages.positions(addresses).await
    }

    async fn history(&self, address: &Address, since: &Position, most: usize) -> Result<History> {
        self.messages.history(address, since, most).await
    }
}

#[async_trait]
impl Messages for RedisMessages {
    async fn publish(&self, publication: Publication) -> Result<Published> {
        if is_bare(&publication) {
            let command = self.bare(&publication);
            return self.counted(read_receivers(repeat_unwritten(|| self.lanes.command(&command)).await));
        }
        let script = self.numbered(&publication);
        let answer = if publication.key.is_some() {
            repeat(|| self.lanes.numbered(&script)).await.map(|tried| tried.value)
        } else {
            // Without a key nobody could tell a second try from a second message.
            repeat_unwritten(|| self.lanes.numbered(&script)).await
        };
        self.counted(read_published(answer))
    }

    async fn publish_all(&self, publications: Vec<Publication>) -> Vec<Result<Published>> {
        let mut results = Vec::with_capacity(publications.len());
        let mut rest = publications.as_slice();
        while !rest.is_empty() {
            let (part, after) = rest.split_at(part_of(rest));
            rest = after;
            results.extend(self.publish_part(part).await);
        }
        results
    }

    async fn positions(&self, addresses: &[Address]) -> Result<Vec<Position>> {
        if let [address] = addresses {
            let script = self.on_numbering(&SCRIPTS.position, address);
            let answer = repeat(|| self.lanes.numbered(&script)).await?.value;
            return Ok(vec![read_numbering(answer)?]);
        }
        let mut positions = Vec::with_capacity(addresses.len());
        for part in addresses.chunks(MOST_MESSAGES) {
            let steps: Vec<_> =
                part.iter().map(|address| Step::numbered(&self.on_numbering(&SCRIPTS.position, address))).collect();
            let load = [&SCRIPTS.position];
            for answer in repeat(|| self.lanes.pipeline(&load, &steps)).await?.value {
                positions.push(read_numbering(answer?)?);
            }
        }
        Ok(positions)
    }

    async fn history(&self, address: &Address, since: &Position, most: usize) -> Result<History> {
        let mut script = self.on_numbering(&SCRIPTS.history, address);
        script.arg(&since.epoch).arg(since.offset).arg(most);
        let answer = repeat(|| self.lanes.numbered(&script)).await?.value;
        Ok(read_history(answer, since, most)?)
    }
}

impl RedisMessages {
    /// One round trip. A pipeline without an answer is sent again only when every step may be repeated.
    async fn publish_part(&self, part: &[Publication]) -> Vec<Result<Published>> {
        let steps: Vec<_> = part
            .iter()
            .map(|publication| {
                if is_bare(publication) {
                    Step::Command(self.bare(publication))
                } else {
                    Step::numbered(&self.numbered(publication))
                }
            })
            .collect();
        let load = if part.iter().all(is_bare) { vec![] } else { vec![&SCRIPTS.publish] };
        let send = || self.lanes.pipeline(&load, &steps);
        let answers = if part.iter().all(|publication| publication.key.is_some()) {
            repeat(send).await.map(|tried| tried.value)
        } else {
            repeat_unwritten(send).await
        };
        match answers {
            Ok(answers) => part
                .iter()
                .zip(answers)
                .map(|(publication, answer)| {
                    let read = if is_bare(publication) { read_receivers } else { read_published };
                    self.counted(read(answer))
                })
                .collect(),
            Err(error) => {
                let error = BackplaneError::from(error);
                part.iter().map(|_| Err(error.clone())).collect()
            }
        }
    }

    /// In a cluster nobody knows how many heard it: a master counts those who listen at itself.
    fn counted(&self, published: Result<Published>) -> Result<Published> {
        let nodes = |nodes| if self.lanes.is_cluster() { None } else { nodes };
        published.map(|published| Published { nodes: nodes(published.nodes), ..published })
    }

    fn bare(&self, publication: &Publication) -> Cmd {
        let mut command = cmd("PUBLISH");
        command.arg(self.keys.channel(&Channel::from(&publication.address))).arg(publication.message.bytes().as_ref());
        command
    }

    /// What `numbering.lua` wants to know, but for the run, which only the lane knows.
    fn on_numbering<'a>(&self, verb: &'a Script, address: &Address) -> ScriptInvocation<'a> {
        let mut script = verb.prepare_invoke();
        script.key(self.keys.history(address)).key(self.keys.numbering(address));
        script.arg(fresh_epoch());
        script
    }

    fn numbered(&self, publication: &Publication) -> ScriptInvocation<'static> {
        let Publication { address, message, history, key } = publication;
        let mut script = self.on_numbering(&SCRIPTS.publish, address);
        if let Some(key) = key {
            script.key(self.keys.message_result(address, key));
        }
        script
            .arg(self.keys.channel(&Channel::from(address)))
            .arg(message.bytes().as_ref())
            .arg(history.size)
            .arg(millis(history.ttl).max(1))
            .arg(if key.is_some() { digest(message) } else { String::new() })
            .arg(millis(self.retention).max(1));
        script
    }
}

/// Neither history nor a key.
fn is_bare(publication: &Publication) -> bool {
    publication.history.size == 0 && publication.key.is_none()
}

/// How many of the publications make one round trip: few enough to be answered well within a command's time.
fn part_of(publications: &[Publication]) -> usize {
    let mut bytes = 0;
    let fits = |publication: &&Publication| {
        bytes += publication.message.bytes().len();
        bytes <= MOST_BYTES
    };
    publications.iter().take(MOST_MESSAGES).take_while(fits).count().max(1)
}

/// A name that no numbering has had.
pub(super) fn fresh_epoch() -> String {
    format!("{:016x}", uuid::Uuid::new_v4().as_u64_pair().1)
}

/// 128 bits of SHA-256: the result of a key is one string for each key.
pub(super) fn digest(message: &Payload) -> String {
    Sha256::digest(message.bytes()).iter().take(16).fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

fn read_receivers(answer: Result<Value, CommandError>) -> Result<Published> {
    Ok(Published { position: None, nodes: Some(from_redis_value(answer?).map_err(unreadable)?) })
}

fn read_published(answer: Result<Value, CommandError>) -> Result<Published> {
    let (word, position, nodes): (String, String, u64) = from_redis_value(answer?).map_err(unreadable)?;
    let position = match position.as_str() {
        "" => None,
        text => Some(Position::parse(text).map_err(unreadable)?),
    };
    match word.as_str() {
        "conflict" => Err(BackplaneError::Conflict),
        "repeat" => Ok(Published { position, nodes: None }),
        _ => Ok(Published { position, nodes: Some(nodes) }),
    }
}

fn read_numbering(answer: Value) -> Result<Position, CommandError> {
    if matches!(&answer, Value::Array(nothing) if nothing.is_empty()) {
        return Ok(Position::beginning());
    }
    let (epoch, offset): (String, u64) = from_redis_value(answer).map_err(unreadable)?;
    Ok(Position::new(epoch, offset))
}

fn read_history(answer: Value, since: &Position, most: usize) -> Result<History, CommandError> {
    let parts: Vec<Value> = from_redis_value(answer).map_err(unreadable)?;
    let mut parts = parts.into_iter();
    let mut next = || parts.next().ok_or_else(|| CommandError::unreadable("the answer of history is too short"));
    let position = Position::new(
        from_redis_value::<String>(next()?).map_err(unreadable)?,
        from_redis_value(next()?).map_err(unreadable)?,
    );
    let after: u64 = from_redis_value(next()?).map_err(unreadable)?;
    let epoch: String = from_redis_value(next()?).map_err(unreadable)?;
    let messages = parts.take(most).map(read_entry).collect::<Result<Vec<_>, _>>()?;
    // Offsets are given one by one, so the right number of messages is all of them. A `since` beyond the newest is of a
    // numbering whose end Redis has lost: that is not complete either.
    let current = since.epoch == position.epoch || *since == Position::beginning();
    let complete =
        current && epoch == position.epoch && position.offset.checked_sub(after) == u64::try_from(messages.len()).ok();
    Ok(History { position, epoch, messages, complete })
}

fn read_entry(entry: Value) -> Result<(u64, Payload), CommandError> {
    let (id, fields): (String, Vec<Value>) = from_redis_value(entry).map_err(unreadable)?;
    let offset = id.split_once('-').and_then(|(offset, _)| offset.parse().ok());
    let message = fields.into_iter().nth(1).map(from_redis_value::<Vec<u8>>).transpose().map_err(unreadable)?;
    match (offset, message) {
        (Some(offset), Some(message)) => Ok((offset, Payload::parse(message.into()).map_err(unreadable)?)),
        _ => Err(CommandError::unreadable("an entry of the history is of another version")),
    }
}

pub(super) fn unreadable(error: impl std::fmt::Display) -> CommandError {
    CommandError::unreadable(error.to_string())
}

/// Messages of one round trip: a script takes some 11 µs of Redis, so these take 11 ms.
const MOST_MESSAGES: usize = 1000;
/// Bytes of one round trip.
const MOST_BYTES: usize = 4 * 1024 * 1024;

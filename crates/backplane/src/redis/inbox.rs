//! The inbox as a stream of Redis. What is in the stream is not done, and what is done is deleted. Looking and publishing
//! (`inbox/publishing.rs`) are scripts, which look at the lease themselves; only waiting for an entry is done outside of them,
//! on a connection of its own, because it blocks everything behind it. Nobody is harmed by a wait: it takes nothing, it only
//! says when to look again.

mod publishing;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use countersign_protocol::{NodeId, ReplyName};
use redis::{Value, aio::MultiplexedConnection, cmd, from_redis_value};

use super::{
    RedisBackplane,
    failure::CommandError,
    keys::Keys,
    lanes::Lanes,
    messages::{RedisMessages, unreadable},
    millis,
    retry::repeat,
    scripts::SCRIPTS,
    topology::Connector,
};
use crate::{
    Result,
    inbox::{Doors, Inbox, InboxEntry, Letter, Progress, Taken},
};

/// See the module.
pub(super) struct RedisInbox {
    keys: Keys,
    node: NodeId,
    lanes: Arc<Lanes>,
    messages: RedisMessages,
    connector: Connector,
    /// How long a reply list is kept after its last reply.
    replies_kept: Duration,
    /// The connection that waits, while it does not.
    idle: Mutex<Option<MultiplexedConnection>>,
}

impl RedisInbox {
    /// `connector` gives connections that may wait for [`WAIT`].
    pub(super) fn new(
        messages: RedisMessages,
        node: NodeId,
        connector: Connector,
        replies_kept: Duration,
    ) -> Arc<Self> {
        let (keys, lanes) = (messages.keys.clone(), Arc::clone(&messages.lanes));
        Arc::new(Self { keys, node, lanes, messages, connector, replies_kept, idle: Mutex::default() })
    }

    /// What there is now after an entry, or from the beginning; nothing without the lease.
    async fn look(&self, after: &str, most: usize, longest: usize) -> Result<Option<Taken>> {
        let mut script = SCRIPTS.inbox_next.prepare_invoke();
        script
            .key(self.keys.inbox())
            .key(self.keys.inbox_lease())
            .arg(self.node.as_str())
            .arg(millis(LEASE))
            .arg(after)
            .arg(most)
            .arg(longest)
            .arg(MOST_BYTES)
            .arg(uuid::Uuid::new_v4().simple().to_string());
        Ok(read_taken(repeat(|| self.lanes.script(&script)).await?.value)?)
    }

    /// Waits until the empty inbox has an entry, or [`WAIT`] is over.
    async fn wait(&self) -> Result<(), CommandError> {
        let idle = self.lock_idle().take();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.connector.connection().await?,
        };
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(1).arg("BLOCK").arg(millis(WAIT)).arg("STREAMS").arg(self.keys.inbox()).arg("0-0");
        drop(read.query_async::<Value>(&mut connection).await?);
        // A connection that failed, or whose wait was given up, is not used again.
        *self.lock_idle() = Some(connection);
        Ok(())
    }

    fn lock_idle(&self) -> std::sync::MutexGuard<'_, Option<MultiplexedConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Inbox for RedisInbox {
    async fn hold(&self) -> Result<bool> {
        let mut script = SCRIPTS.inbox_hold.prepare_invoke();
        script.key(self.keys.inbox_lease()).arg(self.node.as_str()).arg(millis(LEASE));
        let held = repeat(|| self.lanes.script(&script)).await?.value;
        Ok(from_redis_value(held).map_err(unreadable)?)
    }

    async fn release(&self) -> Result<()> {
        let mut script = SCRIPTS.inbox_release.prepare_invoke();
        script.key(self.keys.inbox_lease()).arg(self.node.as_str());
        repeat(|| self.lanes.script(&script)).await?;
        Ok(())
    }

    async fn next(&self, most: usize, longest: usize) -> Result<Taken> {
        match self.look("", most, longest).await? {
            None => Ok(Taken::default()),
            Some(taken) if !taken.entries.is_empty() => Ok(taken),
            Some(_) => {
                self.wait().await?;
                Ok(self.look("", most, longest).await?.unwrap_or_default())
            }
        }
    }

    async fn after(&self, id: &str, most: usize, longest: usize) -> Result<Taken> {
        Ok(self.look(id, most, longest).await?.unwrap_or_default())
    }

    async fn publish(&self, stream: &str, letters: &[Letter]) -> Result<Progress> {
        if self.lanes.is_cluster() {
            self.publish_and_delete(stream, letters).await
        } else {
            self.publish_in_one_step(stream, letters).await
        }
    }

    async fn done(&self, ids: &[String]) -> Result<()> {
        for ids in ids.chunks(MOST_IDS) {
            let mut delete = cmd("XDEL");
            delete.arg(self.keys.inbox()).arg(ids);
            repeat(|| self.lanes.command(&delete)).await?;
        }
        Ok(())
    }

    async fn reply(&self, list: &ReplyName, reply: &[u8]) -> Result<()> {
        let mut script = SCRIPTS.reply.prepare_invoke();
        script.key(self.keys.reply(list)).arg(reply).arg(millis(self.replies_kept).max(1));
        match repeat(|| self.lanes.script(&script)).await {
            Ok(_) => Ok(()),
            Err(error) if error.transient => Err(error.into()),
            // A repeat would fail, too: the key is no list.
            Err(error) => {
                tracing::warn!(reply_to = ?list, %error, "a reply cannot be pushed and is dropped");
                Ok(())
            }
        }
    }

    async fn bury(&self, id: &str, reason: &str) -> Result<()> {
        let mut script = SCRIPTS.inbox_bury.prepare_invoke();
        script
            .key(self.keys.inbox())
            .key(self.keys.inbox_dead())
            .arg(id)
            .arg(reason)
            .arg(MOST_DEAD)
            .arg(millis(DEAD_KEPT))
            .arg(MOST_FIELDS)
            .arg(LONGEST_VALUE);
        repeat(|| self.lanes.script(&script)).await?;
        Ok(())
    }
}

impl Doors for RedisBackplane {
    fn inbox(&self) -> Option<Arc<dyn Inbox>> {
        Some(Arc::clone(&self.inbox) as Arc<dyn Inbox>)
    }
}

/// `{waiting, name of the stream, {id, {field, value, …}} or {id, length, {beginnings}}, …}`, or nothing.
fn read_taken(answer: Value) -> Result<Option<Taken>, CommandError> {
    let mut parts = from_redis_value::<Vec<Value>>(answer).map_err(unreadable)?.into_iter();
    let Some(waiting) = parts.next() else { return Ok(None) };
    let waiting = from_redis_value(waiting).map_err(unreadable)?;
    let stream = from_redis_value(parts.next().unwrap_or_default()).map_err(unreadable)?;
    let entries = parts.map(read_entry).collect::<Result<_, _>>()?;
    Ok(Some(Taken { entries, waiting, stream }))
}

fn read_entry(entry: Value) -> Result<InboxEntry, CommandError> {
    let mut parts = from_redis_value::<Vec<Value>>(entry).map_err(unreadable)?.into_iter();
    let id = from_redis_value(parts.next().unwrap_or_default()).map_err(unreadable)?;
    match parts.next().unwrap_or_default() {
        Value::Array(words) => {
            let fields = read_fields(words)?;
            let length = fields.iter().map(|(name, value)| name.len() + value.len()).sum();
            Ok(InboxEntry { id, fields, beginnings: Vec::new(), length })
        }
        length => {
            let length = from_redis_value(length).map_err(unreadable)?;
            let beginnings = match parts.next() {
                Some(Value::Array(words)) => read_fields(words)?,
                _ => Vec::new(),
            };
            Ok(InboxEntry { id, fields: Vec::new(), beginnings, length })
        }
    }
}

fn read_fields(words: Vec<Value>) -> Result<Vec<(String, Vec<u8>)>, CommandError> {
    let mut fields = Vec::with_capacity(words.len() / 2);
    let mut words = words.into_iter().map(|word| match word {
        Value::BulkString(bytes) => Ok(bytes),
        _ => Err(CommandError::unreadable("an entry of the inbox holds what is no text")),
    });
    while let (Some(name), Some(value)) = (words.next().transpose()?, words.next().transpose()?) {
        let name =
            String::from_utf8(name).unwrap_or_else(|wrong| String::from_utf8_lossy(wrong.as_bytes()).into_owned());
        fields.push((name, value));
    }
    Ok(fields)
}

/// How long a node that stands still keeps the others waiting: some times what a step takes, with a Redis that is slow.
const LEASE: Duration = Duration::from_secs(5);
/// How long a look waits for an entry.
pub(super) const WAIT: Duration = Duration::from_secs(1);
/// Of one look, unless a single entry is longer: transferred well within a command's time.
const MOST_BYTES: usize = 1024 * 1024;
/// Of one command.
const MOST_IDS: usize = 1000;
/// Dead letters.
const MOST_DEAD: u64 = 10_000;
/// After the last of them.
const DEAD_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Of an entry, as a dead letter.
const MOST_FIELDS: u64 = 1000;
/// Of a value, as a dead letter; the default of `PUBLISH_MAX_BYTES`.
const LONGEST_VALUE: u64 = 1024 * 1024;

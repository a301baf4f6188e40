//! Publishing what entries say. One Redis does it and deletes them in one step (`lua/inbox_publish.lua`), so an entry needs no
//! name of its own under which a repeat would be known. In a cluster inbox and addresses are on several servers: there an
//! entry is published under its id as idempotency key, and deleted afterwards.

use std::collections::HashMap;

use countersign_protocol::{Address, IdempotencyKey};
use redis::{Value, from_redis_value};

use super::{LEASE, RedisInbox};
use crate::{
    BackplaneError, Channel, Messages, Publication, Result,
    inbox::{Inbox, Letter, Progress},
    redis::{
        messages::{digest, fresh_epoch, unreadable},
        millis,
        retry::repeat,
        scripts::SCRIPTS,
    },
};

impl RedisInbox {
    pub(super) async fn publish_in_one_step(&self, stream: &str, letters: &[Letter]) -> Result<Progress> {
        let mut script = SCRIPTS.inbox_publish.prepare_invoke();
        script.key(self.keys.inbox()).key(self.keys.inbox_lease());
        let mut addresses = Vec::new();
        let mut numbers = HashMap::new();
        for Letter { publication, .. } in letters {
            if publication.history.size > 0 {
                numbers.entry(&publication.address).or_insert_with(|| {
                    addresses.push(publication);
                    addresses.len()
                });
            }
        }
        for Publication { address, .. } in &addresses {
            script.key(self.keys.history(address)).key(self.keys.numbering(address));
        }
        let mut keys = 2 + 2 * addresses.len();
        let ids: Vec<&str> = letters.iter().map(|letter| letter.id.as_str()).collect();
        script
            .arg(fresh_epoch())
            .arg(self.node.as_str())
            .arg(millis(LEASE))
            .arg(stream)
            .arg(ids.join(" "))
            .arg(millis(self.messages.retention).max(1))
            .arg(addresses.len());
        let channel = |address: &Address| self.keys.channel(&Channel::from(address));
        for Publication { address, history, .. } in &addresses {
            script.arg(channel(address)).arg(history.size).arg(millis(history.ttl).max(1));
        }
        for Letter { publication, .. } in letters {
            let Publication { address, message, history, key } = publication;
            if let Some(key) = key {
                keys += 1;
                script.key(self.keys.message_result(address, key));
                script.arg("").arg(keys).arg(digest(message));
            }
            match numbers.get(address) {
                Some(number) if history.size > 0 => script.arg(number),
                _ => script.arg(channel(address)),
            };
            script.arg(message.bytes().as_ref());
        }
        let answer = repeat(|| self.lanes.numbered(&script)).await?.value;
        match answer {
            Value::BulkString(why) if why == b"moved" => Ok(Progress::Moved),
            Value::BulkString(why) if why == b"conflict" => Err(BackplaneError::Conflict),
            done => Ok(Progress::Done(from_redis_value(done).map_err(unreadable)?)),
        }
    }

    /// The first that failed is told only when none before it is done: then nobody has to tell it with those.
    pub(super) async fn publish_and_delete(&self, stream: &str, letters: &[Letter]) -> Result<Progress> {
        let named = |Letter { id, publication }: &Letter| {
            let own = || IdempotencyKey::parse(&format!("inbox:{stream}:{id}")).expect("both are short and plain text");
            let key = Some(publication.key.clone().unwrap_or_else(own));
            Publication { key, ..publication.clone() }
        };
        let results = self.messages.publish_all(letters.iter().map(named).collect()).await;
        let done = letters.iter().zip(&results).filter(|(_, result)| result.is_ok());
        let done: Vec<String> = done.map(|(letter, _)| letter.id.clone()).collect();
        if !done.is_empty() {
            self.done(&done).await?;
        }
        let first = results.iter().take_while(|result| result.is_ok()).count();
        match results.into_iter().next() {
            Some(Err(error)) => Err(error),
            _ => Ok(Progress::Done(first)),
        }
    }
}

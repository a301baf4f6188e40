//! Receipts in Redis: one hash each, with a field for every connection that acknowledged, so that an acknowledgement costs
//! the same however many there are.

use std::collections::HashMap;

use async_trait::async_trait;
use countersign_protocol::{ByKind, ConnectionId, MessageId, UserId};
use redis::{Value, cmd, from_redis_value};

use super::{
    RedisBackplane, failure::CommandError, messages::unreadable, millis, record::seconds, retry::repeat,
    scripts::SCRIPTS,
};
use crate::{
    BackplaneError, Result,
    callbacks::Answerer,
    receipts::{Ack, MOST_ACKS, OpenReceipt, Receipt, Receipts},
};

#[async_trait]
impl Receipts for RedisBackplane {
    async fn open_receipt(&self, open: OpenReceipt) -> Result<(Receipt, bool)> {
        let mut script = self.on_partition(&SCRIPTS.open_receipt, open.id.partition());
        script.key(self.keys.receipt(open.id));
        if let Some((key, _)) = &open.key {
            script.key(self.keys.receipt_result(&open.user, key));
        }
        script
            .arg(open.id.to_string())
            .arg(open.user.as_str())
            .arg(millis(open.retention).max(1))
            .arg(open.key.as_ref().map_or("", |(_, digest)| digest.as_str()));
        let tried = repeat(|| self.lanes.script(&script)).await?;
        let (word, id, fields): (String, String, Value) = from_redis_value(tried.value).map_err(unreadable)?;
        if word == "conflict" {
            return Err(BackplaneError::Conflict);
        }
        let id = MessageId::parse(&id).map_err(unreadable)?;
        let receipt = read_receipt(id, fields)?.ok_or_else(|| CommandError::unreadable("a receipt without fields"))?;
        // Our own earlier try, of which we heard nothing, is this step too.
        let new = word == "new" || (tried.maybe_before && id == open.id);
        Ok((receipt, new))
    }

    async fn delivered(&self, id: MessageId) -> Result<()> {
        let mut script = self.on_partition(&SCRIPTS.deliver, id.partition());
        script.key(self.keys.receipt(id));
        repeat(|| self.lanes.script(&script)).await?;
        Ok(())
    }

    async fn ack(&self, id: MessageId, by: &Answerer, connection: &ConnectionId) -> Result<bool> {
        let user = match by {
            Answerer::User(user) => user.as_str(),
            Answerer::Guest => "",
        };
        let mut script = self.on_partition(&SCRIPTS.ack, id.partition());
        script
            .key(self.keys.receipt(id))
            .arg(id.to_string())
            .arg(user)
            .arg(by.as_str())
            .arg(connection.as_str())
            .arg(MOST_ACKS);
        let answer = repeat(|| self.lanes.script(&script)).await?.value;
        Ok(from_redis_value(answer).map_err(unreadable)?)
    }

    async fn receipt(&self, id: MessageId) -> Result<Option<Receipt>> {
        let mut command = cmd("HGETALL");
        command.arg(self.keys.receipt(id));
        let answer = repeat(|| self.lanes.command(&command)).await?.value;
        Ok(read_receipt(id, answer)?)
    }
}

/// Fields and values of a receipt; none when it is gone.
fn read_receipt(id: MessageId, fields: Value) -> Result<Option<Receipt>, CommandError> {
    let fields: HashMap<String, String> = from_redis_value(fields).map_err(unreadable)?;
    let Some(user) = fields.get("user") else { return Ok(None) };
    let moment = |name: &str| fields.get(name).map(|ms| ms.parse().map(seconds).map_err(unreadable)).transpose();
    let mut acks = fields
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix("ack:")?, value)))
        .map(|(connection, value)| read_ack(connection, value, user, fields.get(&format!("kind:{connection}"))))
        .collect::<Result<Vec<_>, _>>()?;
    acks.sort_by_key(|(turn, _)| *turn);
    Ok(Some(Receipt {
        id,
        user: UserId::parse(user).map_err(unreadable)?,
        queued_at: moment("queued")?.ok_or_else(|| CommandError::unreadable("a receipt without a beginning"))?,
        delivered_at: moment("delivered")?,
        acks: acks.into_iter().map(|(_, ack)| ack).collect(),
    }))
}

/// `<turn>|<ms>|<by>`, of a message to `user`, and what kind of party it was where the name does not say that.
fn read_ack(connection: &str, value: &str, user: &str, kind: Option<&String>) -> Result<(u64, Ack), CommandError> {
    let mut parts = value.splitn(3, '|');
    let mut next = || parts.next().ok_or_else(|| CommandError::unreadable("an acknowledgement is of another version"));
    let turn = next()?.parse().map_err(unreadable)?;
    let at = seconds(next()?.parse().map_err(unreadable)?);
    let connection = ConnectionId::parse(connection).map_err(unreadable)?;
    let by = next()?.to_owned();
    let guest = Answerer::Guest;
    let by_kind = match kind {
        Some(kind) => ByKind::from_text(kind),
        None if by != guest.as_str() => Some(ByKind::User),
        // Only the user whose message it is and guests can acknowledge it.
        None if by != user => Some(guest.kind()),
        None => None,
    };
    Ok((turn, Ack { by, by_kind, connection, at }))
}

//! Messages that want to be acknowledged. The receipt is a record that any node may read; a request that waits for an
//! acknowledgement holds a lease on it, like the wait for a decision: register, then read, then sleep.

use std::{future::Future, time::Duration};

use countersign_backplane::{
    BackplaneError, HistoryPolicy, Publication,
    callbacks::Answerer,
    receipts::{OpenReceipt, Receipt as Kept},
};
use countersign_protocol::{
    Address, ConnectionId, IdempotencyKey, MessageId, Partition, Payload, UserId,
    producer::Published,
    receipt::{Ack, Acknowledged, Receipt, ReceiptStatus},
};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::{
    callbacks::{PAST_DEADLINE, REREAD, SUBSCRIBED},
    error::GatewayError,
    node::{Node, random},
    waiters::Waiter,
};

/// How long a receipt can be read, and its key be repeated.
const RETENTION: Duration = Duration::from_secs(3600);
/// How often a message that nobody heard is published again, for a person who is just coming back.
const REDELIVERIES: usize = 3;
/// Between these.
const PAUSE: Duration = Duration::from_millis(100);
/// When the time to wait is over, the state so far is read once more, at most for so long.
const LAST_READ: Duration = Duration::from_millis(500);

impl Node {
    /// Publishes a message to a user and waits until somebody acknowledges it, at most `patience`. A repeat with the same key
    /// finds the same message and waits on; a key that has published a message without a receipt is a conflict, and the other
    /// way round.
    pub(crate) async fn publish_for_ack(
        &self,
        user: UserId,
        message: Payload,
        key: Option<IdempotencyKey>,
        patience: Duration,
    ) -> Result<Acknowledged, GatewayError> {
        let until = Instant::now() + patience;
        self.fits(&message)?;
        let id = MessageId::new(Partition::of(&user), random()?);
        // A message that may not be published opens nothing.
        message.with_receipt(id)?;
        // The key of the publication: the message has its receipt in it, so no other request publishes the same bytes.
        let own = key.clone();
        let key = key.map(|key| (key, crate::hex::first(16, &Sha256::digest(message.bytes()))));
        let open = OpenReceipt { id, user: user.clone(), key, retention: RETENTION };
        let (receipt, new) = in_time(until + PAST_DEADLINE, self.backplane.open_receipt(open)).await?;
        if new {
            self.metrics.receipt_opened();
        }
        let waiter = self.acks.register(receipt.id);
        let message = message.with_receipt(receipt.id)?;
        let published = self.deliver((receipt.id, own), user, message, new, until).await?;
        let receipt = self.acked(receipt, waiter, until).await;
        if let (true, Some(first)) = (new, receipt.acks.first()) {
            self.metrics.acked_after(first.at - receipt.queued_at);
        }
        let Receipt { message_id, status, delivered_at, acks, .. } = told(receipt);
        Ok(Acknowledged { message_id, status, delivered_at, acks, published })
    }

    /// Acknowledges a message; whether there is such a message of this user's.
    pub(crate) async fn ack(
        &self,
        id: MessageId,
        by: &Answerer,
        connection: &ConnectionId,
    ) -> Result<bool, GatewayError> {
        let known = self.backplane.ack(id, by, connection).await?;
        if known {
            self.metrics.acked();
        }
        Ok(known)
    }

    /// A receipt as it is now.
    pub(crate) async fn receipt(&self, id: MessageId) -> Result<Option<Receipt>, GatewayError> {
        Ok(self.backplane.receipt(id).await?.map(told))
    }

    /// Publishes, under the producer's key or one of the message's own: once, whoever repeats it. What nobody heard is published again, without a
    /// place in the history, where it has one already.
    async fn deliver(
        &self,
        (id, key): (MessageId, Option<IdempotencyKey>),
        user: UserId,
        message: Payload,
        new: bool,
        until: Instant,
    ) -> Result<Published, GatewayError> {
        let address = Address::User(user);
        let key = key.unwrap_or_else(|| IdempotencyKey::parse(&id.to_string()).expect("an id is a legal key"));
        let first = Publication { history: self.history_of(&address), address, message, key: Some(key) };
        let again = Publication { history: HistoryPolicy::NONE, key: None, ..first.clone() };
        let mut published = in_time(until + PAST_DEADLINE, self.backplane.publish(first)).await?;
        if published.nodes.is_none() && !new {
            // An earlier request has published it and knows who heard.
            return Ok(published);
        }
        self.metrics.published(1);
        for _ in 0..REDELIVERIES {
            let next = Instant::now() + PAUSE;
            if published.nodes != Some(0) || next >= until {
                break;
            }
            tokio::select! {
                () = self.shutdown.draining() => break,
                () = sleep_until(next) => {}
            }
            // A failure is one try less; the message is in its place, and the receipt says that nobody heard it.
            if let Ok(told) = self.backplane.publish(again.clone()).await {
                published.nodes = told.nodes;
            }
        }
        // Where nobody can count who heard, it counts as delivered. What cannot be noted now, the acknowledgement notes.
        if published.nodes != Some(0)
            && let Err(error) = self.backplane.delivered(id).await
        {
            tracing::debug!(%error, message_id = %id, "a delivery was not noted");
        }
        Ok(published)
    }

    /// Waits for an acknowledgement; the receipt as it is then, or when the time is over, or when the node drains.
    async fn acked(&self, mut receipt: Kept, mut waiter: Waiter<MessageId>, until: Instant) -> Kept {
        let mut heard = false;
        while receipt.acks.is_empty() && Instant::now() < until {
            let look = async {
                waiter.subscribed(SUBSCRIBED).await;
                self.backplane.receipt(receipt.id).await
            };
            // What cannot be read now is read the next time.
            if let Ok(Ok(Some(now))) = timeout_at(until, look).await {
                receipt = now;
                if !receipt.acks.is_empty() {
                    return receipt;
                }
            }
            let next_read = Instant::now() + REREAD.mul_f64(0.5 + fastrand::f64());
            tokio::select! {
                () = waiter.news(), if !heard => heard = true,
                () = self.shutdown.draining() => break,
                () = sleep_until(next_read.min(until)) => {}
            }
        }
        if receipt.acks.is_empty()
            && let Ok(Ok(Some(now))) = timeout(LAST_READ, self.backplane.receipt(receipt.id)).await
        {
            receipt = now;
        }
        receipt
    }
}

/// A step of the backplane that the reply cannot do without. The caller hears within a second after its patience has ended,
/// also when the backplane says nothing at all.
async fn in_time<T>(last: Instant, step: impl Future<Output = Result<T, BackplaneError>>) -> Result<T, GatewayError> {
    match timeout_at(last, step).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(GatewayError::Unavailable("no answer while the acknowledgement was waited for".to_owned())),
    }
}

/// As producers see it.
fn told(receipt: Kept) -> Receipt {
    let Kept { id, user, queued_at, delivered_at, acks } = receipt;
    let status = match (acks.is_empty(), delivered_at) {
        (false, _) => ReceiptStatus::Acked,
        (true, Some(_)) => ReceiptStatus::Delivered,
        (true, None) => ReceiptStatus::Queued,
    };
    let acks = acks
        .into_iter()
        .map(|ack| Ack { by: ack.by, by_kind: ack.by_kind, connection_id: ack.connection, at: ack.at })
        .collect();
    Receipt { message_id: id, user_id: user, status, queued_at, delivered_at, acks }
}

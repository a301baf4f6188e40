//! Publishing, for every door: how long a message may be, how much of its past is kept, and one way to the backplane.

use countersign_backplane::{Publication, messages::HistoryPolicy};
use countersign_protocol::{
    Address, IdempotencyKey, Payload,
    producer::{BatchItem, Published},
};

use crate::{error::GatewayError, node::Node};

impl Node {
    /// Publishes one message.
    pub(crate) async fn publish(
        &self,
        address: Address,
        message: Payload,
        key: Option<IdempotencyKey>,
    ) -> Result<Published, GatewayError> {
        let publication = self.publication(BatchItem { address, message, idempotency_key: key })?;
        let published = self.backplane.publish(publication).await?;
        self.metrics.published(1);
        Ok(published)
    }

    /// Publishes many, in order; each has its own result.
    pub(crate) async fn publish_all(
        &self,
        items: Vec<Result<BatchItem, GatewayError>>,
    ) -> Vec<Result<Published, GatewayError>> {
        let mut wrong = Vec::new();
        let mut publications = Vec::with_capacity(items.len());
        for item in items {
            match item.and_then(|item| self.publication(item)) {
                Ok(publication) => {
                    publications.push(publication);
                    wrong.push(None);
                }
                Err(error) => wrong.push(Some(error)),
            }
        }
        let mut results = self.backplane.publish_all(publications).await.into_iter();
        let results: Vec<Result<Published, GatewayError>> = wrong
            .into_iter()
            .map(|wrong| match wrong {
                Some(error) => Err(error),
                None => results.next().map_or_else(
                    || Err(GatewayError::Unavailable("the backplane gave no result".to_owned())),
                    |result| result.map_err(GatewayError::from),
                ),
            })
            .collect();
        self.metrics.published(results.iter().filter(|result| result.is_ok()).count());
        results
    }

    /// # Errors
    /// When a producer's message is too long.
    pub(crate) fn fits(&self, message: &Payload) -> Result<(), GatewayError> {
        let (length, most) = (message.bytes().len(), self.config.publish_max_bytes);
        if length > most { Err(GatewayError::TooLong(length, most)) } else { Ok(()) }
    }

    /// A message with how much of its address's past is kept.
    ///
    /// # Errors
    /// When it is too long.
    pub(crate) fn publication(&self, item: BatchItem) -> Result<Publication, GatewayError> {
        self.fits(&item.message)?;
        let history: HistoryPolicy = self.history_of(&item.address);
        Ok(Publication { history, address: item.address, message: item.message, key: item.idempotency_key })
    }
}

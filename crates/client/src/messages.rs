//! Publishing: a message to everybody, to a user, to a topic, or many at once. Each carries a key of its own unless the
//! producer was told to send [at most once](Producer::at_most_once).

use std::time::Duration;

use countersign_protocol::{
    Address, IdempotencyKey, Payload, TopicName, UserId,
    producer::{BatchItem, Published},
};
use reqwest::Method;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    error::{Problem, Result},
    http::Call,
    producer::{Producer, decode, random_key},
};

impl Producer {
    /// Publishes an object to everybody.
    ///
    /// # Errors
    /// [`Error::Refused`](crate::Error::Refused), or [`Error::Unavailable`](crate::Error::Unavailable) after the [patience](Self::patience); [`Error::Field`](crate::Error::Field) for a message that is no JSON object.
    ///
    /// ```no_run
    /// # async fn example(producer: countersign_client::Producer) -> countersign_client::Result<()> {
    /// producer.broadcast(&serde_json::json!({"type": "maintenance", "in_minutes": 5})).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn broadcast<T: Serialize>(&self, message: &T) -> Result<Published> {
        self.message(&["v1", "broadcast"], message).await
    }

    /// Publishes an object to every connection of one user.
    ///
    /// # Errors
    /// As [`Self::broadcast`].
    ///
    /// ```no_run
    /// # async fn example(producer: countersign_client::Producer) -> countersign_client::Result<()> {
    /// producer.send_to_user("alice", &serde_json::json!({"type": "progress", "percent": 40})).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send_to_user<T: Serialize>(&self, user_id: &str, message: &T) -> Result<Published> {
        let user = UserId::parse(user_id)?;
        self.message(&["v1", "users", user.as_str(), "messages"], message).await
    }

    /// Publishes an object to the subscribers of a topic.
    ///
    /// # Errors
    /// As [`Self::broadcast`].
    ///
    /// ```no_run
    /// # async fn example(producer: countersign_client::Producer) -> countersign_client::Result<()> {
    /// let published = producer.publish("workflow:7", &serde_json::json!({"status": "running"})).await?;
    /// println!("heard by {:?} nodes", published.nodes);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish<T: Serialize>(&self, topic: &str, message: &T) -> Result<Published> {
        let topic = TopicName::parse(topic)?;
        self.message(&["v1", "topics", topic.as_str(), "messages"], message).await
    }

    /// Publishes many messages in one request; [`item`] makes them. A wrong one does not spoil the others.
    ///
    /// # Errors
    /// For the request as a whole as [`Self::broadcast`]; for each message its own result, in the order given.
    ///
    /// ```no_run
    /// # async fn example(producer: countersign_client::Producer) -> countersign_client::Result<()> {
    /// use countersign_client::item;
    /// use serde_json::json;
    ///
    /// let items = [item("user:alice", &json!({"percent": 40}))?, item("topic:room:7", &json!({"typing": true}))?];
    /// for result in producer.batch(items).await? {
    ///     if let Err(problem) = result {
    ///         eprintln!("{problem}");
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn batch(
        &self,
        items: impl IntoIterator<Item = BatchItem>,
    ) -> Result<Vec<std::result::Result<Published, Problem>>> {
        #[derive(Serialize)]
        struct Item {
            address: String,
            message: Box<RawValue>,
            #[serde(skip_serializing_if = "Option::is_none")]
            idempotency_key: Option<IdempotencyKey>,
        }
        #[derive(Serialize)]
        struct Batch {
            messages: Vec<Item>,
        }
        let messages = items
            .into_iter()
            .map(|item| Item {
                address: item.address.to_string(),
                message: RawValue::from_string(item.message.as_str().to_owned()).expect("a payload is JSON"),
                idempotency_key: item.idempotency_key.or_else(|| self.key()),
            })
            .collect();
        let body = serde_json::to_vec(&Batch { messages }).expect("names and JSON always encode");
        let results: BatchResults = self.repeated(Call::new(Method::POST, &["v1", "batch"]).body(body)).await?;
        Ok(results.results.into_iter().map(Into::into).collect())
    }

    async fn message<T: Serialize>(&self, path: &[&str], message: &T) -> Result<Published> {
        let body = Payload::encode(message)?.bytes().to_vec();
        self.repeated(Call::new(Method::POST, path).body(body).key(self.key())).await
    }

    fn key(&self) -> Option<IdempotencyKey> {
        self.keyed.then(random_key)
    }

    /// A publication: repeated only when a repeat is known as one.
    async fn repeated<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        let patience = if self.keyed { self.patience } else { Duration::ZERO };
        decode(&self.repeat_for(patience, call).await?.1)
    }
}

/// A message of a [batch](Producer::batch), to `broadcast`, `user:<id>` or `topic:<name>`.
///
/// # Errors
/// [`Error::Field`](crate::Error::Field) for an address that is none or a message that is no JSON object.
///
/// ```
/// let item = countersign_client::item("user:alice", &serde_json::json!({"percent": 40}))?;
/// # Ok::<(), countersign_client::Error>(())
/// ```
pub fn item<T: Serialize>(address: &str, message: &T) -> Result<BatchItem> {
    let (address, message) = (Address::parse(address)?, Payload::encode(message)?);
    Ok(BatchItem { address, message, idempotency_key: None })
}

#[derive(Deserialize)]
struct BatchResults {
    results: Vec<BatchResult>,
}

/// `{error: …}`, or what publishing returns.
#[derive(Deserialize)]
#[serde(untagged)]
enum BatchResult {
    Failed { error: Problem },
    Published(Published),
}

impl From<BatchResult> for std::result::Result<Published, Problem> {
    fn from(result: BatchResult) -> Self {
        match result {
            BatchResult::Failed { error } => Err(error),
            BatchResult::Published(published) => Ok(published),
        }
    }
}

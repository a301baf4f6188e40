//! What a producer is told of a message that wants to be acknowledged: `queued`, then `delivered`, then `acked`.

use serde::{Deserialize, Serialize};

use crate::{
    callback::ByKind,
    ids::{ConnectionId, MessageId, UserId},
    producer::Published,
};

/// The fields that the gateway writes into a message that wants to be acknowledged; the producer's body may not have them.
pub const RECEIPT_FIELDS: [&str; 2] = ["message_id", "requires_ack"];

/// How far a message has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptStatus {
    /// No node with a connection of the user has heard it.
    Queued,
    /// A node with a connection of the user has heard it.
    Delivered,
    /// A device has said that it has it.
    Acked,
}

/// One acknowledgement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ack {
    /// The user's id, or `guest`.
    pub by: String,
    /// Which of the two; `None` where an older version has not recorded it.
    #[serde(default, deserialize_with = "ByKind::deserialize_known")]
    pub by_kind: Option<ByKind>,
    /// From which connection.
    pub connection_id: ConnectionId,
    /// Unix seconds.
    pub at: f64,
}

/// `GET /v1/messages/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// Of which message.
    pub message_id: MessageId,
    /// Who is to acknowledge.
    pub user_id: UserId,
    /// How far it has come.
    pub status: ReceiptStatus,
    /// Unix seconds.
    pub queued_at: f64,
    /// Unix seconds.
    pub delivered_at: Option<f64>,
    /// Who acknowledged, in order; a connection once.
    pub acks: Vec<Ack>,
}

/// What `POST /v1/users/{id}/messages?ack=true` returns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// Of which message.
    pub message_id: MessageId,
    /// How far it has come.
    pub status: ReceiptStatus,
    /// Unix seconds.
    pub delivered_at: Option<f64>,
    /// Who acknowledged, in order; a connection once.
    pub acks: Vec<Ack>,
    /// Where it is in the user's history, and how many nodes heard it.
    #[serde(flatten)]
    pub published: Published,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ids::Partition, position::Position};
    use serde_json::json;

    #[test]
    fn the_reply_reads_as_documented() {
        let reply = Acknowledged {
            message_id: MessageId::new(Partition::from_number(7).unwrap(), 1),
            status: ReceiptStatus::Acked,
            delivered_at: Some(1.5),
            acks: vec![Ack {
                by: "alice".to_owned(),
                by_kind: Some(ByKind::User),
                connection_id: ConnectionId::parse("c").unwrap(),
                at: 2.0,
            }],
            published: Published { position: Some(Position::new("e", 3)), nodes: None },
        };
        let expected = json!({
            "message_id": "07-00000000000000000000000000000001", "status": "acked", "delivered_at": 1.5,
            "acks": [{"by": "alice", "by_kind": "user", "connection_id": "c", "at": 2.0}], "position": {"epoch": "e", "offset": 3},
        });
        assert_eq!(serde_json::to_value(&reply).unwrap(), expected);
        assert_eq!(serde_json::from_value::<Acknowledged>(expected).unwrap(), reply);
    }
}

//! Publishing over HTTP: the body is the message.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use countersign_protocol::{
    Address, FieldError, Payload, TopicName, UserId,
    producer::{self, Published},
};
use serde::Serialize;

use super::{
    input::{Asked, Body, Name, NoQuery, idempotency_key},
    notifications::may_wait,
    problem::Problem,
    receipts::AckWanted,
};
use crate::{error::GatewayError, node::Node};

type Reply = Result<Json<Published>, Problem>;

/// `POST /v1/broadcast`
pub(crate) async fn broadcast(
    State(node): State<Arc<Node>>,
    Asked(wanted): Asked<AckWanted>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    wanted.none()?;
    publish(&node, Address::Broadcast, &headers, body).await
}

/// `POST /v1/users/{id}/messages`; with `?ack=true` it waits for the acknowledgement.
pub(crate) async fn user(
    State(node): State<Arc<Node>>,
    Name(id): Name,
    Asked(wanted): Asked<AckWanted>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let user = UserId::parse(&id)?;
    match wanted.patience()? {
        None => Ok(publish(&node, Address::User(user), &headers, body).await?.into_response()),
        Some(patience) => {
            let (key, message) = (idempotency_key(&headers)?, Payload::parse_body(body.0)?);
            // A wait beyond the limit is over as soon as the message is published; its receipt can be read later.
            let permit = may_wait(&node);
            let patience = if permit.is_some() { patience } else { Duration::ZERO };
            Ok(Json(node.publish_for_ack(user, message, key, patience).await?).into_response())
        }
    }
}

/// `POST /v1/topics/{topic}/messages`
pub(crate) async fn topic(
    State(node): State<Arc<Node>>,
    Name(name): Name,
    Asked(wanted): Asked<AckWanted>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    wanted.none()?;
    publish(&node, Address::Topic(TopicName::parse(&name)?), &headers, body).await
}

async fn publish(node: &Node, address: Address, headers: &HeaderMap, Body(body): Body) -> Reply {
    let key = idempotency_key(headers)?;
    Ok(Json(node.publish(address, Payload::parse_body(body)?, key).await?))
}

/// What a batch returns: one result for each message, in order.
#[derive(Debug, Serialize)]
pub(crate) struct BatchReply {
    results: Vec<Outcome>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Outcome {
    Published(Published),
    Failed { error: Problem },
}

/// `POST /v1/batch`
pub(crate) async fn batch(
    State(node): State<Arc<Node>>,
    _: NoQuery,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Json<BatchReply>, Problem> {
    if idempotency_key(&headers)?.is_some() {
        let expected = "nothing, as each message of a batch has an idempotency_key of its own";
        return Err(FieldError::new("Idempotency-Key", expected, "a key").into());
    }
    let items = producer::parse_batch(&body)?;
    let items = items.into_iter().map(|item| item.map_err(GatewayError::from)).collect();
    let results = node.publish_all(items).await.into_iter().map(|result| match result {
        Ok(published) => Outcome::Published(published),
        Err(error) => Outcome::Failed { error: error.into() },
    });
    Ok(Json(BatchReply { results: results.collect() }))
}

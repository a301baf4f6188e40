//! The history of a topic over HTTP, page by page.

use std::sync::Arc;

use axum::{Json, extract::State};
use countersign_backplane::History;
use countersign_protocol::{Address, FieldError, Position, TopicName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    input::{Asked, Name, NoBody},
    problem::Problem,
};
use crate::node::Node;

/// Messages of one page, when the request does not say.
const PAGE: usize = 100;
/// Messages of one page at most.
const LARGEST_PAGE: usize = 1000;

/// What is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Range {
    since: Option<String>,
    limit: Option<usize>,
}

/// A page of a topic's history.
#[derive(Debug, Serialize)]
pub(crate) struct Page {
    topic: TopicName,
    /// The newest message; none where no history is kept.
    position: Option<Position>,
    /// Oldest first.
    messages: Vec<Entry>,
    /// Whether nothing is missing between `since` and the last of these.
    recovered: bool,
    /// Whether more follows: ask again, since the last of these.
    more: bool,
}

#[derive(Debug, Serialize)]
struct Entry {
    position: Position,
    message: Box<RawValue>,
}

/// `GET /v1/topics/{topic}/history`; without `since` from the beginning.
pub(crate) async fn read(
    State(node): State<Arc<Node>>,
    Name(name): Name,
    Asked(range): Asked<Range>,
    _: NoBody,
) -> Result<Json<Page>, Problem> {
    let topic = TopicName::parse(&name)?;
    let field = |error| FieldError { field: "since".to_owned(), ..error };
    let since = range.since.as_deref().map(Position::parse).transpose().map_err(field)?.unwrap_or_default();
    let limit = match range.limit {
        None => PAGE,
        Some(limit @ 1..=LARGEST_PAGE) => limit,
        Some(other) => {
            return Err(FieldError::new("limit", format!("1 to {LARGEST_PAGE} messages"), other.to_string()).into());
        }
    };
    let address = Address::Topic(topic.clone());
    if node.history_of(&address).size == 0 {
        return Ok(Json(Page { topic, position: None, messages: Vec::new(), recovered: false, more: false }));
    }
    let history = node.backplane.history(&address, &since, limit).await.map_err(crate::error::GatewayError::from)?;
    Ok(Json(page(topic, history, &since)))
}

fn page(topic: TopicName, history: History, since: &Position) -> Page {
    let History { position, epoch, messages, .. } = history;
    // What is left of a numbering whose end is not known is not all of it.
    let whole = epoch == position.epoch;
    let current = whole && (since.epoch == epoch || *since == Position::beginning());
    let after = if current { since.offset } else { 0 };
    let (first, last) = (messages.first().map(|(offset, _)| *offset), messages.last().map(|(offset, _)| *offset));
    let recovered = current && first.map_or(after == position.offset, |first| first == after + 1);
    let more = whole && last.is_some_and(|last| last < position.offset);
    let entry = |(offset, message): (u64, countersign_protocol::Payload)| Entry {
        position: Position::new(epoch.clone(), offset),
        message: RawValue::from_string(message.as_str().to_owned()).expect("a payload is JSON"),
    };
    let messages = messages.into_iter().map(entry).collect();
    Page { topic, position: Some(position), messages, recovered, more }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use countersign_protocol::Payload;

    use super::*;

    fn of(epoch: &str, newest: u64, offsets: std::ops::Range<u64>, since: &Position) -> (bool, bool) {
        let message = Payload::parse(Bytes::from_static(b"{}")).unwrap();
        let messages = offsets.map(|offset| (offset, message.clone())).collect();
        let position = Position::new(epoch, newest);
        let history = History { position, epoch: epoch.to_owned(), messages, complete: false };
        let page = page(TopicName::parse("t").unwrap(), history, since);
        (page.recovered, page.more)
    }

    #[test]
    fn what_is_left_of_a_numbering_that_has_ended_keeps_its_positions_and_is_not_all() {
        let message = Payload::parse(Bytes::from_static(b"{}")).unwrap();
        let (position, epoch) = (Position::new("new", 5), "old".to_owned());
        let history = History { position, epoch, messages: vec![(3, message)], complete: false };
        let page = page(TopicName::parse("t").unwrap(), history, &Position::new("old", 2));
        assert_eq!((page.recovered, page.more), (false, false));
        assert_eq!(page.messages[0].position, Position::new("old", 3));
    }

    #[test]
    fn a_page_says_whether_something_is_missing_before_it_and_whether_more_follows() {
        let (at, beginning) = (Position::new("e", 2), Position::beginning());
        assert_eq!(of("e", 5, 3..6, &at), (true, false));
        assert_eq!(of("e", 9, 3..6, &at), (true, true));
        assert_eq!(of("e", 9, 4..10, &at), (false, false), "the third is forgotten");
        assert_eq!(of("e", 2, 1..1, &at), (true, false), "it is the newest");
        assert_eq!(of("e", 4, 1..1, &at), (false, false), "all of it is forgotten");
        assert_eq!(of("f", 4, 1..5, &at), (false, false), "another epoch");
        assert_eq!(of("e", 4, 1..5, &beginning), (true, false));
        assert_eq!(of("e", 4, 2..5, &beginning), (false, false));
        assert_eq!(of("", 0, 1..1, &beginning), (true, false));
        assert_eq!(of("e", 1, 1..1, &at), (false, false), "a place that is to come");
    }
}

//! Receipts over HTTP: `?ack=true` on a user's message, and how far a message has come.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State};
use countersign_protocol::{FieldError, MessageId, receipt::Receipt};
use serde::Deserialize;

use super::{
    input::{Bare, Name},
    problem::Problem,
};
use crate::node::Node;

/// `?ack=&timeout=`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AckWanted {
    ack: Option<bool>,
    timeout: Option<f64>,
}

impl AckWanted {
    /// How long to wait for an acknowledgement, if one is wanted.
    ///
    /// # Errors
    /// A time out of its limits, or one without `ack=true`.
    pub(crate) fn patience(&self) -> Result<Option<Duration>, FieldError> {
        let got = |seconds: f64| seconds.to_string();
        match (self.ack, self.timeout) {
            (Some(true), None) => Ok(Some(PATIENCE)),
            (Some(true), Some(seconds)) => Duration::try_from_secs_f64(seconds)
                .ok()
                .filter(|patience| (SHORTEST..=LONGEST).contains(patience))
                .map(Some)
                .ok_or_else(|| {
                    let expected = format!("seconds from {} to {}", SHORTEST.as_secs_f64(), LONGEST.as_secs());
                    FieldError::new("timeout", expected, got(seconds))
                }),
            (_, Some(seconds)) => {
                Err(FieldError::new("timeout", "nothing, as it limits the wait of ack=true", got(seconds)))
            }
            (_, None) => Ok(None),
        }
    }

    /// # Errors
    /// When an acknowledgement is wanted of more than one person.
    pub(crate) fn none(&self) -> Result<(), FieldError> {
        match self.patience()? {
            None => Ok(()),
            Some(_) => Err(FieldError::new("ack", "nothing, as only a user's message can be acknowledged", "true")),
        }
    }
}

/// How long a request waits that does not say.
const PATIENCE: Duration = Duration::from_secs(5);
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(300);

/// `GET /v1/messages/{id}`
pub(crate) async fn read(State(node): State<Arc<Node>>, Name(id): Name, _: Bare) -> Result<Json<Receipt>, Problem> {
    let receipt = node.receipt(MessageId::parse(&id)?).await?;
    receipt.map(Json).ok_or_else(|| {
        Problem::not_found("no message of this id was to be acknowledged, or the hour is over for which that is known")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_has_limits_and_belongs_to_an_ack() {
        let patience = |ack, timeout| AckWanted { ack, timeout }.patience().map_err(|error| error.to_string());
        assert_eq!(patience(None, None), Ok(None));
        assert_eq!(patience(Some(false), None), Ok(None));
        assert_eq!(patience(Some(true), None), Ok(Some(PATIENCE)));
        for seconds in [0.1, 5.0, 300.0] {
            assert_eq!(patience(Some(true), Some(seconds)), Ok(Some(Duration::from_secs_f64(seconds))));
        }
        for seconds in [0.0, -1.0, 0.09, 300.5, f64::NAN, f64::INFINITY] {
            let error = patience(Some(true), Some(seconds)).unwrap_err();
            assert_eq!(error, format!("timeout: expected seconds from 0.1 to 300, got {seconds}"));
        }
        assert!(patience(None, Some(5.0)).unwrap_err().contains("ack=true"));
        assert!(AckWanted { ack: Some(true), timeout: None }.none().is_err());
    }
}

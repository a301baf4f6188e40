//! Reading a decision. `Decision::proceed` is an `Option`, so that silence with `on_timeout: "fail"` cannot be taken
//! for consent by accident; [`Proceeds::proceeds`] turns it into a `bool` or an error to pass on with `?`.

use countersign_protocol::Decision;

use crate::error::NoAnswer;

/// Whether to go on.
///
/// ```
/// use countersign_client::{Decision, Proceeds};
///
/// let decision: Decision = serde_json::from_str(
///     r#"{"callback_id": "07-000000000000000000000000000000ab", "status": "timed_out", "proceed": null,
///         "feedback": null, "choice": null, "data": null, "resolution": "timeout", "by": null, "at": 1790000300.0}"#,
/// ).unwrap();
/// assert!(decision.proceeds().is_err());
/// ```
pub trait Proceeds {
    /// The answer as a `bool`.
    ///
    /// # Errors
    /// [`NoAnswer`] when the callback ended without one.
    fn proceeds(&self) -> Result<bool, NoAnswer>;
}

impl Proceeds for Decision {
    fn proceeds(&self) -> Result<bool, NoAnswer> {
        self.proceed.ok_or(NoAnswer { callback_id: self.callback_id })
    }
}

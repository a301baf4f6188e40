//! The update of a workflow, as existing services send it to `/api/workflows/{id}/updates`. The gateway does not look
//! into it; this type is for producers and consumers in Rust.

use serde::{Deserialize, Serialize};

/// Progress of one workflow, published to `topic:workflow:<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkflowUpdate {
    /// Which workflow.
    pub workflow_id: String,
    /// A word of the producer's, such as `running`.
    pub status: String,
    /// From 1 to `total_steps`.
    pub current_step: u32,
    /// How many steps there are.
    pub total_steps: u32,
    /// For people.
    pub message: String,
    /// RFC 3339, by the producer's clock.
    pub timestamp: String,
}

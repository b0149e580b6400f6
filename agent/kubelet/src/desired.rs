//! What is to run on this node, as the API side says it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

/// The pods bound to this node.
#[derive(Clone, Debug, Default)]
pub enum Desired {
    /// The API has not been heard since the agent started: nothing may be concluded from a pod's absence.
    #[default]
    Unknown,
    /// All pods with this node's name, mirror pods included.
    Pods(Vec<Arc<Pod>>),
}

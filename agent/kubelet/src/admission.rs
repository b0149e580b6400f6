//! From what the supervisor knows to `pods::admit`, and the answer to a fate.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Taint};
use kedge_pods::admit;
use kedge_pods::pod::Fate;
use kedge_pods::quantity::List;
use kedge_pods::resize::Pending;
use kedge_pods::resolve::NodeFacts;

/// What of the node object and the kernel decides about admission; whoever builds the node object keeps it up to date.
#[derive(Clone, Debug, Default)]
pub struct NodeObject {
    /// Empty until registered: mirror pods wait for it.
    pub uid: String,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    /// Empty: not known yet, and no new pod is admitted.
    pub allocatable: List,
    /// The runtime honours `supplementalGroupsPolicy: Strict`.
    pub strict_groups: bool,
    /// AppArmor is enabled in the kernel.
    pub apparmor: bool,
    pub memory_pressure: bool,
}

/// Can a running pod have the resources it asks for now? `Deferred`: not beside `others`; `Infeasible`: not on this node.
pub fn resize(pod: &Pod, others: &[Arc<Pod>], node: &NodeObject) -> Result<(), Pending> {
    let others: Vec<&Pod> = others.iter().map(Arc::as_ref).collect();
    let fits = |others: &[&Pod]| admit::resources(pod, others, &node.allocatable);
    let pending = |reason, rejection: admit::Rejection| Pending {
        reason,
        message: rejection.message,
    };
    fits(&[]).map_err(|why| pending("Infeasible", why))?;
    fits(&others).map_err(|why| pending("Deferred", why))
}

/// May this pod run beside `others`? A pod that runs already, or is over, was admitted before.
pub fn admit(
    pod: &Pod,
    runs_already: bool,
    others: &[Arc<Pod>],
    node: &NodeObject,
    facts: &NodeFacts,
) -> Fate {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    let over = matches!(phase, Some("Succeeded" | "Failed"));
    if runs_already || over || pod.metadata.deletion_timestamp.is_some() {
        return Fate::Run;
    }
    let others: Vec<&Pod> = others.iter().map(Arc::as_ref).collect();
    let node = admit::Node {
        name: &facts.name,
        labels: &node.labels,
        taints: &node.taints,
        allocatable: &node.allocatable,
        others: &others,
        allowed_sysctls: &facts.allowed_unsafe_sysctls,
        strict_groups: node.strict_groups,
        apparmor: node.apparmor,
        memory_pressure: node.memory_pressure,
        shutting_down: false,
    };
    match admit::admit(pod, &node) {
        Ok(()) => Fate::Run,
        Err(admit::Rejection { reason, message }) => Fate::Rejected { reason, message },
    }
}

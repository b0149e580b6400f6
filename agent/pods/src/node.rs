//! The Node object and the Lease: what the node says about itself, and when.
//!
//! In: [`Facts`] (values read elsewhere), the object as the API has it, the time. Out: the object to register
//! ([`register`]), the status to write ([`status`]), the Lease ([`lease`]). Others' labels, annotations, capacities and conditions
//! are kept. When to write is the API client's to know.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeSpec, NodeStatus, NodeSystemInfo, Taint,
};

use crate::Now;
use crate::quantity::{self, Amount, List};

pub mod conditions;
pub mod lease;

pub use conditions::{Pressure, Readiness};
pub use lease::lease;

/// Images listed, and names of each.
const MAX_IMAGES: usize = 50;
const MAX_NAMES: usize = 5;

/// Everything the node object is made from.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub name: String,
    pub hostname: String,
    /// Primary first.
    pub addresses: Vec<IpAddr>,
    /// `amd64`, `arm64`
    pub architecture: String,
    /// From the machine config.
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub provider_id: Option<String>,
    pub cpus: u64,
    pub memory: u64,
    pub ephemeral_storage: u64,
    pub max_pods: u64,
    /// (page size in bytes, bytes set aside)
    pub huge_pages: Vec<(u64, u64)>,
    /// Kept back from pods: CPU in thousandths, memory and storage in bytes.
    pub reserved_cpu_milli: u64,
    pub reserved_memory: u64,
    /// Memory that must be left for the node not to be under pressure: kept back from the scheduler, not from pods that run.
    pub pressure_memory: u64,
    pub reserved_storage: u64,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel_version: String,
    pub os_image: String,
    /// `containerd://2.4.2`
    pub runtime_version: String,
    /// `v1.37.1+kedge…`
    pub kubelet_version: String,
    pub kubelet_port: u16,
    /// (names, bytes), any order.
    pub images: Vec<(Vec<String>, u64)>,
    pub runtime_handlers: Vec<NodeRuntimeHandler>,
    pub supplemental_groups_policy: bool,
    pub pressure: Pressure,
    pub readiness: Readiness,
    /// A further condition of our own: (type, true, reason, message).
    pub notes: Vec<(String, bool, String, String)>,
}

const OS_LABELS: [&str; 2] = ["kubernetes.io/os", "beta.kubernetes.io/os"];
const ARCH_LABELS: [&str; 2] = ["kubernetes.io/arch", "beta.kubernetes.io/arch"];

/// Labels that the node sets itself.
pub fn own_labels(facts: &Facts) -> BTreeMap<String, String> {
    let mut labels = facts.labels.clone();
    for key in OS_LABELS {
        labels.insert(key.into(), "linux".into());
    }
    for key in ARCH_LABELS {
        labels.insert(key.into(), facts.architecture.clone());
    }
    labels.insert("kubernetes.io/hostname".into(), facts.hostname.clone());
    labels
}

/// The object to create, or, when it exists already, what it is to become: our labels set, everything else kept. Taints and
/// the provider are set at creation only: afterwards they are the administrator's.
pub fn register(facts: &Facts, existing: Option<&Node>, now: Now) -> Node {
    let mut node = existing.cloned().unwrap_or_default();
    node.metadata.name = Some(facts.name.clone());
    node.metadata
        .labels
        .get_or_insert_with(BTreeMap::new)
        .extend(own_labels(facts));
    node.metadata
        .annotations
        .get_or_insert_with(BTreeMap::new)
        .insert(
            "volumes.kubernetes.io/controller-managed-attach-detach".into(),
            "true".into(),
        );
    if existing.is_none() {
        let spec = node.spec.get_or_insert_with(NodeSpec::default);
        spec.taints = (!facts.taints.is_empty()).then(|| facts.taints.clone());
        spec.provider_id.clone_from(&facts.provider_id);
    }
    node.status = Some(status(facts, existing, now));
    node
}

/// The status to report.
pub fn status(facts: &Facts, existing: Option<&Node>, now: Now) -> NodeStatus {
    let old = existing.and_then(|n| n.status.clone()).unwrap_or_default();
    let capacity = capacity(facts, old.capacity.as_ref());
    NodeStatus {
        allocatable: Some(allocatable(facts, &capacity)),
        capacity: Some(capacity),
        addresses: Some(addresses(facts)),
        conditions: Some(conditions::all(
            facts,
            old.conditions.as_deref().unwrap_or_default(),
            now,
        )),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint {
                port: i32::from(facts.kubelet_port),
            }),
        }),
        features: Some(NodeFeatures {
            supplemental_groups_policy: Some(facts.supplemental_groups_policy),
        }),
        images: Some(images(&facts.images)),
        node_info: Some(info(facts)),
        runtime_handlers: (!facts.runtime_handlers.is_empty())
            .then(|| facts.runtime_handlers.clone()),
        ..old
    }
}

/// `hugepages-2Mi`
fn page_size(bytes: u64) -> String {
    format!("hugepages-{}", quantity::bytes(bytes).0)
}

/// What the machine has; resources that others added to the object stay.
fn capacity(facts: &Facts, old: Option<&List>) -> List {
    let mut list = old.cloned().unwrap_or_default();
    list.retain(|name, _| !name.starts_with("hugepages-"));
    list.insert("cpu".into(), quantity::cpu(facts.cpus * 1000));
    list.insert("memory".into(), quantity::bytes(facts.memory));
    list.insert(
        "ephemeral-storage".into(),
        quantity::bytes(facts.ephemeral_storage),
    );
    list.insert("pods".into(), quantity::count(facts.max_pods));
    for (size, bytes) in &facts.huge_pages {
        list.insert(page_size(*size), quantity::bytes(*bytes));
    }
    list
}

/// Capacity less what is kept back; huge pages are no ordinary memory.
fn allocatable(facts: &Facts, capacity: &List) -> List {
    let mut list = capacity.clone();
    let huge: u64 = facts.huge_pages.iter().map(|(_, bytes)| bytes).sum();
    let less = |value: u64, back: u64| value.saturating_sub(back);
    let cpu = less(facts.cpus * 1000, facts.reserved_cpu_milli);
    list.insert("cpu".into(), quantity::cpu(cpu));
    let memory = less(
        facts.memory,
        facts.reserved_memory + facts.pressure_memory + huge,
    );
    list.insert("memory".into(), quantity::bytes(memory));
    // Upstream writes storage as a plain number.
    let storage = less(facts.ephemeral_storage, facts.reserved_storage);
    list.insert("ephemeral-storage".into(), quantity::count(storage));
    list.retain(|_, q| Amount::of(q).is_some());
    list
}

fn addresses(facts: &Facts) -> Vec<NodeAddress> {
    let address = |type_: &str, address: String| NodeAddress {
        type_: type_.into(),
        address,
    };
    let ips = facts
        .addresses
        .iter()
        .map(|ip| address("InternalIP", ip.to_string()));
    ips.chain([address("Hostname", facts.hostname.clone())])
        .collect()
}

fn info(facts: &Facts) -> NodeSystemInfo {
    NodeSystemInfo {
        architecture: facts.architecture.clone(),
        boot_id: facts.boot_id.clone(),
        container_runtime_version: facts.runtime_version.clone(),
        kernel_version: facts.kernel_version.clone(),
        kube_proxy_version: String::new(),
        kubelet_version: facts.kubelet_version.clone(),
        machine_id: facts.machine_id.clone(),
        operating_system: "linux".into(),
        os_image: facts.os_image.clone(),
        running_in_user_namespace: None,
        swap: None,
        system_uuid: facts.system_uuid.clone(),
    }
}

/// The largest ones, with digests before tags as the runtime lists them.
fn images(all: &[(Vec<String>, u64)]) -> Vec<ContainerImage> {
    let mut list: Vec<&(Vec<String>, u64)> = all.iter().collect();
    list.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    list.into_iter()
        .take(MAX_IMAGES)
        .map(|(names, bytes)| ContainerImage {
            names: Some(names.iter().take(MAX_NAMES).cloned().collect()),
            size_bytes: i64::try_from(*bytes).ok(),
        })
        .collect()
}

#[cfg(test)]
mod tests;

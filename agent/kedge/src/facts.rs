//! The node's facts, put together from everybody who knows one. Pure: readings in, `pods`' values out.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, NodeRuntimeHandler, NodeRuntimeHandlerFeatures, Taint};
use kedge_host::network::NodeNetwork;
use kedge_host::peers::PeersStatus;
use kedge_kubelet::{Condition, NodeObject, RuntimeFacts};
use kedge_machine::config::{Cluster, MachineConfig};
use kedge_metrics::Machine;
use kedge_pods::node::{Facts, Pressure, Readiness};
use kedge_pods::resolve::NodeFacts;
use kedge_pods::spec::DnsConfig;

/// The pinned Kubernetes version with our own behind it: some upstream tests compare it, so it must be a semantic version.
pub const KUBELET_VERSION: &str = concat!("v1.37.1+kedge.", env!("CARGO_PKG_VERSION"));

/// Memory below this is pressure (upstream's default `memory.available<100Mi`).
const MEMORY_PRESSURE: u64 = 100 << 20;
/// Free space below this part of DATA is pressure (`nodefs.available<10%`).
const DISK_PRESSURE_PERCENT: u64 = 10;

/// What was read of the machine just now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readings {
    /// What does not change.
    pub machine: Machine,
    /// `MemAvailable`, bytes.
    pub memory_available: u64,
    /// DATA: (capacity, available), bytes. `None` when it cannot be asked.
    pub data: Option<(u64, u64)>,
    /// Faults that init found at boot: (code, sentence).
    pub boot_faults: Vec<(String, String)>,
}

/// For the Node object.
pub fn node(
    name: &str,
    config: &MachineConfig,
    readings: &Readings,
    addresses: &[IpAddr],
    network: &NodeNetwork,
    peers: &PeersStatus,
    runtime: &RuntimeFacts,
) -> Facts {
    let machine = &readings.machine;
    let (capacity, available) = readings.data.unwrap_or_default();
    let mut notes = Vec::new();
    let faults: Vec<&str> = network
        .faults
        .iter()
        .chain(&peers.faults)
        .chain(readings.boot_faults.iter().map(|(_, sentence)| sentence))
        .map(String::as_str)
        .collect();
    // One condition of our own gathers what the operator should look at; it never makes the node unready by itself.
    notes.push(if faults.is_empty() {
        (
            "KedgeFault".to_owned(),
            false,
            "NoFault".to_owned(),
            "nothing to look at".to_owned(),
        )
    } else {
        (
            "KedgeFault".to_owned(),
            true,
            "SeeMessage".to_owned(),
            faults.join("; "),
        )
    });
    notes.push(if peers.published {
        (
            "NetworkUnavailable".to_owned(),
            false,
            "PodNetworkReady".to_owned(),
            "the pod network is set up".to_owned(),
        )
    } else {
        (
            "NetworkUnavailable".to_owned(),
            true,
            "NoPodRange".to_owned(),
            "waiting for a pod range: does the controller manager run with --allocate-node-cidrs?"
                .to_owned(),
        )
    });
    let mut problems = runtime_problems(runtime);
    if !peers.published {
        problems.push("the pod network is not set up: this node has no pod range yet".to_owned());
    }
    Facts {
        name: name.to_owned(),
        hostname: name.to_owned(),
        addresses: addresses.to_vec(),
        architecture: architecture().to_owned(),
        labels: config.node.labels.clone(),
        taints: config.node.taints.iter().map(taint).collect(),
        cpus: u64::from(machine.cpus),
        memory: machine.memory_bytes,
        ephemeral_storage: capacity,
        max_pods: u64::from(config.kubelet.max_pods),
        reserved_cpu_milli: config.kubelet.system_reserved.cpu_millis,
        reserved_memory: config.kubelet.system_reserved.memory_bytes,
        pressure_memory: MEMORY_PRESSURE,
        reserved_storage: capacity / 100 * DISK_PRESSURE_PERCENT,
        machine_id: machine.machine_id.clone(),
        system_uuid: machine.system_uuid.clone(),
        boot_id: machine.boot_id.clone(),
        kernel_version: machine.kernel.clone(),
        os_image: machine.os_image.clone(),
        runtime_version: runtime.version.clone(),
        kubelet_version: KUBELET_VERSION.to_owned(),
        kubelet_port: 10250,
        images: runtime
            .images
            .iter()
            .map(|i| (i.names.clone(), i.size))
            .collect(),
        runtime_handlers: runtime.handlers.iter().map(handler).collect(),
        supplemental_groups_policy: strict_groups(runtime),
        pressure: Pressure {
            memory: readings.memory_available < MEMORY_PRESSURE && machine.memory_bytes > 0,
            disk: capacity > 0 && available < capacity / 100 * DISK_PRESSURE_PERCENT,
            pid: false,
        },
        readiness: Readiness { problems },
        notes,
        ..Facts::default()
    }
}

/// Why the runtime keeps pods from running, as sentences; empty when it does not.
pub fn runtime_problems(runtime: &RuntimeFacts) -> Vec<String> {
    let said = |condition: &Condition| match condition {
        Condition::Ok => None,
        Condition::Not(reason, message) => Some(format!("{reason}: {message}")),
    };
    said(&runtime.runtime)
        .into_iter()
        .chain(said(&runtime.network))
        .collect()
}

fn strict_groups(runtime: &RuntimeFacts) -> bool {
    runtime
        .features
        .as_ref()
        .is_some_and(|f| f.supplemental_groups_policy)
}

fn handler(handler: &kedge_cri::v1::RuntimeHandler) -> NodeRuntimeHandler {
    NodeRuntimeHandler {
        name: Some(handler.name.clone()),
        features: handler
            .features
            .as_ref()
            .map(|f| NodeRuntimeHandlerFeatures {
                recursive_read_only_mounts: Some(f.recursive_read_only_mounts),
                user_namespaces: Some(f.user_namespaces),
            }),
    }
}

/// For admission: the Node as it is in the API, with what this boot knows better.
pub fn for_admission(node: &Node, facts: &Facts, apparmor: bool) -> NodeObject {
    let status = node.status.as_ref();
    NodeObject {
        uid: node.metadata.uid.clone().unwrap_or_default(),
        labels: node.metadata.labels.clone().unwrap_or_default(),
        taints: node
            .spec
            .as_ref()
            .and_then(|s| s.taints.clone())
            .unwrap_or_default(),
        allocatable: status
            .and_then(|s| s.allocatable.clone())
            .unwrap_or_default(),
        strict_groups: facts.supplemental_groups_policy,
        apparmor,
        memory_pressure: facts.pressure.memory,
    }
}

/// For the specs of pods.
pub fn for_pods(
    name: &str,
    cluster: Option<&Cluster>,
    facts: &Facts,
    hosts: String,
    resolv: DnsConfig,
    swap_controller: bool,
) -> NodeFacts {
    let pods_memory = facts.memory.saturating_sub(facts.reserved_memory);
    NodeFacts {
        name: name.to_owned(),
        host_ips: facts.addresses.clone(),
        cluster_domain: cluster.map_or_else(|| "cluster.local".to_owned(), |c| c.domain.clone()),
        cluster_dns: cluster
            .map(|c| c.dns.iter().map(ToString::to_string).collect())
            .unwrap_or_default(),
        resolv,
        hosts,
        cpu_milli: facts.cpus * 1000,
        memory: facts.memory,
        allocatable_cpu_milli: (facts.cpus * 1000).saturating_sub(facts.reserved_cpu_milli),
        allocatable_memory: pods_memory.saturating_sub(facts.pressure_memory),
        pods_memory,
        swap_controller,
        allocatable_ephemeral_storage: facts
            .ephemeral_storage
            .saturating_sub(facts.reserved_storage),
        recursive_read_only_handlers: facts
            .runtime_handlers
            .iter()
            .filter(|h| {
                h.features
                    .as_ref()
                    .and_then(|f| f.recursive_read_only_mounts)
                    == Some(true)
            })
            .map(|h| h.name.clone().unwrap_or_default())
            .collect(),
        ..NodeFacts::default()
    }
}

/// What `/configz` shows: a KubeletConfiguration with what this config decides; the rest has upstream's defaults.
pub fn configuration(config: &MachineConfig) -> serde_json::Value {
    let cluster = config.cluster.as_ref();
    serde_json::json!({
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "staticPodPath": kedge_machine::paths::MANIFESTS,
        "maxPods": config.kubelet.max_pods,
        "readOnlyPort": if config.kubelet.read_only_port { 10255 } else { 0 },
        "clusterDomain": cluster.map(|c| c.domain.clone()),
        "clusterDNS": cluster.map(|c| c.dns.clone()),
        "cgroupDriver": "cgroupfs",
        "containerRuntimeEndpoint": format!("unix://{}", kedge_machine::paths::CONTAINERD_SOCKET),
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}},
        "authorization": {"mode": "Webhook"},
        "rotateCertificates": true,
        "serverTLSBootstrap": true,
    })
}

fn taint(taint: &kedge_machine::config::Taint) -> Taint {
    Taint {
        key: taint.key.clone(),
        value: (!taint.value.is_empty()).then(|| taint.value.clone()),
        effect: taint.effect.clone(),
        time_added: None,
    }
}

/// The Go name of this architecture, which Kubernetes uses.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> MachineConfig {
        MachineConfig::parse(
            "apiVersion: kedge.dev/v1alpha1\nkind: MachineConfig\nnode:\n  taints: [\"a=b:NoExecute\"]\nkubelet: {maxPods: 7}\n",
        )
        .unwrap()
    }

    fn facts(readings: &Readings, network: &NodeNetwork, published: bool) -> Facts {
        let peers = PeersStatus {
            published,
            faults: Vec::new(),
        };
        let runtime = RuntimeFacts {
            runtime: Condition::Ok,
            network: Condition::Ok,
            ..RuntimeFacts::default()
        };
        node("n", &config(), readings, &[], network, &peers, &runtime)
    }

    #[test]
    fn a_fault_is_shown_without_making_the_node_unready() {
        let network = NodeNetwork {
            faults: vec!["address 192.0.2.7/24 on eth0 is already used".into()],
            ..NodeNetwork::default()
        };
        let facts = facts(&Readings::default(), &network, true);
        assert!(facts.readiness.problems.is_empty());
        assert!(facts.notes[0].1);
        assert!(facts.notes[0].3.contains("already used"));
    }

    #[test]
    fn a_node_without_a_pod_range_is_not_ready_and_says_why() {
        let facts = facts(&Readings::default(), &NodeNetwork::default(), false);
        assert!(facts.readiness.problems[0].contains("pod range"));
    }

    #[test]
    fn pressure_follows_the_default_thresholds() {
        let mut readings = Readings {
            memory_available: 99 << 20,
            data: Some((1000, 99)),
            ..Readings::default()
        };
        readings.machine.memory_bytes = 512 << 20;
        assert_eq!(
            facts(&readings, &NodeNetwork::default(), true).pressure,
            Pressure {
                memory: true,
                disk: true,
                pid: false
            }
        );
        readings.memory_available = 101 << 20;
        readings.data = Some((1000, 101));
        assert_eq!(
            facts(&readings, &NodeNetwork::default(), true).pressure,
            Pressure::default()
        );
    }

    #[test]
    fn pods_that_run_may_use_what_the_scheduler_leaves_free_but_not_what_is_the_systems() {
        let mut readings = Readings::default();
        readings.machine.memory_bytes = 512 << 20;
        let mut config = config();
        config.kubelet.system_reserved.memory_bytes = 50 << 20;
        let (network, runtime) = (NodeNetwork::default(), RuntimeFacts::default());
        let peers = PeersStatus::default();
        let facts = node("n", &config, &readings, &[], &network, &peers, &runtime);
        let pods = for_pods("n", None, &facts, String::new(), DnsConfig::default(), true);
        assert_eq!(pods.pods_memory, 462 << 20);
        assert_eq!(pods.allocatable_memory, 362 << 20);
        let object = kedge_pods::node::register(
            &facts,
            None,
            kedge_pods::Now {
                mono: std::time::Duration::ZERO,
                wall: 0,
            },
        );
        let allocatable = object.status.unwrap().allocatable.unwrap();
        assert_eq!(allocatable["memory"].0, "362Mi");
    }

    #[test]
    fn the_version_is_semantic_and_carries_ours() {
        assert!(KUBELET_VERSION.starts_with("v1.37.1+kedge."));
        let facts = facts(&Readings::default(), &NodeNetwork::default(), true);
        assert_eq!(
            (facts.max_pods, facts.taints[0].value.as_deref()),
            (7, Some("b"))
        );
    }
}

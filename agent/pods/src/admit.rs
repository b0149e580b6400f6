//! Admission: may this pod run on this node? The scheduler has been asked before; this is the node's own last look.
//!
//! In: the pod, the node, the pods already admitted. Out: nothing, or a [`Rejection`] with upstream's reason and message,
//! which becomes phase Failed. Deliberately absent: preemption (a critical pod that does not fit is refused), eviction.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodSpec, Taint};

use crate::fields;
use crate::pod;
use crate::qos;
use crate::quantity::{List, amount};
use crate::selector;

/// Sysctls that are confined to their pod (kernel 6.1 and later).
const SAFE_SYSCTLS: [&str; 14] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_notsent_lowat",
];

/// What admission looks at.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    pub name: &'a str,
    pub labels: &'a BTreeMap<String, String>,
    pub taints: &'a [Taint],
    /// As in the node object, with `pods` and foreign resources.
    pub allocatable: &'a List,
    /// Pods admitted before and not finished, without this one.
    pub others: &'a [&'a Pod],
    /// Sysctls allowed beyond the safe ones: names, or prefixes ending in `*`.
    pub allowed_sysctls: &'a [String],
    /// The runtime honours `supplementalGroupsPolicy: Strict`.
    pub strict_groups: bool,
    /// AppArmor is enabled in the kernel.
    pub apparmor: bool,
    /// The node is short of memory: BestEffort pods are refused.
    pub memory_pressure: bool,
    /// The node is going down.
    pub shutting_down: bool,
}

/// Why a pod may not run here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Rejection {
    pub reason: String,
    pub message: String,
}

fn no(reason: &str, message: impl Into<String>) -> Result<(), Rejection> {
    Err(Rejection {
        reason: reason.to_owned(),
        message: message.into(),
    })
}

/// All checks in upstream's order, after our own: fields that this node does not support.
pub fn admit(pod: &Pod, node: &Node<'_>) -> Result<(), Rejection> {
    supported(pod)?;
    if node.shutting_down {
        return no(
            "NodeShutdown",
            "Pod was rejected as the node is shutting down.",
        );
    }
    pressure(pod, node)?;
    sysctls(pod, node)?;
    apparmor(pod, node)?;
    operating_system(pod)?;
    groups_policy(pod, node)?;
    resources(pod, node.others, node.allocatable)?;
    affinity(pod, node)?;
    host_ports(pod, node)?;
    taints(pod, node)
}

fn supported(pod: &Pod) -> Result<(), Rejection> {
    let refused = fields::check(pod);
    if refused.is_empty() {
        return Ok(());
    }
    let text: Vec<String> = refused.iter().map(ToString::to_string).collect();
    no("UnsupportedField", text.join("; "))
}

fn pressure(pod: &Pod, node: &Node<'_>) -> Result<(), Rejection> {
    let harmless = pod::is_critical(pod) || qos::class(pod::spec(pod)) != qos::Class::BestEffort;
    if !node.memory_pressure || harmless {
        return Ok(());
    }
    no("Evicted", "The node had condition: [MemoryPressure]. ")
}

fn sysctls(pod: &Pod, node: &Node<'_>) -> Result<(), Rejection> {
    let spec = pod::spec(pod);
    let list = spec
        .security_context
        .as_ref()
        .and_then(|s| s.sysctls.as_ref());
    for sysctl in list.into_iter().flatten() {
        let name = sysctl.name.replace('/', ".");
        let allowed = SAFE_SYSCTLS.contains(&name.as_str())
            || node.allowed_sysctls.iter().any(|pattern| {
                pattern == &name
                    || pattern
                        .strip_suffix('*')
                        .is_some_and(|p| name.starts_with(p))
            });
        if !allowed {
            return no(
                "SysctlForbidden",
                format!("forbidden sysctl: {name:?} not allowlisted"),
            );
        }
        let of_host = (name.starts_with("net.") && spec.host_network == Some(true))
            || (is_ipc(&name) && spec.host_ipc == Some(true));
        if of_host {
            let what = if is_ipc(&name) {
                "host ipc"
            } else {
                "host net"
            };
            return no(
                "SysctlForbidden",
                format!("forbidden sysctl: {name:?} not allowed with {what} enabled"),
            );
        }
    }
    Ok(())
}

fn is_ipc(name: &str) -> bool {
    ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."]
        .iter()
        .any(|p| name.starts_with(p))
}

fn apparmor(pod: &Pod, node: &Node<'_>) -> Result<(), Rejection> {
    let spec = pod::spec(pod);
    let of_pod = spec
        .security_context
        .as_ref()
        .and_then(|s| s.app_armor_profile.as_ref());
    let wanted = pod::members(spec).any(|m| {
        let own = m
            .spec
            .security_context
            .as_ref()
            .and_then(|s| s.app_armor_profile.as_ref());
        own.or(of_pod).is_some_and(|p| p.type_ != "Unconfined")
    });
    if wanted && !node.apparmor {
        return no(
            "AppArmor",
            "Cannot enforce AppArmor: AppArmor is not enabled on the host",
        );
    }
    Ok(())
}

fn operating_system(pod: &Pod) -> Result<(), Rejection> {
    const LABEL: &str = "kubernetes.io/os";
    let label = pod.metadata.labels.as_ref().and_then(|l| l.get(LABEL));
    if label.is_some_and(|os| os != "linux") {
        return no(
            "PodOSSelectorNodeLabelDoesNotMatch",
            format!("Failed to admit pod as the `{LABEL}` label doesn't match node label"),
        );
    }
    if pod::spec(pod)
        .os
        .as_ref()
        .is_some_and(|os| os.name != "linux")
    {
        return no(
            "PodOSNotSupported",
            "Failed to admit pod as the OS field doesn't match node OS",
        );
    }
    Ok(())
}

fn groups_policy(pod: &Pod, node: &Node<'_>) -> Result<(), Rejection> {
    let policy = pod::spec(pod)
        .security_context
        .as_ref()
        .and_then(|s| s.supplemental_groups_policy.as_deref());
    if policy == Some("Strict") && !node.strict_groups {
        return no(
            "SupplementalGroupsPolicyNotSupported",
            format!(
                "SupplementalGroupsPolicy=Strict is not supported in this node ({})",
                node.name
            ),
        );
    }
    Ok(())
}

/// Do the pod's requests fit beside those of the others?
pub fn resources(pod: &Pod, others: &[&Pod], allocatable: &List) -> Result<(), Rejection> {
    let count = others.len() as i64;
    let pods = amount(Some(allocatable), "pods").map_or(i64::MAX, |a| a.units());
    if count + 1 > pods {
        return insufficient("OutOfpods", "pods", (1, count, pods));
    }
    let mut names = vec![
        "cpu".to_owned(),
        "memory".to_owned(),
        "ephemeral-storage".to_owned(),
    ];
    // A resource that the node does not have is somebody else's accounting (upstream ignores it here too).
    let spec = pod::spec(pod);
    let asked = pod::members(spec).flat_map(|m| {
        let requests = m.spec.resources.as_ref().and_then(|r| r.requests.clone());
        requests.unwrap_or_default().into_keys()
    });
    for name in asked {
        if !names.contains(&name) && allocatable.contains_key(&name) {
            names.push(name);
        }
    }
    for name in names {
        let Some(capacity) = amount(Some(allocatable), &name) else {
            continue;
        };
        let wanted = qos::pod_request(spec, &name);
        let used: i128 = others
            .iter()
            .map(|p| qos::pod_request(pod::spec(p), &name).0)
            .sum();
        if wanted.0 > 0 && wanted.0 + used > capacity.0 {
            let show =
                |a: crate::quantity::Amount| if name == "cpu" { a.milli() } else { a.units() };
            let figures = (
                show(wanted),
                show(crate::quantity::Amount(used)),
                show(capacity),
            );
            return insufficient(&format!("OutOf{name}"), &name, figures);
        }
    }
    Ok(())
}

fn insufficient(
    reason: &str,
    name: &str,
    (wanted, used, capacity): (i64, i64, i64),
) -> Result<(), Rejection> {
    no(
        reason,
        format!(
            "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {capacity}"
        ),
    )
}

fn affinity(pod: &Pod, node: &Node<'_>) -> Result<(), Rejection> {
    let spec = pod::spec(pod);
    if !selector::matches_node(spec, node.name, node.labels) {
        return no(
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        );
    }
    let named = spec.node_name.as_deref().filter(|n| !n.is_empty());
    if named.is_some_and(|n| n != node.name) {
        return no(
            "NodeName",
            "Predicate NodeName failed: node(s) didn't match the requested node name",
        );
    }
    Ok(())
}

fn host_ports(pod: &Pod, node: &Node<'_>) -> Result<(), Rejection> {
    let own = ports(pod::spec(pod));
    let taken = |(ip, protocol, port): &(String, String, i32)| {
        node.others
            .iter()
            .flat_map(|p| ports(pod::spec(p)))
            .any(|(i, pr, po)| {
                let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
                pr == *protocol && po == *port && (i == *ip || any(&i) || any(ip))
            })
    };
    if own.iter().any(taken) {
        return no(
            "NodePorts",
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
        );
    }
    Ok(())
}

fn ports(spec: &PodSpec) -> Vec<(String, String, i32)> {
    let host_network = pod::host_network(spec);
    let sidecars = pod::init(spec).filter(|m| m.kind == pod::Kind::Sidecar);
    sidecars
        .chain(pod::apps(spec))
        .flat_map(|m| m.spec.ports.clone().unwrap_or_default())
        .filter_map(|p| {
            let port = p.host_port.or(host_network.then_some(p.container_port))?;
            let protocol = p.protocol.unwrap_or_else(|| "TCP".into());
            (port > 0).then(|| (p.host_ip.unwrap_or_default(), protocol, port))
        })
        .collect()
}

/// NoExecute taints, which the taint controller would evict for; static pods are the administrator's own.
fn taints(pod: &Pod, node: &Node<'_>) -> Result<(), Rejection> {
    if pod::is_static(pod) {
        return Ok(());
    }
    let tolerations = pod::spec(pod).tolerations.as_deref().unwrap_or_default();
    let mut bad = node.taints.iter().filter(|t| t.effect == "NoExecute");
    if bad.any(|t| !selector::tolerates(tolerations, t)) {
        return no(
            "TaintToleration",
            "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;

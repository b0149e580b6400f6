//! The sandbox: names, network, cgroup, what all containers share.

use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, PodSpec};

use super::{NodeFacts, Objects, Reason, security};
use crate::logs;
use crate::pod;
use crate::qos;
use crate::quantity::{milli, units};
use crate::resolv;
use crate::spec::{
    LinuxResources, PortMapping, Protocol, SandboxSecurity, SandboxSpec, SecurityProfile, labels,
};

/// The longest host name the kernel takes.
const MAX_HOSTNAME: usize = 63;
const MAX_FQDN: usize = 64;

/// The spec of a pod's sandbox.
pub fn sandbox(
    pod: &Pod,
    objects: &Objects,
    node: &NodeFacts,
    attempt: u32,
) -> Result<SandboxSpec, Reason> {
    let spec = pod::spec(pod);
    Ok(SandboxSpec {
        name: pod::name(pod).to_owned(),
        namespace: pod::namespace(pod).to_owned(),
        uid: pod::uid(pod).to_owned(),
        attempt,
        hostname: if pod::host_network(spec) {
            String::new()
        } else {
            hostname(pod, node)?
        },
        log_directory: logs::pod_directory(&node.pod_logs, pod)
            .display()
            .to_string(),
        dns: resolv::pod_dns(pod, node).config,
        port_mappings: port_mappings(spec),
        labels: labels::sandbox_labels(pod),
        annotations: labels::sandbox_annotations(pod),
        runtime_handler: handler(spec, objects)?,
        cgroup_parent: qos::pod_cgroup_path(pod),
        sysctls: sysctls(spec),
        security: security(spec),
        overhead: spec
            .overhead
            .as_ref()
            .map(|o| resources(milli(Some(o), "cpu"), 0, units(Some(o), "memory"))),
        resources: Some(pod_resources(spec)),
    })
}

/// The handler of the pod's RuntimeClass.
fn handler(spec: &PodSpec, objects: &Objects) -> Result<String, Reason> {
    let Some(name) = spec.runtime_class_name.as_deref().filter(|n| !n.is_empty()) else {
        return Ok(String::new());
    };
    match &objects.runtime_class {
        Some(class) if class.metadata.name.as_deref() == Some(name) => Ok(class.handler.clone()),
        _ => Err(Reason::new(
            "FailedCreatePodSandBox",
            format!("RuntimeClass {name:?} not found"),
        )),
    }
}

fn security(spec: &PodSpec) -> SandboxSecurity {
    let empty = PodSecurityContext::default();
    let of_pod = spec.security_context.as_ref().unwrap_or(&empty);
    let privileged =
        |c: &Container| c.security_context.as_ref().and_then(|s| s.privileged) == Some(true);
    SandboxSecurity {
        namespaces: security::namespaces(spec),
        selinux: of_pod.se_linux_options.as_ref().map(security::selinux),
        run_as_user: of_pod.run_as_user,
        run_as_group: of_pod.run_as_group,
        readonly_rootfs: false,
        supplemental_groups: security::supplemental_groups(of_pod),
        supplemental_groups_policy: security::groups_policy(of_pod),
        privileged: pod::members(spec).any(|m| privileged(&m.spec)),
        seccomp: SecurityProfile::RuntimeDefault,
        apparmor: of_pod.app_armor_profile.as_ref().map(security::apparmor),
    }
}

fn port_mappings(spec: &PodSpec) -> Vec<PortMapping> {
    if pod::host_network(spec) {
        return Vec::new();
    }
    let sidecars = pod::init(spec).filter(|m| m.kind == pod::Kind::Sidecar);
    sidecars
        .chain(pod::apps(spec))
        .flat_map(|m| m.spec.ports.clone().unwrap_or_default())
        .filter_map(|p| {
            Some(PortMapping {
                protocol: match p.protocol.as_deref() {
                    Some("UDP") => Protocol::Udp,
                    Some("SCTP") => Protocol::Sctp,
                    _ => Protocol::Tcp,
                },
                container_port: u16::try_from(p.container_port).ok()?,
                host_port: u16::try_from(p.host_port?).ok().filter(|p| *p != 0)?,
                host_ip: p.host_ip.unwrap_or_default(),
            })
        })
        .collect()
}

fn sysctls(spec: &PodSpec) -> std::collections::BTreeMap<String, String> {
    let list = spec
        .security_context
        .as_ref()
        .and_then(|s| s.sysctls.as_ref());
    list.into_iter()
        .flatten()
        .map(|s| (s.name.replace('/', "."), s.value.clone()))
        .collect()
}

fn pod_resources(spec: &PodSpec) -> LinuxResources {
    let number = |v: i64| u64::try_from(v).unwrap_or(0);
    let mut r = resources(
        number(qos::pod_request(spec, "cpu").milli()),
        number(qos::pod_limit(spec, "cpu").milli()),
        number(qos::pod_limit(spec, "memory").units()),
    );
    let cgroup = qos::pod_cgroup(&Pod {
        spec: Some(spec.clone()),
        ..Pod::default()
    });
    if cgroup.cpu_quota.is_none() {
        r.cpu_quota = 0;
    }
    if cgroup.memory_max.is_none() {
        r.memory_limit = 0;
    }
    r
}

fn resources(request_milli: u64, limit_milli: u64, memory: u64) -> LinuxResources {
    let signed = |v: u64| i64::try_from(v).unwrap_or(i64::MAX);
    LinuxResources {
        cpu_period: signed(qos::PERIOD),
        cpu_shares: signed(qos::shares(request_milli)),
        cpu_quota: signed(qos::quota(limit_milli)),
        memory_limit: signed(memory),
        ..LinuxResources::default()
    }
}

/// The name the pod's kernel is told.
pub fn hostname(pod: &Pod, node: &NodeFacts) -> Result<String, Reason> {
    let (name, domain) = hostname_and_domain(pod, node);
    if pod::spec(pod).set_hostname_as_fqdn != Some(true) || domain.is_empty() {
        return Ok(name);
    }
    let fqdn = format!("{name}.{domain}");
    if fqdn.len() > MAX_FQDN {
        return Err(Reason::new(
            "FailedCreatePodSandBox",
            format!(
                "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long ({MAX_FQDN} characters is the max, {} characters requested)",
                fqdn.len()
            ),
        ));
    }
    Ok(fqdn)
}

/// Short name and domain (empty without a subdomain).
pub fn hostname_and_domain(pod: &Pod, node: &NodeFacts) -> (String, String) {
    let spec = pod::spec(pod);
    if let Some(name) = spec.hostname_override.as_deref().filter(|h| !h.is_empty()) {
        return (cut(name), String::new());
    }
    let name = spec
        .hostname
        .as_deref()
        .filter(|h| !h.is_empty())
        .unwrap_or_else(|| pod::name(pod));
    let domain = match spec.subdomain.as_deref().filter(|s| !s.is_empty()) {
        Some(sub) => format!("{sub}.{}.svc.{}", pod::namespace(pod), node.cluster_domain),
        None => String::new(),
    };
    (cut(name), domain)
}

fn cut(name: &str) -> String {
    if name.len() <= MAX_HOSTNAME {
        return name.to_owned();
    }
    let mut end = MAX_HOSTNAME;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].trim_end_matches(['-', '.']).to_owned()
}

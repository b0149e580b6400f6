//! `SandboxSpec` to CRI.

use kedge_cri::v1;
use kedge_pods::spec::{DnsConfig, PortMapping, Protocol, SandboxSecurity, SandboxSpec};

use super::{groups_policy, namespaces, number, profile, resources, selinux};

/// The message and the runtime handler that go into `RunPodSandbox`.
pub fn sandbox_config(spec: SandboxSpec) -> (v1::PodSandboxConfig, String) {
    let SandboxSpec {
        name,
        namespace,
        uid,
        attempt,
        hostname,
        log_directory,
        dns,
        port_mappings,
        labels,
        annotations,
        runtime_handler,
        cgroup_parent,
        sysctls,
        security,
        overhead,
        resources: total,
    } = spec;
    let config = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name,
            uid,
            namespace,
            attempt,
        }),
        hostname,
        log_directory,
        dns_config: Some(dns_config(dns)),
        port_mappings: port_mappings.into_iter().map(port).collect(),
        labels,
        annotations,
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent,
            security_context: Some(security_context(security)),
            sysctls,
            overhead: overhead.map(resources),
            resources: total.map(resources),
        }),
    };
    (config, runtime_handler)
}

fn dns_config(from: DnsConfig) -> v1::DNSConfig {
    let DnsConfig {
        servers,
        searches,
        options,
    } = from;
    v1::DNSConfig {
        servers,
        searches,
        options,
    }
}

fn port(from: PortMapping) -> v1::PortMapping {
    let PortMapping {
        protocol,
        container_port,
        host_port,
        host_ip,
    } = from;
    let protocol = match protocol {
        Protocol::Tcp => v1::Protocol::Tcp,
        Protocol::Udp => v1::Protocol::Udp,
        Protocol::Sctp => v1::Protocol::Sctp,
    };
    v1::PortMapping {
        protocol: protocol as i32,
        container_port: container_port.into(),
        host_port: host_port.into(),
        host_ip,
    }
}

fn security_context(from: SandboxSecurity) -> v1::LinuxSandboxSecurityContext {
    let SandboxSecurity {
        namespaces: modes,
        selinux: label,
        run_as_user,
        run_as_group,
        readonly_rootfs,
        supplemental_groups,
        supplemental_groups_policy,
        privileged,
        seccomp,
        apparmor,
    } = from;
    v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(modes)),
        selinux_options: label.map(selinux),
        run_as_user: number(run_as_user),
        run_as_group: number(run_as_group),
        readonly_rootfs,
        supplemental_groups,
        supplemental_groups_policy: groups_policy(supplemental_groups_policy),
        privileged,
        seccomp: Some(profile(seccomp)),
        apparmor: apparmor.map(profile),
    }
}

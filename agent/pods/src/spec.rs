//! What the runtime is asked for, with everything resolved: strings and numbers, no references. One-to-one with the CRI
//! messages (`PodSandboxConfig`, `ContainerConfig`), so the executor copies field by field. Made by [`crate::resolve`];
//! labels and annotations are made by [`labels`] and are what [`crate::observed`] is rebuilt from.

use std::collections::BTreeMap;

pub mod container;
pub mod labels;

pub use container::{ContainerSecurity, ContainerSpec, Device, LinuxResources, Mount, Propagation};

/// CRI `PodSandboxConfig` + `RunPodSandboxRequest.runtime_handler`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SandboxSpec {
    /// `metadata.name`
    pub name: String,
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.uid`
    pub uid: String,
    /// `metadata.attempt`: a new number for every create.
    pub attempt: u32,
    /// Empty for host-network pods: the runtime then keeps the node's name.
    pub hostname: String,
    /// `/var/log/pods/<ns>_<name>_<uid>`
    pub log_directory: String,
    pub dns: DnsConfig,
    /// Only ports with a host port.
    pub port_mappings: Vec<PortMapping>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// Empty: the runtime's default handler.
    pub runtime_handler: String,
    /// `linux.cgroup_parent`, cgroupfs form: `/kubepods/burstable/pod<uid>`.
    pub cgroup_parent: String,
    /// `linux.sysctls`, names in dotted form.
    pub sysctls: BTreeMap<String, String>,
    pub security: SandboxSecurity,
    /// `linux.overhead` from the RuntimeClass.
    pub overhead: Option<LinuxResources>,
    /// `linux.resources`: the sum over containers.
    pub resources: Option<LinuxResources>,
}

/// CRI `DNSConfig`: what the runtime writes to the sandbox's resolv.conf.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsConfig {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// CRI `PortMapping`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMapping {
    pub protocol: Protocol,
    pub container_port: u16,
    pub host_port: u16,
    /// Empty: all addresses.
    pub host_ip: String,
}

/// CRI `Protocol`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

/// CRI `LinuxSandboxSecurityContext`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SandboxSecurity {
    pub namespaces: Namespaces,
    pub selinux: Option<Selinux>,
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    pub readonly_rootfs: bool,
    pub supplemental_groups: Vec<i64>,
    pub supplemental_groups_policy: GroupsPolicy,
    /// True when any container of the pod is privileged.
    pub privileged: bool,
    /// Sandboxes always run under the runtime's default profile.
    pub seccomp: SecurityProfile,
    pub apparmor: Option<SecurityProfile>,
}

/// CRI `NamespaceOption`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespaces {
    pub network: NamespaceMode,
    pub pid: NamespaceMode,
    pub ipc: NamespaceMode,
    /// The container whose PID namespace an ephemeral container enters (`NamespaceMode::Target`).
    pub target_id: Option<String>,
}

impl Default for Namespaces {
    fn default() -> Namespaces {
        Namespaces {
            network: NamespaceMode::Pod,
            pid: NamespaceMode::Container,
            ipc: NamespaceMode::Pod,
            target_id: None,
        }
    }
}

/// CRI `NamespaceMode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceMode {
    Pod,
    Container,
    Node,
    Target,
}

/// CRI `SELinuxOption`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selinux {
    pub user: String,
    pub role: String,
    pub kind: String,
    pub level: String,
}

/// CRI `SecurityProfile` (seccomp and AppArmor alike).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SecurityProfile {
    #[default]
    RuntimeDefault,
    Unconfined,
    /// A path (seccomp) or a profile name (AppArmor).
    Localhost(String),
}

/// CRI `SupplementalGroupsPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupsPolicy {
    #[default]
    Merge,
    Strict,
}

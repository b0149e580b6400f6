//! CRI `ContainerConfig` as plain values; see the parent module.

use std::collections::BTreeMap;

use super::{GroupsPolicy, Namespaces, SecurityProfile, Selinux};

/// Everything `CreateContainer` and `StartContainer` need.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerSpec {
    /// `metadata.name`
    pub name: String,
    /// `metadata.attempt`: the restart count.
    pub attempt: u32,
    /// The image id or reference that the pull returned (`image.image`).
    pub image: String,
    /// As written in the pod (`image.user_specified_image`).
    pub image_as_written: String,
    pub command: Vec<String>,
    pub args: Vec<String>,
    pub working_dir: String,
    pub env: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// Relative to the sandbox's log directory: `<container>/<attempt>.log`.
    pub log_path: String,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    pub resources: LinuxResources,
    pub security: ContainerSecurity,
    /// `stop_signal` by name (`SIGUSR1`); `None`: the image's.
    pub stop_signal: Option<String>,
    /// Also in the annotations; the executor needs it to make the file (mode 0666) on the host first. It is already among
    /// `mounts`.
    pub termination_log: Option<TerminationLog>,
    /// `subPath` sources: what the executor must open safely below the volume before the mount's `host_path` exists.
    pub sub_paths: Vec<SubPath>,
}

/// The per-instance termination message file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TerminationLog {
    pub host_path: String,
    pub container_path: String,
}

/// A `subPath` mount: `mounts[mount].host_path` is `<volume_path>/<sub_path>` and must not be followed through symlinks
/// that leave the volume. The executor opens it component by component, makes missing directories (mode of the volume's
/// root), and hands the runtime a path that cannot change under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubPath {
    pub mount: usize,
    pub volume_path: String,
    pub sub_path: String,
    /// Directories may be created: false when the volume is read-only for this container.
    pub create: bool,
}

/// CRI `Mount`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    pub container_path: String,
    pub host_path: String,
    pub readonly: bool,
    pub recursive_read_only: bool,
    pub selinux_relabel: bool,
    pub propagation: Propagation,
    /// An image to mount instead of a host path, and the path in it (empty: all of it).
    pub image: Option<(String, String)>,
}

/// CRI `MountPropagation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

/// CRI `Device`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub container_path: String,
    pub host_path: String,
    /// Letters of `rwm`.
    pub permissions: String,
}

/// CRI `LinuxContainerResources`; zero means "not set", as in CRI.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinuxResources {
    pub cpu_period: i64,
    pub cpu_quota: i64,
    pub cpu_shares: i64,
    pub memory_limit: i64,
    pub oom_score_adj: i64,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    /// (page size as CRI spells it, such as `2MB`; bytes)
    pub hugepage_limits: Vec<(String, u64)>,
    pub unified: BTreeMap<String, String>,
    pub memory_swap_limit: i64,
}

/// CRI `LinuxContainerSecurityContext`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerSecurity {
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    pub add_ambient_capabilities: Vec<String>,
    pub privileged: bool,
    pub namespaces: Namespaces,
    pub selinux: Option<Selinux>,
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    /// Only when `run_as_user` is not set and the image names its user.
    pub run_as_username: String,
    pub readonly_rootfs: bool,
    pub supplemental_groups: Vec<i64>,
    pub supplemental_groups_policy: GroupsPolicy,
    pub no_new_privs: bool,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    pub seccomp: Option<SecurityProfile>,
    pub apparmor: Option<SecurityProfile>,
}

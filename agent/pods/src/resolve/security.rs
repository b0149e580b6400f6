//! Security of containers and sandboxes: the container's own settings win over the pod's.

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, PodSecurityContext, PodSpec, SELinuxOptions, SeccompProfile,
    SecurityContext,
};

use super::{ImageFacts, NodeFacts, Reason};
use crate::pod::Member;
use crate::spec::{
    ContainerSecurity, GroupsPolicy, NamespaceMode, Namespaces, SecurityProfile, Selinux,
};

/// Hidden below /proc and /sys unless `procMount: Unmasked`.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

pub(super) fn namespaces(spec: &PodSpec) -> Namespaces {
    let mode = |host: Option<bool>, otherwise| {
        if host == Some(true) {
            NamespaceMode::Node
        } else {
            otherwise
        }
    };
    let pid = if spec.share_process_namespace == Some(true) {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    };
    Namespaces {
        network: mode(spec.host_network, NamespaceMode::Pod),
        pid: mode(spec.host_pid, pid),
        ipc: mode(spec.host_ipc, NamespaceMode::Pod),
        target_id: None,
    }
}

pub(super) fn container(
    spec: &PodSpec,
    member: &Member<'_>,
    image: &ImageFacts,
    target_id: Option<&str>,
    node: &NodeFacts,
) -> Result<ContainerSecurity, Reason> {
    let empty_pod = PodSecurityContext::default();
    let of_pod = spec.security_context.as_ref().unwrap_or(&empty_pod);
    let empty = SecurityContext::default();
    let own = member.spec.security_context.as_ref().unwrap_or(&empty);
    let run_as_user = own.run_as_user.or(of_pod.run_as_user);
    let non_root = own
        .run_as_non_root
        .or(of_pod.run_as_non_root)
        .unwrap_or(false);
    if non_root {
        verify_non_root(run_as_user, image, &member.spec)?;
    }
    let mut namespaces = namespaces(spec);
    if let (Some(target), NamespaceMode::Container) = (target_id, namespaces.pid) {
        namespaces.pid = NamespaceMode::Target;
        namespaces.target_id = Some(target.to_owned());
    }
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |list: &[&str]| {
        if unmasked {
            Vec::new()
        } else {
            list.iter().map(|p| (*p).to_owned()).collect()
        }
    };
    let capabilities = own.capabilities.clone().unwrap_or_default();
    Ok(ContainerSecurity {
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        add_ambient_capabilities: Vec::new(),
        privileged: own.privileged.unwrap_or(false),
        namespaces,
        selinux: own
            .se_linux_options
            .as_ref()
            .or(of_pod.se_linux_options.as_ref())
            .map(selinux),
        run_as_user: run_as_user.or(image.uid),
        run_as_group: own.run_as_group.or(of_pod.run_as_group),
        run_as_username: match run_as_user.or(image.uid) {
            None => image.username.clone(),
            Some(_) => String::new(),
        },
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: supplemental_groups(of_pod),
        supplemental_groups_policy: groups_policy(of_pod),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(seccomp(
            own.seccomp_profile
                .as_ref()
                .or(of_pod.seccomp_profile.as_ref()),
            node,
        )),
        apparmor: own
            .app_armor_profile
            .as_ref()
            .or(of_pod.app_armor_profile.as_ref())
            .map(apparmor),
    })
}

/// The numeric user decides; an image that names its user cannot be judged.
fn verify_non_root(
    run_as_user: Option<i64>,
    image: &ImageFacts,
    container: &Container,
) -> Result<(), Reason> {
    let name = &container.name;
    match (run_as_user, image.uid, image.username.as_str()) {
        (Some(0), _, _) => Err(Reason::config(format!(
            "container's runAsUser breaks non-root policy (container: {name})"
        ))),
        (Some(_), _, _) => Ok(()),
        (None, Some(0), _) | (None, None, "") => Err(Reason::config(format!(
            "container has runAsNonRoot and image will run as root (container: {name})"
        ))),
        (None, Some(_), _) => Ok(()),
        (None, None, user) => Err(Reason::config(format!(
            "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (container: {name})"
        ))),
    }
}

/// fsGroup is a supplemental group too.
pub(super) fn supplemental_groups(pod: &PodSecurityContext) -> Vec<i64> {
    let mut groups: Vec<i64> = pod.fs_group.into_iter().collect();
    groups.extend(pod.supplemental_groups.iter().flatten());
    groups
}

pub(super) fn groups_policy(pod: &PodSecurityContext) -> GroupsPolicy {
    match pod.supplemental_groups_policy.as_deref() {
        Some("Strict") => GroupsPolicy::Strict,
        _ => GroupsPolicy::Merge,
    }
}

/// Without a profile: unconfined, as upstream without `seccompDefault`.
fn seccomp(profile: Option<&SeccompProfile>, node: &NodeFacts) -> SecurityProfile {
    match profile {
        Some(p) if p.type_ == "RuntimeDefault" => SecurityProfile::RuntimeDefault,
        Some(p) if p.type_ == "Localhost" => {
            let file = p.localhost_profile.as_deref().unwrap_or_default();
            SecurityProfile::Localhost(
                node.kubelet_root
                    .join("seccomp")
                    .join(file)
                    .display()
                    .to_string(),
            )
        }
        _ => SecurityProfile::Unconfined,
    }
}

pub(super) fn apparmor(profile: &AppArmorProfile) -> SecurityProfile {
    match profile.type_.as_str() {
        "Localhost" => {
            SecurityProfile::Localhost(profile.localhost_profile.clone().unwrap_or_default())
        }
        "Unconfined" => SecurityProfile::Unconfined,
        _ => SecurityProfile::RuntimeDefault,
    }
}

pub(super) fn selinux(options: &SELinuxOptions) -> Selinux {
    Selinux {
        user: options.user.clone().unwrap_or_default(),
        role: options.role.clone().unwrap_or_default(),
        kind: options.type_.clone().unwrap_or_default(),
        level: options.level.clone().unwrap_or_default(),
    }
}

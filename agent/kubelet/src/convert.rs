//! Between `pods`' plain values and CRI messages, field by field in both directions. Pure; decides nothing.
//!
//! Specs are taken apart without `..`, so a field added there does not compile until it is copied here.

mod container;
mod observed;
mod sandbox;
mod signal;

pub use container::container_config;
pub use observed::{observed_container, observed_sandbox};
pub use sandbox::sandbox_config;

use kedge_cri::v1;
use kedge_pods::spec;

fn namespaces(from: spec::Namespaces) -> v1::NamespaceOption {
    let spec::Namespaces {
        network,
        pid,
        ipc,
        target_id,
    } = from;
    v1::NamespaceOption {
        network: mode(network),
        pid: mode(pid),
        ipc: mode(ipc),
        target_id: target_id.unwrap_or_default(),
        userns_options: None,
    }
}

fn mode(from: spec::NamespaceMode) -> i32 {
    let mode = match from {
        spec::NamespaceMode::Pod => v1::NamespaceMode::Pod,
        spec::NamespaceMode::Container => v1::NamespaceMode::Container,
        spec::NamespaceMode::Node => v1::NamespaceMode::Node,
        spec::NamespaceMode::Target => v1::NamespaceMode::Target,
    };
    mode as i32
}

fn selinux(from: spec::Selinux) -> v1::SELinuxOption {
    let spec::Selinux {
        user,
        role,
        kind,
        level,
    } = from;
    v1::SELinuxOption {
        user,
        role,
        r#type: kind,
        level,
    }
}

fn profile(from: spec::SecurityProfile) -> v1::SecurityProfile {
    let (kind, localhost_ref) = match from {
        spec::SecurityProfile::RuntimeDefault => (v1::ProfileType::RuntimeDefault, String::new()),
        spec::SecurityProfile::Unconfined => (v1::ProfileType::Unconfined, String::new()),
        spec::SecurityProfile::Localhost(name) => (v1::ProfileType::Localhost, name),
    };
    v1::SecurityProfile {
        profile_type: kind as i32,
        localhost_ref,
    }
}

fn groups_policy(from: spec::GroupsPolicy) -> i32 {
    let policy = match from {
        spec::GroupsPolicy::Merge => v1::SupplementalGroupsPolicy::Merge,
        spec::GroupsPolicy::Strict => v1::SupplementalGroupsPolicy::Strict,
    };
    policy as i32
}

fn number(value: Option<i64>) -> Option<v1::Int64Value> {
    value.map(|value| v1::Int64Value { value })
}

pub(crate) fn resources(from: spec::LinuxResources) -> v1::LinuxContainerResources {
    let spec::LinuxResources {
        cpu_period,
        cpu_quota,
        cpu_shares,
        memory_limit,
        oom_score_adj,
        cpuset_cpus,
        cpuset_mems,
        hugepage_limits,
        unified,
        memory_swap_limit,
    } = from;
    let hugepage_limits = hugepage_limits
        .into_iter()
        .map(|(page_size, limit)| v1::HugepageLimit { page_size, limit })
        .collect();
    v1::LinuxContainerResources {
        cpu_period,
        cpu_quota,
        cpu_shares,
        memory_limit_in_bytes: memory_limit,
        oom_score_adj,
        cpuset_cpus,
        cpuset_mems,
        hugepage_limits,
        unified,
        memory_swap_limit_in_bytes: memory_swap_limit,
    }
}

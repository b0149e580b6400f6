//! CRI statuses to what `pods` decides on.

use std::net::IpAddr;

use kedge_cri::v1;
use kedge_pods::observed::{ObservedContainer, ObservedSandbox, State};
use kedge_pods::spec::LinuxResources;

use super::signal;

/// A sandbox from its status.
pub fn observed_sandbox(status: v1::PodSandboxStatus) -> ObservedSandbox {
    let network = status.network.unwrap_or_default();
    let addresses = std::iter::once(network.ip)
        .chain(network.additional_ips.into_iter().map(|ip| ip.ip))
        .filter_map(|ip| ip.parse::<IpAddr>().ok())
        .collect();
    let options = status
        .linux
        .and_then(|l| l.namespaces)
        .and_then(|n| n.options);
    ObservedSandbox {
        id: status.id,
        attempt: status.metadata.map_or(0, |m| m.attempt),
        ready: status.state == v1::PodSandboxState::Ready as i32,
        created_at: status.created_at,
        ips: addresses,
        host_network: options.is_some_and(|o| o.network == v1::NamespaceMode::Node as i32),
        runtime_handler: status.runtime_handler,
        labels: status.labels,
        annotations: status.annotations,
    }
}

/// A container from its status and the sandbox id that only the list carries.
pub fn observed_container(sandbox_id: String, status: v1::ContainerStatus) -> ObservedContainer {
    let image = status.image.unwrap_or_default();
    let metadata = status.metadata.unwrap_or_default();
    let image_id = if status.image_ref.is_empty() {
        status.image_id
    } else {
        status.image_ref
    };
    ObservedContainer {
        id: status.id,
        sandbox_id,
        name: metadata.name,
        attempt: metadata.attempt,
        state: state(status.state),
        created_at: status.created_at,
        started_at: status.started_at,
        finished_at: status.finished_at,
        exit_code: status.exit_code,
        reason: status.reason,
        message: status.message,
        image: if image.user_specified_image.is_empty() {
            image.image
        } else {
            image.user_specified_image
        },
        image_id,
        labels: status.labels,
        annotations: status.annotations,
        user: status
            .user
            .and_then(|u| u.linux)
            .map(|u| (u.uid, u.gid, u.supplemental_groups)),
        resources: status.resources.and_then(|r| r.linux).map(resources),
        log_path: status.log_path,
        stop_signal: signal::name(status.stop_signal),
        mounts: status
            .mounts
            .into_iter()
            .map(|m| (m.container_path, m.readonly, m.recursive_read_only))
            .collect(),
    }
}

fn state(number: i32) -> State {
    match v1::ContainerState::try_from(number) {
        Ok(v1::ContainerState::Created) => State::Created,
        Ok(v1::ContainerState::Running) => State::Running,
        Ok(v1::ContainerState::Exited) => State::Exited,
        _ => State::Unknown,
    }
}

fn resources(from: v1::LinuxContainerResources) -> LinuxResources {
    LinuxResources {
        cpu_period: from.cpu_period,
        cpu_quota: from.cpu_quota,
        cpu_shares: from.cpu_shares,
        memory_limit: from.memory_limit_in_bytes,
        oom_score_adj: from.oom_score_adj,
        cpuset_cpus: from.cpuset_cpus,
        cpuset_mems: from.cpuset_mems,
        hugepage_limits: from
            .hugepage_limits
            .into_iter()
            .map(|h| (h.page_size, h.limit))
            .collect(),
        unified: from.unified,
        memory_swap_limit: from.memory_swap_limit_in_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_state_is_not_taken_for_an_ended_one() {
        assert_eq!(state(3), State::Unknown);
        assert_eq!(state(77), State::Unknown);
    }

    #[test]
    fn both_families_of_a_sandbox_are_read_in_order() {
        let status = v1::PodSandboxStatus {
            network: Some(v1::PodSandboxNetworkStatus {
                ip: "10.0.0.2".into(),
                additional_ips: vec![v1::PodIP {
                    ip: "fd00::2".into(),
                }],
            }),
            ..v1::PodSandboxStatus::default()
        };
        let ips: Vec<String> = observed_sandbox(status)
            .ips
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(ips, ["10.0.0.2", "fd00::2"]);
    }

    #[test]
    fn the_image_is_reported_as_the_pod_wrote_it() {
        let status = v1::ContainerStatus {
            image: Some(v1::ImageSpec {
                image: "sha256:1".into(),
                user_specified_image: "busybox".into(),
                ..v1::ImageSpec::default()
            }),
            image_ref: "docker.io/library/busybox@sha256:2".into(),
            image_id: "sha256:1".into(),
            ..v1::ContainerStatus::default()
        };
        let seen = observed_container("s".into(), status);
        assert_eq!(seen.image, "busybox");
        assert_eq!(seen.image_id, "docker.io/library/busybox@sha256:2");
    }
}

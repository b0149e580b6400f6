//! `ContainerSpec` to CRI.

use kedge_cri::v1;
use kedge_pods::spec::{ContainerSecurity, ContainerSpec, Device, Mount, Propagation};

use super::{groups_policy, namespaces, number, profile, resources, selinux, signal};

/// The message that goes into `CreateContainer`. What the executor does on the host first (termination log, sub-paths)
/// is not part of it. An unknown stop signal is an error: ignoring it would end the container in another way.
pub fn container_config(spec: ContainerSpec) -> Result<v1::ContainerConfig, String> {
    let ContainerSpec {
        name,
        attempt,
        image,
        image_as_written,
        command,
        args,
        working_dir,
        env,
        mounts,
        devices,
        labels,
        annotations,
        log_path,
        stdin,
        stdin_once,
        tty,
        resources: limits,
        security,
        stop_signal,
        termination_log: _,
        sub_paths: _,
    } = spec;
    let stop_signal = match stop_signal {
        None => v1::Signal::RuntimeDefault as i32,
        Some(name) => signal::number(&name).ok_or_else(|| format!("unknown stop signal {name}"))?,
    };
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name, attempt }),
        image: Some(v1::ImageSpec {
            image,
            user_specified_image: image_as_written,
            ..v1::ImageSpec::default()
        }),
        command,
        args,
        working_dir,
        envs: env.into_iter().map(variable).collect(),
        mounts: mounts.into_iter().map(mount).collect(),
        devices: devices.into_iter().map(device).collect(),
        labels,
        annotations,
        log_path,
        stdin,
        stdin_once,
        tty,
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources(limits)),
            security_context: Some(security_context(security)),
        }),
        cdi_devices: Vec::new(),
        stop_signal,
    })
}

fn variable((key, value): (String, String)) -> v1::KeyValue {
    v1::KeyValue {
        key,
        value: value.into_bytes(),
    }
}

fn mount(from: Mount) -> v1::Mount {
    let Mount {
        container_path,
        host_path,
        readonly,
        recursive_read_only,
        selinux_relabel,
        propagation,
        image,
    } = from;
    let (image, image_sub_path) = image.unzip();
    let propagation = match propagation {
        Propagation::Private => v1::MountPropagation::Private,
        Propagation::HostToContainer => v1::MountPropagation::HostToContainer,
        Propagation::Bidirectional => v1::MountPropagation::Bidirectional,
    };
    v1::Mount {
        container_path,
        host_path,
        readonly,
        selinux_relabel,
        propagation: propagation as i32,
        recursive_read_only,
        image: image.map(|reference| v1::ImageSpec {
            user_specified_image: reference.clone(),
            image: reference,
            ..v1::ImageSpec::default()
        }),
        image_sub_path: image_sub_path.unwrap_or_default(),
        ..v1::Mount::default()
    }
}

fn device(from: Device) -> v1::Device {
    let Device {
        container_path,
        host_path,
        permissions,
    } = from;
    v1::Device {
        container_path,
        host_path,
        permissions,
    }
}

fn security_context(from: ContainerSecurity) -> v1::LinuxContainerSecurityContext {
    let ContainerSecurity {
        add_capabilities,
        drop_capabilities,
        add_ambient_capabilities,
        privileged,
        namespaces: modes,
        selinux: label,
        run_as_user,
        run_as_group,
        run_as_username,
        readonly_rootfs,
        supplemental_groups,
        supplemental_groups_policy,
        no_new_privs,
        masked_paths,
        readonly_paths,
        seccomp,
        apparmor,
    } = from;
    v1::LinuxContainerSecurityContext {
        capabilities: Some(v1::Capability {
            add_capabilities,
            drop_capabilities,
            add_ambient_capabilities,
        }),
        privileged,
        namespace_options: Some(namespaces(modes)),
        selinux_options: label.map(selinux),
        run_as_user: number(run_as_user),
        run_as_group: number(run_as_group),
        run_as_username,
        readonly_rootfs,
        supplemental_groups,
        supplemental_groups_policy: groups_policy(supplemental_groups_policy),
        no_new_privs,
        masked_paths,
        readonly_paths,
        seccomp: seccomp.map(profile),
        apparmor: apparmor.map(profile),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_stop_signal_is_refused_by_name() {
        let spec = ContainerSpec {
            stop_signal: Some("SIGWHAT".into()),
            ..ContainerSpec::default()
        };
        assert_eq!(
            container_config(spec).unwrap_err(),
            "unknown stop signal SIGWHAT"
        );
    }

    #[test]
    fn unset_optional_values_stay_absent() {
        let config = container_config(ContainerSpec::default()).unwrap();
        let security = config.linux.unwrap().security_context.unwrap();
        // Zero would mean root; absence means the image's user.
        assert_eq!(security.run_as_user, None);
        assert_eq!(security.seccomp, None);
    }
}

//! A container's mounts: volumes with sub-paths, `/etc/hosts`, the termination message file.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::{Pod, VolumeMount};

use super::{Instance, NodeFacts, Objects, Reason, expand, volumes};
use crate::pod::{self, Member};
use crate::spec::container::{SubPath, TerminationLog};
use crate::spec::{Mount, Propagation};
use crate::termination;

/// Mounts with what the executor has to prepare for them.
#[derive(Default)]
pub(super) struct Mounts {
    pub mounts: Vec<Mount>,
    pub sub_paths: Vec<SubPath>,
    pub termination_log: Option<TerminationLog>,
}

pub(super) fn mounts(
    pod: &Pod,
    member: &Member<'_>,
    objects: &Objects,
    node: &NodeFacts,
    instance: &Instance,
    env: &BTreeMap<String, String>,
) -> Result<Mounts, Reason> {
    let mut out = Mounts::default();
    for mount in member.spec.volume_mounts.iter().flatten() {
        volume_mount(pod, mount, objects, node, env, &mut out)?;
    }
    let own_hosts = out.mounts.iter().any(|m| m.container_path == "/etc/hosts");
    if !own_hosts && (!instance.pod_ips.is_empty() || pod::host_network(pod::spec(pod))) {
        out.mounts.push(Mount {
            container_path: "/etc/hosts".into(),
            host_path: node.etc_hosts(pod).display().to_string(),
            ..Mount::default()
        });
    }
    let log = TerminationLog {
        host_path: node
            .pod_dir(pod)
            .join("containers")
            .join(member.name())
            .join(instance.attempt.to_string())
            .display()
            .to_string(),
        container_path: termination::path(&member.spec).to_owned(),
    };
    out.mounts.push(Mount {
        container_path: log.container_path.clone(),
        host_path: log.host_path.clone(),
        ..Mount::default()
    });
    out.termination_log = Some(log);
    Ok(out)
}

fn volume_mount(
    pod: &Pod,
    mount: &VolumeMount,
    objects: &Objects,
    node: &NodeFacts,
    env: &BTreeMap<String, String>,
    out: &mut Mounts,
) -> Result<(), Reason> {
    let volume = pod::spec(pod)
        .volumes
        .iter()
        .flatten()
        .find(|v| v.name == mount.name)
        .ok_or_else(|| {
            Reason::config(format!(
                "cannot find volume {:?} to mount into the container",
                mount.name
            ))
        })?;
    let sub_path = sub_path(mount, env)?;
    if let Some(image) = &volume.image {
        out.mounts.push(Mount {
            container_path: absolute(&mount.mount_path),
            readonly: true,
            image: Some((
                image.reference.clone().unwrap_or_default(),
                sub_path.unwrap_or_default(),
            )),
            ..Mount::default()
        });
        return Ok(());
    }
    let root = volumes::path(pod, volume, node)?;
    let declared = mount.read_only == Some(true);
    // What the kubelet writes is the kubelet's: a container that could write there would see its files vanish at the next update.
    let payload = volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some();
    let readonly = declared || payload;
    let recursive_read_only = recursive(pod, mount, objects, node)?;
    let host_path = match &sub_path {
        Some(sub) => root.join(sub),
        None => root.clone(),
    };
    if let Some(sub) = sub_path {
        out.sub_paths.push(SubPath {
            mount: out.mounts.len(),
            volume_path: root.display().to_string(),
            sub_path: sub,
            create: !declared,
        });
    }
    out.mounts.push(Mount {
        container_path: absolute(&mount.mount_path),
        host_path: host_path.display().to_string(),
        readonly,
        recursive_read_only,
        selinux_relabel: false,
        propagation: match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            _ => Propagation::Private,
        },
        image: None,
    });
    Ok(())
}

fn absolute(path: &str) -> String {
    if Path::new(path).is_absolute() {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}

/// `subPath`, or `subPathExpr` with the container's variables; neither may leave the volume.
fn sub_path(mount: &VolumeMount, env: &BTreeMap<String, String>) -> Result<Option<String>, Reason> {
    let path = match (mount.sub_path_expr.as_deref(), mount.sub_path.as_deref()) {
        (Some(expr), _) if !expr.is_empty() => {
            let mut missing = Vec::new();
            let path = expand::expand_noting(expr, |name| env.get(name).cloned(), &mut missing);
            if let Some(name) = missing.first() {
                return Err(Reason::config(format!(
                    "missing value for {name:?} in subPathExpr {expr:?}"
                )));
            }
            if path.is_empty() || path.contains('`') {
                return Err(Reason::config(format!(
                    "subPathExpr {expr:?} gives the invalid path {path:?}"
                )));
            }
            path
        }
        (_, Some(path)) if !path.is_empty() => path.to_owned(),
        _ => return Ok(None),
    };
    if path.starts_with('/') {
        return Err(Reason::config(format!(
            "error SubPath `{path}` must not be an absolute path"
        )));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(Reason::config(format!(
            "unable to provision SubPath `{path}`: must not contain '..'"
        )));
    }
    Ok(Some(path))
}

/// `recursiveReadOnly`: demanded, or wherever the runtime handler can.
fn recursive(
    pod: &Pod,
    mount: &VolumeMount,
    objects: &Objects,
    node: &NodeFacts,
) -> Result<bool, Reason> {
    let handler = match (&pod::spec(pod).runtime_class_name, &objects.runtime_class) {
        (Some(_), Some(class)) => class.handler.as_str(),
        _ => "",
    };
    let can = node
        .recursive_read_only_handlers
        .iter()
        .any(|h| h == handler);
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => Ok(false),
        Some("IfPossible") => Ok(can && mount.read_only == Some(true)),
        Some(_) if !can => Err(Reason::config(format!(
            "volume {:?} requested recursive read-only mode, but it is not supported by the runtime",
            mount.name
        ))),
        Some(_) => Ok(true),
    }
}

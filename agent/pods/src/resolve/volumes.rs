//! Volumes of a pod: what to make on the host, with the content of every payload file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, HostPathVolumeSource, ImageVolumeSource, Pod, PodSpec,
    Volume as ApiVolume,
};

use super::payload::{Defaults, Files, config_map_files, secret_files};
use super::{NodeFacts, Objects, Reason, env};
use crate::pod;
use crate::quantity::Amount;
use crate::volume::{
    File, FilesSource, FsGroup, HostPathType, Medium, Volume, VolumePlan, dir_name,
};

/// All volumes of the pod, in the spec's order.
pub fn volumes(pod: &Pod, objects: &Objects, node: &NodeFacts) -> Result<Vec<Volume>, Reason> {
    let list = pod::spec(pod).volumes.iter().flatten();
    list.map(|v| volume(pod, v, objects, node)).collect()
}

fn volume(pod: &Pod, v: &ApiVolume, objects: &Objects, node: &NodeFacts) -> Result<Volume, Reason> {
    let files = Files { pod, objects, node };
    let plan = if let Some(source) = &v.empty_dir {
        empty_dir(pod, source, node)?
    } else if let Some(source) = &v.host_path {
        host_path(source)?
    } else if let Some(source) = &v.config_map {
        let mode = Defaults::new(source.default_mode, source.default_user);
        let map = env::config_map(objects, &source.name, source.optional)?;
        let list = map.map_or(Ok(Vec::new()), |m| {
            config_map_files(m, source.items.as_deref(), source.optional, mode)
        })?;
        payload(FilesSource::ConfigMap, list)
    } else if let Some(source) = &v.secret {
        let mode = Defaults::new(source.default_mode, source.default_user);
        let name = source.secret_name.as_deref().unwrap_or_default();
        let found = env::secret(objects, name, source.optional)?;
        let list = found.map_or(Ok(Vec::new()), |s| {
            secret_files(s, source.items.as_deref(), source.optional, mode)
        })?;
        payload(FilesSource::Secret, list)
    } else if let Some(source) = &v.downward_api {
        let mode = Defaults::new(source.default_mode, source.default_user);
        payload(
            FilesSource::DownwardApi,
            files.downward(source.items.as_deref(), mode)?,
        )
    } else if let Some(source) = &v.projected {
        payload(FilesSource::Projected, files.projected(&v.name, source)?)
    } else if let Some(source) = &v.image {
        image(source)?
    } else {
        return Err(unsupported(v));
    };
    check_paths(&v.name, &plan)?;
    Ok(Volume {
        name: v.name.clone(),
        path: path(pod, v, node)?,
        fs_group: fs_group(pod::spec(pod), &plan),
        plan,
    })
}

fn unsupported(v: &ApiVolume) -> Reason {
    Reason::new(
        "FailedMount",
        format!(
            "volume {:?} has a type that this node does not support",
            v.name
        ),
    )
}

fn payload(source: FilesSource, mut files: Vec<File>) -> VolumePlan {
    // The later source wins; the writer wants each path once, in order.
    let by_path: BTreeMap<String, File> = files.drain(..).map(|f| (f.path.clone(), f)).collect();
    VolumePlan::Files {
        source,
        files: by_path.into_values().collect(),
    }
}

/// Where containers bind the volume from.
pub(super) fn path(pod: &Pod, v: &ApiVolume, node: &NodeFacts) -> Result<PathBuf, Reason> {
    let plugin = match v {
        ApiVolume {
            host_path: Some(h), ..
        } => return Ok(PathBuf::from(&h.path)),
        ApiVolume {
            empty_dir: Some(_), ..
        } => "empty-dir",
        ApiVolume {
            config_map: Some(_),
            ..
        } => FilesSource::ConfigMap.plugin(),
        ApiVolume {
            secret: Some(_), ..
        } => FilesSource::Secret.plugin(),
        ApiVolume {
            downward_api: Some(_),
            ..
        } => FilesSource::DownwardApi.plugin(),
        ApiVolume {
            projected: Some(_), ..
        } => FilesSource::Projected.plugin(),
        // Nothing is made there: the runtime mounts the image itself.
        ApiVolume { image: Some(_), .. } => "image",
        other => return Err(unsupported(other)),
    };
    Ok(node
        .pod_dir(pod)
        .join("volumes")
        .join(dir_name(plugin))
        .join(&v.name))
}

fn empty_dir(
    pod: &Pod,
    source: &EmptyDirVolumeSource,
    node: &NodeFacts,
) -> Result<VolumePlan, Reason> {
    let size_limit = source
        .size_limit
        .as_ref()
        .and_then(Amount::of)
        .map(|a| u64::try_from(a.units()).unwrap_or(0))
        .filter(|s| *s > 0);
    let medium = match source.medium.as_deref().unwrap_or_default() {
        "" => Medium::Disk,
        "Memory" => Medium::Memory {
            size: memory_size(pod, size_limit, node),
        },
        huge => Medium::HugePages {
            page_size: page_size(pod, huge)?,
        },
    };
    Ok(VolumePlan::EmptyDir {
        medium,
        size_limit,
        mode: source
            .mode
            .and_then(|m| u32::try_from(m).ok())
            .unwrap_or(0o777),
    })
}

/// The least of the volume's limit, the pod's memory limit and what the node has to give.
fn memory_size(pod: &Pod, size_limit: Option<u64>, node: &NodeFacts) -> u64 {
    let of_pod = crate::qos::pod_cgroup(pod).memory_max.filter(|m| *m > 0);
    let of_node = (node.allocatable_memory > 0).then_some(node.allocatable_memory);
    [size_limit, of_pod, of_node]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(0)
}

/// `HugePages-2Mi`, or `HugePages` where the pod asks for one size only.
fn page_size(pod: &Pod, medium: &str) -> Result<u64, Reason> {
    let bad = |why: &str| Reason::new("FailedMount", format!("emptyDir medium {medium:?}: {why}"));
    let size = match medium.strip_prefix("HugePages") {
        Some("") => {
            let members: Vec<_> = pod::members(pod::spec(pod)).collect();
            let mut sizes: Vec<String> = members
                .iter()
                .filter_map(|m| m.spec.resources.as_ref()?.limits.as_ref())
                .flat_map(|l| l.keys())
                .filter_map(|k| k.strip_prefix("hugepages-").map(str::to_owned))
                .collect();
            sizes.sort();
            sizes.dedup();
            match &sizes[..] {
                [one] => one.clone(),
                [] => return Err(bad("the pod asks for no huge pages")),
                _ => return Err(bad("the pod asks for several page sizes, name one")),
            }
        }
        Some(rest) => rest.trim_start_matches('-').to_owned(),
        None => return Err(bad("unknown")),
    };
    let bytes = Amount::parse(&size).and_then(|a| u64::try_from(a.units()).ok());
    bytes.filter(|b| *b > 0).ok_or_else(|| bad("no page size"))
}

fn host_path(source: &HostPathVolumeSource) -> Result<VolumePlan, Reason> {
    let kind = match source.type_.as_deref().unwrap_or_default() {
        "" => HostPathType::Unset,
        "DirectoryOrCreate" => HostPathType::DirectoryOrCreate,
        "Directory" => HostPathType::Directory,
        "FileOrCreate" => HostPathType::FileOrCreate,
        "File" => HostPathType::File,
        "Socket" => HostPathType::Socket,
        "CharDevice" => HostPathType::CharDevice,
        "BlockDevice" => HostPathType::BlockDevice,
        other => {
            return Err(Reason::new(
                "FailedMount",
                format!("unknown hostPath type {other:?}"),
            ));
        }
    };
    Ok(VolumePlan::HostPath {
        path: PathBuf::from(&source.path),
        kind,
    })
}

fn image(source: &ImageVolumeSource) -> Result<VolumePlan, Reason> {
    let reference = source.reference.clone().unwrap_or_default();
    if reference.is_empty() {
        return Err(Reason::new(
            "FailedMount",
            "an image volume without a reference",
        ));
    }
    Ok(VolumePlan::Image {
        policy: pod::policy(source.pull_policy.as_deref(), &reference),
        reference,
    })
}

pub(super) fn fs_group_of(spec: &PodSpec) -> Option<u32> {
    u32::try_from(spec.security_context.as_ref()?.fs_group?).ok()
}

/// fsGroup applies to what the node makes, not to the host's own paths or an image.
fn fs_group(spec: &PodSpec, plan: &VolumePlan) -> Option<FsGroup> {
    let context = spec.security_context.as_ref()?;
    let applies = !matches!(plan, VolumePlan::HostPath { .. } | VolumePlan::Image { .. });
    fs_group_of(spec).filter(|_| applies).map(|gid| FsGroup {
        gid,
        only_on_root_mismatch: context.fs_group_change_policy.as_deref() == Some("OnRootMismatch"),
    })
}

/// The API server checks these; a static pod has only us.
fn check_paths(volume: &str, plan: &VolumePlan) -> Result<(), Reason> {
    let VolumePlan::Files { files, .. } = plan else {
        return Ok(());
    };
    for file in files {
        let path = Path::new(&file.path);
        let odd = path
            .components()
            .any(|c| !matches!(c, std::path::Component::Normal(_)));
        if file.path.is_empty() || odd || file.path.starts_with("..") {
            return Err(Reason::new(
                "FailedMount",
                format!(
                    "volume {volume:?} has the invalid file path {:?}",
                    file.path
                ),
            ));
        }
    }
    Ok(())
}

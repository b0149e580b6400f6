//! Volumes of a pod: what to make on the host, with the content of every payload file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, EmptyDirVolumeSource, HostPathVolumeSource, KeyToPath, Pod,
    PodSpec, ProjectedVolumeSource, Secret, Volume as ApiVolume, VolumeProjection,
};

use super::{NodeFacts, Objects, Reason, downward, env};
use crate::needs;
use crate::pod;
use crate::quantity::Amount;
use crate::volume::{
    Content, File, FilesSource, FsGroup, HostPathType, Medium, Volume, VolumePlan, dir_name,
};

const DEFAULT_MODE: u32 = 0o644;
/// A token is for one user: the pod's only one, or the group of fsGroup.
const TOKEN_MODE: u32 = 0o600;

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
        payload(FilesSource::Projected, files.projected(source)?)
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

/// Mode and owner of files that say nothing themselves.
#[derive(Clone, Copy)]
struct Defaults {
    mode: u32,
    uid: Option<u32>,
}

impl Defaults {
    fn new(mode: Option<i32>, user: Option<i64>) -> Defaults {
        Defaults {
            mode: mode
                .and_then(|m| u32::try_from(m).ok())
                .unwrap_or(DEFAULT_MODE),
            uid: user.and_then(|u| u32::try_from(u).ok()),
        }
    }

    fn file(self, path: &str, bytes: Vec<u8>, mode: Option<i32>, user: Option<i64>) -> File {
        File {
            path: path.to_owned(),
            content: Content::Bytes(bytes),
            mode: mode
                .and_then(|m| u32::try_from(m).ok())
                .unwrap_or(self.mode),
            uid: user.and_then(|u| u32::try_from(u).ok()).or(self.uid),
        }
    }
}

/// All keys, or the chosen ones.
fn choose(
    all: BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    kind: &str,
    defaults: Defaults,
) -> Result<Vec<File>, Reason> {
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        return Ok(all
            .into_iter()
            .map(|(key, bytes)| defaults.file(&key, bytes, None, None))
            .collect());
    };
    let mut files = Vec::new();
    for item in items {
        match all.get(&item.key) {
            Some(bytes) => {
                files.push(defaults.file(&item.path, bytes.clone(), item.mode, item.user))
            }
            None if optional == Some(true) => {}
            None => {
                return Err(Reason::new(
                    "FailedMount",
                    format!("references non-existent {kind} key: {}", item.key),
                ));
            }
        }
    }
    Ok(files)
}

fn config_map_files(
    map: &ConfigMap,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    defaults: Defaults,
) -> Result<Vec<File>, Reason> {
    let mut all = BTreeMap::new();
    for (key, text) in map.data.iter().flatten() {
        all.insert(key.clone(), text.clone().into_bytes());
    }
    for (key, bytes) in map.binary_data.iter().flatten() {
        all.insert(key.clone(), bytes.0.clone());
    }
    choose(all, items, optional, "config", defaults)
}

fn secret_files(
    secret: &Secret,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    defaults: Defaults,
) -> Result<Vec<File>, Reason> {
    let data = secret.data.iter().flatten();
    let all = data
        .map(|(key, bytes)| (key.clone(), bytes.0.clone()))
        .collect();
    choose(all, items, optional, "secret", defaults)
}

/// What the files of downward and projected volumes are made from.
struct Files<'a> {
    pod: &'a Pod,
    objects: &'a Objects,
    node: &'a NodeFacts,
}

impl Files<'_> {
    fn downward(
        &self,
        items: Option<&[DownwardAPIVolumeFile]>,
        defaults: Defaults,
    ) -> Result<Vec<File>, Reason> {
        let mut files = Vec::new();
        for item in items.into_iter().flatten() {
            let text = if let Some(r) = &item.field_ref {
                downward::field(r, self.pod, self.node, &[])?
            } else if let Some(r) = &item.resource_field_ref {
                downward::resource(r, self.pod, None, self.node)?
            } else {
                String::new()
            };
            files.push(defaults.file(&item.path, text.into_bytes(), item.mode, item.user));
        }
        Ok(files)
    }

    fn projected(&self, source: &ProjectedVolumeSource) -> Result<Vec<File>, Reason> {
        let defaults = Defaults::new(source.default_mode, source.default_user);
        let mut files = Vec::new();
        for one in source.sources.iter().flatten() {
            files.extend(self.projection(one, defaults)?);
        }
        Ok(files)
    }

    fn projection(&self, one: &VolumeProjection, defaults: Defaults) -> Result<Vec<File>, Reason> {
        if let Some(s) = &one.config_map {
            let map = env::config_map(self.objects, &s.name, s.optional)?;
            return map.map_or(Ok(Vec::new()), |m| {
                config_map_files(m, s.items.as_deref(), s.optional, defaults)
            });
        }
        if let Some(s) = &one.secret {
            let found = env::secret(self.objects, &s.name, s.optional)?;
            return found.map_or(Ok(Vec::new()), |m| {
                secret_files(m, s.items.as_deref(), s.optional, defaults)
            });
        }
        if let Some(s) = &one.downward_api {
            return self.downward(s.items.as_deref(), defaults);
        }
        if let Some(t) = &one.service_account_token {
            let spec = pod::spec(self.pod);
            let user = t
                .user
                .or_else(|| only_user(spec))
                .and_then(|u| u32::try_from(u).ok());
            let narrow = user.is_some() || fs_group_of(spec).is_some();
            return Ok(vec![File {
                path: t.path.clone(),
                content: Content::Token(needs::token_request(spec, t)),
                mode: if narrow { TOKEN_MODE } else { defaults.mode },
                uid: user.or(defaults.uid),
            }]);
        }
        if let Some(b) = &one.cluster_trust_bundle {
            let key = b
                .name
                .as_deref()
                .or(b.signer_name.as_deref())
                .unwrap_or_default();
            return match self.objects.trust_bundles.get(key) {
                Some(pem) => Ok(vec![defaults.file(
                    &b.path,
                    pem.clone().into_bytes(),
                    None,
                    b.user,
                )]),
                None if b.optional == Some(true) => {
                    Ok(vec![defaults.file(&b.path, Vec::new(), None, b.user)])
                }
                None => Err(Reason::new(
                    "FailedMount",
                    format!("clustertrustbundle {key:?} not found"),
                )),
            };
        }
        Err(Reason::new(
            "FailedMount",
            "a projected source has a type that this node does not support",
        ))
    }
}

/// The user that all containers run as, if it is one and the same.
fn only_user(spec: &PodSpec) -> Option<i64> {
    let of_pod = spec.security_context.as_ref().and_then(|s| s.run_as_user);
    let mut users: Vec<Option<i64>> = pod::members(spec)
        .map(|m| {
            m.spec
                .security_context
                .as_ref()
                .and_then(|s| s.run_as_user)
                .or(of_pod)
        })
        .collect();
    users.dedup();
    match users[..] {
        [Some(one)] => Some(one),
        _ => None,
    }
}

fn fs_group_of(spec: &PodSpec) -> Option<u32> {
    u32::try_from(spec.security_context.as_ref()?.fs_group?).ok()
}

/// fsGroup applies to what the node makes, not to the host's own paths.
fn fs_group(spec: &PodSpec, plan: &VolumePlan) -> Option<FsGroup> {
    let context = spec.security_context.as_ref()?;
    let applies = !matches!(plan, VolumePlan::HostPath { .. });
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

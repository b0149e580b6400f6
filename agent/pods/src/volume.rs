//! Volumes as plans: what to make on the host for each volume of a pod. Made by [`crate::resolve::volumes`]; directories and
//! names are upstream's, since other software looks for them.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::Pod;

use crate::action::PullPolicy;
use crate::certificate::{CertificateRequest, Part};

/// One volume of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// `spec.volumes[].name`
    pub name: String,
    /// Where containers bind it from: `<pod dir>/volumes/kubernetes.io~<plugin>/<name>`, or the host path itself.
    pub path: PathBuf,
    pub plan: VolumePlan,
    /// `securityContext.fsGroup`, where it applies to this kind of volume.
    pub fs_group: Option<FsGroup>,
}

/// Group ownership to apply after the volume is made: every file gets the group, directories also the set-group-id bit,
/// both group read (and write, unless read-only) permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FsGroup {
    pub gid: u32,
    /// `OnRootMismatch`: only when the volume's root has another group or mode.
    pub only_on_root_mismatch: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumePlan {
    EmptyDir {
        medium: Medium,
        /// `sizeLimit` in bytes: enforced by the eviction scan (disk); already part of `Medium::Memory.size`.
        size_limit: Option<u64>,
        /// 0777 unless the pod says otherwise.
        mode: u32,
    },
    HostPath {
        path: PathBuf,
        kind: HostPathType,
    },
    /// Files written by the atomic writer ([`crate::atomic`]) onto a tmpfs (secret material) or the disk.
    Files {
        source: FilesSource,
        files: Vec<File>,
    },
    /// The content of an image, mounted by the runtime: only pulled beforehand.
    Image {
        reference: String,
        policy: PullPolicy,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    Disk,
    /// tmpfs of this many bytes; 0: no limit of its own.
    Memory {
        size: u64,
    },
    /// hugetlbfs of this page size; 0: the pod's only page size is not known to the node, refused earlier.
    HugePages {
        page_size: u64,
    },
}

/// `hostPath.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostPathType {
    /// No check.
    Unset,
    DirectoryOrCreate,
    Directory,
    FileOrCreate,
    File,
    Socket,
    CharDevice,
    BlockDevice,
}

/// Which API source a payload volume comes from; decides the plugin directory and whether it is kept in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilesSource {
    ConfigMap,
    Secret,
    DownwardApi,
    Projected,
}

impl FilesSource {
    /// `kubernetes.io~<this>` below the pod's volumes.
    pub fn plugin(self) -> &'static str {
        match self {
            FilesSource::ConfigMap => "configmap",
            FilesSource::Secret => "secret",
            FilesSource::DownwardApi => "downward-api",
            FilesSource::Projected => "projected",
        }
    }

    /// Secret material is never written to flash.
    pub fn in_memory(self) -> bool {
        !matches!(self, FilesSource::ConfigMap)
    }
}

/// One file of a payload volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Relative, without `..` and not starting with it.
    pub path: String,
    pub content: Content,
    /// Permission bits with group read added where `fsGroup` needs it.
    pub mode: u32,
    /// Owner; `None`: root.
    pub uid: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Bytes(Vec<u8>),
    /// To be filled by the executor with a token it asks for (and keeps fresh: see [`crate::needs::token_refresh_at`]).
    Token(TokenRequest),
    /// To be filled by the executor with a key it has made, or the certificate that it asks for (see [`crate::certificate`]).
    Certificate(CertificateRequest, Part),
}

/// One bound service-account token.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenRequest {
    pub service_account: String,
    /// Empty: the API server's own audience.
    pub audience: String,
    pub expiration_seconds: i64,
}

/// `volumes/kubernetes.io~<plugin>` for a volume kept in the pod's directory.
pub fn dir_name(plugin: &str) -> String {
    format!("kubernetes.io~{plugin}")
}

/// Names of a pod's emptyDirs that lie on the node's disk.
pub fn disk_empty_dirs(pod: &Pod) -> impl Iterator<Item = &str> {
    let volumes = crate::pod::spec(pod).volumes.iter().flatten();
    volumes.filter_map(|v| {
        let medium = v.empty_dir.as_ref()?.medium.as_deref();
        medium
            .unwrap_or_default()
            .is_empty()
            .then_some(v.name.as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_empty_dirs_without_a_medium_are_on_disk() {
        let pod = crate::testing::pod(
            r#"{"spec": {"containers": [], "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "emptyDir": {"medium": ""}},
                {"name": "c", "emptyDir": {"medium": "Memory"}}, {"name": "d", "hostPath": {"path": "/x"}}]}}"#,
        );
        assert_eq!(disk_empty_dirs(&pod).collect::<Vec<_>>(), ["a", "b"]);
    }
}

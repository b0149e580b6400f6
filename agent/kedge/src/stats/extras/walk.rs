//! The walk: sizes of volumes and logs by looking at every file.
//!
//! In: pods' directories. Out: bytes and inodes by pod. Blocks; at most one runs at a time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use kedge_kubelet::{PodView, volumes};
use kedge_machine::paths;
use kedge_metrics::summary::Volume;
use kedge_pods::{logs, pod};
use kedge_sys::mount::Mount;
use kedge_tasks::meter::{BUCKETS, Family, Meters};
use tokio::time::Instant;

use super::{space, volumes_of};

/// Filesystems whose calls can wait for a server or a user process for ever.
const FOREIGN: [&str; 6] = ["nfs", "cifs", "smb", "ceph", "9p", "fuse"];

static MEASURED: Family = Family::histogram(
    "kubelet_volume_metric_collection_duration_seconds",
    &["metric_source"],
    BUCKETS,
    "Time of finding out how much of a volume is in use.",
);

/// By pod uid.
pub(super) type Walked = BTreeMap<String, OfPod>;

/// What a walk found of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OfPod {
    pub(super) volumes: Vec<Volume>,
    /// Bytes and inodes by container name.
    pub(super) logs: BTreeMap<String, (u64, u64)>,
}

/// What is walked of a pod.
pub(super) struct Places {
    uid: String,
    volumes: PathBuf,
    /// Names of the spec's volumes that are claims, with their claims.
    claims: BTreeMap<String, String>,
    logs: PathBuf,
    containers: Vec<String>,
}

pub(super) fn places(view: &PodView) -> Places {
    let uid = pod::uid(&view.pod).to_owned();
    Places {
        volumes: volumes_of(&uid),
        claims: claims(&view.pod),
        logs: logs::pod_directory(Path::new(paths::POD_LOGS), &view.pod),
        containers: pod::members(pod::spec(&view.pod))
            .map(|m| m.name().to_owned())
            .collect(),
        uid,
    }
}

fn claims(pod: &Pod) -> BTreeMap<String, String> {
    let volumes = pod::spec(pod).volumes.iter().flatten();
    volumes
        .filter_map(|v| {
            let claim = v.persistent_volume_claim.as_ref()?.claim_name.clone();
            Some((v.name.clone(), claim))
        })
        .collect()
}

pub(super) fn walk(places: Vec<Places>, meters: &Meters) -> Walked {
    let mounts = kedge_sys::mount::list().unwrap_or_default();
    places
        .into_iter()
        .map(|p| (p.uid.clone(), walk_pod(&p, &mounts, meters)))
        .collect()
}

fn walk_pod(places: &Places, mounts: &[Mount], meters: &Meters) -> OfPod {
    let mut found = OfPod::default();
    for plugin in names(&places.volumes) {
        for name in names(&places.volumes.join(&plugin)) {
            let path = places.volumes.join(&plugin).join(&name);
            let mount = mounts.iter().rfind(|m| m.target == path);
            if !mount.is_some_and(is_foreign) {
                let claim = places.claims.get(&name).cloned();
                let began = Instant::now();
                let (volume, source) = volume(&path, name, claim, mount.is_some());
                meters.observe(&MEASURED, &[source], began.elapsed());
                found.volumes.extend(volume);
            }
        }
    }
    for container in &places.containers {
        let directory = places.logs.join(container);
        // A container that never ran has no logs, not empty ones.
        if directory.is_dir()
            && let Ok(used) = kedge_sys::fs::disk_usage(directory)
        {
            found.logs.insert(container.clone(), used);
        }
    }
    found
}

/// The volume, and how it was measured, in upstream's word.
fn volume(
    path: &Path,
    name: String,
    claim: Option<String>,
    mounted: bool,
) -> (Option<Volume>, &'static str) {
    // A filesystem of its own says itself what is used; a directory on the node's disk is counted or walked.
    let (used, source) = if mounted {
        let used = kedge_sys::fs::usage(path).map(|sizes| {
            let inodes = sizes.inodes.saturating_sub(sizes.inodes_free);
            (sizes.total.saturating_sub(sizes.free), inodes)
        });
        (used.ok(), "statfs")
    } else {
        match volumes::counted(path) {
            Some(used) => (Some(used), "fsquota"),
            None => (kedge_sys::fs::disk_usage(path).ok(), "du"),
        }
    };
    let space =
        used.and_then(|(bytes, inodes)| Some(space(path)?.used_by(Some(bytes), Some(inodes))));
    (space.map(|space| Volume { name, claim, space }), source)
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// Whether calls on it could wait for ever.
fn is_foreign(mount: &Mount) -> bool {
    FOREIGN.iter().any(|kind| mount.fstype.starts_with(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_measures_volumes_and_logs_and_leaves_foreign_filesystems_alone() {
        let dir = std::env::temp_dir().join(format!("kedge-walk-{}", std::process::id()));
        let file = |path: &str, bytes: usize| {
            let path = dir.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, vec![1; bytes]).unwrap();
        };
        file("volumes/kubernetes.io~empty-dir/scratch/f", 100_000);
        file("volumes/kubernetes.io~empty-dir/hung/f", 1);
        file("logs/web/0.log", 5000);
        let places = Places {
            uid: "u".into(),
            volumes: dir.join("volumes"),
            claims: BTreeMap::from([("scratch".to_owned(), "claim".to_owned())]),
            logs: dir.join("logs"),
            containers: vec!["web".into(), "none".into()],
        };
        let hung = dir.join("volumes/kubernetes.io~empty-dir/hung");
        let mount = Mount {
            id: 1,
            parent: 0,
            device: (0, 40),
            root: "/".into(),
            target: hung,
            options: String::new(),
            shared: false,
            fstype: "nfs4".into(),
            source: "server:/x".into(),
            super_options: String::new(),
        };
        let meters = Meters::default();
        let mounted = dir.join("volumes/kubernetes.io~empty-dir/scratch");
        let found = walk_pod(&places, &[mount], &meters);
        let (_, measured) = meters.family(MEASURED.name).unwrap();
        assert_eq!(measured[0].0[..], [Box::from("du")]);
        assert_eq!(volume(&mounted, "v".into(), None, true).1, "statfs");
        assert_eq!(found.volumes.len(), 1);
        let volume = &found.volumes[0];
        assert_eq!(
            (volume.name.as_str(), volume.claim.as_deref()),
            ("scratch", Some("claim"))
        );
        assert!(volume.space.used.unwrap() >= 100_000 && volume.space.capacity.unwrap() > 0);
        assert!(found.logs["web"].0 >= 5000);
        assert_eq!(found.logs.len(), 1);
        std::fs::remove_dir_all(dir).unwrap();
    }
}

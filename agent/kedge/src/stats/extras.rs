//! What the Summary needs besides cgroups: sizes of volumes, logs, writable layers and images.
//!
//! In: the kubelet's views, the runtime's statistics, directories. Out: [`Extras`]. Walking directories is work and could wait for a sick disk, so
//! it is done at most once a minute (as upstream does), beside the answer: a Summary never waits for it longer than [`PATIENCE`] and
//! shows the values of the last walk with their time. Neither does it wait longer for the runtime or for the node's own disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kedge_cri::Runtime;
use kedge_kubelet::{KubeletHandle, PodView};
use kedge_machine::paths;
use kedge_metrics::summary::{ContainerExtras, Extras, PodExtras, Space, Volume};
use kedge_pods::{logs, pod};
use kedge_sys::mount::Mount;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::patience::Patience;
use super::storage::Stored;

/// A walk's values are used this long.
const WALK_EVERY: Duration = Duration::from_secs(60);
/// A Summary waits this long for the first walk, and for each answer of the runtime.
const PATIENCE: Duration = Duration::from_secs(2);
/// Filesystems whose calls can wait for a server or a user process for ever.
const FOREIGN: [&str; 6] = ["nfs", "cifs", "smb", "ceph", "9p", "fuse"];

/// Measures. Cheap to clone.
#[derive(Clone)]
pub struct Measure {
    node: String,
    runtime: Arc<dyn Runtime>,
    kubelet: KubeletHandle,
    last: Arc<Mutex<Last>>,
    /// One walk at a time: behind a hung disk there is never more than one thread.
    walking: Arc<Semaphore>,
    patience: Patience,
}

/// A walk and when it ended.
type Last = Option<(Arc<Walked>, Instant)>;
/// By pod uid.
type Walked = BTreeMap<String, OfPod>;

/// What a walk found of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OfPod {
    volumes: Vec<Volume>,
    /// Bytes and inodes by container name.
    logs: BTreeMap<String, (u64, u64)>,
}

/// What is walked of a pod.
struct Places {
    uid: String,
    volumes: PathBuf,
    /// Names of the spec's volumes that are claims, with their claims.
    claims: BTreeMap<String, String>,
    logs: PathBuf,
    containers: Vec<String>,
}

impl Measure {
    /// For the node of this name.
    pub fn new(node: String, kubelet: KubeletHandle) -> Self {
        Self {
            node,
            // The kubelet's, whose calls are counted.
            runtime: kubelet.runtime(),
            kubelet,
            last: Arc::default(),
            walking: Arc::new(Semaphore::new(1)),
            patience: Patience::default(),
        }
    }

    /// Now, or as of the last walk.
    pub async fn take(&self) -> Extras {
        let views = self.kubelet.pods();
        let walked = self.walked(&views).await;
        let layers = self.layers().await;
        let images = self.images().await;
        let local = self.patience.call("the node's disk", local).await;
        let local = local.unwrap_or_default();
        let of_pod = |view: &Arc<PodView>| {
            let uid = pod::uid(&view.pod).to_owned();
            let known = walked.as_ref().and_then(|w| w.get(&uid));
            let extras = together(view, known.cloned().unwrap_or_default(), &layers);
            (uid, extras)
        };
        Extras {
            node: self.node.clone(),
            disk: local.disk,
            images,
            processes: local.processes,
            pods: views.iter().map(of_pod).collect(),
        }
    }

    /// What pods keep on disk, as of the last walk.
    pub async fn stored(&self) -> Vec<Stored> {
        let views = self.kubelet.pods();
        let Some(walked) = self.walked(&views).await else {
            return Vec::new();
        };
        let of_pod = |view: &Arc<PodView>| {
            let uid = pod::uid(&view.pod);
            let found = walked.get(uid)?.clone();
            Some(Stored {
                namespace: pod::namespace(&view.pod).to_owned(),
                pod: pod::name(&view.pod).to_owned(),
                uid: uid.to_owned(),
                volumes: found.volumes,
                logs: found.logs,
            })
        };
        views.iter().filter_map(of_pod).collect()
    }

    /// The last walk if it is young, else a new one if it ends in time, else the last.
    async fn walked(&self, views: &[Arc<PodView>]) -> Option<Arc<Walked>> {
        let last = self.last();
        if let Some((walked, at)) = &last
            && at.elapsed() < WALK_EVERY
        {
            return Some(walked.clone());
        }
        if let Ok(permit) = self.walking.clone().try_acquire_owned() {
            let places: Vec<Places> = views.iter().map(|v| places(v)).collect();
            let kept = self.last.clone();
            let walk = tokio::task::spawn_blocking(move || {
                let walked = Arc::new(walk(places));
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                *kept = Some((walked, Instant::now()));
                drop(permit);
            });
            // Dropping the handle leaves the walk to itself.
            let _ = tokio::time::timeout(PATIENCE, walk).await;
        }
        self.last().map(|(walked, _)| walked)
    }

    fn last(&self) -> Last {
        let last = self.last.lock();
        last.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Bytes and inodes of writable layers by container id; none while the runtime is away.
    async fn layers(&self) -> BTreeMap<String, (u64, u64)> {
        let stats = self.runtime.list_container_stats(None);
        let stats = tokio::time::timeout(PATIENCE, stats).await;
        let stats = stats
            .map(|stats| stats.inspect_err(|error| tracing::debug!(%error, "writable layers")));
        stats
            .unwrap_or_else(|_| Ok(Vec::new()))
            .unwrap_or_default()
            .into_iter()
            .filter_map(|s| {
                let layer = s.writable_layer?;
                let inodes = layer.inodes_used.map_or(0, |n| n.value);
                Some((s.attributes?.id, (layer.used_bytes?.value, inodes)))
            })
            .collect()
    }

    async fn images(&self) -> Option<(u64, u64)> {
        let info = tokio::time::timeout(PATIENCE, self.runtime.image_fs_info());
        let info = info.await.ok()?.ok()?;
        let images = info.image_filesystems.into_iter();
        images
            .map(|fs| {
                let value = |v: Option<kedge_cri::v1::UInt64Value>| v.map_or(0, |v| v.value);
                (value(fs.used_bytes), value(fs.inodes_used))
            })
            .reduce(|a, b| (a.0 + b.0, a.1 + b.1))
    }
}

fn places(view: &PodView) -> Places {
    let uid = pod::uid(&view.pod).to_owned();
    Places {
        volumes: Path::new(paths::KUBELET)
            .join("pods")
            .join(&uid)
            .join("volumes"),
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

fn walk(places: Vec<Places>) -> Walked {
    let mounts = kedge_sys::mount::list().unwrap_or_default();
    places
        .into_iter()
        .map(|p| (p.uid.clone(), walk_pod(&p, &mounts)))
        .collect()
}

fn walk_pod(places: &Places, mounts: &[Mount]) -> OfPod {
    let mut found = OfPod::default();
    for plugin in names(&places.volumes) {
        for name in names(&places.volumes.join(&plugin)) {
            let path = places.volumes.join(&plugin).join(&name);
            let mount = mounts.iter().rfind(|m| m.target == path);
            if !mount.is_some_and(is_foreign) {
                let claim = places.claims.get(&name).cloned();
                found
                    .volumes
                    .extend(volume(&path, name, claim, mount.is_some()));
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

fn volume(path: &Path, name: String, claim: Option<String>, mounted: bool) -> Option<Volume> {
    let mut space = space(path)?;
    // A filesystem of its own says itself what is used; a directory on the node's disk is counted.
    if mounted {
        let sizes = kedge_sys::fs::usage(path).ok()?;
        space.used = Some(sizes.total.saturating_sub(sizes.free));
        space.inodes_used = Some(sizes.inodes.saturating_sub(sizes.inodes_free));
    } else {
        let (bytes, inodes) = kedge_sys::fs::disk_usage(path).ok()?;
        (space.used, space.inodes_used) = (Some(bytes), Some(inodes));
    }
    Some(Volume { name, claim, space })
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

/// The filesystem under a path, without anybody's use.
fn space(path: &Path) -> Option<Space> {
    let sizes = kedge_sys::fs::usage(path).ok()?;
    Some(Space {
        at_ms: super::stamp().wall_ms,
        capacity: Some(sizes.total),
        available: Some(sizes.available),
        used: None,
        inodes: Some(sizes.inodes),
        inodes_free: Some(sizes.inodes_free),
        inodes_used: None,
    })
}

#[derive(Default)]
struct Local {
    disk: Option<Space>,
    processes: Option<(u64, u64)>,
}

/// What one call each tells.
fn local() -> Local {
    let disk = Path::new(paths::KUBELET);
    let disk = space(disk)
        .zip(kedge_sys::fs::usage(disk).ok())
        .map(|(space, sizes)| {
            let used = sizes.total.saturating_sub(sizes.free);
            let inodes = sizes.inodes.saturating_sub(sizes.inodes_free);
            space.used_by(Some(used), Some(inodes))
        });
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse().ok();
    let most: Option<u64> = number("/proc/sys/kernel/pid_max");
    // The fourth field: running/all scheduling entities.
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let all = load
        .split(' ')
        .nth(3)
        .and_then(|f| f.split_once('/')?.1.parse().ok());
    Local {
        disk,
        processes: most.zip(all),
    }
}

/// A pod's extras from the walk and the runtime's list.
fn together(view: &PodView, walked: OfPod, layers: &BTreeMap<String, (u64, u64)>) -> PodExtras {
    let running = view.observed.containers.iter().filter(|c| c.running());
    let containers = running.map(|c| {
        let extras = ContainerExtras {
            rootfs: layers.get(&c.id).copied(),
            logs: walked.logs.get(&c.name).copied(),
        };
        (c.name.clone(), extras)
    });
    let started = view
        .status
        .start_time
        .as_ref()
        .map(|t| t.0.as_millisecond());
    PodExtras {
        started_ms: started,
        volumes: walked.volumes,
        containers: containers.collect(),
    }
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
        let found = walk_pod(&places, &[mount]);
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

//! What the Summary needs besides cgroups: sizes of volumes, logs, writable layers and images.
//!
//! In: the kubelet's views, the runtime's statistics, the kernel's counts, directories. Out: [`Extras`]. Use of emptyDirs is read from their
//! project quotas for every answer. What has none is walked (logs, other volumes): that is work and could wait for a sick disk, so it is
//! done at most once a minute (as upstream does), beside the answer: a Summary never waits for it longer than [`PATIENCE`] and shows the
//! values of the last walk with their time. Neither does it wait longer for the runtime or for the node's own disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kedge_cri::Runtime;
use kedge_kubelet::{KubeletHandle, PodView, volumes};
use kedge_machine::paths;
use kedge_metrics::summary::{ContainerExtras, Extras, PodExtras, Space, Volume};
use kedge_pods::{pod, volume};
use kedge_tasks::Meters;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::patience::Patience;
use super::storage::Stored;
use walk::{OfPod, Places, Walked, places, walk};

mod walk;

/// A walk's values are used this long.
const WALK_EVERY: Duration = Duration::from_secs(60);
/// A Summary waits this long for the first walk, and for each answer of the runtime.
const PATIENCE: Duration = Duration::from_secs(2);

/// Measures. Cheap to clone.
#[derive(Clone)]
pub struct Measure {
    node: String,
    runtime: Arc<dyn Runtime>,
    kubelet: KubeletHandle,
    meters: Meters,
    last: Arc<Mutex<Last>>,
    /// One walk at a time: behind a hung disk there is never more than one thread.
    walking: Arc<Semaphore>,
    patience: Patience,
    /// Of two Summaries at once the second waits for the first's calls, instead of being told that they are under way.
    turn: Arc<Semaphore>,
}

/// A walk and when it ended.
type Last = Option<(Arc<Walked>, Instant)>;

impl Measure {
    /// For the node of this name.
    pub fn new(node: String, kubelet: KubeletHandle, meters: Meters) -> Self {
        Self {
            node,
            // The kubelet's, whose calls are counted.
            runtime: kubelet.runtime(),
            kubelet,
            meters,
            last: Arc::default(),
            walking: Arc::new(Semaphore::new(1)),
            patience: Patience::default(),
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// Now, or as of the last walk.
    pub async fn take(&self) -> Extras {
        let views = self.kubelet.pods();
        let walked = self.walked(&views).await;
        let layers = self.layers().await;
        let images = self.images().await;
        let turn = self.turn.acquire().await;
        let local = self.patience.call("the node's disk", local).await;
        let local = local.unwrap_or_default();
        let seen = views.clone();
        let counts = move || counted(&seen, space(Path::new(paths::KUBELET)));
        let counts = self
            .patience
            .call_within(PATIENCE, "the pods' emptyDirs", counts)
            .await;
        let mut counts = counts.unwrap_or_default();
        drop(turn);
        let of_pod = |view: &Arc<PodView>| {
            let uid = pod::uid(&view.pod).to_owned();
            let known = walked.as_ref().and_then(|w| w.get(&uid));
            let mut found = known.cloned().unwrap_or_default();
            renew(&mut found.volumes, counts.remove(&uid).unwrap_or_default());
            let extras = together(view, found, &layers);
            (uid, extras)
        };
        let pods = views.iter().map(of_pod).collect();
        Extras {
            node: self.node.clone(),
            disk: local.disk,
            images,
            processes: local.processes,
            pods,
        }
    }

    /// What pods keep on disk, as of the last walk.
    pub async fn stored(&self) -> Vec<Stored> {
        let views = self.kubelet.pods();
        let Some(walked) = self.walked(&views).await else {
            return Vec::new();
        };
        let of_pod = |view: &Arc<PodView>| {
            let found = walked.get(pod::uid(&view.pod))?.clone();
            Some(kept(view, found))
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
            let meters = self.meters.clone();
            let walk = tokio::task::spawn_blocking(move || {
                let walked = Arc::new(walk(places, &meters));
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

fn volumes_of(uid: &str) -> PathBuf {
    Path::new(paths::KUBELET)
        .join("pods")
        .join(uid)
        .join("volumes")
}

/// The pods' emptyDirs that the kernel counts, by uid.
fn counted(views: &[Arc<PodView>], space: Option<Space>) -> BTreeMap<String, Vec<Volume>> {
    let Some(space) = space else {
        return BTreeMap::new();
    };
    let of_pod = |view: &Arc<PodView>| {
        let uid = pod::uid(&view.pod).to_owned();
        let directory = volumes_of(&uid).join(volume::dir_name("empty-dir"));
        let count = |name: &str| {
            let (bytes, inodes) = volumes::counted(&directory.join(name))?;
            Some(Volume {
                name: name.to_owned(),
                claim: None,
                // A count is of the filesystem that holds them all.
                space: space.used_by(Some(bytes), Some(inodes)),
            })
        };
        let found = volume::disk_empty_dirs(&view.pod)
            .filter_map(count)
            .collect();
        (uid, found)
    };
    views.iter().map(of_pod).collect()
}

/// Puts newer values in the place of a walk's, and adds volumes that it has not seen.
fn renew(volumes: &mut Vec<Volume>, newer: Vec<Volume>) {
    for volume in newer {
        match volumes.iter_mut().find(|v| v.name == volume.name) {
            Some(known) => *known = volume,
            None => volumes.push(volume),
        }
    }
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

/// What a pod keeps: the logs of containers that run, as upstream's are those of containers with statistics.
fn kept(view: &PodView, mut walked: OfPod) -> Stored {
    let containers = &view.observed.containers;
    let runs = |name: &str| containers.iter().any(|c| c.name == name && c.running());
    walked.logs.retain(|name, _| runs(name));
    Stored {
        namespace: pod::namespace(&view.pod).to_owned(),
        pod: pod::name(&view.pod).to_owned(),
        uid: pod::uid(&view.pod).to_owned(),
        volumes: walked.volumes,
        logs: walked.logs,
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
    fn logs_are_told_of_containers_that_run() {
        let container = |name: &str, state| kedge_pods::observed::ObservedContainer {
            name: name.into(),
            state,
            ..Default::default()
        };
        use kedge_pods::observed::State;
        let view = PodView {
            pod: Arc::default(),
            status: Default::default(),
            observed: Arc::new(kedge_pods::observed::ObservedPod {
                containers: vec![
                    container("a", State::Running),
                    container("b", State::Exited),
                ],
                ..Default::default()
            }),
            is_static: false,
            asked: Default::default(),
            stuck: false,
        };
        let walked = OfPod {
            volumes: Vec::new(),
            logs: BTreeMap::from([("a".to_owned(), (7, 1)), ("b".to_owned(), (9, 1))]),
        };
        assert_eq!(
            kept(&view, walked).logs,
            BTreeMap::from([("a".to_owned(), (7, 1))])
        );
    }

    #[test]
    fn a_count_takes_the_place_of_a_walks_value_and_no_other() {
        let volume = |name: &str, used| Volume {
            name: name.into(),
            claim: None,
            space: Space::default().used_by(Some(used), Some(1)),
        };
        let mut volumes = vec![volume("a", 1), volume("b", 2)];
        renew(&mut volumes, vec![volume("b", 20), volume("c", 30)]);
        assert_eq!(volumes, [volume("a", 1), volume("b", 20), volume("c", 30)]);
    }
}

//! Pods that nobody asks for: known to the runtime, or left on disk or in cgroups by an agent that died.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kedge_pods::mirror;
use kedge_pods::pod::{self, Fate};
use kedge_pods::qos::{self, Class};
use kedge_sys::cgroup::Tree;
use tokio::time::Instant;

use super::{Done, SCAN, Scan, Supervisor, only_identity};
use crate::worker::Input;
use crate::{meters, observe};

impl Supervisor {
    /// Ends what has no worker and is not desired. Only once everything that could ask for it has been heard.
    pub(super) fn end_orphans(&mut self, from_api: &BTreeMap<String, Arc<Pod>>, heard: bool) {
        if !heard {
            return;
        }
        self.count_left(from_api);
        let census = self.census.clone().unwrap_or_default();
        let uids = census.keys().chain(&self.leftovers);
        let orphans: BTreeSet<String> = uids
            .filter(|uid| !self.workers.contains_key(*uid) && !from_api.contains_key(*uid))
            .filter(|uid| !self.orphans.contains(*uid))
            .cloned()
            .collect();
        for uid in orphans {
            self.orphans.insert(uid.clone());
            let (namespace, name) = census.get(&uid).map_or_else(Default::default, |seen| {
                (seen.namespace.clone(), seen.name.clone())
            });
            let runtime = self.node.runtime.clone();
            self.jobs.spawn(async move {
                // Labels and annotations say how to end it: grace, preStop hooks.
                let observed = observe::pod(runtime.as_ref(), &uid).await;
                let pod = observed.ok().and_then(|seen| mirror::from_runtime(&seen));
                Done::Orphan(Box::new(
                    pod.unwrap_or_else(|| only_identity(&namespace, &name, &uid)),
                ))
            });
        }
    }

    /// Counts directories of pods that nobody asks for, once for every scan. One whose worker began as an orphan's was found by an earlier scan.
    fn count_left(&mut self, from_api: &BTreeMap<String, Arc<Pod>>) {
        let Some(found) = self.scanned.take() else {
            return;
        };
        let (mut all, mut earlier) = (0.0, 0.0);
        for uid in found {
            match self.workers.get(&uid) {
                Some(entry) if entry.orphan => {
                    all += 1.0;
                    earlier += 1.0;
                }
                Some(_) => {}
                None if from_api.contains_key(&uid) => {}
                None => all += 1.0,
            }
        }
        let meters = &self.node.meters;
        meters.set(&meters::ORPHANED_VOLUMES, &[], all);
        meters.set(&meters::ORPHANED_VOLUMES_ERRORS, &[], earlier);
    }

    /// Gives a pod that nobody asks for a worker that ends it.
    pub(super) fn end_orphan(&mut self, pod: Pod) {
        let uid = pod::uid(&pod).to_owned();
        self.orphans.remove(&uid);
        if self.workers.contains_key(&uid) {
            return;
        }
        tracing::info!(uid, "ending what is left of a pod nobody asks for");
        self.node.meters.count(&meters::ORPHANS, &[]);
        let input = Input {
            pod: Arc::new(pod),
            fate: Fate::Removed,
            pending: None,
            api: None,
        };
        self.spawn(uid, input);
    }

    /// Looks for leftovers now and then.
    pub(super) fn scan(&mut self, wake: &mut Instant) {
        if self.scan_at > Instant::now() {
            *wake = (*wake).min(self.scan_at);
            return;
        }
        self.scan_at = Instant::now() + SCAN;
        let pods_dir = self.node.pods_dir.clone();
        let tree = self.node.cgroups.clone();
        let lane = self.node.lanes.slow.clone();
        self.jobs.spawn(async move {
            let work = move || search(&pods_dir, tree.as_ref());
            Done::Scanned(lane.run(work).await.unwrap_or_else(|lost| Err(lost.into())))
        });
    }
}

const ENOENT: i32 = 2;

/// Looks for what is left of pods. A directory that cannot be read says nothing about them; one that is absent holds none.
fn search(pods_dir: &Path, tree: Option<&Tree>) -> std::io::Result<Scan> {
    let entries = match std::fs::read_dir(pods_dir) {
        Ok(entries) => Some(entries),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let mut directories = Vec::new();
    for entry in entries.into_iter().flatten() {
        directories.extend(entry?.file_name().to_str().map(str::to_owned));
    }
    let mut uids: BTreeSet<String> = directories.iter().cloned().collect();
    for class in [Class::Guaranteed, Class::Burstable, Class::BestEffort] {
        let Some(tree) = tree else { break };
        let groups = match tree.children(qos::class_path(class)) {
            Err(error) if error.errno() != Some(ENOENT) => {
                return Err(std::io::Error::other(error));
            }
            groups => groups.unwrap_or_default(),
        };
        for name in groups {
            uids.extend(name.strip_prefix("pod").map(str::to_owned));
        }
    }
    let all = uids.into_iter().collect();
    Ok(Scan { all, directories })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rig;

    /// As a tokio test, because the rig has tasks.
    #[tokio::test]
    async fn a_directory_that_cannot_be_read_is_not_an_empty_one() {
        let dir = Rig::new("left-search").dir;
        assert_eq!(search(&dir.join("no"), None).unwrap(), Scan::default());
        let file = dir.join("file");
        std::fs::write(&file, "").unwrap();
        search(&file, None).unwrap_err();
        std::fs::create_dir(dir.join("u1")).unwrap();
        std::fs::remove_file(file).unwrap();
        assert_eq!(search(&dir, None).unwrap().directories, ["u1"]);
    }
}

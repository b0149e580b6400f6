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

    /// Counts directories of pods that nobody asks for and of which nothing runs any more, once for every scan; and those whose worker could
    /// not clean them up when it last tried.
    fn count_left(&mut self, from_api: &BTreeMap<String, Arc<Pod>>) {
        let Some(found) = self.scanned.take() else {
            return;
        };
        let is_running = |uid: &str| {
            let seen = self.census.as_ref().and_then(|census| census.get(uid));
            seen.is_some_and(|seen| seen.running)
        };
        let is_asked_for = |uid: &str| {
            let worker = self.workers.get(uid);
            let kept = worker.is_some_and(|entry| entry.input.borrow().fate != Fate::Removed);
            kept || from_api.contains_key(uid)
        };
        let views = self.node.views.borrow();
        let (mut all, mut stuck) = (0.0, 0.0);
        for uid in found {
            if is_asked_for(&uid) || is_running(&uid) {
                continue;
            }
            all += 1.0;
            if views.get(&uid).is_some_and(|view| view.stuck) {
                stuck += 1.0;
            }
        }
        let meters = &self.node.meters;
        meters.set(&meters::ORPHANED_VOLUMES, &[], all);
        meters.set(&meters::ORPHANED_VOLUMES_ERRORS, &[], stuck);
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
    use crate::handle::PodView;
    use crate::observe::Seen;
    use crate::testing::Rig;

    /// What was merely being ended used to be counted, and as an error after a minute of it.
    #[tokio::test]
    async fn what_runs_is_not_left_behind_and_only_a_failed_removal_is_an_error() {
        let rig = Rig::new("left-counted");
        let mut supervisor = Supervisor::new(rig.node.clone());
        let seen = |running| Seen {
            running,
            ..Seen::default()
        };
        let census = [("ending", seen(true)), ("left", seen(false))];
        supervisor.census = Some(census.map(|(uid, seen)| (uid.to_owned(), seen)).into());
        let view = PodView {
            pod: Arc::default(),
            status: Default::default(),
            observed: Arc::default(),
            is_static: false,
            asked: Default::default(),
            stuck: true,
        };
        rig.node
            .views
            .send_modify(|views| drop(views.insert("stuck".to_owned(), Arc::new(view))));
        let wanted = BTreeMap::from([("wanted".to_owned(), Arc::default())]);
        let mut count = |found: &[&str]| {
            supervisor.scanned = Some(found.iter().map(|uid| (*uid).to_owned()).collect());
            supervisor.count_left(&wanted);
            let read = |family| match rig.node.meters.reading(family, &[]) {
                Some(kedge_tasks::meter::Reading::Level(level)) => level,
                other => panic!("{other:?}"),
            };
            let both = (&meters::ORPHANED_VOLUMES, &meters::ORPHANED_VOLUMES_ERRORS);
            [read(both.0), read(both.1)]
        };
        assert_eq!(count(&["ending", "left", "stuck", "wanted"]), [2.0, 1.0]);
        assert_eq!(count(&["ending", "wanted"]), [0.0, 0.0]);
    }

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

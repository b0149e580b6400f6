//! Who has a worker, and what it is told.
//!
//! In: desired pods, static pods, what the runtime and the disk know. Out: one worker per pod uid with the latest [`Input`]; also for
//! pods that only the runtime or the disk knows, so that they end in order; mirror pods of static pods; the QoS cgroups.
//!
//! Invariants: nothing is ended before the API was heard and the manifests were read; a pod is admitted once; of two static
//! pods with the same name the new one waits until the old one is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kedge_pods::pod::{self, Fate};
use kedge_pods::resize::{self, Pending};
use kedge_tasks::{Meters, Registry, Stop};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::admission::{self, NodeObject};
use crate::desired::Desired;
use crate::limits::Eviction;
use crate::meters;
use crate::node::Node;
use crate::observe::Census;
use crate::observer::Sight;
use crate::statics::Statics;
use crate::worker::{ApiCopy, Input, Mailbox, Worker};

mod cgroups;
mod leftovers;
mod mirrors;

use mirrors::Mirrors;

/// What the rest of the agent may want to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KubeletState {
    /// The API has not been heard since the agent started: only static pods and what already runs.
    pub waiting_for_api: bool,
    /// Why no pod can run on this node at all (a cgroup driver we do not speak).
    pub refuses: Option<String>,
    /// Static pod files that cannot be used: file, line, reason.
    pub bad_manifests: Vec<String>,
    /// Pods with a worker.
    pub pods: usize,
}

/// A worker from outside.
struct Entry {
    input: watch::Sender<Arc<Input>>,
    poke: Arc<Notify>,
    /// The pod as it was last asked for; its worker may have been granted less.
    asked: Arc<Pod>,
    /// When a resize was put off.
    put_off: Option<Instant>,
}

impl Entry {
    /// Counts what becomes of the pod's resize with a new input.
    fn resized(&mut self, meters: &Meters, new: &Input, trigger: &str) {
        let old = self.input.borrow().clone();
        if old.pending.is_none() && new.pending.is_some() {
            self.put_off = Some(Instant::now());
        }
        let put_off = self.put_off.map_or(Duration::ZERO, |at| at.elapsed());
        let (before, now) = (old.pending.as_ref(), new.pending.as_ref());
        meters::moved(meters, &old.pod, &new.pod, before, now, put_off, trigger);
        if new.pending.is_none() {
            self.put_off = None;
        }
    }
}

/// What the supervisor listens to.
pub struct Sources {
    pub desired: watch::Receiver<Desired>,
    pub object: watch::Receiver<Arc<NodeObject>>,
    pub statics: watch::Receiver<Arc<Statics>>,
    pub sights: mpsc::Receiver<Sight>,
    pub evictions: mpsc::Receiver<Eviction>,
    /// The agent ends: so do the workers, pods stay as they are.
    pub stop: Stop,
    /// The node goes down: the same, for the shutdown to take over.
    pub freeze: watch::Receiver<bool>,
    pub state: watch::Sender<KubeletState>,
    pub registry: Registry,
}

/// See the module.
pub struct Supervisor {
    node: Arc<Node>,
    workers: BTreeMap<String, Entry>,
    running: JoinSet<String>,
    census: Option<Census>,
    /// Pods whose directory or cgroup exists, from the last scan.
    leftovers: Vec<String>,
    /// Those with a directory, from a scan that was not counted yet.
    scanned: Option<Vec<String>>,
    /// Asked for again while they are being ended.
    returning: BTreeSet<String>,
    /// Being looked at before they get a worker.
    orphans: BTreeSet<String>,
    scan_at: Instant,
    mirrors: Mirrors,
    jobs: JoinSet<Done>,
    levels: Option<Vec<kedge_pods::qos::Cgroup>>,
    said_waiting: bool,
    /// Whether the runtime answered the last list.
    runtime_down: bool,
    object: Arc<NodeObject>,
    /// What made the loop wake up, in upstream's words for what lets a resize be tried again.
    trigger: &'static str,
    registry: Registry,
}

/// The end of something that ran beside the loop.
enum Done {
    Mirror(String, bool),
    Scanned(std::io::Result<Scan>),
    Orphan(Box<Pod>),
    Levels(Result<(), String>),
}

/// Uids found on this node.
#[derive(Debug, Default, PartialEq, Eq)]
struct Scan {
    /// With a directory or a cgroup.
    all: Vec<String>,
    directories: Vec<String>,
}

/// Disk and cgroups are searched for pods that nobody knows this often.
const SCAN: Duration = Duration::from_secs(60);

impl Supervisor {
    pub fn new(node: Arc<Node>) -> Self {
        Self {
            node,
            workers: BTreeMap::new(),
            running: JoinSet::new(),
            census: None,
            leftovers: Vec::new(),
            scanned: None,
            returning: BTreeSet::new(),
            orphans: BTreeSet::new(),
            scan_at: Instant::now(),
            mirrors: Mirrors::default(),
            jobs: JoinSet::new(),
            levels: None,
            said_waiting: false,
            runtime_down: false,
            object: Arc::default(),
            trigger: "periodic_retry",
            registry: Registry::default(),
        }
    }

    /// Runs until the stop is requested; workers end with it and touch nothing.
    pub async fn run(mut self, mut sources: Sources) {
        self.registry = sources.registry.clone();
        loop {
            let began = Instant::now();
            let wake = self.reconcile(&mut sources);
            let words = format!("{} pods", self.workers.len());
            sources
                .registry
                .record("pods", "change", began, Ok(words.as_str()));
            // Every arm only waits; a message taken by an arm is handled in it.
            self.trigger = tokio::select! {
                () = sources.stop.requested() => return,
                _ = sources.freeze.wait_for(|freeze| *freeze) => return,
                changed = sources.object.changed() => match changed {
                    Ok(()) => "periodic_retry",
                    Err(_) => return,
                },
                changed = sources.desired.changed() => match changed {
                    Ok(()) => "pod_updated",
                    Err(_) => return,
                },
                changed = sources.statics.changed() => match changed {
                    Ok(()) => "pod_updated",
                    Err(_) => return,
                },
                sight = sources.sights.recv() => match sight {
                    Some(sight) => {
                        self.on_sight(sight);
                        "pod_terminated"
                    }
                    None => return,
                },
                eviction = sources.evictions.recv() => match eviction {
                    Some(eviction) => {
                        self.evict(eviction);
                        "pod_terminated"
                    }
                    None => return,
                },
                Some(ended) = self.running.join_next() => {
                    if let Ok(uid) = ended {
                        self.on_end(&uid);
                    }
                    "pods_removed"
                }
                Some(done) = self.jobs.join_next() => {
                    if let Ok(done) = done {
                        self.on_done(done);
                    }
                    "periodic_retry"
                }
                () = tokio::time::sleep_until(wake) => "periodic_retry",
            };
        }
    }

    /// A worker that ends has left nothing of its pod: what was seen before is out of date, and taken for current it would
    /// make an orphan of the pod again and again until the next census.
    fn on_end(&mut self, uid: &str) {
        self.workers.remove(uid);
        self.leftovers.retain(|left| left != uid);
        if let Some(census) = &mut self.census {
            census.remove(uid);
        }
    }

    fn on_sight(&mut self, sight: Sight) {
        match sight {
            Sight::Pod(uid) => self.poke(&uid),
            // The last census stays what is known. Workers are told once, so that none plans on what it saw long ago.
            Sight::Down(error) => {
                tracing::debug!(error, "runtime");
                if !std::mem::replace(&mut self.runtime_down, true) {
                    self.workers
                        .values()
                        .for_each(|entry| entry.poke.notify_one());
                }
            }
            Sight::Census(new) => {
                self.runtime_down = false;
                let old = self.census.replace(new);
                let (old, new) = (
                    old.unwrap_or_default(),
                    self.census.clone().unwrap_or_default(),
                );
                let uids = old.keys().chain(new.keys());
                for uid in uids {
                    if old.get(uid) != new.get(uid) {
                        self.poke(uid);
                    }
                }
            }
        }
    }

    /// Ends a pod that took more than it may. Its fate stays: the next input keeps it.
    fn evict(&self, Eviction { uid, message }: Eviction) {
        let Some(entry) = self.workers.get(&uid) else {
            return;
        };
        let input = entry.input.borrow().clone();
        if input.fate != Fate::Run {
            return;
        }
        let signal = crate::meters::limit_signal(&message);
        self.node.meters.count(&crate::meters::EVICTIONS, &[signal]);
        tracing::warn!(pod = pod::name(&input.pod), uid, message, "evicting");
        let mut new = input.as_ref().clone();
        new.fate = Fate::Evicted {
            reason: "Evicted".into(),
            message,
            grace: Duration::from_secs(1),
        };
        entry.input.send_replace(Arc::new(new));
    }

    fn poke(&self, uid: &str) {
        if let Some(entry) = self.workers.get(uid) {
            entry.poke.notify_one();
        }
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Mirror(name, ok) => self.mirrors.done(&name, ok),
            // What was found before stays what is known.
            Done::Scanned(Err(error)) => {
                tracing::warn!(%error, "looking for what is left of pods");
            }
            Done::Scanned(Ok(found)) => {
                self.leftovers = found.all;
                self.scanned = Some(found.directories);
            }
            Done::Orphan(pod) => self.end_orphan(*pod),
            Done::Levels(Ok(())) => {}
            Done::Levels(Err(error)) => {
                tracing::error!(error, "QoS cgroups");
                self.levels = None;
            }
        }
    }

    /// Gives every pod its worker and every worker its input. Answers when to run again at the latest.
    fn reconcile(&mut self, sources: &mut Sources) -> Instant {
        let desired = sources.desired.borrow_and_update().clone();
        let statics = sources.statics.borrow_and_update().clone();
        self.object = sources.object.borrow_and_update().clone();
        let mut wake = Instant::now() + SCAN;
        self.scan(&mut wake);
        let waiting = matches!(desired, Desired::Unknown);
        self.say_waiting(waiting);
        let (from_api, mirrors) = sorted(&desired);
        self.count_wanted(&from_api, &statics);
        self.count_resizes(&from_api);
        // Whether a pod already ran here, and what the node has, decide about admission: nothing starts before both are known.
        if self.census.is_some() && !self.object.allocatable.is_empty() {
            let wanted = self.wanted(&from_api, &mirrors, &statics);
            self.end_unwanted(&wanted, !waiting, statics.read);
            self.give(wanted);
            self.end_orphans(&from_api, !waiting && statics.read);
            self.levels(&from_api, &statics);
        }
        if !waiting {
            let node_uid = self.object.uid.clone();
            self.reflect(&mirrors, &statics, &node_uid, &mut wake);
        }
        sources.state.send_if_modified(|state| {
            let new = KubeletState {
                waiting_for_api: waiting,
                refuses: state.refuses.clone(),
                bad_manifests: statics.bad.clone(),
                pods: self.workers.len(),
            };
            let changed = *state != new;
            *state = new;
            changed
        });
        wake
    }

    fn count_wanted(&self, from_api: &BTreeMap<String, Arc<Pod>>, statics: &Statics) {
        let counts = [("", from_api.len()), ("true", statics.pods.len())];
        for (is_static, count) in counts {
            #[expect(clippy::cast_precision_loss, reason = "pods of one node")]
            let count = count as f64;
            self.node.meters.set(&meters::DESIRED, &[is_static], count);
        }
    }

    /// Notes which resources pods ask for, whether they are granted or not.
    fn count_resizes(&mut self, from_api: &BTreeMap<String, Arc<Pod>>) {
        for (uid, pod) in from_api {
            if let Some(entry) = self.workers.get_mut(uid)
                && !Arc::ptr_eq(&entry.asked, pod)
            {
                meters::requested(&self.node.meters, &entry.asked, pod);
                entry.asked = pod.clone();
            }
        }
    }

    fn say_waiting(&mut self, waiting: bool) {
        if waiting != self.said_waiting {
            self.said_waiting = waiting;
            if waiting {
                tracing::warn!(
                    "pods of the API are started when the API server is heard; static pods and running ones are not affected"
                );
            } else {
                tracing::info!("the API server was heard; its pods are started");
            }
        }
    }

    fn wanted(
        &self,
        from_api: &BTreeMap<String, Arc<Pod>>,
        mirrors: &BTreeMap<String, Arc<Pod>>,
        statics: &Statics,
    ) -> BTreeMap<String, Input> {
        let mut wanted = BTreeMap::new();
        for (uid, pod) in from_api {
            let copy = ApiCopy {
                uid: uid.clone(),
                status: pod.status.clone().unwrap_or_default(),
            };
            wanted.insert(uid.clone(), self.input(uid, pod.clone(), Some(copy)));
        }
        for pod in &statics.pods {
            let uid = pod::uid(pod).to_owned();
            if !self.may_replace(pod, &uid) {
                continue;
            }
            let mirror = mirrors.get(&full_name(pod));
            let copy = mirror
                .filter(|mirror| mirrors::reflects(mirror, pod))
                .map(|mirror| ApiCopy {
                    uid: pod::uid(mirror).to_owned(),
                    status: mirror.status.clone().unwrap_or_default(),
                });
            wanted.insert(uid.clone(), self.input(&uid, pod.clone(), copy));
        }
        wanted
    }

    /// A static pod whose file changed has a new uid; the old one must be gone first.
    fn may_replace(&self, pod: &Pod, uid: &str) -> bool {
        let name = full_name(pod);
        !self.workers.iter().any(|(other, entry)| {
            other != uid && {
                let input = entry.input.borrow();
                pod::is_static(&input.pod) && full_name(&input.pod) == name
            }
        })
    }

    /// What a worker is told, with the fate it already has.
    fn input(&self, uid: &str, pod: Arc<Pod>, api: Option<ApiCopy>) -> Input {
        let known = self.workers.get(uid).map(|e| e.input.borrow().fate.clone());
        let fate = match known {
            // It was to end because it had gone from the configuration; the worker ends first, then it may come back.
            Some(fate) => fate,
            None => self.admit(uid, &pod),
        };
        let (pod, pending) = self.resized(uid, pod);
        Input {
            pod,
            fate,
            pending,
            api,
        }
    }

    /// The pod to act on: as it is, or with the resources it was granted before when the node cannot give what it asks for.
    fn resized(&self, uid: &str, pod: Arc<Pod>) -> (Arc<Pod>, Option<Pending>) {
        let before = match self.workers.get(uid) {
            Some(entry) => entry.input.borrow().pod.clone(),
            None => Arc::new(resize::as_reported(&pod).into_owned()),
        };
        if pod::is_static(&pod) || !resize::differs(&before, &pod) {
            return (pod, None);
        }
        match admission::resize(&pod, &self.active(uid), &self.object) {
            Ok(()) => (pod, None),
            Err(pending) => (Arc::new(resize::granted(&pod, &before)), Some(pending)),
        }
    }

    /// Decided once, before anything of the pod runs.
    fn admit(&self, uid: &str, pod: &Pod) -> Fate {
        let runs = self.census.as_ref().is_some_and(|c| c.contains_key(uid));
        let active = self.active(uid);
        let fate = admission::admit(pod, runs, &active, &self.object, &self.node.facts());
        if let Fate::Rejected { reason, .. } = &fate {
            let meters = &self.node.meters;
            meters.count(&meters::REJECTIONS, &[reason]);
        }
        fate
    }

    /// The other pods that use something of the node, with the resources they were granted.
    fn active(&self, uid: &str) -> Vec<Arc<Pod>> {
        let others = self.workers.iter().filter(|(other, _)| *other != uid);
        others
            .filter(|(_, entry)| entry.input.borrow().fate == Fate::Run)
            .filter(|(other, _)| !self.is_over(other))
            .map(|(_, entry)| entry.input.borrow().pod.clone())
            .collect()
    }

    /// A pod whose containers have ended for good uses nothing of the node any more.
    fn is_over(&self, uid: &str) -> bool {
        let views = self.node.views.borrow();
        let phase = views.get(uid).and_then(|view| view.status.phase.clone());
        matches!(phase.as_deref(), Some("Succeeded" | "Failed"))
    }

    fn end_unwanted(
        &mut self,
        wanted: &BTreeMap<String, Input>,
        api_heard: bool,
        manifests_read: bool,
    ) {
        self.returning.retain(|uid| wanted.contains_key(uid));
        for (uid, entry) in &self.workers {
            if wanted.contains_key(uid) {
                continue;
            }
            let is_static = pod::is_static(&entry.input.borrow().pod);
            let known = if is_static { manifests_read } else { api_heard };
            if known {
                entry.input.send_if_modified(|input| {
                    let changed = input.fate != Fate::Removed;
                    if changed {
                        let mut new = input.as_ref().clone();
                        new.fate = Fate::Removed;
                        *input = Arc::new(new);
                    }
                    changed
                });
            }
        }
    }

    fn give(&mut self, wanted: BTreeMap<String, Input>) {
        let mut inputs: Vec<(String, Input)> = wanted.into_iter().collect();
        // Older pods first, so that a restarted agent admits in the order it did before.
        inputs.sort_by_key(|(_, input)| {
            (
                input.pod.metadata.creation_timestamp.as_ref().map(|t| t.0),
                pod::name(&input.pod).to_owned(),
            )
        });
        let (meters, trigger) = (self.node.meters.clone(), self.trigger);
        for (uid, mut input) in inputs {
            match self.workers.get_mut(&uid) {
                Some(entry) => {
                    // The worker ends the pod first, and it begins anew with another.
                    if input.fate == Fate::Removed {
                        self.returning.insert(uid.clone());
                    }
                    entry.resized(&meters, &input, trigger);
                    entry.input.send_if_modified(|old| {
                        let same = old.fate == input.fate
                            && old.pending == input.pending
                            && old.api == input.api
                            && (Arc::ptr_eq(&old.pod, &input.pod) || old.pod == input.pod);
                        if !same {
                            *old = Arc::new(input);
                        }
                        !same
                    });
                }
                None => {
                    // Once more: what was admitted a moment ago counts too.
                    input.fate = self.admit(&uid, &input.pod);
                    let runs = input.fate == Fate::Run;
                    if runs {
                        count_containers(&self.node, &input.pod);
                    }
                    if self.returning.remove(&uid) && runs {
                        let is_static = if pod::is_static(&input.pod) {
                            "true"
                        } else {
                            ""
                        };
                        meters.count(&meters::RESTARTED, &[is_static]);
                    }
                    self.spawn(uid, input);
                }
            }
        }
    }

    fn spawn(&mut self, uid: String, input: Input) {
        if let Fate::Rejected { reason, message } = &input.fate {
            let pod = pod::name(&input.pod);
            tracing::warn!(pod, uid, reason, message, "pod refused");
        }
        let asked = input.pod.clone();
        let put_off = input.pending.as_ref().map(|_| Instant::now());
        let (sender, receiver) = watch::channel(Arc::new(input));
        let poke = Arc::new(Notify::new());
        let mailbox = Mailbox {
            input: receiver,
            poke: poke.clone(),
        };
        let worker = Worker::new(self.node.clone(), uid.clone(), mailbox);
        let ended = uid.clone();
        let work = self.registry.watched("pod-worker", worker.run());
        self.running.spawn(async move {
            work.await;
            ended
        });
        let entry = Entry {
            input: sender,
            poke,
            asked,
            put_off,
        };
        self.workers.insert(uid, entry);
    }
}

/// Pods of the API by uid, and mirror pods by full name.
fn sorted(desired: &Desired) -> (BTreeMap<String, Arc<Pod>>, BTreeMap<String, Arc<Pod>>) {
    let (mut pods, mut mirrors) = (BTreeMap::new(), BTreeMap::new());
    let Desired::Pods(all) = desired else {
        return (pods, mirrors);
    };
    for pod in all {
        if pod::is_mirror(pod) {
            mirrors.insert(full_name(pod), pod.clone());
        } else {
            pods.insert(pod::uid(pod).to_owned(), pod.clone());
        }
    }
    (pods, mirrors)
}

fn count_containers(node: &Node, pod: &Pod) {
    #[expect(clippy::cast_precision_loss, reason = "containers of one pod")]
    let containers = pod::spec(pod).containers.len() as f64;
    node.meters
        .observe_value(&crate::meters::CONTAINERS, &[], containers);
}

fn full_name(pod: &Pod) -> String {
    format!("{}/{}", pod::namespace(pod), pod::name(pod))
}

/// A pod of which only its identity is known.
fn only_identity(namespace: &str, name: &str, uid: &str) -> Pod {
    let mut pod = Pod::default();
    pod.metadata.namespace = Some(namespace.to_owned());
    pod.metadata.name = Some(name.to_owned());
    pod.metadata.uid = Some(uid.to_owned());
    pod.status = Some(PodStatus::default());
    pod
}

#[cfg(test)]
mod tests;

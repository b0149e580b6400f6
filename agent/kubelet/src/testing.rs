//! What this crate's tests share: a node around the fake runtime, an API that remembers, a clock on tokio's time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kedge_cri::fake::{EPOCH, Fake};
use kedge_pods::Now;
use kedge_pods::resolve::NodeFacts;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::lanes::Lanes;
use crate::node::{Node, no_views};
use crate::outbound::{
    Api, ApiError, CAPACITY, CertificateRequest, Issuing, Outbound, PodEvent, RequestedCertificate,
    Token,
};
use crate::settings::Settings;
use crate::worker::{ApiCopy, Input, Mailbox, Worker};

/// A node with everything faked but its directory.
pub struct Rig {
    pub fake: Fake,
    pub node: Arc<Node>,
    pub api: Arc<Mutex<Remembered>>,
    pub dir: PathBuf,
    /// Kept, because the node follows it.
    _facts: watch::Sender<Arc<NodeFacts>>,
}

/// What the API was asked.
#[derive(Default)]
pub struct Remembered {
    pub down: bool,
    /// Requests wait for an answer that does not come, as they do while the API server has not been heard.
    pub silent: bool,
    pub patches: Vec<(String, serde_json::Value)>,
    pub deleted: Vec<String>,
    pub created: Vec<Pod>,
    pub events: Vec<PodEvent>,
    pub config_maps: BTreeMap<String, ConfigMap>,
    pub secrets: BTreeMap<String, Secret>,
    pub tokens: u32,
    pub token_life: i64,
    pub certificate_requests: Vec<CertificateRequest>,
    /// What is said of a request by its name; pending if nothing is.
    pub certificates: BTreeMap<String, Issuing>,
}

impl Rig {
    /// Directories are below one of the test's name.
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("kedge-kubelet-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let fake = Fake::new();
        let (requests, inbox) = mpsc::channel(CAPACITY);
        let api = Arc::new(Mutex::new(Remembered {
            token_life: 3600,
            ..Remembered::default()
        }));
        let clock = clock();
        tokio::spawn(answer(inbox, api.clone(), clock.clone()));
        let facts = NodeFacts {
            name: "node-1".into(),
            host_ips: vec!["192.0.2.1".parse().unwrap()],
            cpu_milli: 4000,
            memory: 8 << 30,
            allocatable_cpu_milli: 4000,
            allocatable_memory: 8 << 30,
            pods_memory: 8 << 30,
            kubelet_root: dir.join("kubelet"),
            pod_logs: dir.join("pod-logs"),
            ..NodeFacts::default()
        };
        let (pods_dir, pod_logs) = (facts.kubelet_root.join("pods"), facts.pod_logs.clone());
        let (facts, facts_seen) = watch::channel(Arc::new(facts));
        let settings = Settings {
            container_logs: dir.join("container-logs"),
            manifests: Some(dir.join("manifests")),
            cgroup_root: None,
            tmpfs: false,
            ..Settings::default()
        };
        let node = Arc::new(Node {
            runtime: Arc::new(fake.clone()),
            api: Api::new(requests),
            settings,
            clock,
            lanes: Lanes::default(),
            pulls: Semaphore::new(2),
            cgroups: None,
            facts: facts_seen,
            pods_dir,
            pod_logs,
            projects: Arc::default(),
            views: watch::channel(no_views()).0,
            meters: kedge_tasks::Meters::default(),
        });
        Self {
            fake,
            node,
            api,
            dir,
            _facts: facts,
        }
    }

    /// Starts a worker for a pod.
    pub fn worker(&self, pod: Pod) -> Running {
        let uid = pod.metadata.uid.clone().unwrap();
        let status = pod.status.clone().unwrap_or_default();
        let input = Input {
            api: Some(ApiCopy {
                uid: uid.clone(),
                status,
            }),
            pod: Arc::new(pod),
            fate: kedge_pods::pod::Fate::Run,
            pending: None,
        };
        let (sender, receiver) = watch::channel(Arc::new(input));
        let poke = Arc::new(Notify::new());
        let mailbox = Mailbox {
            input: receiver,
            poke: poke.clone(),
        };
        let worker = Worker::new(self.node.clone(), uid, mailbox);
        let own = poke.clone();
        // More often than the observer does, which tells of changes only.
        let poking = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                poke.notify_one();
            }
        });
        Running {
            input: sender,
            poke: own,
            task: tokio::spawn(worker.run()),
            poking,
        }
    }

    /// The phase in the newest view.
    pub fn phase(&self, uid: &str) -> String {
        let views = self.node.views.borrow();
        let phase = views.get(uid).and_then(|view| view.status.phase.clone());
        phase.unwrap_or_default()
    }

    /// Waits until `predicate` holds.
    pub async fn until(&self, what: &str, seconds: u64, mut predicate: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(seconds);
        while !predicate(self) {
            assert!(
                Instant::now() < end,
                "{what}: not within {seconds} s\njournal: {:#?}\nevents: {:#?}\nviews: {:#?}",
                self.fake.take_journal(),
                self.api.lock().unwrap().events,
                self.node.views.borrow(),
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Reasons of the events so far.
    pub fn reasons(&self) -> Vec<String> {
        let api = self.api.lock().unwrap();
        api.events.iter().map(|e| e.reason.clone()).collect()
    }
}

/// A worker under test.
pub struct Running {
    input: watch::Sender<Arc<Input>>,
    poke: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
    poking: tokio::task::JoinHandle<()>,
}

impl Running {
    /// Changes what the worker is told.
    pub fn tell(&self, change: impl FnOnce(&mut Input)) {
        let mut input = self.input.borrow().as_ref().clone();
        change(&mut input);
        self.input.send_replace(Arc::new(input));
    }

    /// As the observer does when the runtime changed.
    pub fn poke(&self) {
        self.poke.notify_one();
    }

    /// Changes the pod object.
    pub fn edit(&self, change: impl FnOnce(&mut Pod)) {
        self.tell(|input| change(Arc::make_mut(&mut input.pod)));
    }

    /// As the API server marks a pod on `kubectl delete`.
    pub fn delete(&self, grace: i64, clock: &Clock) {
        let at = clock.wall_seconds() + grace;
        self.edit(|pod| {
            pod.metadata.deletion_grace_period_seconds = Some(grace);
            pod.metadata.deletion_timestamp = Some(kedge_pods::time::to_time(at * 1_000_000_000));
        });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.poking.abort();
        self.task.abort();
    }
}

/// A clock that follows tokio's time, wall and monotonic alike.
pub fn clock() -> Clock {
    let start = Instant::now();
    Clock::from_fn(move || {
        let passed = start.elapsed();
        Now::new(Duration::from_secs(100) + passed, EPOCH + passed)
    })
}

/// A pod from JSON with name `web`, namespace `ns`, uid `uid-1` unless given.
pub fn pod(json: &str) -> Pod {
    let mut pod: Pod = serde_json::from_str(json).unwrap();
    pod.metadata.name.get_or_insert_with(|| "web".into());
    pod.metadata.namespace.get_or_insert_with(|| "ns".into());
    pod.metadata.uid.get_or_insert_with(|| "uid-1".into());
    pod
}

async fn answer(mut inbox: mpsc::Receiver<Outbound>, api: Arc<Mutex<Remembered>>, clock: Clock) {
    let mut waiting = Vec::new();
    while let Some(request) = inbox.recv().await {
        let mut api = api.lock().unwrap();
        let down = || ApiError::Unavailable("down".into());
        let missing = |name: &str| ApiError::NotFound(name.to_owned());
        if api.silent {
            waiting.push(request);
            continue;
        }
        if api.down {
            refuse(request, &down());
            continue;
        }
        match request {
            Outbound::GetConfigMap { name, reply, .. } => {
                let found = api.config_maps.get(&name).cloned();
                let _ = reply.send(found.ok_or_else(|| missing(&name)));
            }
            Outbound::GetSecret { name, reply, .. } => {
                let found = api.secrets.get(&name).cloned();
                let _ = reply.send(found.ok_or_else(|| missing(&name)));
            }
            Outbound::ListServices { reply, .. } => {
                let _ = reply.send(Ok(Arc::new(Vec::new())));
            }
            Outbound::GetRuntimeClass { name, reply } => {
                let _ = reply.send(Err(missing(&name)));
            }
            Outbound::GetTrustBundle { reply, .. } => {
                let _ = reply.send(Err(missing("bundle")));
            }
            Outbound::CreateToken { reply, .. } => {
                api.tokens += 1;
                let _ = reply.send(Ok(Token {
                    token: format!("token-{}", api.tokens),
                    expires_at: clock.wall_seconds() + api.token_life,
                }));
            }
            Outbound::RequestCertificate { request, reply, .. } => {
                api.certificate_requests.push(*request);
                let number = api.certificate_requests.len();
                let _ = reply.send(Ok(RequestedCertificate {
                    name: format!("req-{number}"),
                    key: format!("key {number}\n"),
                }));
            }
            Outbound::GetCertificate { name, reply, .. } => {
                let found = api.certificates.get(&name).cloned();
                let _ = reply.send(Ok(found.unwrap_or(Issuing::Pending)));
            }
            Outbound::PatchPodStatus {
                name, patch, reply, ..
            } => {
                api.patches.push((name, patch));
                let _ = reply.send(Ok(Pod::default()));
            }
            Outbound::DeletePod { uid, reply, .. } => {
                api.deleted.push(uid);
                let _ = reply.send(Ok(()));
            }
            Outbound::CreatePod { pod, reply } => {
                api.created.push(pod.as_ref().clone());
                let _ = reply.send(Ok(*pod));
            }
            Outbound::RecordEvent(event) => api.events.push(event),
        }
    }
}

fn refuse(request: Outbound, error: &ApiError) {
    let error = error.clone();
    match request {
        Outbound::GetConfigMap { reply, .. } => drop(reply.send(Err(error))),
        Outbound::GetSecret { reply, .. } => drop(reply.send(Err(error))),
        Outbound::ListServices { reply, .. } => drop(reply.send(Err(error))),
        Outbound::GetRuntimeClass { reply, .. } => drop(reply.send(Err(error))),
        Outbound::GetTrustBundle { reply, .. } => drop(reply.send(Err(error))),
        Outbound::CreateToken { reply, .. } => drop(reply.send(Err(error))),
        Outbound::RequestCertificate { reply, .. } => drop(reply.send(Err(error))),
        Outbound::GetCertificate { reply, .. } => drop(reply.send(Err(error))),
        Outbound::PatchPodStatus { reply, .. } | Outbound::CreatePod { reply, .. } => {
            drop(reply.send(Err(error)));
        }
        Outbound::DeletePod { reply, .. } => drop(reply.send(Err(error))),
        Outbound::RecordEvent(_) => {}
    }
}

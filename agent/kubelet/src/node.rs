//! What all workers share: the runtime, the way out, settings, clocks, lanes. No pod in here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use kedge_cri::Runtime;
use kedge_pods::resolve::NodeFacts;
use kedge_sys::cgroup::Tree;
use kedge_tasks::Meters;
use tokio::sync::{Semaphore, watch};

use crate::clock::Clock;
use crate::handle::Views;
use crate::lanes::Lanes;
use crate::outbound::{Api, PodEvent};
use crate::settings::Settings;
use crate::volumes::Projects;

/// Shared by the supervisor, the workers and the loops beside them.
pub struct Node {
    pub runtime: Arc<dyn Runtime>,
    pub api: Api,
    pub settings: Settings,
    pub clock: Clock,
    pub lanes: Lanes,
    /// One permit per pull.
    pub pulls: Semaphore,
    /// `None` only where there is no cgroup v2 (unit tests).
    pub cgroups: Option<Tree>,
    pub facts: watch::Receiver<Arc<NodeFacts>>,
    /// `<kubelet root>/pods`, from the facts at the start.
    pub pods_dir: PathBuf,
    /// CRI log directories, from the facts at the start.
    pub pod_logs: PathBuf,
    /// Projects of emptyDirs.
    pub projects: Arc<Projects>,
    pub views: watch::Sender<Views>,
    /// What is counted of it all.
    pub meters: Meters,
}

impl Node {
    /// The newest facts about the node.
    pub fn facts(&self) -> Arc<NodeFacts> {
        self.facts.borrow().clone()
    }

    /// `<kubelet root>/pods/<uid>`
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.pods_dir.join(uid)
    }

    /// Sends events about a pod on.
    pub fn events(
        &self,
        pod: &k8s_openapi::api::core::v1::Pod,
        uid: &str,
        events: Vec<kedge_pods::action::Event>,
    ) {
        for event in events {
            self.api.event(PodEvent {
                namespace: kedge_pods::pod::namespace(pod).to_owned(),
                name: kedge_pods::pod::name(pod).to_owned(),
                uid: uid.to_owned(),
                field_path: event.field_path,
                warning: event.warning,
                reason: event.reason.to_owned(),
                message: event.message,
            });
        }
    }
}

/// A fraction in [0, 1) that differs between pods and stays the same for one: spreads periodic work without randomness.
pub fn jitter(uid: &str) -> f64 {
    use std::hash::{Hash, Hasher};
    let mut hasher = std::collections::hash_map::DefaultHasher::new();
    uid.hash(&mut hasher);
    #[expect(
        clippy::cast_precision_loss,
        reason = "the remainder is below a thousand"
    )]
    let fraction = (hasher.finish() % 1000) as f64 / 1000.0;
    fraction
}

/// No views yet.
pub fn no_views() -> Views {
    BTreeMap::new()
}

//! Putting it together: [`Kubelet::start`] spawns the tasks and hands out their ends.

use std::sync::Arc;
use std::time::Duration;

use kedge_cri::{Kind, Runtime, v1};
use kedge_pods::resolve::NodeFacts;
use kedge_sys::cgroup::Tree;
use kedge_tasks::{Registry, Stop, Tasks};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::admission::NodeObject;
use crate::clock::Clock;
use crate::desired::Desired;
use crate::facts::RuntimeFacts;
use crate::handle::KubeletHandle;
use crate::lanes::Lanes;
use crate::metered::Metered;
use crate::node::{Node, no_views};
use crate::outbound::{Api, CAPACITY, Outbound};
use crate::settings::Settings;
use crate::shutdown::{self, Report};
use crate::statics::Statics;
use crate::supervisor::{KubeletState, Sources, Supervisor};
use crate::{facts, garbage, limits, logs, meters, observer, statics};

/// What the kubelet is made of.
pub struct Config {
    pub settings: Settings,
    pub runtime: Arc<dyn Runtime>,
    /// The pods bound to this node; [`Desired::Unknown`] until the API was heard.
    pub desired: watch::Receiver<Desired>,
    /// Name, `kubelet_root` and `pod_logs` must be set from the start and stay.
    pub facts: watch::Receiver<Arc<NodeFacts>>,
    pub object: watch::Receiver<Arc<NodeObject>>,
    pub clock: Clock,
    pub registry: Registry,
}

/// The running kubelet's ends.
pub struct Kubelet {
    /// For the servers.
    pub handle: KubeletHandle,
    /// To be answered; see [`Outbound`].
    pub requests: mpsc::Receiver<Outbound>,
    /// For the node object.
    pub runtime: watch::Receiver<RuntimeFacts>,
    /// For the console and `/statusz`.
    pub state: watch::Receiver<KubeletState>,
    pub control: Control,
}

/// Ends the kubelet's work on purpose.
pub struct Control {
    node: Arc<Node>,
    freeze: watch::Sender<bool>,
    frozen: watch::Receiver<bool>,
}

/// How long the supervisor may take to let go.
const LET_GO: Duration = Duration::from_secs(2);

impl Kubelet {
    /// Spawns the kubelet's tasks into `tasks`. Must be called inside a tokio runtime.
    pub fn start(config: Config, tasks: &mut Tasks) -> Self {
        let (requests_to, requests) = mpsc::channel(CAPACITY);
        let meters = config.registry.meters().clone();
        meters::declare(&meters);
        let metered = Metered::new(config.runtime, meters.clone());
        let metered: Arc<dyn Runtime> = Arc::new(metered);
        let (views, views_seen) = watch::channel(no_views());
        let first = config.facts.borrow().clone();
        let node = Arc::new(Node {
            runtime: metered.clone(),
            meters: meters.clone(),
            api: Api::new(requests_to),
            pulls: Semaphore::new(config.settings.parallel_pulls.max(1)),
            cgroups: config.settings.cgroup_root.clone().map(Tree::new),
            settings: config.settings,
            clock: config.clock,
            lanes: Lanes::default(),
            facts: config.facts,
            pods_dir: first.kubelet_root.join("pods"),
            pod_logs: first.pod_logs.clone(),
            projects: Arc::default(),
            views,
        });
        let registry = config.registry;
        let (state_to, state) = watch::channel(KubeletState {
            waiting_for_api: true,
            ..KubeletState::default()
        });
        let (runtime_to, runtime) = watch::channel(RuntimeFacts::default());
        let statics = start_statics(&node, &registry, tasks);
        let (sights_to, sights) = mpsc::channel(64);
        let stop = tasks.stop();
        let clock = node.clock.clone();
        let observing = observer::run(metered.clone(), meters, clock, sights_to, stop);
        tasks.spawn("observer", observing);
        let stop = tasks.stop();
        tasks.spawn(
            "runtime",
            facts::run(node.clone(), runtime_to, registry.clone(), stop),
        );
        let stop = tasks.stop();
        tasks.spawn("logs", logs::rotation(node.clone(), registry.clone(), stop));
        let stop = tasks.stop();
        tasks.spawn(
            "garbage",
            garbage::run(node.clone(), registry.clone(), stop),
        );
        let (evictions_to, evictions) = mpsc::channel(16);
        let stop = tasks.stop();
        tasks.spawn(
            "limits",
            limits::run(node.clone(), evictions_to, registry.clone(), stop),
        );
        let (freeze, freeze_seen) = watch::channel(false);
        let (frozen_to, frozen) = watch::channel(false);
        let sources = Sources {
            desired: config.desired,
            object: config.object,
            statics,
            sights,
            evictions,
            stop: tasks.stop(),
            freeze: freeze_seen,
            state: state_to,
            registry,
        };
        tasks.spawn("supervisor", supervise(node.clone(), sources, frozen_to));
        Self {
            handle: KubeletHandle {
                views: views_seen,
                runtime: metered,
            },
            requests,
            runtime,
            state,
            control: Control {
                node,
                freeze,
                frozen,
            },
        }
    }
}

fn start_statics(
    node: &Arc<Node>,
    registry: &Registry,
    tasks: &mut Tasks,
) -> watch::Receiver<Arc<Statics>> {
    let none = Statics {
        read: node.settings.manifests.is_none(),
        ..Statics::default()
    };
    let (out, seen) = watch::channel(Arc::new(none));
    let stop = tasks.stop();
    match node.settings.manifests.clone() {
        Some(directory) => {
            let run = statics::run(node.clone(), directory, out, registry.clone(), stop);
            tasks.spawn("statics", run);
        }
        // The channel must stay open for the supervisor.
        None => tasks.spawn("statics", async move {
            let mut stop = stop;
            stop.requested().await;
            drop(out);
        }),
    }
    seen
}

async fn supervise(node: Arc<Node>, mut sources: Sources, frozen: watch::Sender<bool>) {
    if check_driver(&node, &sources.state, &mut sources.stop).await {
        Supervisor::new(node).run(sources).await;
    }
    frozen.send_replace(true);
}

/// Waits for a runtime whose cgroup driver we speak: two names for one pod's cgroup would leave its limits without effect.
/// False: the agent ends.
async fn check_driver(node: &Node, state: &watch::Sender<KubeletState>, stop: &mut Stop) -> bool {
    loop {
        let pause = match node.runtime.runtime_config().await {
            Ok(answer) => {
                let driver = answer.linux.map(|linux| linux.cgroup_driver);
                if driver == Some(v1::CgroupDriver::Cgroupfs as i32) {
                    state.send_modify(|state| state.refuses = None);
                    return true;
                }
                let text = "the container runtime uses the systemd cgroup driver; Kedge has no systemd: set SystemdCgroup = false in containerd's configuration";
                tracing::error!("{text}");
                state.send_modify(|state| state.refuses = Some(text.to_owned()));
                Duration::from_secs(30)
            }
            // Runtimes before this call use cgroupfs unless told otherwise.
            Err(error) if error.kind == Kind::Unimplemented => return true,
            Err(error) => {
                tracing::debug!(%error, "cgroup driver");
                Duration::from_secs(1)
            }
        };
        tokio::select! {
            () = stop.requested() => return false,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

impl Control {
    /// Ends all pods for the node's shutdown: no more reactions to anything, then the containers, gracefully, within `limit`.
    pub async fn shutdown(&self, limit: Duration) -> Report {
        self.freeze.send_replace(true);
        let mut frozen = self.frozen.clone();
        let wait = frozen.wait_for(|frozen| *frozen);
        let _ = tokio::time::timeout(LET_GO, wait).await;
        shutdown::run(self.node.clone(), limit).await
    }

    /// Tells the runtime the node's pod range.
    pub async fn set_pod_cidr(&self, cidr: String) -> kedge_cri::Result<()> {
        self.node.runtime.update_runtime_config(cidr).await
    }
}

//! The node goes down: containers end in order, nothing is reported.
//!
//! In: the runtime's containers, how long there is. Out: a [`Report`]. Ordinary pods first, critical ones after them, each with its own
//! grace or what is left. Pods keep their API objects and start again with the node, as after a reboot of an ordinary
//! kubelet; preStop hooks run. The supervisor and its workers have ended before.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kedge_pods::observed::{ObservedContainer, ObservedPod};
use kedge_pods::{hook, mirror, pod};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::node::Node;
use crate::{check, meters, observe};

/// Ordinary pods get three parts of the time for one that critical ones get.
const CRITICAL_SHARE: u32 = 3;
/// Between the last container's kill and the limit, for the runtime to say so.
const MARGIN: Duration = Duration::from_secs(1);
/// The least the runtime is given between the signals.
const MIN_STOP: Duration = Duration::from_secs(1);

/// How it went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Containers that ended.
    pub stopped: usize,
    /// Containers that could not be stopped in time; the node's own shutdown kills them.
    pub left: usize,
}

struct Target {
    pod: Arc<k8s_openapi::api::core::v1::Pod>,
    observed: Arc<ObservedPod>,
    containers: Vec<ObservedContainer>,
}

/// Stops every container within `limit`.
pub async fn run(node: Arc<Node>, limit: Duration) -> Report {
    let end = Instant::now() + limit;
    let noted = |family| {
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970")]
        let now = node.clock.wall_seconds() as f64;
        node.meters.set(family, &[], now);
    };
    noted(&meters::SHUTDOWN_START);
    let stopping = async {
        let (ordinary, critical) = targets(&node).await;
        let reserve = if critical.is_empty() {
            Duration::ZERO
        } else {
            limit / (CRITICAL_SHARE + 1)
        };
        let last = end - MARGIN.min(limit / 2);
        let mut report = stop_all(&node, ordinary, last - reserve).await;
        let second = stop_all(&node, critical, last).await;
        report.stopped += second.stopped;
        report.left += second.left;
        report
    };
    let report = tokio::time::timeout_at(end, stopping).await;
    noted(&meters::SHUTDOWN_END);
    report.unwrap_or_default()
}

async fn targets(node: &Node) -> (Vec<Target>, Vec<Target>) {
    let (mut ordinary, mut critical) = (Vec::new(), Vec::new());
    let census = observe::census(node.runtime.as_ref()).await;
    let Ok(census) = census else {
        tracing::error!("the runtime is away: containers end with the node");
        return (ordinary, critical);
    };
    let views = node.views.borrow().clone();
    for uid in census.keys() {
        let Ok(observed) = observe::pod(node.runtime.as_ref(), uid).await else {
            continue;
        };
        let known = views.get(uid).map(|view| view.pod.clone());
        let known = known.or_else(|| mirror::from_runtime(&observed).map(Arc::new));
        let Some(pod) = known else {
            continue;
        };
        let containers = observed.containers.iter().filter(|c| c.running());
        let target = Target {
            containers: containers.cloned().collect(),
            observed: Arc::new(observed),
            pod,
        };
        if pod::is_critical(&target.pod) {
            critical.push(target);
        } else {
            ordinary.push(target);
        }
    }
    (ordinary, critical)
}

async fn stop_all(node: &Arc<Node>, targets: Vec<Target>, end: Instant) -> Report {
    let mut jobs = JoinSet::new();
    for target in targets {
        let sidecars = sidecar_order(&target.pod);
        let mut waves: BTreeMap<usize, Vec<ObservedContainer>> = BTreeMap::new();
        for container in &target.containers {
            // Apps first (0), then sidecars, last first.
            let wave = sidecars.get(&container.name).copied().unwrap_or(0);
            waves.entry(wave).or_default().push(container.clone());
        }
        let node = node.clone();
        jobs.spawn(async move {
            let mut report = Report::default();
            for containers in waves.into_values() {
                let each = containers.iter().map(|c| stop_one(&node, &target, c, end));
                for stopped in futures_util::future::join_all(each).await {
                    if stopped {
                        report.stopped += 1;
                    } else {
                        report.left += 1;
                    }
                }
            }
            report
        });
    }
    let mut total = Report::default();
    while let Some(done) = jobs.join_next().await {
        if let Ok(report) = done {
            total.stopped += report.stopped;
            total.left += report.left;
        }
    }
    total
}

fn sidecar_order(pod: &k8s_openapi::api::core::v1::Pod) -> BTreeMap<String, usize> {
    let sidecars: Vec<String> = pod::init(pod::spec(pod))
        .filter(|m| m.kind == pod::Kind::Sidecar)
        .map(|m| m.name().to_owned())
        .collect();
    let count = sidecars.len();
    let order = sidecars.into_iter().enumerate();
    order.map(|(i, name)| (name, count - i)).collect()
}

async fn stop_one(node: &Node, target: &Target, c: &ObservedContainer, end: Instant) -> bool {
    let own = pod::spec(&target.pod)
        .termination_grace_period_seconds
        .and_then(|s| u64::try_from(s).ok())
        .unwrap_or(pod::DEFAULT_GRACE);
    let deadline = (Instant::now() + Duration::from_secs(own)).min(end);
    pre_stop(node, target, c, deadline).await;
    let left = deadline.saturating_duration_since(Instant::now());
    // The runtime counts in seconds; a part of one would be none.
    let grace = Duration::from_secs(left.as_secs()).max(MIN_STOP);
    match node.runtime.stop_container(&c.id, grace).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(container = c.name, %error, "shutdown");
            error.is_not_found()
        }
    }
}

async fn pre_stop(node: &Node, target: &Target, c: &ObservedContainer, deadline: Instant) {
    let spec = pod::spec(&target.pod);
    let Some(member) = pod::member(spec, &c.name) else {
        return;
    };
    let hook = member
        .spec
        .lifecycle
        .as_ref()
        .and_then(|l| l.pre_stop.as_ref());
    let Some(hook) = hook else {
        return;
    };
    let facts = node.facts();
    let ip = if pod::host_network(spec) {
        facts.host_ips.first().copied()
    } else {
        let sandbox = target.observed.ready_sandbox();
        sandbox.and_then(|s| s.ips.first().copied())
    };
    let handler = match hook::of_lifecycle(hook, &member.spec, ip, &facts.version) {
        Ok(handler) => handler,
        Err(error) => {
            tracing::warn!(container = c.name, error, "preStop hook");
            return;
        }
    };
    let run = check::hook(node.runtime.as_ref(), &node.meters, &c.id, &handler);
    match tokio::time::timeout_at(deadline, run).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(container = c.name, error, "preStop hook"),
        Err(_) => tracing::warn!(container = c.name, "preStop hook took the whole grace"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rig, pod};
    use kedge_cri::fake::Behaviour;

    const IMAGE: &str = "example.com/app:1";

    #[tokio::test(start_paused = true)]
    async fn containers_end_within_the_limit_and_the_deaf_are_killed() {
        let rig = Rig::new("shutdown");
        rig.fake.add_image(IMAGE);
        rig.fake.script_container(
            "app",
            Behaviour {
                ignores_stop: true,
                ..Behaviour::default()
            },
        );
        let worker = rig.worker(pod(
            r#"{"spec": {"containers": [{"name": "app", "image": "example.com/app:1"}]}}"#,
        ));
        rig.until("running", 10, |rig| rig.phase("uid-1") == "Running")
            .await;
        drop(worker);
        rig.fake.take_journal();
        let begin = Instant::now();
        let report = run(rig.node.clone(), Duration::from_secs(12)).await;
        assert!(begin.elapsed() <= Duration::from_secs(12));
        assert_eq!(
            report,
            Report {
                stopped: 1,
                left: 0
            }
        );
        assert!(rig.fake.running("app").is_empty());
        // Nothing was removed: the pod starts again with the node.
        assert_eq!(rig.fake.counts(), (1, 1));
        use kedge_tasks::meter::Reading;
        let at = |family| match rig.node.meters.reading(family, &[]) {
            Some(Reading::Level(at)) => at,
            other => panic!("{other:?}"),
        };
        let took = at(&meters::SHUTDOWN_END) - at(&meters::SHUTDOWN_START);
        assert!((1.0..=12.0).contains(&took), "{took}");
    }
}

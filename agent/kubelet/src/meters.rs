//! What the kubelet counts for `/metrics` and `/metrics/probes`: upstream's families, and where each is moved.
//!
//! In: things that happened, from the places where they do. Out: changes of [`Meters`]. Decides nothing.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kedge_pods::action::{Action, Outcome};
use kedge_pods::observed::{ObservedPod, State};
use kedge_pods::pod::{self, Kind};
use kedge_pods::probe::{Answer, ProbeKind};
use kedge_tasks::Meters;
use kedge_tasks::meter::{BUCKETS, Family, Page};

/// Seconds until a pod runs.
const START: &[f64] = &[
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0,
    300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
];
/// Seconds of a pull.
const PULL: &[f64] = &[
    1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 180.0, 300.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
];
/// Seconds until the API has a status.
const STATUS: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0];

pub(crate) static STARTED_PODS: Family =
    Family::counter("kubelet_started_pods_total", &[], "Sandboxes created.");
pub(crate) static STARTED_PODS_ERRORS: Family = Family::counter(
    "kubelet_started_pods_errors_total",
    &[],
    "Sandboxes that could not be created.",
);
pub(crate) static STARTED: Family = Family::counter(
    "kubelet_started_containers_total",
    &["container_type"],
    "Containers started.",
);
pub(crate) static STARTED_ERRORS: Family = Family::counter(
    "kubelet_started_containers_errors_total",
    &["code", "container_type"],
    "Containers that could not be started.",
);
pub(crate) static TERMINATED: Family = Family::counter(
    "kubelet_terminated_containers_total",
    &["container_type", "exit_code", "reason"],
    "Containers that were seen to end.",
);
pub(crate) static PULLS: Family = Family::histogram(
    "kubelet_image_pull_duration_seconds",
    &["image_size_in_bytes"],
    PULL,
    "Time of image pulls by size.",
);
pub(crate) static WORK: Family = Family::histogram(
    "kubelet_pod_worker_duration_seconds",
    &["operation_type"],
    BUCKETS,
    "Time of one step of work on a pod.",
);
pub(crate) static POD_START: Family = Family::histogram(
    "kubelet_pod_start_duration_seconds",
    &[],
    START,
    "Time from first seeing a pod until it runs.",
);
pub(crate) static POD_START_TOTAL: Family = Family::histogram(
    "kubelet_pod_start_total_duration_seconds",
    &[],
    START,
    "Time from a pod's creation until it runs.",
);
pub(crate) static POD_START_SLI: Family = Family::histogram(
    "kubelet_pod_start_sli_duration_seconds",
    &[],
    START,
    "Time from a pod's creation until it runs, without image pulls.",
);
pub(crate) static STATUS_SYNC: Family = Family::histogram(
    "kubelet_pod_status_sync_duration_seconds",
    &[],
    STATUS,
    "Time from a change of a pod's status until the API has it.",
);
pub(crate) static RELIST: Family = Family::histogram(
    "kubelet_pleg_relist_duration_seconds",
    &[],
    BUCKETS,
    "Time of listing everything the runtime has.",
);
pub(crate) static RELIST_INTERVAL: Family = Family::histogram(
    "kubelet_pleg_relist_interval_seconds",
    &[],
    BUCKETS,
    "Time between two such lists.",
);
pub(crate) static EVICTIONS: Family = Family::counter(
    "kubelet_evictions",
    &["eviction_signal"],
    "Pods ended for what they used.",
);
pub(crate) static REJECTIONS: Family = Family::counter(
    "kubelet_admission_rejections_total",
    &["reason"],
    "Pods refused before they ran.",
);
pub(crate) static CGROUPS: Family = Family::histogram(
    "kubelet_cgroup_manager_duration_seconds",
    &["operation_type"],
    BUCKETS,
    "Time of work on pods' cgroups.",
);
pub(crate) static PROBES: Family = Family::counter(
    "prober_probe_total",
    &[
        "container",
        "namespace",
        "pod",
        "pod_uid",
        "probe_type",
        "result",
    ],
    "Probes by result.",
)
.on(Page::Probes);
pub(crate) static PROBE_TIME: Family = Family::histogram(
    "prober_probe_duration_seconds",
    &["container", "namespace", "pod", "probe_type"],
    BUCKETS,
    "Time of probes.",
)
.on(Page::Probes);

/// Shows what has no labels from the start.
pub(crate) fn declare(meters: &Meters) {
    meters.declare(&[
        &STARTED_PODS,
        &STARTED_PODS_ERRORS,
        &POD_START,
        &POD_START_TOTAL,
        &POD_START_SLI,
        &STATUS_SYNC,
        &RELIST,
        &RELIST_INTERVAL,
    ]);
}

/// An action ended.
pub(crate) fn acted(meters: &Meters, action: &What, outcome: &Outcome, took: Duration) {
    meters.observe(&WORK, &[action.operation], took);
    match (outcome, action.container) {
        (
            Outcome::Image {
                pulled: true,
                took,
                size,
                ..
            },
            _,
        ) => {
            meters.observe(&PULLS, &[size_bucket(*size)], *took);
        }
        (Outcome::Started { .. }, Some(kind)) => meters.count(&STARTED, &[container_type(kind)]),
        (Outcome::Failed { reason, .. }, Some(kind)) => {
            meters.count(&STARTED_ERRORS, &[reason, container_type(kind)]);
        }
        (Outcome::Done, None) if action.sandbox => meters.count(&STARTED_PODS, &[]),
        (Outcome::Failed { .. }, None) if action.sandbox => {
            meters.count(&STARTED_PODS_ERRORS, &[]);
        }
        _ => {}
    }
}

/// What of an action is counted; taken before the action is carried out, which consumes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct What {
    operation: &'static str,
    sandbox: bool,
    container: Option<Kind>,
}

impl From<&Action> for What {
    fn from(action: &Action) -> Self {
        let operation = match action {
            Action::Prepare | Action::CreateSandbox { .. } => "create",
            Action::PullImage { .. }
            | Action::StartContainer { .. }
            | Action::Resize { .. }
            | Action::RunHook { .. } => "sync",
            Action::StopSandbox { .. }
            | Action::RemoveSandbox { .. }
            | Action::KillContainer { .. }
            | Action::RemoveContainer { .. }
            | Action::CleanUp
            | Action::Finish
            | Action::Forget => "terminate",
        };
        Self {
            operation,
            sandbox: matches!(action, Action::CreateSandbox { .. }),
            container: match action {
                Action::StartContainer { kind, .. } => Some(*kind),
                _ => None,
            },
        }
    }
}

fn container_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Init | Kind::Sidecar => "init_container",
        Kind::App => "container",
        Kind::Ephemeral => "ephemeral_container",
    }
}

/// Upstream's words for the size of an image.
fn size_bucket(bytes: u64) -> &'static str {
    const MB: u64 = 1024 * 1024;
    match bytes {
        0 => "N/A",
        b if b <= 10 * MB => "0-10MB",
        b if b <= 100 * MB => "10MB-100MB",
        b if b <= 500 * MB => "100MB-500MB",
        b if b <= 1024 * MB => "500MB-1GB",
        b if b <= 5 * 1024 * MB => "1GB-5GB",
        b if b <= 10 * 1024 * MB => "5GB-10GB",
        b if b <= 20 * 1024 * MB => "10GB-20GB",
        b if b <= 30 * 1024 * MB => "20GB-30GB",
        b if b <= 40 * 1024 * MB => "30GB-40GB",
        b if b <= 60 * 1024 * MB => "40GB-60GB",
        b if b <= 100 * 1024 * MB => "60GB-100GB",
        _ => "GT100GB",
    }
}

/// A probe was run.
pub(crate) fn probed(
    meters: &Meters,
    pod: &Pod,
    container: &str,
    kind: ProbeKind,
    answer: &Answer,
    took: Duration,
) {
    let kind = match kind {
        ProbeKind::Startup => "Startup",
        ProbeKind::Liveness => "Liveness",
        ProbeKind::Readiness => "Readiness",
    };
    let result = match answer {
        Answer::Success | Answer::Warning(_) => "successful",
        Answer::Failure(_) => "failed",
        Answer::Error(_) => "unknown",
    };
    let (namespace, name, uid) = (pod::namespace(pod), pod::name(pod), pod::uid(pod));
    meters.count(&PROBES, &[container, namespace, name, uid, kind, result]);
    meters.observe(&PROBE_TIME, &[container, namespace, name, kind], took);
}

/// A pod is gone: its series go too.
pub(crate) fn forget(meters: &Meters, pod: &Pod) {
    let (namespace, name, uid) = (pod::namespace(pod), pod::name(pod), pod::uid(pod));
    let at = |labels: &[Box<str>], n: usize| labels.get(n).map(|l| l.to_string());
    meters.forget(&PROBES, |labels| at(labels, 3).as_deref() == Some(uid));
    meters.forget(&PROBE_TIME, |labels| {
        at(labels, 1).as_deref() == Some(namespace) && at(labels, 2).as_deref() == Some(name)
    });
}

/// Containers that ran before and have ended now.
pub(crate) fn ended(meters: &Meters, pod: &Pod, before: &ObservedPod, now: &ObservedPod) {
    for container in &now.containers {
        let ran =
            |c: &&kedge_pods::observed::ObservedContainer| c.id == container.id && c.running();
        if container.state != State::Exited || !before.containers.iter().any(|c| ran(&c)) {
            continue;
        }
        let member = pod::member(pod::spec(pod), &container.name);
        let kind = member.map_or(Kind::App, |m| m.kind);
        let code = container.exit_code.to_string();
        meters.count(
            &TERMINATED,
            &[container_type(kind), &code, &container.reason],
        );
    }
}

/// When a pod began, and what it waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beginning {
    seen: tokio::time::Instant,
    pulling: Duration,
}

impl Beginning {
    /// A pod seen now for the first time.
    pub(crate) fn new() -> Self {
        Self {
            seen: tokio::time::Instant::now(),
            pulling: Duration::ZERO,
        }
    }

    /// An action of it ended.
    pub(crate) fn acted(&mut self, outcome: &Outcome) {
        if let Outcome::Image {
            pulled: true, took, ..
        } = outcome
        {
            self.pulling += *took;
        }
    }

    /// It runs; `wall` is nanoseconds since 1970.
    pub(crate) fn runs(&self, meters: &Meters, pod: &Pod, wall: i64) {
        meters.observe(&POD_START, &[], self.seen.elapsed());
        let Some(created) = &pod.metadata.creation_timestamp else {
            return;
        };
        let created = i64::try_from(created.0.as_nanosecond()).unwrap_or(i64::MAX);
        // A clock that was set meanwhile makes nonsense of it.
        if let Ok(nanos) = u64::try_from(wall.saturating_sub(created)) {
            let total = Duration::from_nanos(nanos);
            meters.observe(&POD_START_TOTAL, &[], total);
            meters.observe(&POD_START_SLI, &[], total.saturating_sub(self.pulling));
        }
    }
}

/// Which limit a pod exceeded, in upstream's words, by what the message says.
pub(crate) fn limit_signal(message: &str) -> &'static str {
    if message.starts_with("Usage of EmptyDir") {
        "emptydirfs.limit"
    } else if message.starts_with("Pod ephemeral") {
        "ephemeralpodfs.limit"
    } else {
        "ephemeralcontainerfs.limit"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;
    use kedge_pods::action::PullPolicy;
    use kedge_pods::observed::ObservedContainer;
    use kedge_tasks::meter::Reading;

    fn web() -> Pod {
        pod(
            r#"{"metadata": {"name": "web", "namespace": "shop", "uid": "u1"},
            "spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}}"#,
        )
    }

    #[test]
    fn every_end_of_an_action_is_counted_once() {
        let meters = Meters::default();
        let failed = Outcome::failed("CreateContainerError", "no");
        let started = Outcome::Started { id: "c".into() };
        let image = Outcome::Image {
            reference: "r".into(),
            pulled: true,
            took: Duration::from_secs(2),
            size: 50 << 20,
        };
        let start = Action::StartContainer {
            container: "a".into(),
            kind: Kind::App,
            attempt: 0,
            sandbox: "s".into(),
            image: "i".into(),
        };
        let pull = Action::PullImage {
            container: "a".into(),
            image: "i".into(),
            policy: PullPolicy::Always,
        };
        let sandbox = Action::CreateSandbox { attempt: 0 };
        for (action, outcome) in [
            (&start, &started),
            (&start, &failed),
            (&pull, &image),
            (&sandbox, &Outcome::Done),
            (&sandbox, &failed),
        ] {
            acted(
                &meters,
                &What::from(action),
                outcome,
                Duration::from_millis(30),
            );
        }
        let one = Some(Reading::Count(1));
        assert_eq!(meters.reading(&STARTED, &["container"]), one);
        assert_eq!(
            meters.reading(&STARTED_ERRORS, &["CreateContainerError", "container"]),
            one
        );
        assert_eq!(meters.reading(&STARTED_PODS, &[]), one);
        assert_eq!(meters.reading(&STARTED_PODS_ERRORS, &[]), one);
        let Some(Reading::Spread(_, seconds)) = meters.reading(&PULLS, &["10MB-100MB"]) else {
            panic!("no pull");
        };
        assert!((seconds - 2.0).abs() < 1e-9);
        assert!(meters.reading(&WORK, &["create"]).is_some());
        assert!(meters.reading(&WORK, &["sync"]).is_some());
    }

    #[test]
    fn probes_are_counted_by_result_and_forgotten_with_their_pod() {
        let meters = Meters::default();
        let took = Duration::from_millis(7);
        for answer in [
            Answer::Success,
            Answer::Failure("x".into()),
            Answer::Failure("x".into()),
        ] {
            probed(&meters, &web(), "a", ProbeKind::Readiness, &answer, took);
        }
        let labels = |result| ["a", "shop", "web", "u1", "Readiness", result];
        assert_eq!(
            meters.reading(&PROBES, &labels("successful")),
            Some(Reading::Count(1))
        );
        assert_eq!(
            meters.reading(&PROBES, &labels("failed")),
            Some(Reading::Count(2))
        );
        forget(&meters, &web());
        assert_eq!(meters.reading(&PROBES, &labels("failed")), None);
        assert_eq!(
            meters.reading(&PROBE_TIME, &["a", "shop", "web", "Readiness"]),
            None
        );
    }

    #[test]
    fn a_container_is_seen_to_end_once() {
        let meters = Meters::default();
        let observed = |state| ObservedPod {
            containers: vec![ObservedContainer {
                id: "c".into(),
                name: "i".into(),
                state,
                exit_code: 137,
                reason: "OOMKilled".into(),
                ..ObservedContainer::default()
            }],
            ..ObservedPod::default()
        };
        ended(
            &meters,
            &web(),
            &observed(State::Running),
            &observed(State::Exited),
        );
        ended(
            &meters,
            &web(),
            &observed(State::Exited),
            &observed(State::Exited),
        );
        let labels = ["init_container", "137", "OOMKilled"];
        assert_eq!(
            meters.reading(&TERMINATED, &labels),
            Some(Reading::Count(1))
        );
    }
}

//! What the kubelet counts for `/metrics` and `/metrics/probes`: upstream's families, and where each is moved.
//!
//! In: things that happened, from the places where they do. Out: changes of [`Meters`]. Decides nothing. Which of upstream's families the node
//! has, and why others are absent, is listed in `agent/METRICS.md`.

pub(crate) mod images;
mod probes;
pub(crate) mod resize;
pub(crate) mod storage;

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kedge_pods::action::{Action, Outcome};
use kedge_pods::observed::{ObservedPod, State};
use kedge_pods::pod::{self, Kind};
use kedge_tasks::Meters;
use kedge_tasks::meter::{BUCKETS, Family};

pub(crate) use images::{COLLECTED, ensured, pulled, volume};
pub(crate) use probes::{forget, probed};
pub use resize::priority_bucket;
pub(crate) use resize::{carried_out, moved, requested};
pub use storage::plugin_of;
pub(crate) use storage::{plugin, worked};

/// Seconds until a pod runs.
const START: &[f64] = &[
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0,
    300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
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
pub(crate) static RELIST_SEEN: Family = Family::gauge(
    "kubelet_pleg_last_seen_seconds",
    &[],
    "When everything the runtime has was last listed, seconds since 1970.",
);
pub(crate) static RELIST_POD: Family = Family::histogram(
    "kubelet_pleg_pod_relist_duration_seconds",
    &[],
    BUCKETS,
    "Time of asking the runtime about one pod.",
);
pub(crate) static WORKER_START: Family = Family::histogram(
    "kubelet_pod_worker_start_duration_seconds",
    &[],
    BUCKETS,
    "Time from first seeing a pod until its worker acts.",
);
pub(crate) static CONTAINERS: Family = Family::histogram(
    "kubelet_containers_per_pod_count",
    &[],
    &[1.0, 2.0, 4.0, 8.0, 16.0],
    "Containers of pods that were given a worker.",
);
pub(crate) static DESIRED: Family = Family::gauge(
    "kubelet_desired_pods",
    &["static"],
    "Pods that this node was told to run.",
);
pub(crate) static ORPHANS: Family = Family::counter(
    "kubelet_orphaned_runtime_pods_total",
    &[],
    "Pods that ran or lay about though nobody asked for them.",
);
pub(crate) static FALLBACKS: Family = Family::counter(
    "kubelet_lifecycle_handler_http_fallbacks_total",
    &[],
    "Lifecycle hooks for HTTPS that were answered by HTTP.",
);
pub(crate) static SLEEPS: Family = Family::counter(
    "kubelet_sleep_action_terminated_early_total",
    &[],
    "Lifecycle hooks that were to sleep and were cut short.",
);
pub(crate) static SHUTDOWN_START: Family = Family::gauge(
    "kubelet_graceful_shutdown_start_time_seconds",
    &[],
    "When the node began to end its pods to go down, seconds since 1970; 0 while it does not.",
);
pub(crate) static SHUTDOWN_END: Family = Family::gauge(
    "kubelet_graceful_shutdown_end_time_seconds",
    &[],
    "When they had ended, seconds since 1970; 0 before.",
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
        &RELIST_POD,
        &WORKER_START,
        &CONTAINERS,
        &ORPHANS,
        &FALLBACKS,
        &SLEEPS,
        &SHUTDOWN_START,
        &SHUTDOWN_END,
        &images::VOLUMES,
        &images::VOLUMES_READY,
        &images::VOLUMES_FAILED,
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
            pulled(meters, *size, *took);
        }
        (Outcome::Started { .. }, Some(kind)) => meters.count(&STARTED, &[container_type(kind)]),
        (Outcome::Failed { reason, .. }, Some(kind)) => {
            meters.count(&STARTED_ERRORS, &[reason, container_type(kind)]);
        }
        (Outcome::Resized(_), _) => carried_out(meters, true, took),
        (Outcome::Failed { .. }, None) if action.resize => carried_out(meters, false, took),
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
    resize: bool,
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
            resize: matches!(action, Action::Resize { .. }),
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
    acts: bool,
}

impl Beginning {
    /// A pod seen now for the first time.
    pub(crate) fn new() -> Self {
        Self {
            seen: tokio::time::Instant::now(),
            pulling: Duration::ZERO,
            acts: false,
        }
    }

    /// Its worker acts.
    pub(crate) fn acts(&mut self, meters: &Meters) {
        if !std::mem::replace(&mut self.acts, true) {
            meters.observe(&WORKER_START, &[], self.seen.elapsed());
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
    use kedge_pods::probe::{Answer, ProbeKind};
    use kedge_tasks::meter::Reading;

    use super::images::PULLS;
    use super::probes::{PROBE_TIME, PROBES};

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
        let resize = Action::Resize {
            container: "a".into(),
            id: "c".into(),
        };
        for (action, outcome) in [
            (&start, &started),
            (&start, &failed),
            (&pull, &image),
            (&sandbox, &Outcome::Done),
            (&sandbox, &failed),
            (&resize, &Outcome::Resized(Box::default())),
            (&resize, &failed),
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
        for success in ["true", "false"] {
            let resized = meters.reading(&resize::DURATION, &[success]);
            assert!(matches!(resized, Some(Reading::Spread(_, ms)) if ms == 30.0));
        }
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

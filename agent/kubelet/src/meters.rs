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
use kedge_pods::action::{Action, Hook, Outcome};
use kedge_pods::observed::{ObservedPod, State};
use kedge_pods::pod::{self, Kind};
use kedge_tasks::Meters;
use kedge_tasks::meter::{BUCKETS, Family, Reading};

pub(crate) use images::{COLLECTED, ensured, pulled, volume};
pub(crate) use probes::{forget, probed};
pub use resize::priority_bucket;
pub(crate) use resize::{carried_out, moved, requested};
pub use storage::plugin_of;
pub(crate) use storage::{mounted, plugin, worked};

/// Seconds until a pod runs.
const START: &[f64] = &[
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0,
    300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
];
/// Seconds until the API has a status.
const STATUS: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0];

pub(crate) static STARTED_PODS: Family = Family::counter(
    "kubelet_started_pods_total",
    &[],
    "Sandboxes that were to be created, well or not.",
);
pub(crate) static STARTED_PODS_ERRORS: Family = Family::counter(
    "kubelet_started_pods_errors_total",
    &[],
    "Sandboxes that could not be created.",
);
pub(crate) static STARTED: Family = Family::counter(
    "kubelet_started_containers_total",
    &["container_type"],
    "Containers that were to be started, well or not.",
);
pub(crate) static STARTED_ERRORS: Family = Family::counter(
    "kubelet_started_containers_errors_total",
    &["code", "container_type"],
    "Containers that could not be started.",
);
pub(crate) static RESTARTED: Family = Family::counter(
    "kubelet_restarted_pods_total",
    &["static"],
    "Pods that were asked for again while they were being ended, and began anew.",
);
pub(crate) static FIRST_START: Family = Family::gauge(
    "kubelet_first_network_pod_start_sli_duration_seconds",
    &[],
    "Time from its creation until the first pod with a network of its own ran, without image pulls; 0 before.",
);
pub(crate) static STREAMS: Family = Family::counter(
    "kubelet_evented_pleg_connection_success_count",
    &[],
    "Event streams of the runtime that an event came through.",
);
pub(crate) static STREAMS_BROKEN: Family = Family::counter(
    "kubelet_evented_pleg_connection_error_count",
    &[],
    "Event streams of the runtime that broke or could not be had.",
);
pub(crate) static EVENT_AGE: Family = Family::histogram(
    "kubelet_evented_pleg_connection_latency_seconds",
    &[],
    BUCKETS,
    "Age of the runtime's events when they come.",
);
pub(crate) static ORPHANED_VOLUMES: Family = Family::gauge(
    "kubelet_orphan_pod_cleaned_volumes",
    &[],
    "Directories of pods that nobody asks for and of which nothing runs, at the last look for them; they are being cleaned up.",
);
pub(crate) static ORPHANED_VOLUMES_ERRORS: Family = Family::gauge(
    "kubelet_orphan_pod_cleaned_volumes_errors",
    &[],
    "Those of them that could not be cleaned up when that was last tried.",
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
    "Time from a pod's creation until it runs, without image pulls; pods with volumes that others provide are left out.",
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
        &FIRST_START,
        &STREAMS,
        &STREAMS_BROKEN,
        &EVENT_AGE,
        &ORPHANED_VOLUMES,
        &ORPHANED_VOLUMES_ERRORS,
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
    for is_static in ["", "true"] {
        meters.add(&RESTARTED, &[is_static], 0);
    }
}

/// An action ended.
pub(crate) fn acted(meters: &Meters, action: &What, outcome: &Outcome, took: Duration) {
    meters.observe(&WORK, &[action.operation], took);
    if let Outcome::Image {
        pulled: true,
        took,
        size,
        ..
    } = outcome
    {
        pulled(meters, *size, *took);
    }
    let failed = match outcome {
        Outcome::Failed { reason, .. } => Some(reason),
        _ => None,
    };
    match action.part {
        Part::Sandbox => {
            meters.count(&STARTED_PODS, &[]);
            if failed.is_some() {
                meters.count(&STARTED_PODS_ERRORS, &[]);
            }
        }
        Part::Start(kind) => begun(meters, kind, failed),
        // A start that came no further than its image.
        Part::Image(kind) if failed.is_some() => begun(meters, kind, failed),
        // The start was counted when it was made.
        Part::PostStart(kind) => start_failed(meters, kind, failed),
        Part::Resize => carried_out(meters, failed.is_none(), took),
        Part::Image(_) | Part::Other => {}
    }
}

/// A container was to be started.
fn begun(meters: &Meters, kind: Kind, failed: Option<&String>) {
    meters.count(&STARTED, &[container_type(kind)]);
    start_failed(meters, kind, failed);
}

fn start_failed(meters: &Meters, kind: Kind, failed: Option<&String>) {
    if let Some(reason) = failed {
        meters.count(&STARTED_ERRORS, &[reason, container_type(kind)]);
    }
}

/// What of an action is counted; taken before the action is carried out, which consumes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct What {
    operation: &'static str,
    part: Part,
}

/// What an action is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Sandbox,
    Image(Kind),
    Start(Kind),
    PostStart(Kind),
    Resize,
    Other,
}

impl What {
    /// Of an action for a pod.
    pub(crate) fn new(action: &Action, pod: &Pod) -> Self {
        Self {
            operation: operation(action),
            part: part(action, pod),
        }
    }
}

/// Upstream's word for the work. Its workers end a pod's containers as part of whatever work found that they must end; what is left to do then is
/// `terminated`.
fn operation(action: &Action) -> &'static str {
    match action {
        Action::Prepare | Action::CreateSandbox { .. } => "create",
        Action::Resize { .. } => "update",
        Action::PullImage { .. }
        | Action::StartContainer { .. }
        | Action::RunHook { .. }
        | Action::KillContainer { .. }
        | Action::RemoveContainer { .. }
        | Action::StopSandbox { .. } => "sync",
        Action::RemoveSandbox { .. } | Action::CleanUp | Action::Finish | Action::Forget => {
            "terminated"
        }
    }
}

fn part(action: &Action, pod: &Pod) -> Part {
    let kind = |name: &str| pod::member(pod::spec(pod), name).map_or(Kind::App, |m| m.kind);
    match action {
        Action::CreateSandbox { .. } => Part::Sandbox,
        Action::PullImage { container, .. } => Part::Image(kind(container)),
        Action::StartContainer { kind, .. } => Part::Start(*kind),
        Action::RunHook {
            container,
            hook: Hook::PostStart,
            ..
        } => Part::PostStart(kind(container)),
        Action::Resize { .. } => Part::Resize,
        _ => Part::Other,
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
            self.within_promise(meters, pod, total.saturating_sub(self.pulling));
        }
    }

    /// What upstream promises a time for: pods without volumes that somebody else must provide.
    fn within_promise(&self, meters: &Meters, pod: &Pod, took: Duration) {
        if is_stateful(pod) {
            return;
        }
        meters.observe(&POD_START_SLI, &[], took);
        let seen = meters.reading(&FIRST_START, &[]);
        let first = matches!(seen, None | Some(Reading::Level(0.0)));
        if first && pod::spec(pod).host_network != Some(true) {
            meters.set(&FIRST_START, &[], took.as_secs_f64());
        }
    }
}

/// Has a volume that is neither made of the API's objects nor empty.
fn is_stateful(pod: &Pod) -> bool {
    let mut volumes = pod::spec(pod).volumes.iter().flatten();
    volumes.any(|v| {
        v.secret.is_none()
            && v.config_map.is_none()
            && v.downward_api.is_none()
            && v.empty_dir.is_none()
            && v.projected.is_none()
    })
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
        let hook = Action::RunHook {
            container: "a".into(),
            id: "c".into(),
            hook: Hook::PostStart,
            handler: kedge_pods::hook::Handler::Sleep { seconds: 0 },
            timeout: None,
            reason: kedge_pods::action::KillReason::PostStartFailed,
            message: String::new(),
        };
        let no_image = Outcome::failed("ErrImagePull", "no");
        let bad_hook = Outcome::failed("PostStartHookError", "no");
        for (action, outcome) in [
            (&start, &started),
            (&start, &failed),
            (&pull, &image),
            (&pull, &no_image),
            (&hook, &Outcome::Done),
            (&hook, &bad_hook),
            (&Action::CleanUp, &Outcome::Done),
            (&sandbox, &Outcome::Done),
            (&sandbox, &failed),
            (&resize, &Outcome::Resized(Box::default())),
            (&resize, &failed),
        ] {
            acted(
                &meters,
                &What::new(action, &web()),
                outcome,
                Duration::from_millis(30),
            );
        }
        let one = Some(Reading::Count(1));
        // Attempts: one went well, one failed in the runtime, one for want of its image.
        let (two, three) = (Some(Reading::Count(2)), Some(Reading::Count(3)));
        assert_eq!(meters.reading(&STARTED, &["container"]), three);
        for why in ["CreateContainerError", "ErrImagePull", "PostStartHookError"] {
            assert_eq!(meters.reading(&STARTED_ERRORS, &[why, "container"]), one);
        }
        assert_eq!(meters.reading(&STARTED_PODS, &[]), two);
        assert_eq!(meters.reading(&STARTED_PODS_ERRORS, &[]), one);
        let Some(Reading::Spread(_, seconds)) = meters.reading(&PULLS, &["10MB-100MB"]) else {
            panic!("no pull");
        };
        assert!((seconds - 2.0).abs() < 1e-9);
        for success in ["true", "false"] {
            let resized = meters.reading(&resize::DURATION, &[success]);
            assert!(matches!(resized, Some(Reading::Spread(_, ms)) if ms == 30.0));
        }
        for operation in ["create", "update", "sync", "terminated"] {
            assert!(meters.reading(&WORK, &[operation]).is_some(), "{operation}");
        }
        assert_eq!(meters.family(WORK.name).unwrap().1.len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn the_start_that_upstream_promises_a_time_for_is_that_of_pods_without_others_volumes() {
        let meters = Meters::default();
        declare(&meters);
        let start = |spec: &str, seconds: i64| {
            let json = format!(
                r#"{{"metadata": {{"name": "p", "creationTimestamp": "1970-01-01T00:00:00Z"}}, "spec": {{"containers": [] {spec}}}}}"#
            );
            Beginning::new().runs(&meters, &pod(&json), seconds * 1_000_000_000);
        };
        let first = || meters.reading(&FIRST_START, &[]);
        start(
            r#", "volumes": [{"name": "h", "hostPath": {"path": "/"}}]"#,
            9,
        );
        start(r#", "hostNetwork": true"#, 7);
        assert_eq!(first(), Some(Reading::Level(0.0)));
        start(r#", "volumes": [{"name": "e", "emptyDir": {}}]"#, 5);
        start("", 3);
        assert_eq!(first(), Some(Reading::Level(5.0)));
        let sum = |family| match meters.reading(family, &[]) {
            Some(Reading::Spread(_, sum)) => sum,
            other => panic!("{other:?}"),
        };
        assert!((sum(&POD_START_SLI) - 15.0).abs() < 1e-9);
        assert!((sum(&POD_START_TOTAL) - 24.0).abs() < 1e-9);
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

//! Pod conditions: ours computed, others' kept.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, PodCondition, PodStatus};

use crate::Now;
use crate::memory::PodMemory;
use crate::observed::ObservedContainer;
use crate::pod::{self, Fate, Inputs, Kind};
use crate::resize::{self, Resize};

pub const SCHEDULED: &str = "PodScheduled";
pub const INITIALIZED: &str = "Initialized";
pub const READY: &str = "Ready";
pub const CONTAINERS_READY: &str = "ContainersReady";
pub const READY_TO_START: &str = "PodReadyToStartContainers";
pub const DISRUPTION: &str = "DisruptionTarget";
pub const RESIZE_PENDING: &str = "PodResizePending";
pub const RESIZE_IN_PROGRESS: &str = "PodResizeInProgress";

/// Conditions that the node writes; all others belong to somebody else.
pub const OURS: [&str; 5] = [
    READY_TO_START,
    INITIALIZED,
    READY,
    CONTAINERS_READY,
    SCHEDULED,
];

/// Status, reason, message of a condition before it has a time.
struct Verdict {
    kind: &'static str,
    good: bool,
    reason: Option<String>,
    message: Option<String>,
}

impl Verdict {
    fn good(kind: &'static str) -> Verdict {
        Verdict {
            kind,
            good: true,
            reason: None,
            message: None,
        }
    }

    fn bad(kind: &'static str, reason: &str, message: Option<String>) -> Verdict {
        Verdict {
            kind,
            good: false,
            reason: Some(reason.into()),
            message,
        }
    }
}

/// All conditions of a status whose other fields are filled in.
pub(super) fn all(
    inputs: &Inputs<'_>,
    memory: &PodMemory,
    status: &PodStatus,
    now: Now,
) -> Vec<PodCondition> {
    let containers_ready = containers_ready(inputs, status);
    let mut ours = vec![
        ready_to_start(inputs),
        initialized(inputs, status),
        ready(inputs, &containers_ready),
        containers_ready,
        Verdict::good(SCHEDULED),
    ];
    if let Some(disrupted) = disrupted(inputs, memory) {
        ours.push(disrupted);
    }
    ours.extend(resize_pending(inputs));
    ours.extend(resize_in_progress(inputs, memory));
    let generation = inputs.pod.metadata.generation;
    let mut conditions: Vec<PodCondition> = ours
        .into_iter()
        .map(|v| stamp(inputs, v, generation, now))
        .collect();
    let foreign = inputs
        .pod
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    for condition in foreign {
        if !conditions.iter().any(|c| c.type_ == condition.type_)
            && !OURS.contains(&condition.type_.as_str())
            && condition.type_ != RESIZE_PENDING
            && condition.type_ != RESIZE_IN_PROGRESS
        {
            conditions.push(condition.clone());
        }
    }
    conditions
}

/// The transition time is the old one unless the status changed.
fn stamp(inputs: &Inputs<'_>, v: Verdict, generation: Option<i64>, now: Now) -> PodCondition {
    let status = if v.good { "True" } else { "False" };
    let old = |s: &PodStatus| {
        let found = s.conditions.iter().flatten().find(|c| c.type_ == v.kind);
        found
            .filter(|c| c.status == status)
            .and_then(|c| c.last_transition_time.clone())
    };
    let since = inputs
        .published
        .and_then(old)
        .or_else(|| inputs.pod.status.as_ref().and_then(old));
    PodCondition {
        type_: v.kind.to_owned(),
        status: status.to_owned(),
        reason: v.reason,
        message: v.message,
        last_transition_time: since.or_else(|| Some(now.time())),
        last_probe_time: None,
        observed_generation: generation,
    }
}

fn ready_to_start(inputs: &Inputs<'_>) -> Verdict {
    let host = pod::host_network(pod::spec(inputs.pod));
    match inputs.observed.ready_sandbox() {
        Some(s) if host || !s.ips.is_empty() => Verdict::good(READY_TO_START),
        _ => Verdict {
            reason: None,
            ..Verdict::bad(READY_TO_START, "", None)
        },
    }
}

fn initialized(inputs: &Inputs<'_>, status: &PodStatus) -> Verdict {
    let succeeded = status.phase.as_deref() == Some("Succeeded");
    if succeeded {
        return Verdict {
            reason: Some("PodCompleted".into()),
            ..Verdict::good(INITIALIZED)
        };
    }
    let spec = pod::spec(inputs.pod);
    let empty = Vec::new();
    let statuses = status.init_container_statuses.as_ref().unwrap_or(&empty);
    let begun = status.container_statuses.iter().flatten().any(has_run);
    let missing: Vec<String> = pod::init(spec)
        .zip(statuses.iter().map(Some).chain(std::iter::repeat(None)))
        .filter(|(m, s)| {
            let done = match (m.kind, s) {
                (_, None) => false,
                (Kind::Sidecar, Some(s)) => s.started == Some(true) || begun,
                (_, Some(s)) => s.ready || begun,
            };
            !done
        })
        .map(|(m, _)| m.name().to_owned())
        .collect();
    if missing.is_empty() {
        return Verdict::good(INITIALIZED);
    }
    let message = format!("containers with incomplete status: [{}]", missing.join(" "));
    Verdict::bad(INITIALIZED, "ContainersNotInitialized", Some(message))
}

fn has_run(status: &ContainerStatus) -> bool {
    let ran = |s: &Option<ContainerState>| {
        s.as_ref()
            .is_some_and(|s| s.running.is_some() || s.terminated.is_some())
    };
    ran(&status.state) || ran(&status.last_state)
}

fn containers_ready(inputs: &Inputs<'_>, status: &PodStatus) -> Verdict {
    match status.phase.as_deref() {
        Some("Succeeded") => return Verdict::bad(CONTAINERS_READY, "PodCompleted", None),
        Some("Failed") => return Verdict::bad(CONTAINERS_READY, "PodFailed", None),
        _ => {}
    }
    let spec = pod::spec(inputs.pod);
    let find = |name: &str| {
        let lists = [&status.init_container_statuses, &status.container_statuses];
        lists
            .into_iter()
            .flatten()
            .flatten()
            .find(|s| s.name == name)
    };
    let mut unknown = Vec::new();
    let mut unready = Vec::new();
    let counted = pod::init(spec)
        .filter(|m| m.kind == Kind::Sidecar)
        .chain(pod::apps(spec));
    for member in counted {
        match find(member.name()) {
            None => unknown.push(member.name().to_owned()),
            Some(s) if !s.ready => unready.push(s.name.clone()),
            Some(_) => {}
        }
    }
    if unknown.is_empty() && unready.is_empty() {
        return Verdict::good(CONTAINERS_READY);
    }
    let mut parts = Vec::new();
    if !unknown.is_empty() {
        parts.push(format!(
            "containers with unknown status: [{}]",
            unknown.join(" ")
        ));
    }
    if !unready.is_empty() {
        parts.push(format!(
            "containers with unready status: [{}]",
            unready.join(" ")
        ));
    }
    Verdict::bad(
        CONTAINERS_READY,
        "ContainersNotReady",
        Some(parts.join(", ")),
    )
}

fn ready(inputs: &Inputs<'_>, containers: &Verdict) -> Verdict {
    if !containers.good {
        return Verdict {
            kind: READY,
            good: false,
            reason: containers.reason.clone(),
            message: containers.message.clone(),
        };
    }
    let conditions = inputs
        .pod
        .status
        .as_ref()
        .and_then(|s| s.conditions.as_ref());
    let gates = pod::spec(inputs.pod).readiness_gates.iter().flatten();
    let messages: Vec<String> = gates
        .filter_map(|gate| {
            let name = &gate.condition_type;
            match conditions.into_iter().flatten().find(|c| c.type_ == *name) {
                None => Some(format!(
                    "corresponding condition of pod readiness gate {name:?} does not exist."
                )),
                Some(c) if c.status != "True" => Some(format!(
                    "the status of pod readiness gate {name:?} is not \"True\", but {}",
                    c.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if messages.is_empty() {
        return Verdict::good(READY);
    }
    Verdict::bad(READY, "ReadinessGatesNotReady", Some(messages.join(", ")))
}

/// Evictions say that the pod was disrupted, so that Jobs do not count them.
fn disrupted(inputs: &Inputs<'_>, memory: &PodMemory) -> Option<Verdict> {
    let Fate::Evicted { message, .. } = inputs.fate else {
        return None;
    };
    memory.end()?;
    Some(Verdict {
        kind: DISRUPTION,
        good: true,
        reason: Some("TerminationByKubelet".into()),
        message: Some(message.clone()),
    })
}

/// The node cannot give what the pod asks for.
fn resize_pending(inputs: &Inputs<'_>) -> Option<Verdict> {
    inputs.pending.map(|pending| Verdict {
        kind: RESIZE_PENDING,
        good: true,
        reason: Some(pending.reason.into()),
        message: Some(pending.message.clone()),
    })
}

/// A resize was granted and is not done in every container.
fn resize_in_progress(inputs: &Inputs<'_>, memory: &PodMemory) -> Option<Verdict> {
    let spec = pod::spec(inputs.pod);
    let under_way: Vec<&ObservedContainer> = pod::members(spec)
        .filter_map(|m| {
            let last = inputs.observed.latest(m.name())?;
            (resize::resize(inputs, memory, &m, last) != Resize::None).then_some(last)
        })
        .collect();
    let error = under_way
        .iter()
        .find_map(|c| memory.resize_errors.get(&c.id));
    (!under_way.is_empty()).then(|| Verdict {
        kind: RESIZE_IN_PROGRESS,
        good: true,
        reason: error.map(|_| "Error".to_owned()),
        message: error.cloned(),
    })
}

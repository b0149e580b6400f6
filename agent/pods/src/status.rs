//! PodStatus: what the API is told about a pod.
//!
//! In: [`Inputs`], memory, the time. Out: a whole [`PodStatus`] ([`generate`]) and what to send of it ([`patch`]).
//!
//! Rules that hold everywhere: Failed and Succeeded are final; neither is reported while a container may run; conditions
//! of others are kept; a transition time changes only with its status.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, HostIP, PodIP, PodStatus};

use crate::Now;
use crate::memory::PodMemory;
use crate::pod::{self, Inputs};
use crate::probe;

pub mod conditions;
pub mod containers;
mod patch;
mod phase;
pub mod reason;

pub use patch::patch;
pub use phase::Phase;

/// The status of a pod that this node runs, is ending, or has refused.
pub fn generate(inputs: &Inputs<'_>, memory: &PodMemory, now: Now) -> PodStatus {
    let ended = memory.ended(inputs);
    let mut lists = containers::lists(inputs, memory, now);
    let computed = phase::compute(pod::spec(inputs.pod), &lists, ended);
    let phase = settle(inputs, memory, computed, ended);
    if ended && phase.is_final() {
        lists.close(initialized(inputs));
    }
    let ips = addresses(inputs, memory);
    let old = inputs.published;
    let (reason, message) = explain(inputs, memory, phase);
    let mut status = PodStatus {
        phase: Some(phase.as_str().to_owned()),
        reason,
        message,
        observed_generation: inputs.pod.metadata.generation,
        qos_class: Some(crate::qos::class(pod::spec(inputs.pod)).as_str().to_owned()),
        start_time: old
            .and_then(|o| o.start_time.clone())
            .or_else(|| Some(now.time())),
        host_ip: inputs.node.host_ips.first().map(ToString::to_string),
        host_ips: some(host_ips(&inputs.node.host_ips)),
        pod_ip: ips.first().cloned(),
        pod_ips: some(ips.into_iter().map(|ip| PodIP { ip }).collect()),
        init_container_statuses: some(lists.init),
        container_statuses: some(lists.apps),
        ephemeral_container_statuses: some(lists.ephemeral),
        ..kept(inputs)
    };
    if matches!(inputs.fate, pod::Fate::Rejected { .. }) {
        // It never got as far as containers or addresses.
        status.container_statuses = None;
        status.init_container_statuses = None;
        status.pod_ip = None;
        status.pod_ips = None;
    }
    status.conditions = Some(conditions::all(inputs, memory, &status, now));
    status
}

/// Fields that others own, from the API copy.
fn kept(inputs: &Inputs<'_>) -> PodStatus {
    let api = inputs.pod.status.as_ref();
    PodStatus {
        nominated_node_name: api.and_then(|s| s.nominated_node_name.clone()),
        resource_claim_statuses: api.and_then(|s| s.resource_claim_statuses.clone()),
        extended_resource_claim_status: api.and_then(|s| s.extended_resource_claim_status.clone()),
        node_allocatable_resource_claim_statuses: api
            .and_then(|s| s.node_allocatable_resource_claim_statuses.clone()),
        ..PodStatus::default()
    }
}

/// The phase that may be reported.
fn settle(inputs: &Inputs<'_>, memory: &PodMemory, computed: Phase, ended: bool) -> Phase {
    if let Some(last) = last_phase(inputs).filter(|p| p.is_final()) {
        return last;
    }
    let failed = memory.verdict.is_some();
    match computed {
        _ if matches!(inputs.fate, pod::Fate::Rejected { .. }) => Phase::Failed,
        _ if ended && failed => Phase::Failed,
        p if ended && !p.is_final() => Phase::Failed,
        // Something still runs (a sidecar, a container in its grace): not final yet.
        p if p.is_final() && !ended => last_phase(inputs).unwrap_or(Phase::Running),
        p => p,
    }
}

/// The phase in the last published status, or in the API copy if that one is final: both are consulted.
fn last_phase(inputs: &Inputs<'_>) -> Option<Phase> {
    let of = |s: Option<&PodStatus>| s.and_then(|s| s.phase.as_deref()).and_then(Phase::parse);
    let api = of(inputs.pod.status.as_ref()).filter(|p| p.is_final());
    api.or(of(inputs.published))
}

/// Have all containers done their work, or is the published phase already final?
pub(crate) fn is_complete(inputs: &Inputs<'_>, memory: &PodMemory) -> bool {
    if last_phase(inputs).is_some_and(Phase::is_final) {
        return true;
    }
    let spec = pod::spec(inputs.pod);
    let replaced = |m: &pod::Member<'_>| {
        let last = inputs.observed.latest_started(m.name());
        last.and_then(|c| c.hash())
            .is_some_and(|h| h != pod::container_hash(&m.spec))
    };
    if pod::apps(spec).any(|m| replaced(&m)) {
        // It was ended to be started again with its new image, whatever the restart policy.
        return false;
    }
    let lists = containers::lists(
        inputs,
        memory,
        memory.first.unwrap_or(Now {
            mono: Duration::ZERO,
            wall: 0,
        }),
    );
    phase::compute(spec, &lists, false).is_final()
}

/// Reason and message: of what ended the pod as a whole; kept while the phase is unchanged.
fn explain(
    inputs: &Inputs<'_>,
    memory: &PodMemory,
    phase: Phase,
) -> (Option<String>, Option<String>) {
    if let Some((reason, message)) = &memory.verdict
        && (phase == Phase::Failed)
    {
        return (Some(reason.clone()), Some(message.clone()));
    }
    match inputs.published {
        Some(old) if old.phase.as_deref() == Some(phase.as_str()) => {
            (old.reason.clone(), old.message.clone())
        }
        _ => (None, None),
    }
}

/// Did the pod get as far as an app container?
fn initialized(inputs: &Inputs<'_>) -> bool {
    let spec = pod::spec(inputs.pod);
    pod::apps(spec).any(|m| inputs.observed.latest_started(m.name()).is_some())
}

/// Primary first. A pod that is over keeps the addresses it had.
fn addresses(inputs: &Inputs<'_>, memory: &PodMemory) -> Vec<String> {
    let ips: Vec<IpAddr> = probe::pod_ips(inputs);
    if ips.is_empty() && memory.end.is_some() {
        let old = inputs.published.and_then(|s| s.pod_ips.as_ref());
        return old.into_iter().flatten().map(|p| p.ip.clone()).collect();
    }
    if inputs.observed.sandbox().is_none() && memory.end.is_none() {
        // A host-network pod has its addresses once it has a sandbox, like any other.
        return Vec::new();
    }
    ips.iter().map(ToString::to_string).collect()
}

fn host_ips(ips: &[IpAddr]) -> Vec<HostIP> {
    ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// The container's id as the API spells it.
pub fn container_id(id: &str) -> String {
    format!("containerd://{id}")
}

/// The last published status of a container, in whichever list it is.
pub(crate) fn published<'a>(inputs: &Inputs<'a>, name: &str) -> Option<&'a ContainerStatus> {
    let status = inputs.published?;
    [
        &status.init_container_statuses,
        &status.container_statuses,
        &status.ephemeral_container_statuses,
    ]
    .into_iter()
    .flatten()
    .flatten()
    .find(|s| s.name == name)
}

#[cfg(test)]
mod tests;

//! Node conditions: ours computed, others' kept.

use k8s_openapi::api::core::v1::NodeCondition;

use super::Facts;
use crate::Now;

/// What the node is short of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pid: bool,
}

/// Can the node run pods?
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// What stands in the way, as sentences; empty: ready.
    pub problems: Vec<String>,
}

pub(super) fn all(facts: &Facts, old: &[NodeCondition], now: Now) -> Vec<NodeCondition> {
    let pressure = |kind: &str, under: bool, good: &str, bad: &str, what: (&str, &str)| {
        let (reason, message) = if under { (bad, what.1) } else { (good, what.0) };
        (
            kind.to_owned(),
            under,
            reason.to_owned(),
            message.to_owned(),
        )
    };
    let p = facts.pressure;
    let mut ours = vec![
        pressure(
            "MemoryPressure",
            p.memory,
            "KubeletHasSufficientMemory",
            "KubeletHasInsufficientMemory",
            (
                "kubelet has sufficient memory available",
                "kubelet has insufficient memory available",
            ),
        ),
        pressure(
            "DiskPressure",
            p.disk,
            "KubeletHasNoDiskPressure",
            "KubeletHasDiskPressure",
            ("kubelet has no disk pressure", "kubelet has disk pressure"),
        ),
        pressure(
            "PIDPressure",
            p.pid,
            "KubeletHasSufficientPID",
            "KubeletHasInsufficientPID",
            (
                "kubelet has sufficient PID available",
                "kubelet has insufficient PID available",
            ),
        ),
    ];
    ours.extend(facts.notes.clone());
    // Ready last: whoever waits for it finds the others already true.
    ours.push(if facts.readiness.problems.is_empty() {
        (
            "Ready".into(),
            true,
            "KubeletReady".into(),
            "kubelet is posting ready status".into(),
        )
    } else {
        let message = format!("[{}]", facts.readiness.problems.join(", "));
        ("Ready".into(), false, "KubeletNotReady".into(), message)
    });
    let foreign = old
        .iter()
        .filter(|c| !ours.iter().any(|o| o.0 == c.type_))
        .cloned();
    let mut list: Vec<NodeCondition> = foreign.collect();
    list.extend(ours.into_iter().map(|o| stamp(o, old, now)));
    list
}

fn stamp(
    (kind, yes, reason, message): (String, bool, String, String),
    old: &[NodeCondition],
    now: Now,
) -> NodeCondition {
    let status = if yes { "True" } else { "False" };
    let before = old.iter().find(|c| c.type_ == kind && c.status == status);
    NodeCondition {
        last_transition_time: before
            .and_then(|c| c.last_transition_time.clone())
            .or_else(|| Some(now.time())),
        last_heartbeat_time: Some(now.time()),
        status: status.into(),
        reason: Some(reason),
        message: Some(message),
        type_: kind,
    }
}

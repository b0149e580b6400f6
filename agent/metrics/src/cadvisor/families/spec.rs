//! What a row is rather than what it used: times of its making, settings. Settings carry no time stamp, as upstream's do not.

use super::{At, Family, gauge};
use crate::cgroup::{Limit, Limits};
use crate::expo::Value;
use crate::subject::Kind;

pub(super) static FAMILIES: &[Family] = &[
    gauge(
        "container_creation_time_seconds",
        "When it was made, in seconds since 1970.",
        created,
    ),
    gauge(
        "container_health_state",
        "Result of a health check of the runtime's own; -1 means that there is none. Probes are under /metrics/probes.",
        |at| at.value(Value::Signed(-1)),
    ),
    gauge(
        "container_last_seen",
        "When it was last looked at, in seconds since 1970.",
        |at| at.value(Value::Signed(at.row.at.wall_ms.div_euclid(1000))),
    ),
    gauge(
        "container_spec_cpu_period",
        "Length of a period of the CPU limit, in microseconds; 0 for the node, which has none.",
        |at| setting(at, |l| l.cpu_max.map(|(_, period)| Limit::At(period))),
    ),
    gauge(
        "container_spec_cpu_quota",
        "CPU time allowed in a period, in microseconds; absent where there is no limit.",
        |at| {
            if let Some((Limit::At(quota), _)) = at.row.sample.limits.cpu_max {
                at.setting(Value::Int(quota));
            }
        },
    ),
    gauge(
        "container_spec_cpu_shares",
        "Weight among neighbours when processors are short, on the scale of cgroup v1; 0 for the node.",
        |at| setting(at, |l| l.cpu_weight.map(|weight| Limit::At(shares(weight)))),
    ),
    gauge(
        "container_spec_memory_limit_bytes",
        "Memory limit; 0 means that there is none. The node's memory for the node.",
        memory_limit,
    ),
    gauge(
        "container_spec_memory_reservation_limit_bytes",
        "Memory that reclaim leaves alone (memory.min).",
        |at| setting(at, |l| l.memory_min),
    ),
    gauge(
        "container_spec_memory_swap_limit_bytes",
        "Swap limit; 0 means none is allowed or there is no limit. The node's swap for the node.",
        swap_limit,
    ),
    gauge(
        "container_start_time_seconds",
        "When it was started, in seconds since 1970.",
        started,
    ),
];

/// `max` is written as 0. So is what the root group, which cannot be limited, has no file for.
fn setting(at: &mut At<'_>, of: impl Fn(&Limits) -> Option<Limit>) {
    let value = match (of(&at.row.sample.limits), at.row.subject.kind) {
        (Some(Limit::At(n)), _) => n,
        (Some(Limit::Max), _) | (None, Kind::Root) => 0,
        (None, _) => return,
    };
    at.setting(Value::Int(value));
}

fn memory_limit(at: &mut At<'_>) {
    match at.row.subject.kind {
        Kind::Root => at.setting(Value::Int(at.of.memory.total)),
        _ => setting(at, |l| l.memory),
    }
}

fn swap_limit(at: &mut At<'_>) {
    match at.row.subject.kind {
        Kind::Root => at.setting(Value::Int(at.of.memory.swap_total)),
        _ => setting(at, |l| l.swap),
    }
}

/// What cgroup v1 would have called this weight; cAdvisor's formula.
fn shares(weight: u64) -> u64 {
    2 + weight.clamp(1, 10_000).saturating_sub(1) * 262_142 / 9999
}

fn seconds(at: &mut At<'_>, ns: Option<i64>) {
    let runtime = ns
        .filter(|ns| *ns > 0)
        .map(|ns| ns.div_euclid(1_000_000_000));
    if let Some(seconds) = runtime.or(at.row.since) {
        at.setting(Value::Signed(seconds));
    }
}

fn created(at: &mut At<'_>) {
    seconds(at, at.row.subject.created_ns);
}

fn started(at: &mut At<'_>) {
    let started = at.row.subject.started_ns.filter(|ns| *ns > 0);
    seconds(at, started.or(at.row.subject.created_ns));
}

//! `cpu.stat`: time used, and time held back by the quota of `cpu.max`.

use super::{At, Family, counter};
use crate::cgroup::{Limit, Throttling};
use crate::expo::Value;

pub(super) static FAMILIES: &[Family] = &[
    counter(
        "container_cpu_cfs_burst_periods_total",
        "Periods of the CPU limit in which saved-up time was used beyond the quota.",
        |at| at.maybe(limited(at).map(|t| t.bursts)),
    ),
    counter(
        "container_cpu_cfs_burst_seconds_total",
        "CPU time used beyond the quota out of saved-up time, in seconds.",
        |at| micros(at, limited(at).map(|t| t.burst_usec)),
    ),
    counter(
        "container_cpu_cfs_periods_total",
        "Periods of the CPU limit that have passed while there was something to run.",
        |at| at.maybe(limited(at).map(|t| t.periods)),
    ),
    counter(
        "container_cpu_cfs_throttled_periods_total",
        "Periods of the CPU limit in which the quota ran out and tasks had to wait.",
        |at| at.maybe(limited(at).map(|t| t.throttled)),
    ),
    counter(
        "container_cpu_cfs_throttled_seconds_total",
        "Time that tasks waited for the next period because the quota had run out, in seconds.",
        |at| micros(at, limited(at).map(|t| t.throttled_usec)),
    ),
    counter(
        "container_cpu_system_seconds_total",
        "CPU time used in the kernel, in seconds.",
        |at| micros(at, at.row.sample.cpu.map(|cpu| cpu.system_usec)),
    ),
    counter(
        "container_cpu_usage_seconds_total",
        "CPU time used, in seconds, all processors together.",
        |at| {
            if let Some(cpu) = at.row.sample.cpu {
                at.with(&[("cpu", "total")], Value::Micros(cpu.usage_usec));
            }
        },
    ),
    counter(
        "container_cpu_user_seconds_total",
        "CPU time used in user mode, in seconds.",
        |at| micros(at, at.row.sample.cpu.map(|cpu| cpu.user_usec)),
    ),
];

fn micros(at: &mut At<'_>, value: Option<u64>) {
    if let Some(usec) = value {
        at.value(Value::Micros(usec));
    }
}

/// Shown for groups with a quota only.
fn limited(at: &At<'_>) -> Option<Throttling> {
    let (Limit::At(_), _) = at.row.sample.limits.cpu_max? else {
        return None;
    };
    at.row.sample.cpu?.throttling
}

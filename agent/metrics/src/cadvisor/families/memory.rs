//! `memory.*`: use, its parts, reclaim, limits that were met.

use super::{At, Family, counter, gauge};
use crate::cgroup::Memory;
use crate::expo::Value;
use crate::subject::Kind;

pub(super) static FAMILIES: &[Family] = &[
    gauge("container_memory_cache", "Page cache, in bytes.", |at| {
        memory(at, |m| m.file)
    }),
    counter(
        "container_memory_events_high_total",
        "Times that tasks were slowed down for being above memory.high.",
        |at| at.maybe(at.row.sample.memory.and_then(|m| m.high_events)),
    ),
    counter(
        "container_memory_events_max_total",
        "Times that use came up against the memory limit.",
        |at| at.maybe(at.row.sample.memory.and_then(|m| m.max_events)),
    ),
    counter(
        "container_memory_failcnt",
        "Times that use came up against the memory limit; container_memory_events_max_total under its older name.",
        |at| at.maybe(at.row.sample.memory.and_then(|m| m.max_events)),
    ),
    counter(
        "container_memory_failures_total",
        "Page faults by type. Both scopes count the group with all below it, as cgroup v2 does.",
        failures,
    ),
    gauge(
        "container_memory_file_dirty_bytes",
        "Page cache that is to be written to disk, in bytes.",
        |at| memory(at, |m| m.file_dirty),
    ),
    gauge(
        "container_memory_file_writeback_bytes",
        "Page cache that is on its way to disk, in bytes.",
        |at| memory(at, |m| m.file_writeback),
    ),
    gauge(
        "container_memory_kernel_usage",
        "Memory that the kernel holds on behalf of the processes, in bytes.",
        |at| at.maybe(at.row.sample.memory.and_then(|m| m.kernel)),
    ),
    gauge(
        "container_memory_mapped_file",
        "Page cache that is mapped into processes, in bytes.",
        |at| memory(at, |m| m.file_mapped),
    ),
    gauge(
        "container_memory_max_usage_bytes",
        "Largest memory use so far, page cache included.",
        |at| at.maybe(at.row.sample.memory.and_then(|m| m.peak)),
    ),
    counter(
        "container_memory_pgscan_total",
        "Pages that reclaim has looked at.",
        |at| memory(at, |m| m.scanned),
    ),
    counter(
        "container_memory_pgsteal_total",
        "Pages that reclaim has taken away.",
        |at| memory(at, |m| m.stolen),
    ),
    gauge(
        "container_memory_rss",
        "Anonymous memory: heaps, stacks and the like, in bytes.",
        |at| memory(at, |m| m.anon),
    ),
    gauge("container_memory_swap", "Swap in use, in bytes.", swap),
    gauge(
        "container_memory_total_active_file_bytes",
        "Page cache that was used again lately.",
        |at| memory(at, |m| m.active_file),
    ),
    gauge(
        "container_memory_total_inactive_file_bytes",
        "Page cache that was not used again lately: the first to go.",
        |at| memory(at, |m| m.inactive_file),
    ),
    gauge(
        "container_memory_usage_bytes",
        "Memory in use, page cache included.",
        |at| memory(at, |m| m.usage),
    ),
    gauge(
        "container_memory_working_set_bytes",
        "Memory in use without inactive page cache: what eviction goes by.",
        |at| memory(at, Memory::working_set),
    ),
    counter(
        "container_memory_workingset_refault_anon_total",
        "Anonymous pages that were needed again soon after reclaim had taken them.",
        |at| memory(at, |m| m.refault_anon),
    ),
    counter(
        "container_memory_workingset_refault_file_total",
        "Page cache pages that were needed again soon after reclaim had taken them.",
        |at| memory(at, |m| m.refault_file),
    ),
    counter(
        "container_oom_events_total",
        "Processes that the kernel killed for want of memory, in the group and below it.",
        |at| at.maybe(at.row.sample.memory.and_then(|m| m.oom_kills)),
    ),
];

fn memory(at: &mut At<'_>, value: impl Fn(&Memory) -> u64) {
    at.maybe(at.row.sample.memory.as_ref().map(value));
}

fn failures(at: &mut At<'_>) {
    let Some(memory) = at.row.sample.memory else {
        return;
    };
    for (kind, count) in [
        ("pgfault", memory.faults),
        ("pgmajfault", memory.major_faults),
    ] {
        for scope in ["container", "hierarchy"] {
            at.with(
                &[("failure_type", kind), ("scope", scope)],
                Value::Int(count),
            );
        }
    }
}

fn swap(at: &mut At<'_>) {
    if at.row.subject.kind == Kind::Root {
        let memory = at.of.memory;
        let used = memory.swap_total.saturating_sub(memory.swap_free);
        at.value(Value::Int(used));
    } else if let Some(memory) = at.row.sample.memory {
        // Without swap accounting there is no swap in a container.
        at.value(Value::Int(memory.swap.unwrap_or(0)));
    }
}

//! `*.pressure`: time lost to waiting, of some tasks and of all of them.

use super::{At, Family, counter};
use crate::cgroup::PsiLine;
use crate::expo::Value;

pub(super) static FAMILIES: &[Family] = &[
    counter(
        "container_pressure_cpu_stalled_seconds_total",
        "Time in which every task that wanted to run waited for a processor, in seconds.",
        |at| total(at, at.row.sample.cpu_pressure.and_then(|p| p.full)),
    ),
    counter(
        "container_pressure_cpu_waiting_seconds_total",
        "Time in which at least one task waited for a processor, in seconds.",
        |at| total(at, at.row.sample.cpu_pressure.map(|p| p.some)),
    ),
    counter(
        "container_pressure_io_stalled_seconds_total",
        "Time in which nothing ran because every task waited for a disk, in seconds.",
        |at| total(at, at.row.sample.io_pressure.and_then(|p| p.full)),
    ),
    counter(
        "container_pressure_io_waiting_seconds_total",
        "Time in which at least one task waited for a disk, in seconds.",
        |at| total(at, at.row.sample.io_pressure.map(|p| p.some)),
    ),
    counter(
        "container_pressure_memory_stalled_seconds_total",
        "Time in which nothing ran because every task waited for memory, in seconds.",
        |at| total(at, at.row.sample.memory_pressure.and_then(|p| p.full)),
    ),
    counter(
        "container_pressure_memory_waiting_seconds_total",
        "Time in which at least one task waited for memory, in seconds.",
        |at| total(at, at.row.sample.memory_pressure.map(|p| p.some)),
    ),
];

fn total(at: &mut At<'_>, line: Option<PsiLine>) {
    if let Some(line) = line {
        at.value(Value::Micros(line.total_usec));
    }
}

//! Processes, threads, open files. Counted every ten seconds at most; the time stamp says when.

use super::{At, Family, gauge};
use crate::cgroup::Limit;
use crate::expo::Value;
use crate::process::Processes;
use crate::subject::Kind;

pub(super) static FAMILIES: &[Family] = &[
    gauge(
        "container_file_descriptors",
        "Open file descriptors of the processes.",
        |at| processes(at, |p| p.descriptors),
    ),
    gauge(
        "container_processes",
        "Processes, those of groups below not counted.",
        |at| processes(at, |p| p.count),
    ),
    gauge(
        "container_sockets",
        "Open sockets of the processes.",
        |at| processes(at, |p| p.sockets),
    ),
    gauge(
        "container_threads",
        "Threads, a process without further threads being one.",
        |at| at.maybe(at.row.sample.pids),
    ),
    gauge(
        "container_threads_max",
        "Most threads that are allowed; 0 means that there is no limit.",
        |at| at.maybe(threads_max(at)),
    ),
    gauge(
        "container_ulimits_soft",
        "Soft limits of the first process; -1 means that there is no limit.",
        ulimits,
    ),
];

fn processes(at: &mut At<'_>, value: impl Fn(&Processes) -> u64) {
    if let Some((found, when)) = at.row.processes {
        at.timed(&[], Value::Int(value(&found)), when.wall_ms);
    }
}

fn threads_max(at: &At<'_>) -> Option<u64> {
    match (at.row.subject.kind, at.row.sample.limits.pids) {
        // The root group cannot have a limit.
        (Kind::Root, _) | (_, Some(Limit::Max)) => Some(0),
        (_, Some(Limit::At(most))) => Some(most),
        (_, None) => None,
    }
}

fn ulimits(at: &mut At<'_>) {
    // Of the hierarchy nobody is the first process.
    let one = matches!(
        at.row.subject.kind,
        Kind::Root | Kind::Sandbox | Kind::Container
    );
    if let Some((found, when)) = at.row.processes
        && let Some(limit) = found.files_limit.filter(|_| one)
    {
        at.timed(
            &[("ulimit", "max_open_files")],
            Value::Signed(limit),
            when.wall_ms,
        );
    }
}

//! The table of families, sorted by name, and what several of them share.

use super::{At, Family, device};
use crate::cgroup::{IoCost, IoDevice, Limit, Limits, Psi, Throttling};
use crate::disk::Disk;
use crate::expo::Kind::{Counter, Gauge};
use crate::expo::Value;
use crate::net::Interface;
use crate::process::Processes;
use crate::sample::Filesystem;
use crate::subject::Kind;

/// All of them.
pub(super) static FAMILIES: &[Family] = &[
    Family {
        name: "container_blkio_device_usage_total",
        kind: Counter,
        help: "Bytes moved by device and operation.",
        write: |at| {
            blkio(at);
        },
    },
    Family {
        name: "container_cpu_cfs_burst_periods_total",
        kind: Counter,
        help: "Enforcement intervals in which burst was used.",
        write: |at| {
            if let Some(t) = limited(at) {
                at.value(Value::Int(t.bursts));
            }
        },
    },
    Family {
        name: "container_cpu_cfs_burst_seconds_total",
        kind: Counter,
        help: "CPU time used beyond the quota as burst.",
        write: |at| {
            if let Some(t) = limited(at) {
                at.value(Value::Micros(t.burst_usec));
            }
        },
    },
    Family {
        name: "container_cpu_cfs_periods_total",
        kind: Counter,
        help: "Enforcement intervals of the CPU limit.",
        write: |at| {
            if let Some(t) = limited(at) {
                at.value(Value::Int(t.periods));
            }
        },
    },
    Family {
        name: "container_cpu_cfs_throttled_periods_total",
        kind: Counter,
        help: "Enforcement intervals in which the CPU limit held something back.",
        write: |at| {
            if let Some(t) = limited(at) {
                at.value(Value::Int(t.throttled));
            }
        },
    },
    Family {
        name: "container_cpu_cfs_throttled_seconds_total",
        kind: Counter,
        help: "Time held back by the CPU limit.",
        write: |at| {
            if let Some(t) = limited(at) {
                at.value(Value::Micros(t.throttled_usec));
            }
        },
    },
    Family {
        name: "container_cpu_system_seconds_total",
        kind: Counter,
        help: "CPU time used in the kernel.",
        write: |at| {
            if let Some(cpu) = at.row.sample.cpu {
                at.value(Value::Micros(cpu.system_usec));
            }
        },
    },
    Family {
        name: "container_cpu_usage_seconds_total",
        kind: Counter,
        help: "CPU time used.",
        write: |at| {
            if let Some(cpu) = at.row.sample.cpu {
                at.with(&[("cpu", "total")], Value::Micros(cpu.usage_usec));
            }
        },
    },
    Family {
        name: "container_cpu_user_seconds_total",
        kind: Counter,
        help: "CPU time used in user mode.",
        write: |at| {
            if let Some(cpu) = at.row.sample.cpu {
                at.value(Value::Micros(cpu.user_usec));
            }
        },
    },
    Family {
        name: "container_creation_time_seconds",
        kind: Gauge,
        help: "When it was made, seconds since 1970.",
        write: |at| {
            created(at);
        },
    },
    Family {
        name: "container_file_descriptors",
        kind: Gauge,
        help: "Open file descriptors of its processes.",
        write: |at| {
            processes(at, |p| Value::Int(p.descriptors));
        },
    },
    Family {
        name: "container_fs_inodes_free",
        kind: Gauge,
        help: "Inodes left.",
        write: |at| {
            filesystems(at, |f| f.inodes_free);
        },
    },
    Family {
        name: "container_fs_inodes_total",
        kind: Gauge,
        help: "Inodes in all.",
        write: |at| {
            filesystems(at, |f| f.inodes);
        },
    },
    Family {
        name: "container_fs_io_cost_indebt_seconds_total",
        kind: Counter,
        help: "Time in debt by the iocost controller.",
        write: |at| {
            cost(at, |c| c.indebt);
        },
    },
    Family {
        name: "container_fs_io_cost_indelay_seconds_total",
        kind: Counter,
        help: "Time in delay by the iocost controller.",
        write: |at| {
            cost(at, |c| c.indelay);
        },
    },
    Family {
        name: "container_fs_io_cost_usage_seconds_total",
        kind: Counter,
        help: "Device time used by the iocost controller's account.",
        write: |at| {
            cost(at, |c| c.usage);
        },
    },
    Family {
        name: "container_fs_io_cost_wait_seconds_total",
        kind: Counter,
        help: "Time waited by the iocost controller's account.",
        write: |at| {
            cost(at, |c| c.wait);
        },
    },
    Family {
        name: "container_fs_io_current",
        kind: Gauge,
        help: "Requests under way.",
        write: |at| {
            io(at, |_| None, |d| Value::Int(d.in_progress));
        },
    },
    Family {
        name: "container_fs_io_time_seconds_total",
        kind: Counter,
        help: "Time with requests under way.",
        write: |at| {
            io(at, |_| None, |d| Value::Millis(d.busy_ms));
        },
    },
    Family {
        name: "container_fs_io_time_weighted_seconds_total",
        kind: Counter,
        help: "Time of requests under way, added up.",
        write: |at| {
            io(at, |_| None, |d| Value::Millis(d.weighted_ms));
        },
    },
    Family {
        name: "container_fs_limit_bytes",
        kind: Gauge,
        help: "Size of the filesystem.",
        write: |at| {
            filesystems(at, |f| f.total);
        },
    },
    Family {
        name: "container_fs_read_seconds_total",
        kind: Counter,
        help: "Time spent in reads.",
        write: |at| {
            io(at, |_| None, |d| Value::Millis(d.reads.ms));
        },
    },
    Family {
        name: "container_fs_reads_bytes_total",
        kind: Counter,
        help: "Bytes of reads.",
        write: |at| {
            io_only(at, |d| d.read_bytes);
        },
    },
    Family {
        name: "container_fs_reads_merged_total",
        kind: Counter,
        help: "Reads merged into others.",
        write: |at| {
            io(at, |_| None, |d| Value::Int(d.reads.merged));
        },
    },
    Family {
        name: "container_fs_reads_total",
        kind: Counter,
        help: "Reads done.",
        write: |at| {
            io(
                at,
                |d| Some(Value::Int(d.reads)),
                |d| Value::Int(d.reads.completed),
            );
        },
    },
    Family {
        name: "container_fs_sector_reads_total",
        kind: Counter,
        help: "Sectors of reads.",
        write: |at| {
            io(at, |_| None, |d| Value::Int(d.reads.sectors));
        },
    },
    Family {
        name: "container_fs_sector_writes_total",
        kind: Counter,
        help: "Sectors of writes.",
        write: |at| {
            io(at, |_| None, |d| Value::Int(d.writes.sectors));
        },
    },
    Family {
        name: "container_fs_usage_bytes",
        kind: Gauge,
        help: "Bytes used on the filesystem.",
        write: |at| {
            filesystems(at, |f| f.total.saturating_sub(f.free));
        },
    },
    Family {
        name: "container_fs_write_seconds_total",
        kind: Counter,
        help: "Time spent in writes.",
        write: |at| {
            io(at, |_| None, |d| Value::Millis(d.writes.ms));
        },
    },
    Family {
        name: "container_fs_writes_bytes_total",
        kind: Counter,
        help: "Bytes of writes.",
        write: |at| {
            io_only(at, |d| d.written_bytes);
        },
    },
    Family {
        name: "container_fs_writes_merged_total",
        kind: Counter,
        help: "Writes merged into others.",
        write: |at| {
            io(at, |_| None, |d| Value::Int(d.writes.merged));
        },
    },
    Family {
        name: "container_fs_writes_total",
        kind: Counter,
        help: "Writes done.",
        write: |at| {
            io(
                at,
                |d| Some(Value::Int(d.writes)),
                |d| Value::Int(d.writes.completed),
            );
        },
    },
    Family {
        name: "container_health_state",
        kind: Gauge,
        help: "The runtime's own health check: -1, there is none. Probes are under /metrics/probes.",
        write: |at| {
            at.value(Value::Signed(-1));
        },
    },
    Family {
        name: "container_last_seen",
        kind: Gauge,
        help: "When it was last read, seconds since 1970.",
        write: |at| {
            at.value(Value::Signed(at.row.at.wall_ms.div_euclid(1000)));
        },
    },
    Family {
        name: "container_memory_cache",
        kind: Gauge,
        help: "Page cache.",
        write: |at| {
            if let Some(m) = at.row.sample.memory {
                at.value(Value::Int(m.file));
            }
        },
    },
    Family {
        name: "container_memory_events_high_total",
        kind: Counter,
        help: "Times that memory.high held it back.",
        write: |at| {
            if let Some(m) = at.row.sample.memory {
                at.value(Value::Int(m.high_events));
            }
        },
    },
    Family {
        name: "container_memory_events_max_total",
        kind: Counter,
        help: "Times that it reached its memory limit.",
        write: |at| {
            if let Some(m) = at.row.sample.memory {
                at.value(Value::Int(m.max_events));
            }
        },
    },
    Family {
        name: "container_memory_failcnt",
        kind: Counter,
        help: "Times that it reached its memory limit.",
        write: |at| {
            if let Some(m) = at.row.sample.memory {
                at.value(Value::Int(m.max_events));
            }
        },
    },
    Family {
        name: "container_memory_failures_total",
        kind: Counter,
        help: "Page faults by type, in it and in it with all below; they are the same in cgroup v2.",
        write: |at| {
            failures(at);
        },
    },
    Family {
        name: "container_memory_file_dirty_bytes",
        kind: Gauge,
        help: "Page cache that is not written back yet.",
        write: |at| {
            if let Some(m) = at.row.sample.memory {
                at.value(Value::Int(m.file_dirty));
            }
        },
    },
    Family {
        name: "container_memory_file_writeback_bytes",
        kind: Gauge,
        help: "Page cache being written back.",
        write: |at| {
            if let Some(m) = at.row.sample.memory {
                at.value(Value::Int(m.file_writeback));
            }
        },
    },
    Family {
        name: "container_memory_kernel_usage",
        kind: Gauge,
        help: "Kernel memory.",
        write: |at| {
            if let Some(m) = at.row.sample.memory {
                at.value(Value::Int(m.kernel));
            }
        },
    },
    Family {
        name: "container_memory_mapped_file",
        kind: Gauge,
        help: "Mapped files.",
        write: |at| {
            if let Some(m) = at.row.sample.memory {
                at.value(Value::Int(m.file_mapped));
            }
        },
    },
    Family {
        name: "container_memory_max_usage_bytes",
        kind: Gauge,
        help: "Largest memory use so far.",
        write: |at| {
            if let Some(peak) = at.row.sample.memory.and_then(|m| m.peak) {
                at.value(Value::Int(peak));
            }
        },
    },
    Family {
        name: "container_memory_pgscan_total",
        kind: Counter,
        help: "Pages looked at by reclaim.",
        write: |at| {
            if let Some(m) = at.row.sample.memory {
                at.value(Value::Int(m.scanned));
            }
        },
    },
    Family {
        name: "container_memory_pgsteal_total",
        kind: Counter,
        help: "Pages taken by reclaim.",
        write: |at| {
            if let Some(m) = at.row.sample.memory {
                at.value(Value::Int(m.stolen));
            }
        },
    },
    Family {
        name: "container_memory_rss",
        kind: Gauge,
        help: "Anonymous memory.",
        write: |at| {
            if let Some(m) = at.row.sample.memory {
                at.value(Value::Int(m.anon));
            }
        },
    },
    Family {
        name: "container_memory_swap",
        kind: Gauge,
        help: "Swap used.",
        write: |at| {
            swap(at);
        },
    },
    Family {
        name: "container_memory_total_active_file_bytes",
        kind: Gauge,
        help: "Page cache in use.",
        write: |at| {
            if let Some(m) = at.row.sample.memory {
                at.value(Value::Int(m.active_file));
            }
        },
    },
    Family {
        name: "container_memory_total_inactive_file_bytes",
        kind: Gauge,
        help: "Page cache not in use.",
        write: |at| {
            if let Some(m) = at.row.sample.memory {
                at.value(Value::Int(m.inactive_file));
            }
        },
    },
    Family {
        name: "container_memory_usage_bytes",
        kind: Gauge,
        help: "Memory used, page cache included.",
        write: |at| {
            if let Some(m) = at.row.sample.memory {
                at.value(Value::Int(m.usage));
            }
        },
    },
    Family {
        name: "container_memory_working_set_bytes",
        kind: Gauge,
        help: "Memory used without page cache that is not in use.",
        write: |at| {
            if let Some(m) = at.row.sample.memory {
                at.value(Value::Int(m.working_set()));
            }
        },
    },
    Family {
        name: "container_memory_workingset_refault_anon_total",
        kind: Counter,
        help: "Anonymous pages that came back soon after they were taken.",
        write: |at| {
            if let Some(m) = at.row.sample.memory {
                at.value(Value::Int(m.refault_anon));
            }
        },
    },
    Family {
        name: "container_memory_workingset_refault_file_total",
        kind: Counter,
        help: "File pages that came back soon after they were taken.",
        write: |at| {
            if let Some(m) = at.row.sample.memory {
                at.value(Value::Int(m.refault_file));
            }
        },
    },
    Family {
        name: "container_network_receive_bytes_total",
        kind: Counter,
        help: "Received bytes.",
        write: |at| {
            network(at, |i| i.rx.bytes);
        },
    },
    Family {
        name: "container_network_receive_errors_total",
        kind: Counter,
        help: "Received with errors.",
        write: |at| {
            network(at, |i| i.rx.errors);
        },
    },
    Family {
        name: "container_network_receive_packets_dropped_total",
        kind: Counter,
        help: "Packets dropped while being received.",
        write: |at| {
            network(at, |i| i.rx.dropped);
        },
    },
    Family {
        name: "container_network_receive_packets_total",
        kind: Counter,
        help: "Received packets.",
        write: |at| {
            network(at, |i| i.rx.packets);
        },
    },
    Family {
        name: "container_network_transmit_bytes_total",
        kind: Counter,
        help: "Sent bytes.",
        write: |at| {
            network(at, |i| i.tx.bytes);
        },
    },
    Family {
        name: "container_network_transmit_errors_total",
        kind: Counter,
        help: "Sent with errors.",
        write: |at| {
            network(at, |i| i.tx.errors);
        },
    },
    Family {
        name: "container_network_transmit_packets_dropped_total",
        kind: Counter,
        help: "Packets dropped while being sent.",
        write: |at| {
            network(at, |i| i.tx.dropped);
        },
    },
    Family {
        name: "container_network_transmit_packets_total",
        kind: Counter,
        help: "Sent packets.",
        write: |at| {
            network(at, |i| i.tx.packets);
        },
    },
    Family {
        name: "container_oom_events_total",
        kind: Counter,
        help: "Processes killed for want of memory, in it and below it.",
        write: |at| {
            if let Some(m) = at.row.sample.memory {
                at.value(Value::Int(m.oom_kills));
            }
        },
    },
    Family {
        name: "container_pressure_cpu_stalled_seconds_total",
        kind: Counter,
        help: "Time in which all tasks waited for cpu.",
        write: |at| {
            pressure(at, at.row.sample.cpu_pressure, |p| {
                p.full.map(|l| l.total_usec)
            });
        },
    },
    Family {
        name: "container_pressure_cpu_waiting_seconds_total",
        kind: Counter,
        help: "Time in which some task waited for cpu.",
        write: |at| {
            pressure(at, at.row.sample.cpu_pressure, |p| Some(p.some.total_usec));
        },
    },
    Family {
        name: "container_pressure_io_stalled_seconds_total",
        kind: Counter,
        help: "Time in which all tasks waited for io.",
        write: |at| {
            pressure(at, at.row.sample.io_pressure, |p| {
                p.full.map(|l| l.total_usec)
            });
        },
    },
    Family {
        name: "container_pressure_io_waiting_seconds_total",
        kind: Counter,
        help: "Time in which some task waited for io.",
        write: |at| {
            pressure(at, at.row.sample.io_pressure, |p| Some(p.some.total_usec));
        },
    },
    Family {
        name: "container_pressure_memory_stalled_seconds_total",
        kind: Counter,
        help: "Time in which all tasks waited for memory.",
        write: |at| {
            pressure(at, at.row.sample.memory_pressure, |p| {
                p.full.map(|l| l.total_usec)
            });
        },
    },
    Family {
        name: "container_pressure_memory_waiting_seconds_total",
        kind: Counter,
        help: "Time in which some task waited for memory.",
        write: |at| {
            pressure(at, at.row.sample.memory_pressure, |p| {
                Some(p.some.total_usec)
            });
        },
    },
    Family {
        name: "container_processes",
        kind: Gauge,
        help: "Processes.",
        write: |at| {
            processes(at, |p| Value::Int(p.count));
        },
    },
    Family {
        name: "container_sockets",
        kind: Gauge,
        help: "Open sockets of its processes.",
        write: |at| {
            processes(at, |p| Value::Int(p.sockets));
        },
    },
    Family {
        name: "container_spec_cpu_period",
        kind: Gauge,
        help: "Interval of the CPU limit, microseconds.",
        write: |at| {
            if let Some((_, period)) = at.row.sample.limits.cpu_max {
                at.setting(Value::Int(period));
            }
        },
    },
    Family {
        name: "container_spec_cpu_quota",
        kind: Gauge,
        help: "CPU time per interval, microseconds.",
        write: |at| {
            if let Some((Limit::At(quota), _)) = at.row.sample.limits.cpu_max {
                at.setting(Value::Int(quota));
            }
        },
    },
    Family {
        name: "container_spec_cpu_shares",
        kind: Gauge,
        help: "CPU shares, as cgroup v1 would count them.",
        write: |at| {
            if let Some(weight) = at.row.sample.limits.cpu_weight {
                at.setting(Value::Int(shares(weight)));
            }
        },
    },
    Family {
        name: "container_spec_memory_limit_bytes",
        kind: Gauge,
        help: "Memory limit; 0: none.",
        write: |at| {
            memory_limit(at);
        },
    },
    Family {
        name: "container_spec_memory_reservation_limit_bytes",
        kind: Gauge,
        help: "Memory kept for it.",
        write: |at| {
            limit(at, |l| l.memory_min);
        },
    },
    Family {
        name: "container_spec_memory_swap_limit_bytes",
        kind: Gauge,
        help: "Swap limit; 0: none.",
        write: |at| {
            swap_limit(at);
        },
    },
    Family {
        name: "container_start_time_seconds",
        kind: Gauge,
        help: "When it started, seconds since 1970.",
        write: |at| {
            started(at);
        },
    },
    Family {
        name: "container_threads",
        kind: Gauge,
        help: "Processes and threads.",
        write: |at| {
            if let Some(n) = at.row.sample.pids {
                at.value(Value::Int(n));
            }
        },
    },
    Family {
        name: "container_threads_max",
        kind: Gauge,
        help: "Most processes and threads; 0: no limit.",
        write: |at| {
            if let Some(limit) = at.row.sample.limits.pids {
                at.value(Value::Int(plain(limit)));
            }
        },
    },
    Family {
        name: "container_ulimits_soft",
        kind: Gauge,
        help: "Soft limits of its first process; -1: none.",
        write: |at| {
            ulimits(at);
        },
    },
];

/// Shown for groups with a quota only.
fn limited(at: &At<'_>) -> Option<Throttling> {
    let (Limit::At(_), _) = at.row.sample.limits.cpu_max? else {
        return None;
    };
    at.row.sample.cpu?.throttling
}

fn processes(at: &mut At<'_>, value: impl Fn(&Processes) -> Value) {
    if let Some((found, when)) = at.row.processes {
        at.timed(&[], value(&found), when.wall_ms);
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

/// What the group moved, by device.
fn io_only(at: &mut At<'_>, value: impl Fn(&IoDevice) -> u64) {
    for moved in &at.row.sample.io {
        let name = device(at.of.device(moved.major, moved.minor));
        at.with(&[("device", &name)], Value::Int(value(moved)));
    }
}

/// What the group moved, and for the root group what the disks say of those it has no line for.
fn io(at: &mut At<'_>, value: impl Fn(&IoDevice) -> Option<Value>, disk: impl Fn(&Disk) -> Value) {
    let mut written = Vec::new();
    for moved in &at.row.sample.io {
        if let Some(value) = value(moved) {
            let name = device(at.of.device(moved.major, moved.minor));
            at.with(&[("device", &name)], value);
            written.push((moved.major, moved.minor));
        }
    }
    if at.row.subject.kind != Kind::Root {
        return;
    }
    let generation = at.of;
    for filesystem in &generation.filesystems {
        let number = (filesystem.mount.major, filesystem.mount.minor);
        if let Some(found) = generation.device(number.0, number.1)
            && !written.contains(&number)
        {
            at.with(&[("device", &filesystem.mount.device)], disk(found));
        }
    }
}

fn cost(at: &mut At<'_>, value: impl Fn(&IoCost) -> u64) {
    for moved in &at.row.sample.io {
        if let Some(cost) = &moved.cost {
            let name = device(at.of.device(moved.major, moved.minor));
            at.with(&[("device", &name)], Value::Micros(value(cost)));
        }
    }
}

fn blkio(at: &mut At<'_>) {
    for moved in &at.row.sample.io {
        let name = device(at.of.device(moved.major, moved.minor));
        let (major, minor) = (moved.major.to_string(), moved.minor.to_string());
        for (operation, bytes) in [("Read", moved.read_bytes), ("Write", moved.written_bytes)] {
            let more = [
                ("device", name.as_str()),
                ("major", &major),
                ("minor", &minor),
                ("operation", operation),
            ];
            at.with(&more, Value::Int(bytes));
        }
    }
}

fn filesystems(at: &mut At<'_>, value: impl Fn(&Filesystem) -> u64) {
    if at.row.subject.kind != Kind::Root {
        return;
    }
    for filesystem in &at.of.filesystems {
        at.with(
            &[("device", &filesystem.mount.device)],
            Value::Int(value(filesystem)),
        );
    }
}

fn network(at: &mut At<'_>, value: impl Fn(&Interface) -> u64) {
    for interface in at.row.network.iter().flatten() {
        at.with(
            &[("interface", &interface.name)],
            Value::Int(value(interface)),
        );
    }
}

fn pressure(at: &mut At<'_>, psi: Option<Psi>, usec: impl Fn(&Psi) -> Option<u64>) {
    if let Some(psi) = psi {
        at.value(Value::Micros(usec(&psi).unwrap_or(0)));
    }
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
    } else if at.row.sample.memory.is_some() {
        // Without swap accounting there is no swap in a container.
        let used = at.row.sample.memory.and_then(|m| m.swap).unwrap_or(0);
        at.value(Value::Int(used));
    }
}

/// No limit is 0 there.
fn plain(limit: Limit) -> u64 {
    match limit {
        Limit::Max => 0,
        Limit::At(n) => n,
    }
}

fn limit(at: &mut At<'_>, of: impl Fn(&Limits) -> Option<Limit>) {
    if let Some(limit) = of(&at.row.sample.limits) {
        at.setting(Value::Int(plain(limit)));
    }
}

fn memory_limit(at: &mut At<'_>) {
    match at.row.subject.kind {
        Kind::Root => at.setting(Value::Int(at.of.memory.total)),
        _ => limit(at, |l| l.memory),
    }
}

fn swap_limit(at: &mut At<'_>) {
    match at.row.subject.kind {
        Kind::Root => at.setting(Value::Int(at.of.memory.swap_total)),
        _ => limit(at, |l| l.swap),
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

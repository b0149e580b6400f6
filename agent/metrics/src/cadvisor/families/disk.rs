//! `io.stat`, `diskstats` and sizes of filesystems, by device.
//!
//! A tmpfs has no disk that could do anything: its rows are 0, as upstream's.
//! cgroup v2 counts bytes and requests of a group. All else (merges, times, sectors) the kernel counts of whole disks only, so that those
//! families have the node's row alone, as upstream's have.

use super::{At, Family, counter, gauge};
use crate::cgroup::{IoCost, IoDevice};
use crate::disk::Disk;
use crate::expo::Value;
use crate::sample::Filesystem;
use crate::subject::Kind;

pub(super) static FAMILIES: &[Family] = &[
    counter(
        "container_blkio_device_usage_total",
        "Bytes moved to and from the device, by operation.",
        blkio,
    ),
    gauge(
        "container_fs_inodes_free",
        "Inodes that are left on the filesystem.",
        |at| filesystems(at, |f| f.inodes_free),
    ),
    gauge(
        "container_fs_inodes_total",
        "Inodes of the filesystem, free and in use.",
        |at| filesystems(at, |f| f.inodes),
    ),
    counter(
        "container_fs_io_cost_indebt_seconds_total",
        "Time spent in debt to the iocost controller, in seconds.",
        |at| cost(at, |c| c.indebt),
    ),
    counter(
        "container_fs_io_cost_indelay_seconds_total",
        "Time spent delayed by the iocost controller, in seconds.",
        |at| cost(at, |c| c.indelay),
    ),
    counter(
        "container_fs_io_cost_usage_seconds_total",
        "Device time used by the account of the iocost controller, in seconds.",
        |at| cost(at, |c| c.usage),
    ),
    counter(
        "container_fs_io_cost_wait_seconds_total",
        "Time waited for the iocost controller, in seconds.",
        |at| cost(at, |c| c.wait),
    ),
    gauge(
        "container_fs_io_current",
        "Requests that the device is working on.",
        |at| disks(at, |d| Value::Int(d.in_progress)),
    ),
    counter(
        "container_fs_io_time_seconds_total",
        "Time in which the device had something to do, in seconds.",
        |at| disks(at, |d| Value::Millis(d.busy_ms)),
    ),
    counter(
        "container_fs_io_time_weighted_seconds_total",
        "Time in which the device had something to do, times the requests under way, in seconds.",
        |at| disks(at, |d| Value::Millis(d.weighted_ms)),
    ),
    gauge(
        "container_fs_limit_bytes",
        "Size of the filesystem.",
        |at| filesystems(at, |f| f.total),
    ),
    counter(
        "container_fs_read_seconds_total",
        "Time that reads took, added up, in seconds.",
        |at| disks(at, |d| Value::Millis(d.reads.ms)),
    ),
    counter(
        "container_fs_reads_bytes_total",
        "Bytes read from the device.",
        |at| moved(at, |d| d.read_bytes),
    ),
    counter(
        "container_fs_reads_merged_total",
        "Reads that were joined with others before they reached the device.",
        |at| disks(at, |d| Value::Int(d.reads.merged)),
    ),
    counter(
        "container_fs_reads_total",
        "Reads that the device has completed.",
        |at| requests(at, |d| d.reads, |d| d.reads.completed),
    ),
    counter(
        "container_fs_sector_reads_total",
        "Sectors of 512 bytes read from the device.",
        |at| disks(at, |d| Value::Int(d.reads.sectors)),
    ),
    counter(
        "container_fs_sector_writes_total",
        "Sectors of 512 bytes written to the device.",
        |at| disks(at, |d| Value::Int(d.writes.sectors)),
    ),
    gauge(
        "container_fs_usage_bytes",
        "Bytes in use on the filesystem, by whomever.",
        |at| filesystems(at, |f| f.total.saturating_sub(f.free)),
    ),
    counter(
        "container_fs_write_seconds_total",
        "Time that writes took, added up, in seconds.",
        |at| disks(at, |d| Value::Millis(d.writes.ms)),
    ),
    counter(
        "container_fs_writes_bytes_total",
        "Bytes written to the device.",
        |at| moved(at, |d| d.written_bytes),
    ),
    counter(
        "container_fs_writes_merged_total",
        "Writes that were joined with others before they reached the device.",
        |at| disks(at, |d| Value::Int(d.writes.merged)),
    ),
    counter(
        "container_fs_writes_total",
        "Writes that the device has completed.",
        |at| requests(at, |d| d.writes, |d| d.writes.completed),
    ),
];

/// The `device` label. A device without a name in `diskstats` is called by its number, for two of them must not become one series.
fn device(at: &At<'_>, moved: &IoDevice) -> String {
    match at.of.device(moved.major, moved.minor) {
        Some(disk) => format!("/dev/{}", disk.name),
        None => format!("{}:{}", moved.major, moved.minor),
    }
}

/// What the group moved.
fn moved(at: &mut At<'_>, value: impl Fn(&IoDevice) -> u64) {
    for moved in &at.row.sample.io {
        let name = device(at, moved);
        at.with(&[("device", &name)], Value::Int(value(moved)));
    }
}

/// What the group did, and for the node what the disks say of those it has no line for.
fn requests(at: &mut At<'_>, value: impl Fn(&IoDevice) -> u64, disk: impl Fn(&Disk) -> u64) {
    moved(at, value);
    let io = &at.row.sample.io;
    for (filesystem, found) in of_node(at) {
        let mount = &filesystem.mount;
        let written = io
            .iter()
            .any(|d| (d.major, d.minor) == (mount.major, mount.minor));
        if !written {
            let device = &filesystem.mount.device;
            at.with(&[("device", device)], Value::Int(disk(found)));
        }
    }
}

/// What the disks say, on the node's row.
fn disks(at: &mut At<'_>, value: impl Fn(&Disk) -> Value) {
    for (filesystem, found) in of_node(at) {
        at.with(&[("device", &filesystem.mount.device)], value(found));
    }
}

/// What a tmpfs has below it.
static NO_DISK: std::sync::LazyLock<Disk> = std::sync::LazyLock::new(Disk::default);

/// The disks below the node's filesystems, on the node's row.
fn of_node<'a>(at: &At<'a>) -> impl Iterator<Item = (&'a Filesystem, &'a Disk)> + use<'a> {
    let (of, is_node) = (at.of, at.row.subject.kind == Kind::Root);
    let filesystems = of.filesystems.iter().filter(move |_| is_node);
    filesystems.filter_map(|f| {
        let disk = of.device(f.mount.major, f.mount.minor);
        // A tmpfs is called by where it is mounted.
        let none = (f.mount.device == f.mount.path).then_some(&*NO_DISK);
        Some((f, disk.or(none)?))
    })
}

fn cost(at: &mut At<'_>, value: impl Fn(&IoCost) -> Option<u64>) {
    for moved in &at.row.sample.io {
        if let Some(usec) = value(&moved.cost) {
            let name = device(at, moved);
            at.with(&[("device", &name)], Value::Micros(usec));
        }
    }
}

fn blkio(at: &mut At<'_>) {
    for moved in &at.row.sample.io {
        let name = device(at, moved);
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

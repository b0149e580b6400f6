//! Looking at the machine: what the plans want to know.
//!
//! In: files, devices, the mount table. Out: plain values. What cannot be read is absent; the plans decide what that means.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use kedge_machine::paths;
use kedge_sys::block::{self, Volume};
use kedge_sys::{mount, node, time};

use crate::plan::{Base, LAST_SHUTDOWN, Settle};

/// How long disks may take to appear after their drivers are loaded.
pub const DISK_PATIENCE: Duration = Duration::from_secs(10);

/// How often to look. There is no event to wait for without udev, and looking costs a directory and a few blocks.
const LOOK: Duration = Duration::from_millis(50);

/// A text file, if it is there.
pub fn text(path: &str) -> Option<String> {
    std::fs::read(path)
        .ok()
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// A load list: one path per line, `#` for comments.
pub fn modules(list: &str) -> Vec<String> {
    let text = text(list).unwrap_or_default();
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

/// Looks at the volumes until `enough` says so or patience ends; gives the last look.
pub fn wait_for_volumes(enough: impl Fn(&[Volume]) -> bool) -> Vec<Volume> {
    let deadline = time::now().mono + DISK_PATIENCE;
    loop {
        // Until sysfs is mounted and a driver is loaded there may be nothing to list.
        let volumes = block::volumes().unwrap_or_default();
        if enough(&volumes) || time::now().mono >= deadline {
            return volumes;
        }
        node::pause_for(LOOK);
    }
}

/// Waits until a device node exists, as long as for volumes.
pub fn wait_for_device(path: &str) -> bool {
    let deadline = time::now().mono + DISK_PATIENCE;
    while !Path::new(path).exists() {
        if time::now().mono >= deadline {
            return false;
        }
        node::pause_for(LOOK);
    }
    true
}

/// Facts for [`crate::plan::base`].
pub fn base() -> Base {
    let mounts = mount::list().unwrap_or_default();
    let targets: BTreeSet<String> = mounts
        .iter()
        .map(|m| m.target.display().to_string())
        .collect();
    Base {
        mounted: targets,
        modules: modules(paths::MODULES),
    }
}

/// The disk that the root is on, `vda`.
pub fn root_disk() -> Option<String> {
    let device = device_at("/")?;
    Some(block::disk_of(device.strip_prefix("/dev/")?))
}

/// The device mounted at a path; None for a file system in memory.
pub fn device_at(path: &str) -> Option<String> {
    let mounts = mount::list().ok()?;
    // The last mount on a path is the one that shows.
    let top = mounts.iter().rev().find(|m| m.target == Path::new(path))?;
    let source = top.source.to_str()?;
    source.starts_with("/dev/").then(|| source.to_owned())
}

/// Facts for [`crate::plan::settle`].
pub fn settle() -> Settle {
    let written = std::fs::metadata(paths::STATE_CLOCK).ok();
    Settle {
        wall: time::now().wall,
        build_stamp: text(paths::BUILD_STAMP),
        state_clock: text(paths::STATE_CLOCK),
        state_clock_written: written.and_then(|m| u64::try_from(m.mtime()).ok()),
        machine_id: text(paths::STATE_MACHINE_ID),
        random: node::random().unwrap_or_default(),
        last_shutdown: Path::new(LAST_SHUTDOWN).exists(),
    }
}

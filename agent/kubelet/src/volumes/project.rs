//! Use of disk-backed emptyDirs by project quota: the kernel counts as it allocates, so nobody has to walk.
//!
//! In: a new volume's directory, later its path. Out: a project for it ([`Projects::assign`]), bytes and inodes ([`counted`]).
//! [`kedge_pods::project`] says how ids are chosen and why no file remembers them.
//!
//! # What it is for, and what not
//!
//! - It counts and does not limit. A hard limit would turn `sizeLimit` into `ENOSPC` inside the pod, where upstream's users get an eviction
//!   with a message (upstream's own use of projects is called monitoring for that reason).
//! - A count is a hint, not evidence: whoever owns a file may give it to any project, no capability asked, as long as it lives in the
//!   host's user namespace (`fileattr_set_prepare` in the kernel). A pod can make its own count too small, and
//!   a neighbour's too large. For this upstream counts by project only pods in a user namespace of their own. So no pod is evicted by
//!   a count alone, and none escapes for long: see [`crate::limits`].
//! - Where there are no project quotas (a DATA made without the feature, memory in its place), where ids run out or the kernel refuses, the
//!   volume works as ever and is walked.
//!
//! # What a pod can notice
//!
//! A hard link or rename from outside the project into the directory fails with `EXDEV`. Between two mounts, and two emptyDirs, or two
//! subPaths of one, are two mounts in a container, it did so before. Payload volumes and tmpfs have no project. What runs on the host
//! through a hostPath of the kubelet's directory can notice it: it copies, as `mv` does.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use kedge_pods::project::{self, Verdict};
use kedge_pods::volume::{Medium, Volume, VolumePlan};
use kedge_sys::project::{Directory, is_absent};

/// Gives projects to volumes. One per node: between choosing an id and its first use no other volume may choose.
#[derive(Debug, Default)]
pub struct Projects {
    choosing: Mutex<()>,
    /// That there are none has been said.
    said: AtomicBool,
}

impl Projects {
    /// Gives a disk-backed emptyDir that was just made a project, if it has none. Blocks. A failure is said and costs nothing but walks.
    pub fn assign(&self, volume: &Volume) {
        let disk = matches!(
            volume.plan,
            VolumePlan::EmptyDir {
                medium: Medium::Disk,
                ..
            }
        );
        if !disk {
            return;
        }
        match self.try_assign(&volume.path) {
            Ok(()) => {}
            Err(Refused::Kernel(error)) if is_absent(&error) => {
                if !self.said.swap(true, Ordering::Relaxed) {
                    tracing::info!(%error, "no project quotas here: use of emptyDirs is measured by walking them");
                }
            }
            Err(refused) => {
                tracing::warn!(volume = volume.name, %refused, "this emptyDir is measured by walking it");
            }
        }
    }

    fn try_assign(&self, path: &Path) -> Result<(), Refused> {
        let directory = Directory::open(path)?;
        let id = directory.project()?.id;
        match project::judge(id, directory.is_empty()?) {
            Verdict::Has => return Ok(()),
            Verdict::Assign => {}
            Verdict::Foreign => return Err(Refused::Foreign(path.display().to_string(), id)),
            Verdict::Filled => return Err(Refused::Filled(path.display().to_string())),
        }
        let _choosing = self.choosing.lock().unwrap_or_else(PoisonError::into_inner);
        let in_use = in_use(&directory)?;
        let seed = project::seed(&path.to_string_lossy());
        let id = project::choose(seed, &in_use).ok_or(Refused::Full)?;
        Ok(directory.set_project(id)?)
    }
}

/// Why a volume has no project.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Kernel(#[from] kedge_sys::Error),
    #[error("{0} belongs to project {1}, which is not one of ours")]
    Foreign(String, u32),
    #[error("{0} has files from before it could get a project")]
    Filled(String),
    #[error("all {} project ids are in use", project::COUNT)]
    Full,
}

/// Ids of our range that something is charged to, or that have limits.
fn in_use(directory: &Directory) -> kedge_sys::Result<BTreeSet<u32>> {
    let mut in_use = BTreeSet::new();
    let mut from = project::FIRST;
    while let Some((id, usage)) = directory.next(from)? {
        // The kernel answers with ids from `from` on; anything else would never end.
        if !project::is_ours(id) || id < from {
            break;
        }
        if usage.inodes > 0 || usage.bytes > 0 || usage.limited {
            in_use.insert(id);
        }
        from = id + 1;
    }
    Ok(in_use)
}

/// Bytes and inodes of a volume as the kernel counted them, now; `None` where it must be walked. Touches nothing that is mounted
/// at `path`. Blocks for no longer than a read of its file system.
pub fn counted(path: &Path) -> Option<(u64, u64)> {
    let directory = Directory::open(path).ok()?;
    let of = directory.project().ok()?;
    if !of.inherits || !project::is_ours(of.id) {
        return None;
    }
    let usage = directory.usage(of.id).ok()?;
    // The directory itself is charged: a count of nothing is no count.
    (usage.inodes > 0).then_some((usage.bytes, usage.inodes))
}

/// Bytes and inodes of a volume: counted by the kernel, else by walking it.
pub fn usage(path: &Path) -> kedge_sys::Result<(u64, u64)> {
    counted(path).map_or_else(|| kedge_sys::fs::disk_usage(path), Ok)
}

#[cfg(test)]
mod tests;

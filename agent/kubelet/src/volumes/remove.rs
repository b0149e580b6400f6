//! Taking a pod's volumes and directories away, also those of pods that this agent never knew.

use std::path::{Path, PathBuf};

use kedge_sys::mount;

/// Whether the pod's directory exists.
pub fn leftovers(pod_dir: &Path) -> bool {
    pod_dir.exists()
}

/// Unmounts everything below the pod's directory and removes it. A mount that does not go is an error and the directory
/// stays: removing through it would delete what it shows.
pub fn remove_pod(pod_dir: &Path) -> Result<(), kedge_sys::Error> {
    unmount_below(pod_dir)?;
    kedge_sys::fs::remove_tree(pod_dir)
}

/// Unmounts `root` and everything below it, deepest first.
pub fn unmount_below(root: &Path) -> Result<(), kedge_sys::Error> {
    let mut targets: Vec<PathBuf> = mount::list()?
        .into_iter()
        .map(|m| m.target)
        .filter(|target| target.starts_with(root))
        .collect();
    // The table lists a mount after the one it hangs on, so the reverse unmounts the topmost of a stack first.
    targets.reverse();
    targets.sort_by_key(|target| std::cmp::Reverse(target.components().count()));
    for target in targets {
        match mount::umount(&target) {
            Ok(()) => {}
            // No container of the pod runs any more: whoever keeps it busy (a stray process of the host) must not
            // keep the pod from ending.
            Err(error) if error.errno() == Some(EBUSY) => mount::umount_lazy(&target)?,
            Err(error) if error.errno() == Some(EINVAL) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

const EBUSY: i32 = 16;
/// Not a mount any more.
const EINVAL: i32 = 22;

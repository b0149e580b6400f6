//! Taking a pod's volumes and directories away, also those of pods that this agent never knew.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kedge_sys::mount;
use tokio::time::Instant;

/// Whether the pod's directory exists.
pub fn leftovers(pod_dir: &Path) -> bool {
    pod_dir.exists()
}

/// Unmounts everything below the pod's directory and removes it. A mount that does not go is an error and the directory
/// stays: removing through it would delete what it shows. Tells of every volume that is taken away, or cannot be, with its plugin.
pub fn remove_pod(
    pod_dir: &Path,
    mut removed: impl FnMut(&str, bool, Duration),
) -> Result<(), kedge_sys::Error> {
    let began = Instant::now();
    // All of them before anything is removed: what looks like a volume may lie beyond a mount.
    let unmounted = unmount_below(pod_dir);
    for (plugin, path) in volumes_in(pod_dir) {
        let gone = unmounted.is_ok().then(|| kedge_sys::fs::remove_tree(&path));
        removed(&plugin, matches!(gone, Some(Ok(()))), began.elapsed());
        gone.transpose()?;
    }
    unmounted?;
    kedge_sys::fs::remove_tree(pod_dir)
}

/// `volumes/<plugin>/<name>`, with upstream's name of the plugin.
fn volumes_in(pod_dir: &Path) -> Vec<(String, PathBuf)> {
    let inside = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
    let plugins = inside(&pod_dir.join("volumes"));
    let volumes = plugins.flat_map(|plugin| {
        let name = plugin.file_name().to_string_lossy().replace('~', "/");
        let volumes = inside(&plugin.path()).filter(|v| v.file_type().is_ok_and(|t| t.is_dir()));
        volumes.map(move |volume| (name.clone(), volume.path()))
    });
    volumes.collect()
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

//! Taking a pod's volumes and directories away, also those of pods that this agent never knew.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kedge_sys::mount;
use tokio::time::Instant;

/// Whether the pod's directory exists.
pub fn leftovers(pod_dir: &Path) -> bool {
    pod_dir.exists()
}

/// Unmounts everything below the pod's directory and removes it. A mount that does not go is an error, and what it hangs on
/// stays: removing through it would delete what it shows. Tells of every volume that is taken away, or cannot be, with its plugin.
pub fn remove_pod(
    pod_dir: &Path,
    removed: impl FnMut(&str, bool, Duration),
) -> Result<(), kedge_sys::Error> {
    // All of them before anything is removed: what looks like a volume may lie beyond a mount.
    remove(pod_dir, unmount_each(pod_dir)?, removed)
}

fn remove(
    pod_dir: &Path,
    mounts: Vec<Unmounted>,
    mut removed: impl FnMut(&str, bool, Duration),
) -> Result<(), kedge_sys::Error> {
    let mut first = None;
    for (plugin, path) in volumes_in(pod_dir) {
        let began = Instant::now();
        let stays = mounts.iter().any(|mount| mount.holds(&path));
        let gone = (!stays).then(|| kedge_sys::fs::remove_tree(&path));
        let inside = mounts.iter().filter(|m| m.target.starts_with(&path));
        let unmounting: Duration = inside.map(|m| m.took).sum();
        let done = matches!(gone, Some(Ok(())));
        removed(&plugin, done, unmounting + began.elapsed());
        first = first.or(gone.and_then(Result::err));
    }
    let stuck = mounts.into_iter().find_map(|mount| mount.result.err());
    match stuck.or(first) {
        Some(error) => Err(error),
        None => kedge_sys::fs::remove_tree(pod_dir),
    }
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

/// What became of a mount.
struct Unmounted {
    target: PathBuf,
    took: Duration,
    result: Result<(), kedge_sys::Error>,
}

impl Unmounted {
    /// It stayed, in the volume or above it.
    fn holds(&self, volume: &Path) -> bool {
        self.result.is_err()
            && (self.target.starts_with(volume) || volume.starts_with(&self.target))
    }
}

/// Unmounts `root` and everything below it, deepest first.
pub fn unmount_below(root: &Path) -> Result<(), kedge_sys::Error> {
    let mut each = unmount_each(root)?.into_iter();
    each.try_for_each(|mount| mount.result)
}

/// One that does not go keeps no other.
fn unmount_each(root: &Path) -> Result<Vec<Unmounted>, kedge_sys::Error> {
    let mut targets: Vec<PathBuf> = mount::list()?
        .into_iter()
        .map(|m| m.target)
        .filter(|target| target.starts_with(root))
        .collect();
    // The table lists a mount after the one it hangs on, so the reverse unmounts the topmost of a stack first.
    targets.reverse();
    targets.sort_by_key(|target| std::cmp::Reverse(target.components().count()));
    let each = targets.into_iter().map(|target| {
        let began = Instant::now();
        let result = unmount(&target);
        Unmounted {
            target,
            took: began.elapsed(),
            result,
        }
    });
    Ok(each.collect())
}

fn unmount(target: &Path) -> Result<(), kedge_sys::Error> {
    match mount::umount(target) {
        // No container of the pod runs any more: whoever keeps it busy (a stray process of the host) must not
        // keep the pod from ending.
        Err(error) if error.errno() == Some(EBUSY) => mount::umount_lazy(target),
        Err(error) if error.errno() == Some(EINVAL) => Ok(()),
        result => result,
    }
}

const EBUSY: i32 = 16;
/// Not a mount any more.
const EINVAL: i32 = 22;

#[cfg(test)]
mod tests {
    use super::*;

    /// One slow mount made every volume of its pod look slow, and one that stayed made all of them fail.
    #[test]
    fn a_mount_counts_for_its_own_volume() {
        let pod = std::env::temp_dir().join(format!("kedge-remove-{}", std::process::id()));
        let at = |name: &str| pod.join("volumes").join(name);
        let volumes = ["a~slow/v", "b~stuck/v", "c~plain/v"];
        for volume in volumes {
            std::fs::create_dir_all(at(volume).join("sub")).unwrap();
        }
        let errno = std::io::Error::from_raw_os_error(5);
        let failed = kedge_sys::Error::new("unmount", "v", errno);
        let mounts = [
            (at(volumes[0]), 40, Ok(())),
            (at(volumes[1]).join("sub"), 50, Err(failed)),
        ];
        let mounts = mounts.map(|(target, seconds, result)| Unmounted {
            target,
            took: Duration::from_secs(seconds),
            result,
        });
        let mut told = Vec::new();
        let tell = |plugin: &str, done, took: Duration| {
            told.push((plugin.to_owned(), done, took.as_secs() / 10));
        };
        remove(&pod, mounts.into(), tell).unwrap_err();
        told.sort();
        let wanted = [
            ("a/slow", true, 4),
            ("b/stuck", false, 5),
            ("c/plain", true, 0),
        ];
        assert_eq!(
            told,
            wanted.map(|(p, done, took)| (p.to_owned(), done, took))
        );
        let there = volumes.map(|volume| at(volume).exists());
        assert_eq!(there, [false, true, false]);
        remove_pod(&pod, |_, _, _| {}).unwrap();
    }
}

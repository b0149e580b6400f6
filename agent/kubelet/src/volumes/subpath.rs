//! `subPath` mounts: a place inside a volume, held fast while the runtime mounts it.
//!
//! The place is opened without leaving the volume, then bound from the open descriptor to a path of our own; the
//! runtime mounts that path. A container that swaps a directory for a symlink meanwhile changes nothing.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use kedge_pods::spec::container::SubPath;
use kedge_sys::{fs, mount};

/// Binds one sub-path and answers where. `index` is the mount's place in the container.
pub fn bind(pod_dir: &Path, container: &str, sub: &SubPath) -> Result<PathBuf, kedge_sys::Error> {
    let target = directory(pod_dir, container).join(sub.mount.to_string());
    let source = open(sub)?;
    let kind = std::fs::metadata(fs::path_of(&source))
        .map_err(|e| kedge_sys::Error::new("look at", sub.sub_path.clone(), e))?;
    // A bind that an earlier instance left may show another place.
    unmount(&target)?;
    if kind.is_dir() {
        fs::create_directory(&target, 0o750)?;
    } else {
        fs::create_directory(directory(pod_dir, container), 0o750)?;
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&target)
            .map_err(|e| kedge_sys::Error::new("create", target.display().to_string(), e))?;
    }
    mount::bind(fs::path_of(&source), &target, true)?;
    Ok(target)
}

/// Takes all sub-path binds of a container away.
pub fn release(pod_dir: &Path, container: &str) -> Result<(), kedge_sys::Error> {
    let root = directory(pod_dir, container);
    super::unmount_below(&root)?;
    fs::remove_tree(&root)
}

fn open(sub: &SubPath) -> Result<OwnedFd, kedge_sys::Error> {
    if !sub.create {
        return fs::open_below(&sub.volume_path, &sub.sub_path);
    }
    match fs::open_below(&sub.volume_path, &sub.sub_path) {
        Err(error) if error.errno() == Some(ENOENT) => {
            fs::create_below(&sub.volume_path, &sub.sub_path, root_mode(&sub.volume_path))
        }
        other => other,
    }
}

const ENOENT: i32 = 2;

fn root_mode(volume: &str) -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(volume).map_or(0o755, |m| m.mode() & 0o7777)
}

fn unmount(target: &Path) -> Result<(), kedge_sys::Error> {
    while super::is_mounted(target)? {
        mount::umount_lazy(target)?;
    }
    Ok(())
}

fn directory(pod_dir: &Path, container: &str) -> PathBuf {
    pod_dir.join("volume-subpaths").join(container)
}

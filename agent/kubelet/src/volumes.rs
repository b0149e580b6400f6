//! Volumes on the host: made from plans, kept up to date, taken away.
//!
//! In: [`Volume`] plans. Out: directories, mounts and files below the pod's directory. Every function blocks and belongs on
//! [`crate::lanes`]. All are safe to run again after a crash half-way.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use kedge_pods::volume::{FsGroup, HostPathType, Medium, Volume, VolumePlan};
use kedge_sys::mount;

mod payload;
mod project;
mod remove;
mod subpath;

pub use payload::{PayloadFile, write as write_payload};
pub use project::{Projects, counted, usage};
pub use remove::{leftovers, remove_pod, unmount_below};
pub use subpath::{bind as bind_sub_path, release as release_sub_paths};

/// Why a volume cannot be made; names volume and path.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("volume {0}: {1}")]
    Kernel(String, kedge_sys::Error),
    #[error("volume {0}: {1}: {2}")]
    Io(String, String, std::io::Error),
    #[error("volume {0}: hostPath type check failed: {1} is not {2}")]
    WrongKind(String, String, &'static str),
    #[error("volume {0}: {1}")]
    Unsupported(String, String),
}

/// How volumes are made on this node.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Secret material lives on a tmpfs of its own. Off only where nothing can be mounted (unit tests).
    pub tmpfs: bool,
}

/// Makes one volume; payload files are written by [`write_payload`] once their tokens are there.
pub fn make(volume: &Volume, options: Options) -> Result<(), Error> {
    match &volume.plan {
        VolumePlan::EmptyDir { medium, mode, .. } => empty_dir(volume, *medium, *mode, options),
        VolumePlan::HostPath { path, kind } => host_path(volume, path, *kind),
        // The runtime mounts it.
        VolumePlan::Image { .. } => Ok(()),
        VolumePlan::Files { source, .. } => {
            directory(volume, 0o777)?;
            if source.in_memory() && options.tmpfs {
                tmpfs(volume, "mode=0777")?;
            }
            Ok(())
        }
    }
}

/// Applies `fsGroup` once the volume has its content.
pub fn apply_fs_group(volume: &Volume) -> Result<(), Error> {
    let Some(FsGroup {
        gid,
        only_on_root_mismatch,
    }) = volume.fs_group
    else {
        return Ok(());
    };
    if only_on_root_mismatch && root_matches(&volume.path, gid) {
        return Ok(());
    }
    // Payload volumes are read-only for containers; their files need no group write.
    let read_only = matches!(volume.plan, VolumePlan::Files { .. });
    kedge_sys::fs::set_group(&volume.path, gid, read_only)
        .map_err(|error| Error::Kernel(volume.name.clone(), error))
}

fn root_matches(path: &Path, gid: u32) -> bool {
    fs::metadata(path).is_ok_and(|m| m.gid() == gid && m.mode() & 0o2070 == 0o2070)
}

fn directory(volume: &Volume, mode: u32) -> Result<(), Error> {
    kedge_sys::fs::create_directory(&volume.path, mode)
        .map_err(|error| Error::Kernel(volume.name.clone(), error))
}

fn empty_dir(volume: &Volume, medium: Medium, mode: u32, options: Options) -> Result<(), Error> {
    directory(volume, mode)?;
    match medium {
        Medium::Disk => Ok(()),
        Medium::Memory { .. } if !options.tmpfs => Ok(()),
        Medium::Memory { size: 0 } => tmpfs(volume, &format!("mode={mode:o}")),
        Medium::Memory { size } => tmpfs(volume, &format!("mode={mode:o},size={size}")),
        Medium::HugePages { page_size } => {
            let data = format!("mode={mode:o},pagesize={page_size}");
            mount_once(volume, "hugetlbfs", &data)
        }
    }
}

fn tmpfs(volume: &Volume, data: &str) -> Result<(), Error> {
    mount_once(volume, "tmpfs", data)
}

fn mount_once(volume: &Volume, fstype: &str, data: &str) -> Result<(), Error> {
    let failed = |error| Error::Kernel(volume.name.clone(), error);
    if is_mounted(&volume.path).map_err(failed)? {
        return Ok(());
    }
    let flags = mount::Flags::MS_NOSUID | mount::Flags::MS_NODEV;
    mount::mount(fstype, &volume.path, fstype, flags, data).map_err(failed)
}

/// Whether something is mounted exactly there.
pub fn is_mounted(path: &Path) -> Result<bool, kedge_sys::Error> {
    Ok(mount::list()?.iter().any(|m| m.target == path))
}

fn host_path(volume: &Volume, path: &Path, kind: HostPathType) -> Result<(), Error> {
    let io = |what: &str, error| {
        Error::Io(
            volume.name.clone(),
            format!("{what} {}", path.display()),
            error,
        )
    };
    match kind {
        HostPathType::Unset => return Ok(()),
        HostPathType::DirectoryOrCreate if !path.exists() => {
            fs::create_dir_all(path).map_err(|e| io("create", e))?;
            let permissions = fs::Permissions::from_mode(0o755);
            fs::set_permissions(path, permissions).map_err(|e| io("set mode of", e))?;
        }
        HostPathType::FileOrCreate if !path.exists() => {
            // As upstream: the parent must be there already.
            let file = fs::File::create(path).map_err(|e| io("create", e))?;
            let permissions = fs::Permissions::from_mode(0o644);
            file.set_permissions(permissions)
                .map_err(|e| io("set mode of", e))?;
        }
        _ => {}
    }
    let kind_of = fs::metadata(path)
        .map_err(|e| io("look at", e))?
        .file_type();
    let (fits, word) = match kind {
        HostPathType::Unset => (true, "anything"),
        HostPathType::DirectoryOrCreate | HostPathType::Directory => {
            (kind_of.is_dir(), "a directory")
        }
        HostPathType::FileOrCreate | HostPathType::File => (kind_of.is_file(), "a file"),
        HostPathType::Socket => (kind_of.is_socket(), "a socket"),
        HostPathType::CharDevice => (kind_of.is_char_device(), "a character device"),
        HostPathType::BlockDevice => (kind_of.is_block_device(), "a block device"),
    };
    if fits {
        Ok(())
    } else {
        let path: PathBuf = path.into();
        Err(Error::WrongKind(
            volume.name.clone(),
            path.display().to_string(),
            word,
        ))
    }
}

#[cfg(test)]
mod tests;

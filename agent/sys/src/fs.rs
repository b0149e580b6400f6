//! Files and directories where `std` is not enough: survives power cuts, does not follow symlinks out of a directory,
//! does not cross mounts.
//!
//! In: paths, modes, owners. Out: nothing, descriptors, or sizes. Absent: anything that knows what a file is for.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

use crate::{Error, Result};

mod walk;

pub use walk::{remove_tree, set_group};

/// Writes a file so that after a power cut there is either the old content or the new, never a part.
pub fn write_atomic(path: impl AsRef<Path>, content: &[u8], mode: u32) -> Result<()> {
    let path = path.as_ref();
    let temporary = beside(path);
    let failed = |error: std::io::Error| Error::new("write", show(path), error);
    let result = (|| {
        // A leftover of a crash may have another mode or be a symlink: start anew.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(content)?;
        // Once more, because the umask may have taken bits away.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()
    })();
    if let Err(error) = result {
        let _ = fs::remove_file(&temporary);
        return Err(failed(error));
    }
    replace(&temporary, path)
}

/// Renames `from` over `to` (same directory) and makes the new name survive a power cut.
pub fn replace(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    fs::rename(from, to)
        .map_err(|e| Error::new("rename", format!("{} to {}", show(from), show(to)), e))?;
    match to.parent() {
        Some(parent) => sync_directory(parent),
        None => Ok(()),
    }
}

/// Flushes a directory: names made, changed and removed in it survive a power cut.
pub fn sync_directory(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| Error::new("flush directory", show(path), e))
}

/// Makes a directory and its parents with exactly this mode on the last (not touched when it exists).
pub fn create_directory(path: impl AsRef<Path>, mode: u32) -> Result<()> {
    let path = path.as_ref();
    let failed = |error: std::io::Error| Error::new("create directory", show(path), error);
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    match fs::create_dir(path) {
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// A lock between processes on this node; released when dropped, also by the kernel when the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

/// Takes the lock file at `path`, waiting for it. Never call this on an event loop.
pub fn lock(path: impl AsRef<Path>) -> Result<Lock> {
    take(path.as_ref(), FlockArg::LockExclusive)
}

/// Takes the lock file if nobody holds it.
pub fn try_lock(path: impl AsRef<Path>) -> Result<Option<Lock>> {
    match take(path.as_ref(), FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if error.errno() == Some(libc::EWOULDBLOCK) => Ok(None),
        Err(error) => Err(error),
    }
}

fn take(path: &Path, how: FlockArg) -> Result<Lock> {
    let mut options = fs::OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|e| Error::new("open lock", show(path), e))?;
    Flock::lock(file, how)
        .map(|file| Lock { _file: file })
        .map_err(|(_, e)| Error::new("lock", show(path), e))
}

/// Opens `sub` below `root` without ever leaving `root`: `..` and symlinks may move within it, a step outside fails with
/// `EXDEV`. The descriptor (`O_PATH`) keeps meaning the same object however the tree is changed afterwards.
pub fn open_below(root: impl AsRef<Path>, sub: &str) -> Result<OwnedFd> {
    let root = root.as_ref();
    let base = open_root(root)?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let path = if sub.is_empty() { "." } else { sub };
    openat2(base.as_fd(), path, how)
        .map_err(|e| Error::new("open", format!("{sub} below {}", show(root)), e))
}

/// Makes the directories of `sub` that are missing below `root`, with [`open_below`]'s rules, and opens the last.
pub fn create_below(root: impl AsRef<Path>, sub: &str, mode: u32) -> Result<OwnedFd> {
    let root = root.as_ref();
    let mut so_far = PathBuf::new();
    for part in Path::new(sub).components() {
        let before = so_far.to_string_lossy().into_owned();
        so_far.push(part);
        let now = so_far.to_string_lossy().into_owned();
        match open_below(root, &now) {
            Ok(_) => continue,
            Err(error) if error.errno() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
        let parent = open_below(root, &before)?;
        let failed = |e: Errno| Error::new("create", format!("{now} below {}", show(root)), e);
        // mkdirat does not follow a symlink in the last place, and the parent is held open.
        match nix::sys::stat::mkdirat(
            parent.as_fd(),
            part.as_os_str(),
            Mode::from_bits_truncate(mode),
        ) {
            Ok(()) => {
                let made = format!("/proc/self/fd/{}", parent.as_raw_fd());
                let made = Path::new(&made).join(part);
                fs::set_permissions(&made, fs::Permissions::from_mode(mode))
                    .map_err(|e| Error::new("set mode of", show(&made), e))?;
            }
            Err(Errno::EEXIST) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    open_below(root, sub)
}

/// A path that means the open descriptor, for calls that only take paths (mount). Valid while `fd` is open.
pub fn path_of(fd: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn open_root(root: &Path) -> Result<File> {
    let mut options = fs::OpenOptions::new();
    options
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC)
        .open(root)
        .map_err(|e| Error::new("open directory", show(root), e))
}

/// Sizes of the filesystem that holds a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FsUsage {
    /// Bytes in all.
    pub total: u64,
    /// Free bytes, reserved ones included.
    pub free: u64,
    /// Bytes that ordinary processes can still use.
    pub available: u64,
    /// Inodes in all; 0 for filesystems without a fixed number.
    pub inodes: u64,
    /// Inodes left.
    pub inodes_free: u64,
}

/// Sizes of the filesystem that holds `path`.
pub fn usage(path: impl AsRef<Path>) -> Result<FsUsage> {
    let path = path.as_ref();
    let stat = nix::sys::statvfs::statvfs(path)
        .map_err(|e| Error::new("read filesystem sizes of", show(path), e))?;
    let fragment = stat.fragment_size() as u64;
    Ok(FsUsage {
        total: stat.blocks() as u64 * fragment,
        free: stat.blocks_free() as u64 * fragment,
        available: stat.blocks_available() as u64 * fragment,
        inodes: stat.files() as u64,
        inodes_free: stat.files_free() as u64,
    })
}

/// Bytes and inodes that a directory tree occupies, without what is mounted below it.
pub fn disk_usage(path: impl AsRef<Path>) -> Result<(u64, u64)> {
    walk::disk_usage(path.as_ref())
}

fn beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests;

//! Walks over directory trees by descriptor: a container that swaps a directory for a symlink meanwhile gains nothing, and
//! no walk enters another mount (`openat2` with `RESOLVE_NO_XDEV`, which bind mounts of the same filesystem trip too).

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstatat};
use nix::unistd::{Gid, UnlinkatFlags, fchownat, unlinkat};

use crate::{Error, Result};

/// Gives a tree to a group: every file and directory gets `gid` and group read permission (and write, unless
/// `read_only`), directories also search and the set-group-id bit, so that new files inherit the group.
/// Symlinks change owner, not what they point to.
pub fn set_group(root: impl AsRef<Path>, gid: u32, read_only: bool) -> Result<()> {
    let root = root.as_ref();
    let gid = Gid::from_raw(gid);
    let top = open_top(root)?;
    // The root by its own descriptor: "." of it.
    give(top.as_fd(), c".", gid, read_only).map_err(|e| failed("set group of", root, e))?;
    each(top, root, &mut |parent, name, _stat, path| {
        give(parent, name, gid, read_only).map_err(|e| failed("set group of", path, e))?;
        Ok(())
    })
}

fn give(
    parent: BorrowedFd<'_>,
    name: &CStr,
    gid: Gid,
    read_only: bool,
) -> std::result::Result<(), Errno> {
    let stat = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    fchownat(parent, name, None, Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let kind = stat.st_mode & SFlag::S_IFMT.bits();
    if kind == SFlag::S_IFLNK.bits() {
        return Ok(());
    }
    let mut mode = stat.st_mode & 0o7777;
    mode |= if read_only { 0o440 } else { 0o660 };
    if kind == SFlag::S_IFDIR.bits() {
        mode |= 0o2110;
    }
    // Between stat and here the name may have become a symlink; the caller holds volumes that no container uses yet,
    // and the kernel has no chmod that refuses symlinks before 6.6.
    fchmodat(
        parent,
        name,
        Mode::from_bits_truncate(mode),
        FchmodatFlags::FollowSymlink,
    )
}

/// Removes a tree, but nothing that is mounted below it: a mount found inside is an error (`EXDEV`), and what is on the way
/// to it stays. Absence is no error.
pub fn remove_tree(root: impl AsRef<Path>) -> Result<()> {
    let root = root.as_ref();
    let top = match open_top(root) {
        Ok(top) => top,
        Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(()),
        Err(error) if error.errno() == Some(libc::ENOTDIR) => {
            return std::fs::remove_file(root).map_err(|e| Error::new("remove", show(root), e));
        }
        Err(error) => return Err(error),
    };
    each(top, root, &mut |parent, name, stat, path| {
        let flag = if is_directory(stat) {
            UnlinkatFlags::RemoveDir
        } else {
            UnlinkatFlags::NoRemoveDir
        };
        unlinkat(parent, name, flag).map_err(|e| failed("remove", path, e))
    })?;
    match std::fs::remove_dir(root) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::new("remove", show(root), error))
        }
        _ => Ok(()),
    }
}

pub(super) fn disk_usage(root: &Path) -> Result<(u64, u64)> {
    let (mut bytes, mut inodes) = (0u64, 1u64);
    let top = match open_top(root) {
        Ok(top) => top,
        Err(error) if error.errno() == Some(libc::ENOENT) => return Ok((0, 0)),
        Err(error) => return Err(error),
    };
    let walked = each(top, root, &mut |_, _, stat, _| {
        // The kernel counts blocks in units of 512 bytes whatever the filesystem's block size.
        bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        inodes += 1;
        Ok(())
    });
    match walked {
        // Files come and go while a container runs; a vanished one occupies nothing.
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok((bytes, inodes)),
        Err(error) if error.errno() == Some(libc::EXDEV) => Ok((bytes, inodes)),
        Err(error) => Err(error),
        Ok(()) => Ok((bytes, inodes)),
    }
}

/// Calls `visit` for everything below an open directory, children before their parent.
fn each(
    top: OwnedFd,
    path: &Path,
    visit: &mut dyn FnMut(BorrowedFd<'_>, &CStr, &FileStat, &Path) -> Result<()>,
) -> Result<()> {
    let reading = top
        .try_clone()
        .map_err(|e| Error::new("open", show(path), e))?;
    let mut dir = Dir::from_fd(reading).map_err(|e| failed("read", path, e))?;
    // Names first: removing while reading may skip entries.
    let mut names: Vec<CString> = Vec::new();
    for entry in dir.iter() {
        let entry = entry.map_err(|e| failed("read", path, e))?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    for name in names {
        let below = path.join(name.to_string_lossy().as_ref());
        let stat = match fstatat(top.as_fd(), name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => continue,
            other => other.map_err(|e| failed("read", &below, e))?,
        };
        if is_directory(&stat) {
            let child = open_child(top.as_fd(), &name).map_err(|e| failed("enter", &below, e))?;
            each(child, &below, visit)?;
        }
        visit(top.as_fd(), &name, &stat, &below)?;
    }
    Ok(())
}

fn open_top(path: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    nix::fcntl::openat(AT_FDCWD, path, flags, Mode::empty())
        .map_err(|e| failed("open directory", path, e))
}

fn open_child(parent: BorrowedFd<'_>, name: &CStr) -> std::result::Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(parent, name, how)
}

fn is_directory(stat: &FileStat) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()
}

fn failed(operation: &'static str, path: &Path, errno: Errno) -> Error {
    Error::new(operation, show(path), errno)
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

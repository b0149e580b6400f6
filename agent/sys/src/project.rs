//! Project quotas: which project a directory belongs to, and what the kernel counted for a project.
//!
//! In: paths of directories, project ids. Out: ids, bytes and inodes as plain values. Absent: limits (nothing here makes a write
//! fail), user and group quotas, switching quotas on (the mount does that: ext4 with the features `quota` and `project`).
//!
//! Sources: `include/uapi/linux/fs.h` (`struct fsxattr`), `include/uapi/linux/quota.h` (`struct if_nextdqblk`), quotactl(2). `quotactl_fd`
//! (Linux 5.14) takes any descriptor on the file system, so that no block device needs to be named.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::dir::Dir;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::Mode;

use crate::{Error, Result};

/// What the kernel charged to a project.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on disk, those reserved for data that is still to be written included. A file with several names counts once.
    pub bytes: u64,
    /// Inodes, directories included.
    pub inodes: u64,
    /// Somebody set limits for it.
    pub limited: bool,
}

/// The project of a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Project {
    /// 0: none.
    pub id: u32,
    /// What is made in the directory gets the id too (`FS_XFLAG_PROJINHERIT`).
    pub inherits: bool,
}

/// Whether an error says that there are no project quotas here, rather than that something went wrong.
///
/// `ENOTTY` and `EOPNOTSUPP`: the file system knows no projects; `ENOSYS` and `EINVAL`: it has no project quotas, nor may the kernel;
/// `ESRCH`: it has, but they are not on.
pub fn is_absent(error: &Error) -> bool {
    matches!(
        error.errno(),
        Some(libc::ENOTTY | libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::ESRCH)
    )
}

/// A directory, held open for questions about its project and its file system.
#[derive(Debug)]
pub struct Directory {
    open: OwnedFd,
    path: String,
}

impl Directory {
    /// Opens a directory, but neither a symbolic link (`ENOTDIR`) nor what is mounted there (`EXDEV`, without touching it: a mount may hang).
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let shown = path.display().to_string();
        let failed = |e: nix::Error| Error::new("open directory", &shown, e);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(failed(nix::Error::EINVAL));
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let parent = openat(AT_FDCWD, parent, flags, Mode::empty()).map_err(failed)?;
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS);
        let open = openat2(parent.as_fd(), name, how).map_err(failed)?;
        Ok(Self { open, path: shown })
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> Result<bool> {
        let failed = |e: nix::Error| Error::new("read directory", &self.path, e);
        // A descriptor of its own: reading moves a position that copies share.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut dir = Dir::openat(self.open.as_fd(), c".", flags, Mode::empty()).map_err(failed)?;
        for entry in dir.iter() {
            let entry = entry.map_err(failed)?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The directory's project.
    pub fn project(&self) -> Result<Project> {
        let attributes = self.attributes()?;
        Ok(Project {
            id: attributes.projid,
            inherits: attributes.xflags & PROJINHERIT != 0,
        })
    }

    /// Gives the directory, and what will be made in it, to a project. What is in it already stays where it is.
    pub fn set_project(&self, id: u32) -> Result<()> {
        let mut attributes = self.attributes()?;
        attributes.projid = id;
        attributes.xflags |= PROJINHERIT;
        // SAFETY: the descriptor is open across the call; the kernel reads one `struct fsxattr` from a pointer that is valid for it.
        let rc = unsafe { libc::ioctl(self.raw(), SET_XATTR as _, &raw const attributes) };
        self.answer("set project of", rc.into())
    }

    /// What is charged to a project on the directory's file system; needs `CAP_SYS_ADMIN`.
    pub fn usage(&self, id: u32) -> Result<Usage> {
        let record = self.quotactl("read project quota of", GET_QUOTA, id)?;
        Ok(record.usage())
    }

    /// The first project from `from` on that the file system keeps a record of, with what is charged to it; needs `CAP_SYS_ADMIN`.
    pub fn next(&self, from: u32) -> Result<Option<(u32, Usage)>> {
        match self.quotactl("list project quotas of", GET_NEXT_QUOTA, from) {
            Ok(record) => Ok(Some((record.id, record.usage()))),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn attributes(&self) -> Result<Attributes> {
        let mut attributes = Attributes::default();
        // SAFETY: the descriptor is open across the call; the kernel writes one `struct fsxattr` to a pointer that is valid for it,
        // and any bytes make a valid value.
        let rc = unsafe { libc::ioctl(self.raw(), GET_XATTR as _, &raw mut attributes) };
        self.answer("read project of", rc.into())?;
        Ok(attributes)
    }

    fn quotactl(&self, operation: &'static str, command: u32, id: u32) -> Result<Record> {
        let mut record = Record::default();
        // SAFETY: the descriptor is open across the call; both commands write one record of 72 bytes to a pointer that is valid
        // for it, and any bytes make a valid value.
        let rc = unsafe {
            libc::syscall(
                libc::SYS_quotactl_fd,
                self.raw(),
                command << 8 | PROJECT,
                id,
                &raw mut record,
            )
        };
        self.answer(operation, rc)?;
        Ok(record)
    }

    fn raw(&self) -> libc::c_int {
        self.open.as_raw_fd()
    }

    fn answer(&self, operation: &'static str, rc: libc::c_long) -> Result<()> {
        if rc == 0 {
            Ok(())
        } else {
            Err(Error::last(operation, &self.path))
        }
    }
}

/// `struct fsxattr`.
#[derive(Default)]
#[repr(C)]
struct Attributes {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
    pad: [u8; 8],
}

/// `struct if_nextdqblk`; `struct if_dqblk` is the same with padding in the id's place.
#[derive(Default)]
#[repr(C)]
struct Record {
    hard_kib: u64,
    soft_kib: u64,
    bytes: u64,
    inodes_hard: u64,
    inodes_soft: u64,
    inodes: u64,
    bytes_time: u64,
    inodes_time: u64,
    valid: u32,
    id: u32,
}

// The ioctls' numbers contain the size, and the kernel writes so much.
const _: () = assert!(size_of::<Attributes>() == 28 && size_of::<Record>() == 72);

impl Record {
    fn usage(&self) -> Usage {
        let limits = [
            self.hard_kib,
            self.soft_kib,
            self.inodes_hard,
            self.inodes_soft,
        ];
        Usage {
            bytes: self.bytes,
            inodes: self.inodes,
            limited: limits.iter().any(|limit| *limit > 0),
        }
    }
}

/// `FS_IOC_FSGETXATTR`, `_IOR('X', 31, struct fsxattr)`: the same number on every architecture we build for.
const GET_XATTR: u64 = 0x801c_581f;
/// `FS_IOC_FSSETXATTR`, `_IOW('X', 32, struct fsxattr)`.
const SET_XATTR: u64 = 0x401c_5820;
/// `FS_XFLAG_PROJINHERIT`
const PROJINHERIT: u32 = 0x200;
/// `PRJQUOTA`
const PROJECT: u32 = 2;
/// `Q_GETQUOTA`
const GET_QUOTA: u32 = 0x80_0007;
/// `Q_GETNEXTQUOTA` (Linux 4.6).
const GET_NEXT_QUOTA: u32 = 0x80_0009;

#[cfg(test)]
mod tests;

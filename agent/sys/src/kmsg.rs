//! The kernel's log and the system console, written a line at a time without allocating.
//!
//! In: a tag and a line. Out: one kernel log record, or one console line. A console that does not take bytes (a stopped
//! terminal) costs one short wait and then loses lines: PID 1 never hangs on it.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;

use crate::poll::{Interest, Watch};
use crate::{Error, Result, poll};

/// How bad a kernel log record is (the `<N>` prefix).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// 3.
    Error,
    /// 4.
    Warning,
    /// 6.
    Info,
}

/// `/dev/kmsg`, opened for writing.
#[derive(Debug)]
pub struct Kmsg(OwnedFd);

impl Kmsg {
    /// Opens `/dev/kmsg`.
    pub fn open() -> Result<Self> {
        open(c"/dev/kmsg").map(Self)
    }

    /// Writes one record `tag: line`. Facility 3 (daemon), so that readers can tell it from the kernel's own.
    pub fn write(&self, level: Level, tag: &[u8], line: &[u8]) -> std::result::Result<(), Errno> {
        let prefix: &[u8] = match level {
            Level::Error => b"<27>",
            Level::Warning => b"<28>",
            Level::Info => b"<30>",
        };
        let parts = [prefix, tag, b": ", line, b"\n"].map(IoSlice::new);
        nix::sys::uio::writev(&self.0, &parts).map(|_| ())
    }
}

/// `/dev/console`, opened for writing.
#[derive(Debug)]
pub struct Console {
    fd: OwnedFd,
    stuck: bool,
}

impl Console {
    /// Opens `/dev/console` without making it the controlling terminal.
    pub fn open() -> Result<Self> {
        Ok(Self {
            fd: open(c"/dev/console")?,
            stuck: false,
        })
    }

    /// Writes all of `line`, waiting at most 200 ms for room; while the console is stuck, later lines do not wait.
    pub fn write(&mut self, line: &[u8]) -> std::result::Result<(), Errno> {
        const PATIENCE: Duration = Duration::from_millis(200);
        let mut rest = line;
        while !rest.is_empty() {
            match nix::unistd::write(&self.fd, rest) {
                Ok(0) => return Err(Errno::EIO),
                Ok(n) => {
                    rest = rest.get(n..).unwrap_or_default();
                    self.stuck = false;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if !self.stuck => {
                    let mut watch = [Watch::new(self.fd.as_raw_fd(), Interest::Write)];
                    self.stuck = poll::wait(&mut watch, Some(PATIENCE)) != Ok(1);
                    if self.stuck {
                        return Err(Errno::EAGAIN);
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

fn open(path: &'static std::ffi::CStr) -> Result<OwnedFd> {
    let flags = libc::O_WRONLY | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: `path` is NUL-terminated and static.
    let fd = unsafe { libc::open(path.as_ptr(), flags) };
    if fd < 0 {
        return Err(Error::last("open", path.to_string_lossy()));
    }
    // SAFETY: a descriptor ≥ 0 from open is ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

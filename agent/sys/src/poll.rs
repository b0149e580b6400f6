//! What one loop waits for: descriptors, signals as a descriptor, pipes, message sockets. Nothing here allocates.
//!
//! In: raw descriptor numbers and a timeout. Out: which are ready. For PID 1, which has no tokio.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

pub use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType};

/// What to wait for on a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Something to read, or the other end is gone.
    Read,
    /// Room to write.
    Write,
}

/// One descriptor in a wait. A closed or negative number is skipped by the kernel or reported as ready, never unsafe.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Watch(libc::pollfd);

impl Watch {
    /// Waits for `interest` on `fd`.
    pub fn new(fd: RawFd, interest: Interest) -> Self {
        Self(libc::pollfd {
            fd,
            events: match interest {
                Interest::Read => libc::POLLIN,
                Interest::Write => libc::POLLOUT,
            },
            revents: 0,
        })
    }

    /// Whether the last [`wait`] reported anything, errors and hang-ups included.
    pub fn is_ready(&self) -> bool {
        self.0.revents != 0
    }
}

/// Waits until a descriptor is ready or the time is over (None: for ever). Returns how many are ready; a signal counts as 0.
pub fn wait(watches: &mut [Watch], timeout: Option<Duration>) -> Result<usize, Errno> {
    // Rounded up: waking a moment before a deadline would spin.
    let millis = timeout.map_or(-1, |t| {
        i32::try_from(t.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
    });
    // SAFETY: Watch is a transparent pollfd, so pointer and length describe a valid, writable array of them.
    let rc = unsafe { libc::poll(watches.as_mut_ptr().cast(), watches.len() as _, millis) };
    match Errno::result(rc) {
        Ok(n) => Ok(usize::try_from(n).unwrap_or(0)),
        Err(Errno::EINTR) => {
            // revents are stale after an interrupted call.
            watches.iter_mut().for_each(|w| w.0.revents = 0);
            Ok(0)
        }
        Err(e) => Err(e),
    }
}

/// Signals delivered as reads instead of handlers.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks these signals for the process and opens a descriptor for them.
    pub fn new(signals: &[Signal]) -> Result<Self, Errno> {
        let set: SigSet = signals.iter().copied().collect();
        set.thread_block()?;
        SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map(Self)
    }

    /// The next signal, if one has arrived.
    pub fn take(&mut self) -> Option<i32> {
        let info = self.0.read_signal().ok()??;
        i32::try_from(info.ssi_signo).ok()
    }

    /// For polling.
    pub fn raw(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// A pipe whose reading end (first) does not block.
pub fn pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    nix::fcntl::fcntl(&read, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((read, write))
}

/// A pair of connected sockets that keep message borders. The first, ours, does not block.
pub fn message_pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (ours, theirs) = nix::sys::socket::socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    nix::fcntl::fcntl(&ours, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((ours, theirs))
}

/// Takes over a descriptor inherited by number (the agent's end of the control socket), so that it closes with its owner
/// and is not inherited further. It no longer blocks: a reader that trusts readiness must never wait in the read itself.
/// `EBADF` when nothing is open there.
pub fn adopt(number: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: F_GETFD only asks; it fails on a number that is not open.
    Errno::result(unsafe { libc::fcntl(number, libc::F_GETFD) })?;
    // SAFETY: setting close-on-exec on a descriptor that is open has no other effect.
    Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: the descriptor is open, and the contract with init (KEDGE_CONTROL_FD) gives it to this caller alone.
    let owned = unsafe { OwnedFd::from_raw_fd(number) };
    nix::fcntl::fcntl(&owned, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(owned)
}

/// Reads what is there. `None`: nothing now; `Some(0)`: the other end is closed.
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
    match nix::unistd::read(fd, buffer) {
        Ok(n) => Ok(Some(n)),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Sends one message without waiting and without `SIGPIPE`.
pub fn send(fd: BorrowedFd<'_>, message: &[u8]) -> Result<(), Errno> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    nix::sys::socket::send(fd.as_raw_fd(), message, flags).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_borders_and_a_closed_end_reads_zero() {
        let (ours, theirs) = message_pair().expect("socketpair");
        let mut buffer = [0; 64];
        assert_eq!(read(ours.as_fd(), &mut buffer), Ok(None));
        send(theirs.as_fd(), b"one").expect("send");
        send(theirs.as_fd(), b"three").expect("send");
        assert_eq!(read(ours.as_fd(), &mut buffer), Ok(Some(3)));
        assert_eq!(read(ours.as_fd(), &mut buffer), Ok(Some(5)));
        drop(theirs);
        let mut watches = [Watch::new(ours.as_raw_fd(), Interest::Read)];
        assert_eq!(wait(&mut watches, None), Ok(1));
        assert!(watches[0].is_ready());
        assert_eq!(read(ours.as_fd(), &mut buffer), Ok(Some(0)));
    }

    #[test]
    fn an_idle_pipe_is_not_ready() {
        let (read_end, _write_end) = pipe().expect("pipe");
        let mut watches = [Watch::new(read_end.as_raw_fd(), Interest::Read)];
        assert_eq!(wait(&mut watches, Some(Duration::ZERO)), Ok(0));
        assert!(!watches[0].is_ready());
    }

    #[test]
    fn a_number_that_is_not_open_is_not_adopted() {
        assert_eq!(adopt(987_654).err(), Some(Errno::EBADF));
    }
}

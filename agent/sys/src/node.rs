//! What belongs to the machine as a whole and has no file: power, Ctrl-Alt-Del, watchdog, host name, limits, loopback.
//!
//! In: plain values. Out: nothing. Deliberately absent: deciding when.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::reboot::RebootMode;
use nix::sys::resource::{RLIM_INFINITY, Resource};

use crate::{Error, Result};

/// How a machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// Off.
    Off,
    /// Off and on again.
    Restart,
}

/// Stops the machine at once: no sync, no unmount. Returns only on failure. Refused unless this process is PID 1.
pub fn power(how: Power) -> Errno {
    if !crate::process::is_pid_1() {
        return Errno::EPERM;
    }
    let mode = match how {
        Power::Off => RebootMode::RB_POWER_OFF,
        Power::Restart => RebootMode::RB_AUTOBOOT,
    };
    match nix::sys::reboot::reboot(mode) {
        Ok(never) => match never {},
        Err(e) => e,
    }
}

/// Makes Ctrl-Alt-Del a `SIGINT` to PID 1 instead of an immediate reset.
pub fn catch_ctrl_alt_del() -> Result<()> {
    nix::sys::reboot::set_cad_enabled(false).map_err(|e| Error::new("catch", "Ctrl-Alt-Del", e))
}

/// Writes all dirty data of all filesystems.
pub fn sync() {
    nix::unistd::sync();
}

/// Waits without any clock but the kernel's; for PID 1's last words.
pub fn pause_for(time: Duration) {
    std::thread::sleep(time);
}

/// Sets the host name.
pub fn set_hostname(name: &str) -> Result<()> {
    nix::unistd::sethostname(name).map_err(|e| Error::new("set host name", name, e))
}

/// Allows this process and its children as many open files as the kernel does (`fs.nr_open`'s default), unlimited
/// processes, and no core files unless a process asks for them.
pub fn raise_limits() -> Result<()> {
    const FILES: u64 = 1 << 20;
    let set = |what, name, soft, hard| {
        nix::sys::resource::setrlimit(what, soft, hard)
            .map_err(|e| Error::new("set limit", name, e))
    };
    set(Resource::RLIMIT_NOFILE, "open files", FILES, FILES)?;
    set(
        Resource::RLIMIT_NPROC,
        "processes",
        RLIM_INFINITY,
        RLIM_INFINITY,
    )?;
    set(Resource::RLIMIT_CORE, "core file size", 0, RLIM_INFINITY)
}

/// Random bytes from the kernel, waiting until its pool is ready.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        let rest = &mut bytes[filled..];
        // SAFETY: pointer and length are those of a live, writable slice.
        let n = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(n) {
            Ok(n) => filled += n,
            Err(_) if Errno::last() == Errno::EINTR => {}
            Err(_) => return Err(Error::last("get", "random bytes")),
        }
    }
    Ok(bytes)
}

/// Brings the loopback interface up; the kernel then gives it 127.0.0.1 and ::1.
pub fn loopback_up() -> Result<()> {
    let failed = || Error::last("bring up", "lo");
    // SAFETY: no pointers involved.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(failed());
    }
    // SAFETY: a descriptor ≥ 0 from socket is ours alone.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: ifreq is a plain C struct for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    // SAFETY: `request` is a valid ifreq with a NUL-terminated name; the kernel fills the flags.
    if unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCGIFFLAGS as _,
            &raw mut request,
        )
    } != 0
    {
        return Err(failed());
    }
    // SAFETY: the call above has filled the `flags` member of the union, for which any bits are valid.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
    // SAFETY: as above; the kernel only reads.
    if unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        )
    } != 0
    {
        return Err(failed());
    }
    Ok(())
}

/// The hardware that resets the machine when it is not fed. Dropping it leaves the hardware running: it backs a shutdown.
#[derive(Debug)]
pub struct Watchdog {
    device: File,
    /// The time-out the driver accepted.
    pub timeout: Duration,
}

impl Watchdog {
    /// Opens and starts the watchdog; None when the machine has none.
    pub fn open(wanted: Duration) -> Result<Option<Self>> {
        const DEVICE: &str = "/dev/watchdog";
        /// `_IOWR('W', 6, int)` and `_IOR('W', 7, int)`.
        const SET_TIMEOUT: u64 = 0xc004_5706;
        const GET_TIMEOUT: u64 = 0x8004_5707;
        let device = match File::options().write(true).open(DEVICE) {
            Ok(device) => device,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::new("open", DEVICE, e)),
        };
        let mut seconds = libc::c_int::try_from(wanted.as_secs()).unwrap_or(libc::c_int::MAX);
        // SAFETY: both calls read or write one int behind a pointer that is valid for it. A driver with a fixed
        // time-out refuses the first; the second then tells what it is.
        let rc = unsafe {
            libc::ioctl(device.as_raw_fd(), SET_TIMEOUT as _, &raw mut seconds);
            libc::ioctl(device.as_raw_fd(), GET_TIMEOUT as _, &raw mut seconds)
        };
        let known = rc == 0 && seconds > 0;
        let timeout = if known {
            Duration::from_secs(u64::try_from(seconds).unwrap_or(30))
        } else {
            wanted
        };
        Ok(Some(Self { device, timeout }))
    }

    /// Feeds it.
    pub fn feed(&mut self) -> std::io::Result<()> {
        self.device.write_all(&[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bytes_differ() {
        let (a, b) = (random::<16>(), random::<16>());
        assert_ne!(a.expect("getrandom"), b.expect("getrandom"));
    }

    #[test]
    fn only_pid_1_stops_the_machine() {
        assert_eq!(power(Power::Restart), Errno::EPERM);
    }
}

//! Input devices, as far as a power button goes.
//!
//! In: `/dev/input/eventN`. Out: "power was pressed". Does not allocate, so that init can look for new devices at any
//! time. Deliberately absent: every other key.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Most devices looked at; a board with a keyboard, a mouse and buttons has six.
pub const MAX_DEVICES: usize = 16;

const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;
const PRESSED: i32 = 1;
const EVENT_BYTES: usize = size_of::<libc::input_event>();

/// One opened input device.
#[derive(Debug)]
pub struct Input(OwnedFd);

impl Input {
    /// Opens `/dev/input/event<index>`; None when it is not there or may not be read.
    pub fn open(index: usize) -> Option<Self> {
        let mut path = *b"/dev/input/event\0\0\0";
        let digits = b"0123456789";
        let (tens, ones) = (index / 10, index % 10);
        if tens == 0 {
            path[16] = digits[ones];
        } else {
            path[16] = *digits.get(tens)?;
            path[17] = digits[ones];
        }
        let path = CStr::from_bytes_until_nul(&path).ok()?;
        let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_CLOEXEC;
        // SAFETY: `path` is NUL-terminated and outlives the call.
        let fd = unsafe { libc::open(path.as_ptr(), flags) };
        // SAFETY: a descriptor ≥ 0 from open is ours alone.
        (fd >= 0).then(|| Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Reads what has arrived. `Err` means that the device is gone and should be dropped.
    pub fn power_pressed(&self) -> Result<bool, nix::errno::Errno> {
        let mut buffer = [0u8; EVENT_BYTES * 16];
        let mut pressed = false;
        loop {
            match nix::unistd::read(&self.0, &mut buffer) {
                Ok(0) | Err(nix::errno::Errno::EAGAIN) => return Ok(pressed),
                Ok(n) => pressed |= buffer[..n].chunks_exact(EVENT_BYTES).any(is_power),
                Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// For polling.
    pub fn raw(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

impl AsFd for Input {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// `struct input_event`: a time, then type (u16), code (u16), value (i32), in the machine's byte order.
fn is_power(event: &[u8]) -> bool {
    let Some(tail) = event.last_chunk::<8>() else {
        return false;
    };
    let kind = u16::from_ne_bytes([tail[0], tail[1]]);
    let code = u16::from_ne_bytes([tail[2], tail[3]]);
    let value = i32::from_ne_bytes([tail[4], tail[5], tail[6], tail[7]]);
    (kind, code, value) == (EV_KEY, KEY_POWER, PRESSED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: u16, code: u16, value: i32) -> Vec<u8> {
        let mut bytes = vec![0xff; EVENT_BYTES - 8];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(code.to_ne_bytes());
        bytes.extend(value.to_ne_bytes());
        bytes
    }

    #[test]
    fn only_pressing_the_power_key_counts() {
        assert!(is_power(&event(1, 116, 1)));
        assert!(!is_power(&event(1, 116, 0)), "release");
        assert!(!is_power(&event(1, 116, 2)), "repeat");
        assert!(!is_power(&event(1, 30, 1)), "the letter a");
        assert!(!is_power(&event(0, 0, 0)), "sync");
        assert!(!is_power(&[1, 2, 3]));
    }

    #[test]
    fn an_index_out_of_range_is_no_device() {
        assert!(Input::open(1000).is_none());
    }
}

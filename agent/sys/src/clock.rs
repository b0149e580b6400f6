//! Setting the clocks. Reading them is [`crate::time`].
//!
//! In: a time since the epoch, or an offset. Out: nothing. Deliberately absent: deciding whether a time is to be believed.

use std::time::Duration;

use crate::{Error, Result};

/// Sets `CLOCK_REALTIME`. Durations measured on `CLOCK_BOOTTIME` do not notice.
pub fn step(wall: Duration) -> Result<()> {
    let seconds = wall
        .as_secs()
        .try_into()
        .map_err(|_: std::num::TryFromIntError| {
            Error::new("set the clock", wall.as_secs().to_string(), out_of_range())
        })?;
    let time = libc::timespec {
        tv_sec: seconds,
        // Always below 10^9, which every c_long holds.
        tv_nsec: libc::c_long::from(wall.subsec_nanos() as i32),
    };
    // SAFETY: `time` is a valid timespec that the kernel only reads.
    let rc = unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) };
    if rc == 0 {
        Ok(())
    } else {
        Err(Error::last("set the clock", wall.as_secs().to_string()))
    }
}

/// Lets the kernel make up `micros` slowly (500 ppm: 0.5 ms each second), without a jump; replaces a correction under way.
pub fn slew(micros: i64) -> Result<()> {
    adjust(libc::ADJ_OFFSET_SINGLESHOT, micros, 0)
}

/// Tells the kernel that the clock follows a source: it then also writes the hardware clock every 11 minutes.
pub fn mark_synchronised() -> Result<()> {
    // Assigning the status clears STA_UNSYNC; the estimated and maximal errors restart from what is left as they are.
    adjust(libc::ADJ_STATUS | libc::ADJ_MAXERROR, 0, 0)
}

fn adjust(modes: libc::c_uint, offset: i64, status: libc::c_int) -> Result<()> {
    // SAFETY: timex is a plain C struct of integers for which all zeroes is a valid value.
    let mut request: libc::timex = unsafe { std::mem::zeroed() };
    request.modes = modes;
    request.offset = offset as _;
    request.status = status;
    // SAFETY: `request` is a valid, writable timex for the duration of the call.
    let rc = unsafe { libc::adjtimex(&raw mut request) };
    if rc == -1 {
        Err(Error::last("adjust the clock", format!("by {offset} µs")))
    } else {
        Ok(())
    }
}

fn out_of_range() -> std::io::Error {
    std::io::Error::from_raw_os_error(libc::EINVAL)
}

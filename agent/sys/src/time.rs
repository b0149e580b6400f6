//! The one place where clocks are read. Pure code takes a [`Now`].

use std::time::Duration;

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Since boot, including suspend (`CLOCK_BOOTTIME`): durations and deadlines are computed on this.
    pub mono: Duration,
    /// Since the Unix epoch (`CLOCK_REALTIME`): reported, never subtracted.
    pub wall: Duration,
}

/// Reads both clocks.
pub fn now() -> Now {
    Now {
        mono: read(libc::CLOCK_BOOTTIME),
        wall: read(libc::CLOCK_REALTIME),
    }
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut ts = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `ts` is a valid, writable timespec and lives across the call; the clock ids are constants the kernel knows.
    let rc = unsafe { libc::clock_gettime(clock, &raw mut ts) };
    if rc != 0 {
        return Duration::ZERO;
    }
    Duration::new(
        u64::try_from(ts.tv_sec).unwrap_or(0),
        u32::try_from(ts.tv_nsec).unwrap_or(0),
    )
}

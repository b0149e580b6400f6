//! Waiting times that grow: crashes 10 s × 2 up to 300 s, forgotten after 10 quiet minutes; pulls the same; other failures
//! 1 s × 2 up to 10 s. On the monotonic clock.

use std::time::Duration;

/// Crash and pull back-off (upstream's constants).
pub const CRASH_FIRST: Duration = Duration::from_secs(10);
pub const CRASH_CAP: Duration = Duration::from_secs(300);
/// A run of this length clears the count.
pub const QUIET: Duration = Duration::from_secs(600);
/// Sandbox, volume and create failures: often healed by something that comes a moment later.
pub const RETRY_FIRST: Duration = Duration::from_secs(1);
pub const RETRY_CAP: Duration = Duration::from_secs(10);

/// One growing delay and when it runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    pub delay: Duration,
    /// Monotonic.
    pub until: Duration,
}

impl Backoff {
    /// The next delay after `previous`, counted from `from`.
    pub fn next(
        previous: Option<Backoff>,
        from: Duration,
        first: Duration,
        cap: Duration,
    ) -> Backoff {
        let delay = match previous {
            // Quiet for twice the cap: start again.
            Some(p) if from.saturating_sub(p.until) < cap * 2 => (p.delay * 2).min(cap),
            _ => first,
        };
        Backoff {
            delay,
            until: from + delay,
        }
    }

    pub fn waiting(&self, now: Duration) -> bool {
        now < self.until
    }
}

/// The delay after `crashes` short runs in a row have already been answered by a restart: none after the first.
pub fn crash_delay(crashes: u32) -> Duration {
    if crashes == 0 {
        return Duration::ZERO;
    }
    let factor = 1u32 << (crashes - 1).min(10);
    (CRASH_FIRST * factor).min(CRASH_CAP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crash_delays_double_up_to_five_minutes() {
        let seconds: Vec<u64> = (0..8).map(|n| crash_delay(n).as_secs()).collect();
        assert_eq!(seconds, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(crash_delay(u32::MAX).as_secs(), 300);
    }

    #[test]
    fn pull_delays_grow_and_are_forgotten() {
        let s = Duration::from_secs;
        let first = Backoff::next(None, s(100), CRASH_FIRST, CRASH_CAP);
        assert_eq!((first.delay, first.until), (s(10), s(110)));
        let second = Backoff::next(Some(first), s(111), CRASH_FIRST, CRASH_CAP);
        assert_eq!(second.delay, s(20));
        let quiet = Backoff::next(Some(second), s(2000), CRASH_FIRST, CRASH_CAP);
        assert_eq!(quiet.delay, s(10));
    }
}

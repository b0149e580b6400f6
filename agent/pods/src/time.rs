//! Time as a value. Durations and deadlines are computed on the monotonic reading; the wall clock is only reported
//! (RFC 3339 in statuses, nanoseconds since the epoch as CRI has it), so that a clock step changes no decision.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

/// Wall-clock nanoseconds since the Unix epoch, CRI's format; 0 means "not set".
pub type WallNanos = i64;

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since boot, including suspend.
    pub mono: Duration,
    /// Nanoseconds since the Unix epoch.
    pub wall: WallNanos,
}

impl Now {
    /// From two durations, as `kedge_sys::time::Now` has them.
    pub fn new(mono: Duration, wall: Duration) -> Now {
        Now {
            mono,
            wall: i64::try_from(wall.as_nanos()).unwrap_or(i64::MAX),
        }
    }

    /// The wall clock as API time, cut to seconds as `metav1.Time` carries it.
    pub fn time(&self) -> Time {
        to_time(self.wall)
    }

    /// How long ago `then` was, judged by the wall clock: zero when it lies in the future.
    pub fn since_wall(&self, then: WallNanos) -> Duration {
        Duration::from_nanos(u64::try_from(self.wall.saturating_sub(then)).unwrap_or(0))
    }
}

/// Nanoseconds to API time, cut to whole seconds (`metav1.Time` has no fraction).
pub fn to_time(nanos: WallNanos) -> Time {
    Time(Timestamp::from_second(nanos.div_euclid(1_000_000_000)).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// API time to nanoseconds.
pub fn to_nanos(time: &Time) -> WallNanos {
    i64::try_from(time.0.as_nanosecond()).unwrap_or(0)
}

/// `None` for CRI's zero.
pub fn non_zero(nanos: WallNanos) -> Option<Time> {
    (nanos > 0).then(|| to_time(nanos))
}

//! Delays between attempts: doubling, capped, spread by a seed. Pure: a number in, durations out.
//!
//! Spreading matters when an API server comes back and a hundred nodes with eight loops each want it at once.

use std::time::Duration;

/// A small generator (SplitMix64) for jitter. Not for secrets.
#[derive(Clone, Debug)]
pub struct Jitter(u64);

impl Jitter {
    /// The sequence belonging to `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A sequence for one purpose, independent of the others made from the same seed.
    pub fn for_purpose(seed: u64, purpose: &str) -> Self {
        let hash = purpose
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
        Self(seed ^ hash)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly spread over `low..=high` (milliseconds resolution).
    pub fn between(&mut self, low: Duration, high: Duration) -> Duration {
        let span = high.saturating_sub(low).as_millis();
        let span = u64::try_from(span).unwrap_or(u64::MAX - 1);
        low + Duration::from_millis(self.next_u64() % (span + 1))
    }
}

/// Doubling delays from `base` to `cap`, each cut to between half and all of its length.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
    jitter: Jitter,
}

impl Backoff {
    pub fn new(base: Duration, cap: Duration, jitter: Jitter) -> Self {
        Self {
            base,
            cap,
            failures: 0,
            jitter,
        }
    }

    /// The delay after one more failure.
    pub fn next_delay(&mut self) -> Duration {
        let factor = 1_u32 << self.failures.min(20);
        self.failures = self.failures.saturating_add(1);
        let full = self.base.saturating_mul(factor).min(self.cap);
        self.jitter.between(full / 2, full)
    }

    /// Something worked: begin again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap_and_begin_again_after_a_success() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, second * 10, Jitter::new(7));
        for full in [1, 2, 4, 8, 10, 10] {
            let delay = backoff.next_delay();
            assert!(delay >= second * full / 2 && delay <= second * full);
        }
        backoff.reset();
        assert!(backoff.next_delay() <= second);
    }

    #[test]
    fn two_seeds_do_not_retry_in_step() {
        let second = Duration::from_secs(1);
        let mut a = Backoff::new(second, second, Jitter::for_purpose(1, "pods"));
        let mut b = Backoff::new(second, second, Jitter::for_purpose(1, "nodes"));
        assert_ne!(a.next_delay(), b.next_delay());
    }
}

//! Randomness for protocols: transaction ids, jitter, origin cookies.
//!
//! In: a seed, which the shell draws from the kernel and tests fix. Out: a SplitMix64 sequence.
//! Absent: any claim to secrecy; the only use that faces an attacker is guessing by packets from off-link, where 64 bits are enough.

/// SplitMix64: one addition and three multiply-xor rounds for each number.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The sequence that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    /// `base` lengthened or shortened by up to a quarter.
    pub fn jitter(&mut self, base: std::time::Duration) -> std::time::Duration {
        base * 3 / 4 + base / 2 * (self.next_u32() >> 16) / 0x1_0000
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn jitter_stays_within_a_quarter_and_varies() {
        let mut rng = Rng::new(7);
        let base = Duration::from_secs(8);
        let drawn: Vec<_> = (0..100).map(|_| rng.jitter(base)).collect();
        assert!(
            drawn
                .iter()
                .all(|d| (Duration::from_secs(6)..=Duration::from_secs(10)).contains(d))
        );
        assert!(drawn.iter().any(|d| *d < base) && drawn.iter().any(|d| *d > base));
    }
}

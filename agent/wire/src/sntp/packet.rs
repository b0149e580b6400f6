//! The 48-octet packet and NTP timestamps.

use std::time::Duration;

/// Octets of a packet without extensions.
pub const LEN: usize = 48;
/// Seconds from the NTP epoch (1900) to the Unix epoch (1970).
const EPOCH: u64 = 2_208_988_800;
const MODE_CLIENT: u8 = 3;
const MODE_SERVER: u8 = 4;
const VERSION: u8 = 4;

/// 32 bits of seconds, 32 bits of fraction. Zero means unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamp(pub u64);

/// The leap indicator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leap {
    /// Nothing special.
    None,
    /// The last minute of today has 61 or 59 seconds.
    Pending,
    /// The server does not know the time.
    Alarm,
}

/// A server's reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Leap indicator.
    pub leap: Leap,
    /// 1 is a reference clock; 0 a refusal with a code in `reference`; 16 unsynchronised.
    pub stratum: u8,
    /// Round trip to the reference clock.
    pub root_delay: Duration,
    /// Error bound towards the reference clock.
    pub root_dispersion: Duration,
    /// Reference id: for stratum 0 four ASCII letters.
    pub reference: [u8; 4],
    /// What we sent as `transmit`.
    pub origin: Timestamp,
    /// When our request came.
    pub receive: Timestamp,
    /// When the reply left.
    pub transmit: Timestamp,
}

impl Timestamp {
    /// Since the Unix epoch. Values without the top bit belong to the era that begins in 2036 (RFC 4330 3).
    pub fn to_unix(self) -> Duration {
        let seconds = self.0 >> 32;
        let era = if seconds & 0x8000_0000 == 0 {
            1 << 32
        } else {
            0
        };
        let nanos = ((self.0 & 0xffff_ffff) * 1_000_000_000) >> 32;
        // Era 0 values have the top bit, so they lie after 1968; saturating covers the two years before 1970.
        Duration::new((seconds + era).saturating_sub(EPOCH), nanos as u32)
    }

    /// From a Unix time.
    pub fn from_unix(time: Duration) -> Self {
        let fraction = (u64::from(time.subsec_nanos()) << 32) / 1_000_000_000;
        Self((time.as_secs().wrapping_add(EPOCH) << 32) | fraction)
    }
}

impl Packet {
    /// A request. `cookie` goes where our time would: the server returns it, and nobody off the path can guess it; our real clock, which
    /// may be years off, stays private.
    pub fn request(cookie: Timestamp) -> [u8; LEN] {
        let mut out = [0; LEN];
        out[0] = VERSION << 3 | MODE_CLIENT;
        out[40..].copy_from_slice(&cookie.0.to_be_bytes());
        out
    }

    /// `None` unless this is a server's reply.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LEN] = bytes.first_chunk()?;
        let [first, stratum, ..] = *bytes;
        let version = first >> 3 & 7;
        if first & 7 != MODE_SERVER || !(1..=VERSION).contains(&version) {
            return None;
        }
        let word = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let stamp = |at: usize| Timestamp(u64::from(word(at)) << 32 | u64::from(word(at + 4)));
        Some(Self {
            leap: match first >> 6 {
                0 => Leap::None,
                3 => Leap::Alarm,
                _ => Leap::Pending,
            },
            stratum,
            root_delay: short(word(4)),
            root_dispersion: short(word(8)),
            reference: [bytes[12], bytes[13], bytes[14], bytes[15]],
            origin: stamp(24),
            receive: stamp(32),
            transmit: stamp(40),
        })
    }

    /// The reply as a server sends it: for tests and fakes.
    pub fn emit(&self) -> [u8; LEN] {
        let mut out = [0; LEN];
        let leap = match self.leap {
            Leap::None => 0,
            Leap::Pending => 1,
            Leap::Alarm => 3,
        };
        out[0] = leap << 6 | VERSION << 3 | MODE_SERVER;
        out[1] = self.stratum;
        out[4..8].copy_from_slice(&to_short(self.root_delay).to_be_bytes());
        out[8..12].copy_from_slice(&to_short(self.root_dispersion).to_be_bytes());
        out[12..16].copy_from_slice(&self.reference);
        out[24..32].copy_from_slice(&self.origin.0.to_be_bytes());
        out[32..40].copy_from_slice(&self.receive.0.to_be_bytes());
        out[40..48].copy_from_slice(&self.transmit.0.to_be_bytes());
        out
    }
}

/// 16 bits of seconds, 16 bits of fraction.
fn short(value: u32) -> Duration {
    Duration::from_nanos((u64::from(value) * 1_000_000_000) >> 16)
}

fn to_short(value: Duration) -> u32 {
    u32::try_from((value.as_nanos() << 16) / 1_000_000_000).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn timestamps_survive_the_era_change_of_2036() {
        for seconds in [1_763_600_000, 2_085_978_495, 2_085_978_496, 3_000_000_000] {
            let time = Duration::new(seconds, 500_000_000);
            let back = Timestamp::from_unix(time).to_unix();
            assert!(
                back.abs_diff(time) < Duration::from_nanos(2),
                "{time:?} {back:?}"
            );
        }
    }

    #[test]
    fn a_request_is_no_reply() {
        assert_eq!(Packet::parse(&Packet::request(Timestamp(7))), None);
    }

    proptest! {
        #[test]
        fn parsing_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(packet) = Packet::parse(&bytes) {
                let _ = (packet.receive.to_unix(), packet.transmit.to_unix());
            }
        }
    }
}

//! The rig's SNTP server, pure: a client packet and the wall clock in, an answer out (RFC 5905, mode 3 to mode 4).
//!
//! Absent: sources, strata, authentication. The nodes shall have *a* time; the rig says the host's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SIZE: usize = 48;
/// Seconds from 1900 (NTP's era 0) to 1970.
const EPOCH_1900: u64 = 2_208_988_800;

/// `None` for anything that is not a client's request.
pub fn reply(request: &[u8], now: SystemTime) -> Option<[u8; SIZE]> {
    let request = request.get(..SIZE)?;
    let (version, mode) = ((request[0] >> 3) & 7, request[0] & 7);
    if mode != 3 || !(1..=4).contains(&version) {
        return None;
    }
    let stamp = timestamp(now);
    let mut out = [0; SIZE];
    // No leap second, the client's version, mode 4 (server).
    out[0] = (version << 3) | 4;
    // Stratum 2: synchronised, to somebody better than us.
    out[1] = 2;
    out[2] = request[2];
    // Precision 2^-20 s.
    out[3] = 0xec;
    out[12..16].copy_from_slice(&[192, 168, 50, 1]);
    out[16..24].copy_from_slice(&stamp);
    // Originate: the client's transmit time, by which it knows its own request.
    out[24..32].copy_from_slice(&request[40..48]);
    out[32..40].copy_from_slice(&stamp);
    out[40..48].copy_from_slice(&stamp);
    Some(out)
}

/// 32 bits of seconds since 1900 (they wrap in 2036) and 32 bits of fraction.
fn timestamp(now: SystemTime) -> [u8; 8] {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let seconds = (since.as_secs() + EPOCH_1900) as u32;
    let fraction = ((u64::from(since.subsec_nanos()) << 32) / 1_000_000_000) as u32;
    let mut out = [0; 8];
    out[..4].copy_from_slice(&seconds.to_be_bytes());
    out[4..].copy_from_slice(&fraction.to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_echoes_the_clients_stamp_and_carries_the_time() {
        let mut request = [0; SIZE];
        request[0] = (4 << 3) | 3;
        request[40..48].copy_from_slice(&[9; 8]);
        let answer = reply(&request, UNIX_EPOCH + Duration::from_millis(1500)).unwrap();
        assert_eq!(answer[0], (4 << 3) | 4);
        assert_eq!(answer[24..32], [9; 8]);
        assert_eq!(answer[40..44], 2_208_988_801_u32.to_be_bytes());
        assert_eq!(answer[44], 0x80, "half a second");
    }

    #[test]
    fn servers_and_short_packets_are_not_answered() {
        let mut request = [0; SIZE];
        request[0] = (4 << 3) | 4;
        assert_eq!(reply(&request, UNIX_EPOCH), None);
        assert_eq!(reply(&request[..20], UNIX_EPOCH), None);
    }

    #[test]
    fn the_seconds_wrap_in_2036() {
        let after = UNIX_EPOCH + Duration::from_secs((1 << 32) - EPOCH_1900 + 5);
        assert_eq!(timestamp(after)[..4], 5_u32.to_be_bytes());
    }
}

//! IPv4 and UDP headers around one payload, for sockets below the IP stack (RFC 791, RFC 768).
//!
//! In: addresses and a payload, or a packet. Out: a packet, or the payload after its checks. Absent: options on sending, fragments.

use std::net::{Ipv4Addr, SocketAddrV4};

const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const PROTO_UDP: u8 = 17;

/// A UDP datagram taken out of its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Sender.
    pub source: SocketAddrV4,
    /// Receiver.
    pub destination: SocketAddrV4,
    /// Contents.
    pub payload: &'a [u8],
}

/// The Internet checksum's sum, not yet folded.
fn sum(bytes: &[u8]) -> u32 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let whole: u32 = pairs
        .iter()
        .map(|p| u32::from(u16::from_be_bytes(*p)))
        .sum();
    whole + rest.first().map_or(0, |b| u32::from(*b) << 8)
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // At most 16 bits are left.
    !(sum as u16)
}

fn udp_checksum(source: Ipv4Addr, destination: Ipv4Addr, datagram: &[u8]) -> u16 {
    fold(
        sum(&source.octets())
            + sum(&destination.octets())
            + u32::from(PROTO_UDP)
            + datagram.len() as u32
            + sum(datagram),
    )
}

/// Wraps `payload`. Payloads are DHCP messages, far below 64 KiB; a longer one is cut.
pub fn udp_packet(source: SocketAddrV4, destination: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload
        .len()
        .min(usize::from(u16::MAX) - IP_HEADER - UDP_HEADER)];
    let udp_len = (UDP_HEADER + payload.len()) as u16;
    let mut packet = vec![0; IP_HEADER];
    packet[0] = 0x45;
    // RFC 2131 leaves it open; network control, so that a busy uplink does not starve the lease.
    packet[1] = 0xc0;
    packet[2..4].copy_from_slice(&(IP_HEADER as u16 + udp_len).to_be_bytes());
    packet[6] = 0x40;
    packet[8] = 64;
    packet[9] = PROTO_UDP;
    packet[12..16].copy_from_slice(&source.ip().octets());
    packet[16..20].copy_from_slice(&destination.ip().octets());
    let checksum = fold(sum(&packet));
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(source.port().to_be_bytes());
    packet.extend(destination.port().to_be_bytes());
    packet.extend(udp_len.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    let checksum = match udp_checksum(*source.ip(), *destination.ip(), &packet[IP_HEADER..]) {
        0 => 0xffff,
        sum => sum,
    };
    packet[26..28].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// Unwraps a packet; `None` unless it is a whole UDP datagram with right checksums.
/// `checksum_pending`: the sender runs on this machine and left the UDP checksum to hardware.
pub fn parse_udp(packet: &[u8], checksum_pending: bool) -> Option<Datagram<'_>> {
    let header_len = usize::from(packet.first()? & 0xf) * 4;
    if packet[0] >> 4 != 4 || header_len < IP_HEADER {
        return None;
    }
    let header = packet.get(..header_len)?;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
    if fold(sum(header)) != 0 || header[9] != PROTO_UDP || fragment != 0 {
        return None;
    }
    let rest = packet.get(header_len..total)?;
    let udp_len = usize::from(u16::from_be_bytes([*rest.get(4)?, *rest.get(5)?]));
    let datagram = rest.get(..udp_len)?;
    let payload = datagram.get(UDP_HEADER..)?;
    let ip = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
    let (source, destination) = (ip(12), ip(16));
    let unchecked = checksum_pending || datagram[6..8] == [0, 0];
    if !unchecked && udp_checksum(source, destination, datagram) != 0 {
        return None;
    }
    Some(Datagram {
        source: SocketAddrV4::new(source, u16::from_be_bytes([datagram[0], datagram[1]])),
        destination: SocketAddrV4::new(destination, u16::from_be_bytes([datagram[2], datagram[3]])),
        payload,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(host: u8, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(192, 168, 50, host), port)
    }

    #[test]
    fn damage_is_noticed_unless_the_checksum_was_never_made() {
        let mut packet = udp_packet(at(1, 67), at(11, 68), b"odd");
        assert_eq!(parse_udp(&packet, false).unwrap().payload, b"odd");
        *packet.last_mut().unwrap() ^= 1;
        assert_eq!(parse_udp(&packet, false), None);
        assert_eq!(parse_udp(&packet, true).unwrap().payload, b"ode");
        packet[16] ^= 1;
        assert_eq!(
            parse_udp(&packet, true),
            None,
            "the IP header is always checked"
        );
    }

    #[test]
    fn ethernet_padding_is_cut_off() {
        let mut packet = udp_packet(at(1, 67), at(11, 68), b"x");
        packet.resize(46, 0xaa);
        assert_eq!(parse_udp(&packet, false).unwrap().payload, b"x");
    }

    proptest! {
        #[test]
        fn parsing_any_bytes_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), pending in any::<bool>()) {
            let _ = parse_udp(&bytes, pending);
            if let Some(first) = bytes.first_mut() {
                *first = 0x45;
            }
            if bytes.len() >= 20 {
                bytes[9] = 17;
                bytes[10] = 0;
                bytes[11] = 0;
                let right = fold(sum(&bytes[..20]));
                bytes[10..12].copy_from_slice(&right.to_be_bytes());
            }
            let _ = parse_udp(&bytes, pending);
        }

        #[test]
        fn wrapped_payload_is_unwrapped(payload in proptest::collection::vec(any::<u8>(), 0..600)) {
            let packet = udp_packet(at(11, 68), at(1, 67), &payload);
            let read = parse_udp(&packet, false).unwrap();
            prop_assert_eq!((read.source, read.destination, read.payload), (at(11, 68), at(1, 67), &payload[..]));
        }
    }
}

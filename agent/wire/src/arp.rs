//! ARP (RFC 826) and address conflict detection (RFC 5227), without a socket.
//!
//! In: received ARP payloads and the time. Out: payloads to broadcast, and the verdict whether an address is free.
//! Absent: answering requests (the kernel does) and a neighbour table.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::net::Mac;

mod acd;
mod claim;

pub use acd::{Defence, Defended, Probe, Step, Timing};
pub use claim::Claim;

/// Hardware type 1, protocol type 0x0800, lengths 6 and 4: the fixed start of every packet this module speaks.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
/// Length of an ARP payload for Ethernet and IPv4.
pub const LEN: usize = 28;

/// What a packet wants (RFC 826 `ar$op`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// 1: who has the target address? Probes and announcements are requests too.
    Request,
    /// 2: the sender has it.
    Reply,
}

/// An ARP packet for IPv4 over Ethernet, without the Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Request or reply.
    pub op: Op,
    /// Who sends.
    pub sender_mac: Mac,
    /// The address the sender claims; unspecified in a probe.
    pub sender_ip: Ipv4Addr,
    /// Zero in requests.
    pub target_mac: Mac,
    /// The address asked for.
    pub target_ip: Ipv4Addr,
}

impl Packet {
    /// RFC 5227 2.1.1: asks for `address` without claiming it.
    pub fn probe(mac: Mac, address: Ipv4Addr) -> Self {
        Self {
            op: Op::Request,
            sender_mac: mac,
            sender_ip: Ipv4Addr::UNSPECIFIED,
            target_mac: Mac::default(),
            target_ip: address,
        }
    }

    /// RFC 5227 2.3: claims `address`, and repairs stale neighbour caches after a move.
    pub fn announcement(mac: Mac, address: Ipv4Addr) -> Self {
        Self {
            sender_ip: address,
            ..Self::probe(mac, address)
        }
    }

    /// `None` for anything but IPv4 over Ethernet requests and replies: such packets concern others.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        // Ethernet pads short frames: longer is fine.
        let bytes = bytes.get(..LEN)?;
        let (head, rest) = bytes.split_at(6);
        if head != ETHERNET_IPV4 {
            return None;
        }
        let ip = |at: usize| -> Option<Ipv4Addr> {
            let octets: [u8; 4] = rest.get(at..at + 4)?.try_into().ok()?;
            Some(octets.into())
        };
        Some(Self {
            op: match rest.get(..2)? {
                [0, 1] => Op::Request,
                [0, 2] => Op::Reply,
                _ => return None,
            },
            sender_mac: Mac::from_slice(rest.get(2..8)?)?,
            sender_ip: ip(8)?,
            target_mac: Mac::from_slice(rest.get(12..18)?)?,
            target_ip: ip(18)?,
        })
    }

    /// The payload.
    pub fn emit(&self) -> [u8; LEN] {
        let mut out = [0; LEN];
        out[..6].copy_from_slice(&ETHERNET_IPV4);
        out[7] = match self.op {
            Op::Request => 1,
            Op::Reply => 2,
        };
        out[8..14].copy_from_slice(&self.sender_mac.0);
        out[14..18].copy_from_slice(&self.sender_ip.octets());
        out[18..24].copy_from_slice(&self.target_mac.0);
        out[24..28].copy_from_slice(&self.target_ip.octets());
        out
    }

    /// Whether this packet says that somebody other than `mac` uses or is about to use `address` (RFC 5227 2.1.1).
    pub fn conflicts_with_probe(&self, mac: Mac, address: Ipv4Addr) -> bool {
        self.sender_mac != mac
            && (self.sender_ip == address
                || (self.sender_ip.is_unspecified()
                    && self.target_ip == address
                    && self.op == Op::Request))
    }

    /// Whether somebody other than `mac` claims `address` while we use it (RFC 5227 2.4). Their probes do not count: we answer those.
    pub fn conflicts_with_use(&self, mac: Mac, address: Ipv4Addr) -> bool {
        self.sender_mac != mac && self.sender_ip == address
    }
}

/// The deadline that comes first.
pub fn earliest(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const THEIRS: Mac = Mac([0x52, 0x54, 0, 0, 0, 9]);
    const ADDR: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 11);

    /// Captured from `arping -D 192.168.50.11` on a Linux bridge, padded to the Ethernet minimum.
    const CAPTURED: [u8; 46] = {
        let mut bytes = [0; 46];
        let head = [
            0, 1, 8, 0, 6, 4, 0, 1, 0x52, 0x54, 0, 0, 0, 9, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff,
            0xff, 0xff, 192, 168, 50, 11,
        ];
        let mut at = 0;
        while at < head.len() {
            bytes[at] = head[at];
            at += 1;
        }
        bytes
    };

    #[test]
    fn captured_probe_is_read_despite_padding() {
        let packet = Packet::parse(&CAPTURED).unwrap();
        assert_eq!(packet.sender_mac, THEIRS);
        assert_eq!(packet.target_ip, ADDR);
        assert!(packet.conflicts_with_probe(OURS, ADDR));
        assert!(
            !packet.conflicts_with_use(OURS, ADDR),
            "a probe is answered, not fought"
        );
    }

    #[test]
    fn own_packets_are_no_conflict() {
        let own = Packet::announcement(OURS, ADDR);
        assert!(!own.conflicts_with_probe(OURS, ADDR));
        assert!(!own.conflicts_with_use(OURS, ADDR));
    }

    proptest! {
        #[test]
        fn parsing_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(packet) = Packet::parse(&bytes) {
                prop_assert_eq!(&packet.emit()[..], &bytes[..LEN]);
            }
        }
    }
}

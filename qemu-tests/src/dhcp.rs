//! The rig's DHCP server, pure: a request packet and the lease table in, a reply packet out (RFC 2131, options of RFC 2132).
//!
//! A machine's address follows from its MAC; a story can change the table, and the machine's old address is then refused with a NAK.
//! The socket is in `supervisor::services`. Absent: pools, persistence, relay agents.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

pub type Mac = [u8; 6];

pub const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);
const MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);
const BROADCAST: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 255);
pub const LEASE_SECONDS: u32 = 600;

const MAGIC: [u8; 4] = [99, 130, 83, 99];
const HEADER: usize = 236;

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;
const INFORM: u8 = 8;

/// Which machine gets which address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leases(pub BTreeMap<Mac, Ipv4Addr>);

/// The part of a client's packet that decides the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    xid: [u8; 4],
    flags: [u8; 2],
    client: Ipv4Addr,
    pub mac: Mac,
    pub kind: u8,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
}

/// `None` for anything that is not a well-formed BOOTREQUEST with a message type.
pub fn parse(bytes: &[u8]) -> Option<Packet> {
    let head = bytes.get(..HEADER)?;
    if head[0] != 1 || head[1] != 1 || head[2] != 6 || bytes.get(HEADER..HEADER + 4)? != MAGIC {
        return None;
    }
    let options = options(bytes.get(HEADER + 4..)?);
    let address = |code: u8| -> Option<Ipv4Addr> {
        <[u8; 4]>::try_from(*options.get(&code)?)
            .ok()
            .map(Ipv4Addr::from)
    };
    Some(Packet {
        xid: head[4..8].try_into().ok()?,
        flags: head[10..12].try_into().ok()?,
        client: Ipv4Addr::from(<[u8; 4]>::try_from(&head[12..16]).ok()?),
        mac: head[28..34].try_into().ok()?,
        kind: *options.get(&53)?.first()?,
        requested: address(50),
        server: address(54),
    })
}

/// The first value of every option; stops at the end mark or where a length points outside.
fn options(mut rest: &[u8]) -> BTreeMap<u8, &[u8]> {
    let mut found = BTreeMap::new();
    while let Some((&code, tail)) = rest.split_first() {
        match code {
            0 => rest = tail,
            255 => break,
            _ => {
                let Some((&length, tail)) = tail.split_first() else {
                    break;
                };
                let Some(value) = tail.get(..usize::from(length)) else {
                    break;
                };
                found.entry(code).or_insert(value);
                rest = &tail[usize::from(length)..];
            }
        }
    }
    found
}

/// The server's answer, or `None` when it has nothing to say.
pub fn reply(packet: &Packet, leases: &Leases) -> Option<Vec<u8>> {
    let address = *leases.0.get(&packet.mac)?;
    match packet.kind {
        DISCOVER => Some(build(packet, OFFER, address)),
        REQUEST => {
            // Not for us: the client chose another server (RFC 2131 4.3.2).
            if packet.server.is_some_and(|server| server != SERVER) {
                return None;
            }
            let wanted = packet.requested.unwrap_or(packet.client);
            Some(if wanted == address {
                build(packet, ACK, address)
            } else {
                build(packet, NAK, Ipv4Addr::UNSPECIFIED)
            })
        }
        INFORM => Some(build(packet, ACK, Ipv4Addr::UNSPECIFIED)),
        _ => None,
    }
}

fn build(packet: &Packet, kind: u8, address: Ipv4Addr) -> Vec<u8> {
    let mut out = vec![0; HEADER];
    out[0] = 2;
    out[1] = 1;
    out[2] = 6;
    out[4..8].copy_from_slice(&packet.xid);
    out[10..12].copy_from_slice(&packet.flags);
    if kind == ACK {
        out[12..16].copy_from_slice(&packet.client.octets());
    }
    out[16..20].copy_from_slice(&address.octets());
    out[28..34].copy_from_slice(&packet.mac);
    out.extend(MAGIC);
    let mut option = |code: u8, value: &[u8]| {
        // Every value here is shorter than 256 bytes.
        out.extend([code, value.len() as u8]);
        out.extend(value);
    };
    option(53, &[kind]);
    option(54, &SERVER.octets());
    if kind != NAK {
        if packet.kind != INFORM {
            option(51, &LEASE_SECONDS.to_be_bytes());
            option(58, &(LEASE_SECONDS / 2).to_be_bytes());
            option(59, &(LEASE_SECONDS / 8 * 7).to_be_bytes());
        }
        option(1, &MASK.octets());
        option(3, &SERVER.octets());
        option(6, &SERVER.octets());
        option(28, &BROADCAST.octets());
        option(42, &SERVER.octets());
    }
    out.push(255);
    // Old clients want at least 300 bytes of BOOTP.
    out.resize(out.len().max(300), 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NODE: Mac = [0x52, 0x54, 0, 0x4b, 0x45, 1];

    fn request(kind: u8, extra: &[u8]) -> Vec<u8> {
        let mut out = vec![0; HEADER];
        out[..3].copy_from_slice(&[1, 1, 6]);
        out[4..8].copy_from_slice(&[1, 2, 3, 4]);
        out[28..34].copy_from_slice(&NODE);
        out.extend(MAGIC);
        out.extend([53, 1, kind]);
        out.extend(extra);
        out.push(255);
        out
    }

    fn answer(kind: u8, extra: &[u8], lease: [u8; 4]) -> Option<(u8, Ipv4Addr, Vec<u8>)> {
        let leases = Leases([(NODE, lease.into())].into());
        let bytes = reply(&parse(&request(kind, extra)).unwrap(), &leases)?;
        let kind = options(&bytes[HEADER + 4..])[&53][0];
        Some((
            kind,
            Ipv4Addr::new(bytes[16], bytes[17], bytes[18], bytes[19]),
            bytes,
        ))
    }

    #[test]
    fn a_discover_is_offered_the_machines_address_with_router_dns_and_ntp() {
        let (kind, address, bytes) = answer(DISCOVER, &[], [192, 168, 50, 11]).unwrap();
        assert_eq!((kind, address), (OFFER, Ipv4Addr::new(192, 168, 50, 11)));
        assert_eq!(&bytes[4..8], [1, 2, 3, 4], "the transaction id is echoed");
        let options = options(&bytes[HEADER + 4..]);
        for code in [3, 6, 42, 54] {
            assert_eq!(options[&code], SERVER.octets(), "option {code}");
        }
        assert_eq!(options[&51], LEASE_SECONDS.to_be_bytes());
    }

    #[test]
    fn the_leased_address_is_acknowledged() {
        let (kind, address, _) = answer(
            REQUEST,
            &[50, 4, 192, 168, 50, 11, 54, 4, 192, 168, 50, 1],
            [192, 168, 50, 11],
        )
        .unwrap();
        assert_eq!((kind, address), (ACK, Ipv4Addr::new(192, 168, 50, 11)));
    }

    #[test]
    fn an_address_that_moved_is_refused_so_that_the_client_starts_over() {
        let (kind, address, _) =
            answer(REQUEST, &[50, 4, 192, 168, 50, 11], [192, 168, 50, 111]).unwrap();
        assert_eq!((kind, address), (NAK, Ipv4Addr::UNSPECIFIED));
    }

    #[test]
    fn a_request_to_another_server_is_not_answered() {
        assert_eq!(
            answer(
                REQUEST,
                &[50, 4, 192, 168, 50, 11, 54, 4, 10, 0, 0, 1],
                [192, 168, 50, 11]
            ),
            None
        );
    }

    #[test]
    fn an_unknown_machine_is_not_answered() {
        assert_eq!(
            reply(&parse(&request(DISCOVER, &[])).unwrap(), &Leases::default()),
            None
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn any_options_are_parsed_without_a_panic(tail in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&request(DISCOVER, &tail));
        }
    }
}

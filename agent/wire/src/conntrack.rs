//! The connection table: reading it and deleting single flows.
//!
//! In: dumped bytes. Out: [`Flow`]s, and the requests that list and delete them. Absent: which flows are stale (`proxy` decides).
//! Attribute numbers: `linux/netfilter/nfnetlink_conntrack.h`.

use std::net::IpAddr;

use crate::nft::attr::{Attributes, Malformed, Message, NLM_F_ACK, NLM_F_DUMP, Writer};

/// `NFNL_SUBSYS_CTNETLINK`.
const SUBSYSTEM: u16 = 1;
const NEW: u16 = 0;
const GET: u16 = 1;
const DELETE: u16 = 2;

/// A connection as conntrack names it: the tuple of the first packet, and what replies look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    pub original: Tuple,
    pub reply: Tuple,
    /// Tells this flow from a later one with the same tuple, so that a late deletion does not hit the new one.
    pub id: Option<u32>,
    /// Conntrack zone; 0 unless someone uses zones.
    pub zone: u16,
}

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub sport: u16,
    pub dport: u16,
}

/// Asks for all flows of a family (`AF_INET` 2, `AF_INET6` 10).
pub fn dump(family: u8, sequence: u32) -> Vec<u8> {
    let mut w = Writer::default();
    w.message(SUBSYSTEM << 8 | GET, NLM_F_DUMP, sequence, family, 0);
    w.finish();
    w.into_bytes()
}

/// Deletes one flow; the kernel answers ENOENT when it is gone already.
pub fn delete(flow: &Flow, sequence: u32) -> Vec<u8> {
    let tuple = &flow.original;
    let family = if tuple.source.is_ipv4() { 2 } else { 10 };
    let mut w = Writer::default();
    w.message(SUBSYSTEM << 8 | DELETE, NLM_F_ACK, sequence, family, 0);
    write_tuple(&mut w, 1, tuple);
    if let Some(id) = flow.id {
        w.be32(12, id);
    }
    if flow.zone != 0 {
        w.bytes(18, &flow.zone.to_be_bytes());
    }
    w.finish();
    w.into_bytes()
}

/// A flow from a dumped message. `None` for messages of other kinds and protocols without ports.
pub fn flow(message: &Message<'_>) -> Result<Option<Flow>, Malformed> {
    if message.kind != SUBSYSTEM << 8 | NEW {
        return Ok(None);
    }
    let (mut original, mut reply, mut id, mut zone) = (None, None, None, 0);
    for attribute in message.attributes() {
        let attribute = attribute?;
        match attribute.kind {
            1 => original = read_tuple(attribute.nested())?,
            2 => reply = read_tuple(attribute.nested())?,
            12 => id = Some(attribute.be32()?),
            18 => zone = attribute.be16()?,
            _ => {}
        }
    }
    Ok(original.zip(reply).map(|(original, reply)| Flow {
        original,
        reply,
        id,
        zone,
    }))
}

fn write_tuple(w: &mut Writer, kind: u16, tuple: &Tuple) {
    let nest = w.begin(kind);
    let ip = w.begin(1);
    for (v4, v6, address) in [(1, 3, tuple.source), (2, 4, tuple.destination)] {
        match address {
            IpAddr::V4(a) => w.bytes(v4, &a.octets()),
            IpAddr::V6(a) => w.bytes(v6, &a.octets()),
        }
    }
    w.end(ip);
    let proto = w.begin(2);
    w.bytes(1, &[tuple.protocol]);
    w.bytes(2, &tuple.sport.to_be_bytes());
    w.bytes(3, &tuple.dport.to_be_bytes());
    w.end(proto);
    w.end(nest);
}

fn read_tuple(attributes: Attributes<'_>) -> Result<Option<Tuple>, Malformed> {
    let (mut source, mut destination) = (None, None);
    let (mut protocol, mut sport, mut dport) = (None, None, None);
    for attribute in attributes {
        let attribute = attribute?;
        for inner in attribute.nested() {
            let inner = inner?;
            match (attribute.kind, inner.kind) {
                (1, 1 | 3) => source = Some(address(inner.value)?),
                (1, 2 | 4) => destination = Some(address(inner.value)?),
                (2, 1) => protocol = inner.value.first().copied(),
                (2, 2) => sport = Some(inner.be16()?),
                (2, 3) => dport = Some(inner.be16()?),
                _ => {}
            }
        }
    }
    let tuple = || {
        Some(Tuple {
            source: source?,
            destination: destination?,
            protocol: protocol?,
            sport: sport?,
            dport: dport?,
        })
    };
    Ok(tuple())
}

fn address(bytes: &[u8]) -> Result<IpAddr, Malformed> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(v4.into());
    }
    let v6 = <[u8; 16]>::try_from(bytes).map_err(|_| Malformed("not an address"))?;
    Ok(v6.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::attr::messages;
    use proptest::prelude::*;

    fn sample(v6: bool) -> Flow {
        let a = |v4: &str, six: &str| if v6 { six } else { v4 }.parse().unwrap();
        let tuple = |s, d, sport, dport| Tuple {
            source: s,
            destination: d,
            protocol: 17,
            sport,
            dport,
        };
        let client = a("10.0.0.1", "fd00::1");
        Flow {
            original: tuple(client, a("10.96.0.10", "fd96::10"), 4000, 53),
            reply: tuple(a("10.244.1.5", "fd10::5"), client, 5353, 4000),
            id: Some(0x0102_0304),
            zone: 0,
        }
    }

    /// What the kernel sends for a flow, built with the same writer as the request.
    fn report(flow: &Flow) -> Vec<u8> {
        let mut w = Writer::default();
        w.message(SUBSYSTEM << 8 | NEW, 0, 1, 2, 0);
        write_tuple(&mut w, 1, &flow.original);
        write_tuple(&mut w, 2, &flow.reply);
        w.be32(3, 8);
        w.be32(12, flow.id.unwrap());
        w.finish();
        w.into_bytes()
    }

    #[test]
    fn a_reported_flow_reads_back_in_both_families() {
        for v6 in [false, true] {
            let bytes = report(&sample(v6));
            let message = messages(&bytes).next().unwrap().unwrap();
            assert_eq!(flow(&message), Ok(Some(sample(v6))));
        }
    }

    #[test]
    fn a_flow_without_ports_is_passed_over() {
        let mut w = Writer::default();
        w.message(SUBSYSTEM << 8 | NEW, 0, 1, 2, 0);
        let tuple = w.begin(1);
        let proto = w.begin(2);
        w.bytes(1, &[1]);
        w.end(proto);
        w.end(tuple);
        w.finish();
        let bytes = w.into_bytes();
        let message = messages(&bytes).next().unwrap().unwrap();
        assert_eq!(flow(&message), Ok(None));
    }

    #[test]
    fn a_deletion_names_the_original_tuple_and_the_id() {
        let bytes = delete(&sample(false), 9);
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(&hex[..8], "50000000");
        assert!(
            hex.contains("0a000001") && hex.contains("0a60000a"),
            "{hex}"
        );
        assert!(hex.ends_with("08000c0001020304"), "{hex}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let message = Message { kind: SUBSYSTEM << 8, flags: 0, sequence: 0, payload: &bytes };
            let _ = flow(&message);
        }
    }
}

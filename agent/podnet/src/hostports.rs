//! The table `kedge-hostports`: connections to a port of the node that a pod asked for lead to the pod.
//!
//! In: every allocation on the node. Out: a table; what the kernel holds is compared with it, so a crash half-way heals at the next
//! call. A mapping with an address wins over one without.
//!
//! Three things need care. A pod that reaches itself through the node needs masquerade, or it would answer itself directly (`hairpin`).
//! A connection from 127.0.0.1 needs masquerade too, and `route_localnet` on the veth for the way back. And because of
//! `route_localnet` packets for 127.0.0.0/8 that come from outside must be dropped before anything looks at them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use kedge_wire::nft::{
    ARPHRD_LOOPBACK, Bytes, Chain, ChainKind, CmpOp, Element, Expr, Family, Field, Hook, MetaKey,
    NatFlags, NatKind, Reg, Rule, SetSpec, Table, Verdict,
};

use crate::allocation::{Allocation, HostPort};
use crate::tables::{destination, masked, port, source, to_this_node};

/// The table's name.
pub const TABLE: &str = "kedge-hostports";
/// `raw`: before conntrack, so that a reply is not mistaken for a packet to 127.0.0.0/8.
const RAW: i32 = -300;
/// Just before `dstnat`, where Services are: the port on the node was given to the pod explicitly.
const BEFORE_DSTNAT: i32 = -105;
/// `srcnat`
const SRCNAT: i32 = 100;
const LOOPBACK_NET: [u8; 4] = [127, 0, 0, 0];
const LOOPBACK_MASK: u32 = 0xff00_0000;
const PORTS: &str = "ports";
const ANY: &str = "any-address";
const ONE: &str = "one-address";
const HAIRPIN: &str = "hairpin";

/// The table for all pods of the node; without any host port there is none.
pub fn table(allocations: &[Allocation]) -> Option<Table> {
    if allocations.iter().all(|a| a.ports.is_empty()) {
        return None;
    }
    let mut table = Table::new(Family::Ip, TABLE);
    for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        let rules = vec![Rule::new(
            [&to_this_node()[..], &[Expr::jump(PORTS)]].concat(),
        )];
        table.chains.insert(
            name.into(),
            Chain::base(ChainKind::Nat, hook, BEFORE_DSTNAT, rules),
        );
    }
    table.chains.insert(
        PORTS.into(),
        Chain::regular(vec![to_one_address(), to_any_address()]),
    );
    table.chains.insert(
        "postrouting".into(),
        Chain::base(
            ChainKind::Nat,
            Hook::Postrouting,
            SRCNAT,
            vec![from_itself(), from_loopback()],
        ),
    );
    table.chains.insert(
        "guard".into(),
        Chain::base(
            ChainKind::Filter,
            Hook::Prerouting,
            RAW,
            vec![foreign_loopback()],
        ),
    );
    add_maps(&mut table, allocations);
    Some(table)
}

fn add_maps(table: &mut Table, allocations: &[Allocation]) {
    let (mut any, mut one, mut hairpin) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for allocation in allocations {
        for port in &allocation.ports {
            let value = Element::data(endpoint(allocation.address, port.container_port));
            match port.address {
                None => any.insert(port_key(port).into(), value),
                Some(address) => one.insert(
                    [&address.octets()[..], &port_key(port)].concat().into(),
                    value,
                ),
            };
        }
        if !allocation.ports.is_empty() {
            let twice = [allocation.address.octets(), allocation.address.octets()].concat();
            hairpin.insert(Bytes::from(twice), Element::member());
        }
    }
    let pod = [Field::Ipv4Addr, Field::InetService];
    let sets = [
        (
            ANY,
            SetSpec::map([Field::InetProto, Field::InetService], pod).with_elements(any),
        ),
        (
            ONE,
            SetSpec::map([Field::Ipv4Addr, Field::InetProto, Field::InetService], pod)
                .with_elements(one),
        ),
        (
            HAIRPIN,
            SetSpec::set([Field::Ipv4Addr, Field::Ipv4Addr]).with_elements(hairpin),
        ),
    ];
    table
        .sets
        .extend(sets.map(|(name, set)| (name.to_owned(), set)));
}

/// Each field of a key fills four octets.
fn port_key(port: &HostPort) -> [u8; 8] {
    let [high, low] = port.port.to_be_bytes();
    [port.protocol.number(), 0, 0, 0, high, low, 0, 0]
}

fn endpoint(address: Ipv4Addr, port: u16) -> Bytes {
    let [high, low] = port.to_be_bytes();
    [&address.octets()[..], &[high, low, 0, 0]].concat().into()
}

fn to_one_address() -> Rule {
    let mut exprs = vec![destination(Reg(0))];
    exprs.extend(port(Reg(1), Reg(2)));
    exprs.extend([Expr::map(ONE, Reg(0), Reg(0)), to_pod()]);
    Rule::new(exprs)
}

fn to_any_address() -> Rule {
    let mut exprs = port(Reg(0), Reg(1)).to_vec();
    exprs.extend([Expr::map(ANY, Reg(0), Reg(0)), to_pod()]);
    Rule::new(exprs)
}

fn to_pod() -> Expr {
    Expr::Nat {
        kind: NatKind::Dnat,
        family: Family::Ip,
        addr: Reg(0),
        port: Some(Reg(1)),
        flags: NatFlags::empty(),
    }
}

fn from_itself() -> Rule {
    Rule::new([
        source(Reg(0)),
        destination(Reg(1)),
        Expr::in_set(HAIRPIN, Reg(0)),
        Expr::Masquerade(NatFlags::empty()),
    ])
}

fn from_loopback() -> Rule {
    Rule::new([
        Expr::Meta {
            dreg: Reg(0),
            key: MetaKey::OifType,
        },
        Expr::cmp(Reg(0), CmpOp::Neq, ARPHRD_LOOPBACK.to_ne_bytes()),
        source(Reg(0)),
        masked(Reg(0), LOOPBACK_MASK),
        Expr::cmp(Reg(0), CmpOp::Eq, LOOPBACK_NET),
        Expr::Masquerade(NatFlags::empty()),
    ])
}

fn foreign_loopback() -> Rule {
    let mut lo = [0; 16];
    lo[..2].copy_from_slice(b"lo");
    Rule::new([
        Expr::Meta {
            dreg: Reg(0),
            key: MetaKey::IifName,
        },
        Expr::cmp(Reg(0), CmpOp::Neq, lo),
        destination(Reg(0)),
        masked(Reg(0), LOOPBACK_MASK),
        Expr::cmp(Reg(0), CmpOp::Eq, LOOPBACK_NET),
        Expr::Verdict(Verdict::Drop),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_wire::cni::{Attachment, Protocol};

    fn allocation(last: u8, ports: Vec<HostPort>) -> Allocation {
        Allocation {
            address: Ipv4Addr::new(10, 244, 1, last),
            attachment: Attachment {
                container_id: format!("c{last}"),
                ifname: "eth0".into(),
            },
            veth: format!("pod{last}"),
            ports,
        }
    }

    fn host_port(address: Option<Ipv4Addr>, protocol: Protocol) -> HostPort {
        HostPort {
            address,
            protocol,
            port: 8080,
            container_port: 80,
        }
    }

    #[test]
    fn the_table_reads_like_this() {
        let pods = [
            allocation(5, vec![host_port(None, Protocol::Tcp)]),
            allocation(
                6,
                vec![
                    host_port(Some(Ipv4Addr::LOCALHOST), Protocol::Tcp),
                    host_port(None, Protocol::Udp),
                ],
            ),
            allocation(7, vec![]),
        ];
        let table = table(&pods).unwrap();
        expect_test::expect_file!["../golden/kedge-hostports.nft"]
            .assert_eq(&kedge_wire::nft::text::table(&table));
    }

    #[test]
    fn without_host_ports_there_is_no_table() {
        assert_eq!(table(&[allocation(7, vec![])]), None);
    }
}

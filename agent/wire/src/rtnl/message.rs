//! The bodies: fixed header structs of the kernel followed by attributes.

use std::net::Ipv4Addr;

use super::attrs::{ipv4_of, text_of, u32_of};
use super::{Address, Attrs, Link, Request, Route, Target, Veth, Writer, kind};
use crate::net::{Ipv4Net, Mac};

const AF_INET: u8 = 2;

const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;

const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 1 << 3;
const IFF_LOWER_UP: u32 = 1 << 16;
const ARPHRD_ETHER: u16 = 1;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_CACHEINFO: u16 = 6;
const IFA_PROTO: u16 = 11;
const FOREVER: u32 = u32::MAX;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RT_TABLE_MAIN: u8 = 254;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RT_SCOPE_NOWHERE: u8 = 255;
const RTN_UNICAST: u8 = 1;
const RTN_UNREACHABLE: u8 = 7;
const RTNH_F_ONLINK: u32 = 4;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;

impl Request {
    /// Every link.
    pub fn dump_links() -> Self {
        Self::dump("list links", kind::GETLINK, vec![0; 16])
    }

    /// Every IPv4 address.
    pub fn dump_addresses() -> Self {
        Self::dump(
            "list addresses",
            kind::GETADDR,
            vec![AF_INET, 0, 0, 0, 0, 0, 0, 0],
        )
    }

    /// Every IPv4 route; [`Route::parse`] keeps those of the main table.
    pub fn dump_routes() -> Self {
        let mut header = vec![0; 12];
        header[0] = AF_INET;
        Self::dump("list routes", kind::GETROUTE, header)
    }

    fn dump(operation: &'static str, kind: u16, body: Vec<u8>) -> Self {
        Self {
            operation,
            object: "of the kernel".to_owned(),
            kind,
            flags: NLM_F_DUMP,
            body,
        }
    }

    /// Creates both ends at once: there is no moment in which the pod's end lies in the node's namespace.
    pub fn create_veth(veth: &Veth<'_>) -> Self {
        let mut body = Writer::with_header(&link_header(0, 0, 0));
        body.put_str(IFLA_IFNAME, veth.name)
            .put(IFLA_ADDRESS, &veth.mac.0)
            .put_u32(IFLA_MTU, veth.mtu)
            .nest(IFLA_LINKINFO, &[], |info| {
                info.put_str(IFLA_INFO_KIND, "veth")
                    .nest(IFLA_INFO_DATA, &[], |data| {
                        data.nest(VETH_INFO_PEER, &link_header(0, 0, 0), |peer| {
                            peer.put_str(IFLA_IFNAME, veth.peer_name)
                                .put_u32(IFLA_MTU, veth.mtu);
                            if let Some(mac) = veth.peer_mac {
                                peer.put(IFLA_ADDRESS, &mac.0);
                            }
                            if let Some(fd) = veth.peer_netns {
                                peer.put(IFLA_NET_NS_FD, &fd.to_ne_bytes());
                            }
                        });
                    });
            });
        Self {
            operation: "create veth",
            object: veth.name.to_owned(),
            kind: kind::NEWLINK,
            flags: NLM_F_CREATE | NLM_F_EXCL,
            body: body.finish(),
        }
    }

    /// Creates a link that needs nothing but a kind (`dummy`, `bridge`).
    pub fn create_link(name: &str, link_kind: &str) -> Self {
        let mut body = Writer::with_header(&link_header(0, 0, 0));
        body.put_str(IFLA_IFNAME, name)
            .nest(IFLA_LINKINFO, &[], |info| {
                info.put_str(IFLA_INFO_KIND, link_kind);
            });
        Self {
            operation: "create link",
            object: format!("{name} of kind {link_kind}"),
            kind: kind::NEWLINK,
            flags: NLM_F_CREATE | NLM_F_EXCL,
            body: body.finish(),
        }
    }

    /// Up or down.
    pub fn set_link_up(index: u32, up: bool) -> Self {
        let flags = if up { IFF_UP } else { 0 };
        Self::link_change(
            if up {
                "bring up link"
            } else {
                "take down link"
            },
            index,
            Writer::with_header(&link_header(index, flags, IFF_UP)),
        )
    }

    /// Largest IP packet.
    pub fn set_link_mtu(index: u32, mtu: u32) -> Self {
        let mut body = Writer::with_header(&link_header(index, 0, 0));
        body.put_u32(IFLA_MTU, mtu);
        Self::link_change("set MTU of link", index, body)
    }

    /// Joins a bridge or bond; 0 leaves it.
    pub fn set_link_master(index: u32, master: u32) -> Self {
        let mut body = Writer::with_header(&link_header(index, 0, 0));
        body.put_u32(IFLA_MASTER, master);
        Self::link_change("set master of link", index, body)
    }

    /// Hands the link to the namespace behind a descriptor of the sending process.
    pub fn set_link_netns(index: u32, netns: i32) -> Self {
        let mut body = Writer::with_header(&link_header(index, 0, 0));
        body.put(IFLA_NET_NS_FD, &netns.to_ne_bytes());
        Self::link_change("move link to another namespace", index, body)
    }

    fn link_change(operation: &'static str, index: u32, mut body: Writer) -> Self {
        Self {
            operation,
            object: format!("number {index}"),
            kind: kind::NEWLINK,
            flags: 0,
            body: body.finish(),
        }
    }

    /// Removes a link by name; a veth takes its peer along.
    pub fn delete_link(name: &str) -> Self {
        let mut body = Writer::with_header(&link_header(0, 0, 0));
        body.put_str(IFLA_IFNAME, name);
        Self {
            operation: "delete link",
            object: name.to_owned(),
            kind: kind::DELLINK,
            flags: 0,
            body: body.finish(),
        }
    }

    /// Adds an address or renews its lifetime.
    pub fn set_address(address: &Address) -> Self {
        Self {
            operation: "set address",
            object: format!("{} on link {}", address.net, address.index),
            kind: kind::NEWADDR,
            flags: NLM_F_CREATE | NLM_F_REPLACE,
            body: address_body(address),
        }
    }

    /// Removes an address.
    pub fn delete_address(index: u32, net: Ipv4Net) -> Self {
        Self {
            operation: "delete address",
            object: format!("{net} on link {index}"),
            kind: kind::DELADDR,
            flags: 0,
            body: address_body(&Address {
                index,
                net,
                valid: None,
                protocol: None,
            }),
        }
    }

    /// Adds a route, or replaces the one with the same destination and metric.
    pub fn replace_route(route: &Route) -> Self {
        Self {
            operation: "set route",
            object: route.to_string(),
            kind: kind::NEWROUTE,
            flags: NLM_F_CREATE | NLM_F_REPLACE,
            body: route_body(route),
        }
    }

    /// Removes exactly this route.
    pub fn delete_route(route: &Route) -> Self {
        Self {
            operation: "delete route",
            object: route.to_string(),
            kind: kind::DELROUTE,
            flags: 0,
            body: route_body(route),
        }
    }

    /// A neighbour entry that never ages, so that no ARP is needed.
    pub fn set_neighbour(index: u32, address: Ipv4Addr, mac: Mac) -> Self {
        let mut header = [0; 12];
        header[0] = AF_INET;
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        header[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
        let mut body = Writer::with_header(&header);
        body.put(NDA_DST, &address.octets()).put(NDA_LLADDR, &mac.0);
        Self {
            operation: "set neighbour",
            object: format!("{address} at {mac} on link {index}"),
            kind: kind::NEWNEIGH,
            flags: NLM_F_CREATE | NLM_F_REPLACE,
            body: body.finish(),
        }
    }
}

/// `struct ifinfomsg`
fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// `struct ifaddrmsg` and attributes.
fn address_body(address: &Address) -> Vec<u8> {
    let mut header = [0; 8];
    header[0] = AF_INET;
    header[1] = address.net.prefix();
    header[4..8].copy_from_slice(&address.index.to_ne_bytes());
    let octets = address.net.addr().octets();
    let mut body = Writer::with_header(&header);
    body.put(IFA_LOCAL, &octets).put(IFA_ADDRESS, &octets);
    if address.net.prefix() < 31 {
        body.put(IFA_BROADCAST, &address.net.last().octets());
    }
    let valid = address.valid.unwrap_or(FOREVER);
    let mut lifetimes = [0; 16];
    lifetimes[..4].copy_from_slice(&valid.to_ne_bytes());
    lifetimes[4..8].copy_from_slice(&valid.to_ne_bytes());
    body.put(IFA_CACHEINFO, &lifetimes);
    if let Some(protocol) = address.protocol {
        body.put(IFA_PROTO, &[protocol]);
    }
    body.finish()
}

/// `struct rtmsg` and attributes.
fn route_body(route: &Route) -> Vec<u8> {
    let (scope, kind, flags) = match route.target {
        Target::Link { .. } => (RT_SCOPE_LINK, RTN_UNICAST, 0),
        Target::Gateway { onlink, .. } => (
            RT_SCOPE_UNIVERSE,
            RTN_UNICAST,
            if onlink { RTNH_F_ONLINK } else { 0 },
        ),
        Target::Unreachable => (RT_SCOPE_UNIVERSE, RTN_UNREACHABLE, 0),
        // Deleting by destination alone must not match anything: no route has this scope.
        Target::Other => (RT_SCOPE_NOWHERE, 0, 0),
    };
    let mut header = [0; 12];
    header[0] = AF_INET;
    header[1] = route.destination.prefix();
    header[4] = RT_TABLE_MAIN;
    header[5] = route.protocol;
    header[6] = scope;
    header[7] = kind;
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    let mut body = Writer::with_header(&header);
    if route.destination.prefix() > 0 {
        body.put(RTA_DST, &route.destination.network().octets());
    }
    match route.target {
        Target::Link { index } => {
            body.put_u32(RTA_OIF, index);
        }
        Target::Gateway { index, via, .. } => {
            body.put(RTA_GATEWAY, &via.octets());
            if let Some(index) = index {
                body.put_u32(RTA_OIF, index);
            }
        }
        Target::Unreachable | Target::Other => {}
    }
    if let Some(source) = route.source {
        body.put(RTA_PREFSRC, &source.octets());
    }
    if route.metric != 0 {
        body.put_u32(RTA_PRIORITY, route.metric);
    }
    body.finish()
}

impl Link {
    /// From the body of a `NEWLINK` or `DELLINK`.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let (header, rest) = body.split_at_checked(16)?;
        let flags = u32_of(&header[8..12])?;
        let mut link = Self {
            index: u32_of(&header[4..8])?,
            up: flags & IFF_UP != 0,
            carrier: flags & IFF_LOWER_UP != 0,
            loopback: flags & IFF_LOOPBACK != 0,
            ethernet: u16::from_ne_bytes([header[2], header[3]]) == ARPHRD_ETHER,
            ..Self::default()
        };
        for (kind, value) in Attrs(rest) {
            match kind {
                IFLA_IFNAME => link.name = text_of(value),
                IFLA_ADDRESS => link.mac = Mac::from_slice(value),
                IFLA_MTU => link.mtu = u32_of(value).unwrap_or(0),
                IFLA_MASTER => link.master = u32_of(value),
                IFLA_LINKINFO => {
                    link.kind = Attrs(value)
                        .find(|(k, _)| *k == IFLA_INFO_KIND)
                        .map(|(_, v)| text_of(v));
                }
                _ => {}
            }
        }
        (!link.name.is_empty()).then_some(link)
    }
}

impl Address {
    /// From the body of a `NEWADDR`; `None` for other families.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let (header, rest) = body.split_at_checked(8)?;
        if header[0] != AF_INET {
            return None;
        }
        let (mut local, mut peer, mut valid, mut protocol) = (None, None, None, None);
        for (kind, value) in Attrs(rest) {
            match kind {
                IFA_LOCAL => local = ipv4_of(value),
                IFA_ADDRESS => peer = ipv4_of(value),
                IFA_CACHEINFO => valid = value.get(4..8).and_then(u32_of).filter(|v| *v != FOREVER),
                IFA_PROTO => protocol = value.first().copied(),
                _ => {}
            }
        }
        Some(Self {
            index: u32_of(&header[4..8])?,
            net: Ipv4Net::new(local.or(peer)?, header[1])?,
            valid,
            protocol,
        })
    }
}

impl Route {
    /// From the body of a `NEWROUTE`; `None` for other families and tables.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let (header, rest) = body.split_at_checked(12)?;
        let mut table = u32::from(header[4]);
        let flags = u32_of(&header[8..12])?;
        let (mut dst, mut oif, mut via, mut source, mut metric, mut many) =
            (Ipv4Addr::UNSPECIFIED, None, None, None, 0, false);
        for (kind, value) in Attrs(rest) {
            match kind {
                RTA_DST => dst = ipv4_of(value)?,
                RTA_OIF => oif = u32_of(value),
                RTA_GATEWAY => via = ipv4_of(value),
                RTA_PREFSRC => source = ipv4_of(value),
                RTA_PRIORITY => metric = u32_of(value)?,
                RTA_TABLE => table = u32_of(value)?,
                RTA_MULTIPATH => many = true,
                _ => {}
            }
        }
        if header[0] != AF_INET || table != u32::from(RT_TABLE_MAIN) {
            return None;
        }
        let target = match (header[7], oif, via) {
            (RTN_UNREACHABLE, _, _) => Target::Unreachable,
            (RTN_UNICAST, index, Some(via)) if !many => Target::Gateway {
                index,
                via,
                onlink: flags & RTNH_F_ONLINK != 0,
            },
            (RTN_UNICAST, Some(index), None) if !many => Target::Link { index },
            _ => Target::Other,
        };
        Some(Self {
            destination: Ipv4Net::new(dst, header[1])?,
            target,
            source,
            metric,
            protocol: header[5],
        })
    }
}

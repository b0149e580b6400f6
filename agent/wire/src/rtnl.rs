//! rtnetlink for exactly what a node does: links, IPv4 addresses, routes, neighbours.
//!
//! In: what to ask as [`Request`] constructors, and message bodies of the kernel. Out: bytes to send, and [`Link`], [`Address`],
//! [`Route`] values. Layouts: `linux/if_link.h`, `linux/if_addr.h`, `linux/rtnetlink.h`, `linux/neighbour.h`.
//! Absent: sockets (`kedge_sys::rtnetlink`) and the rest of rtnetlink.
//!
//! Written out instead of using netlink-packet-route's message types: those decode every attribute of every link kind and fail the
//! whole dump on one that a newer kernel lengthened, and a node without a network is a brick. The library is the second opinion in tests.

use std::net::Ipv4Addr;

use crate::net::{Ipv4Net, Mac};

mod attrs;
mod message;
#[cfg(test)]
mod tests;

pub use attrs::{Attrs, Writer};

/// Routes to other nodes' pod ranges carry this protocol number, so that a restarted agent finds its own work.
pub const PROTO_PEERS: u8 = 0x6b;
/// Routes to pods on this node.
pub const PROTO_PODS: u8 = 0x6c;
/// Default and static routes of the uplink.
pub const PROTO_UPLINK: u8 = 0x6d;

/// `rtnetlink.h` message types.
pub mod kind {
    /// A link appeared or changed.
    pub const NEWLINK: u16 = 16;
    /// A link went.
    pub const DELLINK: u16 = 17;
    /// Ask for links.
    pub const GETLINK: u16 = 18;
    /// An address appeared or changed.
    pub const NEWADDR: u16 = 20;
    /// An address went.
    pub const DELADDR: u16 = 21;
    /// Ask for addresses.
    pub const GETADDR: u16 = 22;
    /// A route appeared or changed.
    pub const NEWROUTE: u16 = 24;
    /// A route went.
    pub const DELROUTE: u16 = 25;
    /// Ask for routes.
    pub const GETROUTE: u16 = 26;
    /// A neighbour appeared or changed.
    pub const NEWNEIGH: u16 = 28;
}

/// `RTMGRP_*` bits to subscribe to.
pub mod group {
    /// Links: carrier, names, flags.
    pub const LINK: u32 = 1;
    /// IPv4 addresses.
    pub const IPV4_IFADDR: u32 = 0x10;
    /// IPv4 routes.
    pub const IPV4_ROUTE: u32 = 0x40;
}

/// A message for the kernel, and how to speak of it in an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Verb phrase: `add route`.
    pub operation: &'static str,
    /// What it is about: `10.244.2.0/24 via 192.168.50.12`.
    pub object: String,
    /// One of [`kind`].
    pub kind: u16,
    /// `NLM_F_*` beyond `REQUEST` and `ACK`, which the socket sets.
    pub flags: u16,
    /// Header and attributes.
    pub body: Vec<u8>,
}

/// A network interface as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number.
    pub index: u32,
    /// `eth0`.
    pub name: String,
    /// Hardware address, if it is an Ethernet one.
    pub mac: Option<Mac>,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// The cable is in (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// `lo`.
    pub loopback: bool,
    /// Hardware type 1.
    pub ethernet: bool,
    /// Driver kind of a virtual link: `veth`, `bridge`; `None` for hardware.
    pub kind: Option<String>,
    /// Largest IP packet.
    pub mtu: u32,
    /// The bridge or bond it belongs to.
    pub master: Option<u32>,
}

impl Link {
    /// Hardware Ethernet, on its own: what an unconfigured node asks for an address on.
    pub fn is_physical_ethernet(&self) -> bool {
        self.ethernet && !self.loopback && self.kind.is_none() && self.master.is_none()
    }
}

/// An IPv4 address on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The link.
    pub index: u32,
    /// Address and prefix length.
    pub net: Ipv4Net,
    /// Seconds until the kernel removes it; `None` is forever.
    pub valid: Option<u32>,
    /// Who made it (`IFA_PROTO`, since Linux 5.18): the agent removes only what it made.
    pub protocol: Option<u8>,
}

/// What a route does with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// Delivered on the link.
    Link {
        /// The link.
        index: u32,
    },
    /// Handed to a router.
    Gateway {
        /// The link, when given.
        index: Option<u32>,
        /// The router.
        via: Ipv4Addr,
        /// The router is on the link although no address says so.
        onlink: bool,
    },
    /// Answered with ICMP unreachable.
    Unreachable,
    /// A kind this module does not write (multipath, local, …): kept so that it is never taken for ours.
    Other,
}

/// An IPv4 route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Where to.
    pub destination: Ipv4Net,
    /// How.
    pub target: Target,
    /// Preferred source address.
    pub source: Option<Ipv4Addr>,
    /// Smaller wins.
    pub metric: u32,
    /// Who made it: `PROTO_*`, or another program's number.
    pub protocol: u8,
}

/// A veth pair whose other end is born in another namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Veth<'a> {
    /// Name on this side.
    pub name: &'a str,
    /// Hardware address on this side.
    pub mac: Mac,
    /// Name on the other side.
    pub peer_name: &'a str,
    /// Hardware address on the other side; the kernel draws one when absent.
    pub peer_mac: Option<Mac>,
    /// Descriptor number of the other side's namespace, valid in the sending process; `None` keeps both ends here.
    pub peer_netns: Option<i32>,
    /// Both ends.
    pub mtu: u32,
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.destination)?;
        match self.target {
            Target::Link { index } => write!(f, " dev {index}")?,
            Target::Gateway { index, via, onlink } => {
                write!(f, " via {via}")?;
                if let Some(index) = index {
                    write!(f, " dev {index}")?;
                }
                if onlink {
                    f.write_str(" onlink")?;
                }
            }
            Target::Unreachable => f.write_str(" unreachable")?,
            Target::Other => f.write_str(" other")?,
        }
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        if self.metric != 0 {
            write!(f, " metric {}", self.metric)?;
        }
        Ok(())
    }
}

//! Codecs and protocol state machines of the node: nf_tables, conntrack, rtnetlink, DHCP, ARP, SNTP, CNI documents.
//!
//! In: bytes, values, the time. Out: bytes and values. Absent: sockets, clocks, files, randomness that is not given as a seed.

pub mod arp;
pub mod cni;
pub mod conntrack;
pub mod dhcp;
pub mod ipv4;
pub mod net;
pub mod nft;
pub mod rng;
pub mod rtnl;
pub mod sntp;

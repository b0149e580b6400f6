//! tokio around the node's own network: links and DHCP, routes to peers, time, the pod network's publication, the CNI plugin.
//!
//! In: machine config, peers and pod ranges by `watch`. Out: addresses, clock state and faults by `watch`; files in `/run/kedge`.
//! Decisions are in `wire` and `podnet`; here are sockets, timers and files.

pub mod cni;
pub mod network;
pub mod peers;
pub mod proxy;
pub mod time;

mod files;
mod poll;

#[cfg(test)]
mod testing;

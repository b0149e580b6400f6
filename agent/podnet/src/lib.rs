//! The pod network as plans: which address a pod gets, which links, routes and rules that means.
//!
//! In: what the agent published ([`PodNetwork`]), what is allocated ([`Allocation`]), what the kernel holds. Out: rtnetlink requests and
//! nf_tables tables. Absent: sockets, files, locks, and any view of the API.
//!
//! Every pod hangs on its own point-to-point veth: no bridge, so pods of one node meet conntrack and the service rules like everyone
//! else, without `br_netfilter`. Inside, the pod has `ADDRESS/32` and a default route through 169.254.1.1, whose hardware address is a
//! permanent neighbour entry; on the node a /32 route leads to the veth.

mod allocation;
mod document;
pub mod hostports;
pub mod link;
pub mod masquerade;
pub mod routes;
mod tables;

pub use allocation::{Allocation, HostPort, PortError, free_address, host_ports};
pub use document::PodNetwork;

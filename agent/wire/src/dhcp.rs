//! DHCPv4 (RFC 2131, 2132, 3442, 3396): message codec, leases, and a client that touches no socket.
//!
//! In: UDP payloads, ARP packets, link changes and the time. Out: [`Effect`]s – payloads to send, leases to install or remove.
//! Absent: DHCPv6 and sockets; IP and UDP headers are in [`crate::ipv4`].

mod client;
mod lease;
mod message;
mod options;

pub use client::{Client, Effect, Settings, Transport};
pub use lease::{Lease, StaticRoute};
pub use message::{Error, Message, MessageType, Op};
pub use options::{Options, code};

/// Where servers listen.
pub const SERVER_PORT: u16 = 67;
/// Where clients listen.
pub const CLIENT_PORT: u16 = 68;

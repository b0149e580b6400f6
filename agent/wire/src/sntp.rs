//! SNTP (RFC 4330, fields of RFC 5905): packet codec, sampling of several servers, choice of one offset.
//!
//! In: server count, replies, the time. Out: packets to send and a [`Measurement`].
//! Absent: sockets, name lookup, and steering the clock.

use std::time::Duration;

mod client;
mod packet;

pub use client::{Client, Measurement, Query};
pub use packet::{Leap, Packet, Timestamp};

/// Where servers listen.
pub const PORT: u16 = 123;

/// A signed span in nanoseconds: 292 years in each direction.
pub type Nanos = i64;

/// A reading of both clocks when a packet left or came: durations from `mono`, the offset from `wall`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Monotonic.
    pub mono: Duration,
    /// Since the Unix epoch.
    pub wall: Duration,
}

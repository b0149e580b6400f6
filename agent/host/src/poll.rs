//! Sockets of `sys` on tokio's reactor.

use std::io;
use std::os::fd::AsRawFd;

use kedge_sys::packet::PacketSocket;
use kedge_sys::rtnetlink::Monitor;
use tokio::io::unix::AsyncFd;

/// A socket that owns its descriptor and never exchanges it.
pub trait OwnsDescriptor: AsRawFd {}

impl OwnsDescriptor for PacketSocket {}
impl OwnsDescriptor for Monitor {}

/// Registers `socket` with the current runtime.
#[expect(
    deprecated,
    reason = "the replacement `register` is unsafe: the caller vouches that the descriptor stays the same and open, which the two \
              types above guarantee; `unsafe` stays in `sys`, and `sys` stays without tokio"
)]
pub fn pollable<T: OwnsDescriptor>(socket: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::new(socket)
}

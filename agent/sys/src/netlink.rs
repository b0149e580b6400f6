//! One netlink socket for every family: rtnetlink here, nf_tables and conntrack in `nfnetlink`.
//!
//! In: framed messages. Out: framed messages of the kernel, whole datagrams at a time, and acknowledgements as `io::Error`.
//! Decides nothing about contents. The descriptor can be polled ([`AsFd`]); requests themselves block, because the kernel answers
//! them before `send` returns.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_sys::{Socket as Inner, SocketAddr};

/// `NETLINK_ROUTE`
pub const ROUTE: isize = 0;
/// `NETLINK_NETFILTER`
pub const NETFILTER: isize = 12;

const NLMSG_HDRLEN: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;

/// A dump that raced with a change is asked again this often before it counts as failed.
const DUMP_TRIES: usize = 8;

/// A bound netlink socket.
#[derive(Debug)]
pub struct Socket {
    inner: Inner,
    sequence: u32,
}

/// One message of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// `nlmsg_type`
    pub kind: u16,
    /// `nlmsg_flags`
    pub flags: u16,
    /// `nlmsg_seq`
    pub sequence: u32,
    /// After the header.
    pub body: &'a [u8],
}

/// Iterates over the messages of a datagram; ends at the first length that does not fit.
#[derive(Clone, Debug)]
pub struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.0.get(..NLMSG_HDRLEN)?;
        let len = u32::from_ne_bytes(header[..4].try_into().ok()?) as usize;
        let message = Message {
            kind: u16::from_ne_bytes(header[4..6].try_into().ok()?),
            flags: u16::from_ne_bytes(header[6..8].try_into().ok()?),
            sequence: u32::from_ne_bytes(header[8..12].try_into().ok()?),
            body: self.0.get(NLMSG_HDRLEN..len)?,
        };
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

impl Message<'_> {
    /// The kernel's verdict when this is an acknowledgement: `Some(Ok)` or the errno.
    pub fn acknowledgement(&self) -> Option<io::Result<()>> {
        if self.kind != NLMSG_ERROR {
            return None;
        }
        let code = self
            .body
            .get(..4)
            .and_then(|b| b.try_into().ok())
            .map_or(-libc::EBADMSG, i32::from_ne_bytes);
        Some(match code {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        })
    }
}

/// Frames one message.
pub fn frame(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let len = NLMSG_HDRLEN + body.len();
    let mut out = Vec::with_capacity(len.next_multiple_of(4));
    // Bodies are attributes of at most 64 KiB each, far below 4 GiB.
    out.extend((len as u32).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend(0u32.to_ne_bytes());
    out.extend(body);
    out.resize(len.next_multiple_of(4), 0);
    out
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace and keeps it there.
    pub fn open(protocol: isize) -> io::Result<Self> {
        let mut inner = Inner::new(protocol)?;
        inner.bind_auto()?;
        Ok(Self { inner, sequence: 0 })
    }

    /// Opens a non-blocking socket subscribed to legacy multicast `groups` (bit mask).
    pub fn subscribe(protocol: isize, groups: u32) -> io::Result<Self> {
        let mut inner = Inner::new(protocol)?;
        inner.bind(&SocketAddr::new(0, groups))?;
        inner.set_non_blocking(true)?;
        Ok(Self { inner, sequence: 0 })
    }

    /// The next sequence number.
    pub fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.sequence
    }

    /// Sends one datagram to the kernel.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.inner
            .send_to(bytes, &SocketAddr::new(0, 0), 0)
            .map(|_| ())
    }

    /// Receives one whole datagram from the kernel; others cannot be heard.
    pub fn receive(&self) -> io::Result<Vec<u8>> {
        loop {
            let (bytes, from) = self.inner.recv_from_full()?;
            if from.port_number() == 0 {
                return Ok(bytes);
            }
        }
    }

    /// Sends one message and waits for its acknowledgement.
    pub fn request(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        let sequence = self.next_sequence();
        self.send(&frame(
            kind,
            flags | NLM_F_REQUEST | NLM_F_ACK,
            sequence,
            body,
        ))?;
        loop {
            let datagram = self.receive()?;
            for message in Messages(&datagram).filter(|m| m.sequence == sequence) {
                if let Some(verdict) = message.acknowledgement() {
                    return verdict;
                }
            }
        }
    }

    /// Sends a dump request and collects what `parse` keeps of the answer. A dump that a change interrupted is asked again.
    pub fn dump<T>(
        &mut self,
        kind: u16,
        body: &[u8],
        mut parse: impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..DUMP_TRIES {
            let (found, interrupted) = self.dump_once(kind, body, &mut parse)?;
            if !interrupted {
                return Ok(found);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::Interrupted,
            "the kernel's table changed during every dump",
        ))
    }

    fn dump_once<T>(
        &mut self,
        kind: u16,
        body: &[u8],
        parse: &mut impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> io::Result<(Vec<T>, bool)> {
        let sequence = self.next_sequence();
        self.send(&frame(kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, body))?;
        let (mut found, mut interrupted) = (Vec::new(), false);
        loop {
            let datagram = self.receive()?;
            for message in Messages(&datagram).filter(|m| m.sequence == sequence) {
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                if message.kind == NLMSG_DONE {
                    return Ok((found, interrupted));
                }
                match message.acknowledgement() {
                    Some(verdict) => verdict?,
                    None => found.extend(parse(message.kind, message.body)),
                }
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is owned by `inner`, which lives as long as the returned borrow; `netlink_sys` offers no `AsFd`.
        unsafe { BorrowedFd::borrow_raw(self.inner.as_raw_fd()) }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_are_read_back_in_order() {
        let mut datagram = frame(16, 5, 1, b"abcde");
        datagram.extend(frame(17, 0, 2, b""));
        let read: Vec<_> = Messages(&datagram)
            .map(|m| (m.kind, m.sequence, m.body))
            .collect();
        assert_eq!(read, [(16, 1, &b"abcde"[..]), (17, 2, b"")]);
    }

    #[test]
    fn acknowledgement_carries_the_errno() {
        let body = (-libc::EEXIST).to_ne_bytes();
        let datagram = frame(NLMSG_ERROR, 0, 1, &body);
        let verdict = Messages(&datagram)
            .next()
            .unwrap()
            .acknowledgement()
            .unwrap();
        assert_eq!(verdict.unwrap_err().raw_os_error(), Some(libc::EEXIST));
    }

    proptest! {
        #[test]
        fn reading_any_datagram_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            for message in Messages(&bytes) {
                let _ = message.acknowledgement();
            }
        }
    }
}

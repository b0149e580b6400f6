//! Sockets below and beside the IP stack: DHCP before there is an address, ARP probes, UDP bound to a link.
//!
//! In: a link and payload bytes. Out: payload bytes with the sender's hardware address.
//! Non-blocking; poll the descriptor. The kernel adds and strips the Ethernet header (`SOCK_DGRAM`).

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use kedge_wire::net::Mac;

use crate::{Error, Result};

/// An `AF_PACKET` socket on one link for one protocol.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
    index: u32,
    protocol: u16,
}

/// A received payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// From the IP or ARP header on.
    pub payload: Vec<u8>,
    /// Who sent it.
    pub source: Option<Mac>,
    /// The sender on the same machine left the transport checksum to hardware that was never reached: do not verify it.
    pub checksum_pending: bool,
}

/// Larger than any DHCP message over Ethernet; longer frames are cut and then fail to parse.
const FRAME: usize = 2048;

/// Classic BPF: unfragmented UDP to port 68. Loads are relative to the IP header.
const DHCP_REPLIES: [libc::sock_filter; 9] = [
    op(0x30, 0, 0, 9),      // A = protocol
    op(0x15, 0, 6, 17),     // UDP?
    op(0x28, 0, 0, 6),      // A = flags and fragment offset
    op(0x45, 4, 0, 0x1fff), // a later fragment?
    op(0xb1, 0, 0, 0),      // X = header length
    op(0x48, 0, 0, 2),      // A = destination port
    op(0x15, 0, 1, 68),     // bootpc?
    op(0x06, 0, 0, 0xffff), // keep
    op(0x06, 0, 0, 0),      // drop
];

/// More addresses than this are not filtered: jumps reach 255 instructions.
const MAX_ARP_FILTER: usize = 64;

/// Keeps packets whose sender address is one of `addresses`, or is zero while the target is one of them. Offsets are relative to
/// the ARP header.
fn arp_filter(addresses: &[Ipv4Addr]) -> Vec<libc::sock_filter> {
    const KEEP: libc::sock_filter = op(0x06, 0, 0, 0xffff);
    if addresses.len() > MAX_ARP_FILTER {
        return vec![KEEP];
    }
    let count = addresses.len() as u8;
    // To `KEEP`, the last instruction: over the rest of this list, and what stands behind it.
    let list = |behind: u8| {
        addresses.iter().enumerate().map(move |(at, address)| {
            op(0x15, count - 1 - at as u8 + behind, 0, u32::from(*address))
        })
    };
    let mut program = vec![op(0x20, 0, 0, 14)];
    // Behind the first list: the test for zero, a load, the second list, the drop.
    program.extend(list(count + 3));
    program.push(op(0x15, 0, count + 1, 0));
    program.push(op(0x20, 0, 0, 24));
    program.extend(list(1));
    program.push(op(0x06, 0, 0, 0));
    program.push(KEEP);
    program
}

const fn op(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

impl PacketSocket {
    /// Hears DHCP replies on link `index` before it has an address.
    pub fn dhcp(index: u32) -> Result<Self> {
        Self::open(index, libc::ETH_P_IP as u16, Some(&DHCP_REPLIES))
            .map_err(|e| Error::new("open", format!("DHCP socket on link {index}"), e))
    }

    /// Hears ARP packets on link `index` that claim or probe one of `addresses`: on a busy segment the others are many.
    pub fn arp(index: u32, addresses: &[Ipv4Addr]) -> Result<Self> {
        let filter = arp_filter(addresses);
        Self::open(index, libc::ETH_P_ARP as u16, Some(&filter))
            .map_err(|e| Error::new("open", format!("ARP socket on link {index}"), e))
    }

    fn open(index: u32, protocol: u16, filter: Option<&[libc::sock_filter]>) -> io::Result<Self> {
        // Protocol 0 hears nothing: the filter is in place before the bind that starts the flow.
        // SAFETY: constants only; the result is checked before use.
        let fd = check(unsafe {
            libc::socket(
                libc::AF_PACKET,
                libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
                0,
            )
        })?;
        // SAFETY: `fd` was just returned by socket(2) and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        if let Some(filter) = filter {
            let program = libc::sock_fprog {
                len: filter.len() as u16,
                filter: filter.as_ptr().cast_mut(),
            };
            set_option(&fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
        }
        set_option(&fd, libc::SOL_PACKET, libc::PACKET_AUXDATA, &1i32)?;
        let socket = Self {
            fd,
            index,
            protocol,
        };
        let address = socket.address(Mac::default());
        // SAFETY: `address` is a complete sockaddr_ll that lives across the call, and its own size is passed.
        check(unsafe {
            libc::bind(
                socket.fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        })?;
        Ok(socket)
    }

    fn address(&self, mac: Mac) -> libc::sockaddr_ll {
        let mut hardware = [0; 8];
        hardware[..6].copy_from_slice(&mac.0);
        libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: self.protocol.to_be(),
            sll_ifindex: self.index as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: hardware,
        }
    }

    /// Sends `payload` to the station `to`.
    pub fn send(&self, to: Mac, payload: &[u8]) -> io::Result<()> {
        let address = self.address(to);
        // SAFETY: payload pointer and length belong to one live slice; `address` is a complete sockaddr_ll and its own size is passed.
        let sent = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                payload.as_ptr().cast(),
                payload.len(),
                0,
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// The next frame that another station sent; `WouldBlock` when there is none.
    pub fn receive(&self) -> io::Result<Received> {
        loop {
            if let Some(received) = self.receive_any()? {
                return Ok(received);
            }
        }
    }

    /// `None` for a frame that this machine sent itself.
    fn receive_any(&self) -> io::Result<Option<Received>> {
        let mut payload = vec![0; FRAME];
        let mut control = [0u64; 16];
        // SAFETY: all-zero is a valid sockaddr_ll and a valid msghdr (plain integers and null pointers).
        let (mut from, mut header): (libc::sockaddr_ll, libc::msghdr) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let mut part = libc::iovec {
            iov_base: payload.as_mut_ptr().cast(),
            iov_len: payload.len(),
        };
        header.msg_name = (&raw mut from).cast();
        header.msg_namelen = size_of_val(&from) as libc::socklen_t;
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control) as _;
        // SAFETY: every pointer in `header` refers to a live local with the length given beside it.
        let len = unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut header, 0) };
        if len < 0 {
            return Err(io::Error::last_os_error());
        }
        payload.truncate(len as usize);
        if from.sll_pkttype == libc::PACKET_OUTGOING {
            return Ok(None);
        }
        Ok(Some(Received {
            payload,
            source: (from.sll_halen == 6)
                .then(|| Mac::from_slice(&from.sll_addr[..6]))
                .flatten(),
            checksum_pending: checksum_pending(&header),
        }))
    }
}

/// `TP_STATUS_CSUMNOTREADY` of the packet's auxiliary data.
fn checksum_pending(header: &libc::msghdr) -> bool {
    // SAFETY: `header` was filled by recvmsg, so the control buffer holds complete, aligned cmsghdr records; CMSG_FIRSTHDR and
    // CMSG_NXTHDR return null at the end.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(header);
        while !next.is_null() {
            if (*next).cmsg_level == libc::SOL_PACKET && (*next).cmsg_type == libc::PACKET_AUXDATA {
                let aux: libc::tpacket_auxdata =
                    std::ptr::read_unaligned(libc::CMSG_DATA(next).cast());
                return aux.tp_status & libc::TP_STATUS_CSUMNOTREADY != 0;
            }
            next = libc::CMSG_NXTHDR(header, next);
        }
    }
    false
}

fn check(rc: i32) -> io::Result<i32> {
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(rc)
    }
}

fn set_option<T>(fd: &OwnedFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: `value` is a live T and its size is passed; callers pair each option with the type the kernel expects for it.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// A non-blocking UDP socket bound to `address:port` on link `name`: DHCP renewal, and tests.
pub fn udp_on_link(name: &str, address: Ipv4Addr, port: u16) -> Result<UdpSocket> {
    let fail =
        |e: nix::Error| Error::new("open", format!("UDP socket {address}:{port} on {name}"), e);
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, bind, setsockopt, socket, sockopt};
    let fd = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )
    .map_err(fail)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true).map_err(fail)?;
    setsockopt(&fd, sockopt::BindToDevice, &name.into()).map_err(fail)?;
    setsockopt(&fd, sockopt::Broadcast, &true).map_err(fail)?;
    let at = nix::sys::socket::SockaddrIn::from(SocketAddrV4::new(address, port));
    bind(fd.as_raw_fd(), &at).map_err(fail)?;
    Ok(UdpSocket::from(fd))
}

/// 64 random bits from the kernel: the seed of protocol randomness.
pub fn random_seed() -> u64 {
    let mut seed = [0u8; 8];
    // SAFETY: the buffer is 8 writable bytes and its length is passed; requests of up to 256 bytes are never cut short.
    let got = unsafe { libc::getrandom(seed.as_mut_ptr().cast(), seed.len(), 0) };
    if got == 8 {
        u64::from_ne_bytes(seed)
    } else {
        // Only a kernel without getrandom or a signal before the pool is ready comes here; the clock still differs between nodes.
        let now = crate::time::now();
        (now.wall.as_nanos() as u64) ^ (now.mono.as_nanos() as u64).rotate_left(32)
    }
}

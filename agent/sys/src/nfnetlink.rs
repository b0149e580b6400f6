//! nf_tables and conntrack over netlink: one batch out, its verdict in; dumps; a watch for changes by others.
//!
//! In: transactions and queries as `wire` values. Out: `Ok`, or an error that names the operation of the batch at fault.
//! Absent: what the rules mean, retries, the decision to read back.
//!
//! The kernel answers a batch before `sendmsg` returns, so its verdict is read without waiting. Buffers are forced to sizes
//! that fit: a batch larger than the send buffer fails with EMSGSIZE, and a reply that does not fit fails with ENOBUFS, after
//! which nothing is known and the caller has to dump.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use kedge_wire::conntrack::{self, Flow};
use kedge_wire::nft::attr::{
    Attributes, Malformed, Message, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, messages,
};
use kedge_wire::nft::decode::Reader;
use kedge_wire::nft::encode::{self, Query, Unencodable, msg};
use kedge_wire::nft::{Family, Table, Transaction, text};
use netlink_sys::{Socket as Inner, SocketAddr};

/// Room for some ten thousand acknowledgements and errors; each costs about 768 bytes of it.
const RECEIVE_BUFFER: usize = 8 << 20;
/// `NFNLGRP_NFTABLES`.
const GROUP_NFTABLES: u32 = 7;
/// A dump that raced with a change is asked again this often.
const DUMP_TRIES: usize = 8;
/// How long a dump may stay silent before it counts as failed.
const DUMP_TIMEOUT_SECONDS: i64 = 10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;

/// A socket to netfilter, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netfilter {
    socket: Inner,
    port: u32,
    sequence: u32,
    send_buffer: usize,
    sent_bytes: u64,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open a netfilter socket")]
    Open(#[source] io::Error),
    #[error("send {what} to netfilter")]
    Send {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("encode a batch")]
    Encode(#[from] Unencodable),
    /// The kernel applied nothing of the batch.
    #[error("nf_tables refused \"{operation}\"{}", hint.as_deref().map(|h| format!(" ({h})")).unwrap_or_default())]
    Refused {
        operation: String,
        /// The kernel's own words, if it gave any.
        hint: Option<String>,
        #[source]
        source: io::Error,
    },
    /// Replies were lost: whether the batch was applied is unknown.
    #[error("netfilter's replies overran the socket while {0}")]
    Overrun(&'static str),
    #[error("read {what} from netfilter")]
    Receive {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("understand {what} of netfilter")]
    Malformed {
        what: &'static str,
        #[source]
        source: Malformed,
    },
}

impl Error {
    /// The kernel's errno, when it gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Open(source)
            | Self::Send { source, .. }
            | Self::Refused { source, .. }
            | Self::Receive { source, .. } => source.raw_os_error(),
            Self::Overrun(_) => Some(libc::ENOBUFS),
            Self::Encode(_) | Self::Malformed { .. } => None,
        }
    }
}

type Result<T> = std::result::Result<T, Error>;

impl Netfilter {
    /// Opens and sizes the socket.
    pub fn open() -> Result<Self> {
        let mut socket = Inner::new(libc::NETLINK_NETFILTER as isize).map_err(Error::Open)?;
        let address = socket.bind_auto().map_err(Error::Open)?;
        let fd = socket.as_raw_fd();
        force_buffer(fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER)
            .map_err(Error::Open)?;
        // Errors come with the kernel's explanation and without a copy of the whole message.
        for option in [libc::NETLINK_CAP_ACK, libc::NETLINK_EXT_ACK] {
            set_option(fd, libc::SOL_NETLINK, option, &1i32).map_err(Error::Open)?;
        }
        let timeout = libc::timeval {
            tv_sec: DUMP_TIMEOUT_SECONDS,
            tv_usec: 0,
        };
        set_option(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &timeout).map_err(Error::Open)?;
        Ok(Self {
            socket,
            port: address.port_number(),
            sequence: 1,
            send_buffer: 0,
            sent_bytes: 0,
        })
    }

    /// Applies a transaction, all or nothing. An empty one is done already.
    pub fn commit(&mut self, transaction: &Transaction) -> Result<()> {
        if transaction.is_empty() {
            return Ok(());
        }
        let batch = encode::batch(transaction, self.sequence)?;
        self.sequence = batch.last.wrapping_add(2);
        self.discard();
        self.send("a batch", &batch.bytes)?;
        let (mut acknowledged, mut refused) = (false, None);
        while let Some(datagram) = self.receive_now("committing")? {
            for message in messages(&datagram).map_while(std::result::Result::ok) {
                match verdict(&message) {
                    Some(Ok(())) if message.sequence == batch.last => acknowledged = true,
                    Some(Err(failure)) if refused.is_none() => {
                        refused = Some((message.sequence, failure));
                    }
                    _ => {}
                }
            }
        }
        if let Some((sequence, (source, hint))) = refused {
            let operation = match batch.op(sequence).and_then(|i| transaction.ops.get(i)) {
                Some(op) => text::op(&transaction.table, op),
                None => format!("batch of {} operations", transaction.ops.len()),
            };
            return Err(Error::Refused {
                operation,
                hint,
                source,
            });
        }
        // Neither an error nor an acknowledgement: the reply was lost.
        acknowledged
            .then_some(())
            .ok_or(Error::Overrun("committing"))
    }

    /// Reads a table back, without the elements of dynamic sets. `None` when there is none.
    pub fn table(&mut self, family: Family, name: &str) -> Result<Option<Table>> {
        for _ in 0..DUMP_TRIES {
            match self.table_once(family, name)? {
                Dumped::Whole(table) => return Ok(table.map(|t| *t)),
                Dumped::Interrupted => {}
            }
        }
        Err(Error::Receive {
            what: "a table",
            source: io::Error::new(io::ErrorKind::Interrupted, "it changed during every dump"),
        })
    }

    /// The kernel's number of a table: it changes when someone deletes and recreates it. `None` when there is none.
    pub fn handle(&mut self, family: Family, name: &str) -> Result<Option<u64>> {
        let mut reader = Reader::new(family, name);
        match self.ask(Query::Table(name), family, &mut reader) {
            Ok(_) => Ok(reader.handle),
            Err(e) if e.errno() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn table_once(&mut self, family: Family, name: &str) -> Result<Dumped> {
        let mut reader = Reader::new(family, name);
        match self.ask(Query::Table(name), family, &mut reader) {
            Err(e) if e.errno() == Some(libc::ENOENT) => return Ok(Dumped::Whole(None)),
            other => other?,
        };
        let mut interrupted = false;
        for query in [Query::Sets(name), Query::Chains, Query::Rules(name)] {
            interrupted |= self.ask(query, family, &mut reader)?;
        }
        for set in reader.wants_elements() {
            let query = Query::Elements {
                table: name,
                set: &set,
            };
            match self.ask(query, family, &mut reader) {
                Ok(torn) => interrupted |= torn,
                // The set went away since it was listed.
                Err(e) if e.errno() == Some(libc::ENOENT) => interrupted = true,
                Err(e) => return Err(e),
            }
        }
        Ok(match interrupted {
            true => Dumped::Interrupted,
            false => Dumped::Whole(Some(Box::new(reader.finish()))),
        })
    }

    /// Sends one query and feeds its answer to the reader. True when a change tore it.
    fn ask(&mut self, query: Query<'_>, family: Family, reader: &mut Reader) -> Result<bool> {
        let what = match query {
            Query::Table(_) => "a table",
            Query::Chains => "chains",
            Query::Rules(_) => "rules",
            Query::Sets(_) => "sets",
            Query::Elements { .. } => "elements",
        };
        let bytes = encode::query(query, family, self.next_sequence());
        let mut broken = None;
        let interrupted = self.exchange(what, &bytes, query.is_dump(), |message| {
            if let Err(e) = reader.message(message) {
                broken.get_or_insert(e);
            }
        })?;
        match broken {
            // A rule of a chain created since the chains were listed reads as malformed too; a torn dump is asked again.
            Some(_) if interrupted => Ok(true),
            Some(source) => Err(Error::Malformed { what, source }),
            None => Ok(interrupted),
        }
    }

    /// All flows of a family that have ports.
    pub fn flows(&mut self, family: Family) -> Result<Vec<Flow>> {
        let bytes = conntrack::dump(family.number(), self.next_sequence());
        let mut flows = Vec::new();
        self.exchange("connections", &bytes, true, |message| {
            // A flow this codec cannot read is none it would delete.
            flows.extend(conntrack::flow(message).ok().flatten());
        })?;
        Ok(flows)
    }

    /// Deletes flows; those already gone count as deleted. Returns how many the kernel deleted.
    pub fn delete_flows<'a>(&mut self, flows: impl IntoIterator<Item = &'a Flow>) -> Result<usize> {
        let mut deleted = 0;
        for flow in flows {
            let bytes = conntrack::delete(flow, self.next_sequence());
            match self.exchange("a connection's deletion", &bytes, false, |_| {}) {
                Ok(_) => deleted += 1,
                Err(e) if e.errno() == Some(libc::ENOENT) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(deleted)
    }

    /// Sends a request and visits every message of the answer: up to the end of a dump, or the single answer or verdict.
    fn exchange(
        &mut self,
        what: &'static str,
        request: &[u8],
        dump: bool,
        mut visit: impl FnMut(&Message<'_>),
    ) -> Result<bool> {
        let sequence = self.sequence;
        self.discard();
        self.send(what, request)?;
        let mut interrupted = false;
        loop {
            let datagram = self.receive(what)?;
            for message in messages(&datagram) {
                let message = message.map_err(|source| Error::Malformed { what, source })?;
                if message.sequence != sequence {
                    continue;
                }
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match verdict(&message) {
                    Some(Ok(())) => return Ok(interrupted),
                    Some(Err((source, _))) => return Err(Error::Receive { what, source }),
                    None if message.kind == NLMSG_DONE => return Ok(interrupted),
                    None => visit(&message),
                }
                if !dump {
                    return Ok(interrupted);
                }
            }
        }
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.sequence
    }

    fn send(&mut self, what: &'static str, bytes: &[u8]) -> Result<()> {
        let failed = |source| Error::Send { what, source };
        if bytes.len() > self.send_buffer {
            let fd = self.socket.as_raw_fd();
            // The kernel doubles the value, which covers its own overhead.
            let size = bytes.len().max(1 << 18);
            force_buffer(fd, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, size).map_err(failed)?;
            self.send_buffer = size;
        }
        let kernel = SocketAddr::new(0, 0);
        let sent = self.socket.send_to(bytes, &kernel, 0).map_err(failed)?;
        self.sent_bytes += sent as u64;
        Ok(())
    }

    /// Bytes sent through this socket so far.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// The next datagram that is queued already.
    fn receive_now(&self, doing: &'static str) -> Result<Option<Vec<u8>>> {
        match receive(&self.socket, libc::MSG_DONTWAIT) {
            Ok(datagram) => Ok(Some(datagram)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => Err(Error::Overrun(doing)),
            Err(source) => Err(Error::Receive {
                what: "a verdict",
                source,
            }),
        }
    }

    fn receive(&self, what: &'static str) -> Result<Vec<u8>> {
        receive(&self.socket, 0).map_err(|source| match source.raw_os_error() {
            Some(libc::ENOBUFS) => Error::Overrun("reading"),
            _ => Error::Receive { what, source },
        })
    }

    /// Throws away what an earlier, failed exchange left in the queue.
    fn discard(&self) {
        loop {
            match receive(&self.socket, libc::MSG_DONTWAIT) {
                Ok(_) => {}
                // Reported once, cleared by reading it.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(_) => return,
            }
        }
    }
}

enum Dumped {
    Whole(Option<Box<Table>>),
    Interrupted,
}

/// The kernel's verdict when the message is one: an errno with the kernel's words.
fn verdict(message: &Message<'_>) -> Option<std::result::Result<(), (io::Error, Option<String>)>> {
    if message.kind != NLMSG_ERROR {
        return None;
    }
    let code = message.payload.get(..4).and_then(|b| b.try_into().ok());
    let code = code.map_or(-libc::EBADMSG, i32::from_ne_bytes);
    if code == 0 {
        return Some(Ok(()));
    }
    let both = NLM_F_CAPPED | NLM_F_ACK_TLVS;
    let tail = (message.flags & both == both).then(|| message.payload.get(20..));
    let attributes = Attributes(tail.flatten().unwrap_or_default());
    // NLMSGERR_ATTR_MSG.
    let hint = attributes.flatten().find(|a| a.kind == 1);
    let hint = hint.and_then(|a| a.text().ok()).map(str::to_owned);
    Some(Err((io::Error::from_raw_os_error(-code), hint)))
}

/// One whole datagram.
fn receive(socket: &Inner, flags: i32) -> io::Result<Vec<u8>> {
    let mut buffer: Vec<u8> = Vec::with_capacity(64 << 10);
    let (len, _) = socket.recv_from(&mut buffer, flags | libc::MSG_TRUNC)?;
    // Dumps are cut to the reader's buffer by the kernel, verdicts are small: a longer datagram is a lie about its length.
    if len > buffer.len() {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    Ok(buffer)
}

fn force_buffer(fd: i32, force: i32, plain: i32, size: usize) -> io::Result<()> {
    let size = i32::try_from(size).unwrap_or(i32::MAX / 2);
    match set_option(fd, libc::SOL_SOCKET, force, &size) {
        // Without CAP_NET_ADMIN in the socket's namespace: as much as the sysctl allows.
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
            set_option(fd, libc::SOL_SOCKET, plain, &size)
        }
        other => other,
    }
}

fn set_option<T>(fd: i32, level: i32, option: i32, value: &T) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: `value` points to `len` initialised bytes that outlive the call; the kernel only reads them. No safe wrapper
    // takes the FORCE options and socket filters alike.
    let rc = unsafe { libc::setsockopt(fd, level, option, std::ptr::from_ref(value).cast(), len) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Tells when someone else committed to nf_tables. A socket filter passes nothing but the generation messages of others, so a
/// busy neighbour costs one small datagram per commit.
#[derive(Debug)]
pub struct Watch {
    socket: Inner,
}

impl Watch {
    /// Watches for commits that did not come through `ours`. Non-blocking; poll it for reading.
    pub fn open(ours: &Netfilter) -> Result<Self> {
        let mut socket = Inner::new(libc::NETLINK_NETFILTER as isize).map_err(Error::Open)?;
        socket.set_non_blocking(true).map_err(Error::Open)?;
        socket.bind_auto().map_err(Error::Open)?;
        attach(socket.as_raw_fd(), &mut generations_of_others(ours.port)).map_err(Error::Open)?;
        socket.add_membership(GROUP_NFTABLES).map_err(Error::Open)?;
        Ok(Self { socket })
    }

    /// Whether anyone committed since the last call; reads the queue empty. An overrun counts as a change.
    pub fn changed(&self) -> io::Result<bool> {
        let mut changed = false;
        loop {
            match receive(&self.socket, 0) {
                Ok(_) => changed = true,
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => changed = true,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(changed),
                Err(e) => return Err(e),
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is owned by `socket`, which lives as long as the returned borrow; `netlink_sys` has no `AsFd`.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }
}

impl std::os::fd::AsRawFd for Watch {
    fn as_raw_fd(&self) -> i32 {
        self.socket.as_raw_fd()
    }
}

/// Passes a message whose type is NEWGEN and whose sender is not `port`. The filter machine loads big-endian, the header is host
/// order, so the constants are turned.
fn generations_of_others(port: u32) -> [libc::sock_filter; 6] {
    const LOAD_HALF: u16 = 0x28;
    const LOAD_WORD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let kind = encode::SUBSYSTEM << 8 | msg::NEWGEN;
    let kind = u32::from(u16::from_be_bytes(kind.to_ne_bytes()));
    let port = u32::from_be_bytes(port.to_ne_bytes());
    [
        step(LOAD_HALF, 0, 0, 4),
        step(JUMP_EQUAL, 0, 3, kind),
        step(LOAD_WORD, 0, 0, 12),
        step(JUMP_EQUAL, 1, 0, port),
        step(RETURN, 0, 0, u32::MAX),
        step(RETURN, 0, 0, 0),
    ]
}

fn attach(fd: i32, filter: &mut [libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).unwrap_or(0),
        filter: filter.as_mut_ptr(),
    };
    set_option(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

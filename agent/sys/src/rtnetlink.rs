//! Links, addresses and routes of one network namespace, and namespaces themselves.
//!
//! In: [`Request`]s of `wire::rtnl`. Out: [`Link`], [`Address`], [`Route`] values, change notices, or an [`Error`] naming the request.
//! A handle stays in the namespace it was opened in, so a pod's links are set up without the thread staying there.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use kedge_wire::rtnl::{Address, Link, Request, Route, kind};

use crate::netlink::{Messages, ROUTE, Socket};
use crate::{Error, Result};

/// An rtnetlink handle.
#[derive(Debug)]
pub struct Rtnetlink {
    socket: Socket,
}

/// What a subscription heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A link appeared or changed: carrier, name, flags.
    Link(Link),
    /// A link went.
    LinkGone(Link),
    /// Addresses or routes changed; or notices were lost, which means the same: look again.
    Other,
}

/// A subscription to changes; poll its descriptor for reading.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
}

impl Rtnetlink {
    /// Opens a handle for the calling thread's namespace.
    pub fn open() -> Result<Self> {
        let socket = Socket::open(ROUTE).map_err(|e| Error::new("open", "rtnetlink socket", e))?;
        Ok(Self { socket })
    }

    /// Opens a handle for another namespace. The calling thread visits it and returns.
    pub fn open_in(netns: BorrowedFd<'_>) -> Result<Self> {
        in_netns(netns, Self::open)?
    }

    /// Sends one request and waits for the kernel's verdict.
    pub fn apply(&mut self, request: &Request) -> Result<()> {
        self.socket
            .request(request.kind, request.flags, &request.body)
            .map_err(|e| Error::new(request.operation, request.object.clone(), e))
    }

    /// Every link.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        self.dump(&Request::dump_links(), kind::NEWLINK, Link::parse)
    }

    /// The link called `name`.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        Ok(self.links()?.into_iter().find(|link| link.name == name))
    }

    /// Every IPv4 address.
    pub fn addresses(&mut self) -> Result<Vec<Address>> {
        self.dump(&Request::dump_addresses(), kind::NEWADDR, Address::parse)
    }

    /// Every IPv4 route of the main table.
    pub fn routes(&mut self) -> Result<Vec<Route>> {
        self.dump(&Request::dump_routes(), kind::NEWROUTE, Route::parse)
    }

    fn dump<T>(
        &mut self,
        request: &Request,
        wanted: u16,
        parse: fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>> {
        self.socket
            .dump(request.kind, &request.body, |kind, body| {
                (kind == wanted).then(|| parse(body)).flatten()
            })
            .map_err(|e| Error::new(request.operation, request.object.clone(), e))
    }
}

impl Monitor {
    /// Subscribes to `groups` (`wire::rtnl::group` bits) in the calling thread's namespace.
    pub fn open(groups: u32) -> Result<Self> {
        let socket = Socket::subscribe(ROUTE, groups)
            .map_err(|e| Error::new("subscribe to", "rtnetlink changes", e))?;
        Ok(Self { socket })
    }

    /// Everything heard so far; empty when there is nothing.
    pub fn drain(&mut self) -> Result<Vec<Change>> {
        let mut heard = Vec::new();
        loop {
            match self.socket.receive() {
                Ok(datagram) => {
                    heard.extend(Messages(&datagram).filter_map(|m| change(m.kind, m.body)))
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Ok(heard),
                // The buffer overflowed: notices are lost, the state is not.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => heard.push(Change::Other),
                Err(e) => return Err(Error::new("read", "rtnetlink changes", e)),
            }
        }
    }
}

fn change(message: u16, body: &[u8]) -> Option<Change> {
    match message {
        kind::NEWLINK => Link::parse(body).map(Change::Link),
        kind::DELLINK => Link::parse(body).map(Change::LinkGone),
        kind::NEWADDR | kind::DELADDR | kind::NEWROUTE | kind::DELROUTE => Some(Change::Other),
        _ => None,
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl std::os::fd::AsRawFd for Monitor {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&self.socket)
    }
}

/// Opens a namespace file such as `/var/run/netns/cni-…` or `/proc/1/ns/net`.
pub fn open_netns(path: &Path) -> Result<OwnedFd> {
    std::fs::File::open(path)
        .map(OwnedFd::from)
        .map_err(|e| Error::new("open namespace", path.display().to_string(), e))
}

/// The calling thread's namespace.
pub fn current_netns() -> Result<OwnedFd> {
    open_netns(Path::new("/proc/thread-self/ns/net"))
}

/// Runs `f` with the calling thread inside `netns`, then returns the thread to where it was.
///
/// An error on the way back would leave the thread in a pod's namespace, where everything it does next is wrong: it aborts.
pub fn in_netns<T>(netns: BorrowedFd<'_>, f: impl FnOnce() -> T) -> Result<T> {
    let home = current_netns()?;
    enter_netns(netns)?;
    let result = f();
    if let Err(error) = enter_netns(home.as_fd()) {
        eprintln!(
            "kedge: {error}; stopping, because this thread would go on in the wrong namespace"
        );
        std::process::abort();
    }
    Ok(result)
}

/// Moves the calling thread into `netns`.
pub fn enter_netns(netns: BorrowedFd<'_>) -> Result<()> {
    nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET)
        .map_err(|e| Error::new("enter", "network namespace", e))
}

/// Moves the calling thread into a new, empty network namespace.
pub fn new_netns() -> Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
        .map_err(|e| Error::new("make", "network namespace", e))
}

/// Moves the calling process into new user and network namespaces in which it is root: for tests without privileges.
pub fn new_user_netns() -> Result<()> {
    nix::sched::unshare(
        nix::sched::CloneFlags::CLONE_NEWUSER | nix::sched::CloneFlags::CLONE_NEWNET,
    )
    .map_err(|e| Error::new("make", "user and network namespace", e))
}

//! The plugin's hands: applies what `podnet` planned, looks whether it is still there.

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use kedge_podnet::{Allocation, PodNetwork, hostports, link};
use kedge_sys::nfnetlink::Netfilter;
use kedge_sys::rtnetlink::{Rtnetlink, open_netns};
use kedge_sys::{Error, Result};
use kedge_wire::cni::Protocol;
use kedge_wire::conntrack::Flow;
use kedge_wire::net::Ipv4Net;
use kedge_wire::nft::{Family, diff, remove};
use kedge_wire::rtnl::{Request, Route};

const ENODEV: i32 = 19;
const EINVAL: i32 = 22;

/// A handle on the node's namespace.
#[derive(Debug)]
pub struct Kernel {
    node: Rtnetlink,
}

impl Kernel {
    /// In the calling thread's namespace.
    pub fn open() -> Result<Self> {
        Ok(Self {
            node: Rtnetlink::open()?,
        })
    }

    /// Makes the pod's link, addresses and routes.
    pub fn connect(
        &mut self,
        allocation: &Allocation,
        netns: &str,
        network: &PodNetwork,
    ) -> Result<()> {
        let namespace = open_netns(Path::new(netns))?;
        let ifname = &allocation.attachment.ifname;
        self.node.apply(&link::create(
            &allocation.veth,
            ifname,
            allocation.address,
            namespace.as_raw_fd(),
            network.mtu,
        ))?;
        let mut pod = Rtnetlink::open_in(namespace.as_fd())?;
        let (lo, inside) = (index(&mut pod, "lo")?, index(&mut pod, ifname)?);
        for request in link::pod_side(lo, inside, allocation.address) {
            apply_unordered(&mut pod, &request)?;
        }
        let outside = index(&mut self.node, &allocation.veth)?;
        self.node.apply(&Request::set_link_up(outside, true))?;
        // The default route of the pod's side needs both ends up, so it comes again after ours is.
        pod.apply(&Request::replace_route(&link::default_route(inside)))?;
        self.set_host_route(&link::host_route(
            outside,
            allocation.address,
            network.node_address,
        ))?;
        if allocation.ports.iter().any(|p| p.reached_from_loopback()) {
            allow_loopback(&allocation.veth)?;
        }
        Ok(())
    }

    /// The node's address may have changed since the agent wrote it down: then the route goes without, and the agent adds it.
    fn set_host_route(&mut self, route: &Route) -> Result<()> {
        match self.node.apply(&Request::replace_route(route)) {
            Err(error) if error.errno() == Some(EINVAL) && route.source.is_some() => {
                self.node.apply(&Request::replace_route(&Route {
                    source: None,
                    ..*route
                }))
            }
            other => other,
        }
    }

    /// Removes a link; one that is gone is fine.
    pub fn delete_link(&mut self, name: &str) -> Result<()> {
        match self.node.apply(&Request::delete_link(name)) {
            Err(error) if error.errno() == Some(ENODEV) => Ok(()),
            other => other,
        }
    }

    /// Brings the host-port table to what `all` want, if `changed` has to do with it.
    pub fn sync_host_ports(&mut self, all: &[Allocation], changed: &Allocation) -> Result<()> {
        if changed.ports.is_empty() {
            return Ok(());
        }
        let mut netfilter = Netfilter::open().map_err(nft)?;
        let applied = netfilter.table(Family::Ip, hostports::TABLE).map_err(nft)?;
        let transaction = match hostports::table(all) {
            Some(desired) => diff(applied.as_ref(), &desired),
            None if applied.is_some() => remove(Family::Ip, hostports::TABLE),
            None => return Ok(()),
        };
        netfilter.commit(&transaction).map_err(nft)?;
        forget_flows(&mut netfilter, changed);
        Ok(())
    }

    /// `Some` says what differs from what ADD made.
    pub fn verify(
        &mut self,
        allocation: &Allocation,
        netns: &str,
        all: &[Allocation],
    ) -> Result<Option<String>> {
        let Some(outside) = self.node.link(&allocation.veth)? else {
            return Ok(Some(format!("link {} is gone", allocation.veth)));
        };
        let host = Ipv4Net::host(allocation.address);
        if !self.node.routes()?.iter().any(|r| {
            r.destination == host
                && r.target == link::host_route(outside.index, allocation.address, None).target
        }) {
            return Ok(Some(format!(
                "the node has no route to {host} on {}",
                allocation.veth
            )));
        }
        let namespace = open_netns(Path::new(netns))?;
        let mut pod = Rtnetlink::open_in(namespace.as_fd())?;
        let ifname = &allocation.attachment.ifname;
        let Some(inside) = pod.link(ifname)? else {
            return Ok(Some(format!("link {ifname} is gone from the pod")));
        };
        if !pod
            .addresses()?
            .iter()
            .any(|a| a.index == inside.index && a.net == host)
        {
            return Ok(Some(format!("{ifname} of the pod has no address {host}")));
        }
        let default = link::default_route(inside.index);
        if !pod
            .routes()?
            .iter()
            .any(|r| r.destination == default.destination)
        {
            return Ok(Some("the pod has no default route".to_owned()));
        }
        self.verify_host_ports(allocation, all)
    }

    fn verify_host_ports(
        &mut self,
        allocation: &Allocation,
        all: &[Allocation],
    ) -> Result<Option<String>> {
        let (Some(desired), false) = (hostports::table(all), allocation.ports.is_empty()) else {
            return Ok(None);
        };
        let applied = Netfilter::open()
            .and_then(|mut n| n.table(Family::Ip, hostports::TABLE))
            .map_err(nft)?;
        let complete = diff(applied.as_ref(), &desired).is_empty();
        Ok((!complete).then(|| "the host ports are not in place".to_owned()))
    }
}

/// The default route is refused while the peer is down; it is set again afterwards.
fn apply_unordered(pod: &mut Rtnetlink, request: &Request) -> Result<()> {
    const ENETDOWN: i32 = 100;
    match pod.apply(request) {
        Err(error) if error.errno() == Some(ENETDOWN) => Ok(()),
        other => other,
    }
}

fn index(handle: &mut Rtnetlink, name: &str) -> Result<u32> {
    let link = handle.link(name)?;
    link.map(|l| l.index).ok_or_else(|| {
        Error::new(
            "find link",
            name,
            std::io::Error::from(std::io::ErrorKind::NotFound),
        )
    })
}

/// Lets replies to 127.0.0.0/8 come back through the veth; `hostports` drops everything else that claims such an address.
fn allow_loopback(veth: &str) -> Result<()> {
    let path = format!("/proc/sys/net/ipv4/conf/{veth}/route_localnet");
    std::fs::write(&path, "1").map_err(|e| Error::new("write", path, e))
}

/// UDP has no handshake: a flow that began before the port changed hands would go on to the old place for as long as it is used.
fn forget_flows(netfilter: &mut Netfilter, changed: &Allocation) {
    let ports: Vec<u16> = changed
        .ports
        .iter()
        .filter(|p| p.protocol == Protocol::Udp)
        .map(|p| p.port)
        .collect();
    if ports.is_empty() {
        return;
    }
    let stale = |flow: &Flow| {
        flow.original.protocol == Protocol::Udp.number()
            && (flow.reply.source == changed.address || ports.contains(&flow.original.dport))
    };
    let flows = netfilter
        .flows(Family::Ip)
        .map(|flows| flows.into_iter().filter(stale).collect::<Vec<_>>());
    if let Err(error) = flows.and_then(|flows| netfilter.delete_flows(&flows)) {
        // The pod works; only clients that talked to the port before may have to wait until their old flow times out.
        eprintln!("kedge: forget UDP flows of {}: {error}", changed.address);
    }
}

fn nft(error: kedge_sys::nfnetlink::Error) -> Error {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    Error::new("program", "host ports", std::io::Error::other(text))
}

//! The node's own links: which addresses and routes they have, from DHCP or the machine config.
//!
//! In: the config's network section, carrier and link changes of the kernel, DHCP and ARP. Out: addresses and routes in the kernel,
//! `/run/kedge/etc/{resolv.conf,hosts}`, and [`NodeNetwork`] by `watch`.
//!
//! One task for each link speaks DHCP and ARP ([`link`]) and says what the link should have. One loop puts the links' wishes
//! together ([`desired`]) and makes the kernel follow. The order matters: new addresses, routes, sources of pod routes, and only then
//! are old addresses removed, because the kernel removes every route whose source address goes.
//! Nothing is taken down when the agent stops; the next one finds its addresses by their protocol number and its leases in `/run`.

use std::collections::BTreeMap;
use std::future::ready;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kedge_machine::config;
use kedge_podnet::routes;
use kedge_sys::rtnetlink::{Change, Monitor, Rtnetlink};
use kedge_sys::{Error, Result};
use kedge_tasks::{Next, Registry, Tasks, reconcile};
use kedge_wire::arp::Timing;
use kedge_wire::net::{Ipv4Net, Mac};
use kedge_wire::rtnl::{Link, PROTO_UPLINK, Request, group};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, watch};

mod desired;
mod link;
mod select;
#[cfg(test)]
mod tests;

use desired::{Desired, LinkFacts};
use link::{LinkConfig, LinkState};

/// What the loop needs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The config's network section.
    pub network: config::Network,
    /// Sent to DHCP servers and written into `hosts`, when already known.
    pub node_name: Option<String>,
    /// Leases are remembered here: `/run/kedge`.
    pub run: PathBuf,
    /// `resolv.conf` and `hosts` go here: `/run/kedge/etc`.
    pub etc: PathBuf,
}

impl Options {
    /// With the node's usual directories.
    pub fn new(network: config::Network, node_name: Option<String>) -> Self {
        Self {
            network,
            node_name,
            run: kedge_machine::paths::RUN.into(),
            etc: kedge_machine::paths::RUN_ETC.into(),
        }
    }
}

/// The node's network as others see it. IPv4 only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeNetwork {
    /// The address the node is known by, and its link. Absent before the first address, and for a moment when a lease is refused:
    /// consumers that report an address keep the last one.
    pub primary: Option<Primary>,
    /// Every address with its link.
    pub addresses: Vec<LinkAddress>,
    /// Resolvers, the config's or those of DHCP.
    pub nameservers: Vec<IpAddr>,
    /// Search domains, the config's or those of DHCP.
    pub search: Vec<String>,
    /// The name DHCP gave.
    pub hostname: Option<String>,
    /// Time servers DHCP named.
    pub ntp_servers: Vec<Ipv4Addr>,
    /// What is wrong, in sentences for the operator.
    pub faults: Vec<String>,
}

/// The node's main address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Primary {
    /// The address.
    pub address: Ipv4Addr,
    /// Its link.
    pub interface: String,
    /// The link's number.
    pub index: u32,
    /// The link's hardware address.
    pub mac: Mac,
    /// The link's MTU.
    pub mtu: u32,
    /// The default router, if there is one.
    pub gateway: Option<Ipv4Addr>,
}

/// An address on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkAddress {
    /// The link.
    pub interface: String,
    /// The address with its prefix.
    pub net: Ipv4Net,
}

/// Drift (an address someone removed by hand) is noticed after this long at the latest.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(2);
/// A lease is kept in the kernel at least this long, so that an agent in a crash loop does not lose the node its address.
const MIN_LIFETIME: u32 = 300;

/// Starts the loop and the kernel's watch. Must be called in the node's network namespace, on a current tokio runtime.
pub fn spawn(
    tasks: &mut Tasks,
    registry: Registry,
    options: Options,
) -> Result<watch::Receiver<NodeNetwork>> {
    let wake = Arc::new(Notify::new());
    let monitor = Monitor::open(group::LINK)?;
    let monitor =
        crate::poll::pollable(monitor).map_err(|e| Error::new("poll", "rtnetlink changes", e))?;
    let (publish, published) = watch::channel(NodeNetwork::default());
    let mut engine = Engine {
        rtnl: Rtnetlink::open()?,
        options,
        links: BTreeMap::new(),
        wake: wake.clone(),
        publish,
    };
    tasks.spawn("network-links", watch_links(monitor, wake.clone()));
    let stop = tasks.stop();
    tasks.spawn("network", async move {
        let changed = || {
            let wake = wake.clone();
            async move { wake.notified().await }
        };
        reconcile("network", registry, stop, changed, |_| ready(engine.run())).await;
    });
    Ok(published)
}

/// Wakes the loop when a link changes. Pods' links come and go all day and mean nothing here.
async fn watch_links(mut monitor: AsyncFd<Monitor>, wake: Arc<Notify>) {
    loop {
        let heard = match monitor.readable_mut().await {
            Ok(mut guard) => {
                let heard = guard.get_inner_mut().drain();
                guard.clear_ready();
                heard
            }
            Err(error) => {
                tracing::error!(%error, "link changes are not seen any more; the network is looked at once a minute");
                return;
            }
        };
        match heard {
            Ok(changes) if changes.iter().all(is_pod_link) => {}
            Ok(_) => wake.notify_one(),
            Err(error) => {
                tracing::warn!(%error, "reading link changes");
                wake.notify_one();
            }
        }
    }
}

fn is_pod_link(change: &Change) -> bool {
    match change {
        Change::Link(link) | Change::LinkGone(link) => {
            link.name.starts_with(kedge_podnet::link::VETH_PREFIX)
        }
        Change::Other => false,
    }
}

/// A link's task; ends when dropped.
struct Running {
    config: LinkConfig,
    carrier: watch::Sender<bool>,
    state: watch::Receiver<LinkState>,
    task: tokio::task::AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Engine {
    rtnl: Rtnetlink,
    options: Options,
    links: BTreeMap<u32, Running>,
    wake: Arc<Notify>,
    publish: watch::Sender<NodeNetwork>,
}

impl Engine {
    /// One run: look, decide, apply, publish.
    fn run(&mut self) -> Next {
        let mut faults = Vec::new();
        let result = self.reconcile(&mut faults);
        if let Err(error) = &result {
            faults.push(error.to_string());
        }
        let words = match &result {
            Ok(network) => network
                .primary
                .as_ref()
                .map_or("no address yet".to_owned(), |p| {
                    format!("{} on {}", p.address, p.interface)
                }),
            Err(error) => error.to_string(),
        };
        let mut network = result.unwrap_or_else(|_| self.publish.borrow().clone());
        network.faults = faults;
        let healthy = network.faults.is_empty();
        self.announce(network);
        if healthy {
            Next::ok(words, Some(LOOK_AGAIN))
        } else {
            Next {
                result: Ok(words),
                wake_in: Some(RETRY),
            }
        }
    }

    fn reconcile(&mut self, faults: &mut Vec<String>) -> Result<NodeNetwork> {
        let links = self.rtnl.links()?;
        let selection = select::select(&self.options.network, &links);
        faults.extend(selection.faults);
        self.follow(&links, selection.links)?;
        let facts = self.facts(&links);
        let desired = desired::desired(&self.options.network, &facts, kedge_sys::time::now().mono);
        faults.extend(desired.faults.iter().cloned());
        self.apply(&desired, faults)?;
        if let Err(error) = crate::files::write(
            &self.options.etc,
            &desired.network,
            self.options.node_name.as_deref(),
        ) {
            faults.push(error.to_string());
        }
        Ok(desired.network)
    }

    /// Keeps one task for each selected link and tells it about its cable.
    fn follow(&mut self, links: &[Link], wanted: Vec<LinkConfig>) -> Result<()> {
        self.links
            .retain(|_, running| wanted.contains(&running.config));
        for config in wanted {
            let Some(link) = links.iter().find(|l| l.index == config.index) else {
                continue;
            };
            if !link.up {
                self.rtnl.apply(&Request::set_link_up(link.index, true))?;
            }
            if let Some(mtu) = config.mtu.filter(|mtu| *mtu != link.mtu) {
                self.rtnl.apply(&Request::set_link_mtu(link.index, mtu))?;
            }
            let running = match self.links.entry(config.index) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    let installed = self.rtnl.addresses()?;
                    let installed = installed
                        .iter()
                        .filter(|a| a.index == config.index)
                        .map(|a| a.net)
                        .collect();
                    entry.insert(start(config, &self.options, installed, self.wake.clone()))
                }
            };
            running.carrier.send_if_modified(|carrier| {
                std::mem::replace(carrier, link.carrier) != link.carrier
            });
        }
        Ok(())
    }

    fn facts(&self, links: &[Link]) -> Vec<LinkFacts> {
        let facts = self.links.values().filter_map(|running| {
            let link = links.iter().find(|l| l.index == running.config.index)?;
            Some(LinkFacts {
                config: running.config.clone(),
                mtu: link.mtu,
                carrier: link.carrier,
                state: running.state.borrow().clone(),
            })
        });
        let mut facts: Vec<_> = facts.collect();
        facts.sort_by_key(|f| f.config.order);
        facts
    }

    fn apply(&mut self, desired: &Desired, faults: &mut Vec<String>) -> Result<()> {
        let mut requests = desired
            .mtus
            .iter()
            .map(|(index, mtu)| Request::set_link_mtu(*index, *mtu))
            .collect::<Vec<_>>();
        requests.extend(desired.addresses.iter().map(Request::set_address));
        self.apply_all(&requests, faults);
        let current = self.rtnl.routes()?;
        let mut requests = routes::plan(PROTO_UPLINK, &current, &desired.routes);
        requests.extend(routes::retarget(
            &current,
            desired.network.primary.as_ref().map(|p| p.address),
        ));
        self.apply_all(&requests, faults);
        let requests: Vec<_> = self
            .rtnl
            .addresses()?
            .iter()
            .filter(|have| have.protocol == Some(PROTO_UPLINK))
            .filter(|have| {
                !desired
                    .addresses
                    .iter()
                    .any(|want| (want.index, want.net) == (have.index, have.net))
            })
            .map(|have| Request::delete_address(have.index, have.net))
            .collect();
        self.apply_all(&requests, faults);
        Ok(())
    }

    /// One refused request does not keep the others away.
    fn apply_all(&mut self, requests: &[Request], faults: &mut Vec<String>) {
        for request in requests {
            if let Err(error) = self.rtnl.apply(request) {
                faults.push(error.to_string());
            }
        }
    }

    fn announce(&self, network: NodeNetwork) {
        let before = self.publish.borrow().clone();
        for fault in network.faults.iter().filter(|f| !before.faults.contains(f)) {
            tracing::warn!("{fault}");
        }
        if network.primary != before.primary {
            match &network.primary {
                Some(p) => {
                    tracing::info!(address = %p.address, interface = p.interface, gateway = ?p.gateway, "node address")
                }
                None => tracing::warn!("the node has no address"),
            }
        }
        self.publish.send_if_modified(|current| {
            let changed = *current != network;
            *current = network;
            changed
        });
    }
}

fn start(
    config: LinkConfig,
    options: &Options,
    installed: Vec<Ipv4Net>,
    wake: Arc<Notify>,
) -> Running {
    let (carrier, carrier_seen) = watch::channel(false);
    let remembered = options.run.join(format!("lease-{}.json", config.name));
    let task = link::LinkTask::new(
        config.clone(),
        options.node_name.clone(),
        remembered,
        &installed,
        Timing::QUICK,
        wake,
    );
    let state = task.state();
    let task = tokio::spawn(task.run(carrier_seen)).abort_handle();
    Running {
        config,
        carrier,
        state,
        task,
    }
}

//! The pod network of this node among the others: routes to their pod ranges, masquerade towards the world, and what the CNI plugin needs.
//!
//! In: [`NodeNetwork`] and [`ClusterNodes`] by `watch`. Out: routes and the table `kedge-pods` in the kernel, `/run/kedge/podnet.json`,
//! the CNI configuration list (once this node has a pod range), and [`PeersStatus`] by `watch`.
//! Decisions are in `podnet`; this applies them. When the inputs vanish (API server away) everything stays as it was.

use std::collections::BTreeSet;
use std::future::ready;
use std::path::PathBuf;
use std::time::Duration;

use kedge_machine::paths;
use kedge_podnet::routes::{self, Peer};
use kedge_podnet::{PodNetwork, masquerade};
use kedge_sys::nfnetlink::Netfilter;
use kedge_sys::rtnetlink::Rtnetlink;
use kedge_sys::{Result, fs};
use kedge_tasks::{Next, Registry, Tasks, reconcile};
use kedge_wire::net::Ipv4Net;
use kedge_wire::nft::{Family, diff};
use kedge_wire::rtnl::PROTO_PEERS;
use tokio::sync::watch;

use crate::files::write_if_changed;
use crate::network::NodeNetwork;

#[cfg(test)]
mod tests;

/// This node and the others, as the API knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterNodes {
    /// This node's pod ranges (`node.spec.podCIDRs`, IPv4). Empty while unknown: nothing is taken back then.
    pub own_ranges: Vec<Ipv4Net>,
    /// Every other node. `None` while the list is unknown (the agent just started): existing routes stay.
    pub peers: Option<Vec<Peer>>,
}

/// How far it got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeersStatus {
    /// The plugin can connect pods: the node's `NetworkUnavailable` condition and the runtime's readiness depend on it.
    pub published: bool,
    /// What is wrong, in sentences for the operator.
    pub faults: Vec<String>,
}

/// Where things go.
#[derive(Clone, Debug)]
pub struct Options {
    /// `/run/kedge/podnet.json`
    pub podnet: PathBuf,
    /// `/etc/cni/net.d/10-kedge.conflist`
    pub conflist: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            podnet: paths::RUN_PODNET.into(),
            conflist: paths::CNI_CONF.into(),
        }
    }
}

/// Routes or rules removed by hand come back after this long at the latest.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(2);
/// Without an uplink.
const DEFAULT_MTU: u32 = 1500;

/// Starts the loop. Must be called in the node's network namespace, on a current tokio runtime.
pub fn spawn(
    tasks: &mut Tasks,
    registry: Registry,
    options: Options,
    network: watch::Receiver<NodeNetwork>,
    cluster: watch::Receiver<ClusterNodes>,
) -> Result<watch::Receiver<PeersStatus>> {
    let (publish, published) = watch::channel(PeersStatus::default());
    let mut engine = Engine {
        rtnl: Rtnetlink::open()?,
        options,
        network: network.clone(),
        cluster: cluster.clone(),
        publish,
    };
    let stop = tasks.stop();
    tasks.spawn("peers", async move {
        let (mut network, mut cluster) = (network, cluster);
        // One receiver each lives as long as the loop: a change between two waits is not lost.
        let changed = move || {
            let (mut seen_network, mut seen_cluster) = (network.clone(), cluster.clone());
            network.mark_unchanged();
            cluster.mark_unchanged();
            async move {
                tokio::select! {
                    () = until_changed(&mut seen_network) => {}
                    () = until_changed(&mut seen_cluster) => {}
                }
            }
        };
        reconcile("peers", registry, stop, changed, |_| ready(engine.run())).await;
    });
    Ok(published)
}

/// A sender that is gone never changes anything again.
async fn until_changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending().await
    }
}

struct Engine {
    rtnl: Rtnetlink,
    options: Options,
    network: watch::Receiver<NodeNetwork>,
    cluster: watch::Receiver<ClusterNodes>,
    publish: watch::Sender<PeersStatus>,
}

impl Engine {
    fn run(&mut self) -> Next {
        let network = self.network.borrow().clone();
        let cluster = self.cluster.borrow().clone();
        let mut faults = Vec::new();
        if cluster.own_ranges.is_empty() {
            faults.push(
                "the cluster has given this node no pod range yet: pods of this node wait"
                    .to_owned(),
            );
        } else {
            self.note(&mut faults, "pods", |engine| {
                engine.publish_document(&network, &cluster)
            });
            self.note(&mut faults, "forwarding", |_| forward());
        }
        if let Some(peers) = &cluster.peers {
            self.follow(&network, &cluster, peers, &mut faults);
        }
        self.announce(PeersStatus {
            published: !cluster.own_ranges.is_empty() && self.options.podnet.exists(),
            faults: faults.clone(),
        });
        if faults.is_empty() {
            Next::ok(
                format!("{} peers", cluster.peers.map_or(0, |p| p.len())),
                Some(LOOK_AGAIN),
            )
        } else {
            Next::failed(
                faults.join("; "),
                if cluster.own_ranges.is_empty() {
                    LOOK_AGAIN
                } else {
                    RETRY
                },
            )
        }
    }

    fn note(
        &mut self,
        faults: &mut Vec<String>,
        what: &str,
        step: impl FnOnce(&mut Self) -> std::result::Result<(), String>,
    ) {
        if let Err(error) = step(self) {
            faults.push(format!("{what}: {error}"));
        }
    }

    fn publish_document(
        &mut self,
        network: &NodeNetwork,
        cluster: &ClusterNodes,
    ) -> std::result::Result<(), String> {
        let words = |e: kedge_sys::Error| e.to_string();
        let primary = network.primary.as_ref();
        let document = PodNetwork {
            node_address: primary.map(|p| p.address),
            pod_ranges: cluster.own_ranges.clone(),
            mtu: primary.map_or(DEFAULT_MTU, |p| p.mtu),
        };
        for path in [&self.options.podnet, &self.options.conflist] {
            if let Some(parent) = path.parent() {
                fs::create_directory(parent, 0o755).map_err(words)?;
            }
        }
        write_if_changed(&self.options.podnet, &document.to_text()).map_err(words)?;
        // After the document: the runtime counts the network as ready when it sees this file.
        write_if_changed(&self.options.conflist, &kedge_wire::cni::conflist()).map_err(words)
    }

    fn follow(
        &mut self,
        network: &NodeNetwork,
        cluster: &ClusterNodes,
        peers: &[Peer],
        faults: &mut Vec<String>,
    ) {
        let own: Vec<Ipv4Net> = network.addresses.iter().map(|a| a.net).collect();
        // Without an address no route can be made; those that are left wait for the next one.
        if !own.is_empty() {
            let wanted = routes::peers(peers, &own, &cluster.own_ranges);
            faults.extend(wanted.faults);
            match self.rtnl.routes() {
                Ok(current) => {
                    for request in routes::plan(PROTO_PEERS, &current, &wanted.routes) {
                        self.note(faults, "routes", |engine| {
                            engine.rtnl.apply(&request).map_err(|e| e.to_string())
                        });
                    }
                }
                Err(error) => faults.push(error.to_string()),
            }
        }
        if !cluster.own_ranges.is_empty() {
            let table = masquerade::table(
                &cluster.own_ranges,
                &cluster_addresses(&own, cluster, peers),
            );
            self.note(faults, "masquerade", |_| {
                apply_table(&table).map_err(|e| chain(&e))
            });
        }
    }

    fn announce(&self, status: PeersStatus) {
        let before = self.publish.borrow().clone();
        for fault in status.faults.iter().filter(|f| !before.faults.contains(f)) {
            tracing::warn!("{fault}");
        }
        self.publish.send_if_modified(|current| {
            let changed = *current != status;
            *current = status;
            changed
        });
    }
}

/// Everything that sees pods' own addresses: pod ranges and node addresses.
fn cluster_addresses(own: &[Ipv4Net], cluster: &ClusterNodes, peers: &[Peer]) -> BTreeSet<Ipv4Net> {
    let ranges = cluster
        .own_ranges
        .iter()
        .chain(peers.iter().flat_map(|p| &p.pod_ranges))
        .map(Ipv4Net::trunc);
    let nodes = own
        .iter()
        .map(|net| net.addr())
        .chain(peers.iter().filter_map(|p| p.address))
        .map(Ipv4Net::host);
    ranges.chain(nodes).collect()
}

/// Brings the masquerade table to what is wanted.
pub(crate) fn apply_table(
    desired: &kedge_wire::nft::Table,
) -> std::result::Result<(), kedge_sys::nfnetlink::Error> {
    let mut netfilter = Netfilter::open()?;
    let applied = netfilter.table(Family::Ip, masquerade::TABLE)?;
    netfilter.commit(&diff(applied.as_ref(), desired))
}

fn forward() -> std::result::Result<(), String> {
    const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
    match std::fs::read_to_string(FORWARD) {
        Ok(text) if text.trim() == "1" => Ok(()),
        _ => std::fs::write(FORWARD, "1").map_err(|e| format!("write {FORWARD}: {e}")),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

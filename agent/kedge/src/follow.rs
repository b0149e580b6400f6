//! Conversions between channels: one task each, watching its inputs and publishing when the result differs.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kedge_api::cert::Names;
use kedge_api::{ApiHandle, Feeds};
use kedge_host::network::NodeNetwork;
use kedge_host::peers::{ClusterNodes, PeersStatus};
use kedge_kubelet::{Desired, NodeObject, RuntimeFacts};
use kedge_machine::config::{Cluster, MachineConfig};
use kedge_machine::paths;
use kedge_metrics::Root;
use kedge_pods::Now;
use kedge_pods::resolve::NodeFacts;
use kedge_proxy::model;
use kedge_wire::net::Ipv4Net;
use tokio::sync::watch;

use crate::identity::{self, Identity};
use crate::tell::Console;
use crate::{cluster, facts, readings};

/// Facts about the node are put together at least this often: the kubelet's interval for node status.
const FACTS_EVERY: Duration = Duration::from_secs(10);
/// Loads of the kernel's security modules.
const APPARMOR: &str = "/sys/module/apparmor/parameters/enabled";

/// Pods bound to this node, once the API has listed them.
pub async fn desired_pods(mut feeds: Feeds, out: watch::Sender<Desired>) {
    loop {
        let snapshot = feeds.pods.borrow_and_update().clone();
        if snapshot.synced {
            out.send_replace(Desired::Pods(snapshot.items.values().cloned().collect()));
        }
        if feeds.pods.changed().await.is_err() {
            return;
        }
    }
}

/// The cluster's nodes for routes and for the proxy.
pub async fn nodes(
    name: String,
    kept: Vec<Ipv4Net>,
    mut feeds: Feeds,
    mut network: watch::Receiver<NodeNetwork>,
    nodes: watch::Sender<ClusterNodes>,
    proxy: watch::Sender<model::NodeFacts>,
) {
    let mut address: Option<Ipv4Addr> = None;
    loop {
        let peers = feeds.peers.borrow_and_update().clone();
        // A lease that is refused takes the address away for a moment: node ports keep the last one.
        address = network
            .borrow_and_update()
            .primary
            .as_ref()
            .map(|p| p.address)
            .or(address);
        let known = cluster::nodes(&name, &kept, &peers.items, peers.synced);
        let facts = cluster::proxy_facts(
            &name,
            address.map(IpAddr::V4),
            &known.own_ranges,
            &peers.items,
        );
        replace(&nodes, known);
        replace(&proxy, facts);
        // Cancel-safe: `changed` only marks, values are read above.
        let changed = tokio::select! {
            changed = feeds.peers.changed() => changed,
            changed = network.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Keeps name and pod ranges in STATE when they change.
pub async fn identity(
    console: Console,
    mut kept: Identity,
    name: String,
    mut nodes: watch::Receiver<ClusterNodes>,
) {
    loop {
        let ranges = nodes
            .borrow_and_update()
            .own_ranges
            .iter()
            .map(ToString::to_string)
            .collect();
        let identity = Identity {
            name: Some(name.clone()),
            pod_ranges: ranges,
        };
        let (old, new) = (kept.clone(), identity.clone());
        let written = tokio::task::spawn_blocking(move || {
            identity::keep(Path::new(paths::STATE_NODE), &new, &old)
        })
        .await;
        match written {
            Ok(Ok(())) => kept = identity,
            Ok(Err(error)) => console.say(error.to_string()),
            Err(error) => tracing::error!(%error, "keep the identity"),
        }
        if nodes.changed().await.is_err() {
            return;
        }
    }
}

/// What the serving certificate must cover. New addresses also end connections from the old ones at once.
pub async fn serving_names(
    name: String,
    mut network: watch::Receiver<NodeNetwork>,
    api: ApiHandle,
    out: watch::Sender<Names>,
) {
    let mut last = None;
    loop {
        let primary = network
            .borrow_and_update()
            .primary
            .as_ref()
            .map(|p| p.address);
        if let Some(address) = primary.filter(|a| last != Some(*a)) {
            let names = Names {
                dns: BTreeSet::from([name.clone()]),
                ips: BTreeSet::from([IpAddr::V4(address)]),
            };
            replace(&out, names);
            if last.replace(address).is_some() {
                api.addresses_changed().await;
            }
        }
        if network.changed().await.is_err() {
            return;
        }
    }
}

/// What [`node_facts`] reads and writes.
pub struct FactsOf {
    pub name: String,
    pub config: Arc<MachineConfig>,
    pub cluster: watch::Receiver<Option<Arc<Cluster>>>,
    pub network: watch::Receiver<NodeNetwork>,
    pub peers: watch::Receiver<PeersStatus>,
    pub runtime: watch::Receiver<RuntimeFacts>,
    pub feeds: Feeds,
    /// For the API.
    pub node: watch::Sender<Option<Arc<Node>>>,
    /// For specs of pods.
    pub pods: watch::Sender<Arc<NodeFacts>>,
    /// For admission.
    pub object: watch::Sender<Arc<NodeObject>>,
}

/// Puts the node's facts together when one of them changes, and every ten seconds.
pub async fn node_facts(mut of: FactsOf) {
    let root = Root::new("/");
    let machine = readings::machine(&root);
    let boot_faults = readings::boot_faults(Path::new(paths::RUN_INIT));
    let apparmor = std::fs::read_to_string(APPARMOR).is_ok_and(|t| t.trim() == "Y");
    let groups = kedge_sys::cgroup::Tree::new(kedge_sys::cgroup::MOUNT_POINT);
    let swap = groups.offers("memory.swap.max");
    let mut addresses: Vec<IpAddr> = Vec::new();
    let mut tick = tokio::time::interval(FACTS_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // Cancel-safe: all arms only mark or wait.
        let open = tokio::select! {
            _ = tick.tick() => true,
            changed = of.network.changed() => changed.is_ok(),
            changed = of.peers.changed() => changed.is_ok(),
            changed = of.runtime.changed() => changed.is_ok(),
            changed = of.feeds.own_node.changed() => changed.is_ok(),
        };
        if !open {
            return;
        }
        let network = of.network.borrow_and_update().clone();
        if let Some(primary) = &network.primary {
            addresses = vec![IpAddr::V4(primary.address)];
        }
        let peers = of.peers.borrow_and_update().clone();
        let runtime = of.runtime.borrow_and_update().clone();
        let existing = of
            .feeds
            .own_node
            .borrow_and_update()
            .items
            .get(&of.name)
            .cloned();
        let readings = readings::read(&root, &machine, &boot_faults);
        let facts = facts::node(
            &of.name, &of.config, &readings, &addresses, &network, &peers, &runtime,
        );
        // Without an API server static pods start on what this node would register: a box that comes back alone must run them.
        let own = match &existing {
            Some(node) => facts::for_admission(node, &facts, apparmor),
            None => facts::for_admission(
                &kedge_pods::node::register(&facts, None, now()),
                &facts,
                apparmor,
            ),
        };
        of.object.send_replace(Arc::new(own));
        // A node without an address or a runtime version would be registered with holes that others act on.
        if !addresses.is_empty() && runtime.heard {
            let node = kedge_pods::node::register(&facts, existing.as_deref(), now());
            of.node.send_replace(Some(Arc::new(node)));
        }
        let etc = |name: &str| {
            std::fs::read_to_string(Path::new(paths::RUN_ETC).join(name)).unwrap_or_default()
        };
        let cluster = of.cluster.borrow().clone();
        let resolv = kedge_pods::resolv::parse(&etc("resolv.conf"));
        let cluster = cluster.as_deref();
        let for_pods = facts::for_pods(&of.name, cluster, &facts, etc("hosts"), resolv, swap);
        of.pods.send_if_modified(|old| {
            let differs = **old != for_pods;
            if differs {
                *old = Arc::new(for_pods);
            }
            differs
        });
    }
}

/// The runtime's problems as `/healthz` shows them.
pub async fn runtime_problems(
    mut runtime: watch::Receiver<RuntimeFacts>,
    out: watch::Sender<Vec<String>>,
) {
    loop {
        let problems = facts::runtime_problems(&runtime.borrow_and_update());
        replace(&out, problems);
        if runtime.changed().await.is_err() {
            return;
        }
    }
}

/// Time as `pods` takes it.
pub fn now() -> Now {
    let now = kedge_sys::time::now();
    Now::new(now.mono, now.wall)
}

fn replace<T: PartialEq>(out: &watch::Sender<T>, new: T) {
    out.send_if_modified(|old| {
        let differs = *old != new;
        if differs {
            *old = new;
        }
        differs
    });
}

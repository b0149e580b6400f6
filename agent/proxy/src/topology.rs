//! Which endpoints a node uses: readiness, termination, hints, locality.
//!
//! In: the endpoints of one Service port, this node. Out: [`Usable`]. The rules are those of kube-proxy's `topology.go`.

use std::net::IpAddr;

use crate::model::{EndpointInput, Family, NodeFacts, PortInput, ServiceInput, SliceInput};

/// Where a connection may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    pub address: IpAddr,
    pub port: u16,
}

/// The endpoints of a Service port this node uses, sorted and without duplicates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usable {
    /// For traffic policy Cluster.
    pub cluster: Vec<Target>,
    /// For traffic policy Local.
    pub local: Vec<Target>,
    /// Some node could answer, even if this one may not.
    pub any: bool,
    /// All that still serve, whatever the policy: an existing flow to one of them is kept.
    pub serving: Vec<Target>,
    /// Addresses on this node among `cluster` and `local`.
    pub here: Vec<IpAddr>,
    /// Ready endpoints on this node, for the load balancer's health check.
    pub ready_here: usize,
}

/// One endpoint of one port.
struct Candidate<'a> {
    target: Target,
    endpoint: &'a EndpointInput,
    ready: bool,
    here: bool,
}

impl Candidate<'_> {
    /// Serves although it is shutting down: better than nothing.
    fn last_resort(&self) -> bool {
        !self.ready && self.endpoint.serving && self.endpoint.terminating
    }
}

/// Hints that apply to all ready endpoints.
enum Preference {
    None,
    Node,
    Zone,
}

/// Sorts the endpoints of a port.
pub fn usable<'a>(
    service: &ServiceInput,
    port: &PortInput,
    family: Family,
    slices: impl IntoIterator<Item = &'a SliceInput>,
    node: &NodeFacts,
) -> Usable {
    let candidates = candidates(service, port, family, slices, node);
    let preference = preference(&candidates, node);
    let preferred = |c: &Candidate<'_>| match preference {
        Preference::None => true,
        Preference::Node => c.endpoint.node_hints.contains(&node.name),
        Preference::Zone => hinted_zone(c.endpoint, node),
    };
    let mut cluster = select(&candidates, |c| c.ready && preferred(c));
    if cluster.is_empty() {
        cluster = select(&candidates, |c| c.last_resort());
    }
    let mut local = select(&candidates, |c| c.ready && c.here);
    if local.is_empty() {
        local = select(&candidates, |c| c.last_resort() && c.here);
    }
    let used = |t: &Target| cluster.binary_search(t).is_ok() || local.binary_search(t).is_ok();
    let here = select(&candidates, |c| c.here && used(&c.target));
    let mut here: Vec<IpAddr> = here.into_iter().map(|t| t.address).collect();
    here.dedup();
    Usable {
        any: candidates.iter().any(|c| c.ready || c.last_resort()),
        serving: select(&candidates, |c| c.ready || c.endpoint.serving),
        ready_here: select(&candidates, |c| c.ready && c.here).len(),
        cluster,
        local,
        here,
    }
}

fn candidates<'a>(
    service: &ServiceInput,
    port: &PortInput,
    family: Family,
    slices: impl IntoIterator<Item = &'a SliceInput>,
    node: &NodeFacts,
) -> Vec<Candidate<'a>> {
    let mut candidates = Vec::new();
    for slice in slices.into_iter().filter(|s| s.family == family) {
        let same =
            |p: &&crate::model::SlicePort| p.name == port.name && p.protocol == port.protocol;
        for number in slice.ports.iter().filter(same).map(|p| p.port) {
            for endpoint in &slice.endpoints {
                let Some(address) = endpoint.addresses.first() else {
                    continue;
                };
                if Family::of(*address) != family {
                    continue;
                }
                candidates.push(Candidate {
                    target: Target {
                        address: *address,
                        port: number,
                    },
                    endpoint,
                    ready: endpoint.ready || service.publish_not_ready,
                    here: endpoint.node.as_ref() == Some(&node.name),
                });
            }
        }
    }
    candidates
}

/// Hints count only when every ready endpoint has them and one of them means us; a node prefers its own before its zone.
fn preference(candidates: &[Candidate<'_>], node: &NodeFacts) -> Preference {
    let ready = || candidates.iter().filter(|c| c.ready).map(|c| c.endpoint);
    let all_for_nodes = ready().all(|e| !e.node_hints.is_empty());
    let all_for_zones = ready().all(|e| !e.zone_hints.is_empty());
    if all_for_nodes && ready().any(|e| e.node_hints.contains(&node.name)) {
        Preference::Node
    } else if all_for_zones && ready().any(|e| hinted_zone(e, node)) {
        Preference::Zone
    } else {
        Preference::None
    }
}

fn hinted_zone(endpoint: &EndpointInput, node: &NodeFacts) -> bool {
    let zone = node.zone.as_ref();
    zone.is_some_and(|zone| endpoint.zone_hints.contains(zone))
}

fn select(candidates: &[Candidate<'_>], keep: impl Fn(&Candidate<'_>) -> bool) -> Vec<Target> {
    let kept = candidates.iter().filter(|c| keep(c));
    let mut targets: Vec<Target> = kept.map(|c| c.target).collect();
    targets.sort_unstable();
    targets.dedup();
    targets.shrink_to_fit();
    targets
}

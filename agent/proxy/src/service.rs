//! One Service's plan: the addresses it answers on, and who answers.
//!
//! In: a Service, its slices, this node. Out: a [`Plan`] of [`Front`]s. Absent: other Services; two that claim one front are
//! settled by the compiler.

use std::net::IpAddr;

use crate::model::{
    Cidr, Family, NodeFacts, Policy, PortInput, Protocol, ServiceInput, SliceInput,
};
use crate::topology::{Target, Usable, usable};

/// What a Service asks of this node in one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub cluster_ips: Vec<IpAddr>,
    pub fronts: Vec<Front>,
    /// Endpoints on this node: their connections to the Service may come back to themselves.
    pub here: Vec<IpAddr>,
    /// The load balancer's health check: its port, and ready endpoints here.
    pub health: Option<(u16, usize)>,
}

/// An address, protocol and port that packets are sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontKey {
    pub address: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
}

/// A front and who answers on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Front {
    pub key: FrontKey,
    pub kind: Kind,
    /// For packets from anywhere, unless `inside` says otherwise.
    pub answer: Answer,
    /// For packets of this node and its pods, where policy Local holds for the others: they may go to every endpoint.
    pub inside: Option<Vec<Target>>,
    pub affinity: Option<Affinity>,
    /// Other sources are dropped; empty admits everyone.
    pub sources: Vec<Cidr>,
    /// UDP only: endpoints whose existing flows are kept.
    pub serving: Vec<Target>,
}

/// A client keeps its endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Affinity {
    /// Names the Service port in chains and sets: all its fronts share what is remembered.
    pub port: String,
    /// Until it is silent for this long.
    pub seconds: u32,
}

impl Affinity {
    pub fn chain(&self, local: bool) -> String {
        let kind = if local { "affine-local" } else { "affine" };
        format!("{kind}/{}", self.port)
    }

    /// The set of clients an endpoint remembers. Names may not hold colons in nft's language.
    pub fn set(&self, target: &Target) -> String {
        let address = target.address.to_string().replace(':', ".");
        format!("clients/{}/{address}/{}", self.port, target.port)
    }
}

/// What kind of address a front has. Where two Services claim the same front, the first kind wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Cluster,
    /// External and load-balancer addresses and node ports, policy Cluster: the source is always masqueraded.
    External(Source),
    NodePort(Source),
}

/// What happens to the source address of external traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Policy Cluster: masqueraded, because the endpoint may be on another node.
    Masqueraded,
    /// Policy Local: kept, except for the node's own connections.
    Kept,
}

/// Who answers on a front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Endpoints of this node only (policy Local), or of the whole cluster.
    Endpoints { targets: Vec<Target>, local: bool },
    /// No endpoint anywhere: the client is told.
    Reject,
    /// Endpoints, but none here: silence, so that a load balancer tries another node.
    Drop,
}

/// Plans one Service in one family.
pub fn plan(
    service: &ServiceInput,
    slices: &[&SliceInput],
    family: Family,
    node: &NodeFacts,
) -> Plan {
    let of_family = |addresses: &[IpAddr]| -> Vec<IpAddr> {
        let same = addresses.iter().filter(|a| Family::of(**a) == family);
        same.copied().collect()
    };
    let mut plan = Plan {
        cluster_ips: of_family(&service.cluster_ips),
        ..Plan::default()
    };
    for port in &service.ports {
        let usable = usable(service, port, family, slices.iter().copied(), node);
        let make = Fronts {
            service,
            port,
            usable: &usable,
        };
        let fronts = &mut plan.fronts;
        fronts.extend(plan.cluster_ips.iter().map(|a| make.cluster(*a)));
        let external = of_family(&service.external_ips);
        fronts.extend(external.iter().map(|a| make.external(*a, Vec::new())));
        for address in of_family(&service.lb_ips) {
            let sources = sources(service, address, node);
            // Two fields naming one address make one front; the load balancer's restriction must not be lost.
            fronts.retain(|f| f.key.address != address || f.key != make.key(address));
            fronts.push(make.external(address, sources));
        }
        if let Some(node_port) = port.node_port {
            let addresses = of_family(&node.node_port_addresses);
            fronts.extend(addresses.iter().map(|a| make.node_port(*a, node_port)));
        }
        plan.here.extend(&usable.here);
        if let Some(check) = service.health_check_node_port {
            let seen = plan.health.map_or(0, |(_, n)| n);
            plan.health = Some((check, seen.max(usable.ready_here)));
        }
    }
    plan.here.sort_unstable();
    plan.here.dedup();
    // Plans are kept, ten thousand of them, and most have one front.
    plan.fronts.shrink_to_fit();
    plan.here.shrink_to_fit();
    plan
}

/// The ranges that may use a load-balancer address. A node in a range reaches the address from the address itself, because the
/// kernel picks it as source when it is configured on the node.
fn sources(service: &ServiceInput, address: IpAddr, node: &NodeFacts) -> Vec<Cidr> {
    let family = Family::of(address);
    let ranges = service.lb_source_ranges.iter();
    let mut sources: Vec<Cidr> = ranges.filter(|c| c.family() == family).copied().collect();
    let ours = &node.node_port_addresses;
    if sources.iter().any(|c| ours.iter().any(|a| c.contains(*a))) {
        let bits = if family == Family::V4 { 32 } else { 128 };
        sources.extend(Cidr::new(address, bits));
    }
    if sources.is_empty() && !service.lb_source_ranges.is_empty() {
        // Restricted to the other family only: nobody of this one. A range holding just the address itself says so.
        let bits = if family == Family::V4 { 32 } else { 128 };
        sources.extend(Cidr::new(address, bits));
    }
    sources.sort_unstable();
    sources.dedup();
    // The kernel refuses overlapping intervals; of nested ranges the outer one says it all.
    let all = sources.clone();
    sources.retain(|c| {
        !all.iter()
            .any(|o| o != c && o.contains(c.address()) && o.prefix() < c.prefix())
    });
    sources
}

/// Makes the fronts of one port.
struct Fronts<'a> {
    service: &'a ServiceInput,
    port: &'a PortInput,
    usable: &'a Usable,
}

impl Fronts<'_> {
    fn key(&self, address: IpAddr) -> FrontKey {
        FrontKey {
            address,
            protocol: self.port.protocol,
            port: self.port.port,
        }
    }

    fn cluster(&self, address: IpAddr) -> Front {
        let answer = self.answer(self.service.internal_policy);
        self.front(self.key(address), Kind::Cluster, answer, None, Vec::new())
    }

    fn external(&self, address: IpAddr, sources: Vec<Cidr>) -> Front {
        let kind = Kind::External(self.source());
        self.outer(self.key(address), kind, sources)
    }

    fn node_port(&self, address: IpAddr, port: u16) -> Front {
        let key = FrontKey {
            port,
            ..self.key(address)
        };
        self.outer(key, Kind::NodePort(self.source()), Vec::new())
    }

    fn outer(&self, key: FrontKey, kind: Kind, sources: Vec<Cidr>) -> Front {
        let policy = self.service.external_policy;
        let everyone = policy == Policy::Cluster || self.usable.cluster.is_empty();
        let inside = (!everyone).then(|| self.usable.cluster.clone());
        self.front(key, kind, self.answer(policy), inside, sources)
    }

    fn source(&self) -> Source {
        match self.service.external_policy {
            Policy::Cluster => Source::Masqueraded,
            Policy::Local => Source::Kept,
        }
    }

    fn answer(&self, policy: Policy) -> Answer {
        let (targets, local) = match policy {
            Policy::Cluster => (&self.usable.cluster, false),
            Policy::Local => (&self.usable.local, true),
        };
        if !targets.is_empty() {
            Answer::Endpoints {
                targets: targets.clone(),
                local,
            }
        } else if local && self.usable.any {
            Answer::Drop
        } else {
            Answer::Reject
        }
    }

    fn front(
        &self,
        key: FrontKey,
        kind: Kind,
        answer: Answer,
        inside: Option<Vec<Target>>,
        sources: Vec<Cidr>,
    ) -> Front {
        let udp = key.protocol == Protocol::Udp;
        Front {
            key,
            kind,
            answer,
            inside,
            affinity: self.service.affinity_seconds.map(|seconds| Affinity {
                port: format!("{}/{}/{}", self.service.name, key.protocol, self.port.port),
                seconds,
            }),
            sources,
            serving: match udp {
                true => self.usable.serving.clone(),
                false => Vec::new(),
            },
        }
    }
}

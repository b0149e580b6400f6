//! What the proxy needs to know of Services, EndpointSlices and this node. No Kubernetes types.
//!
//! In: built once at the border by `api`. Out: read by the compiler. Absent: everything the ruleset does not depend on, so
//! that a status-only update converts to an equal value and changes nothing.
//!
//! What `api` leaves out altogether: Services of type ExternalName, headless ones (`clusterIP: None`), those labelled
//! `service.kubernetes.io/service-proxy-name` or `service.kubernetes.io/headless`; EndpointSlices of address type FQDN, without the
//! label `kubernetes.io/service-name`, or labelled `service.kubernetes.io/headless`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

/// Everything the cluster says, as one snapshot. Unchanged objects keep their `Arc`, which makes finding changes cheap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inputs {
    /// Services by name.
    pub services: BTreeMap<ServiceName, Arc<ServiceInput>>,
    /// EndpointSlices by name.
    pub slices: BTreeMap<SliceName, Arc<SliceInput>>,
    /// Both watches have listed completely at least once. Nothing is written to the kernel before.
    pub synced: bool,
}

/// `namespace/name` of a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    pub namespace: String,
    pub name: String,
}

/// `namespace/name` of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceName {
    pub namespace: String,
    pub name: String,
}

/// A Service with at least one cluster address. `spec.trafficDistribution` is not here: the control plane turns it into the
/// hints of the endpoints, and those decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceInput {
    pub name: ServiceName,
    /// `spec.clusterIPs`, both families.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` whose `ipMode` is not `Proxy`.
    pub lb_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges` (or the old annotation); empty admits everyone.
    pub lb_source_ranges: Vec<Cidr>,
    pub ports: Vec<PortInput>,
    /// `Some(timeout)` when `sessionAffinity: ClientIP`.
    pub affinity_seconds: Option<u32>,
    pub internal_policy: Policy,
    pub external_policy: Policy,
    /// `spec.healthCheckNodePort`.
    pub health_check_node_port: Option<u16>,
    /// `spec.publishNotReadyAddresses`: addresses count as ready whatever their condition says.
    pub publish_not_ready: bool,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortInput {
    /// Empty for the only, unnamed port.
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    pub node_port: Option<u16>,
}

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceInput {
    pub name: SliceName,
    /// The Service named by the label `kubernetes.io/service-name`, in the slice's namespace.
    pub service: ServiceName,
    pub family: Family,
    /// Ports without a number (`port: null`) are left out.
    pub ports: Vec<SlicePort>,
    pub endpoints: Vec<EndpointInput>,
}

/// One port of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePort {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
}

/// One endpoint of an EndpointSlice. Absent conditions are filled in at the border: `ready` true, `serving` = `ready`,
/// `terminating` false.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointInput {
    /// As the API has them; only the first is used, as the API specifies.
    pub addresses: Vec<IpAddr>,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    /// `nodeName`.
    pub node: Option<String>,
    /// `hints.forZones[].name`.
    pub zone_hints: Vec<String>,
    /// `hints.forNodes[].name`.
    pub node_hints: Vec<String>,
}

/// A transport protocol a Service can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// An address family: one table each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

/// `internalTrafficPolicy`, `externalTrafficPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    #[default]
    Cluster,
    Local,
}

/// What the rules depend on besides Services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The Node's name, as EndpointSlices spell it.
    pub name: String,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// The addresses that accept node ports: the node's primary addresses, not loopback.
    pub node_port_addresses: Vec<IpAddr>,
    /// Sources of ClusterIP traffic that keep their address: this node's pod ranges. Empty masquerades nothing but hairpins and
    /// external traffic, because a source can then not be told from a pod.
    pub pod_ranges: Vec<Cidr>,
}

/// An address range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// Not an address range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address range like 10.244.1.0/24")]
pub struct BadCidr(String);

impl Cidr {
    /// The range of `prefix` leading bits of `address`; host bits are cleared. `None` when the prefix is longer than the address.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(a) if prefix <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V4((a.to_bits() & mask).into())
            }
            IpAddr::V6(a) if prefix <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V6((a.to_bits() & mask).into())
            }
            _ => return None,
        };
        Some(Self { address, prefix })
    }

    pub fn address(&self) -> IpAddr {
        self.address
    }

    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    pub fn family(&self) -> Family {
        Family::of(self.address)
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        Family::of(address) == self.family() && Self::new(address, self.prefix) == Some(*self)
    }
}

impl FromStr for Cidr {
    type Err = BadCidr;

    fn from_str(text: &str) -> Result<Self, BadCidr> {
        let parsed = text
            .split_once('/')
            .and_then(|(address, prefix)| Self::new(address.parse().ok()?, prefix.parse().ok()?));
        parsed.ok_or_else(|| BadCidr(text.to_owned()))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Protocol {
    /// The IANA number, as in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

impl Family {
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for SliceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl ServiceInput {
    /// A Service with no addresses, no ports and the API's defaults: what converters and tests start from.
    pub fn named(namespace: &str, name: &str) -> Self {
        Self {
            name: ServiceName {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            },
            cluster_ips: Vec::new(),
            external_ips: Vec::new(),
            lb_ips: Vec::new(),
            lb_source_ranges: Vec::new(),
            ports: Vec::new(),
            affinity_seconds: None,
            internal_policy: Policy::Cluster,
            external_policy: Policy::Cluster,
            health_check_node_port: None,
            publish_not_ready: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_clears_host_bits_and_knows_its_members() {
        let range: Cidr = "10.244.1.7/24".parse().unwrap();
        assert_eq!(range.to_string(), "10.244.1.0/24");
        assert!(range.contains("10.244.1.255".parse().unwrap()));
        assert!(!range.contains("10.244.2.0".parse().unwrap()));
        assert!(!range.contains("fd00::1".parse().unwrap()));
        let all: Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("1.2.3.4".parse().unwrap()));
    }

    #[test]
    fn a_malformed_range_is_named_in_the_error() {
        for text in [
            "10.0.0.0",
            "10.0.0.0/33",
            "x/8",
            "fd00::/129",
            "10.0.0.0/-1",
        ] {
            let error = text.parse::<Cidr>().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}

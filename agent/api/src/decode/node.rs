//! Node JSON -> what a peer must know to send packets there.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kedge_proxy::model::Cidr;
use serde::Deserialize;

use super::address;
use crate::watch::store::Kind;

/// All nodes of the cluster, as peers.
#[derive(Debug)]
pub struct Peers;

/// A node as seen by another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub name: String,
    /// Addresses of type InternalIP, in the order given.
    pub internal_ips: Vec<IpAddr>,
    pub pod_cidrs: Vec<Cidr>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
}

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

impl Kind for Peers {
    type Key = String;
    type Item = Peer;
    const KIND: &'static str = "Node";

    fn key(_namespace: &str, name: &str) -> String {
        name.to_owned()
    }

    fn decode(json: &str) -> Result<Option<Peer>, serde_json::Error> {
        let node: Node = serde_json::from_str(json)?;
        Ok(Some(node.peer()))
    }
}

#[derive(Deserialize)]
struct Node {
    metadata: Meta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Meta {
    name: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    #[serde(rename = "podCIDR")]
    pod_cidr: String,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    addresses: Option<Vec<Address>>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

impl Node {
    fn peer(self) -> Peer {
        let object = format!("Node {}", self.metadata.name);
        let addresses = self.status.addresses.iter().flatten();
        let internal_ips = addresses
            .filter(|a| a.kind == "InternalIP")
            .filter_map(|a| address(&a.address, &object))
            .collect();
        let ranges = match self.spec.pod_cidrs {
            Some(ranges) if !ranges.is_empty() => ranges,
            _ => vec![self.spec.pod_cidr],
        };
        let pod_cidrs = ranges
            .iter()
            .filter(|t| !t.is_empty())
            .filter_map(|t| {
                t.parse()
                    .inspect_err(|error| tracing::warn!(%object, %error, "spec.podCIDRs"))
                    .ok()
            })
            .collect();
        Peer {
            zone: self.metadata.labels.and_then(|mut l| l.remove(ZONE_LABEL)),
            name: self.metadata.name,
            internal_ips,
            pod_cidrs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_its_addresses_ranges_and_zone() {
        let json = r#"{"metadata":{"name":"edge-7","labels":{"topology.kubernetes.io/zone":"a"},"managedFields":[]},
            "spec":{"podCIDR":"10.244.1.0/24","podCIDRs":["10.244.1.0/24","fd00:1::/64"]},
            "status":{"addresses":[{"type":"Hostname","address":"edge-7"},{"type":"InternalIP","address":"10.0.0.7"},{"type":"ExternalIP","address":"192.0.2.7"}]}}"#;
        let peer = Peers::decode(json).unwrap().unwrap();
        assert_eq!(
            peer,
            Peer {
                name: "edge-7".to_owned(),
                internal_ips: vec!["10.0.0.7".parse().unwrap()],
                pod_cidrs: vec![
                    "10.244.1.0/24".parse().unwrap(),
                    "fd00:1::/64".parse().unwrap()
                ],
                zone: Some("a".to_owned()),
            }
        );
    }

    #[test]
    fn a_node_without_a_range_yet_has_none() {
        let peer = Peers::decode(r#"{"metadata":{"name":"new"}}"#)
            .unwrap()
            .unwrap();
        assert!(peer.pod_cidrs.is_empty() && peer.internal_ips.is_empty());
    }
}

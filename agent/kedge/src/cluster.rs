//! The cluster's nodes in the words of each consumer. Pure: the API's peers in, what `host` and the proxy take out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use kedge_api::decode::node::Peer as ApiPeer;
use kedge_host::peers::ClusterNodes;
use kedge_podnet::routes::Peer;
use kedge_proxy::model::{Cidr, NodeFacts};
use kedge_wire::net::Ipv4Net;

/// Routes and pod network: this node's ranges (those kept from an earlier boot until the API says otherwise), and the others.
pub fn nodes(
    own_name: &str,
    kept: &[Ipv4Net],
    peers: &BTreeMap<String, Arc<ApiPeer>>,
    synced: bool,
) -> ClusterNodes {
    let told: Vec<Ipv4Net> = peers
        .get(own_name)
        .map(|p| ranges(&p.pod_cidrs))
        .unwrap_or_default();
    let others = peers.values().filter(|p| p.name != own_name).map(|p| Peer {
        name: p.name.clone(),
        address: p.internal_ips.iter().find_map(|ip| match ip {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        }),
        pod_ranges: ranges(&p.pod_cidrs),
    });
    ClusterNodes {
        own_ranges: if told.is_empty() { kept.to_vec() } else { told },
        peers: synced.then(|| others.collect()),
    }
}

/// What the proxy's rules depend on besides Services.
pub fn proxy_facts(
    own_name: &str,
    address: Option<IpAddr>,
    own_ranges: &[Ipv4Net],
    peers: &BTreeMap<String, Arc<ApiPeer>>,
) -> NodeFacts {
    NodeFacts {
        name: own_name.to_owned(),
        zone: peers.get(own_name).and_then(|p| p.zone.clone()),
        node_port_addresses: address.into_iter().collect(),
        pod_ranges: own_ranges
            .iter()
            .filter_map(|n| Cidr::new(n.addr().into(), n.prefix()))
            .collect(),
    }
}

/// IPv4 only, as the pod network is.
fn ranges(cidrs: &[Cidr]) -> Vec<Ipv4Net> {
    cidrs
        .iter()
        .filter_map(|c| match c.address() {
            IpAddr::V4(address) => Ipv4Net::new(address, c.prefix()),
            IpAddr::V6(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str, address: &str, range: Option<&str>) -> (String, Arc<ApiPeer>) {
        let peer = ApiPeer {
            name: name.to_owned(),
            internal_ips: vec![address.parse().unwrap()],
            pod_cidrs: range.map(|r| r.parse().unwrap()).into_iter().collect(),
            zone: None,
        };
        (name.to_owned(), Arc::new(peer))
    }

    #[test]
    fn a_kept_range_serves_until_the_api_names_one() {
        let kept = [Ipv4Net::new([10, 244, 7, 0].into(), 24).unwrap()];
        let unknown = nodes("a", &kept, &BTreeMap::new(), false);
        assert_eq!(
            (unknown.own_ranges.as_slice(), unknown.peers),
            (kept.as_slice(), None)
        );
        let peers = BTreeMap::from([
            peer("a", "192.0.2.1", Some("10.244.1.0/24")),
            peer("b", "192.0.2.2", Some("10.244.2.0/24")),
        ]);
        let known = nodes("a", &kept, &peers, true);
        assert_eq!(known.own_ranges[0].to_string(), "10.244.1.0/24");
        assert_eq!(
            known
                .peers
                .unwrap()
                .iter()
                .map(|p| p.name.as_str())
                .collect::<Vec<_>>(),
            ["b"]
        );
    }
}

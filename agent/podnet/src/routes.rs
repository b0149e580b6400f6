//! Routes of the node: to peers' pod ranges, to its own pods, and through its uplinks; each kind known by its protocol number.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use kedge_wire::net::Ipv4Net;
use kedge_wire::rtnl::{PROTO_PEERS, PROTO_PODS, Request, Route, Target};

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its address; absent while it has none.
    pub address: Option<Ipv4Addr>,
    /// Its pod ranges.
    pub pod_ranges: Vec<Ipv4Net>,
}

/// Routes to peers, and what keeps some of them away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerRoutes {
    /// Routes to have.
    pub routes: BTreeSet<Route>,
    /// One sentence for each peer that cannot be reached.
    pub faults: Vec<String>,
}

/// Unreachable routes lie under everything else, so that a packet for a pod that is gone is refused instead of sent to the default router.
const LAST_METRIC: u32 = u32::MAX - 1;

/// Routes to every peer on a common link; `own` are this node's addresses with their prefix.
pub fn peers(peers: &[Peer], own: &[Ipv4Net], own_ranges: &[Ipv4Net]) -> PeerRoutes {
    let mut found = PeerRoutes::default();
    for range in own_ranges {
        found.routes.insert(Route {
            destination: range.trunc(),
            target: Target::Unreachable,
            source: None,
            metric: LAST_METRIC,
            protocol: PROTO_PEERS,
        });
    }
    let mut seen: BTreeSet<Ipv4Net> = BTreeSet::new();
    for peer in peers {
        let Some(address) = peer.address else {
            continue;
        };
        if own.iter().any(|net| net.addr() == address) {
            found.faults.push(format!(
                "node {} has this node's address {address}: its pods are not reached",
                peer.name
            ));
            continue;
        }
        if !peer.pod_ranges.is_empty()
            && !own
                .iter()
                .any(|net| net.prefix() < 32 && net.contains(address))
        {
            found.faults.push(format!(
                "node {} at {address} is on no link of this node: its pods {} are reached only if the routers between know the way",
                peer.name,
                list(&peer.pod_ranges)
            ));
            continue;
        }
        for range in &peer.pod_ranges {
            let range = range.trunc();
            if own_ranges.iter().any(|own| overlap(own, &range)) || !seen.insert(range) {
                found.faults.push(format!(
                    "pod range {range} of node {} belongs to another node as well",
                    peer.name
                ));
                continue;
            }
            found.routes.insert(Route {
                destination: range,
                target: Target::Gateway {
                    index: None,
                    via: address,
                    onlink: false,
                },
                source: None,
                metric: 0,
                protocol: PROTO_PEERS,
            });
        }
    }
    found
}

fn overlap(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(b.network()) || b.contains(a.network())
}

fn list(ranges: &[Ipv4Net]) -> String {
    ranges
        .iter()
        .map(Ipv4Net::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// What turns the kernel's routes of `protocol` into `desired`. New and changed ones first: there is no moment without a way.
pub fn plan(protocol: u8, current: &[Route], desired: &BTreeSet<Route>) -> Vec<Request> {
    let ours: Vec<&Route> = current.iter().filter(|r| r.protocol == protocol).collect();
    let set = desired
        .iter()
        .filter(|want| !ours.iter().any(|have| same(have, want)))
        .map(Request::replace_route);
    // A route with the same destination and metric was replaced above.
    let delete = ours
        .iter()
        .filter(|have| {
            !desired
                .iter()
                .any(|want| (want.destination, want.metric) == (have.destination, have.metric))
        })
        .map(|have| Request::delete_route(have));
    set.chain(delete).collect()
}

/// The kernel reports the link it found for a gateway; a wish without a link agrees with any.
fn same(have: &Route, want: &Route) -> bool {
    let target = match (have.target, want.target) {
        (
            Target::Gateway { via: a, .. },
            Target::Gateway {
                index: None,
                via: b,
                ..
            },
        ) => a == b,
        (a, b) => a == b,
    };
    target
        && (have.destination, have.source, have.metric, have.protocol)
            == (want.destination, want.source, want.metric, want.protocol)
}

/// Gives the routes to this node's pods another source address. Must run before the old address goes: the kernel removes routes
/// whose source address is removed.
pub fn retarget(current: &[Route], source: Option<Ipv4Addr>) -> Vec<Request> {
    current
        .iter()
        .filter(|r| {
            r.protocol == PROTO_PODS
                && r.source != source
                && matches!(r.target, Target::Link { .. })
        })
        .map(|r| Request::replace_route(&Route { source, ..*r }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn peer(name: &str, address: &str, range: &str) -> Peer {
        Peer {
            name: name.into(),
            address: address.parse().ok(),
            pod_ranges: vec![net(range)],
        }
    }

    fn words(requests: &[Request]) -> String {
        requests
            .iter()
            .map(|r| format!("{} {}\n", r.operation, r.object))
            .collect()
    }

    fn sample() -> PeerRoutes {
        peers(
            &[
                peer("b", "192.168.50.12", "10.244.2.0/24"),
                peer("c", "192.168.50.13", "10.244.3.0/24"),
            ],
            &[net("192.168.50.11/24")],
            &[net("10.244.1.0/24")],
        )
    }

    #[test]
    fn peers_on_the_link_get_routes_and_the_own_range_ends_here() {
        expect_test::expect![[r#"
            set route 10.244.1.0/24 unreachable metric 4294967294
            set route 10.244.2.0/24 via 192.168.50.12
            set route 10.244.3.0/24 via 192.168.50.13
        "#]]
        .assert_eq(&words(&plan(PROTO_PEERS, &[], &sample().routes)));
    }

    #[test]
    fn planning_a_reached_state_is_empty() {
        // As the kernel reports them: with the link it found.
        let reached: Vec<Route> = sample()
            .routes
            .into_iter()
            .map(|mut r| {
                if let Target::Gateway { index, .. } = &mut r.target {
                    *index = Some(2);
                }
                r
            })
            .collect();
        assert_eq!(plan(PROTO_PEERS, &reached, &sample().routes), []);
    }

    #[test]
    fn a_moved_peer_is_replaced_and_a_gone_one_deleted_and_strangers_stay() {
        let mut current: Vec<Route> = sample().routes.into_iter().collect();
        current.push(Route {
            destination: net("10.9.0.0/16"),
            target: Target::Link { index: 7 },
            source: None,
            metric: 0,
            protocol: 4,
        });
        let desired = peers(
            &[peer("b", "192.168.50.77", "10.244.2.0/24")],
            &[net("192.168.50.11/24")],
            &[net("10.244.1.0/24")],
        );
        expect_test::expect![[r#"
            set route 10.244.2.0/24 via 192.168.50.77
            delete route 10.244.3.0/24 via 192.168.50.13
        "#]]
        .assert_eq(&words(&plan(PROTO_PEERS, &current, &desired.routes)));
    }

    #[test]
    fn what_cannot_work_is_said() {
        let found = peers(
            &[
                peer("far", "172.16.0.9", "10.244.9.0/24"),
                peer("twin", "192.168.50.11", "10.244.8.0/24"),
                peer("thief", "192.168.50.14", "10.244.1.0/24"),
                peer("new", "", "10.244.7.0/24"),
            ],
            &[net("192.168.50.11/24")],
            &[net("10.244.1.0/24")],
        );
        expect_test::expect![[r#"
            node far at 172.16.0.9 is on no link of this node: its pods 10.244.9.0/24 are reached only if the routers between know the way
            node twin has this node's address 192.168.50.11: its pods are not reached
            pod range 10.244.1.0/24 of node thief belongs to another node as well"#]]
        .assert_eq(&found.faults.join("\n"));
        assert_eq!(found.routes.len(), 1);
    }

    #[test]
    fn pod_routes_follow_the_nodes_address() {
        let (old, new) = (
            Ipv4Addr::new(192, 168, 50, 11),
            Ipv4Addr::new(192, 168, 50, 77),
        );
        let route = crate::link::host_route(5, Ipv4Addr::new(10, 244, 1, 5), Some(old));
        expect_test::expect![[r#"
            set route 10.244.1.5/32 dev 5 src 192.168.50.77
        "#]]
        .assert_eq(&words(&retarget(&[route], Some(new))));
        assert_eq!(retarget(&[route], Some(old)), []);
        assert_eq!(retarget(&[route], None).len(), 1);
    }
}

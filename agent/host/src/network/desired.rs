//! What the kernel should hold and others should know, from the state of all links. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use kedge_machine::config;
use kedge_wire::dhcp::StaticRoute;
use kedge_wire::net::Ipv4Net;
use kedge_wire::rtnl::{Address, PROTO_UPLINK, Route, Target};

use super::link::{LinkConfig, LinkState};
use super::{LinkAddress, MIN_LIFETIME, NodeNetwork, Primary};

/// One link at this moment.
#[derive(Clone, Debug)]
pub struct LinkFacts {
    /// What it is to do.
    pub config: LinkConfig,
    /// Its MTU.
    pub mtu: u32,
    /// Whether its cable is in.
    pub carrier: bool,
    /// What its task found.
    pub state: LinkState,
}

/// The whole wish.
#[derive(Debug, Default)]
pub struct Desired {
    /// MTUs to set.
    pub mtus: Vec<(u32, u32)>,
    /// Addresses to have.
    pub addresses: Vec<Address>,
    /// Uplink routes to have.
    pub routes: BTreeSet<Route>,
    /// What others are told; faults are separate.
    pub network: NodeNetwork,
    /// Sentences for the operator.
    pub faults: Vec<String>,
}

/// The first link's routes win; a link without a cable comes after all that have one.
const FIRST_METRIC: u32 = 100;
const METRIC_STEP: u32 = 10;
const NO_CARRIER: u32 = 10_000;

/// Puts the links together. `links` are in the config's order.
pub fn desired(network: &config::Network, links: &[LinkFacts], now: Duration) -> Desired {
    let mut desired = Desired::default();
    for link in links {
        desired.faults.extend(link.state.faults.iter().cloned());
        add_addresses(&mut desired, link, now);
        add_routes(&mut desired, link);
        add_lease(&mut desired, link);
    }
    desired.network.primary = primary(links);
    if !network.nameservers.is_empty() {
        desired.network.nameservers.clone_from(&network.nameservers);
    }
    if !network.search_domains.is_empty() {
        desired.network.search.clone_from(&network.search_domains);
    }
    desired
}

fn add_addresses(desired: &mut Desired, link: &LinkFacts, now: Duration) {
    for (net, valid) in nets(link, now) {
        desired.addresses.push(Address {
            index: link.config.index,
            net,
            valid,
            protocol: Some(PROTO_UPLINK),
        });
        desired.network.addresses.push(LinkAddress {
            interface: link.config.name.clone(),
            net,
        });
    }
}

/// Addresses with their lifetime. While the cable is out a lease cannot be renewed and disturbs nobody: it stays.
fn nets(link: &LinkFacts, now: Duration) -> Vec<(Ipv4Net, Option<u32>)> {
    let mut nets: Vec<_> = link.state.held.iter().map(|net| (*net, None)).collect();
    if let Some(lease) = &link.state.lease {
        let valid = lease
            .remaining(now)
            .filter(|_| link.carrier)
            .map(|s| s.max(MIN_LIFETIME));
        nets.push((lease.address, valid));
    }
    nets
}

fn add_routes(desired: &mut Desired, link: &LinkFacts) {
    // There are fewer links than this can overflow.
    let mut metric = FIRST_METRIC + METRIC_STEP * link.config.order as u32;
    if !link.carrier {
        metric += NO_CARRIER;
    }
    for (way, source) in ways(link) {
        let target = if way.via.is_unspecified() {
            Target::Link {
                index: link.config.index,
            }
        } else {
            Target::Gateway {
                index: Some(link.config.index),
                via: way.via,
                // Some providers give a /32 and a router outside of it.
                onlink: !own_nets(link).any(|net| net.prefix() < 32 && net.contains(way.via)),
            }
        };
        desired.routes.insert(Route {
            destination: way.destination,
            target,
            source: Some(source),
            metric,
            protocol: PROTO_UPLINK,
        });
    }
}

fn own_nets(link: &LinkFacts) -> impl Iterator<Item = Ipv4Net> {
    link.state
        .held
        .iter()
        .copied()
        .chain(link.state.lease.iter().map(|l| l.address))
}

/// Routes with the address they go out from. A static gateway wins over DHCP's default route.
fn ways(link: &LinkFacts) -> Vec<(StaticRoute, Ipv4Addr)> {
    let mut ways = Vec::new();
    if let (Some(via), Some(source)) = (link.config.gateway, link.state.held.first()) {
        let destination = Ipv4Net::new(Ipv4Addr::UNSPECIFIED, 0).expect("0 is at most 32");
        ways.push((StaticRoute { destination, via }, source.addr()));
    }
    if let Some(lease) = &link.state.lease {
        let known: Vec<Ipv4Net> = ways.iter().map(|(w, _)| w.destination).collect();
        let of_lease = lease
            .routes
            .iter()
            .filter(|r| !known.contains(&r.destination));
        ways.extend(of_lease.map(|r| (*r, lease.address.addr())));
    }
    ways
}

fn add_lease(desired: &mut Desired, link: &LinkFacts) {
    let Some(lease) = &link.state.lease else {
        return;
    };
    if !lease.ignored.is_empty() {
        desired.faults.push(format!(
            "DHCP server {} on {} sent options {:?} that cannot be understood; the rest is used",
            lease.server, link.config.name, lease.ignored
        ));
    }
    let mtu = lease
        .mtu
        .map(u32::from)
        .filter(|mtu| link.config.mtu.is_none() && *mtu != link.mtu);
    desired.mtus.extend(mtu.map(|mtu| (link.config.index, mtu)));
    let network = &mut desired.network;
    extend_new(
        &mut network.nameservers,
        lease.nameservers.iter().map(|a| IpAddr::V4(*a)),
    );
    extend_new(&mut network.search, lease.search.iter().cloned());
    extend_new(&mut network.ntp_servers, lease.ntp.iter().copied());
    network.hostname = network.hostname.take().or_else(|| lease.hostname.clone());
}

fn extend_new<T: PartialEq>(list: &mut Vec<T>, more: impl Iterator<Item = T>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

/// The first link with a default route and a cable, then with a default route, then with an address.
fn primary(links: &[LinkFacts]) -> Option<Primary> {
    let rank = |link: &&LinkFacts| (gateway(link).is_some(), link.carrier);
    let candidates = links.iter().filter(|link| own_nets(link).next().is_some());
    // max_by_key takes the last of equals: go backwards to keep the config's order.
    let link = candidates.rev().max_by_key(rank)?;
    let (gateway, source) = gateway(link).unzip();
    Some(Primary {
        address: source.or_else(|| own_nets(link).next().map(|n| n.addr()))?,
        interface: link.config.name.clone(),
        index: link.config.index,
        mac: link.config.mac,
        mtu: link
            .config
            .mtu
            .or_else(|| link.state.lease.as_ref()?.mtu.map(u32::from))
            .unwrap_or(link.mtu),
        gateway,
    })
}

fn gateway(link: &LinkFacts) -> Option<(Ipv4Addr, Ipv4Addr)> {
    ways(link)
        .into_iter()
        .find(|(way, _)| way.destination.prefix() == 0 && !way.via.is_unspecified())
        .map(|(way, source)| (way.via, source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_wire::dhcp::Lease;
    use kedge_wire::net::Mac;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn link(order: usize) -> LinkFacts {
        LinkFacts {
            config: LinkConfig {
                order,
                index: order as u32 + 2,
                name: format!("eth{order}"),
                mac: Mac([2, 0, 0, 0, 0, order as u8]),
                dhcp: true,
                addresses: vec![],
                gateway: None,
                mtu: None,
            },
            mtu: 1500,
            carrier: true,
            state: LinkState::default(),
        }
    }

    fn leased(order: usize, address: &str, router: &str) -> LinkFacts {
        let mut facts = link(order);
        facts.state.lease = Some(Lease {
            address: net(address),
            server: ip(router),
            since: Duration::ZERO,
            duration: Some(3600),
            renew: 1800,
            rebind: 3150,
            routes: vec![StaticRoute {
                destination: net("0.0.0.0/0"),
                via: ip(router),
            }],
            nameservers: vec![ip(router)],
            search: vec!["lan".into()],
            hostname: Some("from-dhcp".into()),
            mtu: None,
            ntp: vec![ip("192.0.2.123")],
            ignored: vec![],
        });
        facts
    }

    fn words(desired: &Desired) -> String {
        let mut text: Vec<String> = desired
            .addresses
            .iter()
            .map(|a| format!("{} on {} for {:?}", a.net, a.index, a.valid))
            .collect();
        text.extend(desired.routes.iter().map(ToString::to_string));
        text.extend(
            desired
                .network
                .primary
                .iter()
                .map(|p| format!("primary {} on {}", p.address, p.interface)),
        );
        text.join("\n")
    }

    fn at(links: &[LinkFacts], seconds: u64) -> Desired {
        desired(
            &config::Network::default(),
            links,
            Duration::from_secs(seconds),
        )
    }

    #[test]
    fn a_lease_becomes_an_address_a_route_and_names() {
        let found = at(&[leased(0, "192.168.50.11/24", "192.168.50.1")], 600);
        expect_test::expect![[r#"
            192.168.50.11/24 on 2 for Some(3000)
            0.0.0.0/0 via 192.168.50.1 dev 2 src 192.168.50.11 metric 100
            primary 192.168.50.11 on eth0"#]]
        .assert_eq(&words(&found));
        assert_eq!(
            (
                found.network.hostname.as_deref(),
                found.network.search.as_slice()
            ),
            (Some("from-dhcp"), &["lan".to_owned()][..])
        );
    }

    #[test]
    fn without_a_cable_the_address_stays_for_ever_and_another_link_takes_over() {
        let mut out = leased(0, "192.168.50.11/24", "192.168.50.1");
        out.carrier = false;
        let found = at(&[out, leased(1, "10.1.0.9/24", "10.1.0.1")], 600);
        expect_test::expect![[r#"
            192.168.50.11/24 on 2 for None
            10.1.0.9/24 on 3 for Some(3000)
            0.0.0.0/0 via 192.168.50.1 dev 2 src 192.168.50.11 metric 10100
            0.0.0.0/0 via 10.1.0.1 dev 3 src 10.1.0.9 metric 110
            primary 10.1.0.9 on eth1"#]]
        .assert_eq(&words(&found));
    }

    #[test]
    fn static_addresses_win_over_dhcp_and_the_config_names_the_resolvers() {
        let mut both = leased(0, "192.168.50.11/24", "192.168.50.1");
        both.state.held = vec![net("10.9.0.5/16")];
        both.config.gateway = Some(ip("10.9.0.1"));
        let network = config::Network {
            nameservers: vec!["9.9.9.9".parse().unwrap()],
            ..config::Network::default()
        };
        let found = desired(&network, &[both], Duration::ZERO);
        expect_test::expect![[r#"
            10.9.0.5/16 on 2 for None
            192.168.50.11/24 on 2 for Some(3600)
            0.0.0.0/0 via 10.9.0.1 dev 2 src 10.9.0.5 metric 100
            primary 10.9.0.5 on eth0"#]]
        .assert_eq(&words(&found));
        assert_eq!(found.network.nameservers, [IpAddr::from([9, 9, 9, 9])]);
    }

    #[test]
    fn a_router_outside_the_subnet_is_onlink() {
        let found = at(&[leased(0, "203.0.113.7/32", "203.0.113.1")], 0);
        assert!(
            words(&found).contains("via 203.0.113.1 dev 2 onlink"),
            "{}",
            words(&found)
        );
    }

    #[test]
    fn a_short_lease_outlives_an_agent_that_restarts() {
        let found = at(&[leased(0, "192.168.50.11/24", "192.168.50.1")], 3599);
        assert_eq!(found.addresses[0].valid, Some(MIN_LIFETIME));
    }
}

//! Which links the node manages, and how: the config's interfaces matched against the kernel's links.

use std::net::IpAddr;

use kedge_machine::config::{self, LinkSelector};
use kedge_wire::net::{Ipv4Net, Mac};
use kedge_wire::rtnl::Link;

use super::link::LinkConfig;

/// Links to manage, and what in the config fits none.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Links to manage.
    pub links: Vec<LinkConfig>,
    /// Sentences for the operator.
    pub faults: Vec<String>,
}

/// Matches `network` against `links`. Without interfaces in the config every physical Ethernet link asks DHCP.
pub fn select(network: &config::Network, links: &[Link]) -> Selection {
    let mut selection = Selection::default();
    if network.interfaces.is_empty() {
        let physical = links.iter().filter(|l| l.is_physical_ethernet());
        selection.links = physical
            .enumerate()
            .filter_map(|(order, link)| plain(order, link))
            .collect();
        if selection.links.is_empty() {
            selection
                .faults
                .push("this machine has no Ethernet link: is its driver in the image?".to_owned());
        }
        return selection;
    }
    for (order, interface) in network.interfaces.iter().enumerate() {
        let found = links.iter().find(|link| matches(&interface.selector, link));
        match found.and_then(|link| plain(order, link)) {
            Some(link) => selection
                .links
                .push(configured(link, interface, &mut selection.faults)),
            None => selection.faults.push(missing(&interface.selector, links)),
        }
    }
    selection
}

fn matches(selector: &LinkSelector, link: &Link) -> bool {
    match selector {
        LinkSelector::Name(name) => *name == link.name,
        // A bridge or VLAN inherits the address of its port: the hardware is meant.
        LinkSelector::Mac(mac) => {
            link.mac == Some(Mac(*mac)) && link.kind.as_deref().is_none_or(|kind| kind == "veth")
        }
    }
}

fn plain(order: usize, link: &Link) -> Option<LinkConfig> {
    Some(LinkConfig {
        order,
        index: link.index,
        name: link.name.clone(),
        mac: link.mac?,
        dhcp: true,
        addresses: Vec::new(),
        gateway: None,
        mtu: None,
    })
}

fn configured(
    link: LinkConfig,
    interface: &config::Interface,
    faults: &mut Vec<String>,
) -> LinkConfig {
    let mut addresses = Vec::new();
    for cidr in &interface.addresses {
        match cidr.addr {
            IpAddr::V4(v4) => addresses.extend(Ipv4Net::new(v4, cidr.prefix)),
            IpAddr::V6(_) => faults.push(format!(
                "address {cidr} on {} is IPv6, which this version does not set",
                link.name
            )),
        }
    }
    let gateway = match interface.gateway {
        Some(IpAddr::V4(v4)) => Some(v4),
        Some(IpAddr::V6(v6)) => {
            faults.push(format!(
                "gateway {v6} on {} is IPv6, which this version does not set",
                link.name
            ));
            None
        }
        None => None,
    };
    LinkConfig {
        dhcp: interface.dhcp,
        addresses,
        gateway,
        mtu: interface.mtu,
        ..link
    }
}

fn missing(selector: &LinkSelector, links: &[Link]) -> String {
    let wanted = match selector {
        LinkSelector::Name(name) => name.clone(),
        LinkSelector::Mac(mac) => Mac(*mac).to_string(),
    };
    let have: Vec<String> = links
        .iter()
        .filter(|l| l.is_physical_ethernet())
        .map(|l| format!("{} ({})", l.name, l.mac.unwrap_or_default()))
        .collect();
    let have = if have.is_empty() {
        "none".to_owned()
    } else {
        have.join(", ")
    };
    format!("network interface {wanted} of the config does not exist; Ethernet links here: {have}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_machine::config::{Cidr, Interface, Network};

    fn link(index: u32, name: &str, kind: Option<&str>) -> Link {
        Link {
            index,
            name: name.into(),
            mac: Some(Mac([2, 0, 0, 0, 0, index as u8])),
            ethernet: true,
            kind: kind.map(Into::into),
            ..Link::default()
        }
    }

    fn interface(selector: LinkSelector) -> Network {
        let interface = Interface {
            selector,
            dhcp: false,
            addresses: vec![
                Cidr::parse("192.168.50.11/24").unwrap(),
                Cidr::parse("2001:db8::1/64").unwrap(),
            ],
            gateway: Some("192.168.50.1".parse().unwrap()),
            mtu: Some(1400),
        };
        Network {
            interfaces: vec![interface],
            ..Network::default()
        }
    }

    #[test]
    fn without_config_all_hardware_asks_dhcp_and_nothing_else_does() {
        let links = [
            link(2, "eth0", None),
            link(3, "pod1", Some("veth")),
            link(4, "eth1", None),
        ];
        let found = select(&Network::default(), &links);
        let names: Vec<_> = found
            .links
            .iter()
            .map(|l| (l.name.as_str(), l.dhcp, l.order))
            .collect();
        assert_eq!(names, [("eth0", true, 0), ("eth1", true, 1)]);
    }

    #[test]
    fn links_are_found_by_name_and_by_hardware_address() {
        let links = [link(2, "eth0", None), link(3, "eth1", None)];
        for selector in [
            LinkSelector::Name("eth1".into()),
            LinkSelector::Mac([2, 0, 0, 0, 0, 3]),
        ] {
            let found = select(&interface(selector), &links);
            assert_eq!(
                (
                    found.links[0].index,
                    found.links[0].addresses.len(),
                    found.links[0].mtu
                ),
                (3, 1, Some(1400))
            );
            assert_eq!(
                found.faults,
                ["address 2001:db8::1/64 on eth1 is IPv6, which this version does not set"]
            );
        }
    }

    #[test]
    fn a_link_that_does_not_exist_is_said_with_those_that_do() {
        let found = select(
            &interface(LinkSelector::Name("eth7".into())),
            &[link(2, "eth0", None)],
        );
        assert_eq!(
            found.faults,
            [
                "network interface eth7 of the config does not exist; Ethernet links here: eth0 (02:00:00:00:00:02)"
            ]
        );
    }
}

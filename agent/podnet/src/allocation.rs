//! Addresses and host ports of pods: what is taken, what is free.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use kedge_wire::cni::{Attachment, PortMapping, Protocol};
use kedge_wire::net::Ipv4Net;
use serde::{Deserialize, Serialize};

/// One pod's end: the content of `/run/kedge/cni/<address>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Allocation {
    /// The pod's address.
    pub address: Ipv4Addr,
    /// Whose it is.
    #[serde(flatten)]
    pub attachment: Attachment,
    /// The link on the node.
    pub veth: String,
    /// Host ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<HostPort>,
}

/// A checked host port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPort {
    /// Only on this address of the node; absent: on all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// Transport.
    pub protocol: Protocol,
    /// On the node.
    pub port: u16,
    /// In the pod.
    pub container_port: u16,
}

/// A host port that cannot be given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Not an address at all.
    #[error("hostIP {0:?} of host port {1} is not an address")]
    Address(String, u16),
    /// The pod network speaks IPv4.
    #[error("hostIP {0} of host port {1} is IPv6, and this pod network speaks IPv4 only")]
    Ipv6(IpAddr, u16),
    /// Zero is no port.
    #[error("port 0 cannot be mapped (host port {0}, container port {1})")]
    Zero(u16, u16),
    /// Another pod has it.
    #[error("host port {protocol} {port} is already used by container {container}")]
    Taken {
        /// Transport.
        protocol: Protocol,
        /// The port.
        port: u16,
        /// Who has it.
        container: String,
    },
}

/// Checks the runtime's port mappings against each other's owners.
pub fn host_ports(
    mappings: &[PortMapping],
    others: &[Allocation],
) -> Result<Vec<HostPort>, PortError> {
    let ports = mappings
        .iter()
        .map(host_port)
        .collect::<Result<Vec<_>, _>>()?;
    for port in &ports {
        let owner = others
            .iter()
            .find(|other| other.ports.iter().any(|p| p.key() == port.key()));
        if let Some(owner) = owner {
            return Err(PortError::Taken {
                protocol: port.protocol,
                port: port.port,
                container: owner.attachment.container_id.clone(),
            });
        }
    }
    Ok(ports)
}

fn host_port(mapping: &PortMapping) -> Result<HostPort, PortError> {
    if mapping.host_port == 0 || mapping.container_port == 0 {
        return Err(PortError::Zero(mapping.host_port, mapping.container_port));
    }
    let address = match mapping.host_ip.as_str() {
        "" => None,
        text => match text.parse() {
            Ok(address @ IpAddr::V6(v6)) if !v6.is_unspecified() => {
                return Err(PortError::Ipv6(address, mapping.host_port));
            }
            Ok(IpAddr::V4(v4)) if !v4.is_unspecified() => Some(v4),
            Ok(_) => None,
            Err(_) => return Err(PortError::Address(text.to_owned(), mapping.host_port)),
        },
    };
    Ok(HostPort {
        address,
        protocol: mapping.protocol,
        port: mapping.host_port,
        container_port: mapping.container_port,
    })
}

impl HostPort {
    /// What must be unique on a node.
    pub fn key(&self) -> (Option<Ipv4Addr>, Protocol, u16) {
        (self.address, self.protocol, self.port)
    }

    /// Whether connections to it can come from the node's loopback addresses.
    pub fn reached_from_loopback(&self) -> bool {
        self.address.is_none_or(|address| address.is_loopback())
    }
}

/// The next free address after `last`, going round: an address that was just given back is not given out again soon, so that
/// peers and conntrack forget it first.
pub fn free_address(
    ranges: &[Ipv4Net],
    taken: &BTreeSet<Ipv4Addr>,
    last: Option<Ipv4Addr>,
) -> Option<Ipv4Addr> {
    let usable: Vec<(u32, u32)> = ranges.iter().map(usable).collect();
    let start = last.map_or(0, |last| u32::from(last).saturating_add(1));
    let (mut here, mut before) = (None, None);
    // The first free address at or after `start` in any range, else the first free address of all.
    for (low, high) in usable {
        here = here.or_else(|| {
            first_free(low.max(start), high, taken).filter(|_| start >= low && start <= high)
        });
        before = before.or_else(|| first_free(low, high, taken));
    }
    here.or(before)
}

/// Without network and broadcast address; ranges of one or two addresses have neither.
fn usable(range: &Ipv4Net) -> (u32, u32) {
    let (low, high) = (u32::from(range.network()), u32::from(range.last()));
    if range.prefix() >= 31 {
        (low, high)
    } else {
        (low + 1, high - 1)
    }
}

fn first_free(low: u32, high: u32, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    (low..=high)
        .map(Ipv4Addr::from)
        .find(|address| !taken.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn ranges(text: &[&str]) -> Vec<Ipv4Net> {
        text.iter().map(|t| t.parse().unwrap()).collect()
    }

    fn taken(text: &[&str]) -> BTreeSet<Ipv4Addr> {
        text.iter().map(|t| ip(t)).collect()
    }

    fn mapping(host: u16, host_ip: &str) -> PortMapping {
        PortMapping {
            host_port: host,
            container_port: 80,
            protocol: Protocol::Tcp,
            host_ip: host_ip.into(),
        }
    }

    #[test]
    fn addresses_go_round_and_skip_both_ends() {
        let range = ranges(&["10.244.1.0/30"]);
        let none = taken(&[]);
        assert_eq!(free_address(&range, &none, None), Some(ip("10.244.1.1")));
        assert_eq!(
            free_address(&range, &none, Some(ip("10.244.1.1"))),
            Some(ip("10.244.1.2"))
        );
        assert_eq!(
            free_address(&range, &none, Some(ip("10.244.1.2"))),
            Some(ip("10.244.1.1"))
        );
        assert_eq!(
            free_address(&range, &taken(&["10.244.1.1"]), None),
            Some(ip("10.244.1.2"))
        );
        assert_eq!(
            free_address(&range, &taken(&["10.244.1.1", "10.244.1.2"]), None),
            None
        );
    }

    #[test]
    fn a_full_range_goes_on_in_the_next() {
        let two = ranges(&["10.244.1.0/31", "10.9.0.0/30"]);
        let full = taken(&["10.244.1.0", "10.244.1.1"]);
        assert_eq!(
            free_address(&two, &full, Some(ip("10.244.1.1"))),
            Some(ip("10.9.0.1"))
        );
    }

    #[test]
    fn host_ports_are_checked_with_words() {
        assert_eq!(
            host_ports(&[mapping(8080, "")], &[]).unwrap()[0].address,
            None
        );
        assert_eq!(
            host_ports(&[mapping(8080, "::")], &[]).unwrap()[0].address,
            None
        );
        assert_eq!(
            host_ports(&[mapping(8080, "127.0.0.1")], &[]).unwrap()[0].address,
            Some(Ipv4Addr::LOCALHOST)
        );
        for bad in [mapping(8080, "::1"), mapping(8080, "node"), mapping(0, "")] {
            assert!(host_ports(&[bad], &[]).is_err());
        }
        let other = Allocation {
            address: ip("10.244.1.5"),
            attachment: Attachment {
                container_id: "abc".into(),
                ifname: "eth0".into(),
            },
            veth: "pod5".into(),
            ports: host_ports(&[mapping(8080, "")], &[]).unwrap(),
        };
        let error = host_ports(&[mapping(8080, "")], std::slice::from_ref(&other)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "host port TCP 8080 is already used by container abc"
        );
        assert!(
            host_ports(&[mapping(8080, "127.0.0.1")], &[other]).is_ok(),
            "the more exact address wins in the kernel"
        );
    }

    #[test]
    fn the_file_of_an_allocation_round_trips() {
        let text = r#"{"address":"10.244.1.5","containerID":"abc","ifname":"eth0","veth":"pod5","ports":[{"protocol":"udp","port":53,"containerPort":5353}]}"#;
        let read: Allocation = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
    }

    proptest! {
        #[test]
        fn what_is_given_is_free_and_inside(prefix in 24u8..=32, used in proptest::collection::btree_set(0u8..=255, 0..256), last in any::<u8>()) {
            let range: Ipv4Net = format!("10.244.1.0/{prefix}").parse().unwrap();
            let used: BTreeSet<Ipv4Addr> = used.into_iter().map(|h| Ipv4Addr::new(10, 244, 1, h)).collect();
            let got = free_address(&[range], &used, Some(Ipv4Addr::new(10, 244, 1, last)));
            let any_free = { let (low, high) = usable(&range); (low..=high).any(|a| !used.contains(&Ipv4Addr::from(a))) };
            prop_assert_eq!(got.is_some(), any_free);
            prop_assert!(got.is_none_or(|a| range.contains(a) && !used.contains(&a)));
        }
    }
}

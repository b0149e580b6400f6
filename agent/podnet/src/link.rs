//! A pod's link: names, hardware addresses, and the requests that make both ends.

use std::net::Ipv4Addr;

use kedge_wire::cni::Attachment;
use kedge_wire::net::{Ipv4Net, Mac};
use kedge_wire::rtnl::{Address, PROTO_PODS, Request, Route, Target, Veth};

/// The router that every pod sees: link-local, so it collides with nothing, and answered by nobody; only its hardware address counts.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The node's end of every veth. Locally administered; the last five octets read "kedge".
pub const HOST_MAC: Mac = Mac([0x02, 0x6b, 0x65, 0x64, 0x67, 0x65]);
/// Links of ours on the node begin with this.
pub const VETH_PREFIX: &str = "pod";

/// The node's end: [`VETH_PREFIX`] and 48 bits of a hash, so that it can be found again from the ids alone.
pub fn veth_name(attachment: &Attachment) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let bytes = attachment
        .container_id
        .bytes()
        .chain([0])
        .chain(attachment.ifname.bytes());
    for byte in bytes {
        // FNV-1a
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!(
        "{VETH_PREFIX}{:012x}",
        (hash ^ (hash >> 48)) & 0xffff_ffff_ffff
    )
}

/// The pod's end: locally administered, unique because the address is.
pub fn pod_mac(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    Mac([0x0a, 0x6b, a, b, c, d])
}

/// Creates the pair with the pod's end already in `netns`.
pub fn create(veth: &str, ifname: &str, address: Ipv4Addr, netns: i32, mtu: u32) -> Request {
    Request::create_veth(&Veth {
        name: veth,
        mac: HOST_MAC,
        peer_name: ifname,
        peer_mac: Some(pod_mac(address)),
        peer_netns: Some(netns),
        mtu,
    })
}

/// The pod's side, in its namespace: loopback, address, and a default route that needs no ARP.
pub fn pod_side(lo: u32, link: u32, address: Ipv4Addr) -> Vec<Request> {
    vec![
        Request::set_link_up(lo, true),
        Request::set_address(&Address {
            index: link,
            net: Ipv4Net::host(address),
            valid: None,
            protocol: None,
        }),
        Request::set_link_up(link, true),
        Request::set_neighbour(link, GATEWAY, HOST_MAC),
        Request::replace_route(&default_route(link)),
    ]
}

/// The pod's default route.
pub fn default_route(link: u32) -> Route {
    Route {
        destination: Ipv4Net::new(Ipv4Addr::UNSPECIFIED, 0).expect("0 is at most 32"),
        target: Target::Gateway {
            index: Some(link),
            via: GATEWAY,
            onlink: true,
        },
        source: None,
        metric: 0,
        protocol: PROTO_PODS,
    }
}

/// The node's route to the pod. `source` is the node's address, so that probes come from it on nodes with several links.
pub fn host_route(link: u32, address: Ipv4Addr, source: Option<Ipv4Addr>) -> Route {
    Route {
        destination: Ipv4Net::host(address),
        target: Target::Link { index: link },
        source,
        metric: 0,
        protocol: PROTO_PODS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(id: &str) -> Attachment {
        Attachment {
            container_id: id.into(),
            ifname: "eth0".into(),
        }
    }

    #[test]
    fn veth_names_are_short_stable_and_differ() {
        let name = veth_name(&attachment("7d3f"));
        expect_test::expect!["pod4cfb4d6281a6"].assert_eq(&name);
        assert_eq!(name.len(), 15);
        assert_ne!(name, veth_name(&attachment("7d40")));
    }

    #[test]
    fn a_pods_side_reads_like_this() {
        let text: Vec<String> = pod_side(1, 2, Ipv4Addr::new(10, 244, 1, 5))
            .iter()
            .map(|r| format!("{} {}\n", r.operation, r.object))
            .collect();
        expect_test::expect![[r#"
            bring up link number 1
            set address 10.244.1.5/32 on link 2
            bring up link number 2
            set neighbour 169.254.1.1 at 02:6b:65:64:67:65 on link 2
            set route 0.0.0.0/0 via 169.254.1.1 dev 2 onlink
        "#]]
        .assert_eq(&text.concat());
    }
}

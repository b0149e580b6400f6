//! Our bytes are read by netlink-packet-route and by ourselves; any bytes are read without a panic.

use netlink_packet_core::{Emitable, NetlinkBuffer, Parseable};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use proptest::prelude::*;

use super::*;

const MAC: Mac = Mac([2, 0x6b, 0x65, 0x64, 0x67, 0x65]);

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

#[test]
fn the_library_reads_our_veth_as_meant() {
    let request = Request::create_veth(&Veth {
        name: "pod0",
        mac: MAC,
        peer_name: "eth0",
        peer_mac: None,
        peer_netns: Some(7),
        mtu: 1400,
    });
    let read = LinkMessage::parse(&request.body[..]).unwrap();
    assert!(
        read.attributes
            .contains(&LinkAttribute::IfName("pod0".into()))
    );
    assert!(read.attributes.contains(&LinkAttribute::Mtu(1400)));
    let info = read
        .attributes
        .iter()
        .find_map(|a| {
            if let LinkAttribute::LinkInfo(info) = a {
                Some(info)
            } else {
                None
            }
        })
        .unwrap();
    assert_eq!(info[0], LinkInfo::Kind(InfoKind::Veth));
    let LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))) = &info[1] else {
        panic!("no peer in {info:?}");
    };
    assert!(
        peer.attributes
            .contains(&LinkAttribute::IfName("eth0".into()))
    );
    assert!(peer.attributes.contains(&LinkAttribute::NetNsFd(7)));
}

#[test]
fn the_library_reads_our_address_as_meant() {
    let ours = Address {
        index: 3,
        net: net("192.168.50.11/24"),
        valid: Some(900),
        protocol: Some(PROTO_UPLINK),
    };
    let read = AddressMessage::parse(&Request::set_address(&ours).body[..]).unwrap();
    assert_eq!((read.header.index, read.header.prefix_len), (3, 24));
    assert!(read.attributes.iter().any(|a| matches!(a, AddressAttribute::CacheInfo(c) if c.ifa_valid == 900 && c.ifa_preferred == 900)));
    assert!(
        read.attributes
            .contains(&AddressAttribute::Broadcast(Ipv4Addr::new(
                192, 168, 50, 255
            )))
    );
    assert_eq!(
        Address::parse(&Request::set_address(&ours).body),
        Some(ours)
    );
}

#[test]
fn the_library_reads_our_routes_as_meant() {
    let ours = Route {
        destination: net("10.244.2.0/24"),
        target: Target::Gateway {
            index: Some(2),
            via: Ipv4Addr::new(192, 168, 50, 12),
            onlink: true,
        },
        source: Some(Ipv4Addr::new(192, 168, 50, 11)),
        metric: 20,
        protocol: PROTO_PEERS,
    };
    let body = Request::replace_route(&ours).body;
    let read = RouteMessage::parse(&body[..]).unwrap();
    assert_eq!(read.header.destination_prefix_length, 24);
    assert_eq!(read.header.protocol, RouteProtocol::Other(PROTO_PEERS));
    assert_eq!(read.header.scope, RouteScope::Universe);
    assert!(read.attributes.contains(&RouteAttribute::Oif(2)));
    assert!(read.attributes.contains(&RouteAttribute::Priority(20)));
    // The library emits the same attributes in its own order: compare through our reader.
    let mut again = vec![0; read.buffer_len()];
    read.emit(&mut again);
    assert_eq!(Route::parse(&again), Some(ours));

    let unreachable = Route {
        destination: net("10.244.1.0/24"),
        target: Target::Unreachable,
        source: None,
        metric: 0,
        protocol: PROTO_PEERS,
    };
    let read = RouteMessage::parse(&Request::replace_route(&unreachable).body[..]).unwrap();
    assert_eq!(read.header.kind, RouteType::Unreachable);
}

#[test]
fn the_library_reads_our_neighbour_as_meant() {
    let request = Request::set_neighbour(2, Ipv4Addr::new(169, 254, 1, 1), MAC);
    let read = NeighbourMessage::parse(&request.body[..]).unwrap();
    assert_eq!(
        (read.header.ifindex, read.header.state),
        (2, NeighbourState::Permanent)
    );
    assert!(
        read.attributes
            .contains(&NeighbourAttribute::LinkLayerAddress(MAC.0.to_vec()))
    );
}

#[test]
fn another_table_is_not_ours() {
    let route = Route {
        destination: net("10.0.0.0/8"),
        target: Target::Link { index: 2 },
        source: None,
        metric: 0,
        protocol: PROTO_PODS,
    };
    let mut body = Request::replace_route(&route).body;
    assert_eq!(Route::parse(&body), Some(route));
    body[4] = 255;
    assert_eq!(Route::parse(&body), None);
}

#[test]
fn virtual_links_are_not_taken_for_hardware() {
    let mut link = Link {
        ethernet: true,
        ..Link::default()
    };
    assert!(link.is_physical_ethernet());
    link.kind = Some("veth".into());
    assert!(!link.is_physical_ethernet());
}

proptest! {
    #[test]
    fn reading_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = (Link::parse(&bytes), Address::parse(&bytes), Route::parse(&bytes));
        prop_assert!(Attrs(&bytes).count() <= bytes.len() / 4 + 1);
        let _ = NetlinkBuffer::new_checked(&bytes);
    }
}

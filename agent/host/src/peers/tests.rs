//! The loop against a real kernel in a fresh network namespace.

use std::net::Ipv4Addr;

use kedge_wire::net::Mac;
use kedge_wire::rtnl::{Address, Request, Target};

use super::*;
use crate::network::{LinkAddress, Primary};
use crate::testing::{in_fresh_netns, veth};

fn network(address: &str) -> NodeNetwork {
    let net: Ipv4Net = address.parse().unwrap();
    NodeNetwork {
        primary: Some(Primary {
            address: net.addr(),
            interface: "eth0".into(),
            index: 2,
            mac: Mac::default(),
            mtu: 1400,
            gateway: None,
        }),
        addresses: vec![LinkAddress {
            interface: "eth0".into(),
            net,
        }],
        ..NodeNetwork::default()
    }
}

fn peer(name: &str, address: &str, range: &str) -> Peer {
    Peer {
        name: name.into(),
        address: Some(address.parse().unwrap()),
        pod_ranges: vec![range.parse().unwrap()],
    }
}

fn node(peers: Vec<Peer>) -> ClusterNodes {
    ClusterNodes {
        own_ranges: vec!["10.244.1.0/24".parse().unwrap()],
        peers: Some(peers),
    }
}

struct Running {
    dir: tempfile::TempDir,
    _tasks: Tasks,
    network: watch::Sender<NodeNetwork>,
    cluster: watch::Sender<ClusterNodes>,
    status: watch::Receiver<PeersStatus>,
}

fn start(cluster: ClusterNodes) -> Running {
    let mut handle = Rtnetlink::open().unwrap();
    veth(&mut handle, "eth0", "switch", None);
    for name in ["eth0", "switch"] {
        let index = handle.link(name).unwrap().unwrap().index;
        handle.apply(&Request::set_link_up(index, true)).unwrap();
    }
    let index = handle.link("eth0").unwrap().unwrap().index;
    let net = "192.168.50.11/24".parse().unwrap();
    handle
        .apply(&Request::set_address(&Address {
            index,
            net,
            valid: None,
            protocol: None,
        }))
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        podnet: dir.path().join("run/podnet.json"),
        conflist: dir.path().join("cni/10-kedge.conflist"),
    };
    let mut tasks = Tasks::new("test");
    let (network, network_seen) = watch::channel(network("192.168.50.11/24"));
    let (cluster, cluster_seen) = watch::channel(cluster);
    let status = spawn(
        &mut tasks,
        Registry::default(),
        options,
        network_seen,
        cluster_seen,
    )
    .unwrap();
    Running {
        dir,
        _tasks: tasks,
        network,
        cluster,
        status,
    }
}

fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    in_fresh_netns(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test());
    });
}

/// Peers' routes in the kernel.
fn ways() -> Vec<String> {
    let all = Rtnetlink::open().unwrap().routes().unwrap();
    let ours = all.iter().filter(|r| r.protocol == PROTO_PEERS);
    ours.map(|r| match r.target {
        Target::Gateway { via, .. } => format!("{} via {via}", r.destination),
        other => format!("{} {other:?}", r.destination),
    })
    .collect()
}

/// Lets the loop run until the kernel looks as wanted, at most 5 s.
async fn until(wanted: &[&str]) {
    for _ in 0..500 {
        if ways() == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?} instead of {wanted:?}", ways());
}

#[test]
fn routes_follow_the_peers_and_come_back_when_the_kernel_flushed_them() {
    run(async || {
        let own = "10.244.1.0/24 Unreachable";
        let running = start(node(vec![peer("b", "192.168.50.12", "10.244.2.0/24")]));
        until(&[own, "10.244.2.0/24 via 192.168.50.12"]).await;
        running
            .cluster
            .send(node(vec![
                peer("b", "192.168.50.77", "10.244.2.0/24"),
                peer("c", "192.168.50.13", "10.244.3.0/24"),
            ]))
            .unwrap();
        until(&[
            own,
            "10.244.2.0/24 via 192.168.50.77",
            "10.244.3.0/24 via 192.168.50.13",
        ])
        .await;
        // The peers are unknown for a while, as after a restart: nothing is taken back.
        running
            .cluster
            .send(ClusterNodes {
                peers: None,
                ..node(vec![])
            })
            .unwrap();
        until(&[
            own,
            "10.244.2.0/24 via 192.168.50.77",
            "10.244.3.0/24 via 192.168.50.13",
        ])
        .await;
        // A new lease: the kernel flushes the routes of a link that loses its last address.
        let mut handle = Rtnetlink::open().unwrap();
        let index = handle.link("eth0").unwrap().unwrap().index;
        handle
            .apply(&Request::delete_address(
                index,
                "192.168.50.11/24".parse().unwrap(),
            ))
            .unwrap();
        assert_eq!(ways(), [own]);
        let net = "192.168.50.99/24".parse().unwrap();
        handle
            .apply(&Request::set_address(&Address {
                index,
                net,
                valid: None,
                protocol: None,
            }))
            .unwrap();
        running
            .cluster
            .send(node(vec![peer("b", "192.168.50.77", "10.244.2.0/24")]))
            .unwrap();
        running.network.send(network("192.168.50.99/24")).unwrap();
        until(&[own, "10.244.2.0/24 via 192.168.50.77"]).await;
        let text = std::fs::read_to_string(running.dir.path().join("run/podnet.json")).unwrap();
        let document: PodNetwork = serde_json::from_str(&text).unwrap();
        assert_eq!(document.node_address, Some(Ipv4Addr::new(192, 168, 50, 99)));
    });
}

#[test]
fn without_a_pod_range_nothing_is_published_and_it_is_said() {
    run(async || {
        let mut running = start(ClusterNodes::default());
        let status = running
            .status
            .wait_for(|s| !s.faults.is_empty())
            .await
            .unwrap()
            .clone();
        assert!(
            !status.published && status.faults[0].contains("no pod range yet"),
            "{status:?}"
        );
        assert!(!running.dir.path().join("cni/10-kedge.conflist").exists());
        running.cluster.send(node(vec![])).unwrap();
        let status = running
            .status
            .wait_for(|s| s.published)
            .await
            .unwrap()
            .clone();
        assert_eq!(status.faults, [] as [String; 0]);
        assert!(running.dir.path().join("cni/10-kedge.conflist").exists());
        assert_eq!(
            std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward")
                .unwrap()
                .trim(),
            "1"
        );
    });
}

#[test]
fn the_masquerade_table_is_repaired_not_doubled() {
    run(async || {
        let running = start(node(vec![peer("b", "192.168.50.12", "10.244.2.0/24")]));
        until(&[
            "10.244.1.0/24 Unreachable",
            "10.244.2.0/24 via 192.168.50.12",
        ])
        .await;
        let read = || {
            Netfilter::open()
                .unwrap()
                .table(Family::Ip, masquerade::TABLE)
                .unwrap()
        };
        let first = read().expect("the table");
        assert_eq!(first.sets["no-masq-24"].elements.len(), 2);
        running
            .cluster
            .send(node(vec![peer("b", "192.168.50.12", "10.244.9.0/24")]))
            .unwrap();
        until(&[
            "10.244.1.0/24 Unreachable",
            "10.244.9.0/24 via 192.168.50.12",
        ])
        .await;
        let second = read().expect("the table");
        assert_eq!(
            first.chains["leaving"].rules.len(),
            second.chains["leaving"].rules.len()
        );
        assert_ne!(first.sets["no-masq-24"], second.sets["no-masq-24"]);
    });
}

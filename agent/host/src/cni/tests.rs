//! The plugin against a real kernel: "pods" are network namespaces kept open by descriptors.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use kedge_sys::rtnetlink::{self, Rtnetlink};
use kedge_wire::net::Ipv4Net;
use kedge_wire::rtnl::{Address, Request};

use super::*;
use crate::testing::in_fresh_netns;

/// A node with a network document, in the calling thread's namespace.
struct Node {
    _dir: tempfile::TempDir,
    paths: Paths,
}

/// A pod's namespace.
struct Pod {
    id: String,
    netns: OwnedFd,
}

const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 11);

fn node(range: &str) -> Node {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths {
        podnet: dir.path().join("podnet.json"),
        allocations: dir.path().join("cni"),
    };
    let network = PodNetwork {
        node_address: Some(NODE),
        pod_ranges: vec![range.parse().unwrap()],
        mtu: 1400,
    };
    std::fs::write(&paths.podnet, network.to_text()).unwrap();
    let mut handle = Rtnetlink::open().unwrap();
    crate::testing::veth(&mut handle, "eth0", "switch", None);
    for name in ["lo", "eth0", "switch"] {
        let index = handle.link(name).unwrap().unwrap().index;
        handle.apply(&Request::set_link_up(index, true)).unwrap();
    }
    let index = handle.link("eth0").unwrap().unwrap().index;
    let net = Ipv4Net::new(NODE, 24).unwrap();
    handle
        .apply(&Request::set_address(&Address {
            index,
            net,
            valid: None,
            protocol: None,
        }))
        .unwrap();
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    Node { _dir: dir, paths }
}

fn pod(id: &str) -> Pod {
    let netns = std::thread::spawn(|| {
        rtnetlink::new_netns().unwrap();
        rtnetlink::current_netns().unwrap()
    });
    Pod {
        id: id.into(),
        netns: netns.join().unwrap(),
    }
}

impl Node {
    fn call(&self, command: &str, pod: &Pod, extra: &str) -> Outcome {
        use std::os::fd::AsRawFd;
        let vars = [
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_CONTAINERID", pod.id.clone()),
            (
                "CNI_NETNS",
                format!("/proc/self/fd/{}", pod.netns.as_raw_fd()),
            ),
            ("CNI_IFNAME", "eth0".to_owned()),
        ];
        let stdin = format!(r#"{{"cniVersion":"1.1.0","name":"kedge","type":"kedge"{extra}}}"#);
        run(
            |name| {
                vars.iter()
                    .find(|(n, _)| *n == name)
                    .map(|(_, v)| v.clone())
            },
            &stdin,
            &self.paths,
        )
    }

    fn add(&self, pod: &Pod, extra: &str) -> Ipv4Addr {
        let outcome = self.call("ADD", pod, extra);
        assert_eq!(outcome.exit_code, 0, "{}", outcome.stdout);
        let success: Success = serde_json::from_str(&outcome.stdout).unwrap();
        success.ips[0].address.addr()
    }

    fn addresses(&self) -> Vec<String> {
        let all = store::read_allocations(&self.paths.allocations).unwrap();
        all.iter().map(|a| a.address.to_string()).collect()
    }
}

impl Pod {
    /// Runs on a thread inside the pod.
    fn inside<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                rtnetlink::enter_netns(self.netns.as_fd()).unwrap();
                f()
            });
            thread.join().unwrap()
        })
    }

    /// A server that answers one TCP connection with its peer's address. Bound when this returns.
    fn serve(&self, port: u16) -> std::thread::JoinHandle<SocketAddr> {
        let listener = self.inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        std::thread::spawn(move || {
            let (mut stream, peer) = listener.accept().unwrap();
            stream.write_all(b"hello").unwrap();
            peer
        })
    }
}

fn hello(to: impl Into<SocketAddr>) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to.into(), Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

const PORTS: &str =
    r#","runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}"#;

#[test]
fn pods_reach_each_other_the_node_and_themselves() {
    in_fresh_netns(|| {
        let node = node("10.244.1.0/24");
        let (a, b) = (pod("a"), pod("b"));
        let (at_a, at_b) = (node.add(&a, ""), node.add(&b, ""));
        assert_eq!(
            (at_a.to_string(), at_b.to_string()),
            ("10.244.1.1".into(), "10.244.1.2".into())
        );
        // Node to pod, from the node's address.
        let server = a.serve(80);
        assert_eq!(hello((at_a, 80)).unwrap(), "hello");
        assert_eq!(server.join().unwrap().ip(), NODE);
        // Pod to pod, with its own address.
        let server = a.serve(80);
        assert_eq!(b.inside(|| hello((at_a, 80))).unwrap(), "hello");
        assert_eq!(server.join().unwrap().ip(), at_b);
        // Pod to node, over UDP.
        let socket = UdpSocket::bind((NODE, 0)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(3)))
            .unwrap();
        let to = socket.local_addr().unwrap();
        a.inside(move || {
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
                .unwrap()
                .send_to(b"x", to)
                .unwrap()
        });
        let (_, from) = socket.recv_from(&mut [0; 4]).unwrap();
        assert_eq!(from.ip(), at_a);
        // Inside one pod over loopback.
        let server = a.serve(81);
        assert_eq!(
            a.inside(|| hello((Ipv4Addr::LOCALHOST, 81))).unwrap(),
            "hello"
        );
        server.join().unwrap();
        assert_eq!(node.call("CHECK", &a, "").exit_code, 0);
    });
}

#[test]
fn deletion_can_be_repeated_and_gives_the_address_back() {
    in_fresh_netns(|| {
        let node = node("10.244.1.0/30");
        let (a, b) = (pod("a"), pod("b"));
        node.add(&a, "");
        node.add(&b, "");
        let full = node.call("ADD", &pod("c"), "");
        assert!(
            full.stdout.contains("all of 10.244.1.0/30 are in use"),
            "{}",
            full.stdout
        );
        for _ in 0..2 {
            assert_eq!(
                node.call("DEL", &a, ""),
                Outcome {
                    stdout: String::new(),
                    exit_code: 0
                }
            );
        }
        assert_eq!(node.addresses(), ["10.244.1.2"]);
        assert_eq!(node.call("CHECK", &a, "").exit_code, 1);
        assert_eq!(node.add(&pod("c"), "").to_string(), "10.244.1.1");
    });
}

#[test]
fn deletion_works_when_the_namespace_is_gone() {
    in_fresh_netns(|| {
        let node = node("10.244.1.0/24");
        let a = pod("a");
        node.add(&a, "");
        let gone = Pod {
            id: "a".into(),
            netns: std::fs::File::open("/dev/null").unwrap().into(),
        };
        drop(a);
        assert_eq!(node.call("DEL", &gone, "").exit_code, 0);
        assert!(node.addresses().is_empty());
    });
}

#[test]
fn a_pod_that_cannot_be_connected_leaves_nothing() {
    in_fresh_netns(|| {
        let node = node("10.244.1.0/24");
        let bad = Pod {
            id: "a".into(),
            netns: std::fs::File::open("/dev/null").unwrap().into(),
        };
        let outcome = node.call("ADD", &bad, PORTS);
        assert_eq!(outcome.exit_code, 1);
        assert!(node.addresses().is_empty());
        let links = Rtnetlink::open().unwrap().links().unwrap();
        assert!(
            links.iter().all(|l| !l.name.starts_with(link::VETH_PREFIX)),
            "{links:?}"
        );
    });
}

#[test]
fn an_interrupted_call_is_cleared_by_the_next() {
    in_fresh_netns(|| {
        let node = node("10.244.1.0/24");
        let a = pod("a");
        node.add(&a, "");
        let again = Pod {
            id: "a".into(),
            ..pod("x")
        };
        assert_eq!(node.add(&again, "").to_string(), "10.244.1.2");
        assert_eq!(node.addresses(), ["10.244.1.2"]);
    });
}

#[test]
fn collection_removes_what_the_runtime_does_not_know() {
    in_fresh_netns(|| {
        let node = node("10.244.1.0/24");
        let (a, b) = (pod("a"), pod("b"));
        node.add(&a, "");
        node.add(&b, PORTS);
        assert_eq!(
            node.call("GC", &a, "").exit_code,
            1,
            "without a list nothing is deleted"
        );
        let valid = r#","cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]"#;
        assert_eq!(node.call("GC", &a, valid).exit_code, 0);
        assert_eq!(node.addresses(), ["10.244.1.1"]);
    });
}

#[test]
fn host_ports_lead_to_the_pod_from_everywhere() {
    in_fresh_netns(|| {
        let node = node("10.244.1.0/24");
        let (a, b) = (pod("a"), pod("b"));
        let at_a = node.add(&a, PORTS);
        let at_b = node.add(&b, "");
        // From the node to its own address.
        let server = a.serve(80);
        assert_eq!(hello((NODE, 8080)).unwrap(), "hello");
        server.join().unwrap();
        // From the node's loopback: the pod must see an address it can answer.
        let server = a.serve(80);
        assert_eq!(hello((Ipv4Addr::LOCALHOST, 8080)).unwrap(), "hello");
        assert_eq!(server.join().unwrap().ip(), NODE);
        // From another pod.
        let server = a.serve(80);
        assert_eq!(b.inside(|| hello((NODE, 8080))).unwrap(), "hello");
        assert_eq!(server.join().unwrap().ip(), at_b);
        // From the pod to itself.
        let server = a.serve(80);
        assert_eq!(a.inside(|| hello((NODE, 8080))).unwrap(), "hello");
        assert_ne!(server.join().unwrap().ip(), at_a);
        // The other pod may not take it; after deletion it may.
        let taken = node.call("ADD", &pod("c"), PORTS);
        assert!(
            taken
                .stdout
                .contains("host port TCP 8080 is already used by container a"),
            "{}",
            taken.stdout
        );
        assert_eq!(node.call("CHECK", &a, PORTS).exit_code, 0);
        assert_eq!(node.call("DEL", &a, "").exit_code, 0);
        assert!(hello((NODE, 8080)).is_err());
        node.add(&pod("c"), PORTS);
    });
}

#[test]
fn one_port_on_two_addresses_leads_to_two_pods() {
    in_fresh_netns(|| {
        let node = node("10.244.1.0/24");
        let ports = |ip: &str| {
            format!(
                r#","runtimeConfig":{{"portMappings":[{{"hostPort":54321,"containerPort":80,"protocol":"tcp","hostIP":"{ip}"}}]}}"#
            )
        };
        let (a, b) = (pod("a"), pod("b"));
        node.add(&a, &ports("127.0.0.1"));
        node.add(&b, &ports("192.168.50.11"));
        let (at_a, at_b) = (a.serve(80), b.serve(80));
        assert_eq!(hello((Ipv4Addr::LOCALHOST, 54321)).unwrap(), "hello");
        at_a.join().unwrap();
        assert_eq!(hello((NODE, 54321)).unwrap(), "hello");
        at_b.join().unwrap();
    });
}

#[test]
fn the_nodes_loopback_services_stay_out_of_a_pods_reach() {
    in_fresh_netns(|| {
        let node = node("10.244.1.0/24");
        let a = pod("a");
        node.add(&a, PORTS);
        // With route_localnet set on its veth, a pod with raw sockets could send to 127.0.0.1 of the node: route it there.
        let secret = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        secret
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        let to = secret.local_addr().unwrap();
        a.inside(move || {
            let mut handle = Rtnetlink::open().unwrap();
            let (lo, eth0) = (
                handle.link("lo").unwrap().unwrap().index,
                handle.link("eth0").unwrap().unwrap().index,
            );
            let loopback = "127.0.0.1/8".parse().unwrap();
            handle
                .apply(&Request::delete_address(lo, loopback))
                .unwrap();
            std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
            handle
                .apply(&Request::replace_route(&kedge_wire::rtnl::Route {
                    destination: "127.0.0.0/8".parse().unwrap(),
                    ..link::default_route(eth0)
                }))
                .unwrap();
            let source = Rtnetlink::open().unwrap().addresses().unwrap()[0]
                .net
                .addr();
            UdpSocket::bind((source, 0))
                .unwrap()
                .send_to(b"x", to)
                .unwrap();
        });
        assert!(
            secret.recv_from(&mut [0; 4]).is_err(),
            "the packet reached the node's loopback"
        );
    });
}

#[test]
fn pods_borrow_the_nodes_address_towards_the_world_only() {
    use std::os::fd::AsRawFd;
    in_fresh_netns(|| {
        let node = node("10.244.1.0/24");
        let (inside, outside) = (pod("a"), pod("world"));
        let at_inside = node.add(&inside, "");
        let mut here = Rtnetlink::open().unwrap();
        crate::testing::veth(
            &mut here,
            "uplink",
            "world",
            Some(outside.netns.as_raw_fd()),
        );
        let mut there = Rtnetlink::open_in(outside.netns.as_fd()).unwrap();
        for (handle, name, net) in [
            (&mut here, "uplink", "203.0.113.1/24"),
            (&mut there, "world", "203.0.113.2/24"),
        ] {
            let index = handle.link(name).unwrap().unwrap().index;
            let address = Address {
                index,
                net: net.parse().unwrap(),
                valid: None,
                protocol: None,
            };
            handle.apply(&Request::set_address(&address)).unwrap();
            handle.apply(&Request::set_link_up(index, true)).unwrap();
        }
        // The way back to pods exists: what the world sees is decided by the table alone.
        there
            .apply(&Request::replace_route(&kedge_wire::rtnl::Route {
                destination: "10.244.1.0/24".parse().unwrap(),
                target: kedge_wire::rtnl::Target::Gateway {
                    index: None,
                    via: Ipv4Addr::new(203, 0, 113, 1),
                    onlink: false,
                },
                source: None,
                metric: 0,
                protocol: 4,
            }))
            .unwrap();
        let own: Ipv4Net = "10.244.1.0/24".parse().unwrap();
        let world: Ipv4Net = "203.0.113.2/32".parse().unwrap();
        let seen = |cluster: &[Ipv4Net]| {
            let table = kedge_podnet::masquerade::table(&[own], &cluster.iter().copied().collect());
            crate::peers::apply_table(&table).unwrap();
            let server = outside.serve(80);
            assert_eq!(
                inside.inside(|| hello((world.addr(), 80))).unwrap(),
                "hello"
            );
            server.join().unwrap().ip()
        };
        assert_eq!(seen(&[own]), Ipv4Addr::new(203, 0, 113, 1));
        assert_eq!(seen(&[own, world]), at_inside);
    });
}

#[test]
fn status_says_whether_pods_can_start() {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths {
        podnet: dir.path().join("podnet.json"),
        allocations: dir.path().join("cni"),
    };
    let status = || {
        let var = |name: &str| (name == "CNI_COMMAND").then(|| "STATUS".to_owned());
        run(
            var,
            r#"{"cniVersion":"1.1.0","name":"kedge","type":"kedge"}"#,
            &paths,
        )
    };
    assert!(
        status().stdout.contains(r#""code":50"#),
        "{}",
        status().stdout
    );
    std::fs::write(&paths.podnet, r#"{"podRanges":["10.244.1.0/24"]}"#).unwrap();
    assert_eq!(status().exit_code, 0);
}

//! The whole loop against a real DHCP server (dnsmasq) and real links in a fresh network namespace.
//!
//! The cable runs from `eth0` here to `switch` in a second namespace, where the server and the rivals live.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, Stdio};
use std::time::Duration;

use kedge_machine::config::{Cidr, Interface, LinkSelector, Network};
use kedge_sys::packet::PacketSocket;
use kedge_sys::rtnetlink;
use kedge_wire::arp::Packet;
use kedge_wire::rtnl::{Address, Route, Target};

use super::*;
use crate::testing::{in_fresh_netns, veth};

/// The other end of the cable.
struct Lan {
    netns: OwnedFd,
    dir: tempfile::TempDir,
}

/// A DHCP server; stopped when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Lan {
    fn new() -> Self {
        let netns = std::thread::spawn(|| {
            rtnetlink::new_netns().unwrap();
            rtnetlink::current_netns().unwrap()
        });
        let lan = Self {
            netns: netns.join().unwrap(),
            dir: tempfile::tempdir().unwrap(),
        };
        let mut here = Rtnetlink::open().unwrap();
        veth(&mut here, "eth0", "switch", Some(lan.netns.as_raw_fd()));
        let switch = lan.index();
        let mut there = lan.rtnl();
        for net in ["192.168.50.1/24", "192.168.77.1/24"] {
            let net = net.parse().unwrap();
            there
                .apply(&Request::set_address(&Address {
                    index: switch,
                    net,
                    valid: None,
                    protocol: None,
                }))
                .unwrap();
        }
        lan.cable(true);
        lan
    }

    fn rtnl(&self) -> Rtnetlink {
        Rtnetlink::open_in(self.netns.as_fd()).unwrap()
    }

    fn index(&self) -> u32 {
        self.rtnl().link("switch").unwrap().unwrap().index
    }

    /// Taking the far end down is what pulling the cable looks like.
    fn cable(&self, plugged: bool) {
        self.rtnl()
            .apply(&Request::set_link_up(self.index(), plugged))
            .unwrap();
    }

    /// Starts dnsmasq for `192.168.<third>.<host>`; `None` when it is not installed.
    fn serve(&self, third: u8, host: u8, lease: &str) -> Option<Server> {
        let address = format!("192.168.{third}.{host}");
        let leases = self.dir.path().join(format!("leases-{third}-{host}"));
        let args = [
            "--keep-in-foreground".to_owned(),
            "--conf-file=/dev/null".to_owned(),
            "--port=0".to_owned(),
            "--interface=switch".to_owned(),
            "--dhcp-authoritative".to_owned(),
            "--no-ping".to_owned(),
            format!("--dhcp-leasefile={}", leases.display()),
            format!("--dhcp-range={address},{address},255.255.255.0,{lease}"),
            format!("--dhcp-option=option:router,192.168.{third}.1"),
            "--dhcp-option=option:dns-server,9.9.9.9".to_owned(),
            "--dhcp-option=option:ntp-server,192.0.2.123".to_owned(),
            "--dhcp-option=option:domain-name,lan.example".to_owned(),
            "--dhcp-option=option:mtu,1400".to_owned(),
            "--user=root".to_owned(),
        ];
        let spawned = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                rtnetlink::enter_netns(self.netns.as_fd()).unwrap();
                #[expect(clippy::disallowed_methods, reason = "a test's own DHCP server")]
                let mut command = std::process::Command::new("dnsmasq");
                command
                    .args(&args)
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
            });
            thread.join().unwrap()
        });
        match spawned {
            Ok(child) => Some(Server(child)),
            Err(error) => {
                let required = std::env::var("KEDGE_KERNEL_TESTS").is_ok_and(|v| v == "require");
                assert!(!required, "dnsmasq: {error}");
                eprintln!("SKIPPED: dnsmasq (package dnsmasq-base) is not installed: {error}");
                None
            }
        }
    }

    /// Somebody else on the segment who claims `address` whenever it is asked for, until the result is dropped.
    fn rival(&self, address: &str) -> tokio::task::JoinHandle<()> {
        let socket = rtnetlink::in_netns(self.netns.as_fd(), || {
            PacketSocket::arp(self.index(), &[address.parse().unwrap()])
        });
        let socket = crate::poll::pollable(socket.unwrap().unwrap()).unwrap();
        let claim = Packet::announcement(RIVAL, address.parse().unwrap());
        tokio::spawn(async move {
            loop {
                socket.readable().await.unwrap().clear_ready();
                while socket.get_ref().receive().is_ok() {
                    socket
                        .get_ref()
                        .send(Mac::BROADCAST, &claim.emit())
                        .unwrap();
                }
            }
        })
    }
}

const RIVAL: Mac = Mac([0x52, 0x54, 0, 0, 0, 9]);

fn config(dhcp: bool, addresses: &[&str]) -> Network {
    Network {
        interfaces: vec![Interface {
            selector: LinkSelector::Name("eth0".into()),
            dhcp,
            addresses: addresses.iter().map(|a| Cidr::parse(a).unwrap()).collect(),
            gateway: None,
            mtu: None,
        }],
        ..Network::default()
    }
}

/// An agent: dropped, it is dead.
struct Agent {
    _tasks: Tasks,
    seen: watch::Receiver<NodeNetwork>,
}

impl Agent {
    fn start(lan: &Lan, network: Network) -> Self {
        let mut tasks = Tasks::new("test");
        let options = Options {
            network,
            node_name: Some("edge-7".into()),
            run: lan.dir.path().to_owned(),
            etc: lan.dir.path().join("etc"),
        };
        let seen = spawn(&mut tasks, Registry::default(), options).unwrap();
        Self {
            _tasks: tasks,
            seen,
        }
    }

    /// Waits for a state of the network, at most 20 s.
    async fn until(&mut self, what: &str, wanted: impl Fn(&NodeNetwork) -> bool) -> NodeNetwork {
        let mut seen = self.seen.clone();
        let waited =
            tokio::time::timeout(Duration::from_secs(20), seen.wait_for(|n| wanted(n))).await;
        match waited {
            Ok(Ok(network)) => network.clone(),
            _ => panic!("never came: {what}; {:?}", self.seen.borrow()),
        }
    }

    async fn until_address(&mut self, address: &str) -> NodeNetwork {
        self.until(address, |n| {
            n.primary
                .as_ref()
                .is_some_and(|p| p.address.to_string() == address)
        })
        .await
    }
}

fn run<F: Future<Output = ()>>(test: impl FnOnce(Lan) -> F + Send + 'static) {
    in_fresh_netns(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test(Lan::new()));
    });
}

fn kernel_addresses() -> Vec<(String, Option<u32>)> {
    let mut all = Rtnetlink::open().unwrap().addresses().unwrap();
    all.retain(|a| !a.net.addr().is_loopback());
    all.iter().map(|a| (a.net.to_string(), a.valid)).collect()
}

fn default_routes() -> Vec<Route> {
    let mut all = Rtnetlink::open().unwrap().routes().unwrap();
    all.retain(|r| r.destination.prefix() == 0);
    all
}

#[test]
fn a_real_server_gives_address_route_names_and_mtu() {
    run(async |lan| {
        let Some(_server) = lan.serve(50, 11, "1h") else {
            return;
        };
        let mut agent = Agent::start(&lan, config(true, &[]));
        let network = agent.until_address("192.168.50.11").await;
        assert_eq!(network.nameservers, [IpAddr::from([9, 9, 9, 9])]);
        assert_eq!(
            (network.search, network.ntp_servers),
            (
                vec!["lan.example".to_owned()],
                vec![Ipv4Addr::new(192, 0, 2, 123)]
            )
        );
        assert_eq!(network.primary.unwrap().mtu, 1400);
        let (address, valid) = kernel_addresses().remove(0);
        assert_eq!(address, "192.168.50.11/24");
        assert!(
            valid.is_some_and(|s| (3500..=3600).contains(&s)),
            "{valid:?}"
        );
        assert!(matches!(
            default_routes()[..],
            [Route {
                target: Target::Gateway { .. },
                protocol: PROTO_UPLINK,
                ..
            }]
        ));
        let hosts = std::fs::read_to_string(lan.dir.path().join("etc/hosts")).unwrap();
        assert!(hosts.contains("192.168.50.11 edge-7"), "{hosts}");
    });
}

#[test]
fn a_restarted_agent_adopts_its_address_without_dropping_it() {
    run(async |lan| {
        let Some(server) = lan.serve(50, 11, "1h") else {
            return;
        };
        let mut agent = Agent::start(&lan, config(true, &[]));
        agent.until_address("192.168.50.11").await;
        drop((agent, server));
        // Without any server: the address is there from the first published state on.
        let mut agent = Agent::start(&lan, config(true, &[]));
        agent.until_address("192.168.50.11").await;
        assert_eq!(kernel_addresses().len(), 1);
        assert_eq!(default_routes().len(), 1);
    });
}

#[test]
fn cable_out_and_back_with_another_lease_moves_address_routes_and_pod_routes() {
    run(async |lan| {
        let Some(server) = lan.serve(50, 11, "1h") else {
            return;
        };
        let mut agent = Agent::start(&lan, config(true, &[]));
        agent.until_address("192.168.50.11").await;
        // A pod's veth has no address: the kernel flushes every route of a link that loses its last one.
        let mut here = Rtnetlink::open().unwrap();
        veth(&mut here, "pod0", "inside", None);
        let veth = here.link("pod0").unwrap().unwrap().index;
        here.apply(&Request::set_link_up(veth, true)).unwrap();
        let pod = kedge_podnet::link::host_route(
            veth,
            Ipv4Addr::new(10, 244, 1, 5),
            Some(Ipv4Addr::new(192, 168, 50, 11)),
        );
        Rtnetlink::open()
            .unwrap()
            .apply(&Request::replace_route(&pod))
            .unwrap();

        lan.cable(false);
        agent
            .until("no carrier", |n| {
                n.faults.iter().any(|f| f.contains("eth0 has no carrier"))
            })
            .await;
        assert_eq!(
            kernel_addresses(),
            [("192.168.50.11/24".to_owned(), None)],
            "without a cable the address stays"
        );
        drop(server);
        let _server = lan.serve(77, 12, "1h");
        lan.cable(true);
        agent.until_address("192.168.77.12").await;
        agent.until("healthy", |n| n.faults.is_empty()).await;
        assert_eq!(kernel_addresses().len(), 1);
        assert!(
            matches!(default_routes()[..], [Route { target: Target::Gateway { via, .. }, .. }] if via == Ipv4Addr::new(192, 168, 77, 1))
        );
        let moved = Rtnetlink::open().unwrap().routes().unwrap();
        let moved = moved
            .iter()
            .find(|r| r.destination == pod.destination)
            .expect("the pod's route survives");
        assert_eq!(moved.source, Some(Ipv4Addr::new(192, 168, 77, 12)));
    });
}

#[test]
fn a_real_server_answers_a_unicast_renewal() {
    run(async |lan| {
        // dnsmasq gives no lease below two minutes; the state machine's tests cover the long run, this one the socket.
        let Some(_server) = lan.serve(50, 11, "2m") else {
            return;
        };
        let mut agent = Agent::start(&lan, config(true, &[]));
        let network = agent.until_address("192.168.50.11").await;
        let from = network.primary.unwrap().address;
        let socket =
            kedge_sys::packet::udp_on_link("eth0", from, kedge_wire::dhcp::CLIENT_PORT).unwrap();
        let eth0 = Rtnetlink::open().unwrap().link("eth0").unwrap().unwrap();
        let heard = crate::poll::pollable(PacketSocket::dhcp(eth0.index).unwrap()).unwrap();
        use kedge_wire::dhcp::{Message, MessageType, Op, code};
        let mut renew = Message::new(Op::Request, MessageType::Request, 77, eth0.mac.unwrap());
        renew.client = from;
        let id = [&[1], &eth0.mac.unwrap().0[..]].concat();
        renew.options.set(code::CLIENT_ID, id);
        socket.send_to(&renew.emit(), "192.168.50.1:67").unwrap();
        tokio::time::timeout(Duration::from_secs(5), heard.readable())
            .await
            .expect("an answer")
            .unwrap()
            .clear_ready();
        let answer = heard.get_ref().receive().unwrap();
        let datagram =
            kedge_wire::ipv4::parse_udp(&answer.payload, answer.checksum_pending).unwrap();
        assert_eq!(
            Message::parse(datagram.payload).unwrap().kind(),
            Ok(MessageType::Ack)
        );
    });
}

#[test]
fn a_static_address_that_somebody_has_is_reported_and_taken_when_free() {
    run(async |lan| {
        let rival = lan.rival("192.168.50.11");
        let mut agent = Agent::start(&lan, config(false, &["192.168.50.11/24"]));
        let fault = "address 192.168.50.11/24 on eth0 is already used by 52:54:00:00:00:09";
        let network = agent
            .until("the fault", |n| n.faults.iter().any(|f| f == fault))
            .await;
        assert_eq!(network.primary, None);
        assert!(kernel_addresses().is_empty());
        rival.abort();
        agent.until_address("192.168.50.11").await;
        assert!(
            agent
                .until("healthy", |n| n.faults.is_empty())
                .await
                .primary
                .is_some()
        );
    });
}

#[test]
fn a_leased_address_that_somebody_has_is_declined_and_reported() {
    run(async |lan| {
        let Some(_server) = lan.serve(50, 11, "1h") else {
            return;
        };
        let _rival = lan.rival("192.168.50.11");
        let mut agent = Agent::start(&lan, config(true, &[]));
        let fault = "address 192.168.50.11/24 on eth0 is already used by 52:54:00:00:00:09";
        agent
            .until("the fault", |n| n.faults.iter().any(|f| f == fault))
            .await;
        assert!(kernel_addresses().is_empty());
    });
}

//! Against the kernel this runs on, in fresh network namespaces; skipped loudly where there are none.

use std::time::Duration;

use kedge_machine::config::ProxyMode;
use kedge_proxy::{Compiler, TABLE};
use kedge_sys::nfnetlink::Netfilter;
use kedge_tasks::Registry;
use kedge_wire::nft::{self, Op, Table, Transaction, diff, remove};
use tokio::sync::watch;

use super::super::{Config, ProxyHandle, State, Status, spawn};
use super::world::{Udp, World, serve, tcp};
use super::*;
use crate::testing::in_fresh_netns;

/// One Service of every kind.
fn everything() -> Arc<Inputs> {
    let mut web = service("web", "10.96.0.10", Protocol::Tcp);
    web.ports[0].node_port = Some(30080);
    web.external_ips = vec![ip("198.51.100.1")];
    web.lb_ips = vec![ip("198.51.100.2")];
    web.lb_source_ranges = vec![
        "203.0.113.0/24".parse().unwrap(),
        "192.0.2.0/25".parse().unwrap(),
    ];
    let mut local = service("local", "10.96.0.11", Protocol::Tcp);
    local.ports[0].node_port = Some(30081);
    local.external_policy = Policy::Local;
    let mut sticky = service("sticky", "10.96.0.12", Protocol::Tcp);
    sticky.affinity_seconds = Some(10800);
    sticky.ports[0].node_port = Some(30082);
    let dns = service("dns", "10.96.0.53", Protocol::Udp);
    let mut six = service("six", "fd96::10", Protocol::Sctp);
    six.affinity_seconds = Some(60);
    let two: &[&str] = &["10.244.1.5", "10.244.1.6"];
    inputs([
        (web, two),
        (local, two),
        (sticky, two),
        (dns, &["10.244.1.5"]),
        (service("empty", "10.96.0.99", Protocol::Tcp), &[]),
        (six, &["fd00:1::5"]),
    ])
}

fn compiled(family: Family, inputs: &Arc<Inputs>) -> Table {
    let mut compiler = Compiler::new(family, node());
    compiler.update(inputs, &node());
    compiler.table().clone()
}

#[test]
fn a_kernel_reports_back_what_it_was_given() {
    in_fresh_netns(|| {
        let mut netfilter = Netfilter::open().unwrap();
        for family in [Family::V4, Family::V6] {
            let table = compiled(family, &everything());
            netfilter.commit(&diff(None, &table)).unwrap();
            let read = netfilter.table(table.family, TABLE).unwrap().unwrap();
            let (want, got) = (nft::text::table(&table), nft::text::table(&read));
            assert_eq!(want, got);
            assert_eq!(read, table);
        }
    });
}

#[test]
fn every_step_of_a_changing_cluster_is_accepted_and_reads_back() {
    in_fresh_netns(|| {
        let mut netfilter = Netfilter::open().unwrap();
        let mut compiler = Compiler::new(Family::V4, node());
        netfilter.commit(&diff(None, compiler.table())).unwrap();
        let mut fewer = Inputs::clone(&everything());
        fewer.services.pop_first();
        fewer.slices.pop_last();
        let none = Arc::new(Inputs {
            synced: true,
            ..Inputs::default()
        });
        for snapshot in [everything(), Arc::new(fewer), none, everything()] {
            let update = compiler.update(&snapshot, &node());
            netfilter.commit(&update.transaction).unwrap();
            let read = netfilter.table(nft::Family::Ip, TABLE).unwrap().unwrap();
            assert_eq!(&read, compiler.table());
        }
        // Another node address is a difference of whole tables.
        let mut moved = node();
        moved.node_port_addresses = vec![ip("203.0.113.99")];
        moved.pod_ranges = vec!["10.244.9.0/24".parse().unwrap()];
        let update = compiler.update(&everything(), &moved);
        netfilter.commit(&update.transaction).unwrap();
        assert_eq!(
            netfilter.table(nft::Family::Ip, TABLE).unwrap().as_ref(),
            Some(compiler.table())
        );
    });
}

#[test]
fn nft_reads_the_same_elements() {
    in_fresh_netns(|| {
        #[expect(
            clippy::disallowed_methods,
            reason = "a second opinion of the reference tool"
        )]
        let nft = || {
            std::process::Command::new("nft")
                .args(["list", "ruleset"])
                .output()
        };
        let Ok(version) = nft() else {
            eprintln!("SKIPPED: no nft on this machine");
            return;
        };
        assert!(version.status.success());
        let table = compiled(Family::V4, &everything());
        Netfilter::open()
            .unwrap()
            .commit(&diff(None, &table))
            .unwrap();
        let output = nft().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        for line in [
            "10.96.0.10 . tcp . 80",
            "198.51.100.2 . tcp . 80 . 203.0.113.0/24",
            "type nat hook prerouting priority dstnat",
            "jump services",
            "masquerade fully-random",
            "10.244.1.5 . 10.244.1.5",
            "comment \"no such port\"",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    });
}

#[test]
fn a_refused_batch_names_its_operation_and_changes_nothing() {
    in_fresh_netns(|| {
        let mut netfilter = Netfilter::open().unwrap();
        let transaction = Transaction {
            family: nft::Family::Ip,
            table: "t".to_owned(),
            ops: vec![
                Op::AddTable,
                Op::DeleteChain("nope".to_owned()),
                Op::AddChain {
                    name: "c".to_owned(),
                    base: None,
                },
            ],
        };
        let error = netfilter.commit(&transaction).unwrap_err();
        assert!(error.to_string().contains("delete chain nope"), "{error}");
        assert_eq!(error.errno(), Some(2));
        assert_eq!(netfilter.table(nft::Family::Ip, "t").unwrap(), None);
        // The socket is still good.
        let good = Transaction {
            ops: vec![Op::AddTable],
            ..transaction
        };
        netfilter.commit(&good).unwrap();
        assert_eq!(
            netfilter.table(nft::Family::Ip, "t").unwrap(),
            Some(Table::new(nft::Family::Ip, "t"))
        );
    });
}

/// A running proxy and the ends of its channels.
struct Running {
    handle: ProxyHandle,
    inputs: watch::Sender<Arc<Inputs>>,
    node: watch::Sender<NodeFacts>,
}

impl Running {
    fn start(mode: ProxyMode, first: Arc<Inputs>) -> Self {
        let (inputs, input_end) = watch::channel(first);
        let (node, node_end) = watch::channel(node());
        let config = Config {
            mode,
            registry: Registry::default(),
        };
        let handle = spawn(config, input_end, node_end).unwrap();
        Self {
            handle,
            inputs,
            node,
        }
    }

    /// Waits for a status.
    fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let mut status = self.handle.status();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let wait = async {
            let found =
                tokio::time::timeout(Duration::from_secs(10), status.wait_for(|s| wanted(s))).await;
            found.map(|s| s.unwrap().clone())
        };
        let found = runtime.block_on(wait);
        found.unwrap_or_else(|_| panic!("never {what}: {:?}", self.handle.status().borrow()))
    }

    fn send(&self, inputs: Arc<Inputs>) {
        let before = self.handle.status().borrow().syncs;
        self.inputs.send(inputs).unwrap();
        self.until("synced again", |s| s.syncs > before);
    }
}

#[test]
fn connections_reach_what_the_services_say() {
    in_fresh_netns(|| {
        let world = World::new();
        serve(&world.pod5, "10.244.1.5:8080");
        serve(&world.pod6, "10.244.1.6:8080");
        let mut web = service("web", "10.96.0.10", Protocol::Tcp);
        web.ports[0].node_port = Some(30080);
        let mut local = service("local", "10.96.0.11", Protocol::Tcp);
        local.ports[0].node_port = Some(30081);
        local.external_policy = Policy::Local;
        let mut elsewhere = service("elsewhere", "10.96.0.14", Protocol::Tcp);
        elsewhere.ports[0].node_port = Some(30084);
        elsewhere.external_policy = Policy::Local;
        let mut empty = service("empty", "10.96.0.13", Protocol::Tcp);
        empty.ports[0].node_port = Some(30083);
        let mut sticky = service("sticky", "10.96.0.12", Protocol::Tcp);
        sticky.affinity_seconds = Some(10800);
        let (none, one, two): (&[&str], &[&str], &[&str]) =
            (&[], &["10.244.1.5"], &["10.244.1.5", "10.244.1.6"]);
        let proxy = Running::start(
            ProxyMode::Nftables,
            inputs([
                (web, one),
                (local, one),
                (elsewhere, &["10.244.2.5"]),
                (empty, none),
                (sticky, two),
                (service("both", "10.96.0.15", Protocol::Tcp), two),
                (service("dns", "10.96.0.53", Protocol::Udp), &["10.244.1.5"]),
            ]),
        );
        proxy.until("synced", |s| s.state == State::Synced);

        assert_eq!(
            tcp(&world.pod6, "10.96.0.10:80"),
            "10.244.1.5:8080 saw 10.244.1.6"
        );
        // Itself: only a masqueraded source finds its way back.
        assert_eq!(
            tcp(&world.pod5, "10.96.0.10:80"),
            "10.244.1.5:8080 saw 169.254.1.1"
        );
        assert_eq!(
            tcp(&world.outside, "10.96.0.10:80"),
            "10.244.1.5:8080 saw 169.254.1.1"
        );
        assert_eq!(
            tcp(&world.node, "10.96.0.10:80"),
            "10.244.1.5:8080 saw 169.254.1.1"
        );
        assert_eq!(
            tcp(&world.outside, "203.0.113.1:30080"),
            "10.244.1.5:8080 saw 169.254.1.1"
        );
        assert_eq!(
            tcp(&world.node, "203.0.113.1:30080"),
            "10.244.1.5:8080 saw 169.254.1.1"
        );
        assert_eq!(
            tcp(&world.pod6, "203.0.113.1:30080"),
            "10.244.1.5:8080 saw 169.254.1.1"
        );
        assert_eq!(
            tcp(&world.outside, "203.0.113.1:30081"),
            "10.244.1.5:8080 saw 203.0.113.7"
        );
        assert_eq!(tcp(&world.outside, "203.0.113.1:30084"), "silence");
        for from in [&world.pod6, &world.outside, &world.node] {
            assert_eq!(tcp(from, "10.96.0.13:80"), "refused", "{from:?}");
            assert_eq!(tcp(from, "203.0.113.1:30083"), "refused");
            assert_eq!(tcp(from, "10.96.0.10:81"), "refused");
        }
        let answers = |address: &str| {
            let mut answers: Vec<_> = (0..24).map(|_| tcp(&world.pod6, address)).collect();
            answers.sort();
            answers.dedup();
            answers.len()
        };
        assert_eq!(answers("10.96.0.15:80"), 2);
        assert_eq!(answers("10.96.0.12:80"), 1);
        assert_eq!(
            Udp::new(&world.pod6, "10.96.0.53:80").ask(),
            "10.244.1.5:8080 saw 10.244.1.6"
        );
    });
}

#[test]
fn a_client_with_affinity_moves_when_its_endpoint_goes() {
    in_fresh_netns(|| {
        let world = World::new();
        serve(&world.pod5, "10.244.1.5:8080");
        serve(&world.pod6, "10.244.1.6:8080");
        let sticky = |endpoints: &[&str]| {
            let service = ServiceInput {
                affinity_seconds: Some(60),
                ..service("sticky", "10.96.0.12", Protocol::Tcp)
            };
            inputs([(service, endpoints)])
        };
        let proxy = Running::start(ProxyMode::Nftables, sticky(&["10.244.1.5"]));
        proxy.until("synced", |s| s.state == State::Synced);
        let ask = || tcp(&world.outside, "10.96.0.12:80");
        assert_eq!(ask(), "10.244.1.5:8080 saw 169.254.1.1");
        proxy.send(sticky(&["10.244.1.6"]));
        assert_eq!(ask(), "10.244.1.6:8080 saw 169.254.1.1");
        // Both again: it stays where it went.
        proxy.send(sticky(&["10.244.1.5", "10.244.1.6"]));
        for _ in 0..12 {
            assert_eq!(ask(), "10.244.1.6:8080 saw 169.254.1.1");
        }
    });
}

#[test]
fn a_udp_flow_follows_its_service_when_the_endpoint_goes() {
    in_fresh_netns(|| {
        let world = World::new();
        serve(&world.pod5, "10.244.1.5:8080");
        serve(&world.pod6, "10.244.1.6:8080");
        let dns =
            |endpoints: &[&str]| inputs([(service("dns", "10.96.0.53", Protocol::Udp), endpoints)]);
        let proxy = Running::start(ProxyMode::Nftables, dns(&["10.244.1.5"]));
        proxy.until("synced", |s| s.state == State::Synced);
        let client = Udp::new(&world.outside, "10.96.0.53:80");
        assert_eq!(client.ask(), "10.244.1.5:8080 saw 169.254.1.1");
        proxy.send(dns(&["10.244.1.6"]));
        assert_eq!(client.ask(), "10.244.1.6:8080 saw 169.254.1.1");
        assert_eq!(proxy.handle.status().borrow().stale_flows, 1);
        proxy.send(dns(&[]));
        assert_eq!(client.ask(), "refused");
    });
}

#[test]
fn what_others_do_to_the_table_is_undone() {
    in_fresh_netns(|| {
        let proxy = Running::start(ProxyMode::Nftables, everything());
        proxy.until("synced", |s| s.state == State::Synced);
        let mut other = Netfilter::open().unwrap();
        let desired = compiled(Family::V4, &everything());
        let remove = remove(nft::Family::Ip, TABLE);
        for repairs in 1..=3 {
            other.commit(&remove).unwrap();
            proxy.until("repaired", |s| s.repairs == repairs);
            assert_eq!(
                other.table(nft::Family::Ip, TABLE).unwrap().as_ref(),
                Some(&desired)
            );
        }
        // A foreign table is none of our business.
        let foreign = Table::new(nft::Family::Ip, "foreign");
        other.commit(&diff(None, &foreign)).unwrap();
        proxy.send(everything());
        assert_eq!(
            other.table(nft::Family::Ip, "foreign").unwrap(),
            Some(foreign)
        );
    });
}

#[test]
fn nothing_is_written_before_the_watches_have_listed_and_the_rules_outlive_the_agent() {
    in_fresh_netns(|| {
        let mut other = Netfilter::open().unwrap();
        let mut unlisted = Inputs::clone(&everything());
        unlisted.synced = false;
        let proxy = Running::start(ProxyMode::Nftables, Arc::new(unlisted));
        proxy.until("waiting", |s| s.state == State::Waiting);
        assert_eq!(other.table(nft::Family::Ip, TABLE).unwrap(), None);
        proxy.send(everything());
        let desired = compiled(Family::V4, &everything());
        drop(proxy);
        assert_eq!(other.table(nft::Family::Ip, TABLE).unwrap(), Some(desired));
        let handle = other.handle(nft::Family::Ip, TABLE).unwrap();
        // The next agent takes it over as it is.
        let proxy = Running::start(ProxyMode::Nftables, everything());
        let status = proxy.until("synced", |s| s.state == State::Synced);
        assert_eq!(status.element_changes, 0);
        assert_eq!(other.handle(nft::Family::Ip, TABLE).unwrap(), handle);
        drop(proxy);
        // Mode off removes it.
        let proxy = Running::start(ProxyMode::Off, everything());
        proxy.until("off", |s| s.state == State::Off);
        for family in [nft::Family::Ip, nft::Family::Ip6] {
            assert_eq!(other.table(family, TABLE).unwrap(), None);
        }
    });
}

#[test]
fn node_ports_follow_the_nodes_address() {
    in_fresh_netns(|| {
        let proxy = Running::start(ProxyMode::Nftables, everything());
        proxy.until("synced", |s| s.state == State::Synced);
        let mut moved = node();
        moved.node_port_addresses = vec![ip("203.0.113.50")];
        proxy.node.send(moved.clone()).unwrap();
        let mut compiler = Compiler::new(Family::V4, moved.clone());
        compiler.update(&everything(), &moved);
        let mut other = Netfilter::open().unwrap();
        let began = kedge_sys::time::now().mono;
        while other.table(nft::Family::Ip, TABLE).unwrap().as_ref() != Some(compiler.table()) {
            let waited = kedge_sys::time::now().mono - began;
            assert!(waited < Duration::from_secs(10), "never moved");
        }
    });
}

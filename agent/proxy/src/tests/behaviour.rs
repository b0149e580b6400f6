use super::support::*;
use crate::model::*;

const POD: &str = "10.244.1.9";
const REMOTE_POD: &str = "10.244.2.9";
const NODE: &str = "192.0.2.1";
const CLIENT: &str = "203.0.113.7";
const IP: &str = "10.96.0.10";
const HERE: &str = "10.244.1.5";
const THERE: &str = "10.244.2.5";

fn with_node_port(policy: Policy) -> ServiceInput {
    let mut s = service("web", IP);
    s.ports[0].node_port = Some(30080);
    s.external_ips = vec![ip("198.51.100.1")];
    s.lb_ips = vec![ip("198.51.100.2")];
    s.external_policy = policy;
    s
}

fn not_ready(address: &str) -> EndpointInput {
    EndpointInput {
        ready: false,
        serving: false,
        ..endpoint(address)
    }
}

fn terminating(address: &str) -> EndpointInput {
    EndpointInput {
        ready: false,
        serving: true,
        terminating: true,
        ..endpoint(address)
    }
}

#[test]
fn a_cluster_address_leads_to_an_endpoint_and_keeps_a_pods_source() {
    let mut w = World::new(service("web", IP), [endpoint(THERE)]);
    assert_eq!(w.tcp(POD, IP, 80), "reaches 10.244.2.5:8080");
}

#[test]
fn a_cluster_address_masquerades_what_does_not_come_from_a_pod_here() {
    let mut w = World::new(service("web", IP), [endpoint(THERE)]);
    for from in [CLIENT, NODE, REMOTE_POD] {
        assert_eq!(
            w.tcp(from, IP, 80),
            "reaches 10.244.2.5:8080, masqueraded",
            "{from}"
        );
    }
}

#[test]
fn connections_spread_over_all_endpoints() {
    let mut w = World::new(
        service("web", IP),
        [endpoint(HERE), endpoint(THERE), endpoint("10.244.2.6")],
    );
    assert_eq!(w.spread(POD, IP, 80).len(), 3);
}

#[test]
fn udp_and_sctp_are_served_and_do_not_mix_with_tcp() {
    let mut s = service("dns", IP);
    s.ports = vec![
        port("udp", Protocol::Udp, 53),
        port("tcp", Protocol::Tcp, 53),
        port("sctp", Protocol::Sctp, 53),
    ];
    let mut only_udp = s.clone();
    only_udp.ports.truncate(1);
    let mut w = World::new(s, [endpoint(THERE)]);
    for protocol in [Protocol::Udp, Protocol::Tcp, Protocol::Sctp] {
        assert_eq!(w.send(protocol, POD, IP, 53), "reaches 10.244.2.5:8053");
    }
    let mut w = World::new(only_udp, [endpoint(THERE)]);
    assert_eq!(w.send(Protocol::Tcp, POD, IP, 53), "rejected");
}

#[test]
fn several_ports_and_several_slices_all_count() {
    let mut s = service("web", IP);
    s.ports = vec![
        port("http", Protocol::Tcp, 80),
        port("admin", Protocol::Tcp, 81),
    ];
    let mut first = slice(&s, [endpoint(HERE)]);
    let mut second = slice(&s, [endpoint(THERE)]);
    first.name.name = "web-x".to_owned();
    second.ports.truncate(1);
    let compiler = compile(&inputs([(s, vec![first, second])]), &node(), Family::V4);
    let tracer = kedge_wire::nft::trace::Tracer::new(node().node_port_addresses);
    let mut w = World {
        table: compiler.table().clone(),
        tracer,
    };
    assert_eq!(
        w.spread(POD, IP, 80),
        ["reaches 10.244.1.5:8080", "reaches 10.244.2.5:8080"]
    );
    assert_eq!(w.spread(POD, IP, 81), ["reaches 10.244.1.5:8081"]);
}

#[test]
fn an_endpoint_that_reaches_itself_is_masqueraded() {
    let mut w = World::new(service("web", IP), [endpoint(HERE)]);
    assert_eq!(w.tcp(HERE, IP, 80), "reaches 10.244.1.5:8080, masqueraded");
    assert_eq!(w.tcp(POD, IP, 80), "reaches 10.244.1.5:8080");
}

#[test]
fn a_connection_of_the_node_to_its_own_host_network_endpoint_is_left_alone() {
    let mut w = World::new(service("kubernetes", IP), [endpoint(NODE)]);
    assert_eq!(w.tcp(NODE, IP, 80), "reaches 192.0.2.1:8080");
}

#[test]
fn a_service_without_endpoints_is_rejected_everywhere() {
    let mut w = World::new(with_node_port(Policy::Cluster), []);
    for from in [POD, CLIENT, NODE] {
        assert_eq!(w.tcp(from, IP, 80), "rejected", "{from}");
        assert_eq!(w.tcp(from, NODE, 30080), "rejected", "{from}");
        assert_eq!(w.tcp(from, "198.51.100.1", 80), "rejected", "{from}");
    }
}

#[test]
fn an_unknown_port_of_a_cluster_address_is_rejected_and_others_are_untouched() {
    let mut w = World::new(service("web", IP), [endpoint(THERE)]);
    assert_eq!(w.tcp(POD, IP, 81), "rejected");
    assert_eq!(w.tcp(NODE, IP, 81), "rejected");
    assert_eq!(w.send(Protocol::Udp, POD, IP, 80), "rejected");
    assert_eq!(w.tcp(POD, "10.96.0.11", 80), "untouched");
    assert_eq!(w.tcp(CLIENT, NODE, 22), "untouched");
    assert_eq!(w.tcp(POD, CLIENT, 80), "untouched");
}

#[test]
fn a_node_port_with_policy_cluster_masquerades() {
    let mut w = World::new(with_node_port(Policy::Cluster), [endpoint(THERE)]);
    for from in [CLIENT, POD, NODE] {
        assert_eq!(
            w.tcp(from, NODE, 30080),
            "reaches 10.244.2.5:8080, masqueraded",
            "{from}"
        );
    }
    assert_eq!(w.tcp(CLIENT, NODE, 30081), "untouched");
    // Another address of the node is no node port.
    w.tracer.local.push(ip("192.0.2.200"));
    assert_eq!(w.tcp(CLIENT, "192.0.2.200", 30080), "untouched");
}

#[test]
fn external_and_load_balancer_addresses_behave_like_node_ports() {
    let mut w = World::new(with_node_port(Policy::Cluster), [endpoint(THERE)]);
    for address in ["198.51.100.1", "198.51.100.2"] {
        assert_eq!(
            w.tcp(CLIENT, address, 80),
            "reaches 10.244.2.5:8080, masqueraded"
        );
    }
    let mut w = World::new(
        with_node_port(Policy::Local),
        [endpoint(HERE), endpoint(THERE)],
    );
    for address in ["198.51.100.1", "198.51.100.2"] {
        assert_eq!(w.spread(CLIENT, address, 80), ["reaches 10.244.1.5:8080"]);
    }
}

#[test]
fn a_node_port_with_policy_local_keeps_the_source_and_stays_on_the_node() {
    let mut w = World::new(
        with_node_port(Policy::Local),
        [endpoint(HERE), endpoint(THERE)],
    );
    assert_eq!(w.spread(CLIENT, NODE, 30080), ["reaches 10.244.1.5:8080"]);
}

#[test]
fn a_node_port_with_policy_local_and_no_local_endpoint_drops() {
    let mut w = World::new(with_node_port(Policy::Local), [endpoint(THERE)]);
    assert_eq!(w.tcp(CLIENT, NODE, 30080), "dropped");
    assert_eq!(w.tcp(CLIENT, "198.51.100.2", 80), "dropped");
}

#[test]
fn a_node_port_with_policy_local_and_no_endpoint_at_all_rejects() {
    let mut w = World::new(with_node_port(Policy::Local), [not_ready(THERE)]);
    assert_eq!(w.tcp(CLIENT, NODE, 30080), "rejected");
}

#[test]
fn pods_and_the_node_may_use_every_endpoint_despite_policy_local() {
    let mut w = World::new(with_node_port(Policy::Local), [endpoint(THERE)]);
    assert_eq!(w.tcp(POD, NODE, 30080), "reaches 10.244.2.5:8080");
    assert_eq!(
        w.tcp(NODE, NODE, 30080),
        "reaches 10.244.2.5:8080, masqueraded"
    );
    assert_eq!(
        w.tcp(NODE, "198.51.100.2", 80),
        "reaches 10.244.2.5:8080, masqueraded"
    );
}

#[test]
fn internal_policy_local_uses_only_endpoints_here() {
    let local = |endpoints: &[EndpointInput]| {
        let s = ServiceInput {
            internal_policy: Policy::Local,
            ..service("web", IP)
        };
        World::new(s, endpoints).spread(POD, IP, 80)
    };
    assert_eq!(
        local(&[endpoint(HERE), endpoint(THERE)]),
        ["reaches 10.244.1.5:8080"]
    );
    assert_eq!(local(&[endpoint(THERE)]), ["dropped"]);
    assert_eq!(local(&[not_ready(THERE)]), ["rejected"]);
}

#[test]
fn endpoints_that_are_not_ready_are_left_out_unless_the_service_publishes_them() {
    let s = service("web", IP);
    let endpoints = [endpoint(HERE), not_ready(THERE)];
    let mut w = World::new(s.clone(), endpoints.clone());
    assert_eq!(w.spread(POD, IP, 80), ["reaches 10.244.1.5:8080"]);
    let mut w = World::new(
        ServiceInput {
            publish_not_ready: true,
            ..s
        },
        endpoints,
    );
    assert_eq!(w.spread(POD, IP, 80).len(), 2);
}

#[test]
fn terminating_endpoints_that_still_serve_are_the_last_resort() {
    let mut w = World::new(service("web", IP), [terminating(HERE), endpoint(THERE)]);
    assert_eq!(w.spread(POD, IP, 80), ["reaches 10.244.2.5:8080"]);
    let mut w = World::new(service("web", IP), [terminating(HERE), not_ready(THERE)]);
    assert_eq!(w.spread(POD, IP, 80), ["reaches 10.244.1.5:8080"]);
    // Policy Local decides for itself: nothing ready here, so the one that shuts down here, though others are ready elsewhere.
    let mut w = World::new(
        with_node_port(Policy::Local),
        [terminating(HERE), endpoint(THERE)],
    );
    assert_eq!(w.spread(CLIENT, NODE, 30080), ["reaches 10.244.1.5:8080"]);
}

#[test]
fn hints_narrow_the_choice_only_when_complete() {
    let hinted = |address: &str, zone: &str, node: &str| EndpointInput {
        zone_hints: if zone.is_empty() {
            vec![]
        } else {
            vec![zone.to_owned()]
        },
        node_hints: if node.is_empty() {
            vec![]
        } else {
            vec![node.to_owned()]
        },
        ..endpoint(address)
    };
    let spread =
        |endpoints: &[EndpointInput]| World::new(service("web", IP), endpoints).spread(POD, IP, 80);
    let zones = [hinted(HERE, "z1", ""), hinted(THERE, "z2", "")];
    assert_eq!(spread(&zones), ["reaches 10.244.1.5:8080"]);
    let nodes = [hinted(HERE, "z2", "a"), hinted(THERE, "z1", "b")];
    assert_eq!(spread(&nodes), ["reaches 10.244.1.5:8080"]);
    assert_eq!(spread(&[hinted(HERE, "z1", ""), endpoint(THERE)]).len(), 2);
    assert_eq!(
        spread(&[hinted(HERE, "z3", ""), hinted(THERE, "z2", "")]).len(),
        2
    );
}

#[test]
fn a_client_with_affinity_stays_until_it_is_silent_for_the_timeout() {
    let s = ServiceInput {
        affinity_seconds: Some(100),
        ..service("web", IP)
    };
    let mut w = World::new(s, [endpoint(HERE), endpoint(THERE), endpoint("10.244.2.6")]);
    let first = w.tcp(POD, IP, 80);
    for _ in 0..5 {
        w.tracer.now_ms += 99_000;
        assert_eq!(w.tcp(POD, IP, 80), first);
    }
    // Other clients are on their own.
    let mut others: Vec<_> = (20..40)
        .map(|n| w.tcp(&format!("10.244.1.{n}"), IP, 80))
        .collect();
    others.sort();
    others.dedup();
    assert_eq!(others.len(), 3);
    // Forgotten between connections, it goes everywhere.
    let mut fates = Vec::new();
    for _ in 0..20 {
        w.tracer.now_ms += 101_000;
        fates.push(w.tcp(POD, IP, 80));
    }
    fates.sort();
    fates.dedup();
    assert_eq!(fates, others);
}

#[test]
fn a_client_whose_endpoint_went_gets_another_and_stays_there() {
    let s = ServiceInput {
        affinity_seconds: Some(10800),
        ..service("web", IP)
    };
    let mut w = World::new(s.clone(), [endpoint(HERE)]);
    assert_eq!(w.tcp(POD, IP, 80), "reaches 10.244.1.5:8080");
    let after = World::new(
        s,
        [
            endpoint(THERE),
            endpoint("10.244.2.6"),
            endpoint("10.244.2.7"),
        ],
    );
    w.table = after.table;
    let next = w.tcp(POD, IP, 80);
    assert_ne!(next, "reaches 10.244.1.5:8080");
    for _ in 0..5 {
        assert_eq!(w.tcp(POD, IP, 80), next);
    }
}

#[test]
fn affinity_holds_on_a_local_node_port_too() {
    let s = ServiceInput {
        affinity_seconds: Some(100),
        ..with_node_port(Policy::Local)
    };
    let mut w = World::new(s, [endpoint(HERE), endpoint("10.244.1.6"), endpoint(THERE)]);
    let first = w.tcp(CLIENT, NODE, 30080);
    assert!(first.contains("10.244.1."), "{first}");
    assert_eq!(w.spread(CLIENT, NODE, 30080), [first]);
}

#[test]
fn a_load_balancer_admits_only_its_source_ranges() {
    let mut s = with_node_port(Policy::Cluster);
    s.lb_source_ranges = ["203.0.113.0/24", "203.0.113.128/25", "10.0.0.0/8"]
        .map(|r| r.parse().unwrap())
        .into();
    let mut w = World::new(s, [endpoint(THERE)]);
    assert_eq!(
        w.tcp(CLIENT, "198.51.100.2", 80),
        "reaches 10.244.2.5:8080, masqueraded"
    );
    assert_eq!(w.tcp("203.0.114.1", "198.51.100.2", 80), "dropped");
    assert_eq!(w.tcp(NODE, "198.51.100.2", 80), "dropped");
    // Only the load-balancer address is restricted.
    assert_eq!(
        w.tcp("203.0.114.1", NODE, 30080),
        "reaches 10.244.2.5:8080, masqueraded"
    );
    assert_eq!(
        w.tcp("203.0.114.1", "198.51.100.1", 80),
        "reaches 10.244.2.5:8080, masqueraded"
    );
}

#[test]
fn a_load_balancer_restricted_to_the_other_family_admits_nobody_of_this_one() {
    let mut s = with_node_port(Policy::Cluster);
    s.lb_source_ranges = vec!["2001:db8::/32".parse().unwrap()];
    let mut w = World::new(s, [endpoint(THERE)]);
    assert_eq!(w.tcp(CLIENT, "198.51.100.2", 80), "dropped");
}

#[test]
fn the_first_of_two_services_that_claim_an_address_has_it() {
    let mut first = service("aaa", "10.96.0.1");
    let mut second = service("bbb", "10.96.0.2");
    first.external_ips = vec![ip("198.51.100.1")];
    second.external_ips = first.external_ips.clone();
    let mut w = World::of([
        (first, vec![endpoint(HERE)]),
        (second, vec![endpoint(THERE)]),
    ]);
    assert_eq!(
        w.spread(CLIENT, "198.51.100.1", 80),
        ["reaches 10.244.1.5:8080, masqueraded"]
    );
    assert_eq!(w.tcp(POD, "10.96.0.2", 80), "reaches 10.244.2.5:8080");
}

#[test]
fn ipv6_works_alike() {
    let mut s = service("web", "fd96::10");
    s.ports[0].node_port = Some(30080);
    s.affinity_seconds = Some(60);
    let mut w = World::new(s, [endpoint("fd00:1::5"), endpoint("fd00:2::5")]);
    let first = w.tcp("fd00:1::9", "fd96::10", 80);
    assert!(first.starts_with("reaches [fd00:"), "{first}");
    assert_eq!(w.spread("fd00:1::9", "fd96::10", 80), [first]);
    assert!(
        w.tcp("2001:db8:1::1", "2001:db8::1", 30080)
            .ends_with("masqueraded")
    );
    assert_eq!(w.tcp("fd00:1::9", "fd96::10", 81), "rejected");
}

#[test]
fn a_table_holds_only_its_own_family() {
    let mut s = service("web", IP);
    s.cluster_ips.push(ip("fd96::10"));
    s.ports[0].node_port = Some(30080);
    let slices = vec![slice(&s, [endpoint(HERE)])];
    let compiler = compile(&inputs([(s, slices)]), &node(), Family::V6);
    let mut w = World {
        table: compiler.table().clone(),
        tracer: kedge_wire::nft::trace::Tracer::new(node().node_port_addresses),
    };
    assert_eq!(w.tcp("fd00:1::9", "fd96::10", 80), "rejected");
}

#[test]
fn without_pod_ranges_only_hairpins_and_external_traffic_are_masqueraded() {
    let facts = NodeFacts {
        pod_ranges: Vec::new(),
        ..node()
    };
    let s = with_node_port(Policy::Cluster);
    let slices = vec![slice(&s, [endpoint(HERE)])];
    let compiler = compile(&inputs([(s, slices)]), &facts, Family::V4);
    let mut w = World {
        table: compiler.table().clone(),
        tracer: kedge_wire::nft::trace::Tracer::new(facts.node_port_addresses),
    };
    assert_eq!(w.tcp(REMOTE_POD, IP, 80), "reaches 10.244.1.5:8080");
    assert_eq!(w.tcp(HERE, IP, 80), "reaches 10.244.1.5:8080, masqueraded");
    assert_eq!(
        w.tcp(CLIENT, NODE, 30080),
        "reaches 10.244.1.5:8080, masqueraded"
    );
}

#[test]
fn a_health_check_counts_ready_endpoints_here() {
    let mut s = with_node_port(Policy::Local);
    s.health_check_node_port = Some(31000);
    let slices = vec![slice(
        &s,
        [endpoint(HERE), terminating("10.244.1.6"), endpoint(THERE)],
    )];
    let compiler = compile(&inputs([(s, slices)]), &node(), Family::V4);
    let health = compiler.health();
    assert_eq!((health[0].node_port, health[0].local_endpoints), (31000, 1));
}

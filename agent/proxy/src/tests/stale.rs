use std::net::IpAddr;

use kedge_wire::conntrack::{Flow, Tuple};

use super::support::*;
use crate::model::*;
use crate::service::FrontKey;

fn flow(protocol: u8, front: (&str, u16), answers: (&str, u16)) -> Flow {
    let client: IpAddr = ip("10.244.1.9");
    let tuple = |source, destination, sport, dport| Tuple {
        source,
        destination,
        protocol,
        sport,
        dport,
    };
    Flow {
        original: tuple(client, ip(front.0), 4000, front.1),
        reply: tuple(ip(answers.0), client, answers.1, 4000),
        id: Some(1),
        zone: 0,
    }
}

fn dns() -> ServiceInput {
    let mut s = service("dns", "10.96.0.53");
    s.ports = vec![port("", Protocol::Udp, 53)];
    s.ports[0].node_port = Some(30053);
    s
}

/// Which of the usual flows are stale with these endpoints.
fn stale(endpoints: &[EndpointInput], gone: &[FrontKey]) -> Vec<String> {
    let s = dns();
    let slices = vec![slice(&s, endpoints)];
    let compiler = compile(&inputs([(s, slices)]), &node(), Family::V4);
    let flows = [
        flow(17, ("10.96.0.53", 53), ("10.244.1.5", 8053)),
        flow(17, ("10.96.0.53", 53), ("10.244.2.5", 8053)),
        flow(17, ("10.96.0.53", 53), ("10.96.0.53", 53)),
        flow(17, ("192.0.2.1", 30053), ("10.244.2.5", 8053)),
        flow(6, ("10.96.0.53", 53), ("10.244.2.5", 8053)),
        flow(17, ("10.96.0.77", 53), ("10.244.2.5", 8053)),
    ];
    let stale = compiler.stale(&flows, gone);
    stale
        .into_iter()
        .map(|f| format!("{} -> {}", f.original.destination, f.reply.source))
        .collect()
}

#[test]
fn flows_to_an_endpoint_that_went_are_stale() {
    assert_eq!(
        stale(&[endpoint("10.244.1.5")], &[]),
        [
            "10.96.0.53 -> 10.244.2.5",
            "10.96.0.53 -> 10.96.0.53",
            "192.0.2.1 -> 10.244.2.5"
        ]
    );
}

#[test]
fn flows_to_an_endpoint_that_terminates_but_serves_are_kept() {
    let leaving = EndpointInput {
        ready: false,
        terminating: true,
        ..endpoint("10.244.2.5")
    };
    assert_eq!(
        stale(&[endpoint("10.244.1.5"), leaving], &[]),
        ["10.96.0.53 -> 10.96.0.53"]
    );
}

#[test]
fn without_endpoints_the_cluster_address_is_cleared_and_the_node_port_spared() {
    assert_eq!(
        stale(&[], &[]),
        [
            "10.96.0.53 -> 10.244.1.5",
            "10.96.0.53 -> 10.244.2.5",
            "10.96.0.53 -> 10.96.0.53"
        ]
    );
}

#[test]
fn flows_to_a_front_that_was_removed_are_stale() {
    let key = FrontKey {
        address: ip("10.96.0.77"),
        protocol: Protocol::Udp,
        port: 53,
    };
    let all = [endpoint("10.244.1.5"), endpoint("10.244.2.5")];
    assert_eq!(
        stale(&all, &[key]),
        ["10.96.0.53 -> 10.96.0.53", "10.96.0.77 -> 10.244.2.5"]
    );
}

#[test]
fn an_update_says_when_udp_needs_a_look_and_what_went() {
    let s = dns();
    let with = |endpoints: &[EndpointInput]| {
        inputs([
            (s.clone(), vec![slice(&s, endpoints)]),
            (service("web", "10.96.0.1"), vec![]),
        ])
    };
    let mut compiler = compile(&with(&[endpoint("10.244.1.5")]), &node(), Family::V4);
    let update = compiler.update(&with(&[endpoint("10.244.2.5")]), &node());
    assert!(update.udp && update.gone.is_empty());
    let mut web_only = Inputs::clone(&with(&[]));
    web_only.services.remove(&s.name);
    web_only.slices.clear();
    let update = compiler.update(&web_only.into(), &node());
    assert_eq!(
        update.gone.iter().map(|k| k.port).collect::<Vec<_>>(),
        [53, 30053]
    );
    let update = compiler.update(&inputs([(service("web", "10.96.0.2"), vec![])]), &node());
    assert!(!update.udp);
}

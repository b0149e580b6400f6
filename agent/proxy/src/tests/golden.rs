use expect_test::{expect, expect_file};
use kedge_wire::nft::text;

use super::support::*;
use crate::model::*;

fn cluster() -> Vec<(ServiceInput, Vec<SliceInput>)> {
    let mut web = service("web", "10.96.0.10");
    web.ports[0].node_port = Some(30080);
    web.external_policy = Policy::Local;
    web.lb_ips = vec![ip("198.51.100.2")];
    web.lb_source_ranges = vec!["203.0.113.0/24".parse().unwrap()];
    let mut dns = service("dns", "10.96.0.53");
    dns.ports = vec![
        port("udp", Protocol::Udp, 53),
        port("tcp", Protocol::Tcp, 53),
    ];
    dns.affinity_seconds = Some(10800);
    let empty = service("empty", "10.96.0.99");
    let web_slices = vec![slice(
        &web,
        [endpoint("10.244.1.5"), endpoint("10.244.2.5")],
    )];
    let dns_slices = vec![slice(
        &dns,
        [endpoint("10.244.1.6"), endpoint("10.244.2.6")],
    )];
    vec![(web, web_slices), (dns, dns_slices), (empty, vec![])]
}

#[test]
fn a_small_cluster_as_text() {
    let compiler = compile(&inputs(cluster()), &node(), Family::V4);
    expect_file!["golden/small.nft"].assert_eq(&text::table(compiler.table()));
}

#[test]
fn no_services_as_text_in_the_other_family() {
    let compiler = compile(&inputs([]), &node(), Family::V6);
    expect_file!["golden/empty-ip6.nft"].assert_eq(&text::table(compiler.table()));
}

#[test]
fn one_changed_endpoint_is_a_handful_of_elements() {
    let mut compiler = compile(&inputs(cluster()), &node(), Family::V4);
    let mut after = cluster();
    after[0].1[0].endpoints[1] = endpoint("10.244.2.7");
    let update = compiler.update(&inputs(after), &node());
    expect![[r#"
        delete element endpoints-2 { 10.96.0.10 . tcp . 80 . 1 : 10.244.2.5 . 8080 }
        delete element endpoints-2 { 192.0.2.1 . tcp . 30080 . 1 : 10.244.2.5 . 8080 }
        delete element endpoints-2 { 198.51.100.2 . tcp . 80 . 1 : 10.244.2.5 . 8080 }
        add element endpoints-2 { 10.96.0.10 . tcp . 80 . 1 : 10.244.2.7 . 8080 }
        add element endpoints-2 { 192.0.2.1 . tcp . 30080 . 1 : 10.244.2.7 . 8080 }
        add element endpoints-2 { 198.51.100.2 . tcp . 80 . 1 : 10.244.2.7 . 8080 }
    "#]]
    .assert_eq(&text::transaction_on(&update.transaction, compiler.table()));
}

#[test]
fn a_service_that_grows_to_a_new_number_of_endpoints_brings_its_chain() {
    let mut compiler = compile(&inputs(cluster()), &node(), Family::V4);
    let mut after = cluster();
    let (s, slices) = &mut after[2];
    slices.push(slice(
        s,
        [
            endpoint("10.244.1.7"),
            endpoint("10.244.2.7"),
            endpoint("10.244.2.8"),
        ],
    ));
    let update = compiler.update(&inputs(after), &node());
    expect![[r#"
        add map endpoints-3 type ipv4_addr . inet_proto . inet_service . mark : ipv4_addr . inet_service;
        flush chain pick-cluster
        add element endpoints-3 { 10.96.0.99 . tcp . 80 . 0 : 10.244.1.7 . 8080 }
        add element endpoints-3 { 10.96.0.99 . tcp . 80 . 1 : 10.244.2.7 . 8080 }
        add element endpoints-3 { 10.96.0.99 . tcp . 80 . 2 : 10.244.2.8 . 8080 }
        add element fronts { 10.96.0.99 . tcp . 80 }
        add element hairpin { 10.244.1.7 . 10.244.1.7 }
        add rule pick-cluster dnat to ip daddr . meta l4proto . th dport . numgen random mod 2 map @endpoints-2
        add rule pick-cluster dnat to ip daddr . meta l4proto . th dport . numgen random mod 3 map @endpoints-3
    "#]].assert_eq(&text::transaction_on(&update.transaction, compiler.table()));
}

//! However a state is reached, the table is the same, and every step is a transaction the kernel takes.

use std::sync::Arc;

use kedge_wire::nft::diff;
use kedge_wire::nft::fake::Kernel;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::support::*;
use crate::Compiler;
use crate::model::*;

fn policy() -> impl Strategy<Value = Policy> {
    prop_oneof![Just(Policy::Cluster), Just(Policy::Local)]
}

fn arbitrary_endpoint() -> impl Strategy<Value = EndpointInput> {
    let address = prop_oneof!["10\\.244\\.1\\.[1-4]", "10\\.244\\.2\\.[1-4]"];
    (address, 0..4u8, any::<bool>()).prop_map(|(address, state, hint)| EndpointInput {
        ready: state < 2,
        serving: state != 3,
        terminating: state == 2,
        zone_hints: if hint { vec!["z1".to_owned()] } else { vec![] },
        ..endpoint(&address)
    })
}

fn arbitrary_service(number: u8) -> impl Strategy<Value = (ServiceInput, Vec<SliceInput>)> {
    let basics = (
        policy(),
        policy(),
        proptest::option::of(1u32..3),
        any::<bool>(),
        0..4u8,
    );
    // Few addresses and node ports, so that Services contend for them.
    let outside = (
        proptest::option::of(1u8..3),
        proptest::option::of(1u8..3),
        proptest::option::of(30000u16..30002),
    );
    let slices = vec(vec(arbitrary_endpoint(), 0..4), 0..3);
    (basics, outside, slices).prop_map(move |(basics, outside, slices)| {
        let mut s = service(&format!("s{number}"), &format!("10.96.0.{number}"));
        let (internal, external, affinity, publish, protocols) = basics;
        s.internal_policy = internal;
        s.external_policy = external;
        s.affinity_seconds = affinity;
        s.publish_not_ready = publish;
        if protocols & 1 != 0 {
            s.ports.push(port("dns", Protocol::Udp, 53));
        }
        s.external_ips = outside
            .0
            .map(|n| ip(&format!("198.51.100.{n}")))
            .into_iter()
            .collect();
        s.lb_ips = outside
            .1
            .map(|n| ip(&format!("198.51.100.{n}")))
            .into_iter()
            .collect();
        if protocols & 2 != 0 {
            s.lb_source_ranges = vec![
                "203.0.113.0/25".parse().unwrap(),
                "203.0.113.0/24".parse().unwrap(),
            ];
        }
        s.ports[0].node_port = outside.2;
        let slices = slices.into_iter().enumerate().map(|(n, endpoints)| {
            let mut slice = slice(&s, endpoints);
            slice.name.name = format!("s{number}-{n}");
            slice
        });
        let slices = slices.collect();
        (s, slices)
    })
}

fn arbitrary_inputs() -> impl Strategy<Value = Arc<Inputs>> {
    btree_map(0..4u8, Just(()), 0..4)
        .prop_flat_map(|names| names.into_keys().map(arbitrary_service).collect::<Vec<_>>())
        .prop_map(inputs)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn steps_lead_to_the_same_table_as_starting_anew(snapshots in vec(arbitrary_inputs(), 1..5)) {
        let mut compiler = Compiler::new(Family::V4, node());
        let mut kernel = Kernel::default();
        kernel.apply(&diff(None, compiler.table())).unwrap();
        for snapshot in snapshots {
            let update = compiler.update(&snapshot, &node());
            prop_assert_eq!(kernel.apply(&update.transaction), Ok(()));
            let anew = compile(&snapshot, &node(), Family::V4);
            prop_assert_eq!(compiler.table(), anew.table());
            let table = compiler.table();
            prop_assert_eq!(kernel.table(table.family, &table.name), Some(table));
        }
    }

    #[test]
    fn the_same_snapshot_again_changes_nothing(snapshot in arbitrary_inputs()) {
        let mut compiler = compile(&snapshot, &node(), Family::V4);
        let copy = Arc::new(Inputs::clone(&snapshot));
        let update = compiler.update(&copy, &node());
        prop_assert!(update.transaction.is_empty());
        prop_assert_eq!(update.services, 0);
    }

    #[test]
    fn another_node_address_or_range_is_one_accepted_transaction(snapshot in arbitrary_inputs()) {
        let mut compiler = compile(&snapshot, &node(), Family::V4);
        let mut kernel = Kernel::default();
        kernel.apply(&diff(None, compiler.table())).unwrap();
        let mut moved = node();
        moved.node_port_addresses = vec![ip("192.0.2.77")];
        moved.pod_ranges = vec!["10.244.7.0/24".parse().unwrap()];
        let update = compiler.update(&snapshot, &moved);
        prop_assert_eq!(kernel.apply(&update.transaction), Ok(()));
        let anew = compile(&snapshot, &moved, Family::V4);
        prop_assert_eq!(compiler.table(), anew.table());
        let table = compiler.table();
        prop_assert_eq!(kernel.table(table.family, &table.name), Some(table));
    }
}

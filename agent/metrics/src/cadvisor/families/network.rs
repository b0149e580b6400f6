//! `net/dev`: what a network namespace moved, by interface. Rows: the node and the sandboxes of pods.

use super::{At, Family, counter};
use crate::expo::Value;
use crate::net::Interface;

pub(super) static FAMILIES: &[Family] = &[
    counter(
        "container_network_receive_bytes_total",
        "Bytes received on the interface.",
        |at| network(at, |i| i.rx.bytes),
    ),
    counter(
        "container_network_receive_errors_total",
        "Packets that arrived on the interface damaged.",
        |at| network(at, |i| i.rx.errors),
    ),
    counter(
        "container_network_receive_packets_dropped_total",
        "Packets that arrived on the interface and were dropped.",
        |at| network(at, |i| i.rx.dropped),
    ),
    counter(
        "container_network_receive_packets_total",
        "Packets received on the interface.",
        |at| network(at, |i| i.rx.packets),
    ),
    counter(
        "container_network_transmit_bytes_total",
        "Bytes sent on the interface.",
        |at| network(at, |i| i.tx.bytes),
    ),
    counter(
        "container_network_transmit_errors_total",
        "Packets that the interface failed to send.",
        |at| network(at, |i| i.tx.errors),
    ),
    counter(
        "container_network_transmit_packets_dropped_total",
        "Packets to be sent on the interface that were dropped.",
        |at| network(at, |i| i.tx.dropped),
    ),
    counter(
        "container_network_transmit_packets_total",
        "Packets sent on the interface.",
        |at| network(at, |i| i.tx.packets),
    ),
];

fn network(at: &mut At<'_>, value: impl Fn(&Interface) -> u64) {
    for interface in at.row.network.iter().flatten() {
        at.with(
            &[("interface", &interface.name)],
            Value::Int(value(interface)),
        );
    }
}

//! Helpers of this crate's tests: pods from JSON, a node, a clock.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use crate::Now;
use crate::resolve::NodeFacts;

pub mod world;

/// 2026-01-01T00:00:00Z.
pub const EPOCH: i64 = 1_767_225_600_000_000_000;
pub const SECOND: i64 = 1_000_000_000;

/// A pod from JSON; name, namespace and uid are filled in when missing.
pub fn pod(json: &str) -> Pod {
    let mut pod: Pod = serde_json::from_str(json).expect("test pod is JSON");
    pod.metadata.name.get_or_insert_with(|| "web".into());
    pod.metadata.namespace.get_or_insert_with(|| "ns".into());
    pod.metadata.uid.get_or_insert_with(|| "uid-1".into());
    pod
}

/// `seconds` after boot, which was at [`EPOCH`].
pub fn at(seconds: u64) -> Now {
    Now {
        mono: Duration::from_secs(seconds),
        wall: EPOCH + i64::try_from(seconds).unwrap() * SECOND,
    }
}

pub fn node() -> NodeFacts {
    NodeFacts {
        name: "node-1".into(),
        host_ips: vec!["192.0.2.1".parse().unwrap()],
        cluster_domain: "cluster.local".into(),
        cluster_dns: vec!["10.96.0.10".into()],
        cpu_milli: 2000,
        memory: 4 << 30,
        allocatable_cpu_milli: 1800,
        allocatable_memory: 3 << 30,
        pods_memory: (3 << 30) + (100 << 20),
        swap_controller: true,
        ..NodeFacts::default()
    }
}

//! The node's Lease: 40 s, renewed every 10 s.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use k8s_openapi::jiff::Timestamp;

use crate::Now;

pub const NAMESPACE: &str = "kube-node-lease";
pub const DURATION: Duration = Duration::from_secs(40);
pub const RENEW_EVERY: Duration = Duration::from_secs(10);

/// The Lease to create (`existing` is `None`) or to update. Without the node's uid it has no owner yet: it gets one at a
/// later renewal, or it would outlive the node.
pub fn lease(node: &str, node_uid: Option<&str>, existing: Option<&Lease>, now: Now) -> Lease {
    let mut lease = existing.cloned().unwrap_or_default();
    lease.metadata.name = Some(node.to_owned());
    lease.metadata.namespace = Some(NAMESPACE.into());
    if let (Some(uid), true) = (
        node_uid,
        lease
            .metadata
            .owner_references
            .as_ref()
            .is_none_or(Vec::is_empty),
    ) {
        lease.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: node.to_owned(),
            uid: uid.to_owned(),
            ..OwnerReference::default()
        }]);
    }
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    spec.holder_identity = Some(node.to_owned());
    spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
    let micros = now.wall.div_euclid(1000);
    spec.renew_time = Timestamp::from_microsecond(micros).ok().map(MicroTime);
    lease
}

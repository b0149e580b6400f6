//! The fixed shard that CI runs: classes a, b and c across their SIGs, and one test of class d for each other SIG. Quick ones, chosen by
//! the seconds they took in a whole run, and those that found faults of ours.

/// Minutes from the first test to the last; what was not reached has failed.
pub const MINUTES: u64 = 8;

pub const NAMES: &[&str] = &[
    "[sig-apps] Job should run a job to completion when tasks sometimes fail and are locally restarted [Conformance]",
    "[sig-auth] ServiceAccounts should mount projected service account token [Conformance]",
    "[sig-node] Container Lifecycle Hook when create a pod with lifecycle hook should execute poststart exec hook properly [Conformance] [NodeConformance]",
    "[sig-node] Containers should be able to override the image's default arguments (container cmd) [Conformance] [NodeConformance]",
    "[sig-node] Downward API should provide default limits.cpu/memory from node allocatable [Conformance] [NodeConformance]",
    "[sig-node] Kubelet when scheduling a busybox command that always fails in a pod should be possible to delete [Conformance] [NodeConformance]",
    "[sig-node] Sysctls [LinuxOnly] should support sysctls [Environment:NotInUserNS] [Conformance] [NodeConformance]",
    "[sig-storage] ConfigMap should be consumable in multiple volumes in the same pod [Conformance] [NodeConformance]",
    "[sig-storage] EmptyDir volumes should support (root,0777,default) [LinuxOnly] [Conformance] [NodeConformance]",
    "[sig-storage] Projected configMap should be consumable from pods in volume with defaultMode set [LinuxOnly] [Conformance] [NodeConformance]",
    "[sig-auth] ServiceAccounts ServiceAccountIssuerDiscovery should support OIDC discovery of service account issuer [Conformance]",
    "[sig-cli] Kubectl client Guestbook application should create and stop a working application [Conformance]",
    "[sig-network] DNS should provide DNS for services [Conformance]",
    "[sig-network] EndpointSlice should support a Service with multiple ports specified in multiple EndpointSlices [Conformance]",
    "[sig-network] Networking Granular Checks: Pods should function for intra-pod communication: http [Conformance] [NodeConformance]",
    "[sig-apps] ReplicationController should serve a basic image on each replica with a public image [Conformance]",
    "[sig-cli] Kubectl logs logs should be able to retrieve and filter logs [Conformance]",
    "[sig-network] Proxy version v1 A set of valid responses are returned for both pod and service Proxy [Conformance]",
    "[sig-node] Kubelet when scheduling a busybox command in a pod should print the output to logs [Conformance] [NodeConformance]",
    "[sig-api-machinery] Watchers should observe add, update, and delete watch notifications on configmaps [Conformance]",
    "[sig-architecture] Conformance Tests should have at least two untainted nodes [Conformance]",
    "[sig-instrumentation] Events should delete a collection of events [Conformance]",
    "[sig-scheduling] LimitRange should create a LimitRange with defaults and ensure pod has those defaults applied. [Conformance]",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::catalogue::{Catalogue, Class};
    use super::*;

    #[test]
    fn the_selection_is_these_names_and_no_others() {
        let catalogue = Catalogue::committed().unwrap();
        let selection = super::super::plan::Selection {
            names: NAMES,
            ..Default::default()
        };
        let chosen = super::super::plan::select(&catalogue, &selection).unwrap();
        assert_eq!(chosen.len(), NAMES.len());
    }

    #[test]
    fn every_class_and_sig_is_there_and_no_test_has_to_run_alone() {
        let catalogue = Catalogue::committed().unwrap();
        let chosen: Vec<_> = NAMES
            .iter()
            .map(|name| catalogue.find(name).unwrap_or_else(|| panic!("{name}")))
            .collect();
        assert!(chosen.iter().all(|test| !test.serial && !test.slow));
        let seen: BTreeSet<_> = chosen.iter().map(|test| (test.class, &test.sig)).collect();
        let sigs: BTreeSet<_> = chosen.iter().map(|test| &test.sig).collect();
        for test in &catalogue.tests {
            match test.class {
                Class::Kubelet | Class::Network | Class::NodeApi => {
                    assert!(
                        seen.contains(&(test.class, &test.sig)),
                        "{} {}",
                        test.class,
                        test.sig
                    );
                }
                Class::Rest => assert!(sigs.contains(&test.sig), "{}", test.sig),
                Class::Extra | Class::Undecided => {}
            }
        }
    }
}

//! `kubernetes_feature_enabled`: what this node does of upstream's features, by the names of their gates.
//!
//! The node has no gates to set: 1 says that it behaves as with the gate on, 0 as with it off. Stages are those of Kubernetes 1.37; the stage
//! of a feature that is generally available is the empty string, as upstream writes it. Listed are the features of a node that are still gates
//! there; features that do not concern a node are absent.

use kedge_metrics::expo::Kind::Gauge;
use kedge_metrics::expo::{Value, Writer};

const GA: &str = "";
const BETA: &str = "BETA";
const ALPHA: &str = "ALPHA";

/// Sorted by name.
const FEATURES: &[(&str, &str, bool)] = &[
    ("ClusterTrustBundleProjection", GA, true),
    ("ContainerCheckpoint", BETA, false),
    ("ContainerRestartRules", BETA, false),
    ("ContainerStopSignals", ALPHA, true),
    ("DynamicResourceAllocation", GA, false),
    ("EnvFiles", BETA, false),
    ("EventedPLEG", ALPHA, true),
    ("GracefulNodeShutdown", BETA, true),
    ("HostnameOverride", GA, true),
    ("ImageVolume", GA, true),
    ("InPlacePodVerticalScaling", GA, true),
    ("KubeletCgroupDriverFromCRI", GA, true),
    ("KubeletFineGrainedAuthz", GA, true),
    ("KubeletPSI", GA, true),
    ("KubeletPodResourcesGet", GA, false),
    ("KubeletTracing", GA, false),
    ("LocalStorageCapacityIsolationFSQuotaMonitoring", BETA, true),
    ("MemoryQoS", BETA, false),
    ("NFTablesProxyMode", GA, true),
    ("NodeLogQuery", GA, false),
    ("NodeSwap", GA, false),
    ("PodAndContainerStatsFromCRI", BETA, false),
    ("PodCertificateRequest", GA, true),
    ("PodLevelResources", BETA, false),
    ("PodObservedGenerationTracking", GA, true),
    ("PodReadyToStartContainersCondition", GA, true),
    ("ProcMountType", GA, true),
    ("RecursiveReadOnlyMounts", GA, true),
    ("RotateKubeletServerCertificate", BETA, true),
    ("SELinuxMount", GA, false),
    ("SupplementalGroupsPolicy", GA, true),
    ("UserNamespacesSupport", GA, false),
];

/// Writes the family.
pub fn write(to: &mut Writer) {
    to.family(
        "kubernetes_feature_enabled",
        Gauge,
        "1 for features of Kubernetes that this node has, 0 for those it lacks.",
    );
    for (name, stage, enabled) in FEATURES {
        let labels = [("name", *name), ("stage", *stage)];
        to.sample("", &labels, Value::Int(u64::from(*enabled)), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_feature_is_listed_twice() {
        assert!(FEATURES.is_sorted_by(|a, b| a.0 < b.0));
    }
}
